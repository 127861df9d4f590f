//! A check that says "equal" must be believed: `verify` against damage of every kind, to lakes of every kind. It has
//! to find each of them, and nothing where nothing was damaged.

use crate::{
    harness::{block_on, kafka::read_topic, lake::table_files},
    keep::lake::{OLD, Scene},
    verify::{Shop, copy_tree, offsets, renamed, rewrite, with_column},
    verify_windows::{Chat, QUIET},
};
use arrow_array::{
    Array, ArrayRef, BinaryArray, Decimal128Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    cast::AsArray,
    types::{Decimal128Type, Int64Type, TimestampMicrosecondType},
};
use arrow_select::concat::concat_batches;
use headwater::{
    lake::dead_letter,
    verify::{Options, Report, run},
};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A landed table with its dead letters.
struct Lake {
    file: PathBuf,
    brokers: String,
    topic: String,
    table: PathBuf,
    dead: PathBuf,
    /// A date whose rows stand in the lake, and another.
    dates: [&'static str; 2],
}

type Mutant = (&'static str, fn(&Lake));

impl Lake {
    fn of_shop(shop: &Shop) -> Lake {
        Lake {
            file: shop.file.clone(),
            brokers: shop.test.brokers.clone(),
            topic: shop.topic.clone(),
            table: shop.test.path("lake"),
            dead: shop.test.path("dead"),
            dates: ["2025-01-15", "2025-01-16"],
        }
    }

    fn of_scene(scene: &Scene, dates: [&'static str; 2]) -> Lake {
        Lake {
            file: PathBuf::from(&scene.file),
            brokers: scene.test.brokers.clone(),
            topic: scene.table.topic.clone(),
            table: scene.table.path.clone(),
            dead: scene.table.dead_letters.clone(),
            dates,
        }
    }

    fn verify(&self) -> Report {
        let config = headwater::config::load_file(&self.file).expect("the configuration");
        let options = Options { windows: false, ..Options::default() };
        block_on(run(&config.pipelines[0], options)).expect("a report")
    }

    /// What is found after `mutate`, which is undone.
    fn after(&self, mutate: fn(&Lake)) -> Report {
        let saved = |root: &Path| root.with_extension("saved");
        for root in [&self.table, &self.dead] {
            copy_tree(root, &saved(root));
        }
        mutate(self);
        let report = self.verify();
        for root in [&self.table, &self.dead] {
            fs::remove_dir_all(root).expect("removed");
            fs::rename(saved(root), root).expect("put back");
        }
        report
    }

    /// Each of `mutants` is found, and before and after them all is equal.
    fn assert_found(&self, what: &str, mutants: &[&[Mutant]]) {
        let before = self.verify();
        assert!(before.ok && before.counts.pending_count == 0, "{what}: {before}");
        assert_eq!(before.tables[0].warnings, Vec::<String>::new(), "{what}");
        let mut missed = Vec::new();
        for (name, mutate) in mutants.iter().flat_map(|mutants| mutants.iter()) {
            let report = self.after(*mutate);
            if report.ok {
                missed.push(format!("{name}: {report}"));
            }
        }
        assert_eq!(missed, Vec::<String>::new(), "{what}");
        let after = self.verify();
        assert!(after.ok && after.counts == before.counts, "{what}: {after}");
    }

    fn directory(&self, n: usize) -> PathBuf {
        self.table.join(format!("date={}", self.dates[n]))
    }

    /// The largest file of a date.
    fn file(&self, n: usize) -> PathBuf {
        let files = table_files(&self.table).into_iter().filter(|file| file.starts_with(self.directory(n)));
        files.max_by_key(|file| fs::metadata(file).expect("its size").len()).expect("a file")
    }

    fn letters(&self) -> PathBuf {
        table_files(&self.dead).into_iter().next().expect("a file of dead letters")
    }
}

fn truncate(file: &Path) {
    let bytes = fs::read(file).expect("the file");
    fs::write(file, &bytes[..bytes.len() / 2]).expect("half of it");
}

/// A name with offsets that nothing has been landed of.
fn beyond(file: &Path) -> PathBuf {
    let (first, last) = offsets(file);
    renamed(file, &format!("-{first}-{last}-"), "-1000000-1000100-")
}

fn change_number(file: &Path, column: &str, change: fn(&mut i64)) {
    rewrite(file, |rows| {
        with_column(rows, column, |values| {
            let mut numbers = values.as_primitive::<Int64Type>().values().to_vec();
            change(&mut numbers[0]);
            Arc::new(Int64Array::from(numbers))
        })
    });
}

fn with_amounts(rows: &RecordBatch, change: impl Fn(i128) -> i128) -> RecordBatch {
    with_column(rows, "amount", |amounts| {
        let amounts = amounts.as_primitive::<Decimal128Type>();
        let mut values: Vec<i128> = amounts.values().to_vec();
        values[0] = change(values[0]);
        let changed = Decimal128Array::from(values);
        Arc::new(changed.with_precision_and_scale(amounts.precision(), amounts.scale()).expect("a decimal"))
    })
}

fn append(file: &Path, more: &RecordBatch) {
    rewrite(file, |rows| concat_batches(&rows.schema(), [rows, more]).expect("one batch"));
}

fn read(file: &Path) -> RecordBatch {
    let mut read = None;
    rewrite(file, |rows| {
        read = Some(rows.clone());
        rows.clone()
    });
    read.expect("rows")
}

const OF_TABLES: &[Mutant] = &[
    ("all data files deleted", |lake| {
        table_files(&lake.table).iter().for_each(|file| fs::remove_file(file).expect("deleted"));
    }),
    ("the directory of the table deleted", |lake| {
        fs::remove_dir_all(&lake.table).expect("deleted");
        fs::create_dir(&lake.table).expect("empty");
    }),
    ("a date deleted", |lake| fs::remove_dir_all(lake.directory(0)).expect("deleted")),
    ("a file deleted", |lake| fs::remove_file(lake.file(0)).expect("deleted")),
    ("a file hidden", |lake| {
        let file = lake.file(0);
        fs::rename(&file, renamed(&file, "part-", "_part-")).expect("renamed");
    }),
    ("the first row deleted", |lake| rewrite(&lake.file(0), |rows| rows.slice(1, rows.num_rows() - 1))),
    ("the last row deleted", |lake| rewrite(&lake.file(0), |rows| rows.slice(0, rows.num_rows() - 1))),
    ("all rows deleted", |lake| rewrite(&lake.file(0), |rows| rows.slice(0, 0))),
    ("a row doubled", |lake| append(&lake.file(0), &read(&lake.file(0)).slice(2, 1))),
    ("a row doubled in another date", |lake| append(&lake.file(1), &read(&lake.file(0)).slice(2, 1))),
    ("a row moved to another date", |lake| {
        append(&lake.file(1), &read(&lake.file(0)).slice(0, 1));
        rewrite(&lake.file(0), |rows| rows.slice(1, rows.num_rows() - 1));
    }),
    ("a file under another date", |lake| {
        let file = lake.file(0);
        let name = renamed(&file, ".parquet", "9.parquet");
        fs::rename(&file, lake.directory(1).join(name.file_name().expect("a name"))).expect("moved");
    }),
    ("a date renamed", |lake| {
        fs::rename(lake.directory(0), lake.table.join("date=2024-02-29")).expect("renamed");
    }),
    ("a file without a date", |lake| {
        let file = lake.file(0);
        fs::rename(&file, lake.table.join(file.file_name().expect("a name"))).expect("moved");
    }),
    ("a file doubled under another number", |lake| {
        fs::copy(lake.file(0), renamed(&lake.file(0), ".parquet", "9.parquet")).map(drop).expect("a copy");
    }),
    ("a file copied beyond the ledger", |lake| {
        fs::copy(lake.file(0), beyond(&lake.file(0))).map(drop).expect("a copy");
    }),
    ("a file moved beyond the ledger", |lake| fs::rename(lake.file(0), beyond(&lake.file(0))).expect("moved")),
    ("a file of a generation to come", |lake| {
        fs::copy(lake.file(0), renamed(&lake.file(0), ".parquet", "-r9.parquet")).map(drop).expect("a copy");
    }),
    ("a file of another table", |lake| {
        fs::copy(lake.file(0), renamed(&lake.file(0), &lake.topic, "another")).map(drop).expect("a copy");
    }),
    ("a file of somebody else", |lake| {
        fs::copy(lake.file(0), lake.directory(0).join("0001.parquet")).map(drop).expect("a copy");
    }),
    ("a truncated file", |lake| truncate(&lake.file(0))),
    ("an empty file", |lake| fs::write(lake.file(0), "").expect("emptied")),
    ("a file of zeros", |lake| {
        let length = fs::metadata(lake.file(0)).expect("its size").len();
        fs::write(lake.file(0), vec![0; length as usize]).expect("zeros");
    }),
    ("an amount a little larger", |lake| rewrite(&lake.file(0), |rows| with_amounts(rows, |amount| amount + 1))),
    ("an amount negative", |lake| rewrite(&lake.file(0), |rows| with_amounts(rows, |amount| -amount - 1))),
    ("a text that has become null", |lake| {
        rewrite(&lake.file(0), |rows| {
            with_column(rows, "item", |items| {
                let items = items.as_string::<i32>();
                let texts = (0..items.len()).map(|row| (row > 0).then(|| items.value(row)));
                Arc::new(texts.collect::<StringArray>())
            })
        });
    }),
    ("another key", |lake| change_number(&lake.file(0), "order_id", |id| *id += 1_000_000)),
    ("two keys exchanged", |lake| {
        rewrite(&lake.file(0), |rows| {
            with_column(rows, "order_id", |ids| {
                let mut ids = ids.as_primitive::<Int64Type>().values().to_vec();
                ids.swap(0, 1);
                Arc::new(Int64Array::from(ids))
            })
        });
    }),
    ("a time a microsecond later", |lake| {
        rewrite(&lake.file(0), |rows| {
            with_column(rows, "created_at", |times| {
                let times = times.as_primitive::<TimestampMicrosecondType>();
                let mut values = times.values().to_vec();
                values[0] += 1;
                Arc::new(TimestampMicrosecondArray::from(values).with_timezone_opt(times.timezone()))
            })
        });
    }),
];

const OF_LETTERS: &[Mutant] = &[
    ("all dead letters deleted", |lake| {
        table_files(&lake.dead).iter().for_each(|file| fs::remove_file(file).expect("deleted"));
    }),
    ("a dead letter deleted", |lake| rewrite(&lake.letters(), |rows| rows.slice(1, rows.num_rows() - 1))),
    ("a dead letter doubled", |lake| append(&lake.letters(), &read(&lake.letters()).slice(0, 1))),
    ("dead letters doubled in another file", |lake| {
        fs::copy(lake.letters(), renamed(&lake.letters(), ".parquet", "9.parquet")).map(drop).expect("a copy");
    }),
    ("dead letters copied beyond the ledger", |lake| {
        fs::copy(lake.letters(), beyond(&lake.letters())).map(drop).expect("a copy");
    }),
    ("a truncated file of dead letters", |lake| truncate(&lake.letters())),
    ("rows among the dead letters", |lake| {
        fs::copy(lake.file(0), renamed(&lake.letters(), ".parquet", "9.parquet")).map(drop).expect("a copy");
    }),
    ("a dead letter with another payload", |lake| change_bytes(lake, "raw_payload")),
    ("a dead letter with another key", |lake| change_bytes(lake, "key")),
    ("a dead letter with another reason", |lake| change_text(lake, "error_reason", "null_key")),
    ("a dead letter with a reason that there is not", |lake| change_text(lake, "error_reason", "bad_weather")),
    ("a dead letter of another topic", |lake| change_text(lake, "topic", "another")),
    ("a dead letter at a good record", |lake| change_number(&lake.letters(), "kafka_offset", |offset| *offset -= 1)),
    ("a good record that is a dead letter", |lake| refuse_a_good_record(lake, false)),
    ("a good record that is a row and a dead letter", |lake| refuse_a_good_record(lake, true)),
];

fn change_bytes(lake: &Lake, column: &str) {
    rewrite(&lake.letters(), |rows| {
        with_column(rows, column, |values| {
            let values = values.as_binary::<i32>();
            let mut changed: Vec<Option<Vec<u8>>> =
                (0..values.len()).map(|row| values.is_valid(row).then(|| values.value(row).to_vec())).collect();
            changed[0] = Some(b"{}".to_vec());
            Arc::new(BinaryArray::from_iter(changed))
        })
    });
}

fn change_text(lake: &Lake, column: &str, text: &str) {
    rewrite(&lake.letters(), |rows| {
        with_column(rows, column, |values| {
            let values = values.as_string::<i32>();
            let changed = (0..values.len()).map(|row| if row == 0 { text } else { values.value(row) });
            Arc::new(StringArray::from_iter_values(changed)) as ArrayRef
        })
    });
}

/// The record of the first row of a file stands in the dead letters, to the byte, and in the table no more, or still.
fn refuse_a_good_record(lake: &Lake, stays_a_row: bool) {
    let file = lake.file(0);
    let id = read(&file).column_by_name("order_id").expect("ids").as_primitive::<Int64Type>().value(0);
    let records = read_topic(&lake.brokers, &lake.topic, true);
    let record = records
        .iter()
        .find(|record| {
            serde_json::from_slice::<serde_json::Value>(record.value.as_deref().unwrap_or_default())
                .is_ok_and(|json| json["order_id"] == id)
        })
        .expect("its record");
    let mut batch = dead_letter::Batch::default();
    batch.push(&dead_letter::Letter {
        payload: record.value.as_deref(),
        topic: &lake.topic,
        reason: "negative_amount",
        detail: "\"amount\" is below zero",
        refused_us: 0,
        partition: record.partition,
        offset: record.offset,
        recorded_us: Some(record.timestamp_ms * 1_000),
        key: record.key.as_deref(),
        headers: None,
    });
    let letter = batch.take().expect("a letter");
    rewrite(&lake.letters(), |rows| {
        let letter = RecordBatch::try_new(rows.schema(), letter.columns().to_vec()).expect("of the same columns");
        concat_batches(&rows.schema(), [rows, &letter]).expect("one batch")
    });
    if !stays_a_row {
        rewrite(&file, |rows| rows.slice(1, rows.num_rows() - 1));
    }
}

/// Order 40, which has a negative amount, in the table instead of the dead letters.
fn land_a_bad_record(lake: &Lake) {
    let letters = lake.letters();
    let rows = read(&letters);
    let payloads = rows.column_by_name("raw_payload").expect("payloads").as_binary::<i32>();
    let is_it = |row: &usize| {
        serde_json::from_slice::<serde_json::Value>(payloads.value(*row)).is_ok_and(|json| json["order_id"] == 40)
    };
    let at = (0..rows.num_rows()).find(is_it).expect("its dead letter");
    rewrite(&letters, |rows| {
        let parts = [&rows.slice(0, at), &rows.slice(at + 1, rows.num_rows() - at - 1)];
        concat_batches(&rows.schema(), parts).expect("one batch")
    });
    // Of the same day, and so equal in the other columns.
    let row = read(&lake.file(1)).slice(0, 1);
    let row = with_column(&row, "order_id", |_| Arc::new(Int64Array::from(vec![40])));
    let row = with_column(&row, "item", |_| Arc::new(StringArray::from(vec!["item 40"])));
    let amounts = row.column_by_name("amount").expect("amounts").as_primitive::<Decimal128Type>();
    let unit = 10_i128.pow(amounts.scale().unsigned_abs().into());
    append(&lake.file(1), &with_amounts(&row, |_| -unit));
}

#[test]
fn damage_to_orders_and_their_dead_letters_is_found() {
    let shop = Shop::with_orders();
    let lake = Lake::of_shop(&shop);
    let landed: &[Mutant] = &[("a bad record that landed", land_a_bad_record)];
    lake.assert_found("orders", &[OF_TABLES, OF_LETTERS, landed]);
    // It is found for what it is, and not for what is missing beside it.
    let report = lake.after(land_a_bad_record);
    let counts = &report.counts;
    assert_eq!([counts.lost_count, counts.duplicated_count, counts.differing_count], [0, 0, 1], "{report}");
    assert!(report.tables[0].differing[0].what.contains("should be a dead letter"), "{report}");
    let report = lake.after(|lake| refuse_a_good_record(lake, false));
    let counts = &report.counts;
    assert_eq!([counts.lost_count, counts.duplicated_count, counts.differing_count], [0, 0, 1], "{report}");
    // Nothing of what a ledger has put behind it is on its way.
    let report = lake.after(OF_TABLES[0].1);
    assert_eq!((report.counts.pending_count, report.counts.lost_count), (0, 234), "{report}");
    let report = lake.after(|lake| fs::copy(lake.file(0), beyond(&lake.file(0))).map(drop).expect("a copy"));
    assert_eq!((report.counts.pending_count, report.counts.duplicated_count), (0, 39), "{report}");
}

#[test]
fn damage_to_a_compacted_table_is_found() {
    let scene = Scene::new();
    scene.write(300);
    scene.land();
    scene.compact();
    Lake::of_scene(&scene, OLD).assert_found("compacted", &[OF_TABLES, OF_LETTERS]);
}

/// Rows of one date are missing by right, and no others, nor more of that date.
#[test]
fn damage_to_a_table_whose_oldest_date_has_expired_is_found() {
    let scene = Scene::new();
    scene.write(300);
    scene.land();
    let day = |date: &str| date.parse::<chrono::NaiveDate>().expect("a date");
    let days = (chrono::Utc::now().date_naive() - day(OLD[1])).num_days().to_string();
    scene.must(&["expire", "--older-than-days", &days]);
    assert!(!scene.table.path.join(format!("date={}", OLD[0])).exists());
    // Some come late for the date that has gone.
    scene.write(60);
    scene.land();
    let lake = Lake::of_scene(&scene, [OLD[1], OLD[0]]);
    let late: &[Mutant] = &[
        ("a late file of an expired date deleted", |lake| fs::remove_file(lake.file(1)).expect("deleted")),
        ("a late row of an expired date deleted", |lake| {
            rewrite(&lake.file(1), |rows| rows.slice(1, rows.num_rows() - 1));
        }),
    ];
    lake.assert_found("expired", &[OF_TABLES, OF_LETTERS, late]);
    let note = scene.table.checkpoints.join(format!("{}.upkeep/state", scene.table.topic));
    let mut said: serde_json::Value = serde_json::from_slice(&fs::read(&note).expect("the note")).expect("JSON");
    let rows = said["dropped"]["table"]["dates"][OLD[0]]["rows"].as_u64().expect("rows of the date");
    said["dropped"]["table"]["dates"][OLD[0]]["rows"] = json!(rows - 1);
    said["dropped"]["table"]["rows"] = json!(rows - 1);
    fs::write(&note, said.to_string()).expect("a note of fewer rows");
    let report = lake.verify();
    assert_eq!((report.ok, report.counts.lost_count), (false, 1), "{report}");
}

#[test]
fn damage_to_windows_and_moments_is_found() {
    let chat = Chat::analyzed(0.02);
    chat.save();
    let letter = "ctid = (SELECT ctid FROM dead_letters ORDER BY topic, kafka_partition, kafka_offset LIMIT 1)";
    // Not the first of its watch, which is the witness of what the watch was.
    let moment = "moment_id = (SELECT moment_id FROM saved_moments m WHERE window_start > (
        SELECT min(window_start) FROM saved_moments n WHERE (n.moment_type, n.metric) = (m.moment_type, m.metric))
      ORDER BY window_start DESC, moment_id LIMIT 1)";
    let copied = |table: &str, of: &str, change: &str| {
        format!(
            "CREATE TEMPORARY TABLE one AS SELECT * FROM {table} WHERE {of}; UPDATE one SET {change};
             INSERT INTO {table} SELECT * FROM one; DROP TABLE one"
        )
    };
    let quiet = |column: &str| format!("(SELECT {column} FROM saved_chat_summary_minute WHERE {QUIET})");
    let invented = format!(
        "moment_id = 'invented', stream_id = {}, window_start = {}, window_end = {}",
        quiet("stream_id"),
        quiet("window_start"),
        quiet("window_end")
    );
    let mutants = [
        ("a window too few", format!("DELETE FROM chat_summary_minute WHERE {QUIET}")),
        ("a window too many", copied("chat_summary_minute", QUIET, "stream_id = 'nobody'")),
        (
            "a window too many of a known stream",
            copied("chat_summary_minute", QUIET, "window_start = window_start + interval '1 s'"),
        ),
        ("a count changed", format!("UPDATE chat_summary_minute SET chat_count = chat_count + 1 WHERE {QUIET}")),
        ("a mean changed", format!("UPDATE chat_summary_minute SET avg_viewers = avg_viewers + 0.1 WHERE {QUIET}")),
        ("a moment missing", format!("DELETE FROM moments WHERE {moment}")),
        ("a moment invented", copied("moments", moment, &invented)),
        ("a moment doubled", copied("moments", moment, "moment_id = 'other'")),
        ("a moment of another score", format!("UPDATE moments SET score = score * 2 WHERE {moment}")),
        ("a moment of another baseline", format!("UPDATE moments SET baseline = baseline + 1 WHERE {moment}")),
        ("a dead letter missing", format!("DELETE FROM dead_letters WHERE {letter}")),
        ("all dead letters missing", "DELETE FROM dead_letters".to_owned()),
        ("a dead letter of another reason", format!("UPDATE dead_letters SET error_reason = 'other' WHERE {letter}")),
        ("a dead letter with another payload", format!("UPDATE dead_letters SET raw_payload = '' WHERE {letter}")),
    ];
    assert!(chat.verify().counts.is_equal(true));
    let missed: Vec<String> = mutants
        .iter()
        .map(|(name, damage)| (name, chat.after_damage(damage)))
        .filter(|(_, report)| report.counts.is_equal(false))
        .map(|(name, report)| format!("{name}: {report}"))
        .collect();
    assert_eq!(missed, Vec::<String>::new());
    assert!(chat.verify().counts.is_equal(true));
}
