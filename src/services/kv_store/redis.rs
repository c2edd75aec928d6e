//! KV stores that replicas share, by Redis's protocol. All keys of a store have one hash tag, so that a store is on one
//! node of a cluster and its scripts are whole.
//!
//! An entry is a hash (`v` value, `m` metadata, `g` generation, `w` when it was written, `s` the seed that it is); its time
//! to live is the key's. Beside them a store has a sorted set of its keys, a counter of generations, and what was last put
//! in as seeds.

use std::sync::{Arc, LazyLock};

use ::redis::{Cmd, Script, Value, cmd};
use async_trait::async_trait;
use bytes::Bytes;

use super::{Entry, Error, Insert, KvStore, Listing, Mode, Page, Seed};
use crate::config::state::Reseed;
use crate::services::redis::{Redis, Unavailable, tagged};

/// Writes an entry. Keys: entry, index, counter. Gives the generation, or what is in the way.
static INSERT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local value, mode, wanted, metadata, ttl, interval, most, name = unpack(ARGV)
        local before = redis.call('HMGET', KEYS[1], 'g', 'w')
        if wanted ~= '' and before[1] ~= wanted then return 'precondition' end
        local time = redis.call('TIME')
        local now = time[1] * 1000 + math.floor(time[2] / 1000)
        if before[2] and now - before[2] < tonumber(interval) then return 'too many' end
        if before[1] and mode == 'add' then return 'precondition' end
        if before[1] and (mode == 'append' or mode == 'prepend') then
            if redis.call('HSTRLEN', KEYS[1], 'v') + #value > tonumber(most) then return 'too large' end
            local old = redis.call('HGET', KEYS[1], 'v')
            if mode == 'append' then value = old .. value else value = value .. old end
        end
        redis.call('INCR', KEYS[3])
        local generation = redis.call('GET', KEYS[3])
        redis.call('HSET', KEYS[1], 'v', value, 'm', metadata, 'g', generation, 'w', string.format('%.0f', now), 's', '')
        if ttl == '' then redis.call('PERSIST', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ttl) end
        redis.call('ZADD', KEYS[2], 0, name)
        return generation",
    )
});

/// Takes an entry out. Keys: entry, index.
static DELETE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        redis.call('ZREM', KEYS[2], ARGV[1])
        return redis.call('DEL', KEYS[1])",
    )
});

/// Keys of a range that are there; those that have expired leave the index. Key: index. Arguments: what an entry's key
/// begins with, the range, how many.
static LIST: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local entry, from, to, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
        local found = {}
        while true do
            local keys = redis.call('ZRANGEBYLEX', KEYS[1], from, to, 'LIMIT', 0, most - #found)
            for _, key in ipairs(keys) do
                if redis.call('EXISTS', entry .. key) == 1 then found[#found + 1] = key else redis.call('ZREM', KEYS[1], key) end
            end
            if #keys == 0 or #found >= most then return found end
            from = '(' .. keys[#keys]
        end",
    )
});

/// Puts a seed in. Keys: entry, index, counter, seeds. Gives whether anything changed.
static SEED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local value, metadata, digest, when, name = unpack(ARGV)
        local last = redis.call('HGET', KEYS[4], name)
        local now = redis.call('HMGET', KEYS[1], 'g', 's')
        if last == digest and now[1] and now[2] == digest then return 0 end
        if when == 'changed' then
            if last == digest then return 0 end
            local mine = now[1] and now[2] == ''
            if mine or (last and not now[1]) then
                redis.call('HSET', KEYS[4], name, digest)
                return 0
            end
        end
        redis.call('INCR', KEYS[3])
        redis.call('HSET', KEYS[1], 'v', value, 'm', metadata, 'g', redis.call('GET', KEYS[3]), 'w', '0', 's', digest)
        redis.call('PERSIST', KEYS[1])
        redis.call('ZADD', KEYS[2], 0, name)
        redis.call('HSET', KEYS[4], name, digest)
        return 1",
    )
});

/// Takes out a seed that is no more. Keys: entry, index, seeds. Gives whether anything changed.
static UNSEED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local last = redis.call('HGET', KEYS[3], ARGV[1])
        redis.call('HDEL', KEYS[3], ARGV[1])
        if not last or redis.call('HGET', KEYS[1], 's') ~= last then return 0 end
        redis.call('ZREM', KEYS[2], ARGV[1])
        return redis.call('DEL', KEYS[1])",
    )
});

/// A store with Redis.
pub struct Shared {
    redis: Arc<Redis>,
    /// What the names of all its keys begin with.
    tag: String,
}

impl From<Unavailable> for Error {
    fn from(error: Unavailable) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// Without what is in it: that is the guests'.
fn strange(value: &Value) -> Error {
    let what = match value {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::BulkString(_) | Value::SimpleString(_) => "text",
        Value::Array(_) => "a list",
        Value::Okay => "OK",
        _ => "something else",
    };
    Error::Unavailable(format!("the server answered {what}, which this question has no use for"))
}

fn number(value: &Value) -> Result<u64, Error> {
    match value {
        Value::Int(number) => u64::try_from(*number).map_err(|_| strange(value)),
        Value::BulkString(text) => std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(|| strange(value)),
        _ => Err(strange(value)),
    }
}

impl Shared {
    /// The store `name` of `service`.
    pub fn new(redis: Arc<Redis>, service: &str, name: &str) -> Self {
        let tag = tagged(redis.prefix(), &["kv", service, name]);
        Self { redis, tag }
    }

