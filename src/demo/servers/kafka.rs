//! A private Apache Kafka: one node, broker and controller in one (KRaft), from Maven's jars.

use super::{Lifetime, PortLease, ServerError, file_error, lease_port, log_tail, process};
use crate::config::model::Kafka;
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const START_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub struct KafkaOptions {
    /// Further plaintext listeners, each behind a proxy of the caller's.
    pub proxied: Vec<ProxiedListener>,
    pub sasl_ssl: Option<SaslSsl>,
    /// Lines of `server.properties`, which win over ours.
    pub properties: Vec<(String, String)>,
    /// Options of the Java machine.
    pub java_options: Vec<String>,
    pub lifetime: Lifetime,
}

/// The broker listens on one port and tells clients another one, that of a proxy.
#[derive(Debug, Clone, Copy)]
pub struct ProxiedListener {
    pub listen_port: u16,
    pub advertised_port: u16,
}

/// A listener with TLS and passwords (PLAIN, SCRAM-SHA-256, SCRAM-SHA-512).
#[derive(Debug, Clone)]
pub struct SaslSsl {
    /// PEM file: the key (PKCS #8, not encrypted) and then the certificate with its chain.
    pub keystore: PathBuf,
    /// Host name or address told to clients, which the certificate must match.
    pub advertised_host: String,
    /// User names with their passwords.
    pub users: Vec<(String, String)>,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        KafkaOptions {
            proxied: Vec::new(),
            sasl_ssl: None,
            properties: Vec::new(),
            // Quick to start and small, rather than fast in the long run.
            java_options: ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"].map(str::to_owned).into(),
            lifetime: Lifetime::default(),
        }
    }
}

/// A running (or stopped) broker. Topics are not created by use.
pub struct KafkaServer {
    directory: PathBuf,
    jars: PathBuf,
    port: PortLease,
    controller_port: PortLease,
    sasl_port: Option<PortLease>,
    options: KafkaOptions,
    child: Option<Child>,
}

impl KafkaServer {
    /// Formats storage in `directory` (created, and removed on drop), starts the broker and waits until
    /// it answers.
    pub fn start(directory: &Path, options: KafkaOptions) -> Result<Self, ServerError> {
        let jars = jars_directory();
        if !jars.is_dir() {
            return Err(ServerError::NoKafka(jars));
        }
        fs::create_dir_all(directory).map_err(file_error(directory))?;
        let directory = directory.canonicalize().map_err(file_error(directory))?;
        let sasl_port = options.sasl_ssl.as_ref().map(|_| lease_port()).transpose()?;
        let mut server = KafkaServer {
            directory,
            jars,
            port: lease_port()?,
            controller_port: lease_port()?,
            sasl_port,
            options,
            child: None,
        };
        let file = server.properties_file();
        fs::write(&file, server.properties()).map_err(file_error(&file))?;
        server.format()?;
        server.run()?;
        Ok(server)
    }

