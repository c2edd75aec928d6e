//! Purges reach all replicas: each writes its own into a log that all read (a stream of Redis, `docs/decisions/0008-cache.md`).
//! Who was away reads on from where it was; who was away for longer than the log goes back forgets everything.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ::redis::streams::{StreamRangeReply, StreamReadReply};
use ::redis::{FromRedisValue, cmd};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::key::Key;
use super::store::Store;
use super::{Cache, Purge};
use crate::services::redis::{Redis, Unavailable, tagged};
use crate::telemetry::clock;

/// How often the log is read.
const EVERY: Duration = Duration::from_millis(100);

/// About how many purges it goes back.
const LENGTH: usize = 100_000;

/// Purges read at once.
const BATCH: usize = 1000;

/// The log of purges, for all services of the process.
pub struct Fanout {
    redis: Arc<Redis>,
    log: String,
    /// Tells its own purges, which have been done.
    me: String,
    /// When it began.
    since: Instant,
}

impl std::fmt::Debug for Fanout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fanout").field("log", &self.log).finish_non_exhaustive()
    }
}

impl Fanout {
    /// Follows the log as long as somebody has this.
    pub fn start(redis: Arc<Redis>, store: &Arc<Store>, background: &Handle) -> Arc<Self> {
        let log = format!("{}:purges", tagged(redis.prefix(), &["cache"]));
        let fanout = Arc::new(Self { redis, log, me: Uuid::new_v4().to_string(), since: clock::now() });
        background.spawn(follow(Arc::downgrade(&fanout), Arc::downgrade(store)));
        fanout
    }

    /// Tells the others.
    pub async fn publish(&self, service: &str, purge: &Purge) -> Result<(), Unavailable> {
        let (kind, name, soft) = match purge {
            Purge::Key { key, soft } => ("key", key.clone(), *soft),
            Purge::Entry { key, soft } => ("entry", key.hex(), *soft),
            Purge::All => ("all", String::new(), false),
        };
        let mut add = cmd("XADD");
        add.arg(&self.log).arg("MAXLEN").arg("~").arg(LENGTH).arg("*");
        add.arg("o").arg(&self.me).arg("s").arg(service).arg("k").arg(kind).arg("n").arg(name).arg("f").arg(u8::from(soft));
        self.redis.command(add).await.map(drop)
    }

    /// What the log's next entry would have been called when this began: by its own clock, and a little before.
    async fn beginning(&self) -> Result<String, Unavailable> {
        let time = self.redis.command(cmd("TIME")).await?;
        let (seconds, micros) = <(u64, u64)>::from_redis_value(time).unwrap_or_default();
        let now = Duration::from_secs(seconds) + Duration::from_micros(micros);
        let since = clock::now().saturating_duration_since(self.since) + Duration::from_secs(1);
        Ok(format!("{}-0", now.saturating_sub(since).as_millis()))
    }

    async fn oldest(&self) -> Result<Option<String>, Unavailable> {
        let mut range = cmd("XRANGE");
        range.arg(&self.log).arg("-").arg("+").arg("COUNT").arg(1);
        let reply = self.redis.command(range).await?;
        let reply = StreamRangeReply::from_redis_value(reply).unwrap_or_default();
        Ok(reply.ids.into_iter().next().map(|entry| entry.id))
    }

    /// Where to read on from. Objects may be here from before: then from where they were left.
    async fn position(&self, store: &Store) -> Result<String, Unavailable> {
        let Some(kept) = store.position() else { return self.beginning().await };
        let gap = self.oldest().await?.is_some_and(|oldest| is_before(&kept, &oldest));
        if gap {
            tracing::warn!(target: "sidelight::cache", "purges have been missed: everything is forgotten");
            store.forget_everything();
        }
        Ok(kept)
    }

    async fn read(&self, from: &str) -> Result<Vec<(String, HashMap<String, String>)>, Unavailable> {
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(BATCH).arg("STREAMS").arg(&self.log).arg(from);
        let reply = self.redis.command(read).await?;
        let reply: Option<StreamReadReply> = FromRedisValue::from_redis_value(reply).unwrap_or_default();
        let entries = reply.unwrap_or_default().keys.into_iter().flat_map(|stream| stream.ids);
        let text = |value| String::from_redis_value(value).ok();
        Ok(entries
            .map(|entry| (entry.id, entry.map.into_iter().filter_map(|(name, value)| Some((name, text(value)?))).collect()))
            .collect())
    }
}

