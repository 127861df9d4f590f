//! `headwater verify` against a pipeline that worked, and then against every kind of damage: each must
//! be found, counted exactly and named, and nothing else with it.

use crate::harness::{
    Db, Run, Test, block_on,
    kafka::{Outgoing, produce, read_topic},
    run::{Exit, losses},
};
use arrow_array::{Array, ArrayRef, Decimal128Array, RecordBatch, StringArray, cast::AsArray, types::Decimal128Type};
use headwater::verify::{self, Options, Report};
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(60);

/// A pipeline of orders with one topic partition: 120 rows of three old days, landed
/// first, and 120 of today.
pub struct Shop {
    pub test: Test,
    pub file: PathBuf,
    pub topic: String,
    db: Db,
}

impl Shop {
    fn open() -> Shop {
        let test = Test::new();
        let topic = test.topic("orders");
        let dir = test.dir().display();
        let config = json!({
            "pipeline": test.prefix,
            "postgres": {"host": test.postgres.host, "port": test.postgres.port, "db": test.postgres.db,
                         "user": test.postgres.user, "tls_mode": "disable"},
            "kafka": {"brokers": test.brokers},
            "capture": {
                "poll_interval_ms": 100,
                "slack_ms": 300,
                "timezone": "UTC",
                "checkpoint_topic": test.topic("checkpoints"),
                "dead_letter_topic": test.topic("refused"),
                "max_row_bytes": 5000,
                "tables": [{"table": "orders", "topic": topic, "watermark": "created_at", "where": "item <> 'hidden'"}],
            },
            "land": {"rotate_ms": 200, "tables": [{
                "topic": topic, "path": format!("{dir}/lake"), "checkpoint_location": format!("{dir}/checkpoints"),
                "dead_letter_path": format!("{dir}/dead"), "date_column": "created_at",
                "not_null": ["order_id"], "non_negative": ["amount"],
            }]},
            "http": {"listen": null},
        });
        let file = test.write("shop.yml", &config.to_string());
        let db = test.db();
        db.execute(
            "CREATE TABLE orders (order_id serial PRIMARY KEY, item varchar, amount numeric, details jsonb, tags text[],
                                  created_at timestamp NOT NULL)",
        );
        Shop { test, file, topic, db }
    }

    pub fn with_orders() -> Shop {
        let shop = Shop::open();
        shop.insert("timestamp '2025-01-15 12:00' + (i % 3) * interval '1 day'");
        shop.run();
        shop.insert("now()");
        shop.run();
        shop
    }

    /// 120 orders, of which the landing refuses 3, and one that the filter leaves out.
    fn insert(&self, created_at: &str) {
        self.db.execute(&format!(
            "INSERT INTO orders (item, amount, details, tags, created_at)
             SELECT 'item ' || i, CASE WHEN i % 40 = 0 THEN -1 ELSE 220.50 END, '{{\"n\": [1, 2.0]}}', '{{a,\"b c\"}}',
                    {created_at} FROM generate_series(1, 120) i;
             INSERT INTO orders (item, amount, created_at) VALUES ('hidden', 1, '2025-01-15 12:00')"
        ));
    }

    fn run(&self) {
        let file = self.file.to_str().expect("a path");
        let mut run = Run::start(&self.test, &["run", "-c", file, "--until-caught-up", "--format", "json"]);
        assert_eq!(run.wait(LIMIT), Exit::Code(0), "{}", run.stderr());
    }

    fn delete_records_before(&self, offset: i64) {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.test.brokers).create().expect("an admin client");
        let mut before = TopicPartitionList::new();
        before.add_partition_offset(&self.topic, 0, Offset::Offset(offset)).expect("an offset");
        block_on(admin.delete_records(&before, &AdminOptions::new())).expect("records deleted");
    }

    fn verify(&self) -> Report {
        self.verify_with(Options::default())
    }

    fn verify_with(&self, options: Options) -> Report {
        let config = headwater::config::load_file(&self.file).expect("the configuration");
        block_on(verify::run(&config.pipelines[0], options)).expect("a report")
    }
}

