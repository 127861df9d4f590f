//! A private PostgreSQL cluster.

use super::{Lifetime, PortLease, ServerError, file_error, lease_port, log_tail, process};
use crate::config::model::{Postgres, Secret, TlsMode};
use std::{
    fs::{self, File},
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// The server's `timezone`.
    pub timezone: String,
    /// Lines of `postgresql.conf`, which win over ours.
    pub settings: Vec<(String, String)>,
    /// Password of the superuser `postgres`, asked for by SCRAM; without one every client is trusted.
    pub password: Option<String>,
    pub tls: Option<PostgresTls>,
    /// Further environment of the server's processes: another clock, by libfaketime.
    pub environment: Vec<(String, String)>,
    pub lifetime: Lifetime,
}

/// PEM files of the server's certificate (with its chain) and key.
#[derive(Debug, Clone)]
pub struct PostgresTls {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        PostgresOptions {
            timezone: "UTC".to_owned(),
            settings: Vec::new(),
            password: None,
            tls: None,
            environment: Vec::new(),
            lifetime: Lifetime::default(),
        }
    }
}

/// A running (or stopped) cluster. Its superuser is `postgres`.
pub struct PostgresServer {
    directory: PathBuf,
    programs: PathBuf,
    account: Option<Account>,
    port: PortLease,
    options: PostgresOptions,
    child: Option<Child>,
}

/// Whom the server runs as when we are root.
#[derive(Debug, Clone, Copy)]
struct Account {
    user: u32,
    group: u32,
}

impl PostgresServer {
    /// Makes a cluster in `directory` (created, and removed on drop), starts it and waits until it answers.
    pub fn start(directory: &Path, options: PostgresOptions) -> Result<Self, ServerError> {
        let programs = find_programs().ok_or(ServerError::NoPostgres)?;
        let account = find_account()?;
        fs::create_dir_all(directory).map_err(file_error(directory))?;
        // Absolute, because the server is started with another working directory.
        let directory = directory.canonicalize().map_err(file_error(directory))?;
        let mut server = PostgresServer { directory, programs, account, port: lease_port()?, options, child: None };
        server.initialise()?;
        server.run()?;
        Ok(server)
    }

    pub fn port(&self) -> u16 {
        self.port.port()
    }

