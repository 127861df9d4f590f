//! The targets of the Makefile that people type, and the process that `make run` leaves in the background.

use crate::harness::{DEADLINE, Test, eventually};
use std::{
    path::Path,
    process::{Command, Output},
};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn help_lists_every_target_that_is_promised() {
    let help = Command::new("make").args(["--no-print-directory", "help"]).current_dir(repository()).output().unwrap();
    let help = said(&help);
    let promised = "build run stop restart logs clean demo test torture soak bench lint format ui health stats backup \
                    restore package";
    for target in promised.split(' ') {
        let line = help.lines().find(|line| line.split_whitespace().nth(1) == Some(target));
        assert!(line.is_some_and(|line| line.split_whitespace().count() > 3), "{target} in:\n{help}");
    }
}

/// Ends the process when the test does, however it ends.
struct Service<'a> {
    test: &'a Test,
    file: String,
}

impl Service<'_> {
    fn script(&self, action: &str) -> Output {
        Command::new(repository().join("scripts/service.sh"))
            .args([action, env!("CARGO_BIN_EXE_headwater"), &self.file])
            .env("HEADWATER_RUN_DIR", self.test.path("run"))
            .output()
            .expect("the script")
    }

    fn pid(&self) -> Option<String> {
        Some(std::fs::read_to_string(self.test.path("run/orders.pid")).ok()?.trim().to_owned())
    }

    fn status(&self) -> Output {
        Command::new(env!("CARGO_BIN_EXE_headwater")).args(["status", "-c", &self.file]).output().expect("the status")
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        self.script("stop");
    }
}

#[test]
fn a_pipeline_is_run_in_the_background_restarted_and_stopped() {
    let test = Test::new();
    test.db().execute(
        "CREATE TABLE orders (
             order_id bigint PRIMARY KEY, amount numeric(10,2), created_at timestamptz NOT NULL DEFAULT now());
         INSERT INTO orders SELECT n, n, now() - interval '1 hour' FROM generate_series(1, 100) n",
    );
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = test.short_form("orders", &test.topic("orders")).replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    let service = Service { test: &test, file: test.write("orders.yml", &config).display().to_string() };
    assert!(!service.status().status.success(), "nobody answers yet");

    let started = service.script("start");
    assert!(started.status.success(), "{}", said(&started));
    let first = service.pid().expect("a process id");
    eventually(DEADLINE, "status to be good", || service.status().status.success());
    let table = said(&service.status());
    assert!(table.contains("capture") && table.contains("land"), "{table}");
    let again = service.script("start");
    assert!(!again.status.success() && said(&again).contains("runs already"), "{}", said(&again));

    let restarted = service.script("restart");
    assert!(restarted.status.success(), "{}", said(&restarted));
    assert_ne!(service.pid().expect("a process id"), first);
    eventually(DEADLINE, "status to be good again", || service.status().status.success());
    let stopped = service.script("stop");
    assert!(stopped.status.success() && said(&stopped).contains("committed"), "{}", said(&stopped));
    assert!(service.pid().is_none() && !service.status().status.success());
    assert!(std::fs::read_to_string(test.path("run/orders.log")).unwrap().contains("draining"));
}
