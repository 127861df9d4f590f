//! Orders as `generate` writes them.

use crate::harness::{Test, block_on};
use headwater::generate::{Bulk, Job, Live, Mode, Progress, Report, Show, write};
use tokio::sync::watch;

fn generate(test: &Test, table: &str, mode: Mode) -> Report {
    let (_running, shutdown) = watch::channel(false);
    let job = Job {
        postgres: test.postgres.clone(),
        schema: None,
        table: table.to_owned(),
        create_table: true,
        seed: 11,
        bad_share: 0.02,
        mode,
        shutdown,
        show: Show::Nothing,
        progress: Progress::default(),
    };
    block_on(write(job)).expect("orders")
}

#[test]
fn a_bulk_is_spread_over_its_days_and_repeats_with_its_seed() {
    let test = Test::new();
    let bulk = || Mode::Bulk(Bulk { rows: 20_000, days: 30, transaction_rows: 7_000 });
    let report = generate(&test, "2025 \"odd\" orders", bulk());
    assert_eq!((report.inserted, report.transactions), (20_000, 3));
    generate(&test, "again", bulk());
    let db = test.db();
    let odd = "\"2025 \"\"odd\"\" orders\"";
    let content = |table| {
        db.value(&format!(
            "SELECT md5(string_agg(concat_ws('|', order_id, customer_name, restaurant_name, item, amount, order_status), ',' ORDER BY order_id)) FROM {table}"
        ))
    };
    assert_eq!(content(odd), content("again"));
    assert_eq!(db.count(&format!("SELECT count(*) FROM {odd} WHERE amount < 0")), report.bad);
    assert!((29..=32).contains(&db.count(&format!("SELECT count(DISTINCT created_at::date) FROM {odd}"))));
    assert_eq!(db.count(&format!("SELECT count(*) FROM {odd} WHERE created_at > now() AT TIME ZONE 'UTC'")), 0);
    assert_eq!(db.count("SELECT count(*) FROM pg_indexes WHERE indexdef LIKE '%created_at%'"), 2);
}

#[test]
fn live_orders_hold_late_commits_updates_and_rollbacks_and_are_counted() {
    let test = Test::new();
    let live = Live {
        rows_per_second: 2_000.0,
        rows: Some(4_000),
        late_share: 0.2,
        late_ms: 500,
        rollback_share: 0.1,
        update_share: 0.3,
        ..Live::default()
    };
    let report = generate(&test, "orders", Mode::Live(live));
    let db = test.db();
    assert_eq!(report.inserted, 4_000);
    assert_eq!(db.count("SELECT count(*) FROM orders"), report.inserted);
    assert_eq!(db.count("SELECT count(*) FROM orders WHERE amount < 0"), report.bad);
    assert!(report.late > 200 && report.rolled_back > 0 && report.updated > 400, "{report:?}");
    assert!(db.count("SELECT count(*) FROM orders WHERE order_status <> 'PLACED'") > 400);
}
