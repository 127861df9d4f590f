//! A restored copy of the database, told from the database itself.
//!
//! A copy that was made of a server's files has its system identifier and its timeline. Its transaction ids lie behind
//! those of the checkpoint, but only until it has caught up. So a record beside the checkpoint keeps the rows that were
//! captured last, each with its transaction id; they are looked up whenever a table is first seen by a connection.
//!
//! - A row that is found as it was captured, or with the same watermark and a later id, is one that a copy made before
//!   it does not have: the database is the one that was captured.
//! - A row that is found in another version, whose id had ended before the row was captured, contradicts what was seen:
//!   this is another history. That is refused, and the refusal is kept in the record, until the first case holds.
//! - A row that is not found, or has changed since, may have been deleted or updated. Where PostgreSQL has counted no
//!   update and no delete in the table at all, though, and the newest rows are gone while one before them is there as it
//!   was captured, the table was set back: that is refused too, but not kept, for a server that has crashed forgets what
//!   it counted.
//!
//! What had been refused stays so in all other cases. Without a unique key nothing can be looked up.

use super::{
    plan::{FROZEN_ID, KeyText, widen},
    source::{Column, Source},
    sql::{self, literal, named},
};
use serde::{Deserialize, Serialize};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_postgres::Client;

/// Rows that are kept; as many of these are the newest, the others lie as far apart as they can.
const MOST_ROWS: usize = 16;
const NEWEST_ROWS: usize = 8;
/// Longest texts of a row that is kept: the record is one message, and keys may be as large as messages.
const LONGEST_ROW: usize = 4_096;
/// So many rows have to be gone before a table counts as set back.
const LEAST_GONE: usize = 3;

/// A row as it was captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    pub xid: u64,
    /// Xmin of the snapshot that showed it.
    pub xmin: u64,
    pub watermark: Option<String>,
    pub key: KeyText,
}

/// Why a table was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub reason: String,
    /// What was captured from this transaction on is not in the database that was refused.
    pub from: u64,
}

/// The record beside a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Witness {
    /// Name and type of each column of the key that the rows have; none where an older version wrote it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    key: Vec<(String, String)>,
    /// Oldest first.
    rows: Vec<Captured>,
    pub refusal: Option<Refusal>,
}

/// What has become of a captured row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Same,
    Absent,
    /// Another version, of this transaction.
    Changed(u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The database that was captured.
    Same,
    Unknown,
    /// Another one, beyond doubt.
    Copy(Refusal),
    /// A table from which the newest rows have gone, as no delete or update can have done it.
    SetBack,
}

/// A row that was found: which one is asked for, `age(xmin)`, whether its watermark is as it was.
pub type Answer = (i32, i32, bool);

/// Ends the key of a record; a checkpoint's ends with a topic, behind one slash more.
pub const SUFFIX: &str = "/witness";

/// The key of a table's record, beside that of its checkpoint.
pub fn record_key(checkpoint_key: &str) -> String {
    format!("{checkpoint_key}{SUFFIX}")
}

impl Witness {
    /// A record that cannot be read says nothing: it only guards.
    pub fn decode(bytes: &[u8]) -> Witness {
        serde_json::from_slice(bytes).unwrap_or_default()
    }

    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Forgets the rows where the table has another key by now: their texts would name other rows, or none.
    pub fn fit(&mut self, source: &Source) {
        let columns = source.key.iter().map(|position| &source.columns[*position]);
        let key: Vec<(String, String)> =
            columns.map(|column| (column.name.clone(), column.order.type_name.clone())).collect();
        if !self.key.is_empty() && self.key != key {
            self.rows.clear();
        }
        self.key = key;
    }

    /// Forgets the rows, by which nothing can be looked up; those that are captured from now on can.
    pub fn forget(&mut self) {
        self.rows.clear();
    }

    /// Notes the last row of a reading.
    pub fn note(&mut self, row: Captured) {
        // An id that has wrapped tells nothing.
        let length: usize = row.key.iter().chain([&row.watermark]).flatten().map(String::len).sum();
        if row.xid == FROZEN_ID || length > LONGEST_ROW {
            return;
        }
        self.rows.retain(|before| before.key != row.key);
        self.rows.push(row);
        if self.rows.len() > MOST_ROWS {
            let apart = |position: &usize| self.rows[position + 1].xid.abs_diff(self.rows[position - 1].xid);
            let closest = (1..MOST_ROWS - NEWEST_ROWS).min_by_key(apart).unwrap_or(0);
            self.rows.remove(closest);
        }
    }