/// Lost, duplicated, differing, changed in place, pending.
fn found(report: &Report) -> [u64; 5] {
    let counts = &report.counts;
    [
        counts.lost_count,
        counts.duplicated_count,
        counts.differing_count,
        counts.changed_in_place_count,
        counts.pending_count,
    ]
}

impl Shop {
    /// What is found after `damage` to the files, which are as before afterwards.
    fn after_damage(&self, damage: impl FnOnce(&Shop)) -> Report {
        let (lake, dead) = (self.test.path("lake"), self.test.path("dead"));
        let (lake_before, dead_before) = (self.test.path("lake.before"), self.test.path("dead.before"));
        copy_tree(&lake, &lake_before);
        copy_tree(&dead, &dead_before);
        damage(self);
        let report = self.verify();
        for (damaged, before) in [(lake, lake_before), (dead, dead_before)] {
            fs::remove_dir_all(&damaged).expect("removed");
            fs::rename(before, damaged).expect("restored");
        }
        report
    }

    /// The file of an old day, of 39 rows.
    fn old_file(&self) -> PathBuf {
        only_file(&self.test.path("lake/date=2025-01-15"))
    }

    /// The older file of dead letters, of 3 rows.
    fn old_dead_letters(&self) -> PathBuf {
        let days = fs::read_dir(self.test.path("dead")).expect("the dead letters");
        let mut files: Vec<PathBuf> = days
            .flat_map(|day| fs::read_dir(day.expect("a day").path()).expect("its files"))
            .map(|file| file.expect("a file").path())
            .collect();
        files.sort_by_key(|file| offsets(file));
        files.swap_remove(0)
    }
}

/// The first and last offset of a file's name.
pub fn offsets(file: &Path) -> (i64, i64) {
    let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
    let name = headwater::lake::reader::FileName::parse(name).expect("a data file");
    (name.first_offset, name.last_offset)
}

pub fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("the tree") {
        let entry = entry.expect("an entry").path();
        let target = to.join(entry.file_name().expect("a name"));
        if entry.is_dir() {
            copy_tree(&entry, &target);
        } else {
            fs::copy(&entry, &target).expect("a copy");
        }
    }
}

fn only_file(directory: &Path) -> PathBuf {
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory).expect("the day").map(|entry| entry.expect("a file").path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.swap_remove(0)
}

pub fn renamed(file: &Path, from: &str, to: &str) -> PathBuf {
    let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
    assert!(name.contains(from), "{name} holds no {from}");
    file.with_file_name(name.replacen(from, to, 1))
}

/// Replaces the rows of a file.
pub fn rewrite(file: &Path, change: impl FnOnce(&RecordBatch) -> RecordBatch) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(file).expect("the file")).expect("a Parquet file");
    let batches: Vec<RecordBatch> = reader.build().expect("rows").map(|batch| batch.expect("a batch")).collect();
    let rows = arrow_select::concat::concat_batches(&batches[0].schema(), &batches).expect("one batch");
    let changed = change(&rows);
    let mut writer =
        ArrowWriter::try_new(File::create(file).expect("the file"), rows.schema(), None).expect("a writer");
    writer.write(&changed).expect("written");
    writer.close().expect("closed");
}

pub fn with_column(rows: &RecordBatch, name: &str, change: impl FnOnce(&ArrayRef) -> ArrayRef) -> RecordBatch {
    let mut columns = rows.columns().to_vec();
    let index = rows.schema().index_of(name).expect("the column");
    columns[index] = change(&columns[index]);
    RecordBatch::try_new(rows.schema(), columns).expect("a batch")
}

