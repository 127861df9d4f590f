//! The newest dead letters, windows and moments that this process committed: short lists in memory, for
//! people who look at the page. What is cut here was never kept whole.

use crate::visible::{excerpt, shortened, visible};
use std::collections::{BTreeMap, VecDeque};

/// Dead letters that are kept, and those of one unit and reason, so that none hides the others.
const LETTERS: usize = 40;
pub const LETTERS_OF_A_REASON: usize = 4;
/// Of a payload, in bytes.
const PAYLOAD_BYTES: usize = 200;
/// Of a detail or a cell, in characters.
const DETAIL_CHARS: usize = 200;
const CELL_CHARS: usize = 36;
/// Keys of a job whose newest window is kept.
pub const KEYS: usize = 20;
/// Columns of a window, the key aside.
pub const COLUMNS: usize = 12;
const MOMENTS: usize = 8;

/// A dead letter, as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// When it was rejected.
    pub at_ms: i64,
    pub topic: String,
    /// Partition and offset; none of what never was in Kafka.
    pub place: Option<(i32, i64)>,
    pub reason: String,
    /// What records hold; none where that is not to be shown.
    pub content: Option<Content>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// What is wrong with it, which may quote it.
    pub detail: String,
    /// Its start, visible; none for a tombstone.
    pub payload: Option<String>,
    /// Length of the whole payload.
    pub bytes: usize,
}

impl Content {
    pub fn new(detail: &str, payload: Option<&[u8]>) -> Content {
        Content {
            detail: shortened(&visible(detail), DETAIL_CHARS).into_owned(),
            payload: payload.map(|payload| excerpt(payload, PAYLOAD_BYTES)),
            bytes: payload.map_or(0, <[u8]>::len),
        }
    }

    pub fn is_cut(&self) -> bool {
        self.bytes > PAYLOAD_BYTES
    }
}

/// Of a commit's letters the newest of each reason, in their order. Reasons are few.
#[derive(Debug, Clone, Default)]
pub struct Letters(Vec<Letter>);

impl Letters {
    pub fn push(&mut self, letter: Letter) {
        let mut same = (0..self.0.len()).filter(|n| self.0[*n].reason == letter.reason);
        if let Some(oldest) = same.next()
            && same.count() + 1 == LETTERS_OF_A_REASON
        {
            self.0.remove(oldest);
        }
        self.0.push(letter);
    }

    pub(super) fn without_content(mut self) -> Letters {
        self.0.iter_mut().for_each(|letter| letter.content = None);
        self
    }
}

/// A committed row of windows: cells as text, in the order of [`Windows::columns`].
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    pub key: String,
    pub start_ms: i64,
    pub end_ms: i64,
    pub cells: Vec<String>,
    /// The first measure, by which keys are ranked.
    pub weight: f64,
    pub is_final: bool,
}

/// The newest window of each of the [`KEYS`] keys that have most, of one job.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Windows {
    pub key_column: String,
    /// Measures.
    pub columns: Vec<String>,
    pub rows: Vec<Window>,
}

impl Windows {
    /// Takes newer rows in. A final one stays until another final one is newer: what has just begun says
    /// little.
    pub fn merge(&mut self, rows: Vec<Window>) {
        let mut newest: BTreeMap<String, Window> = BTreeMap::new();
        for row in std::mem::take(&mut self.rows).into_iter().chain(rows) {
            match newest.get_mut(&row.key) {
                Some(known) if (row.is_final, row.end_ms) >= (known.is_final, known.end_ms) => *known = row,
                Some(_) => {}
                None => {
                    newest.insert(row.key.clone(), row);
                }
            }
        }
        self.rows = newest.into_values().collect();
        self.rows
            .sort_by(|a, b| (b.is_final, b.end_ms).cmp(&(a.is_final, a.end_ms)).then(b.weight.total_cmp(&a.weight)));
        self.rows.truncate(KEYS);
    }
}

/// Text of a cell, visible and short.
pub fn cell(text: &str) -> String {
    shortened(&visible(text), CELL_CHARS).into_owned()
}

/// A committed moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Moment {
    pub kind: String,
    pub key: String,
    pub metric: String,
    pub start_ms: i64,
    pub end_ms: i64,
    pub value: f64,
    pub baseline: f64,
    pub score: f64,
}