/// Whether an entry of a stream was before another.
fn is_before(one: &str, other: &str) -> bool {
    let parts = |id: &str| {
        let (time, count) = id.split_once('-').unwrap_or((id, "0"));
        (time.parse::<u64>().unwrap_or(0), count.parse::<u64>().unwrap_or(0))
    };
    parts(one) < parts(other)
}

async fn follow(fanout: Weak<Fanout>, store: Weak<Store>) {
    let mut position = None;
    loop {
        tokio::time::sleep(EVERY).await;
        let (Some(fanout), Some(store)) = (fanout.upgrade(), store.upgrade()) else { return };
        let Some(from) = position.clone() else {
            // While Redis is away, the log has nothing new.
            position = fanout.position(&store).await.ok();
            continue;
        };
        loop {
            let from = position.clone().unwrap_or_else(|| from.clone());
            let Ok(entries) = fanout.read(&from).await else { break };
            let Some((last, _)) = entries.last() else { break };
            let (last, full) = (last.clone(), entries.len() == BATCH);
            for (_, entry) in entries {
                if entry.get("o") != Some(&fanout.me) {
                    apply(&store, &entry);
                }
            }
            store.set_position(&last);
            position = Some(last);
            if !full {
                break;
            }
        }
    }
}

fn apply(store: &Arc<Store>, entry: &HashMap<String, String>) {
    let field = |name: &str| entry.get(name).map_or("", String::as_str);
    let soft = field("f") == "1";
    let purge = match field("k") {
        "key" => Purge::Key { key: field("n").to_owned(), soft },
        "all" => Purge::All,
        "entry" => match Key::from_hex(field("n")) {
            Some(key) => Purge::Entry { key, soft },
            None => return,
        },
        // Of a later version.
        _ => return,
    };
    let objects = Cache::new(store, field("s")).apply(&purge);
    tracing::debug!(target: "sidelight::cache", service = field("s"), ?purge, objects, "purged elsewhere");
}

#[cfg(test)]
mod tests {
    use ::http::HeaderMap;
    use bytes::Bytes;

    use super::super::tests::eventually;
    use super::super::{Face, Limits, SurrogateKeys, WriteOptions};
    use super::*;
    use crate::services::redis::testing::Server;
    use crate::telemetry::Telemetry;

    async fn insert(cache: &Cache, key: &str) {
        let options = WriteOptions {
            max_age: Duration::from_secs(100),
            surrogate_keys: SurrogateKeys::parse(key.as_bytes()),
            ..WriteOptions::default()
        };
        let (mut writer, _) = cache.insert(cache.key(Face::Core, key.as_bytes()), &HeaderMap::new(), key.into(), options).expect("begins");
        writer.write(Bytes::from_static(b"x")).await.expect("is taken");
        writer.finish().await.expect("is taken");
    }

    fn is_there(cache: &Cache, key: &str) -> bool {
        cache.lookup(&cache.key(Face::Core, key.as_bytes()), &HeaderMap::new()).is_some()
    }

    #[tokio::test]
    async fn a_purge_reaches_the_others() {
        let server = Server::start(false);
        let replica = || {
            let store = Store::new(Limits::default(), &Telemetry::new());
            let fanout = Fanout::start(server.link(false), &store, &Handle::current());
            Cache::new(&store, "service").with_fanout(Some(fanout))
        };
        let (one, two) = (replica(), replica());
        for key in ["a", "b", "c"] {
            insert(&one, key).await;
            insert(&two, key).await;
        }
        let done = one.purge_everywhere(&Purge::Key { key: "a".to_owned(), soft: false }).await.expect("reaches Redis");
        assert_eq!((done.objects, is_there(&one, "a")), (1, false));
        eventually(|| !is_there(&two, "a")).await;
        let entry = Purge::Entry { key: two.key(Face::Core, b"b"), soft: false };
        two.purge_everywhere(&entry).await.expect("reaches Redis");
        eventually(|| !is_there(&one, "b")).await;
        assert!(is_there(&one, "c") && is_there(&two, "c"));
        two.purge_everywhere(&Purge::All).await.expect("reaches Redis");
        eventually(|| !is_there(&one, "c")).await;
    }

    #[test]
    fn order() {
        assert!(is_before("1-0", "1-1") && is_before("9-5", "10-0") && !is_before("2-0", "1-9"));
    }
}
