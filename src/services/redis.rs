//! The link to a server that speaks Redis's protocol: one for each set of settings, whoever uses it. It connects when it
//! is needed, and again when it has to; while the server is away, questions fail within their time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use ::redis::cluster::ClusterClientBuilder;
use ::redis::cluster_async::ClusterConnection;
use ::redis::{Client, Cmd, ConnectionInfo, IntoConnectionInfo as _, Pipeline, RedisError, RedisFuture, ScriptInvocation, Value, cmd};
use prometheus::IntGauge;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};

use super::data::{self, DataError};
use crate::config::Secret;
use crate::config::state::Redis as Settings;
use crate::telemetry::Telemetry;

/// How often the server is asked whether it is there.
const PROBE: Duration = Duration::from_secs(2);

/// The same while it is away.
const PROBE_AWAY: Duration = Duration::from_millis(250);

/// It cannot be asked, or has answered with an error.
#[derive(Clone, Debug, thiserror::Error)]
#[error("Redis: {0}")]
pub struct Unavailable(String);

/// A link to a server, or to a cluster.
pub struct Redis {
    shown: String,
    prefix: String,
    timeout: Duration,
    link: Link,
    /// Where its connections live: it outlives every request.
    background: Handle,
    up: AtomicBool,
    /// What went wrong when it went away.
    last: parking_lot::Mutex<String>,
    /// Counts its returns.
    returns: watch::Sender<u64>,
    gauge: IntGauge,
}

enum Link {
    Single { client: Client, config: Box<ConnectionManagerConfig>, connection: parking_lot::Mutex<ConnectionManager> },
    Cluster { client: Box<::redis::cluster::ClusterClient>, connection: Mutex<Option<ClusterConnection>> },
}