#[test]
fn damage_to_the_lake_is_found_whatever_it_is() {
    let shop = Shop::with_orders();
    let intact = shop.verify_with(Options { strict: true, ..Options::default() });
    assert!(intact.ok, "{intact}");
    assert_eq!(found(&intact), [0; 5]);
    let counts = &intact.counts;
    assert_eq!(
        (counts.source_rows, counts.topic_records, counts.topic_versions, counts.lake_rows),
        (240, 240, 240, 234)
    );
    assert_eq!(json!(counts.dead_letters), json!({"negative_amount": 6}));
    assert_eq!(intact.tables[0].warnings, Vec::<String>::new());

    let report = shop.after_damage(|shop| fs::remove_file(shop.old_file()).expect("removed"));
    assert_eq!(found(&report), [39, 0, 0, 0, 0], "{report}");
    assert!(!report.ok);
    assert_eq!(report.tables[0].lost.len(), 20, "the list is bounded");
    assert!(report.tables[0].lost[0].place.starts_with("topic 0/"), "{report}");

    let report = shop.after_damage(|shop| {
        let file = shop.old_file();
        fs::copy(&file, renamed(&file, ".parquet", "9.parquet")).expect("a copy");
    });
    assert_eq!(found(&report), [0, 39, 0, 0, 0], "{report}");

    let report = shop.after_damage(|shop| {
        let file = shop.old_file();
        let other =
            shop.test.path("lake/date=2025-01-16").join(renamed(&file, ".parquet", "9.parquet").file_name().unwrap());
        fs::rename(&file, other).expect("moved");
    });
    assert_eq!(found(&report), [0, 0, 39, 0, 0], "{report}");
    let what = &report.tables[0].differing[0].what;
    assert!(what.contains("its date is 2025-01-15, its directory's 2025-01-16"), "{what}");

    let report = shop.after_damage(|shop| {
        rewrite(&shop.old_file(), |rows| {
            with_column(rows, "amount", |amounts| {
                let amounts = amounts.as_primitive::<Decimal128Type>();
                let mut values: Vec<i128> = amounts.values().to_vec();
                values[7] += 1;
                let (precision, scale) = (amounts.precision(), amounts.scale());
                Arc::new(Decimal128Array::from(values).with_precision_and_scale(precision, scale).expect("a decimal"))
            })
        });
    });
    assert_eq!(found(&report), [0, 0, 1, 0, 0], "{report}");
    let what = &report.tables[0].differing[0].what;
    assert!(what.contains("amount: topic 220.5, lake 220.5000") && !what.contains("item"), "{what}");

    let report = shop.after_damage(|shop| {
        rewrite(&shop.old_file(), |rows| {
            with_column(rows, "item", |items| {
                let items = items.as_string::<i32>();
                let values = (0..items.len()).map(|row| (row > 0).then(|| items.value(row)));
                Arc::new(values.collect::<StringArray>())
            })
        });
    });
    assert_eq!(found(&report), [0, 0, 1, 0, 0], "{report}");
    assert!(report.tables[0].differing[0].what.contains("lake null"), "{report}");

    let report = shop.after_damage(|shop| rewrite(&shop.old_file(), |rows| rows.slice(1, rows.num_rows() - 1)));
    assert_eq!(found(&report), [1, 0, 0, 0, 0], "{report}");

    let report = shop.after_damage(|shop| {
        rewrite(&shop.old_file(), |rows| {
            arrow_select::concat::concat_batches(&rows.schema(), [rows, &rows.slice(3, 2)]).expect("one batch")
        });
    });
    assert_eq!(found(&report), [0, 2, 0, 0, 0], "{report}");

    // A name that holds offsets of another commit: equal rows, but not the records it names.
    let report = shop.after_damage(|shop| {
        let file = shop.old_file();
        let (first, last) = offsets(&file);
        let name = format!("-{first}-{last}-");
        fs::rename(&file, renamed(&file, &name, &format!("-{}-{}-", last + 1, last + 2))).expect("renamed");
    });
    assert_eq!(found(&report), [0, 0, 39, 0, 0], "{report}");
    assert!(report.tables[0].differing[0].what.contains("the offsets in the file's name"), "{report}");
    assert!(report.tables[0].warnings[0].contains("overlapping offsets"), "{report}");

    let report = shop.after_damage(|shop| {
        fs::write(shop.test.path("lake/date=2025-01-15/part-00000.parquet"), "x").expect("written");
        let day = only_file(&shop.test.path("lake/date=2025-01-16"));
        fs::copy(day, shop.test.path("lake/part-other-0-0-9-0.parquet")).expect("copied");
    });
    assert_eq!(found(&report), [0, 39, 1, 0, 0], "{report}");
    assert!(report.tables[0].duplicated[0].place.ends_with("lake/part-other-0-0-9-0.parquet"), "{report}");
    assert!(report.tables[0].differing[0].what.contains("readers of the table stop at it"), "{report}");

    let report = shop.after_damage(|shop| {
        fs::write(shop.test.path("lake/date=2025-01-15/notes.txt"), "x").expect("written");
    });
    assert!(report.ok && report.tables[0].warnings[0].contains("1 entries that no landing of this pipeline writes"));
}

