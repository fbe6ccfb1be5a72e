//! The ways to Redis, ClickHouse and PostgreSQL, encrypted and checked.

use std::time::Duration;

use anyhow::{Result, ensure};
use flowforge_test_services::certificate::Certificate;
use flowforge_test_services::clickhouse::Engine;
use flowforge_test_services::postgres::{PASSWORD, PostgresServer};
use flowforge_test_services::redis::{Persistence, Redis};
use flowforge_test_services::{Nginx, free_address};
use flowforge_tests::checker::{Allowed, check_store, check_viewer};
use flowforge_tests::generator::{Generator, Plan};
use flowforge_tests::server::{Overrides, Server};
use flowforge_tests::store_read;
use flowforge_tests::viewer::Viewer;
use flowforge_tests::wait::PATIENCE;

const LINES: u64 = 2_000;

/// A Redis, and an engine behind an nginx, both with a certificate of their own.
struct Encrypted {
    certificate: Certificate,
    settings: Overrides,
    _redis: Redis,
    _engine: Engine,
    _nginx: Nginx,
}

impl Encrypted {
    async fn start() -> Result<Self> {
        let certificate = Certificate::new()?;
        let (cert, key) = (certificate.cert(), certificate.key());
        let (cert, key) = (cert.display(), key.display());
        let (redis_at, clickhouse_at) = (free_address()?, free_address()?);
        let settings = [
            format!("tls-port {}", redis_at.port()),
            format!("tls-cert-file {cert}"),
            format!("tls-key-file {key}"),
            "tls-auth-clients no".to_owned(),
        ];
        let redis = Redis::start_with(Persistence::Always, &settings.each_ref().map(String::as_str)).await?;
        let engine = Engine::start().await?;
        let server = format!(
            "server {{ listen {clickhouse_at} ssl; ssl_certificate {cert}; ssl_certificate_key {key};
             client_max_body_size 0; location / {{ proxy_pass http://{}; }} }}",
            engine.address()
        );
        let nginx = Nginx::start(&server, clickhouse_at).await?;
        let settings = Overrides::none()
            .set("broker.driver", "redis")
            .set("redis.url", &format!("rediss://{redis_at}"))
            .set("logging.storage_driver", "clickhouse")
            .set("clickhouse.hosts", &format!("[\"https://{clickhouse_at}\"]"));
        Ok(Self { certificate, settings, _redis: redis, _engine: engine, _nginx: nginx })
    }

    fn authority(&self) -> String {
        self.certificate.authority().display().to_string()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_go_through_encrypted_redis_and_clickhouse() -> Result<()> {
    let site = Encrypted::start().await?;
    let settings = site.settings.clone();
    let settings = settings.set("redis.ca_file", &site.authority()).set("clickhouse.ca_file", &site.authority());
    carries_every_line(&Server::start_with(settings).await?).await
}

async fn carries_every_line(server: &Server) -> Result<()> {
    let generator = Generator::start(Plan { rate: Some(2_000), ..Plan::new(&server.grpc_url(), "tls", "p", LINES) });
    let viewer = Viewer::whole("v", &server.task_url("tls")).follow().await?;
    let journal = generator.join().await?;
    let rows = store_read::over_http(&server.task_url("tls")).await?;
    check_store(&rows, &[journal])?;
    check_viewer(&viewer, &rows, Allowed::Undisturbed)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_go_through_encrypted_postgres_whose_authority_is_checked() -> Result<()> {
    let certificate = Certificate::new()?;
    let postgres = PostgresServer::start_encrypted(&certificate).await?;
    let database = postgres.database().await?;
    let url = format!("{}?sslmode=verify-full", postgres.over_tcp(PASSWORD, database.name()));
    let with = |url: &str| Overrides::none().set("logging.storage_driver", "postgres").set("postgres.url", url);
    is_refused(with(&url), "sslrootcert").await?;

    let server = Server::start_with(with(&format!("{url}&sslrootcert={}", certificate.authority().display()))).await?;
    carries_every_line(&server).await?;
    let plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                 WHERE datname = current_database() AND client_addr IS NOT NULL AND NOT ssl";
    let plain: i64 = sqlx::query_scalar(plain).fetch_one(&mut database.connect().await?).await?;
    ensure!(plain == 0, "{plain} connections are not encrypted");
    Ok(())
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused_with_the_key_to_set() -> Result<()> {
    let site = Encrypted::start().await?;
    let trusting_redis = site.settings.clone().set("redis.ca_file", &site.authority());
    let file_is_missing = trusting_redis.clone().set("clickhouse.ca_file", "/nowhere/ca.pem");
    for (settings, words) in [
        (site.settings.clone().set("clickhouse.ca_file", &site.authority()), "redis.ca_file"),
        (trusting_redis, "Name its authority's certificate in clickhouse.ca_file"),
        (file_is_missing, "clickhouse.ca_file /nowhere/ca.pem is not a file of PEM certificates"),
    ] {
        is_refused(settings, words).await?;
    }
    Ok(())
}

async fn is_refused(settings: Overrides, words: &str) -> Result<()> {
    let mut server = Server::prepare(settings)?;
    server.spawn()?;
    let status = server.exited(PATIENCE + Duration::from_secs(5)).await?;
    ensure!(!status.success(), "it started");
    ensure!(server.log().contains(words), "{words:?} is not said: {}", server.log());
    Ok(())
}
