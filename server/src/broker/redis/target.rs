//! Which Redis it is: one server, one found through Sentinels, or a Cluster; and how a connection to it is made.

use std::time::Duration;

use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo as _, RedisError, RedisResult, TlsCertificates,
    TlsMode,
};

use super::link::{Conn, Inner};
use super::url::{RedisAddress, Sentinels};

/// How long a connection may take to be made.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take before the connection counts as dead.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// See the module.
pub(super) enum Target {
    Single(Box<Client>),
    Sentinel(Box<tokio::sync::Mutex<SentinelClient>>),
    Cluster(Box<ClusterClient>, Vec<Client>),
}

impl Target {
    pub(super) fn new(address: &RedisAddress, authorities: Option<Vec<u8>>) -> RedisResult<Self> {
        let certificates = authorities.map(|pem| TlsCertificates { client_tls: None, root_cert: Some(pem) });
        match address {
            RedisAddress::Single(url) => Ok(Self::Single(Box::new(client(url, certificates)?))),
            RedisAddress::Cluster(urls) => {
                let nodes: RedisResult<_> = urls.iter().map(|url| client(url, certificates.clone())).collect();
                Ok(Self::Cluster(Box::new(cluster(urls, certificates)?), nodes?))
            }
            RedisAddress::Sentinel(address) => {
                let client = sentinel(address, certificates)?.build()?;
                Ok(Self::Sentinel(Box::new(tokio::sync::Mutex::new(client))))
            }
        }
    }

    pub(super) async fn connect(&self, number: u64) -> RedisResult<Conn> {
        let mut single = match self {
            Self::Single(client) => client.get_multiplexed_async_connection_with_config(&config()).await?,
            Self::Sentinel(client) => client.lock().await.get_async_connection_with_config(&config()).await?,
            Self::Cluster(client, _) => {
                let inner = Inner::Cluster(client.get_async_connection().await?);
                return Ok(Conn { inner, run_id: "".into(), client: "".into(), number });
            }
        };
        let info: String = redis::cmd("INFO").arg("server").query_async(&mut single).await?;
        let run_id = info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default().trim().into();
        let client: RedisResult<u64> = redis::cmd("CLIENT").arg("ID").query_async(&mut single).await;
        let client = client.map_or_else(|_| String::new(), |client| client.to_string()).into();
        Ok(Conn { inner: Inner::Single(single), run_id, client, number })
    }

    /// A server to talk to directly.
    pub(super) async fn node(&self) -> RedisResult<Client> {
        match self {
            Self::Single(client) => Ok(Client::clone(client)),
            Self::Sentinel(client) => client.lock().await.async_get_client().await,
            Self::Cluster(_, nodes) => {
                let mut last = RedisError::from((ErrorKind::InvalidClientConfig, "no node is named"));
                for node in nodes {
                    match node.get_multiplexed_async_connection_with_config(&config()).await {
                        Ok(_) => return Ok(node.clone()),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }
}

fn client(url: &str, certificates: Option<TlsCertificates>) -> RedisResult<Client> {
    match certificates {
        Some(certificates) if url.starts_with("rediss:") => Client::build_with_tls(url, certificates),
        _ => Client::open(url),
    }
}

fn cluster(urls: &[String], certificates: Option<TlsCertificates>) -> RedisResult<ClusterClient> {
    let builder = ClusterClientBuilder::new(urls.iter().map(String::as_str))
        .connection_timeout(CONNECT_TIMEOUT)
        .response_timeout(RESPONSE_TIMEOUT)
        .retries(2);
    match certificates {
        Some(certificates) if urls[0].starts_with("rediss:") => builder.certs(certificates).build(),
        _ => builder.build(),
    }
}

fn sentinel(at: &Sentinels, certificates: Option<TlsCertificates>) -> RedisResult<SentinelClientBuilder> {
    let sentinels: RedisResult<Vec<_>> =
        at.sentinels.iter().map(|url| Ok(url.as_str().into_connection_info()?.addr().clone())).collect();
    let mut builder =
        SentinelClientBuilder::new(sentinels?, &at.master, SentinelServerType::Master)?.set_client_to_redis_db(at.db);
    if at.tls {
        builder =
            builder.set_client_to_redis_tls_mode(TlsMode::Secure).set_client_to_sentinel_tls_mode(TlsMode::Secure);
        if let Some(certificates) = certificates {
            builder = builder
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates);
        }
    }
    if let Some(username) = &at.username {
        builder = builder.set_client_to_redis_username(username);
    }
    if let Some(password) = &at.password {
        builder = builder.set_client_to_redis_password(password);
    }
    Ok(builder)
}

/// Of every connection.
pub(super) fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
}
