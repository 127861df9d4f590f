//! The unit of deploy/systemd, and what the process tells the service manager. systemd itself does not run here: the
//! test is the service manager, as far as the process can tell.

use crate::harness::{DEADLINE, Run, Test, eventually, run::Exit};
use headwater::config::{self, Environment, keys::KEYS};
use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
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

/// The variables of the instance `orders`, its credentials in the test's directory: those that are `given`, and of
/// the others what the unit has instead.
fn environment(test: &Test, given: &[(&str, &str)]) -> Vec<(String, String)> {
    let settings = settings();
    let directory = test.dir().join("credentials");
    std::fs::create_dir_all(&directory).unwrap();
    for default in &settings["SetCredential"] {
        let (name, text) = default.split_once(':').expect("name and text");
        std::fs::write(directory.join(name), text.replace("\\n", "\n")).unwrap();
    }
    for (name, text) in given {
        let loaded = format!("{name}:/etc/headwater/credentials/%i/{name}");
        assert!(settings["LoadCredential"].contains(&loaded), "{loaded}");
        std::fs::write(directory.join(name), text).unwrap();
    }
    let mut environment = vec![("CREDENTIALS_DIRECTORY".to_owned(), directory.display().to_string())];
    for variable in settings["Environment"].iter().flat_map(|line| line.split(' ')) {
        let (name, value) = variable.split_once('=').expect("name and value");
        environment.push((name.to_owned(), value.replace("%S", "/var/lib").replace("%i", "orders")));
    }
    environment
}

/// The README's first pipeline, as whoever follows it writes it.
pub fn first_pipeline() -> String {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let from = readme.find("```yaml\n# orders.yml\n").expect("the first configuration") + "```yaml\n".len();
    let length = readme[from..].find("```").expect("its end");
    readme[from..from + length].to_owned()
}

/// A pipeline that knows no PostgreSQL.
const LAND_ONLY: &str = "kafka: {brokers: 'localhost:9092'}
land:
  tables:
    - {topic: t, path: /var/lib/headwater/orders/lake, checkpoint_location: /var/lib/headwater/orders/checkpoints,
       schema_file: chat.json, date_column: timestamp}
";

/// Every configuration that is shipped or shown, by its path.
fn pipelines(test: &Test) -> Vec<PathBuf> {
    std::fs::copy(repository().join("configs/schemas/chat.json"), test.path("chat.json")).unwrap();
    let mut files = vec![test.write("orders.yml", &first_pipeline()), test.write("land.yml", LAND_ONLY)];
    let shipped = std::fs::read_dir(repository().join("configs")).unwrap().map(|entry| entry.unwrap().path());
    files.extend(shipped.filter(|path| path.extension().is_some_and(|it| it == "yml")));
    assert!(files.len() >= 6, "{files:?}");
    files
}

#[test]
fn the_unit_runs_whatever_is_shipped_with_the_secrets_that_are_there() {
    let test = Test::new();
    let settings = settings();
    assert_eq!(settings["Type"], ["notify"]);
    assert_eq!(settings["ExecStart"], ["/usr/bin/headwater run -c /etc/headwater/%i.yml"]);
    // What prevents restarts is the code of the main process only, so that nothing comes before it.
    assert!(!settings.contains_key("ExecStartPre") && settings["RestartPreventExitStatus"] == ["2 78"]);
    let validate = |file: &Path, environment: &[(String, String)]| {
        let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (&**name, &**value)).collect();
        let mut run = Run::with_env(&test, &["validate", "-c", &file.display().to_string()], &environment);
        (run.wait(DEADLINE), run.stderr())
    };
    let files = pipelines(&test);
    for file in &files {
        let (exit, said) = validate(file, &environment(&test, &[("postgres_password", "from the credential\n")]));
        assert_eq!(exit, Exit::Code(0), "{}: {said}", file.display());
        let (exit, said) = validate(file, &environment(&test, &[]));
        let needs_one = file.ends_with("orders.yml");
        assert_eq!(exit, Exit::Code(if needs_one { 78 } else { 0 }), "{}: {said}", file.display());
        assert!(!needs_one || said.contains("postgres.password_file") && said.contains("/run/secrets/shop"), "{said}");
    }
    // And a credential is what is read.
    let (exit, said) = validate(&files[1], &environment(&test, &[("http_token", "not a token\n")]));
    assert!(exit == Exit::Code(78) && said.contains("http.token_file"), "{said}");
}

#[test]
fn what_is_shipped_writes_in_the_state_directory_only() {
    let test = Test::new();
    let settings = settings();
    assert_eq!(
        (&*settings["StateDirectory"], &*settings["ProtectSystem"]),
        (&["headwater/%i".into()][..], &["strict".into()][..])
    );
    let environment: Environment = environment(&test, &[("postgres_password", "p")]).into_iter().collect();
    let mut written = BTreeSet::new();
    for file in pipelines(&test) {
        let config = config::load(&file, &environment).unwrap_or_else(|errors| panic!("{errors}"));
        for pipeline in config.pipelines {
            for table in pipeline.land.into_iter().flat_map(|land| land.tables) {
                written.extend([table.path, table.dead_letter_path, table.checkpoint_location]);
            }
            written.extend(pipeline.capture.and_then(|capture| capture.last_processed_timestamp_location));
        }
    }
    let state = Path::new("/var/lib/headwater/orders");
    let outside: Vec<_> = written.iter().filter(|path| !path.starts_with(state) || *path == state).collect();
    assert!(outside.is_empty() && written.contains(&state.join("lake_dead_letters")), "{written:#?}");
}

#[test]
fn every_secret_can_be_a_credential() {
    let settings = settings();
    let secrets =
        KEYS.iter().filter(|key| key.secret && KEYS.iter().any(|file| file.path == format!("{}_file", key.path)));
    let mut names: BTreeSet<String> = secrets.map(|key| key.path.replace('.', "_")).collect();
    assert!(names.contains("postgres_password") && names.len() >= 3, "{names:?}");
    // A private key is one too, though a path to it is all that the configuration can hold.
    names.insert("kafka_ssl_key".to_owned());
    let listed = |key: &str| settings[key].iter().map(|it| it.split_once(':').unwrap().0.to_owned()).collect();
    assert_eq!((listed("LoadCredential"), listed("SetCredential")), (names.clone(), names.clone()));
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    for name in names {
        assert!(readme.contains(&format!("`{name}`")), "{name} in the README");
    }
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
