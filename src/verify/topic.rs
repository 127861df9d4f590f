//! Records of a topic, each made an entry of either comparison.

use super::{
    entry::{self, Entry, Fault, Side, Spill, SpillError},
    expired::{At, Expired},
    judge::Judge,
    lake::{ColumnsByOffset, DeadLetters, record_hash},
    lake_plan::LakePlan,
    row::{RowBytes, place_key},
    source_plan::SourcePlan,
};
use crate::kafka::reader::Record;
use serde_json::{Map, Value};
use std::collections::HashMap;

/// The transaction that made a row version, as capture says in a header.
const TRANSACTION_HEADER: &str = "headwater-xid";

/// The comparison with the source.
pub struct AgainstSource<'a> {
    pub plan: &'a SourcePlan,
    pub spill: &'a mut Spill,
}

/// The comparison with the lake.
pub struct AgainstLake<'a> {
    pub plan: &'a LakePlan,
    pub columns: &'a ColumnsByOffset,
    pub dead_letters: &'a DeadLetters,
    pub expired: &'a Expired,
    pub judge: &'a Judge<'a>,
    pub spill: &'a mut Spill,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct TopicCounts {
    pub records: u64,
    /// Records that are a row with its key; without a source to say, those that are objects.
    pub versions: u64,
    pub unknown_fields: u64,
}

#[derive(Default)]
pub struct TopicPass {
    pub counts: TopicCounts,
    /// By partition, the timestamp of the first record that it still holds, milliseconds since 1970; of a record
    /// without one the greatest there is.
    pub first_ms: HashMap<i32, i64>,
    bytes: RowBytes,
    key: Vec<u8>,
}

/// The fields of a record; none where it is no JSON object.
pub fn fields_of(payload: Option<&[u8]>) -> Option<Map<String, Value>> {
    match serde_json::from_slice(payload?) {
        Ok(Value::Object(fields)) => Some(fields),
        _ => None,
    }
}

impl TopicPass {
    pub fn record(
        &mut self,
        record: &Record<'_>,
        source: Option<&mut AgainstSource<'_>>,
        lake: Option<&mut AgainstLake<'_>>,
    ) -> Result<(), SpillError> {
        self.counts.records += 1;
        self.first_ms.entry(record.partition()).or_insert_with(|| record.timestamp_ms().unwrap_or(i64::MAX));
        let fields = fields_of(record.payload());
        let mut is_version = fields.is_some();
        if let Some(source) = source {
            is_version = match &fields {
                Some(fields) => self.version(record, fields, source)?,
                None => false,
            };
        }
        self.counts.versions += u64::from(is_version);
        match lake {
            Some(lake) => self.landing(record, fields.as_ref(), lake),
            None => Ok(()),
        }
    }

    /// False where the record lacks a part of its key.
    fn version(
        &mut self,
        record: &Record<'_>,
        fields: &Map<String, Value>,
        source: &mut AgainstSource<'_>,
    ) -> Result<bool, SpillError> {
        self.key.clear();
        let Some(version) = source.plan.of_record(fields, &mut self.bytes, &mut self.key) else { return Ok(false) };
        let has_right_key =
            record.key().and_then(|key| source.plan.key_of_message(key)).is_some_and(|key| key == self.key);
        let transaction = record
            .header(TRANSACTION_HEADER)
            .map(|value| std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()))
            // A header that is no number tells versions apart all the same.
            .map(|id| {
                id.unwrap_or_else(|| record.header(TRANSACTION_HEADER).map_or(0, |value| entry::hash(value) as u64))
            });
        source.spill.write(&Entry {
            side: Side::Topic,
            key: &self.key,
            row: version.row,
            watermark: version.watermark,
            transaction,
            identity: record_hash(record.key(), record.payload()),
            partition: record.partition(),
            position: record.offset() as u64,
            fault: if has_right_key { version.fault } else { Fault::MessageKey },
            ..Entry::default()
        })?;
        Ok(true)
    }

    fn landing(
        &mut self,
        record: &Record<'_>,
        fields: Option<&Map<String, Value>>,
        lake: &mut AgainstLake<'_>,
    ) -> Result<(), SpillError> {
        let (partition, offset) = (record.partition(), record.offset());
        let common = Entry { side: Side::Topic, partition, position: offset as u64, ..Entry::default() };
        let by_place = place_key(partition, offset);
        let at = At { partition, offset, timestamp_ms: record.timestamp_ms() };
        if lake.dead_letters.holds(partition, offset) {
            let row = record_hash(record.key(), record.payload());
            return lake.spill.write(&Entry { key: &by_place, row, ..common });
        }
        // What is no object can only be a dead letter, and there is none: no row will match it.
        let Some(fields) = fields else {
            let file = lake.expired.of_record(None, None, at, || true);
            return lake.spill.write(&Entry { key: &by_place, file, ..common });
        };
        self.key.clear();
        let mask = lake.columns.mask(partition, offset);
        let landed = lake.plan.of_record(fields, (partition, offset), mask, &mut self.bytes, &mut self.key);
        self.counts.unknown_fields += lake.plan.unknown_fields(fields, mask);
        lake.spill.write(&Entry {
            key: &self.key,
            row: landed.row,
            identity: landed.content,
            watermark: landed.watermark,
            file: lake.expired.of_record(lake.plan.day(&self.bytes).as_deref(), Some(fields), at, || {
                lake.judge.may_be_letter(record.payload(), fields, mask)
            }),
            fault: if lake.judge.is_bad(fields, mask) { Fault::Refusable } else { Fault::None },
            ..common
        })
    }
}

/// Rows that capture refused, from its dead-letter topic.
#[derive(Debug, Default)]
pub struct Refusals {
    /// Hash of the reason, as entries hold it, to the reason.
    pub reasons: HashMap<u128, String>,
}

impl Refusals {
    /// The canonical key and the reason's hash, where the record is of this table.
    pub fn record(&mut self, record: &Record<'_>, plan: &SourcePlan) -> Option<(Vec<u8>, u128)> {
        let fields = fields_of(record.payload())?;
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        // Under another name the row is of another table.
        if text("table") != Some(&plan.name) {
            return None;
        }
        let key = plan.key_of_message(record.key()?)?;
        let reason = text("reason").unwrap_or("unknown");
        let hash = entry::hash(reason.as_bytes());
        self.reasons.entry(hash).or_insert_with(|| reason.to_owned());
        Some((key, hash))
    }
}
