//! Real servers for tests, started by the test that needs them: on free ports or sockets, in temporary folders, killed when
//! dropped. Where an environment variable names a server of the user's own, that one is used instead.
//!
//! This crate knows no other crate of the workspace, so that the tests of each of them may use it.

pub mod certificate;
pub mod clickhouse;
pub mod nginx;
pub mod port;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod wait;

pub use nginx::Nginx;
pub use port::{free_address, free_port};
pub use process::Process;
pub use proxy::Proxy;
