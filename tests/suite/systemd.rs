//! The unit of deploy/systemd, and what the process tells the service manager. systemd itself does not run here: the
//! test is the service manager, as far as the process can tell.

use crate::harness::{DEADLINE, Run, Test, eventually, run::Exit};
use std::{
    collections::BTreeMap,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

const UNIT: &str = "deploy/systemd/headwater@.service";
/// Microseconds, as the service manager gives it.
const WATCHDOG: (&str, &str) = ("WATCHDOG_USEC", "1000000");

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn analyze(unit: &Path, threshold: &str) -> Output {
    let mut command = Command::new("systemd-analyze");
    command.args(["security", "--offline=yes", "--no-pager", &format!("--threshold={threshold}")]).arg(unit);
    command.output().expect("systemd-analyze; scripts/setup.sh installs it")
}

#[test]
fn the_unit_exposes_little() {
    // The threshold is in tenths.
    let scored = analyze(&repository().join(UNIT), "15");
    let text = String::from_utf8_lossy(&scored.stdout).into_owned();
    println!("{}", text.lines().last().unwrap_or_default());
    assert!(scored.status.success() && text.contains("Overall exposure level"), "{text}");
    // And the score can be missed.
    let test = Test::new();
    let unit = std::fs::read_to_string(repository().join(UNIT)).unwrap();
    let open = test.write("open@.service", &unit.replace("SystemCallFilter=", "#").replace("ProtectSystem=", "#"));
    assert!(!analyze(&open, "15").status.success());
}

/// `key=value` lines of the unit, those of one key in their order.
fn settings() -> BTreeMap<String, Vec<String>> {
    let text = std::fs::read_to_string(repository().join(UNIT)).unwrap();
    let mut settings = BTreeMap::<String, Vec<String>>::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some((key, value)) = line.split_once('=') {
            settings.entry(key.to_owned()).or_default().push(value.to_owned());
        }
    }
    settings
}

#[test]
fn the_commands_and_variables_of_the_unit_are_the_programs() {
    let test = Test::new();
    let settings = settings();
    assert_eq!(settings["Type"], ["notify"]);
    let credentials = test.dir().join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    // LoadCredential=secret:DIRECTORY gives each of its files as secret_FILE.
    assert_eq!(settings["LoadCredential"], ["secret:/etc/headwater/credentials/%i"]);
    std::fs::write(credentials.join("secret_postgres_password"), "from the credential\n").unwrap();
    let state = test.dir().display().to_string();
    let filled = |text: &str| {
        text.replace("%d", &credentials.display().to_string()).replace("%S", &state).replace("%i", "orders_stream")
    };
    let mut environment = Vec::new();
    for variable in settings["Environment"].iter().flat_map(|line| line.split(' ')) {
        let (name, value) = variable.split_once('=').expect("name and value");
        environment.push((name.to_owned(), filled(value)));
    }
    for (key, command) in [("ExecStartPre", "validate"), ("ExecStart", "run")] {
        let line = format!("/usr/bin/headwater {command} -c /etc/headwater/%i.yml");
        assert_eq!(settings[key], [line]);
    }
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (&**name, &**value)).collect();
    for file in ["orders_stream.yml", "chat.yml"] {
        let path = repository().join("configs").join(file).display().to_string();
        let mut run = Run::with_env(&test, &["validate", "-c", &path, "--show"], &environment);
        assert_eq!(run.wait(DEADLINE), Exit::Code(0), "{file}: {}", run.stderr());
        assert!(file != "chat.yml" || run.stdout().contains(&format!("{state}/headwater/orders_stream/lake")));
    }
    std::fs::remove_file(credentials.join("secret_postgres_password")).unwrap();
    let path = repository().join("configs/chat.yml").display().to_string();
    let mut run = Run::with_env(&test, &["validate", "-c", &path], &environment);
    assert_eq!(run.wait(DEADLINE), Exit::Code(78), "the credential is what is read");
}

/// The service manager's end of the socket, and what has come by it.
struct Manager {
    socket: UnixDatagram,
    path: String,
    heard: Vec<String>,
}

impl Manager {
    fn new(test: &Test) -> Manager {
        let path = test.path("notify").display().to_string();
        let socket = UnixDatagram::bind(&path).expect("the socket");
        socket.set_nonblocking(true).unwrap();
        Manager { socket, path, heard: Vec::new() }
    }

    /// How many of the messages so far begin with `text`.
    fn count(&mut self, text: &str) -> usize {
        let mut buffer = [0; 4_096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            self.heard.extend(message.lines().map(str::to_owned));
        }
        self.heard.iter().filter(|line| line.starts_with(text)).count()
    }
}

fn configure(test: &Test, further: &str) -> String {
    test.db().execute(
        "CREATE TABLE orders (
             order_id bigint PRIMARY KEY, amount numeric(10,2), created_at timestamptz NOT NULL DEFAULT now());
         INSERT INTO orders SELECT n, n, now() - interval '1 hour' FROM generate_series(1, 100) n",
    );
    let topic = test.topic("orders");
    let file = test.write("orders.yml", &(test.short_form("orders", &topic) + further));
    file.display().to_string()
}

#[test]
fn the_manager_is_told_of_readiness_life_and_the_end() {
    let test = Test::new();
    let mut manager = Manager::new(&test);
    let file = configure(&test, "");
    let path = manager.path.clone();
    let mut run = Run::with_env(&test, &["run", "-c", &file], &[("NOTIFY_SOCKET", &path), WATCHDOG]);
    eventually(DEADLINE, "READY=1", || manager.count("READY=1") == 1);
    assert_eq!(run.get("/ready").unwrap().0, 200);
    eventually(DEADLINE, "signs of life", || manager.count("WATCHDOG=1") > 4);
    assert!(manager.heard.iter().any(|line| line.starts_with("STATUS=ready: 2 units")), "{:?}", manager.heard);
    run.terminate();
    assert_eq!(run.wait(DEADLINE), Exit::Code(0));
    assert_eq!((manager.count("STOPPING=1"), manager.count("READY=1")), (1, 1));
}

#[test]
fn a_stage_that_hangs_is_not_ready_and_the_manager_hears_no_more() {
    let test = Test::new();
    let mut manager = Manager::new(&test);
    let file = configure(&test, "runtime: {stall_timeout_ms: 2000}\n");
    let path = manager.path.clone();
    let hang = ("HEADWATER_FAILPOINTS", "land.before_ledger_sync=pause");
    let run = Run::with_env(&test, &["run", "-c", &file], &[("NOTIFY_SOCKET", &path), WATCHDOG, hang]);
    let mut is_silent = || {
        // A manager reads what it is sent.
        manager.count("");
        run.get("/ready").is_some_and(|(code, body)| code == 503 && body.contains("no sign of life"))
    };
    eventually(DEADLINE, "/ready to tell of the silence", &mut is_silent);
    // Three times what the manager waits for.
    let (heard, since) = (manager.count("WATCHDOG=1"), Instant::now());
    eventually(DEADLINE, "three seconds", || since.elapsed() > Duration::from_secs(3));
    assert_eq!(manager.count("WATCHDOG=1"), heard);
    assert!(manager.count("STATUS=1 of 2 units not ready; land") > 0, "{:?}", manager.heard);
}