/// A connection of either kind.
enum Connection {
    Single(ConnectionManager),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(command),
            Self::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(&'a mut self, commands: &'a Pipeline, offset: usize, count: usize) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(commands, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(commands, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// What the name of a key begins with whose parts belong on one node of a cluster.
pub fn tagged(prefix: &str, parts: &[&str]) -> String {
    let mut tag = format!("{{{prefix}");
    for part in parts {
        tag.push(':');
        escape(part, &mut tag);
    }
    tag.push('}');
    tag
}

/// Without colons and braces, which have a meaning.
pub fn escape(part: &str, into: &mut String) {
    for character in part.chars() {
        match character {
            '{' => into.push_str("%7b"),
            '}' => into.push_str("%7d"),
            ':' => into.push_str("%3a"),
            '%' => into.push_str("%25"),
            other => into.push(other),
        }
    }
}

/// The password that the settings' file has, without the end of its line.
pub fn password(settings: &Settings) -> Result<Option<Secret>, DataError> {
    let Some(path) = &settings.password_file else { return Ok(None) };
    let mut bytes = data::bytes(path)?;
    while bytes.last().is_some_and(u8::is_ascii_whitespace) {
        bytes.pop();
    }
    if std::str::from_utf8(&bytes).is_err() {
        return Err(DataError::content(path, "the password is not UTF-8"));
    }
    Ok(Some(Secret::new(bytes)))
}

/// Where the servers are, and who asks.
pub fn nodes(settings: &Settings, password: Option<&Secret>) -> Result<Vec<ConnectionInfo>, DataError> {
    let fail = |error| unusable(settings, &error);
    let text = |secret: &Secret| String::from_utf8_lossy(secret.as_ref()).into_owned();
    let nodes = settings.urls.iter().map(|url| {
        let info: ConnectionInfo = text(url).as_str().into_connection_info().map_err(fail)?;
        Ok(match password {
            Some(password) => {
                let redis = info.redis_settings().clone().set_password(text(password));
                info.set_redis_settings(redis)
            }
            None => info,
        })
    });
    nodes.collect()
}

fn unusable(settings: &Settings, error: &RedisError) -> DataError {
    let hint = "a user or a password with / # ? @ : in it is percent-encoded; password_file takes it as it is";
    DataError::Setting(format!("redis.url {}: {error}\n  hint: {hint}", settings.shown))
}

impl Redis {
    /// Nothing is connected yet.
    pub fn new(settings: &Settings, password: Option<&Secret>, background: &Handle, telemetry: &Telemetry) -> Result<Arc<Self>, DataError> {
        let fail = |error| unusable(settings, &error);
        let nodes = nodes(settings, password)?;
        let link = match nodes.as_slice() {
            [node] if !settings.cluster => {
                let client = Client::open(node.clone()).map_err(fail)?;
                let config = ConnectionManagerConfig::new()
                    .set_number_of_retries(1)
                    .set_min_delay(Duration::from_millis(50))
                    .set_max_delay(Duration::from_millis(500))
                    .set_connection_timeout(Some(settings.timeout))
                    .set_response_timeout(Some(settings.timeout));
                let _within = background.enter();
                let connection = ConnectionManager::new_lazy_with_config(client.clone(), config.clone()).map_err(fail)?;
                Link::Single { client, config: Box::new(config), connection: parking_lot::Mutex::new(connection) }
            }
            _ => {
                let builder = ClusterClientBuilder::new(nodes)
                    .retries(2)
                    .connection_timeout(settings.timeout)
                    .response_timeout(settings.timeout)
                    .overall_response_timeout(Some(settings.timeout));
                Link::Cluster { client: Box::new(builder.build().map_err(fail)?), connection: Mutex::new(None) }
            }
        };
        let redis = Arc::new(Self {
            shown: settings.shown.clone(),
            prefix: settings.prefix.clone(),
            timeout: settings.timeout,
            link,
            background: background.clone(),
            up: AtomicBool::new(true),
            last: parking_lot::Mutex::default(),
            returns: watch::Sender::new(0),
            gauge: telemetry.metrics.state_up.with_label_values(&["redis"]),
        });
        redis.gauge.set(1);
        let probed = Arc::downgrade(&redis);
        background.spawn(async move {
            // Until nobody uses it.
            while let Some(redis) = probed.upgrade() {
                let well = redis.ask(cmd("PING")).await;
                if well.is_err() {
                    redis.connect_anew().await;
                }
                redis.note(well.err());
                let pause = if redis.is_up() { PROBE } else { PROBE_AWAY };
                drop(redis);
                tokio::time::sleep(pause).await;
            }
        });
        Ok(redis)
    }

    /// What the names of all keys begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Where it is, without what must not be shown.
    pub fn place(&self) -> &str {
        &self.shown
    }

    /// What went wrong when it was last lost.
    pub fn loss(&self) -> String {
        self.last.lock().clone()
    }

    /// Tells when it is there again after it was away.
    pub fn returns(&self) -> watch::Receiver<u64> {
        self.returns.subscribe()
    }

    /// Whether the server was there when it was last asked.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    fn note(&self, error: Option<Unavailable>) {
        let well = error.is_none();
        if self.up.swap(well, Ordering::Relaxed) == well {
            return;
        }
        self.gauge.set(well.into());
        match error {
            Some(error) => {
                tracing::error!(target: "sidelight::state", place = self.shown, %error, "shared state cannot be used");
                *self.last.lock() = error.to_string();
            }
            None => {
                tracing::info!(target: "sidelight::state", place = self.shown, "shared state can be used again");
                self.returns.send_modify(|returns| *returns += 1);
            }
        }
    }

    async fn connection(&self) -> Result<Connection, RedisError> {
        match &self.link {
            Link::Single { connection, .. } => Ok(Connection::Single(connection.lock().clone())),
            Link::Cluster { client, connection } => {
                let mut slot = connection.lock().await;
                if let Some(connection) = &*slot {
                    return Ok(Connection::Cluster(connection.clone()));
                }
                let new = client.get_async_connection().await?;
                *slot = Some(new.clone());
                Ok(Connection::Cluster(new))
            }
        }
    }

    /// What is asked from now on is asked on a connection of its own. One that is silent need not be lost: what is between it and the server may
    /// have forgotten it, or an answer may have no end. What has been asked on it may still be answered.
    async fn connect_anew(&self) {
        match &self.link {
            Link::Single { client, config, connection } => {
                match ConnectionManager::new_lazy_with_config(client.clone(), (**config).clone()) {
                    Ok(new) => *connection.lock() = new,
                    Err(error) => tracing::debug!(target: "sidelight::state", place = self.shown, %error, "no new connection"),
                }
            }
            Link::Cluster { connection, .. } => *connection.lock().await = None,
        }
    }

    async fn bounded<T>(&self, work: impl Future<Output = Result<T, RedisError>>) -> Result<T, Unavailable> {
        // Connecting and asking, each within its time.
        match tokio::time::timeout(self.timeout * 2, work).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                // One slow answer is no reason to fail all others: whether it is away then, the next probe finds out.
                let away = error.is_io_error() && !error.is_timeout();
                let unavailable = Unavailable(error.to_string());
                if away {
                    self.note(Some(unavailable.clone()));
                }
                Err(unavailable)
            }
            Err(_) => Err(Unavailable(format!("no answer within {:?}", self.timeout * 2))),
        }
    }