#[test]
fn damage_to_dead_letters_is_found() {
    let shop = Shop::with_orders();
    let report = shop.after_damage(|shop| fs::remove_file(shop.old_dead_letters()).expect("removed"));
    assert_eq!(found(&report), [3, 0, 0, 0, 0], "{report}");

    let report = shop.after_damage(|shop| {
        let file = shop.old_dead_letters();
        fs::copy(&file, renamed(&file, ".parquet", "9.parquet")).expect("a copy");
    });
    assert_eq!(found(&report), [0, 3, 0, 0, 0], "{report}");

    // One byte of white space: the same JSON, but not the record's bytes.
    let report = shop.after_damage(|shop| {
        rewrite(&shop.old_dead_letters(), |rows| {
            with_column(rows, "raw_payload", |payloads| {
                let payloads = payloads.as_binary::<i32>();
                let mut values: Vec<Vec<u8>> = (0..payloads.len()).map(|row| payloads.value(row).to_vec()).collect();
                values[1].push(b' ');
                Arc::new(arrow_array::BinaryArray::from_iter_values(values))
            })
        });
    });
    assert_eq!(found(&report), [0, 0, 1, 0, 0], "{report}");
    assert!(report.tables[0].differing[0].what.contains("raw_payload"), "{report}");

    // A record that is a row of the lake as well as a dead letter.
    let report = shop.after_damage(|shop| {
        let row = shop.test.path("row.parquet");
        fs::copy(shop.old_file(), &row).expect("copied");
        rewrite(&row, |rows| {
            let one = rows.slice(0, 1);
            with_column(&one, "order_id", |_| Arc::new(arrow_array::Int64Array::from(vec![40])))
        });
        fs::rename(&row, renamed(&shop.old_file(), ".parquet", "9.parquet")).expect("moved");
    });
    assert_eq!(found(&report), [0, 1, 0, 0, 0], "{report}");
    assert!(report.tables[0].duplicated[0].what.contains("no record of the topic"), "{report}");
}

