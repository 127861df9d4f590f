//! Who is answered over HTTP, with what headers, and that slow clients hurt nobody.

use crate::harness::{
    DEADLINE, Patience, Run, Test, eventually, eventually_some,
    run::{Answer, Exit, http_send},
};
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

const ORDERS: &str = "CREATE TABLE orders (
        order_id bigint PRIMARY KEY, amount numeric(10,2), created_at timestamptz NOT NULL DEFAULT now());
    INSERT INTO orders SELECT n, n, now() - interval '1 hour' FROM generate_series(1, 10) n";
const PATHS: [&str; 5] = ["/", "/status", "/metrics", "/ready", "/live"];

/// A pipeline of orders whose http section has these lines too.
fn start(test: &Test, http: &str) -> Run {
    test.db().execute(ORDERS);
    let file = test.write("orders.yml", &(test.short_form("orders", &test.topic("orders")) + http));
    let run = Run::start(test, &["run", "-c", &file.display().to_string()]);
    run.http();
    run
}

#[track_caller]
fn get(run: &Run, path: &str, headers: &str) -> Answer {
    http_send(&run.http(), &format!("GET {path} HTTP/1.1\r\n{headers}\r\n")).expect("an answer")
}

#[track_caller]
fn code(run: &Run, path: &str, headers: &str) -> u16 {
    get(run, path, headers).code
}

#[test]
fn with_a_token_nobody_else_learns_more_than_a_code() {
    let test = Test::new();
    test.write("token", "s3cret-of-the-page\n");
    let run = start(&test, &format!("  token_file: {}\n", test.path("token").display()));
    let is_ready = || code(&run, "/ready", "Host: localhost\r\n") == 200;
    eventually(DEADLINE, "/ready to turn 200 without a token", is_ready);
    for path in ["/", "/status", "/metrics", "/nothing"] {
        for wrong in [
            "",
            "Authorization: Bearer wrong\r\n",
            "Authorization: Bearer\r\n",
            "Authorization: s3cret-of-the-page\r\n",
        ] {
            let answer = get(&run, path, &format!("Host: localhost\r\n{wrong}"));
            assert_eq!(answer.code, 401, "{path} {wrong}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"headwater\""));
            assert!(!answer.body.contains("orders") && !answer.body.contains("s3cret"), "{}", answer.body);
        }
        let right = "Host: localhost\r\nAuthorization: Bearer s3cret-of-the-page\r\n";
        assert_eq!(code(&run, path, right), if path == "/nothing" { 404 } else { 200 }, "{path}");
    }
    let probe = get(&run, "/ready", "Host: localhost\r\n");
    assert_eq!(probe.body, "{\"ready\":true}");
    assert_eq!(code(&run, "/live", "Host: localhost\r\n"), 200);
    let told = get(&run, "/ready", "Host: localhost\r\nAuthorization: Bearer s3cret-of-the-page\r\n");
    assert!(told.body.contains("not_ready"), "{}", told.body);
    assert!(!run.stderr().contains("s3cret"), "{}", run.stderr());
}

#[test]
fn only_our_own_names_are_answered() {
    let test = Test::new();
    let run = start(&test, "  allowed_hosts: [headwater, ops.example.org]\n");
    let address = run.http();
    for host in [address.as_str(), "localhost", "10.1.2.3:9464", "[::1]", "headwater:9464", "OPS.example.org"] {
        assert_eq!(code(&run, "/live", &format!("Host: {host}\r\n")), 200, "{host}");
    }
    for path in PATHS {
        let answer = get(&run, path, "Host: evil.example.org\r\n");
        assert_eq!(answer.code, 421, "{path}");
        assert!(
            answer.body.contains("evil.example.org") && answer.body.contains("http.allowed_hosts"),
            "{}",
            answer.body
        );
    }
    assert_eq!(code(&run, "/live", ""), 400, "no host");
    assert_eq!(code(&run, "/live", "Host: localhost\r\nHost: evil.example.org\r\n"), 400, "two hosts");
    assert_eq!(code(&run, "http://evil.example.org/live", "Host: localhost\r\n"), 421, "another one in the target");
    assert_eq!(
        http_send(&address, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").unwrap().code,
        405
    );
}

#[test]
fn every_answer_carries_the_headers_of_a_careful_server() {
    let test = Test::new();
    let run = start(&test, "");
    for (path, host) in
        PATHS.into_iter().map(|path| (path, "localhost")).chain([("/nothing", "localhost"), ("/", "evil")])
    {
        let answer = get(&run, path, &format!("Host: {host}\r\n"));
        let policy = answer.header("content-security-policy").expect("a policy");
        for rule in ["default-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"] {
            assert!(policy.contains(rule), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
    }
    let page = get(&run, "/", "Host: localhost\r\n");
    assert_eq!((page.code, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
}

#[test]
fn large_heads_are_refused_and_slow_clients_are_left() {
    let test = Test::new();
    let mut run = start(&test, "");
    let address = run.http();
    let large = format!("Host: localhost\r\nX: {}\r\n", "x".repeat(64 << 10));
    // The server may end the connection while the rest is being sent.
    let refused = http_send(&address, &format!("GET /live HTTP/1.1\r\n{large}\r\n"));
    assert!(refused.is_none_or(|answer| answer.code == 431));

    // More clients than are served at a time: each sends half a request, or reads no answer.
    let begun = Patience::new(Duration::from_secs(45));
    let mut slow: Vec<TcpStream> = (0..80).map(|_| TcpStream::connect(&address).expect("a connection")).collect();
    for (n, client) in slow.iter_mut().enumerate() {
        let half = if n % 2 == 0 { "GET /live HTTP/1.1\r\nHost: loc" } else { "" };
        client.write_all(half.as_bytes()).expect("half a request");
    }
    let answer = eventually_some(DEADLINE, "an answer among slow clients", || {
        http_send(&address, "GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    });
    assert_eq!(answer.code, 200);
    begun.assert_in_time();
    let mut byte = [0];
    slow[0].set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(slow[0].read(&mut byte).unwrap_or(0), 0, "the slow one is left");
    // The pipeline itself has noticed nothing.
    test.db().execute("INSERT INTO orders VALUES (100, 1, now())");
    eventually(DEADLINE, "the row", || {
        run.get("/metrics").is_some_and(|(_, text)| {
            text.lines().any(|line| line.starts_with("headwater_land_rows_total{") && line.ends_with(" 11"))
        })
    });
    run.terminate();
    assert_eq!(run.wait(DEADLINE), Exit::Code(0));
}

#[test]
fn an_open_address_without_a_token_is_warned_of() {
    let test = Test::new();
    let http = |more: &str| test.short_form("orders", &test.topic("orders")).replace("127.0.0.1:0", "0.0.0.0:0") + more;
    test.db().execute(ORDERS);
    for (more, is_warned) in [("", true), ("  token: abc\n", false)] {
        let file = test.write("orders.yml", &http(more)).display().to_string();
        let run = Run::start(&test, &["run", "-c", &file]);
        run.wait_for_log("http listening");
        assert_eq!(run.stderr().contains("http.token_file"), is_warned, "{}", run.stderr());
    }
}
