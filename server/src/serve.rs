//! The server, from configuration to exit, in the order in which it happens.
//!
//! Start: log → store → broker → bind → recover → print the addresses → serve. Stop: the canary ends → ingest stops reading and
//! acks what it took → the queue is flushed → tails end → the store closes; all within `shutdown.grace`, after which what is left stays
//! unacked and the producers keep it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::serve::ListenerExt as _;
use flowforge_proto::v1::Limits;
use flowforge_proto::v1::log_service_server::LogServiceServer;
use flowforge_storage::LogStore;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::backend::{open_broker, open_store};
use crate::broker::{Broker, FlushLimits};
use crate::canary::{self, Canary};
use crate::config::{BrokerDriver, Config, StorageDriver};
use crate::http::AppState;
use crate::ingest::Ingest;
use crate::metrics::Metrics;
use crate::proof::Prover;
use crate::role::{Role, Roles};
use crate::stop::stop_signal;
use crate::tail::Tail;
use crate::writer::Writer;
use crate::{config, http, retention};

/// How often leases are checked.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// HTTP/2 pings find out that a producer's host is gone: silence of the two together.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long connections get to send their last bytes once there is nothing left to store. A peer that does not read must not
/// hold up the exit.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// Serves until SIGTERM or Ctrl-C, then drains. An error says what, where, and what to do.
pub async fn serve(config: Config, roles: Roles) -> anyhow::Result<()> {
    let needed = [Role::Ingest, Role::Tail, Role::Worker];
    if config.broker.driver == BrokerDriver::Memory && !needed.into_iter().all(|role| roles.has(role)) {
        bail!(
            "--roles shares the work among processes, which needs a queue that they share: set broker.driver to redis"
        );
    }
    // Before anything else, so that an early signal is not lost.
    let stop = stop_signal()?;
    let store = open_store(&config).await?;
    let broker = open_broker(&config, &roles, &store).await?;
    let grpc = if roles.has(Role::Ingest) { Some(bind(config.server.grpc, "server.grpc").await?) } else { None };
    let web = bind(config.server.http, "server.http").await?;
    let recovered = broker.recover().await.context("cannot read the running tasks from the store")?;
    let (grpc_address, http_address) = (grpc.as_ref().map(TcpListener::local_addr).transpose()?, web.local_addr()?);
    for (key, address) in [("server.grpc", grpc_address), ("server.http", Some(http_address))] {
        if let Some(address) = address.filter(|address| !address.ip().is_loopback()) {
            warn!(%address, "{key} is reachable from other machines, and there is no authentication yet");
        }
    }
    let wanted = canary::is_wanted(&config.canary, &roles);
    let metrics = Arc::new(Metrics::new(config.logging.storage_driver.name(), wanted));
    let canary = match grpc_address.filter(|_| wanted) {
        Some(grpc) => Some(Canary::new(&config.canary, grpc, http_address, &broker, &metrics)?),
        None => None,
    };
    let server = Server {
        config,
        roles,
        prover: Prover::new(Arc::clone(&broker), Arc::clone(&store)),
        store,
        broker,
        metrics,
        canary,
        stopping: CancellationToken::new(),
        ingest_stop: CancellationToken::new(),
        tail_stop: CancellationToken::new(),
        listeners: TaskTracker::new(),
    };
    let sessions = TaskTracker::new();
    let mut stages = server.start(grpc, web, http_address, &sessions)?;
    let grpc = grpc_address.map_or_else(|| "none".to_owned(), |address| address.to_string());
    let (store, broker) = (config::describe_store(&server.config), config::describe_broker(&server.config));
    info!(%grpc, http = %http_address, store, broker, running_tasks = recovered, "flowforge is serving");
    let canary = server.canary.as_ref().map(Canary::start);

    tokio::select! {
        () = stop => server.stopping.cancel(),
        Some(ended) = stages.join_next() => bail!("a stage of the server ended by itself: {ended:?}"),
    }
    info!(grace = ?server.config.shutdown.grace, "stopping: storing and acking what was accepted");
    server.stop(stages, sessions, canary).await
}

struct Server {
    config: Config,
    roles: Roles,
    store: Arc<dyn LogStore>,
    broker: Arc<dyn Broker>,
    prover: Prover,
    metrics: Arc<Metrics>,
    canary: Option<Arc<Canary>>,
    /// Cancelled first: whoever asks is told, for as long as anybody is answered.
    stopping: CancellationToken,
    ingest_stop: CancellationToken,
    tail_stop: CancellationToken,
    /// The two servers; they end when their last connection has.
    listeners: TaskTracker,
}

