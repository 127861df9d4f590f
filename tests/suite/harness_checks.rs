//! The harness tests itself, for what stands on it can be no better.

use crate::harness::{
    DEADLINE, Db, Patience, PrivateServers, Proxy, Run, Test, eventually, kafka, lake,
    proxy::Direction,
    run::{Exit, http_address, http_get},
};
use arrow_array::{
    ArrayRef, BinaryArray, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use headwater::demo::servers::{KafkaOptions, PostgresOptions};
use kafka::{Outgoing, create_topic, end_offsets, produce, read_topic, topics};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::Arc,
    time::Duration,
};

#[test]
fn a_test_has_a_database_and_topics_of_its_own() {
    let test = Test::new();
    let db = test.db();
    db.execute("CREATE TABLE t (a int, b text); INSERT INTO t VALUES (1, 'x'), (2, NULL)");
    assert_eq!(db.rows("SELECT a, b FROM t ORDER BY a")[1], [Some("2".to_owned()), None]);
    assert_eq!(db.count("SELECT count(*) FROM t"), 2);
    assert_eq!(db.value("SHOW max_prepared_transactions"), "50");
    assert!(db.try_execute("SELECT * FROM nowhere").is_err());

    let topic = test.topic("orders");
    create_topic(&test.brokers, &topic, 2, &[("retention.ms", "60000000")]);
    let mut message = Outgoing::new("k", "{\"a\":1}");
    message.headers = vec![("source".to_owned(), b"t".to_vec())];
    produce(&test.brokers, &topic, &[message, Outgoing { partition: Some(1), ..Outgoing::default() }]);
    let messages = read_topic(&test.brokers, &topic, true);
    assert_eq!(messages.len(), 2);
    let full = messages.iter().find(|message| message.value.is_some()).unwrap();
    assert_eq!(full.key.as_deref(), Some(&b"k"[..]));
    assert_eq!(full.json()["a"], 1);
    assert_eq!(full.headers, [("source".to_owned(), Some(b"t".to_vec()))]);
    assert!(full.timestamp_ms > 0);
    assert_eq!(end_offsets(&test.brokers, &topic).values().sum::<i64>(), 2);
    assert!(topics(&test.brokers).contains(&topic));
    assert_eq!(read_topic(&test.brokers, &topic, false), messages);
}

#[test]
fn servers_of_its_own_keep_data_and_ports_over_crash_and_restart() {
    let options = PostgresOptions { timezone: "Europe/Berlin".to_owned(), ..PostgresOptions::default() };
    let mut own = PrivateServers::start(options, KafkaOptions::default());
    let servers = &mut own.servers;
    let test = Test::on(servers);
    let topic = test.topic("kept");
    test.db().execute("CREATE TABLE kept (a int); INSERT INTO kept VALUES (7)");
    assert_eq!(test.db().value("SHOW timezone"), "UTC", "sessions of headwater pin their zone");
    create_topic(&test.brokers, &topic, 1, &[]);
    produce(&test.brokers, &topic, &[Outgoing::new("a", "1")]);

    servers.postgres.kill();
    servers.kafka.kill();
    assert!(Db::try_connect(&test.postgres).is_err());
    assert_eq!((servers.postgres.pid(), servers.kafka.pid()), (None, None));
    servers.postgres.restart().unwrap();
    servers.kafka.restart().unwrap();
    assert_eq!(test.db().value("SELECT a FROM kept"), "7");
    assert_eq!(read_topic(&test.brokers, &topic, true).len(), 1);

    servers.postgres.stop();
    servers.kafka.stop();
    servers.postgres.restart().unwrap();
    servers.kafka.restart().unwrap();
    assert_eq!(test.db().value("SELECT a FROM kept"), "7");
    assert_eq!(read_topic(&test.brokers, &topic, true).len(), 1);
    let data = servers.postgres.directory().to_owned();
    assert!(servers.postgres.log().exists() && servers.kafka.log().starts_with(servers.kafka.directory()));
    drop(own);
    assert!(!data.exists());
}

#[test]
fn the_brokers_proxy_is_what_clients_are_told() {
    let test = Test::new();
    let topic = test.topic("proxied");
    let proxy = test.kafka_proxy();
    let through = format!("127.0.0.1:{}", proxy.port());
    create_topic(&through, &topic, 1, &[]);
    proxy.cut();
    produce(&through, &topic, &[Outgoing::new("a", "1")]);
    assert_eq!(read_topic(&through, &topic, true).len(), 1);
}

#[test]
fn postgres_can_be_cut_and_comes_back() {
    let test = Test::new();
    let proxy = test.postgres_proxy();
    let mut through = test.postgres.clone();
    through.port = proxy.port();
    let db = Db::connect(&through);
    db.execute("SELECT 1");
    proxy.cut();
    assert!(db.try_execute("SELECT 1").is_err());
    proxy.refuse();
    assert!(Db::try_connect(&through).is_err());
    proxy.restore();
    assert_eq!(Db::connect(&through).count("SELECT 1"), 1);
}