/// Of the unit that is named with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Of<T> {
    pub pipeline: String,
    pub stage: &'static str,
    pub unit: String,
    pub it: T,
}

/// All lists, newest first where that means something.
#[derive(Debug, Clone, Default)]
pub struct Recent {
    pub letters: VecDeque<Of<Letter>>,
    /// By pipeline and job.
    pub windows: BTreeMap<(String, String), Windows>,
    pub moments: VecDeque<Of<Moment>>,
}

impl Recent {
    pub(super) fn push_letters(&mut self, id: &super::UnitId, letters: Letters) {
        for letter in letters.0 {
            self.letters.push_front(of(id, letter));
        }
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        self.letters.retain(|known| {
            if (&known.pipeline, known.stage, &known.unit) != (&id.pipeline, id.stage, &id.unit) {
                return true;
            }
            let count = counts.entry(known.it.reason.clone()).or_default();
            *count += 1;
            *count <= LETTERS_OF_A_REASON
        });
        self.letters.truncate(LETTERS);
    }

    pub(super) fn push_moments(&mut self, id: &super::UnitId, moments: Vec<Moment>) {
        for moment in moments {
            self.moments.push_front(of(id, moment));
        }
        self.moments.truncate(MOMENTS);
    }
}

fn of<T>(id: &super::UnitId, it: T) -> Of<T> {
    Of { pipeline: id.pipeline.clone(), stage: id.stage, unit: id.unit.clone(), it }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::UnitId;

    fn window(key: &str, end_ms: i64, weight: f64, is_final: bool) -> Window {
        Window { key: key.to_owned(), start_ms: end_ms - 60, end_ms, cells: Vec::new(), weight, is_final }
    }

    #[test]
    fn each_key_has_its_newest_final_window() {
        let mut windows = Windows::default();
        windows.merge(vec![window("a", 100, 5.0, true), window("b", 100, 9.0, true), window("c", 160, 1.0, false)]);
        windows.merge(vec![window("a", 110, 4.0, true), window("b", 160, 1.0, false), window("c", 170, 2.0, false)]);
        let shown: Vec<(&str, i64)> = windows.rows.iter().map(|row| (row.key.as_str(), row.end_ms)).collect();
        assert_eq!(shown, [("a", 110), ("b", 100), ("c", 170)]);
    }

    #[test]
    fn lists_are_bounded() {
        let mut windows = Windows::default();
        windows.merge((0..1_000).map(|n| window(&format!("k{n}"), 100, n as f64, true)).collect());
        assert_eq!((windows.rows.len(), windows.rows[0].key.as_str()), (KEYS, "k999"));

        let id = UnitId { pipeline: "p".to_owned(), stage: "land", unit: "t".to_owned() };
        let letter = |reason: usize, offset| Letter {
            at_ms: 0,
            topic: "t".to_owned(),
            place: Some((0, offset)),
            reason: format!("r{reason}"),
            content: Some(Content::new(&"d".repeat(9_999), Some(&[b'x'; 9_999]))),
        };
        let mut recent = Recent::default();
        let commit = |letters: &[(usize, i64)]| {
            let mut newest = Letters::default();
            letters.iter().for_each(|(reason, offset)| newest.push(letter(*reason, *offset)));
            newest
        };
        recent.push_letters(&id, commit(&[(1, 7)]));
        for n in 0..3 {
            recent.push_letters(&id, commit(&(n * 100..(n + 1) * 100).map(|n| (0, n)).collect::<Vec<_>>()));
        }
        let kept: Vec<_> = recent.letters.iter().map(|of| (of.it.reason.as_str(), of.it.place)).collect();
        let newest = [299, 298, 297, 296].map(|offset| ("r0", Some((0, offset))));
        assert_eq!(kept, [&newest[..], &[("r1", Some((0, 7)))]].concat(), "the other reason is not driven out");
        let content = recent.letters[0].it.content.as_ref().unwrap();
        let payload = content.payload.as_ref().unwrap();
        assert_eq!((payload.len(), content.bytes, content.is_cut()), (PAYLOAD_BYTES, 9_999, true));
        assert_eq!(content.detail.chars().count(), DETAIL_CHARS);
        recent.push_letters(&id, commit(&(0..100).map(|n| (n, n as i64)).collect::<Vec<_>>()));
        assert_eq!(recent.letters.len(), LETTERS);
    }
}
