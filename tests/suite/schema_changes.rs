//! Tables that change, fail or come while others run.

use crate::{
    harness::{DEADLINE, Run, Test, eventually, run::Exit},
    pipeline::{committed, config, drain, said, start, write},
};
use serde_json::{Value, json};

fn wait_for(test: &Test, topic: &str, what: &str, condition: impl Fn(&[Value]) -> bool) {
    eventually(DEADLINE, what, || {
        let messages = committed(test, &test.topic(topic));
        condition(&messages.iter().map(|message| message.json()).collect::<Vec<_>>())
    });
}

fn has(rows: &[Value], id: i64) -> bool {
    rows.iter().any(|row| row["id"] == id)
}

/// Waits until `/ready` answers with this status and, where it is not 200, a reason that holds `reason`.
fn wait_ready(run: &Run, status: u16, reason: &str) {
    let mut last = None;
    eventually(DEADLINE, &format!("/ready with {status} and {reason:?}, {last:?}"), || {
        last = run.get("/ready");
        matches!(&last, Some((code, body)) if *code == status && body.contains(reason))
    });
}

#[test]
fn columns_come_and_go_while_a_capture_runs() {
    let test = Test::new();
    let db = test.db();
    db.execute(
        "CREATE TABLE changing (id int PRIMARY KEY, a int, b text, gone text, at timestamp NOT NULL DEFAULT (now() AT TIME ZONE 'UTC'));
         INSERT INTO changing VALUES (1, 1, 'b', 'g');
         CREATE TABLE steady (id int PRIMARY KEY, at timestamp NOT NULL DEFAULT (now() AT TIME ZONE 'UTC'))",
    );
    let tables = json!([
        {"table": "changing", "topic": test.topic("changing"), "watermark": "at"},
        {"table": "steady", "topic": test.topic("steady"), "watermark": "at"},
    ]);
    let file = write(&test, "capture.yml", &config(&test, json!({}), tables));
    let mut run = start(&test, &file, &[], &[]);
    let row = |id: i64| -> Value {
        wait_for(&test, "changing", &format!("row {id}"), |rows| has(rows, id));
        let messages = committed(&test, &test.topic("changing"));
        messages.iter().map(|message| message.json()).rfind(|json| json["id"] == id).expect("the row")
    };
    assert_eq!(row(1)["gone"], "g");

    db.execute(
        "ALTER TABLE changing ADD COLUMN added jsonb DEFAULT '{\"x\": 1}'; INSERT INTO changing (id, a) VALUES (2, 2)",
    );
    assert_eq!(row(2)["added"], json!({"x": 1}));

    db.execute("ALTER TABLE changing DROP COLUMN gone; INSERT INTO changing (id, a) VALUES (3, 3)");
    assert!(row(3).get("gone").is_none());

    db.execute(
        "ALTER TABLE changing RENAME COLUMN b TO \"B new\"; INSERT INTO changing (id, \"B new\") VALUES (4, 'x')",
    );
    let renamed = row(4);
    assert_eq!((renamed.get("b"), &renamed["B new"]), (None, &json!("x")));

    // Retyped: a rewrite, and another JSON from then on.
    db.execute("ALTER TABLE changing ALTER COLUMN a TYPE numeric(10,2); INSERT INTO changing (id, a) VALUES (5, 5)");
    assert_eq!(row(5)["a"].to_string(), "5.00");
    db.execute(
        "ALTER TABLE changing ALTER COLUMN a TYPE text USING 'n' || a; INSERT INTO changing (id, a) VALUES (6, 'six')",
    );
    assert_eq!(row(6)["a"], "six");

    assert!(run.is_running(), "{}", run.stderr());

    // Without its watermark a table cannot be polled: it stops, the other goes on.
    db.execute("ALTER TABLE changing DROP COLUMN at; INSERT INTO changing (id) VALUES (8)");
    wait_ready(&run, 503, "changing");
    let (_, reason) = run.get("/ready").expect("an answer");
    assert!(reason.contains("at") && reason.contains("watermark"), "{reason}");
    db.execute("INSERT INTO steady VALUES (1)");
    wait_for(&test, "steady", "the other table goes on", |rows| has(rows, 1));
    // With the column it goes on by itself.
    db.execute("ALTER TABLE changing ADD COLUMN at timestamp DEFAULT (now() AT TIME ZONE 'UTC'); INSERT INTO changing (id) VALUES (9)");
    row(9);
    wait_ready(&run, 200, "");

    // Another type of watermark may have moved every row: that is for people to decide.
    db.execute("ALTER TABLE changing ALTER COLUMN at TYPE timestamptz USING at AT TIME ZONE 'Asia/Kolkata'");
    wait_ready(&run, 503, "--resync");
    db.execute("INSERT INTO steady VALUES (2)");
    wait_for(&test, "steady", "the other table goes on", |rows| has(rows, 2));
    run.terminate();
    assert_eq!(run.wait(DEADLINE), Exit::Code(1), "a table that stands still is a failure: {}", said(&run));
}

