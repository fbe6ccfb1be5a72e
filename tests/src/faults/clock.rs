//! Clocks that jump. Needs Debian's `libfaketime`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::site::Site;

/// Each server's clock an hour ahead, then an hour behind, and back, each time while it runs and again over a kill.
pub(super) async fn jumps(site: &mut Site) -> Result<Duration> {
    let library = library()?;
    let mut longest = Duration::ZERO;
    for number in 0..site.servers.len() {
        let server = &mut site.servers[number];
        let clock = server.dir().join("clock");
        std::fs::write(&clock, "+0\n")?;
        // The monotonic clock does not jump; the file is looked at anew for each reading.
        for (name, value) in [
            ("LD_PRELOAD", library.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", &clock.display().to_string()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ] {
            server.set_env(name, Some(value));
        }
        server.kill9()?;
        server.restart().await?;
        for offset in ["+3600", "-3600", "+0"] {
            std::fs::write(&clock, format!("{offset}\n"))?;
            longest = longest.max(site.recovered().await?);
            site.servers[number].kill9()?;
            site.servers[number].restart().await?;
            longest = longest.max(site.recovered().await?);
        }
    }
    Ok(longest)
}

fn library() -> Result<String> {
    let folders = std::fs::read_dir("/usr/lib").context("/usr/lib")?;
    let found = folders.flatten().map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let found = found.into_iter().find(|path| Path::is_file(path));
    let found = found.context("libfaketime is not installed (Debian: apt-get install libfaketime)")?;
    Ok(found.display().to_string())
}