    /// The question what has become of the rows, answered by [`Answer`]s; none where there is nothing to ask.
    pub fn question(&self, source: &Source) -> Option<String> {
        if !source.unique || self.rows.is_empty() {
            return None;
        }
        let watermark = source.watermark_column();
        let parts = self.rows.iter().enumerate().filter(|(_, row)| row.key.len() == source.key.len());
        let parts = parts.map(|(position, row)| {
            let columns = source.key.iter().map(|position| &source.columns[*position]);
            let key: Vec<String> = columns.zip(&row.key).map(|(column, text)| equal(column, text.as_deref())).collect();
            format!(
                "SELECT {position}, age(t.xmin), coalesce({}, false) FROM {} AS t WHERE {}",
                equal(watermark, row.watermark.as_deref()),
                source.quoted,
                key.join(" AND ")
            )
        });
        let parts: Vec<String> = parts.collect();
        (!parts.is_empty()).then(|| parts.join("\nUNION ALL "))
    }

    /// Takes a verdict: the reason of a refusal, new or kept.
    pub fn accept(&mut self, verdict: Verdict) -> Result<(), String> {
        match verdict {
            Verdict::Same => self.refusal = None,
            Verdict::Unknown => {}
            Verdict::Copy(refusal) => self.refusal = Some(refusal),
            Verdict::SetBack => {
                return Err(
                    "rows that were captured last are not in this database, and PostgreSQL has counted no delete \
                            and no update in the table: is it a restored copy?"
                        .to_owned(),
                );
            }
        }
        self.refusal.as_ref().map_or(Ok(()), |refusal| Err(refusal.reason.clone()))
    }

    /// What the answers say. `latest` is the id from which ages count; `is_append_only` whether PostgreSQL has counted
    /// no update and no delete in the table.
    pub fn judge(&self, answers: &[Answer], latest: u64, is_append_only: bool) -> Verdict {
        let found: Vec<Found> =
            (0..).zip(&self.rows).map(|(position, row)| found(position, row, answers, latest)).collect();
        let both = || self.rows.iter().zip(&found);
        let contradicts = |(row, found): &(&Captured, &Found)| match found {
            Found::Changed(xid) => *xid == row.xid || *xid < row.xmin,
            _ => false,
        };
        if let Some((row, _)) = both().find(contradicts) {
            let reason = format!(
                "row ({}) was captured as transaction {} had written it, and is not so in this database: it is a restored copy",
                row.key.iter().map(|text| text.as_deref().unwrap_or("NULL")).collect::<Vec<_>>().join(", "),
                row.xid
            );
            return Verdict::Copy(Refusal { reason, from: row.xid });
        }
        let is_back = |refusal: &Refusal| both().any(|(row, found)| row.xid >= refusal.from && *found == Found::Same);
        if found.last() == Some(&Found::Same) || self.refusal.as_ref().is_some_and(is_back) {
            return Verdict::Same;
        }
        match found.iter().rposition(|found| *found == Found::Same) {
            Some(last) if is_append_only && found.len() - last > LEAST_GONE => Verdict::SetBack,
            _ => Verdict::Unknown,
        }
    }
}

fn equal(column: &Column, text: Option<&str>) -> String {
    match text {
        Some(text) => format!("{} {} {}", named(column), column.order.equal, literal(column, text)),
        None => format!("{} IS NULL", named(column)),
    }
}

fn found(position: i32, row: &Captured, answers: &[Answer], latest: u64) -> Found {
    let mut all =
        answers.iter().filter(|(of, ..)| *of == position).map(|(_, age, is_same)| (widen(latest, *age), *is_same));
    let mut changed = Found::Absent;
    all.find_map(|(xid, is_same)| {
        if is_same && xid >= row.xid {
            return Some(Found::Same);
        }
        // An id that has wrapped tells nothing.
        changed = Found::Changed(if xid == FROZEN_ID { u64::MAX } else { xid });
        None
    })
    .unwrap_or(changed)
}

/// Asks the database, in the transaction in which `latest` holds, what has become of the rows. An error may mean that
/// the rows do not fit the table any more, as [`tells_nothing`] says.
pub async fn examine(
    client: &Client,
    source: &Source,
    witness: &Witness,
    latest: u64,
) -> Result<Verdict, tokio_postgres::Error> {
    let Some(question) = witness.question(source) else { return Ok(witness.judge(&[], latest, false)) };
    let answers: Vec<Answer> =
        client.query(&question, &[]).await?.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let is_append_only = client.query_one(sql::APPEND_ONLY, &[&source.quoted]).await?.get(0);
    Ok(witness.judge(&answers, latest, is_append_only))
}

/// Whether the values of the rows are none of the column's type, such as labels that an enum had: nothing can be looked
/// up by them then. The transaction has to go back to its savepoint.
pub fn tells_nothing(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code().starts_with("22") || code.code().starts_with("42"))
}

/// A table's record while the stage runs, and whether it has to be written.
pub struct Record {
    pub key: Arc<str>,
    witness: Witness,
    is_written: bool,
    written_at: Option<Instant>,
}

impl Record {
    pub fn new(key: Arc<str>, witness: Witness, is_written: bool) -> Record {
        Record { key, witness, is_written, written_at: None }
    }

