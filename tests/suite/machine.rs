//! systemd itself: the installed package on a machine of its own (machine.sh), served by real servers.

use crate::{
    harness::{DEADLINE, Db, Test, eventually, eventually_some, kafka::create_topic},
    package, systemd,
};
use headwater::{
    config::model::Postgres,
    demo::servers::{Lifetime, PostgresOptions, PostgresServer, process},
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// A machine whose first process is systemd; it ends when dropped.
struct Machine {
    child: Child,
    pid: String,
    log: PathBuf,
}

impl Machine {
    /// None where the kernel gives us no namespaces, as to a user who is not root.
    fn start(test: &Test, files: &Path) -> Option<Machine> {
        let (pid, log) = (test.path("machine.pid"), test.path("machine.log"));
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/machine.sh"));
        let output = File::create(&log).expect("the log");
        command.arg(files).arg(&pid).stdin(Stdio::null());
        command.stdout(output.try_clone().expect("the log")).stderr(output);
        let mut child = process::spawn(command, Lifetime::EndsWithUs, libc::SIGTERM).expect("the script");
        let started = eventually_some(DEADLINE, "systemd's pid", || match child.try_wait().expect("the script") {
            Some(status) => Some(Err(status)),
            None => fs::read_to_string(&pid).ok().map(Ok),
        });
        let pid = match started {
            Ok(pid) => pid.trim().to_owned(),
            Err(status) if status.code() == Some(77) => return None,
            Err(status) => panic!("{status}: {}", fs::read_to_string(&log).unwrap_or_default()),
        };
        let machine = Machine { child, pid, log };
        eventually(DEADLINE, "a started system", || {
            machine.try_run("systemctl is-active machine.target dbus.socket").0 == Some(0)
        });
        Some(machine)
    }

    /// Runs a line of shell there as root: its exit code, and all it printed.
    fn try_run(&self, line: &str) -> (Option<i32>, String) {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid, "--all", "env", "-i", "PATH=/usr/sbin:/usr/bin", "sh", "-c", line]);
        let output = command.stdin(Stdio::null()).output().expect("nsenter");
        let texts = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        (output.status.code(), texts.concat())
    }

    #[track_caller]
    fn run(&self, line: &str) -> String {
        let (code, said) = self.try_run(line);
        assert_eq!(code, Some(0), "{line}: {said}\n{}", self.logs());
        said
    }

    fn logs(&self) -> String {
        let (_, services) = self.try_run("tail -n 20 /run/*.log");
        services + &fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The first process takes all others with it; then the script tidies up and ends.
        let pid = self.pid.parse().expect("a pid");
        // SAFETY: a plain system call; the process is ours, for the script that waits for it has not ended.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        if process::wait(&mut self.child, Duration::from_secs(20)).is_none() {
            let _ = self.child.kill();
        }
    }
}