    /// Process id of the server while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn log(&self) -> PathBuf {
        self.directory.join("server.log")
    }

    /// How to reach `db` as the superuser.
    pub fn config(&self, db: &str) -> Postgres {
        Postgres {
            host: "127.0.0.1".to_owned(),
            port: self.port(),
            db: db.to_owned(),
            user: "postgres".to_owned(),
            password: self.options.password.clone().map(Secret::new),
            tls_mode: TlsMode::Disable,
            tls_ca_file: None,
            connect_timeout_ms: 10_000,
        }
    }

    /// Ends the server in good order: sessions are cut, a checkpoint is written.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::end(&mut child, libc::SIGINT, STOP_LIMIT);
        }
    }

    /// Ends the server as a crash would: nothing is written, the next start recovers from the log.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Immediate shutdown. SIGKILL to the postmaster alone would leave sessions behind for a
            // moment, and a start in that moment fails.
            process::end(&mut child, libc::SIGQUIT, STOP_LIMIT);
        }
    }

    /// Starts the stopped server again, with the same data on the same port; a running one is stopped first.
    pub fn restart(&mut self) -> Result<(), ServerError> {
        self.stop();
        self.run()
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(&self.directory).stdin(Stdio::null()).env_remove("PGDATA").env("LC_ALL", "C");
        if let Some(Account { user, group }) = self.account {
            command.uid(user).gid(group);
        }
        command
    }

    fn own(&self, path: &Path) -> Result<(), ServerError> {
        match self.account {
            Some(Account { user, group }) => chown(path, Some(user), Some(group)).map_err(file_error(path)),
            None => Ok(()),
        }
    }

    fn initialise(&self) -> Result<(), ServerError> {
        self.own(&self.directory)?;
        let mut initdb = self.command("initdb");
        initdb.args(["--username=postgres", "--encoding=UTF8", "--no-locale", "--no-sync", "--auth-local=trust"]);
        match &self.options.password {
            Some(password) => {
                let file = self.directory.join("password");
                fs::write(&file, password).map_err(file_error(&file))?;
                fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).map_err(file_error(&file))?;
                self.own(&file)?;
                initdb.arg("--auth-host=scram-sha-256").arg(format!("--pwfile={}", file.display()));
            }
            None => {
                initdb.arg("--auth-host=trust");
            }
        }
        let output = initdb
            .arg("-D")
            .arg(self.data())
            .output()
            .map_err(|source| ServerError::Spawn { program: "initdb", source })?;
        if !output.status.success() {
            let log = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(ServerError::Failed { program: "initdb", status: process::describe(output.status), log });
        }
        self.configure()
    }

    fn configure(&self) -> Result<(), ServerError> {
        let file = self.data().join("postgresql.conf");
        let mut settings: Vec<(String, String)> = [
            ("listen_addresses", "127.0.0.1"),
            ("max_connections", "200"),
            ("max_prepared_transactions", "50"),
            ("shared_buffers", "128MB"),
            ("max_wal_size", "4GB"),
            // Our crashes are those of processes, not of the machine: what was written is still there.
            ("fsync", "off"),
            ("log_timezone", "UTC"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        settings.push(("port".to_owned(), self.port().to_string()));
        settings.push(("unix_socket_directories".to_owned(), self.directory.display().to_string()));
        settings.push(("timezone".to_owned(), self.options.timezone.clone()));
        if let Some(tls) = &self.options.tls {
            settings.push(("ssl".to_owned(), "on".to_owned()));
            for (from, name, setting) in
                [(&tls.certificate, "server.crt", "ssl_cert_file"), (&tls.key, "server.key", "ssl_key_file")]
            {
                let to = self.data().join(name);
                fs::copy(from, &to).map_err(file_error(from))?;
                fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).map_err(file_error(&to))?;
                self.own(&to)?;
                settings.push((setting.to_owned(), name.to_owned()));
            }
        }
        settings.extend(self.options.settings.iter().cloned());
        let mut text = fs::read_to_string(&file).map_err(file_error(&file))?;
        for (name, value) in settings {
            text.push_str(&format!("\n{name} = '{}'", value.replace('\'', "''")));
        }
        text.push('\n');
        fs::write(&file, text).map_err(file_error(&file))
    }

    /// Starts the server in the foreground, as a child, and waits until it takes connections.
    fn run(&mut self) -> Result<(), ServerError> {
        let log = self.log();
        let open = || File::options().create(true).append(true).open(&log);
        let mut postgres = self.command("postgres");
        postgres
            .arg("-D")
            .arg(self.data())
            .envs(self.options.environment.iter().map(|(name, value)| (name, value)))
            .stdout(open().map_err(file_error(&log))?)
            .stderr(open().map_err(file_error(&log))?);
        let mut child = process::spawn(postgres, self.options.lifetime, libc::SIGQUIT)
            .map_err(|source| ServerError::Spawn { program: "postgres", source })?;
        let deadline = Instant::now() + START_LIMIT;
        let status_file = self.data().join("postmaster.pid");
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(ServerError::Failed {
                    program: "postgres",
                    status: process::describe(status),
                    log: log_tail(&log),
                });
            }
            if is_ready(&fs::read_to_string(&status_file).unwrap_or_default(), child.id()) {
                self.child = Some(child);
                return Ok(());
            }
            if Instant::now() > deadline {
                process::end(&mut child, libc::SIGQUIT, STOP_LIMIT);
                let seconds = START_LIMIT.as_secs();
                return Err(ServerError::Silent { program: "postgres", seconds, log: log_tail(&log) });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if self.options.lifetime == Lifetime::Outlives {
            return;
        }
        self.kill();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Whether `postmaster.pid` says that this very server takes connections: first line its process id,
/// eighth line its state, which is `standby` for one that recovers and can be read. The file of a crashed predecessor carries another id.
fn is_ready(status_file: &str, pid: u32) -> bool {
    let mut lines = status_file.lines();
    lines.next().and_then(|line| line.trim().parse().ok()) == Some(pid)
        && lines.nth(6).is_some_and(|state| matches!(state.trim(), "ready" | "standby"))
}

/// The directory of `initdb` and `postgres`: named by the environment, Debian's newest, or on the PATH.
fn find_programs() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("HEADWATER_PG_BIN") {
        return Some(PathBuf::from(named)).filter(|directory| directory.join("initdb").exists());
    }
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().filter_map(|entry| {
        let version: u32 = entry.file_name().to_str()?.parse().ok()?;
        let directory = entry.path().join("bin");
        directory.join("initdb").exists().then_some((version, directory))
    });
    let newest = debian.max_by_key(|(version, _)| *version).map(|(_, directory)| directory);
    newest.or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find_map(|directory| {
            // Links to single programs do not do: initdb looks for postgres beside itself.
            directory.join("initdb").canonicalize().ok()?.parent().map(Path::to_owned)
        })
    })
}

/// The account to run as: none unless we are root, which PostgreSQL refuses to run as.
fn find_account() -> Result<Option<Account>, ServerError> {
    // SAFETY: no arguments, cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    account_of(&passwd, "postgres").map(Some).ok_or(ServerError::NoPostgresUser)
}

fn account_of(passwd: &str, name: &str) -> Option<Account> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some(Account { user: fields.next()?.parse().ok()?, group: fields.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_server_counts_as_ready() {
        let file = "42\n/data\n1700000000\n20001\n/sock\n127.0.0.1\n  1 2\nready   \n";
        assert!(is_ready(file, 42));
        assert!(!is_ready(file, 43));
        assert!(is_ready(&file.replace("ready  ", "standby"), 42));
        assert!(!is_ready(&file.replace("ready", "starting"), 42));
        assert!(!is_ready("42\n/data\n", 42));
        assert!(!is_ready("", 42));
    }

    #[test]
    fn the_account_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgres2:x:7:8::/:/bin/sh\npostgres:x:101:104:,,,:/v:/bin/bash\n";
        let account = account_of(passwd, "postgres").unwrap();
        assert_eq!((account.user, account.group), (101, 104));
        assert!(account_of(passwd, "nobody").is_none());
    }
}