#[test]
fn a_silenced_direction_holds_its_bytes_back() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target: SocketAddr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() {
            stream.write_all(&byte).unwrap();
        }
    });
    let proxy = Proxy::start(target);
    let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut byte = [0];
    let mut echo = |letter: u8| {
        client.write_all(&[letter]).unwrap();
        client.read_exact(&mut byte).map(|()| byte[0])
    };
    assert_eq!(echo(b'a').unwrap(), b'a');
    proxy.silence(Direction::ToClient);
    assert!(echo(b'b').is_err());
    proxy.restore();
    assert_eq!(echo(b'c').unwrap(), b'b', "what was held back comes first");
    proxy.silence(Direction::ToServer);
    proxy.restore();
    proxy.delay(50);
    let asked = Patience::new(Duration::from_secs(5));
    let _ = echo(b'd');
    asked.assert_in_time();
}

#[test]
fn a_child_is_watched_and_killed() {
    let test = Test::new();
    let mut shell = Command::new("sh");
    shell.args(["-c", "echo '{\"a\":1}'; echo 'INFO http listening address=127.0.0.1:4711' >&2; exec sleep 600"]);
    let mut run = Run::command(&test, shell);
    run.wait_for_log("listening");
    assert_eq!(run.http(), "127.0.0.1:4711");
    assert_eq!(run.json()["a"], 1);
    assert!(run.is_running() && run.pid() > 0);
    run.terminate();
    assert_eq!(run.wait(DEADLINE), Exit::Signal(libc::SIGTERM));

    let mut run = Run::start(&test, &["--version"]);
    assert_eq!(run.wait(DEADLINE), Exit::Code(0));
    run.kill();
    assert_eq!(
        http_address("{\"message\":\"http listening\",\"address\":\"127.0.0.1:80\"}").as_deref(),
        Some("127.0.0.1:80")
    );
}

#[test]
fn http_is_read() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno").unwrap();
    });
    assert_eq!(http_get(&address, "/ready"), Some((503, "no".to_owned())));
    let test = Test::new();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("echo 'http listening address={address}' >&2")]);
    assert_eq!(Run::command(&test, shell).get("/live"), None, "nobody listens any more");
}

#[test]
fn the_lake_is_read_as_it_was_written() {
    let test = Test::new();
    let directory = test.path("lake/date=2025-01-15");
    std::fs::create_dir_all(&directory).unwrap();
    let amount = Decimal128Array::from(vec![22000]).with_precision_and_scale(18, 2).unwrap();
    let at = TimestampMicrosecondArray::from(vec![1_736_943_840_000_000]).with_timezone("UTC");
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("order_id", Arc::new(Int32Array::from(vec![101]))),
        ("item", Arc::new(StringArray::from(vec![None::<&str>]))),
        ("amount", Arc::new(amount)),
        ("created_at", Arc::new(at)),
        ("raw_payload", Arc::new(BinaryArray::from(vec![&b"\xff"[..]]))),
        ("error_reason", Arc::new(StringArray::from(vec!["null_key"]))),
        ("topic", Arc::new(StringArray::from(vec!["t"]))),
        ("kafka_partition", Arc::new(Int32Array::from(vec![2]))),
        ("kafka_offset", Arc::new(Int64Array::from(vec![5]))),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
    let file = std::fs::File::create(directory.join("part-0.parquet")).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();

    let rows = lake::read_table(&test.path("lake"));
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["amount"].to_string(), "220.00");
    assert_eq!(rows[0]["created_at"], "2025-01-15T12:24:00Z");
    assert_eq!(rows[0]["date"], "2025-01-15");
    assert!(rows[0]["item"].is_null());
    let letters = lake::dead_letters(&test.path("lake"));
    assert_eq!(letters[0].payload.as_deref(), Some(&b"\xff"[..]));
    assert_eq!((letters[0].reason.as_str(), letters[0].topic.as_str()), ("null_key", "t"));
    assert_eq!((letters[0].partition, letters[0].offset), (2, 5));
    assert_eq!(letters[0].row["order_id"], 101);
    assert_eq!(lake::table_files(&test.path("lake")).len(), 1);
}

#[test]
fn the_short_form_is_written_into_the_tests_directory() {
    let test = Test::new();
    let file = test.write("orders.yml", &test.short_form("2025_orders", &test.topic("orders")));
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(file.starts_with(test.dir()) && text.contains(&test.brokers) && text.contains("batch_interval"));
    eventually(DEADLINE, "what holds already", || true);
}