    /// `host:port` of the plaintext listener.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port.port())
    }

    /// `host:port` of the SASL_SSL listener.
    pub fn sasl_brokers(&self) -> Option<String> {
        let sasl = self.options.sasl_ssl.as_ref()?;
        Some(format!("{}:{}", sasl.advertised_host, self.sasl_port.as_ref()?.port()))
    }

    /// Process id of the broker while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn log(&self) -> PathBuf {
        self.directory.join("server.log")
    }

    /// How to reach the plaintext listener.
    pub fn config(&self) -> Kafka {
        Kafka::plaintext(self.brokers())
    }

    /// Ends the broker in good order.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::end(&mut child, libc::SIGTERM, STOP_LIMIT);
        }
    }

    /// Ends the broker at once, as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::end(&mut child, libc::SIGKILL, STOP_LIMIT);
        }
    }

    /// Starts the stopped broker again, with the same data on the same ports; a running one is stopped first.
    pub fn restart(&mut self) -> Result<(), ServerError> {
        self.stop();
        self.run()
    }

    fn properties_file(&self) -> PathBuf {
        self.directory.join("server.properties")
    }

    fn properties(&self) -> String {
        let port = self.port.port();
        let controller = self.controller_port.port();
        let mut listeners =
            vec![format!("PLAINTEXT://127.0.0.1:{port}"), format!("CONTROLLER://127.0.0.1:{controller}")];
        let mut advertised = vec![format!("PLAINTEXT://127.0.0.1:{port}")];
        let mut protocols = vec!["CONTROLLER:PLAINTEXT".to_owned(), "PLAINTEXT:PLAINTEXT".to_owned()];
        for (n, ProxiedListener { listen_port, advertised_port }) in self.options.proxied.iter().enumerate() {
            listeners.push(format!("PROXIED{n}://127.0.0.1:{listen_port}"));
            advertised.push(format!("PROXIED{n}://127.0.0.1:{advertised_port}"));
            protocols.push(format!("PROXIED{n}:PLAINTEXT"));
        }
        let mut sasl_lines = Vec::new();
        if let (Some(sasl), Some(lease)) = (&self.options.sasl_ssl, &self.sasl_port) {
            let port = lease.port();
            listeners.push(format!("SASLSSL://127.0.0.1:{port}"));
            advertised.push(format!("SASLSSL://{}:{port}", sasl.advertised_host));
            protocols.push("SASLSSL:SASL_SSL".to_owned());
            sasl_lines = sasl.properties();
        }
        let mut lines: Vec<(String, String)> = [
            ("process.roles", "broker,controller"),
            ("node.id", "1"),
            ("controller.listener.names", "CONTROLLER"),
            ("inter.broker.listener.name", "PLAINTEXT"),
            ("auto.create.topics.enable", "false"),
            ("offsets.topic.replication.factor", "1"),
            ("offsets.topic.num.partitions", "3"),
            ("transaction.state.log.replication.factor", "1"),
            ("transaction.state.log.min.isr", "1"),
            ("transaction.state.log.num.partitions", "3"),
            ("group.initial.rebalance.delay.ms", "0"),
            // A quarter of the heap by default, for topics that are small here.
            ("log.cleaner.dedupe.buffer.size", "16777216"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        lines.push(("controller.quorum.voters".to_owned(), format!("1@127.0.0.1:{controller}")));
        lines.push(("listeners".to_owned(), listeners.join(",")));
        lines.push(("advertised.listeners".to_owned(), advertised.join(",")));
        lines.push(("listener.security.protocol.map".to_owned(), protocols.join(",")));
        lines.push(("log.dirs".to_owned(), self.directory.join("data").display().to_string()));
        lines.extend(sasl_lines);
        lines.extend(self.options.properties.iter().cloned());
        lines.into_iter().map(|(name, value)| format!("{name}={}\n", value.replace('\\', "\\\\"))).collect()
    }

    fn java(&self, main_class: &str) -> Command {
        let mut command = Command::new("java");
        command
            .current_dir(&self.directory)
            .args(&self.options.java_options)
            .arg("-Dorg.slf4j.simpleLogger.showDateTime=true")
            .arg("-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS")
            .arg("-cp")
            .arg(self.jars.join("*"))
            .arg(main_class)
            .stdin(Stdio::null());
        command
    }

    fn format(&self) -> Result<(), ServerError> {
        let mut format = self.java("kafka.tools.StorageTool");
        // Any 16 bytes name the cluster.
        format.args(["format", "--cluster-id", "aGVhZHdhdGVyLWRlbW8tMQ", "--config"]).arg(self.properties_file());
        for (user, password) in self.options.sasl_ssl.iter().flat_map(|sasl| &sasl.users) {
            for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
                format.arg("--add-scram").arg(format!("{mechanism}=[name={user},password={password}]"));
            }
        }
        let output = format.output().map_err(|source| ServerError::Spawn { program: "java", source })?;
        if !output.status.success() {
            let mut log = String::from_utf8_lossy(&output.stdout).into_owned();
            log.push_str(&String::from_utf8_lossy(&output.stderr));
            let status = process::describe(output.status);
            return Err(ServerError::Failed { program: "Kafka's storage tool", status, log });
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), ServerError> {
        let log = self.log();
        let open = || File::options().create(true).append(true).open(&log);
        let mut broker = self.java("kafka.Kafka");
        broker
            .arg(self.properties_file())
            .stdout(open().map_err(file_error(&log))?)
            .stderr(open().map_err(file_error(&log))?);
        let mut child = process::spawn(broker, self.options.lifetime, libc::SIGKILL)
            .map_err(|source| ServerError::Spawn { program: "java", source })?;
        let deadline = Instant::now() + START_LIMIT;
        let address = SocketAddr::from(([127, 0, 0, 1], self.port.port()));
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                let status = process::describe(status);
                return Err(ServerError::Failed { program: "Kafka", status, log: log_tail(&log) });
            }
            if living_brokers(address).unwrap_or(0) > 0 {
                self.child = Some(child);
                return Ok(());
            }
            if Instant::now() > deadline {
                process::end(&mut child, libc::SIGKILL, STOP_LIMIT);
                let seconds = START_LIMIT.as_secs();
                return Err(ServerError::Silent { program: "Kafka", seconds, log: log_tail(&log) });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for KafkaServer {
    fn drop(&mut self) {
        if self.options.lifetime == Lifetime::Outlives {
            return;
        }
        self.kill();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl SaslSsl {
    fn properties(&self) -> Vec<(String, String)> {
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let users: String =
            self.users.iter().map(|(user, password)| format!(" user_{user}=\"{}\"", quoted(password))).collect();
        let login = "org.apache.kafka.common.security";
        let listener = "listener.name.saslssl";
        vec![
            (format!("{listener}.ssl.keystore.type"), "PEM".to_owned()),
            (format!("{listener}.ssl.keystore.location"), self.keystore.display().to_string()),
            (format!("{listener}.sasl.enabled.mechanisms"), "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512".to_owned()),
            (format!("{listener}.plain.sasl.jaas.config"), format!("{login}.plain.PlainLoginModule required{users};")),
            (format!("{listener}.scram-sha-256.sasl.jaas.config"), format!("{login}.scram.ScramLoginModule required;")),
            (format!("{listener}.scram-sha-512.sasl.jaas.config"), format!("{login}.scram.ScramLoginModule required;")),
        ]
    }
}

/// Where the jars are, or would be after `scripts/setup.sh`.
fn jars_directory() -> PathBuf {
    if let Some(named) = std::env::var_os("HEADWATER_KAFKA_LIBS") {
        return PathBuf::from(named);
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    cache.unwrap_or_else(home).join("headwater/kafka-4.1.0/libs")
}

/// Asks a broker for metadata of no topic: how many brokers it knows to be alive. A starting broker
/// takes the connection already, answers late, and counts itself only once it does its work.
fn living_brokers(address: SocketAddr) -> io::Result<u32> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    // Length, api key 3 (metadata), version 1, correlation 0, no client id, an empty list of topics.
    let request: [u8; 18] = [0, 0, 0, 14, 0, 3, 0, 1, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
    stream.write_all(&request)?;
    // Length, correlation, number of brokers.
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    Ok(u32::from_be_bytes([answer[8], answer[9], answer[10], answer[11]]))
}