impl Server {
    /// Every stage is a task of the returned set: one that ends or panics takes the process down, nothing limps.
    fn start(
        &self,
        grpc: Option<TcpListener>,
        web: TcpListener,
        http_address: std::net::SocketAddr,
        sessions: &TaskTracker,
    ) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
        let mut stages = JoinSet::new();
        if self.roles.has(Role::Worker) {
            let writer = self.writer();
            stages.spawn(async move {
                writer.run().await;
                Ok(())
            });
        }
        let broker = Arc::clone(&self.broker);
        stages.spawn(async move { sweep(broker).await });
        if self.config.retention.days > 0 && self.roles.has(Role::Retention) {
            let border = retention::Border {
                days: self.config.retention.days,
                // PostgreSQL has a partition for each day, and drops it whole.
                at_midnight: self.config.logging.storage_driver == StorageDriver::Postgres,
            };
            let (store, metrics) = (Arc::clone(&self.store), Arc::clone(&self.metrics));
            stages.spawn(async move {
                retention::run(store, border, &metrics).await;
                Ok(())
            });
        }
        if let Some(grpc) = grpc {
            stages.spawn(self.listeners.track_future(self.grpc(grpc, http_address, sessions)?));
        }
        stages.spawn(self.listeners.track_future(self.http(web)));
        self.listeners.close();
        Ok(stages)
    }

    fn writer(&self) -> Writer {
        Writer {
            broker: Arc::clone(&self.broker),
            store: Arc::clone(&self.store),
            limits: FlushLimits {
                max_rows: self.config.batch.max_rows,
                max_delay: self.config.batch.max_delay.duration(),
                hard_max_rows: self.config.batch.hard_max_rows,
                min_interval: self.config.min_interval(),
            },
        }
    }

    fn grpc(
        &self,
        listener: TcpListener,
        http_address: std::net::SocketAddr,
        sessions: &TaskTracker,
    ) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + use<>> {
        let limits = Limits {
            max_line_bytes: u32::try_from(self.config.limits.max_line_bytes.bytes())?,
            max_message_bytes: u32::try_from(self.config.limits.max_message_bytes.bytes())?,
        };
        let public_url = match self.config.server.public_url.as_str() {
            "" => format!("http://{http_address}"),
            url => url.to_owned(),
        };
        let (broker, stop) = (Arc::clone(&self.broker), self.ingest_stop.clone());
        let ingest = Ingest::new(broker, limits, &public_url, self.prover.clone(), stop.clone(), sessions.clone())
            .into_service();
        // Both versions: many clients, grpcio's among them, still ask by the older name.
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(flowforge_proto::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let (reflection_v1, reflection_v1alpha) = (reflection().build_v1()?, reflection().build_v1alpha()?);
        Ok(async move {
            let (health, health_service) = tonic_health::server::health_reporter();
            health.set_serving::<LogServiceServer<Ingest>>().await;
            let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
            tonic::transport::Server::builder()
                .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
                .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(4 << 20)
                .add_service(ingest)
                .add_service(health_service)
                .add_service(reflection_v1)
                .add_service(reflection_v1alpha)
                .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
                .await
                .context("the gRPC server failed")
        })
    }

    fn http(&self, listener: TcpListener) -> impl Future<Output = anyhow::Result<()>> + Send + use<> {
        let state = AppState {
            prover: self.prover.clone(),
            tail: Tail::new(
                Arc::clone(&self.broker),
                Arc::clone(&self.store),
                self.prover.clone(),
                self.config.tail.buffer.in_memory(),
                self.config.tail.heartbeat.duration(),
                self.tail_stop.clone(),
            ),
            broker: Arc::clone(&self.broker),
            store: Arc::clone(&self.store),
            metrics: Arc::clone(&self.metrics),
            canary: self.canary.clone(),
            default_lines: self.config.tail.default_lines,
            shutdown: self.stopping.clone(),
        };
        let router = if self.roles.has(Role::Tail) { http::router(state) } else { http::health(state) };
        let stop = self.tail_stop.clone();
        let listener = listener.tap_io(|connection| {
            if let Err(error) = connection.set_nodelay(true) {
                warn!(%error, "cannot set TCP_NODELAY, lines may be late");
            }
        });
        async move {
            axum::serve(listener, router)
                .with_graceful_shutdown(stop.cancelled_owned())
                .await
                .context("the HTTP server failed")
        }
    }

    /// Drains, within the grace period; a second signal cuts it short.
    async fn stop(
        self,
        mut stages: JoinSet<anyhow::Result<()>>,
        sessions: TaskTracker,
        canary: Option<canary::Running>,
    ) -> anyhow::Result<()> {
        let again = stop_signal()?;
        let grace = self.config.shutdown.grace.duration();
        let drained = tokio::select! {
            drained = tokio::time::timeout(grace, self.drain(&sessions, canary)) => drained.is_ok(),
            () = again => false,
        };
        let left = self.broker.queued();
        stages.shutdown().await;
        if !drained {
            bail!(
                "stopped before everything was stored: {} lines stay with their producers, which were told no ack",
                left.rows
            );
        }
        self.store.close().await;
        info!("stopped, everything accepted is stored");
        Ok(())
    }

    async fn drain(&self, sessions: &TaskTracker, canary: Option<canary::Running>) {
        self.broker.drain();
        // While streams are served, and when the store is written to at once: its end takes a moment.
        if let Some(canary) = canary {
            canary.stop().await;
        }
        self.ingest_stop.cancel();
        sessions.close();
        sessions.wait().await;
        self.broker.leave().await;
        // Record changes of the last moments: ends whose rows are stored by now.
        self.broker.sweep().await;
        self.tail_stop.cancel();
        let _ = tokio::time::timeout(LAST_BYTES, self.listeners.wait()).await;
    }
}

async fn sweep(broker: Arc<dyn Broker>) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        broker.sweep().await;
    }
}

async fn bind(address: std::net::SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: stop what listens there, or set {key} to another address")
    })
}
