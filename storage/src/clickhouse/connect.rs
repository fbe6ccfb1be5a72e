//! The way to a host: its address as people write it, TLS, and what every request has in common.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clickhouse::{Client, Compression};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tracing::warn;

use super::ClickhouseOptions;
use super::error::misconfigured;
use crate::error::StoreError;

/// ClickHouse's ports unless somebody changed them.
const HTTP_PORT: u16 = 8123;
const HTTPS_PORT: u16 = 8443;

/// A host that does not take a connection in this time is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// ClickHouse closes idle connections after 3 s (before 23.11) or 10 s.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_millis(2500);

/// `http://host:port` or `https://host:port` of what a person wrote. An error says what to write instead.
pub fn check_host(host: &str) -> Result<String, String> {
    if host.contains('@') {
        return Err("must not hold a user or password: they have keys of their own".to_owned());
    }
    let (scheme, rest, default_port) = match host.strip_prefix("https://") {
        Some(rest) => ("https", rest, HTTPS_PORT),
        None => ("http", host.strip_prefix("http://").unwrap_or(host), HTTP_PORT),
    };
    let rest = rest.trim_end_matches('/');
    let is_plain = |text: &str| !text.is_empty() && !text.contains(['/', '?', '#', ' ', '\'', '"', '\\']);
    if !is_plain(rest) || rest.contains("://") {
        return Err(format!("has {host:?}, which is not host, host:port, http://host:port or https://host:port"));
    }
    // The colon of a port comes after the bracket of an IPv6 address.
    let after_address = rest.rsplit(']').next().unwrap_or(rest);
    match after_address.rsplit_once(':') {
        None => Ok(format!("{scheme}://{rest}:{default_port}")),
        Some((_, port)) if port.parse::<u16>().is_ok() => Ok(format!("{scheme}://{rest}")),
        Some((_, port)) => Err(format!("has {host:?}, but {port:?} is not a port")),
    }
}

/// A client without an address yet. Certificates are read only where TLS is wanted.
pub(super) fn client(options: &ClickhouseOptions, is_tls: bool) -> Result<Client, StoreError> {
    let roots = if is_tls { trusted(&options.ca_file)? } else { RootCertStore::empty() };
    let connector = connector(roots).map_err(|error| misconfigured("cannot set up TLS", error))?;
    let http = HyperClient::builder(TokioExecutor::new()).pool_idle_timeout(POOL_IDLE_TIMEOUT).build(connector);
    Ok(with_settings(Client::with_http_client(http), options))
}

fn connector(roots: RootCertStore) -> Result<HttpsConnector<HttpConnector>, rustls::Error> {
    let mut http = HttpConnector::new();
    http.set_connect_timeout(Some(CONNECT_TIMEOUT));
    http.set_nodelay(true);
    http.enforce_http(false);
    // Named, because two providers in one program leave no default.
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(http))
}

/// The machine's own authorities, and the one that the configuration names.
fn trusted(ca_file: &Path) -> Result<RootCertStore, StoreError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        warn!(%error, "a certificate authority of this machine cannot be read");
    }
    roots.add_parsable_certificates(found.certs);
    if ca_file.as_os_str().is_empty() {
        return Ok(roots);
    }
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        misconfigured(format!("clickhouse.ca_file {} is not a file of PEM certificates", ca_file.display()), error)
    };
    let own: Result<Vec<_>, _> = CertificateDer::pem_file_iter(ca_file).and_then(Iterator::collect);
    let own = own.map_err(|error| failed(error.into()))?;
    if own.is_empty() {
        return Err(failed("it holds none".into()));
    }
    for certificate in own {
        roots.add(certificate).map_err(|error| failed(error.into()))?;
    }
    Ok(roots)
}

/// What every request has in common.
fn with_settings(client: Client, options: &ClickhouseOptions) -> Client {
    let client = client
        .with_user(&options.user)
        .with_password(&options.password)
        .with_compression(Compression::Lz4)
        // The rows' types are next to the tables' (`row`, `layout`).
        .with_validation(false)
        .with_product_info("flowforge", env!("CARGO_PKG_VERSION"))
        // An acked line is in its table, not in a buffer of the server's. It is on by default since 26.3.
        .with_setting("async_insert", "0")
        // What is inserted again after it was deleted must not be taken for a repetition.
        .with_setting("insert_deduplicate", "0")
        // Lines of many days in one insert are no error.
        .with_setting("max_partitions_per_insert_block", "0")
        .with_setting("throw_if_no_data_to_insert", "0")
        .with_setting("cancel_http_readonly_queries_on_client_close", "1");
    if options.cluster.is_empty() {
        return client;
    }
    // Committed means visible to every read that starts later, whichever replica answers.
    client
        .with_setting("insert_quorum", "auto")
        .with_setting("insert_quorum_parallel", "0")
        .with_setting("select_sequential_consistency", "1")
        .with_setting("distributed_foreground_insert", "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_what_people_write() {
        for (given, expected) in [
            ("localhost", "http://localhost:8123"),
            ("db.local:8443", "http://db.local:8443"),
            ("http://10.0.0.1", "http://10.0.0.1:8123"),
            ("http://[::1]:9/", "http://[::1]:9"),
            ("[::1]", "http://[::1]:8123"),
            ("https://db.local", "https://db.local:8443"),
            ("https://[::1]:9440/", "https://[::1]:9440"),
        ] {
            assert_eq!(check_host(given).as_deref(), Ok(expected));
        }
        for bad in ["", "https://", "https://http://a", "a:b", "http://u:p@a", "a/b", "tcp://a", "http://"] {
            assert!(check_host(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_file_of_authorities_that_is_none_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        for file in [empty, dir.path().join("missing.pem")] {
            let error = trusted(&file).unwrap_err();
            assert!(error.to_string().contains(&format!("clickhouse.ca_file {}", file.display())), "{error}");
        }
    }

    #[test]
    fn a_password_in_a_host_is_not_repeated() {
        assert!(!check_host("http://u:hunter2@a").unwrap_err().contains("hunter2"));
    }
}