/// The package as it would be unpacked, and what an administrator adds to it.
fn files(test: &Test, postgres: &Postgres) -> PathBuf {
    let files = test.path("files");
    let unpacked = Command::new("dpkg-deb").arg("-x").arg(package::package()).arg(&files).status();
    assert!(unpacked.expect("dpkg-deb").success());
    let put = |path: &str, text: &str| {
        let path = files.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    // The README's, with the servers of this test.
    let (host, brokers) = ("  host: localhost\n", "  brokers: localhost:9092\n  topic: orders\n");
    let first = systemd::first_pipeline();
    assert!(first.contains(host) && first.contains(brokers), "{first}");
    let topic = test.topic("orders");
    let first = first
        .replace(host, &format!("  host: 127.0.0.1\n  port: {}\n  tls_mode: disable\n", postgres.port))
        .replace(brokers, &format!("  brokers: {}\n  topic: {topic}\n", test.brokers));
    put("etc/headwater/orders.yml", &format!("pipeline: {}\n{first}", test.prefix));
    put("etc/headwater/credentials/orders/postgres_password", "sesame\n");
    put("etc/headwater/orders.env", "HEADWATER__HTTP__LISTEN=127.0.0.1:0\n");
    // One that knows no PostgreSQL and has no secrets, and one that is wrong.
    let landed = format!(
        "pipeline: {}-land\nkafka: {{brokers: '{}'}}\nland:\n  tables:\n    - {{topic: {}, path: lake, \
         checkpoint_location: checkpoints, schema_file: schemas/chat.json, date_column: timestamp}}\n\
         http: {{listen: null}}\n",
        test.prefix,
        test.brokers,
        test.topic("chat")
    );
    put("etc/headwater/land.yml", &landed);
    put("etc/headwater/wrong.yml", "kafka: {broker: here}\n");
    let log = "[Service]\nStandardOutput=append:/run/%i.log\nStandardError=inherit\n";
    put("etc/systemd/system/headwater@.service.d/log.conf", log);
    files
}

#[test]
fn systemd_runs_the_installed_package_as_the_readme_says() {
    let test = Test::new();
    let options = PostgresOptions { password: Some("of the superuser".to_owned()), ..PostgresOptions::default() };
    let server = PostgresServer::start(&test.path("postgres"), options).expect("PostgreSQL");
    let Some(machine) = Machine::start(&test, &files(&test, &server.config("shop"))) else {
        println!("not seen: the kernel gives us no namespaces or control groups to run systemd in");
        return;
    };
    Db::connect(&server.config("postgres")).execute("CREATE DATABASE shop");
    let db = Db::connect(&server.config("shop"));
    db.execute(
        "CREATE TABLE orders (
             order_id bigint PRIMARY KEY, amount numeric(10,2), created_at timestamptz NOT NULL DEFAULT now());
         INSERT INTO orders SELECT n, n, now() - interval '1 hour' FROM generate_series(1, 1000) n;
         CREATE ROLE headwater LOGIN PASSWORD 'sesame';
         GRANT SELECT ON orders TO headwater; GRANT pg_monitor TO headwater; CREATE INDEX ON orders (created_at)",
    );

    // Before the first start: doctor reads the credential, and judges what the service's user may write.
    let (code, said) = machine.try_run("headwater-as orders doctor");
    assert!(code == Some(0) && said.contains(" 0 failures"), "{code:?} {said}\n{}", machine.logs());
    machine.run("systemctl start headwater@orders");
    let user = machine.run("stat -c %u /proc/$(systemctl show --value -p MainPID headwater@orders)");
    let user: u32 = user.trim().parse().expect("a number");
    assert!((61_184..=65_519).contains(&user), "one that systemd gave it: {user}");
    // Beside the running service.
    eventually(DEADLINE, "every row in the lake", || {
        machine.try_run("headwater-as orders verify --strict").0 == Some(0)
    });
    assert!(machine.run("ls /var/lib/headwater/orders/lake").contains("date="));

    // What a command leaves behind is the service's own.
    machine.run("headwater-as orders backup --to backup");
    let state = "/var/lib/private/headwater/orders";
    assert_eq!(machine.run(&format!("find {state} ! -uid {user}")), "");
    assert!(machine.run(&format!("ls {state}")).contains("backup"));
    let (code, said) = machine.try_run("headwater-as orders dlq export --to /etc/dead.ndjson");
    assert!(
        code == Some(1) && said.contains("/etc/") && said.contains("read-only"),
        "it writes nowhere else: {code:?} {said}"
    );

    // Killed, it is there again; and goes on.
    db.execute("INSERT INTO orders VALUES (1001, 1, now())");
    machine.run("systemctl kill --signal=KILL headwater@orders");
    eventually(DEADLINE, "a restart", || {
        machine.run("systemctl show -p NRestarts,ActiveState headwater@orders") == "NRestarts=1\nActiveState=active\n"
    });
    eventually(DEADLINE, "every row in the lake", || {
        machine.try_run("headwater-as orders verify --strict").0 == Some(0)
    });
    machine.run("systemctl stop headwater@orders");
    machine.run("headwater-as orders verify --strict");

    // Without PostgreSQL, without secrets, beside another one.
    create_topic(&test.brokers, &test.topic("chat"), 1, &[]);
    machine.run("systemctl start headwater@land");
    // What cannot get better by another try is not tried again.
    let (code, _) = machine.try_run("systemctl start headwater@wrong");
    assert_eq!(code, Some(1));
    let ended = machine.run("systemctl show -p NRestarts,ExecMainStatus,ActiveState headwater@wrong");
    assert_eq!(ended, "NRestarts=0\nExecMainStatus=78\nActiveState=failed\n");
}
