//! What every test stands on: real servers shared by the whole run, and for each test a database, a
//! topic prefix and a directory of its own.
//!
//! Tests are plain `#[test]` functions. They wait on conditions with a deadline ([`eventually`]), never
//! for a fixed time.

pub mod kafka;
pub mod lake;
pub mod postgres;
pub mod proxy;
pub mod run;

pub use postgres::Db;
pub use proxy::Proxy;
pub use run::Run;

use headwater::{
    config::model::Postgres,
    demo::servers::{KafkaOptions, PortLease, PostgresOptions, ProxiedListener, Scratch, Servers, lease_port},
};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Condvar, Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// Long enough for a slow machine; no passing test waits that long.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A limit that stretches with what else the machine has to do: it holds for a machine that does nothing else.
pub struct Patience {
    begun: Instant,
    limit: Duration,
}

impl Patience {
    pub fn new(limit: Duration) -> Self {
        Patience { begun: Instant::now(), limit }
    }

    /// What is left until it is worth looking again; none where the limit is over.
    pub fn left(&self) -> Option<Duration> {
        let elapsed = self.begun.elapsed();
        self.limit.checked_sub(elapsed).or_else(|| self.limit.mul_f64(crowd()).checked_sub(elapsed))
    }

    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Fails the test where the limit is over.
    #[track_caller]
    pub fn assert_in_time(&self) {
        assert!(self.left().is_some(), "{:?} instead of {:?}", self.begun.elapsed(), self.limit);
    }
}

/// How many threads want each core, from 1 on a quiet machine to 8.
fn crowd() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let runnable: f64 = text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(1.0);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (runnable / cores as f64).clamp(1.0, 8.0)
}

/// Polls `condition` until it holds. Fails the test after `limit`, naming `what` never came.
#[track_caller]
pub fn eventually(limit: Duration, what: &str, condition: impl FnMut() -> bool) {
    let mut condition = condition;
    eventually_some(limit, what, || condition().then_some(()));
}

/// Polls `probe` until it gives something.
#[track_caller]
pub fn eventually_some<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let patience = Patience::new(limit);
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(patience.left().is_some(), "waited {:?} in vain: {what}", patience.begun.elapsed());
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Runs a future to its end, on a runtime that the whole test run shares.
pub fn block_on<F: Future>(future: F) -> F::Output {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().expect("a runtime")).block_on(future)
}

/// The servers of this run. Never dropped, for it is a static: [`end_shared`] ends them at exit.
struct Shared {
    held: Mutex<Option<(Servers, Vec<PortLease>)>>,
    postgres: Postgres,
    brokers: String,
    proxies: Mutex<Vec<Proxy>>,
    proxy_returned: Condvar,
}

static SHARED: OnceLock<Shared> = OnceLock::new();
const PROXIED_LISTENERS: usize = 3;

fn shared() -> &'static Shared {
    SHARED.get_or_init(|| {
        let mut leases = Vec::new();
        let mut proxies = Vec::new();
        let mut kafka = KafkaOptions::default();
        for _ in 0..PROXIED_LISTENERS {
            let lease = lease_port().expect("a free port");
            let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], lease.port())));
            kafka.proxied.push(ProxiedListener { listen_port: lease.port(), advertised_port: proxy.port() });
            leases.push(lease);
            proxies.push(proxy);
        }
        let servers = Servers::start(run_directory(), PostgresOptions::default(), kafka).expect("the servers");
        // SAFETY: the handler is a plain function that lives as long as the program.
        unsafe { libc::atexit(end_shared) };
        Shared {
            postgres: servers.postgres.config("postgres"),
            brokers: servers.kafka.brokers(),
            proxies: Mutex::new(proxies),
            proxy_returned: Condvar::new(),
            held: Mutex::new(Some((servers, leases))),
        }
    })
}

/// The directory of this run, which holds those of its servers and tests.
pub fn run_directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let scratch = Scratch::new("test").expect("a directory for the run");
        let path = scratch.path().to_owned();
        SCRATCH.lock().expect("nobody else").replace(scratch);
        // SAFETY: the handler is a plain function that lives as long as the program.
        unsafe { libc::atexit(end_scratch) };
        path
    })
}

static SCRATCH: Mutex<Option<Scratch>> = Mutex::new(None);

extern "C" fn end_scratch() {
    SCRATCH.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
}

extern "C" fn end_shared() {
    if let Some(shared) = SHARED.get() {
        shared.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
    }
}