#[test]
fn differences_between_source_and_topic_are_told_apart() {
    let shop = Shop::with_orders();
    let only_source = || shop.verify_with(Options { lake: false, ..Options::default() });
    assert_eq!(found(&only_source()), [0; 5]);

    // No poller can see this.
    shop.db.execute("UPDATE orders SET item = 'changed' WHERE order_id IN (1, 2)");
    let report = only_source();
    assert_eq!((found(&report), report.ok), ([0, 0, 0, 2, 0], true), "{report}");
    let changed = &report.tables[0].changed_in_place;
    assert!(changed.iter().all(|one| one.what.contains("item: source changed, topic item ")), "{report}");
    assert!(!changed[0].what.contains("amount"), "{report}");

    // The filter decides over the source too.
    shop.db.execute("UPDATE orders SET item = 'hidden' WHERE order_id = 1");
    assert_eq!(found(&only_source()), [0, 0, 0, 1, 0]);

    let insert = |item: &str, created_at: &str| {
        let row = shop.db.rows(&format!(
            "INSERT INTO orders (item, amount, created_at) VALUES ('{item}', 7.5, {created_at}) RETURNING order_id, xmin"
        ));
        let cell = |n: usize| row[0][n].clone().expect("a value");
        (cell(0), cell(1))
    };
    // Backdated further than slack.
    let (lost, _) = insert("lost", "'2025-01-15 12:00'");
    let report = only_source();
    assert_eq!(found(&report), [1, 0, 0, 1, 0], "{report}");
    assert_eq!(report.tables[0].lost[0].key, lost);
    assert!(report.tables[0].lost[0].what.contains("watermark 2025-01-15T12:00:00Z"), "{report}");

    // Too young to be missed.
    insert("young", "now() + interval '1 hour'");
    assert_eq!(found(&only_source()), [1, 0, 0, 1, 1]);

    let publish = |key: &str, value: Value, transaction: &str| {
        let headers = vec![("headwater-xid".to_owned(), transaction.as_bytes().to_vec())];
        let message = Outgoing { headers, ..Outgoing::new(key, value.to_string()) };
        produce(&shop.test.brokers, &shop.topic, &[message]);
    };
    let order = |id: &str, item: &str, amount: Value| {
        json!({"order_id": id.parse::<i64>().expect("an id"), "item": item, "amount": amount, "details": null,
               "created_at": "2025-01-15T12:00:00Z"})
    };
    // Published right after all, with another spelling of the number and without a null field.
    let (late, transaction) = insert("late", "'2025-01-15 12:00'");
    assert_eq!(found(&only_source())[0], 2);
    publish(&late, order(&late, "late", json!(7.50)), &transaction);
    assert_eq!(found(&only_source()), [1, 0, 0, 1, 1]);
    // The same again.
    publish(&late, order(&late, "late", json!(7.50)), &transaction);
    let report = only_source();
    assert_eq!(found(&report), [1, 1, 0, 1, 1], "{report}");
    assert_eq!(report.tables[0].duplicated[0].key, late);

    // The row's own transaction, but another amount: published wrong, not changed in place.
    let (wrong, transaction) = insert("wrong", "'2025-01-15 12:00'");
    publish(&wrong, order(&wrong, "wrong", json!(7.51)), &transaction);
    let report = only_source();
    assert_eq!(found(&report), [1, 1, 1, 1, 1], "{report}");
    assert!(report.tables[0].differing[0].what.contains("amount: source 7.5, topic 7.51"), "{report}");

    // Another message key puts the row's versions into another partition.
    let (astray, transaction) = insert("astray", "'2025-01-15 12:00'");
    publish("0", order(&astray, "astray", json!(7.5)), &transaction);
    let report = only_source();
    assert_eq!(found(&report), [1, 1, 2, 1, 1], "{report}");
    assert!(report.tables[0].differing.iter().any(|one| one.what.contains("message key is \"0\"")), "{report}");

    // What is not landed yet is no loss, and a failure only where that is asked for.
    let report = shop.verify_with(Options { source: false, ..Options::default() });
    assert_eq!((found(&report), report.ok), ([0, 0, 0, 0, 4], true), "{report}");
    assert!(!shop.verify_with(Options { source: false, strict: true, ..Options::default() }).ok);
}

#[test]
fn a_row_that_capture_refused_is_a_dead_letter() {
    let shop = Shop::open();
    shop.db.execute(
        "INSERT INTO orders (item, amount, created_at) VALUES ('small', 1, '2025-01-15 12:00'),
                                                              (repeat('x', 6000), 1, '2025-01-15 12:00')",
    );
    shop.run();
    let report = shop.verify();
    assert!(report.ok, "{report}");
    assert_eq!((report.counts.source_rows, report.counts.topic_records), (2, 1));
    assert_eq!(json!(report.counts.dead_letters), json!({"row_too_large": 1}));
}

