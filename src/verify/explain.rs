//! Findings in words: where a row is, and which columns differ.

use super::{
    compare::{Finding, RecordAt, RowAt, Trouble},
    lake::Lake,
    lake_plan::{LakePlan, Rows},
    report::Difference,
    row::{RowBytes, display_cell, display_key, key_cells},
    source::{Source, SourceError},
    source_plan::display_watermark,
    topic::fields_of,
};
use crate::{config::model::Kafka, kafka::reader::Reader, lake::reader::FileReader};
use serde_json::{Map, Value};

/// What the findings of a table are looked up in.
pub struct Explainer<'a> {
    pub kafka: &'a Kafka,
    pub topic: &'a str,
    pub runtime: &'a tokio::runtime::Handle,
    pub source: Option<&'a Source>,
    pub lake: Option<(&'a Lake, &'a LakePlan)>,
}

/// A record looked up again.
struct FoundRecord {
    fields: Option<Map<String, Value>>,
    key: Option<String>,
}

/// The cells of a row, canonical, in the order of its plan; empty ones are null.
type Cells = Vec<Vec<u8>>;

/// A cell is shown up to here.
const SHOWN_CHARACTERS: usize = 60;

impl Explainer<'_> {
    /// A finding between source and topic.
    pub fn captured(&self, finding: &Finding) -> Difference {
        let kinds = self.source.map(|source| source.plan.key_kinds()).unwrap_or_default();
        self.difference(finding, display_key(&finding.key, &kinds))
    }

    /// A finding between topic and lake.
    pub fn landed(&self, finding: &Finding) -> Difference {
        let kinds = self.lake.map(|(_, plan)| plan.key_kinds()).unwrap_or_default();
        let has_key = self.lake.is_some_and(|(_, plan)| !plan.key.is_empty())
            || display_key(&finding.key, &[]).starts_with("at ");
        let key = if has_key { display_key(&finding.key, &kinds) } else { "(no key columns)".to_owned() };
        self.difference(finding, key)
    }

    fn difference(&self, finding: &Finding, key: String) -> Difference {
        let (place, what) = match finding.trouble {
            Trouble::NotCaptured { watermark } => {
                ("source".to_owned(), format!("not in the topic; watermark {}", display_watermark(watermark)))
            }
            Trouble::NotInLake { watermark } => (
                "source".to_owned(),
                format!(
                    "neither in the topic, which has dropped old records, nor in the lake; watermark {}",
                    display_watermark(watermark)
                ),
            ),
            Trouble::CapturedTwice { first, again } => {
                (place(again), format!("the same row version as {}", place(first)))
            }
            Trouble::CapturedWrong { record } => (
                place(record),
                format!("is of the row's present transaction, but {}", self.source_columns(&finding.key, record)),
            ),
            Trouble::ChangedSinceRecord { record } => (
                place(record),
                format!(
                    "the row was changed without moving its watermark: {}",
                    self.source_columns(&finding.key, record)
                ),
            ),
            Trouble::WrongMessageKey { record } => (place(record), self.message_key(record)),
            Trouble::NotLanded { record } => (place(record), "neither a row of the lake nor a dead letter".to_owned()),
            Trouble::LandedTwice { record, again } => {
                (self.row_place(again), format!("{} is in the lake more than once", place(record)))
            }
            Trouble::LandedWithoutRecord { row } => {
                (self.row_place(row), "no record of the topic is this row".to_owned())
            }
            Trouble::LandedWrong { record, row } => {
                (self.row_place(row), format!("differs from {}: {}", place(record), self.lake_columns(record, row)))
            }
            Trouble::LandedElsewhere { record, row } => {
                (self.row_place(row), format!("is {}, which the offsets in the file's name do not hold", place(record)))
            }
            Trouble::LandedBad { record, row } => (
                self.row_place(row),
                format!(
                    "{} does not fit the configuration and the columns, and should be a dead letter",
                    place(record)
                ),
            ),
            Trouble::RefusedUnfounded { row } => (
                self.row_place(row),
                "the dead letter gives a reason that its record does not: it should be a row, or say why not"
                    .to_owned(),
            ),
            Trouble::WrongDate { row } => {
                let date = |(lake, plan)| read_row(lake, plan, row).and_then(|(_, day)| day);
                let date = self.lake.and_then(date).unwrap_or_else(|| "none".to_owned());
                (self.row_place(row), format!("its date is {date}, and its directory's another"))
            }
            Trouble::ChangedSinceLanded { row } => {
                (self.row_place(row), "the row was changed without moving its watermark".to_owned())
            }
        };
        Difference { key, place, what }
    }

    fn row_place(&self, at: RowAt) -> String {
        let file = self.lake.and_then(|(lake, _)| lake.files.get(at.file as usize));
        match file {
            Some(file) => format!("{} row {}", file.path.display(), at.row),
            None => format!("file {} row {}", at.file, at.row),
        }
    }

    fn read_record(&self, at: RecordAt) -> Option<FoundRecord> {
        let mut found = None;
        let reader = Reader::open(self.kafka, self.topic).ok()?;
        let outcome = reader.read_at(at.partition, at.offset, |record| {
            let key = record.key().map(|key| shown(&String::from_utf8_lossy(key)));
            found = Some(FoundRecord { fields: fields_of(record.payload()), key });
        });
        outcome.ok().and(found)
    }

    fn message_key(&self, at: RecordAt) -> String {
        match self.read_record(at) {
            Some(FoundRecord { key: Some(key), .. }) => format!("its message key is {key:?}"),
            Some(_) => "it has no message key".to_owned(),
            None => "its message key is not the row's key".to_owned(),
        }
    }

    fn source_columns(&self, key: &[u8], at: RecordAt) -> String {
        let unseen = || "other columns than the watermark".to_owned();
        let Some(source) = self.source else { return unseen() };
        let plan = &source.plan;
        let Some(FoundRecord { fields: Some(fields), .. }) = self.read_record(at) else { return unseen() };
        let Some(statement) = plan.copy_statement_of(&key_cells(key)) else { return unseen() };
        let mut rows: Vec<Cells> = Vec::new();
        let read = source.copy(&statement, |cells| {
            let (mut bytes, mut key) = (RowBytes::default(), Vec::new());
            plan.of_text(|index| cells.get(index + 1)?.as_deref(), &mut bytes, &mut key);
            rows.push(cells_of(&bytes, plan.columns.len()));
            Ok::<(), SourceError>(())
        });
        if self.runtime.block_on(read).is_err() {
            return unseen();
        }
        let [row] = rows.as_slice() else { return unseen() };
        let (mut bytes, mut key) = (RowBytes::default(), Vec::new());
        if plan.of_record(&fields, &mut bytes, &mut key).is_none() {
            return unseen();
        }
        let record = cells_of(&bytes, plan.columns.len());
        let columns = plan.columns.iter().map(|column| (column.name.as_str(), &column.kind));
        let differing = differing_columns(columns, ("source", row), ("topic", &record));
        // The row is read again here, and may have moved on since it was compared.
        if differing.is_empty() { "it was changed again meanwhile".to_owned() } else { differing }
    }

    fn lake_columns(&self, record: RecordAt, row: RowAt) -> String {
        let unseen = || "its columns could not be read again".to_owned();
        let Some((lake, plan)) = self.lake else { return unseen() };
        let Some(file) = lake.files.get(row.file as usize) else { return unseen() };
        if lake.is_dead_letter(row.file) {
            return "other bytes in raw_payload or key".to_owned();
        }
        let Some((landed, day)) = read_row(lake, plan, row) else { return unseen() };
        let mut parts = Vec::new();
        if let Some(FoundRecord { fields: Some(fields), .. }) = self.read_record(record) {
            let (mut bytes, mut key) = (RowBytes::default(), Vec::new());
            let columns = lake.columns_by_offset(plan);
            let mask = columns.mask(record.partition, record.offset);
            plan.of_record(&fields, (record.partition, record.offset), mask, &mut bytes, &mut key);
            let cells = cells_of(&bytes, plan.columns.len());
            let columns = plan.columns.iter().map(|column| (column.name.as_str(), &column.kind));
            let differing = differing_columns(columns, ("topic", &cells), ("lake", &landed));
            parts.extend(Some(differing).filter(|text| !text.is_empty()));
        }
        if day != file.date {
            let name = |day: &Option<String>| day.clone().unwrap_or_else(|| "none".to_owned());
            parts.push(format!("its date is {}, its directory's {}", name(&day), name(&file.date)));
        }
        if parts.is_empty() {
            parts.push("it stands under another partition or offset than its own".to_owned());
        }
        parts.join("; ")
    }
}

