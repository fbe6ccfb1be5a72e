//! A TCP proxy that misbehaves on demand: it holds bytes back, cuts connections anywhere, loses answers, or is slow.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::free_address;

const CHUNK: usize = 16 << 10;

/// How the proxy treats what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As it comes.
    Pass,
    /// Connections stay open and nothing moves; it is late, not lost, when the mode changes.
    Hold,
    /// What the server answers is thrown away.
    LoseAnswers,
    /// So many bytes a second, each way and connection.
    Slow(u32),
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    mode: Mode,
    /// Connections made in an earlier generation are reset.
    generation: u64,
}

/// A proxy in front of one server. Ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    wanted: watch::Sender<Wanted>,
    budget: Arc<AtomicI64>,
    /// Held once by each connection.
    carried: Weak<()>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// In front of `target`, whether it serves yet or not.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let address = free_address()?;
        let listener = TcpListener::bind(address).await?;
        let wanted = watch::Sender::new(Wanted { mode: Mode::Pass, generation: 0 });
        let budget = Arc::new(AtomicI64::new(i64::MAX));
        let own = Arc::new(());
        let carried = Arc::downgrade(&own);
        let connection = Connection { wanted: wanted.subscribe(), budget: Arc::clone(&budget), generation: 0 };
        let accepting = tokio::spawn(accept(listener, target, connection, own));
        Ok(Self { address, wanted, budget, carried, accepting })
    }

    /// Where clients find it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it carries.
    pub fn connections(&self) -> usize {
        self.carried.strong_count().saturating_sub(1)
    }

    /// From now on, for old and new connections.
    pub fn set(&self, mode: Mode) {
        self.wanted.send_modify(|wanted| wanted.mode = mode);
    }

    /// Resets all connections, with what is under way in them.
    pub fn cut(&self) {
        self.wanted.send_modify(|wanted| wanted.generation += 1);
    }

    /// The connection that carries the last of so many bytes to the server is reset, in the middle of whatever it is saying.
    pub fn cut_after(&self, bytes: u32) {
        self.budget.store(bytes.into(), Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, template: Connection, own: Arc<()>) {
    while let Ok((client, _)) = listener.accept().await {
        let generation = template.wanted.borrow().generation;
        let connection = Connection { generation, ..template.clone() };
        let carried = Arc::clone(&own);
        tokio::spawn(async move {
            // A server that is down is a client's connection that is reset, as without a proxy.
            if let Ok(server) = TcpStream::connect(target).await {
                connection.carry(client, server).await;
            }
            drop(carried);
        });
    }
}

#[derive(Debug, Clone)]
struct Connection {
    wanted: watch::Receiver<Wanted>,
    budget: Arc<AtomicI64>,
    generation: u64,
}

impl Connection {
    async fn carry(self, client: TcpStream, server: TcpStream) {
        // Dropped sockets say RST, not FIN: a network that breaks says goodbye to nobody.
        for socket in [&client, &server] {
            let _ = socket.set_nodelay(true);
            let _ = socket.set_zero_linger();
        }
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let mut wanted = self.wanted.clone();
        let cut = async move {
            let _ = wanted.wait_for(|wanted| wanted.generation > self.generation).await;
        };
        tokio::select! {
            () = cut => {}
            () = self.clone().pump(from_client, to_server, false) => {}
            () = self.clone().pump(from_server, to_client, true) => {}
        }
    }

    /// Moves bytes one way until the connection ends.
    async fn pump(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, answers: bool) {
        let mut chunk = vec![0; CHUNK];
        loop {
            let Some(most) = self.may_move().await else { return };
            let Ok(count @ 1..) = from.read(&mut chunk[..most]).await else { return };
            let Some(_) = self.may_move().await else { return };
            let mode = self.wanted.borrow().mode;
            if let Mode::Slow(rate) = mode {
                tokio::time::sleep(Duration::from_secs_f64(count as f64 / f64::from(rate))).await;
            }
            if answers && mode == Mode::LoseAnswers {
                continue;
            }
            let granted = if answers { count } else { self.spend(count) };
            if to.write_all(&chunk[..granted]).await.is_err() || granted < count {
                return;
            }
        }
    }

    /// Waits while everything is held; gives how much may be read at once. `None`: the proxy is gone.
    async fn may_move(&mut self) -> Option<usize> {
        let wanted = self.wanted.wait_for(|wanted| wanted.mode != Mode::Hold).await.ok()?;
        // A tenth of a second's worth, so that a slow link is slow and not asleep.
        Some(if let Mode::Slow(rate) = wanted.mode { (rate as usize / 10).clamp(1, CHUNK) } else { CHUNK })
    }

    /// How many of these bytes may still pass to the server. The budget is spent once.
    fn spend(&self, count: usize) -> usize {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let left = self.budget.fetch_sub(count, Ordering::SeqCst);
        if left >= count {
            return usize::try_from(count).unwrap_or(usize::MAX);
        }
        self.budget.store(i64::MAX, Ordering::SeqCst);
        usize::try_from(left.max(0)).unwrap_or(0)
    }
}
