//! Compiles `logs.proto` with protox, so that no system `protoc` is needed.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = "flowforge/logs/v1/logs.proto";
    println!("cargo::rerun-if-changed={file}");
    let descriptors = protox::compile([file], ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("logs_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // `Bytes` fields share the receive buffer: a line is not copied between the socket and the store.
        .bytes(".flowforge.logs.v1")
        .compile_fds(descriptors)?;
    Ok(())
}
