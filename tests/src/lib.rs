//! The end-to-end harness: real `flowforge` processes, producers and readers that trust nobody, and a checker.
//!
//! - [`server`] starts, kills, stops and restarts a server with a temporary directory of its own.
//! - [`producer`] speaks the wire protocol directly on the generated code; [`generator`] sends numbered lines on top of it,
//!   through any failure, and journals what it was promised.
//! - [`viewer`] reads Server-Sent Events with a parser of its own and journals what it was shown.
//! - [`store_read`] reads all rows back, through HTTP and straight from the SQLite file.
//! - [`site`] is one pairing of broker and store under load, with proxies on every way, and [`faults`] is what is done to it.
//! - [`checker`] compares the journals with the store and names the first broken promise.
//!
//! What is expected comes from the generators' journals, never from the product: the text of a line is a function of its
//! generator's tag and its sequence number ([`mod@line`]). A producer needs only an address and a viewer only a URL, so that a
//! generator may feed several servers, and viewers of several servers may be checked against one store.

pub mod checker;
pub mod cli;
pub mod faults;
pub mod generator;
pub mod line;
pub mod memory;
pub mod producer;
pub mod server;
pub mod site;
pub mod store_read;
pub mod viewer;

pub use flowforge_test_services::wait;
