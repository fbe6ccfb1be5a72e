//! Names of tenants and tasks. They come from outside and end up in URLs, Redis channels and file names, so the rule is
//! narrow and a [`TaskKey`] can only be built by passing it.

use std::fmt;
use std::sync::Arc;

/// The tenant of a task whose producer named none.
pub const DEFAULT_TENANT: &str = "default";

/// Longest tenant or task id, in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// A tenant or task id that breaks the rule. The message quotes at most 40 characters of what was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {given:?} is not valid: it must be 1 to {MAX_NAME_BYTES} characters, start with a letter or digit, and hold only letters, digits, '.', '_' and '-'"
)]
pub struct InvalidName {
    what: &'static str,
    given: String,
}

/// Which task a line belongs to: tenant and task id, both valid. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskKey(Arc<Names>);

#[derive(PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Names {
    tenant: Box<str>,
    task_id: Box<str>,
}

impl TaskKey {
    /// Checks both names; an empty tenant means [`DEFAULT_TENANT`].
    pub fn new(tenant: &str, task_id: &str) -> Result<Self, InvalidName> {
        let tenant = if tenant.is_empty() { DEFAULT_TENANT } else { tenant };
        check("tenant", tenant)?;
        check("task id", task_id)?;
        Ok(Self(Arc::new(Names { tenant: tenant.into(), task_id: task_id.into() })))
    }

    /// The tenant.
    pub fn tenant(&self) -> &str {
        &self.0.tenant
    }

    /// The task id.
    pub fn task_id(&self) -> &str {
        &self.0.task_id
    }
}

/// Checks one name alone, for callers that have only a tenant.
pub fn check(what: &'static str, name: &str) -> Result<(), InvalidName> {
    let mut bytes = name.bytes();
    let starts_well = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let goes_on_well = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if starts_well && goes_on_well && name.len() <= MAX_NAME_BYTES {
        return Ok(());
    }
    Err(InvalidName { what, given: name.chars().take(40).collect() })
}

impl fmt::Display for TaskKey {
    /// `<task_id>` for the default tenant, else `<tenant>/<task_id>`: the form used in channels and keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tenant() == DEFAULT_TENANT {
            f.write_str(self.task_id())
        } else {
            write!(f, "{}/{}", self.tenant(), self.task_id())
        }
    }
}

impl fmt::Debug for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_refused_with_the_rule() {
        let long = "a".repeat(129);
        let hostile =
            ["", "../x", "%2e%2e", "a*", "{x}", "a:b", "a\r\nb", "a\0b", "-a", ".a", "a/b", "ä", long.as_str()];
        for name in hostile {
            let error = TaskKey::new("", name).expect_err(name);
            assert!(error.to_string().contains("must be 1 to 128 characters"), "{error}");
        }
        assert!(TaskKey::new("a b", "x").is_err());
    }

    #[test]
    fn shown_with_its_tenant_only_where_that_is_not_the_default() {
        assert_eq!(TaskKey::new("", "a.B_c-9").unwrap().to_string(), "a.B_c-9");
        assert_eq!(TaskKey::new("team", "x").unwrap().to_string(), "team/x");
    }
}
