//! The wire of FlowForge Logs.
//!
//! Everything here is generated from `flowforge/logs/v1/logs.proto`, whose comments are the protocol's specification.

pub mod proof;

/// Messages and service of `flowforge.logs.v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    rust_2018_idioms,
    rustdoc::broken_intra_doc_links,
    rustdoc::invalid_rust_codeblocks,
    rustdoc::bare_urls
)]
pub mod v1 {
    tonic::include_proto!("flowforge.logs.v1");
}

/// The encoded `FileDescriptorSet` of `logs.proto`, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/logs_descriptor.bin"));
