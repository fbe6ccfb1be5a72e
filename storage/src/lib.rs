//! The cold path: what a stored line is, and the [`LogStore`] that keeps it.
//!
//! Read in this order: [`record`] (a line), [`task`] (what is known of a task), [`query`] (how lines are asked for),
//! [`store`] (the contract every backend keeps), then the backends. [`contract`] is the test suite that each backend
//! passes; a new backend adds one line to `tests/contract.rs`.
//!
//! This crate knows nothing of gRPC, HTTP or Redis.

pub mod clickhouse;
pub mod contract;
pub mod error;
mod escape;
pub mod key;
pub mod postgres;
pub mod query;
pub mod record;
pub mod sqlite;
pub mod store;
pub mod task;

pub use self::clickhouse::ClickhouseStore;
pub use error::{ErrorKind, StoreError};
pub use key::{InvalidName, TaskKey};
pub use postgres::PostgresStore;
pub use query::{Direction, LogFilter, Page, ReadQuery, StreamSet, TaskCursor, TaskFilter, TaskPage};
pub use record::{LogRecord, ProducerId, Stream, TaskLines};
pub use sqlite::SqliteStore;
pub use store::{Deleted, LastStored, LogStore};
pub use task::{Claim, EpochStart, Outcome, ProducerRecord, Proof, Recovery, StoredTask, TaskRecord, TaskStatus};
