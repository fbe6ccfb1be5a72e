//! Addresses that stay free.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Result, bail};

/// A free loopback address below the ports that the kernel gives to clients: nobody takes it while its server is down, and no
/// client that calls it then can be connected to itself.
pub fn free_address() -> Result<SocketAddr> {
    for _ in 0..1000 {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(12_000..32_000)));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port")
}

/// The port of a [`free_address`].
pub fn free_port() -> Result<u16> {
    Ok(free_address()?.port())
}
