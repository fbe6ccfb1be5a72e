//! The one thread that all clients of this process send on, and the memory that they share.
//!
//! It lives while a client does. Its lock is only taken while attached to Python, see the crate.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use flowforge_client::Budget;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::fork;

/// Only names of servers are looked up on threads beside it.
const MAX_LOOKUPS: usize = 2;

pub(crate) struct Sender {
    pub(crate) runtime: Handle,
    pub(crate) budget: Arc<Budget>,
    /// Dropped with the last client: the thread ends.
    _alive: oneshot::Sender<()>,
}

/// Of the process with this generation.
static CURRENT: Mutex<(u64, Weak<Sender>)> = Mutex::new((fork::NEVER, Weak::new()));

/// The sender of this process; starts it if there is none.
pub(crate) fn of_this_process() -> io::Result<Arc<Sender>> {
    let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
    let generation = fork::generation();
    // A parent's is not asked for: its thread is not here.
    if current.0 == generation
        && let Some(sender) = current.1.upgrade()
    {
        return Ok(sender);
    }
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(MAX_LOOKUPS).build()?;
    let (alive, gone) = oneshot::channel();
    let sender = Arc::new(Sender { runtime: runtime.handle().clone(), budget: Arc::default(), _alive: alive });
    let work = move || drop(runtime.block_on(gone));
    std::thread::Builder::new().name("flowforge-sender".to_owned()).spawn(work)?;
    *current = (generation, Arc::downgrade(&sender));
    Ok(sender)
}
