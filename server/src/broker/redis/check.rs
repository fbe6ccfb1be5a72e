//! Before anything else: is this a Redis that keeps what it is given?

use std::collections::HashMap;
use std::path::Path;

use redis::{FromRedisValue as _, RedisResult, Value};
use tracing::warn;

use super::keys::SHARDS;
use super::link::Link;
use super::url::shown;

/// Scripts with flags, and the rules about keys that they bring.
const OLDEST: (u32, u32) = (7, 0);

/// What rustls says of a certificate whose authority it does not know; the client keeps only its words.
const UNKNOWN_AUTHORITY: &str = "UnknownIssuer";

/// Why the broker does not start: one line that says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

/// `key` names the address in the configuration, for what is said.
pub(super) async fn server(link: &Link, key: &str, url: &str, durable: bool) -> Result<(), StartError> {
    let address = shown(url);
    let unreachable = |error: redis::RedisError| {
        let error = error.to_string();
        let advice = if error.contains(UNKNOWN_AUTHORITY) {
            "Name its authority's certificate in redis.ca_file".to_owned()
        } else {
            format!("Start it, or set {key} to where it is")
        };
        StartError(format!("cannot reach Redis at {address}: {error}. {advice}"))
    };
    let mut node = link.node().await.map_err(unreachable)?;
    let info: String = redis::cmd("INFO").arg("server").query_async(&mut node).await.map_err(unreachable)?;
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("0").trim().to_owned();
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < OLDEST {
        return Err(StartError(format!("Redis at {address} is version {version}; 7.0 or newer is needed")));
    }
    if !durable {
        return Ok(());
    }
    let settings: RedisResult<Value> =
        redis::cmd("CONFIG").arg("GET").arg("maxmemory*").arg("appendonly").query_async(&mut node).await;
    let settings = settings.and_then(|value| Ok(HashMap::<String, String>::from_redis_value(value)?));
    match settings {
        Ok(settings) => policy(&address, &settings)?,
        Err(error) => {
            warn!(%error, "cannot read Redis' settings; it must have maxmemory-policy noeviction and appendonly yes");
        }
    }
    link.conn().await.map(drop).map_err(unreachable)
}

fn policy(address: &str, settings: &HashMap<String, String>) -> Result<(), StartError> {
    let get = |name: &str| settings.get(name).map_or("", String::as_str);
    let policy = get("maxmemory-policy");
    if policy.starts_with("allkeys") {
        return Err(StartError(format!(
            "Redis at {address} evicts keys when it is full (maxmemory-policy {policy}), which would lose queued lines. Set it to noeviction"
        )));
    }
    if policy != "noeviction" && !policy.is_empty() {
        warn!(policy, "Redis' maxmemory-policy should be noeviction");
    }
    if get("appendonly") == "no" {
        warn!(
            "Redis does not write an append-only file: when it restarts, unstored lines are sent again by their producers, and viewers see a rollback. Set appendonly yes"
        );
    }
    Ok(())
}

/// The number of shards is decided once, by whoever comes first.
pub(super) async fn shards(link: &Link, wanted: usize) -> Result<(), StartError> {
    let failed = |error: redis::RedisError| StartError(format!("Redis failed at the start: {error}"));
    link.run(redis::cmd("SET").arg(SHARDS).arg(wanted).arg("NX")).await.map_err(failed)?;
    let found = link.run(redis::cmd("GET").arg(SHARDS)).await.map_err(failed)?;
    let found = super::script::text(&found);
    if found == wanted.to_string() {
        return Ok(());
    }
    Err(StartError(format!(
        "queue.shards is {wanted}, but this Redis was set up with {found}, and lines are spread by it. Set queue.shards to {found}; or, with every server stopped and the queue empty, delete the key {SHARDS}"
    )))
}

/// A link to a configured address; see [`RedisOptions::ca_file`](super::RedisOptions::ca_file).
pub(super) fn link(key: &str, url: &str, ca_file: &Path) -> Result<Link, StartError> {
    let address = super::url::RedisAddress::parse(url).map_err(|words| StartError(format!("{key} {words}")))?;
    let authorities = if ca_file.as_os_str().is_empty() { Ok(None) } else { std::fs::read(ca_file).map(Some) };
    let authorities =
        authorities.map_err(|error| StartError(format!("cannot read redis.ca_file {}: {error}", ca_file.display())))?;
    Link::new(&address, authorities).map_err(|error| StartError(format!("{key} is not usable: {error}")))
}