/// A test's own corner of the shared servers: database, topic prefix, directory.
pub struct Test {
    /// For topics, consumer groups, transactional ids.
    pub prefix: String,
    pub postgres: Postgres,
    pub brokers: String,
    directory: PathBuf,
}

impl Test {
    /// Named after the running test.
    pub fn new() -> Self {
        let shared = shared();
        let mut test = Test::named(shared.postgres.clone(), shared.brokers.clone());
        let database = test.prefix.replace('-', "_");
        let owner = Db::connect(&shared.postgres);
        owner.execute(&format!("CREATE DATABASE {database}"));
        test.postgres.db = database;
        test
    }

    /// On servers of its own (which a test may stop and kill), in the database `postgres`.
    pub fn on(servers: &Servers) -> Self {
        Test::named(servers.postgres.config("postgres"), servers.kafka.brokers())
    }

    fn named(postgres: Postgres, brokers: String) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let thread = std::thread::current();
        let test = thread.name().and_then(|name| name.rsplit("::").next()).unwrap_or("test").to_owned();
        let short: String = test.replace('_', "-").chars().take(40).collect();
        let prefix = format!("t{}-{short}", NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = run_directory().join(&prefix);
        std::fs::create_dir_all(&directory).expect("the test's directory");
        Test { prefix, postgres, brokers, directory }
    }

    /// The test's directory: configuration, lake, logs.
    pub fn dir(&self) -> &Path {
        &self.directory
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn topic(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    pub fn db(&self) -> Db {
        Db::connect(&self.postgres)
    }

    /// Writes `text` as `name` in the test's directory.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("the file");
        path
    }

    /// The short form, as in the contract, for one table: lake in `lake/`, progress in `checkpoints/`.
    /// The pipeline is named after the test, so that tests on one broker do not fence each other.
    pub fn short_form(&self, table: &str, topic: &str) -> String {
        let Postgres { host, port, db, user, .. } = &self.postgres;
        let (brokers, dir) = (&self.brokers, self.directory.display());
        format!(
            "pipeline: {}\npostgres:\n  jdbc_url: \"jdbc:postgresql://{host}:{port}/{db}\"\n  host: {host}\n  port: {port}\n  db: \"{db}\"\n  \
             user: \"{user}\"\n  password: \"unused\"\n  table: \"{table}\"\n\
             kafka:\n  brokers: \"{brokers}\"\n  topic: \"{topic}\"\n\
             datalake:\n  path: \"{dir}/lake\"\n  format: \"parquet\"\n\
             streaming:\n  checkpoint_location: \"{dir}/checkpoints\"\n  \
             last_processed_timestamp_location: \"{dir}/lastprocess\"\n  batch_interval: 1\n\
             http:\n  listen: \"127.0.0.1:0\"\n",
            self.prefix
        )
    }

    /// A proxy before the shared broker, for this test alone until dropped; waits for a free one.
    pub fn kafka_proxy(&self) -> KafkaProxy {
        let shared = shared();
        let mut proxies = shared.proxies.lock().expect("the proxies");
        loop {
            match proxies.pop() {
                Some(proxy) => return KafkaProxy(Some(proxy)),
                None => proxies = shared.proxy_returned.wait(proxies).expect("the proxies"),
            }
        }
    }

    /// A proxy before PostgreSQL.
    pub fn postgres_proxy(&self) -> Proxy {
        Proxy::start(SocketAddr::from(([127, 0, 0, 1], self.postgres.port)))
    }
}

impl Drop for Test {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A [`Proxy`] whose port the shared broker advertises; given back, restored, when dropped.
pub struct KafkaProxy(Option<Proxy>);

impl std::ops::Deref for KafkaProxy {
    type Target = Proxy;
    fn deref(&self) -> &Proxy {
        self.0.as_ref().expect("held until dropped")
    }
}

impl Drop for KafkaProxy {
    fn drop(&mut self) {
        let Some(proxy) = self.0.take() else { return };
        proxy.restore();
        proxy.cut();
        shared().proxies.lock().expect("the proxies").push(proxy);
        shared().proxy_returned.notify_one();
    }
}

/// Servers of a test's own, in a directory that goes with them.
pub struct PrivateServers {
    pub servers: Servers,
    _scratch: Scratch,
}

impl PrivateServers {
    pub fn start(postgres: PostgresOptions, kafka: KafkaOptions) -> Self {
        let scratch = Scratch::new("own").expect("a directory");
        let servers = Servers::start(scratch.path(), postgres, kafka).expect("the servers");
        PrivateServers { servers, _scratch: scratch }
    }
}
