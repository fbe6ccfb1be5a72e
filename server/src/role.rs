//! What a server process does: all of it, or a part, with others over the same Redis and store.

use clap::ValueEnum;

/// One thing that a server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Takes lines from producers over gRPC
    Ingest,
    /// Shows lines to readers over HTTP
    Tail,
    /// Writes queued lines to the store
    Worker,
    /// Deletes lines by age
    Retention,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ingest, Self::Tail, Self::Worker, Self::Retention];
}

/// The roles of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles(Vec<Role>);

impl Roles {
    /// These.
    pub fn of(roles: &[Role]) -> Self {
        Self(roles.to_vec())
    }

    /// Whether this process has the role.
    pub fn has(&self, role: Role) -> bool {
        self.0.contains(&role)
    }
}