#[test]
fn a_missing_grant_names_itself_and_its_cure_and_heals() {
    let test = Test::new();
    let db = test.db();
    // Roles belong to the whole cluster.
    let role = format!("{}-reader", test.prefix);
    db.execute(&format!(
        "CREATE TABLE open_one (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
         CREATE TABLE \"Closed \"\"one\" (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
         INSERT INTO open_one SELECT generate_series(1, 20); INSERT INTO \"Closed \"\"one\" SELECT generate_series(1, 20);
         CREATE ROLE \"{role}\" LOGIN; GRANT SELECT ON open_one TO \"{role}\""
    ));
    let tables = json!([
        {"table": "open_one", "topic": test.topic("open"), "watermark": "at"},
        {"table": "Closed \"one", "topic": test.topic("closed"), "watermark": "at"},
    ]);
    let mut settings = config(&test, json!({}), tables);
    settings["postgres"]["user"] = json!(role);
    let file = write(&test, "capture.yml", &settings);

    // Without pg_monitor nobody sees the others' transactions: nothing starts.
    let mut refused = start(&test, &file, &["--until-caught-up"], &[]);
    assert_eq!(refused.wait(DEADLINE), Exit::Code(1), "{}", said(&refused));
    let grant = format!("GRANT pg_monitor TO \"{role}\"");
    assert!(said(&refused).contains(&grant), "{grant} is not in: {}", said(&refused));
    assert_eq!(committed(&test, &test.topic("open")).len(), 0);

    db.execute(&grant);
    let mut once = start(&test, &file, &["--until-caught-up"], &[]);
    assert_eq!(once.wait(DEADLINE), Exit::Code(1), "a table that fails is a failure: {}", said(&once));
    assert_eq!(committed(&test, &test.topic("open")).len(), 20, "the other table is captured");

    // Taken from the log as it stands there, as its reader would.
    let log = said(&once);
    let grant = log.find("GRANT SELECT ON").map(|from| log[from..].lines().next().unwrap_or_default());
    let grant = grant.and_then(|line| line.find(&role).map(|at| format!("{}{role}\"", &line[..at])));
    let grant = grant.unwrap_or_else(|| panic!("no GRANT in: {log}"));
    let mut run = start(&test, &file, &[], &[]);
    run.wait_for_log(&grant);
    wait_ready(&run, 503, "Closed");
    db.execute("INSERT INTO open_one VALUES (21)");
    wait_for(&test, "open", "the other table goes on", |rows| has(rows, 21));
    // Exactly what the message says; then it goes on by itself.
    db.execute(&grant);
    wait_for(&test, "closed", "the table after the GRANT", |rows| has(rows, 20));
    wait_ready(&run, 200, "");
    db.execute(&format!("REVOKE SELECT ON open_one FROM \"{role}\"; INSERT INTO \"Closed \"\"one\" VALUES (22)"));
    wait_for(&test, "closed", "the table whose grant is there", |rows| has(rows, 22));
    db.execute(&format!("INSERT INTO open_one VALUES (23); GRANT SELECT ON open_one TO \"{role}\""));
    wait_for(&test, "open", "a row from the time without the grant", |rows| has(rows, 23));
    drain(&mut run);
    assert_eq!(committed(&test, &test.topic("open")).len(), 22);
    assert_eq!(committed(&test, &test.topic("closed")).len(), 21);
    // The role's rights go with the database, the role does not.
    db.execute(&format!("DROP OWNED BY \"{role}\"; DROP ROLE \"{role}\""));
}