    /// While it is away nobody waits to find that out: requests would pile up behind it.
    fn there(&self) -> Result<(), Unavailable> {
        if self.is_up() { Ok(()) } else { Err(Unavailable(format!("{} is away", self.shown))) }
    }

    async fn ask(&self, command: Cmd) -> Result<Value, Unavailable> {
        self.bounded(async { self.connection().await?.req_packed_command(&command).await?.extract_error() }).await
    }

    /// Asks something.
    pub async fn command(self: &Arc<Self>, command: Cmd) -> Result<Value, Unavailable> {
        self.there()?;
        let redis = self.clone();
        self.elsewhere(async move { redis.ask(command).await }).await
    }

    /// Runs a script; one round trip, once the server knows it.
    pub async fn script(self: &Arc<Self>, call: ScriptInvocation<'static>) -> Result<Value, Unavailable> {
        self.there()?;
        let redis = self.clone();
        let work = async move {
            let asked = async {
                let mut connection = redis.connection().await?;
                call.invoke_async(&mut connection).await
            };
            redis.bounded(asked).await
        };
        self.elsewhere(work).await
    }

    /// Several commands in one round trip.
    pub async fn pipeline(self: &Arc<Self>, commands: Pipeline) -> Result<Vec<Value>, Unavailable> {
        self.there()?;
        let redis = self.clone();
        let work = async move {
            let asked = async { commands.query_async(&mut redis.connection().await?).await };
            redis.bounded(asked).await
        };
        self.elsewhere(work).await
    }

    /// Connections belong to the runtime that they are made in; a request's may be busy, or gone.
    async fn elsewhere<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Unavailable>> + Send + 'static,
    ) -> Result<T, Unavailable> {
        self.background.spawn(work).await.unwrap_or_else(|error| Err(Unavailable(error.to_string())))
    }
}

#[cfg(test)]
pub mod testing {
    //! Servers for tests: real ones, on a free port, ended with the test.

    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A server.
    pub struct Server {
        child: Child,
        _folder: tempfile::TempDir,
        /// Its URL.
        pub url: String,
    }

    impl Drop for Server {
        fn drop(&mut self) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }

    impl Server {
        /// Starts one; `cluster`: as the only node of a cluster.
        pub fn start(cluster: bool) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            // The bus of a cluster is 10000 above its port.
            let port = loop {
                let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
                if port < 55_000 {
                    break port;
                }
            };
            let mut command = Command::new("redis-server");
            command
                .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
                .arg(folder.path());
            if cluster {
                command.args(["--cluster-enabled", "yes"]);
            }
            let child = command.stdout(Stdio::null()).spawn();
            let child = child.expect("redis-server has to be installed (Debian: redis-server)");
            let server = Self { child, _folder: folder, url: format!("redis://127.0.0.1:{port}") };
            let deadline = crate::telemetry::clock::now() + Duration::from_secs(20);
            let mut connection = loop {
                match Client::open(server.url.as_str()).and_then(|client| client.get_connection()) {
                    Ok(connection) => break connection,
                    Err(error) => assert!(crate::telemetry::clock::now() < deadline, "{error}"),
                }
                std::thread::sleep(Duration::from_millis(20));
            };
            if cluster {
                cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(0).arg(16383).exec(&mut connection).expect("takes all slots");
                while !cmd("CLUSTER").arg("INFO").query::<String>(&mut connection).expect("asks").contains("cluster_state:ok") {
                    assert!(crate::telemetry::clock::now() < deadline, "no cluster");
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            server
        }

        /// A link to it.
        pub fn link(&self, cluster: bool) -> Arc<Redis> {
            let settings = Settings { cluster, ..Settings::parse(&self.url).expect("a URL") };
            Redis::new(&settings, None, &Handle::current(), &Telemetry::new()).expect("a link")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::AtomicUsize;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::testing::Server;
    use super::*;

    /// Something between a link and its server. It can forget the connections it has, without a word to either side.
    #[derive(Default)]
    struct Between {
        connections: AtomicUsize,
        forgotten: AtomicUsize,
    }

    impl Between {
        async fn start(server: SocketAddr) -> (Arc<Self>, SocketAddr) {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let between = Arc::new(Self::default());
            let here = between.clone();
            tokio::spawn(async move {
                while let Ok((client, _)) = listener.accept().await {
                    let index = here.connections.fetch_add(1, Ordering::Relaxed);
                    let Ok(server) = TcpStream::connect(server).await else { continue };
                    let ((client_reads, client_writes), (server_reads, server_writes)) = (client.into_split(), server.into_split());
                    for (mut from, mut to) in [(client_reads, server_writes), (server_reads, client_writes)] {
                        let here = here.clone();
                        tokio::spawn(async move {
                            let mut piece = [0; 4096];
                            while let Ok(read @ 1..) = from.read(&mut piece).await {
                                if index >= here.forgotten.load(Ordering::Relaxed) && to.write_all(&piece[..read]).await.is_err() {
                                    return;
                                }
                            }
                        });
                    }
                }
            });
            (between, address)
        }

        fn forget(&self) {
            self.forgotten.store(self.connections.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_connection_that_is_forgotten_is_made_anew() {
        for cluster in [false, true] {
            let server = Server::start(cluster);
            let address: SocketAddr = server.url.trim_start_matches("redis://").parse().expect("an address");
            let (between, address) = Between::start(address).await;
            if cluster {
                // Nodes of a cluster say where they are.
                let client = Client::open(server.url.as_str()).expect("a URL");
                let mut connection = client.get_multiplexed_async_connection().await.expect("connects");
                for (name, value) in
                    [("cluster-announce-ip", "127.0.0.1".to_owned()), ("cluster-announce-port", address.port().to_string())]
                {
                    let _: () = cmd("CONFIG").arg("SET").arg(name).arg(value).query_async(&mut connection).await.expect("is set");
                }
            }
            let settings =
                Settings { cluster, timeout: Duration::from_millis(300), ..Settings::parse(&format!("redis://{address}")).expect("a URL") };
            let link = Redis::new(&settings, None, &Handle::current(), &Telemetry::new()).expect("a link");
            let ask = || link.command(cmd("INCR").arg("x").clone());
            ask().await.expect("answers");
            let before = between.connections.load(Ordering::Relaxed);
            between.forget();
            ask().await.expect_err("nobody answers");
            let deadline = crate::telemetry::clock::now() + Duration::from_secs(30);
            while ask().await.is_err() {
                assert!(crate::telemetry::clock::now() < deadline, "cluster: {cluster}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(before > 0 && between.connections.load(Ordering::Relaxed) > before);
        }
    }
}