fn place(at: RecordAt) -> String {
    format!("topic {}/{}", at.partition, at.offset)
}

fn cells_of(bytes: &RowBytes, columns: usize) -> Cells {
    (0..columns).map(|index| bytes.get(index).to_vec()).collect()
}

/// The cells of one row of the lake, and the day that it belongs to.
fn read_row(lake: &Lake, plan: &LakePlan, at: RowAt) -> Option<(Cells, Option<String>)> {
    let mut position = at.row;
    for batch in FileReader::open(&lake.files.get(at.file as usize)?.path, None).ok()? {
        let batch = batch.ok()?;
        let rows = batch.num_rows() as u64;
        if position < rows {
            let (mut bytes, mut key) = (RowBytes::default(), Vec::new());
            let rows = Rows::new(plan, &batch);
            rows.row(position as usize, &mut bytes, &mut key);
            return Some((cells_of(&bytes, plan.columns.len()), plan.day(&bytes)));
        }
        position -= rows;
    }
    None
}

fn differing_columns<'c>(
    columns: impl Iterator<Item = (&'c str, &'c super::canon::Kind)>,
    (one_side, one): (&str, &Cells),
    (other_side, other): (&str, &Cells),
) -> String {
    let differing: Vec<String> = columns
        .zip(one.iter().zip(other))
        .filter(|(_, (one, other))| one != other)
        .map(|((name, kind), (one, other))| {
            let cell = |cell: &[u8]| shown(&display_cell(kind, cell));
            format!("{name}: {one_side} {}, {other_side} {}", cell(one), cell(other))
        })
        .collect();
    differing.join("; ")
}

fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::canon::Kind;

    #[test]
    fn only_what_differs_is_shown() {
        let columns = [("amount", &Kind::Number), ("item", &Kind::Text), ("at", &Kind::Timestamp(None))];
        let one: Cells = vec![b"#220".to_vec(), b"tburger".to_vec(), b"@0".to_vec()];
        let other: Cells = vec![b"#221".to_vec(), b"tburger".to_vec(), Vec::new()];
        assert_eq!(
            differing_columns(columns.into_iter(), ("topic", &one), ("lake", &other)),
            "amount: topic 220, lake 221; at: topic 1970-01-01T00:00:00Z, lake null"
        );
        assert_eq!(shown(&"ä".repeat(100)).chars().count(), SHOWN_CHARACTERS + 1);
    }
}
