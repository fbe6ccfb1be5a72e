//! What this process follows: mirrors of watched tasks, seats of the producers whose streams it holds, turns of publishing.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use flowforge_storage::TaskKey;
use tokio::time::Instant;

use super::Shared;
use super::mirror::Mirror;
use super::session::Seat;
use super::subscriber::Order;
use crate::broker::Subscription;

/// How long a task that nobody watches any more is still followed: readers come back.
const IDLE_KEPT: Duration = Duration::from_secs(5);

impl Shared {
    /// The task's mirror and a viewer's hold on it, made together so that no sweep comes between.
    pub(super) fn mirrored(&self, task: &TaskKey) -> (Arc<Mirror>, Subscription) {
        let mut mirrors = self.lock_mirrors();
        let mirror =
            mirrors.entry(task.clone()).or_insert_with(|| Arc::new(Mirror::new(task, self.options.recent_bytes)));
        *mirror.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
        (Arc::clone(mirror), Subscription::new(Arc::clone(&mirror.feed)))
    }

    pub(super) fn mirror(&self, task: &TaskKey) -> Option<Arc<Mirror>> {
        self.lock_mirrors().get(task).cloned()
    }

    pub(super) fn mirrors(&self) -> Vec<Arc<Mirror>> {
        self.lock_mirrors().values().cloned().collect()
    }

    pub(super) fn watched(&self) -> Vec<TaskKey> {
        self.lock_mirrors().keys().cloned().collect()
    }

    pub(super) fn refresh_all(self: &Arc<Self>) {
        for mirror in self.mirrors().iter().filter(|mirror| mirror.position().is_some()) {
            self.refresh_soon(mirror);
        }
    }

    /// Lets go of mirrors that nobody has watched for a while.
    pub(super) fn forget_mirrors(&self) {
        self.lock_mirrors().retain(|task, mirror| {
            let mut idle_since = mirror.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
            if mirror.feed.viewers() > 0 {
                *idle_since = None;
                return true;
            }
            if idle_since.get_or_insert_with(Instant::now).elapsed() < IDLE_KEPT {
                return true;
            }
            // Under the map's lock, so that a new viewer's subscription comes after it.
            self.orders.try_send(Order::Forget(task.clone())).is_err()
        });
    }

    fn lock_mirrors(&self) -> MutexGuard<'_, HashMap<TaskKey, Arc<Mirror>>> {
        self.mirrors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_turns(&self) -> MutexGuard<'_, HashMap<TaskKey, Arc<tokio::sync::Mutex<()>>>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_seats(&self) -> MutexGuard<'_, HashMap<TaskKey, Vec<Arc<Seat>>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session begins. Older ones of the same producer here learn that they are fenced.
    pub(super) fn seat(self: &Arc<Self>, seat: &Arc<Seat>) {
        let older = {
            let mut seats = self.lock_seats();
            let seats = seats.entry(seat.task.clone()).or_default();
            let older: Vec<_> = seats.iter().filter(|other| other.producer == seat.producer).cloned().collect();
            seats.push(Arc::clone(seat));
            older
        };
        if !older.is_empty() {
            let shared = Arc::clone(self);
            tokio::spawn(async move { shared.compare_seats(&older).await });
        }
    }

    pub(super) fn unseat(&self, seat: &Arc<Seat>) {
        let mut seats = self.lock_seats();
        if let Some(of_task) = seats.get_mut(&seat.task) {
            of_task.retain(|other| !Arc::ptr_eq(other, seat));
            if of_task.is_empty() {
                seats.remove(&seat.task);
            }
        }
    }

    pub(super) fn seats_of(&self, task: &TaskKey) -> Vec<Arc<Seat>> {
        self.lock_seats().get(task).cloned().unwrap_or_default()
    }

    pub(super) fn all_seats(&self) -> Vec<Arc<Seat>> {
        self.lock_seats().values().flatten().cloned().collect()
    }

    /// `<producer>=<seq>` of a task's hint.
    pub(super) fn note_stored(&self, task: &TaskKey, epoch: u64, stored: u64, producers: &[&str]) {
        if let Some(mirror) = self.mirror(task) {
            mirror.stored(epoch, stored);
        }
        let seats = self.seats_of(task);
        for seat in seats.iter().filter(|seat| seat.epoch == epoch) {
            let id = seat.producer.to_string();
            let seq = producers.iter().find_map(|pair| pair.strip_prefix(id.as_str())?.strip_prefix('=')?.parse().ok());
            if let Some(seq) = seq {
                seat.note(|progress| progress.stored_seq = progress.stored_seq.max(seq));
            }
        }
    }
}