#[test]
fn tenants_are_isolated_from_one_another() {
    let test = Test::new();
    let db = test.db();
    for tenant in ["north", "south"] {
        db.execute(&format!(
            "CREATE TABLE {tenant}_orders (id int PRIMARY KEY, tenant text DEFAULT '{tenant}', at timestamptz NOT NULL DEFAULT now());
             INSERT INTO {tenant}_orders SELECT generate_series(1, 30)"
        ));
    }
    let topic = test.topic("{tenant}-food-orders-raw");
    let tables = json!([{"table": "{tenant}_orders", "topic": topic, "watermark": "at"}]);
    let keys = json!({
        "checkpoint_topic": test.topic("{tenant}-checkpoints"),
        "transactional_id": test.topic("{tenant}-capture"),
        "dead_letter_topic": test.topic("{tenant}-dead-letters"),
    });
    let mut settings = config(&test, keys, tables);
    settings.as_object_mut().expect("an object").remove("pipeline");
    settings["tenants"] = json!(["north", "south", "west"]);
    let file = write(&test, "capture.yml", &settings);

    // The third tenant's table is not there: its failure is its own.
    let mut once = start(&test, &file, &["--until-caught-up"], &[]);
    assert_eq!(once.wait(DEADLINE), Exit::Code(1), "{}", said(&once));
    assert!(said(&once).contains("west_orders"), "{}", said(&once));
    for tenant in ["north", "south"] {
        let messages = committed(&test, &test.topic(&format!("{tenant}-food-orders-raw")));
        assert_eq!(messages.len(), 30);
        assert!(messages.iter().all(|message| message.json()["tenant"] == tenant));
    }

    let mut run = start(&test, &file, &[], &[]);
    wait_ready(&run, 503, "west");
    db.execute("INSERT INTO north_orders VALUES (31)");
    wait_for(&test, "north-food-orders-raw", "the first tenant's new row", |rows| has(rows, 31));
    // A tenant's locked table holds up nobody else.
    let holder = test.db();
    holder.execute("BEGIN; LOCK TABLE south_orders IN ACCESS EXCLUSIVE MODE");
    db.execute("INSERT INTO north_orders VALUES (32)");
    wait_for(&test, "north-food-orders-raw", "a row while another tenant is locked", |rows| has(rows, 32));
    holder.execute("INSERT INTO south_orders VALUES (31); COMMIT");
    wait_for(&test, "south-food-orders-raw", "the locked tenant's row", |rows| has(rows, 31));
    db.execute("CREATE TABLE west_orders (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now()); INSERT INTO west_orders VALUES (1)");
    wait_for(&test, "west-food-orders-raw", "the tenant whose table came late", |rows| has(rows, 1));
    wait_ready(&run, 200, "");
    drain(&mut run);
}

#[test]
fn a_locked_table_holds_up_only_itself() {
    let test = Test::new();
    let db = test.db();
    db.execute(
        "CREATE TABLE locked (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
         CREATE TABLE free (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
         INSERT INTO locked VALUES (1); INSERT INTO free VALUES (1)",
    );
    let tables = json!([
        {"table": "locked", "topic": test.topic("locked"), "watermark": "at"},
        {"table": "free", "topic": test.topic("free"), "watermark": "at"},
    ]);
    let file = write(&test, "capture.yml", &config(&test, json!({"lock_timeout_ms": 200}), tables));
    let mut run = start(&test, &file, &[], &[]);
    wait_for(&test, "locked", "the first row", |rows| has(rows, 1));
    let holder = test.db();
    holder.execute("BEGIN; LOCK TABLE locked IN ACCESS EXCLUSIVE MODE");
    db.execute("INSERT INTO free VALUES (2)");
    wait_for(&test, "free", "a row beside a locked table", |rows| has(rows, 2));
    holder.execute("INSERT INTO locked VALUES (2); COMMIT");
    wait_for(&test, "locked", "the row of the locked time", |rows| has(rows, 2));
    drain(&mut run);
}