    pub fn note(&mut self, row: Captured) {
        self.witness.note(row);
        self.is_written = false;
    }

    /// See [`Witness::fit`].
    pub fn fit(&mut self, source: &Source) {
        self.witness.fit(source);
    }

    /// What to write, where it has changed and was last written so long ago.
    pub fn due(&mut self, after: Duration) -> Option<Vec<u8>> {
        let is_due = !self.is_written && self.written_at.is_none_or(|at| at.elapsed() >= after);
        if is_due {
            (self.is_written, self.written_at) = (true, Some(Instant::now()));
        }
        is_due.then(|| self.witness.encode())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: u64) -> Captured {
        Captured { xid: n * 10, xmin: n * 10 + 1, watermark: Some(format!("at {n}")), key: vec![Some(n.to_string())] }
    }

    fn witness(rows: u64) -> Witness {
        let mut witness = Witness::default();
        (1..=rows).for_each(|n| witness.note(row(n)));
        witness
    }

    const LATEST: u64 = 1_000;

    /// As a database answers that has these rows by position: transaction id, and whether the watermark is the same.
    fn judge(witness: &Witness, rows: &[(i32, u64, bool)], is_append_only: bool) -> Verdict {
        let answers: Vec<Answer> =
            rows.iter().map(|(position, xid, is_same)| (*position, (LATEST - xid) as i32, *is_same)).collect();
        witness.judge(&answers, LATEST, is_append_only)
    }

    #[test]
    fn the_newest_rows_are_kept_and_some_from_far_back() {
        let witness = witness(1_000);
        let kept: Vec<u64> = witness.rows.iter().map(|row| row.xid / 10).collect();
        assert_eq!(kept.len(), MOST_ROWS);
        assert_eq!(kept[MOST_ROWS - NEWEST_ROWS..], (993..=1_000).collect::<Vec<_>>());
        assert_eq!(kept[0], 1);
        let gaps: Vec<u64> = kept[..MOST_ROWS - NEWEST_ROWS].windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| *gap >= 30), "{kept:?}");
        assert_eq!(Witness::decode(&witness.encode()), witness);
    }

    #[test]
    fn rows_with_long_keys_are_not_kept() {
        let mut witness = witness(2);
        witness.note(Captured { key: vec![Some("k".repeat(5_000))], ..row(3) });
        assert_eq!(witness.rows.len(), 2);
        (0..40).for_each(|n| witness.note(Captured { key: vec![Some(format!("{n:04000}"))], ..row(n) }));
        assert!(witness.encode().len() < 100_000, "{}", witness.encode().len());
    }

    #[test]
    fn a_row_that_was_captured_last_proves_the_database() {
        let witness = witness(3);
        assert_eq!(judge(&witness, &[(2, 30, true)], true), Verdict::Same);
        assert_eq!(judge(&witness, &[(2, 800, true)], true), Verdict::Same, "updated, but for its watermark");
        assert_eq!(judge(&witness, &[(2, 800, false)], true), Verdict::Unknown, "updated, or another row of this key");
        assert_eq!(judge(&witness, &[], true), Verdict::Unknown, "deleted");
    }

    #[test]
    fn another_version_that_would_have_been_seen_is_another_history() {
        let witness = witness(3);
        for (xid, is_same) in [(5, true), (5, false), (25, false), (30, false)] {
            let Verdict::Copy(refusal) = judge(&witness, &[(0, 10, true), (2, xid, is_same)], false) else {
                panic!("{xid} {is_same}");
            };
            assert!(refusal.reason.contains("row (3)") && refusal.from == 30, "{refusal:?}");
        }
    }

    #[test]
    fn rows_that_are_gone_speak_where_nothing_was_deleted() {
        let witness = witness(6);
        let old = [(0, 10, true), (1, 20, true), (2, 30, true)];
        assert_eq!(judge(&witness, &old, true), Verdict::SetBack);
        assert_eq!(judge(&witness, &old, false), Verdict::Unknown);
        let with_new_ones = [old.as_slice(), &[(3, 900, false), (4, 910, false)]].concat();
        assert_eq!(judge(&witness, &with_new_ones, true), Verdict::SetBack);
        let two_are_gone = [old.as_slice(), &[(3, 40, true)]].concat();
        assert_eq!(judge(&witness, &two_are_gone, true), Verdict::Unknown);
    }

    #[test]
    fn a_refusal_is_lifted_by_what_the_copy_did_not_have() {
        let mut witness = witness(6);
        witness.refusal = Some(Refusal { reason: "it was a copy".to_owned(), from: 35 });
        let until_then = [(0, 10, true), (1, 20, true), (2, 30, true)];
        assert_eq!(judge(&witness, &until_then, false), Verdict::Unknown);
        assert_eq!(judge(&witness, &[(3, 40, true)], false), Verdict::Same);
    }
}