#[test]
fn the_lake_vouches_for_rows_that_left_the_topic() {
    let shop = Shop::with_orders();
    shop.delete_records_before(read_topic(&shop.test.brokers, &shop.topic, true)[100].offset);

    let report = shop.verify();
    assert!(report.ok, "{report}");
    assert_eq!(report.counts.topic_records, 140);
    assert!(report.counts.expired_count > 0, "{report}");
    assert_eq!(found(&report), [0; 5], "{report}");

    // 13 rows of that day are still in the topic's last 20 of the first commit, at most.
    let report = shop.after_damage(|shop| fs::remove_file(shop.old_file()).expect("removed"));
    assert_eq!(report.counts.lost_count, 39, "{report}");
    assert!(report.tables[0].lost.iter().any(|one| one.what.contains("nor in the lake")), "{report}");

    shop.db.execute("UPDATE orders SET item = 'changed' WHERE order_id = 1");
    let report = shop.verify();
    assert_eq!((found(&report), report.ok), ([0, 0, 0, 1, 0], true), "{report}");
}

/// A table whose rules were made stricter holds rows that these would refuse: that is told, and is no fault of theirs.
#[test]
fn rows_that_landed_by_looser_rules_are_told_apart() {
    let shop = Shop::open();
    let strict = fs::read_to_string(&shop.file).expect("the configuration");
    let loose = strict.replace(r#""non_negative":["amount"]"#, r#""non_negative":[]"#);
    assert_ne!(loose, strict);
    fs::write(&shop.file, loose).expect("looser rules");
    shop.insert("timestamp '2025-01-15 12:00' + (i % 3) * interval '1 day'");
    shop.run();
    assert!(shop.verify().ok);
    fs::write(&shop.file, strict).expect("stricter rules");
    shop.insert("now()");
    shop.run();
    let report = shop.verify();
    assert!(report.ok, "{report}");
    assert_eq!((found(&report), &json!(report.counts.dead_letters)), ([0; 5], &json!({"negative_amount": 3})));
    let told = report.tables[0].warnings.join("\n");
    assert!(told.contains("3 rows have landed that would be dead letters"), "{told}");
}

/// What was deleted before it had landed is gone, as somebody has accepted; no other row is excused by it.
#[test]
fn a_loss_that_was_accepted_is_not_reported_as_one_again() {
    let shop = Shop::with_orders();
    let file = shop.file.to_str().expect("a path");
    shop.insert("now()");
    let stage = |arguments: &[&str]| {
        let mut run = Run::start(&shop.test, &[arguments, &["-c", file, "--until-caught-up"]].concat());
        (run.wait(LIMIT), run.stdout() + &run.stderr())
    };
    assert_eq!(stage(&["capture"]).0, Exit::Code(0));
    let records = read_topic(&shop.test.brokers, &shop.topic, true);
    assert_eq!(records.len(), 360);
    shop.delete_records_before(records[350].offset);
    let (exit, told) = stage(&["land"]);
    assert_eq!(exit, Exit::Code(1), "{told}");
    assert_eq!(stage(&["land", "--accept-loss", &losses(&told)]).0, Exit::Code(0));

    let report = shop.verify();
    assert!(report.ok, "{report}");
    assert_eq!((found(&report), report.counts.accepted_count), ([0; 5], 110), "{report}");
    assert!(report.to_string().contains("accepted losses"), "{report}");
    let report = shop.after_damage(|shop| fs::remove_file(shop.old_file()).expect("removed"));
    let counts = &report.counts;
    // A mark of a transaction took an offset, too.
    assert!(!report.ok && counts.accepted_count + counts.lost_count == 110 + 39 && counts.lost_count > 35, "{report}");
}

#[test]
fn the_command_prints_and_exits_by_what_it_finds() {
    let shop = Shop::with_orders();
    let file = shop.file.to_str().expect("a path");
    let mut run = Run::start(&shop.test, &["verify", "-c", file, "--format", "json"]);
    assert_eq!(run.wait(LIMIT), Exit::Code(0), "{}", run.stderr());
    assert_eq!(run.json()["tables"][0]["source_rows"], 240);
    fs::remove_file(shop.old_file()).expect("removed");
    let mut run = Run::start(&shop.test, &["verify", "-c", file]);
    assert_eq!(run.wait(LIMIT), Exit::Code(1), "{}", run.stderr());
    assert!(run.stdout().contains("NOT equal; lost 39"), "{}", run.stdout());
}