    fn entry(&self, key: &str) -> String {
        format!("{}:e:{key}", self.tag)
    }

    fn part(&self, part: &str) -> String {
        format!("{}:{part}", self.tag)
    }
}

#[async_trait]
impl KvStore for Shared {
    async fn lookup(&self, key: &str) -> Result<Option<Entry>, Error> {
        let mut command: Cmd = cmd("HMGET");
        command.arg(self.entry(key)).arg(&["v", "m", "g"]);
        match self.redis.command(command).await? {
            Value::Array(mut fields) => match (fields.pop(), fields.pop(), fields.pop()) {
                (Some(Value::Nil), _, _) => Ok(None),
                (Some(generation), Some(Value::BulkString(metadata)), Some(Value::BulkString(value))) => {
                    Ok(Some(Entry { value: value.into(), metadata: metadata.into(), generation: number(&generation)? }))
                }
                _ => Err(Error::Unavailable("an entry is damaged".to_owned())),
            },
            other => Err(strange(&other)),
        }
    }

    async fn insert(&self, key: &str, value: Bytes, how: &Insert) -> Result<u64, Error> {
        let mode = match how.mode {
            Mode::Overwrite => "overwrite",
            Mode::Add => "add",
            Mode::Append => "append",
            Mode::Prepend => "prepend",
        };
        let mut call = INSERT.prepare_invoke();
        call.key(self.entry(key)).key(self.part("index")).key(self.part("generation"));
        call.arg(&value[..]).arg(mode).arg(how.if_generation.map(|generation| generation.to_string()).unwrap_or_default());
        call.arg(&how.metadata[..]).arg(how.ttl.map(|ttl| ttl.as_millis().max(1).to_string()).unwrap_or_default());
        call.arg(how.interval.as_millis().to_string()).arg(super::MAX_VALUE).arg(key);
        let done = self.redis.script(call).await?;
        match &done {
            Value::BulkString(text) if text == b"precondition" => Err(Error::Precondition),
            Value::BulkString(text) if text == b"too many" => Err(Error::TooMany),
            Value::BulkString(text) if text == b"too large" => Err(Error::TooLarge),
            done => number(done),
        }
    }

    async fn delete(&self, key: &str) -> Result<bool, Error> {
        let mut call = DELETE.prepare_invoke();
        call.key(self.entry(key)).key(self.part("index")).arg(key);
        Ok(number(&self.redis.script(call).await?)? > 0)
    }

    async fn list(&self, page: &Page) -> Result<Listing, Error> {
        let from = match page.after.as_deref() {
            Some(after) if after >= page.prefix.as_str() => format!("({after}"),
            Some(_) | None if page.prefix.is_empty() => "-".to_owned(),
            Some(_) | None => format!("[{}", page.prefix),
        };
        // Keys are UTF-8, which has no such byte.
        let to = if page.prefix.is_empty() { b"+".to_vec() } else { [b"[", page.prefix.as_bytes(), b"\xff"].concat() };
        let mut call = LIST.prepare_invoke();
        call.key(self.part("index")).arg(self.entry("")).arg(from).arg(to).arg(u64::from(page.limit) + 1);
        let found = self.redis.script(call).await?;
        let Value::Array(items) = &found else { return Err(strange(&found)) };
        let key = |item: &Value| match item {
            Value::BulkString(key) => String::from_utf8(key.clone()).map_err(|_| strange(item)),
            _ => Err(strange(item)),
        };
        let mut keys = items.iter().map(key).collect::<Result<Vec<_>, _>>()?;
        let more = keys.len() > page.limit as usize;
        keys.truncate(page.limit as usize);
        Ok(Listing { keys, more })
    }

    async fn seed(&self, seeds: &[Seed], when: Reseed) -> Result<usize, Error> {
        let mut changed = 0;
        let mut known = cmd("HKEYS");
        known.arg(self.part("seeds"));
        let known = self.redis.command(known).await?;
        let Value::Array(known) = &known else { return Err(strange(&known)) };
        for item in known {
            let Value::BulkString(key) = item else { return Err(strange(item)) };
            let Ok(key) = std::str::from_utf8(key) else { return Err(strange(item)) };
            if seeds.iter().any(|seed| seed.key == key) {
                continue;
            }
            let mut call = UNSEED.prepare_invoke();
            call.key(self.entry(key)).key(self.part("index")).key(self.part("seeds")).arg(key);
            changed += number(&self.redis.script(call).await?)?;
        }
        let when = match when {
            Reseed::Changed => "changed",
            Reseed::Always => "always",
        };
        for seed in seeds {
            let mut call = SEED.prepare_invoke();
            call.key(self.entry(&seed.key)).key(self.part("index")).key(self.part("generation")).key(self.part("seeds"));
            call.arg(&seed.value[..]).arg(&seed.metadata[..]).arg(&seed.digest()[..]).arg(when).arg(&seed.key);
            changed += number(&self.redis.script(call).await?)?;
        }
        Ok(usize::try_from(changed).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::services::redis::testing::Server;

    async fn contract(cluster: bool) {
        let server = Server::start(cluster);
        let (redis, count) = (server.link(cluster), AtomicUsize::new(0));
        let fresh = async || {
            let name = format!("a:{{b}}{}", count.fetch_add(1, Ordering::Relaxed));
            Arc::new(Shared::new(redis.clone(), "shop", &name)) as Arc<dyn KvStore>
        };
        super::super::contract::check(fresh).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_keeps_the_contract() {
        contract(false).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cluster_keeps_the_contract() {
        contract(true).await;
    }
}
