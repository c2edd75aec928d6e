//! Rate counters and penalty boxes that replicas share, by Redis's protocol. Everything of one entry has one hash tag; the
//! clock is the server's.
//!
//! A counter's entry is a hash: by seconds (`s…`) for a minute, by tenths of a second (`t…`) for two seconds.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ::redis::{Script, Value, cmd};
use async_trait::async_trait;

use super::{Check, Error, Rates};
use crate::services::redis::{Redis, Unavailable, escape};

/// Counts, and tells how much was counted in the last seconds. Keys: counter, box. Arguments: delta, window or 0, limit,
/// time in the box in milliseconds, 1 for buckets. Gives the rate or the count, and whether the entry is in the box.
static COUNT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local delta, window, limit, ttl, bucketed = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5] == '1'
        local time = redis.call('TIME')
        local second, tenth = tonumber(time[1]), time[1] * 10 + math.floor(time[2] / 100000)
        local now = time[1] + time[2] / 1000000
        if delta > 0 then
            redis.call('HINCRBY', KEYS[1], 's' .. string.format('%.0f', second), delta)
            redis.call('HINCRBY', KEYS[1], 't' .. string.format('%.0f', tenth), delta)
            redis.call('EXPIRE', KEYS[1], 62)
        end
        if window == 0 then return {0, 0} end
        local letter, length = 's', 1
        if window == 1 then letter, length = 't', 0.1 end
        local fields, sum, old = redis.call('HGETALL', KEYS[1]), 0, {}
        for i = 1, #fields, 2 do
            local kind, at = string.sub(fields[i], 1, 1), tonumber(string.sub(fields[i], 2))
            if (kind == 's' and at < second - 61) or (kind == 't' and at < tenth - 20) then
                old[#old + 1] = fields[i]
            elseif bucketed then
                if kind == 's' and at >= second - second % 10 + 10 - window then sum = sum + fields[i + 1] end
            elseif kind == letter then
                local share = ((at + 1) * length - (now - window)) / length
                if share > 0 then sum = sum + fields[i + 1] * math.min(share, 1) end
            end
        end
        if #old > 0 then redis.call('HDEL', KEYS[1], unpack(old)) end
        local boxed = 0
        if ttl ~= '' then
            if sum > limit * window then
                redis.call('SET', KEYS[2], '1', 'PX', ttl)
                boxed = 1
            else
                boxed = redis.call('EXISTS', KEYS[2])
            end
        end
        if not bucketed then sum = sum / window end
        return {math.floor(sum + 0.5), boxed}",
    )
});

/// Rate counters and penalty boxes of a service, with Redis.
pub struct Shared {
    redis: Arc<Redis>,
    service: String,
}

impl From<Unavailable> for Error {
    fn from(error: Unavailable) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl Shared {
    /// Those of `service`.
    pub fn new(redis: Arc<Redis>, service: &str) -> Self {
        let mut escaped = String::new();
        escape(service, &mut escaped);
        Self { redis, service: escaped }
    }

    fn key(&self, kind: &str, name: &str, entry: &str) -> String {
        let mut key = format!("{}:{kind}:{}:", self.redis.prefix(), self.service);
        escape(name, &mut key);
        // An empty tag would be none.
        key.push_str(":{=");
        escape(entry, &mut key);
        key.push('}');
        key
    }

    async fn run(&self, counter: &str, penalty_box: &str, entry: &str, arguments: [String; 5]) -> Result<(u32, bool), Error> {
        let mut call = COUNT.prepare_invoke();
        call.key(self.key("rate", counter, entry)).key(self.key("box", penalty_box, entry));
        for argument in arguments {
            call.arg(argument);
        }
        match self.redis.script(call).await? {
            Value::Array(items) => match items.as_slice() {
                [Value::Int(count), Value::Int(boxed)] => Ok((u32::try_from(*count).unwrap_or(u32::MAX), *boxed > 0)),
                _ => Err(Error::Unavailable("an answer that cannot be".to_owned())),
            },
            _ => Err(Error::Unavailable("an answer that cannot be".to_owned())),
        }
    }
}

#[async_trait]
impl Rates for Shared {
    async fn check(&self, check: Check<'_>) -> Result<bool, Error> {
        let numbers =
            [check.delta.to_string(), check.window.to_string(), check.limit.to_string(), check.ttl.as_millis().to_string(), String::new()];
        Ok(self.run(check.counter, check.penalty_box, check.entry, numbers).await?.1)
    }

    async fn increment(&self, counter: &str, entry: &str, delta: u32) -> Result<(), Error> {
        self.run(counter, "", entry, [delta.to_string(), "0".to_owned(), "0".to_owned(), String::new(), String::new()]).await.map(drop)
    }

    async fn rate(&self, counter: &str, entry: &str, window: u32) -> Result<u32, Error> {
        Ok(self.run(counter, "", entry, ["0".to_owned(), window.to_string(), "0".to_owned(), String::new(), String::new()]).await?.0)
    }

    async fn count(&self, counter: &str, entry: &str, seconds: u32) -> Result<u32, Error> {
        Ok(self.run(counter, "", entry, ["0".to_owned(), seconds.to_string(), "0".to_owned(), String::new(), "1".to_owned()]).await?.0)
    }

    async fn penalize(&self, penalty_box: &str, entry: &str, ttl: Duration) -> Result<(), Error> {
        let mut command = cmd("SET");
        command.arg(self.key("box", penalty_box, entry)).arg("1").arg("PX").arg(ttl.as_millis().to_string());
        self.redis.command(command).await?;
        Ok(())
    }

    async fn is_penalized(&self, penalty_box: &str, entry: &str) -> Result<bool, Error> {
        let mut command = cmd("EXISTS");
        command.arg(self.key("box", penalty_box, entry));
        Ok(matches!(self.redis.command(command).await?, Value::Int(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::redis::testing::Server;

    #[tokio::test(flavor = "multi_thread")]
    async fn it_keeps_the_contract() {
        let server = Server::start(false);
        super::super::contract::check(Arc::new(Shared::new(server.link(false), "shop"))).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cluster_keeps_the_contract() {
        let server = Server::start(true);
        super::super::contract::check(Arc::new(Shared::new(server.link(true), "shop"))).await;
    }
}
