//! A certificate for this machine's loopback address, of an authority that nobody knows.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

const EXTENSIONS: &str = "basicConstraints=CA:FALSE\nsubjectAltName=IP:127.0.0.1,DNS:localhost\n";

/// Files of PEM, deleted when dropped.
#[derive(Debug)]
pub struct Certificate {
    dir: TempDir,
}

impl Certificate {
    /// Makes an authority, and a certificate by it.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("flowforge-tls-").tempdir()?;
        std::fs::write(dir.path().join("extensions"), EXTENSIONS)?;
        let certificate = Self { dir };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        certificate.openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=authority -days 2"))?;
        certificate.openssl(&format!("req {key} -keyout key.pem -out request -subj /CN=localhost"))?;
        let signed_by = "-CA ca.pem -CAkey ca.key -CAcreateserial";
        certificate.openssl(&format!("x509 -req -in request {signed_by} -extfile extensions -out cert.pem -days 2"))?;
        Ok(certificate)
    }

    /// Whom to trust.
    pub fn authority(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// What the server shows.
    pub fn cert(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    /// Its key.
    pub fn key(&self) -> PathBuf {
        self.dir.path().join("key.pem")
    }

    fn openssl(&self, words: &str) -> Result<()> {
        let output = Command::new("openssl").args(words.split(' ')).current_dir(self.dir.path()).output();
        let output = output.context("openssl is needed: apt-get install openssl")?;
        ensure!(output.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}
