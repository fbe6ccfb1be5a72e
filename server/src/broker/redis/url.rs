//! Which forms of address there are.
//!
//! | form | what |
//! |---|---|
//! | `redis://[user:password@]host[:port][/db]` | one server |
//! | `redis+sentinel://[user:password@]host[:port],host[:port]/master[/db]` | the master that these Sentinels name |
//! | `redis+cluster://[user:password@]host[:port],host[:port]` | a Cluster, by some of its nodes |
//!
//! With `rediss` instead of `redis` each is spoken over TLS.

/// Where Redis is. Holds passwords: has no `Debug` on purpose.
#[derive(Clone, PartialEq, Eq)]
pub enum RedisAddress {
    /// One server, as a URL that the client understands.
    Single(String),
    /// Sentinels.
    Sentinel(Sentinels),
    /// Some nodes of a Cluster, as URLs.
    Cluster(Vec<String>),
}

/// Who knows which server is the master.
#[derive(Clone, PartialEq, Eq)]
pub struct Sentinels {
    /// Their URLs.
    pub sentinels: Vec<String>,
    /// The name under which they know the master.
    pub master: String,
    /// Which database.
    pub db: i64,
    /// Of the master.
    pub username: Option<String>,
    /// Of the master.
    pub password: Option<String>,
    /// With everybody.
    pub tls: bool,
}

impl RedisAddress {
    /// Reads one of the forms. The error is words that follow a key's name, and never quotes what may be a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let forms = "must be redis://host:port, rediss://host:port, redis+sentinel://host:port,host:port/master or \
                     redis+cluster://host:port,host:port";
        let (scheme, rest) = text.split_once("://").ok_or(forms)?;
        let (user, hosts) = rest.rsplit_once('@').map_or(("", rest), |(user, hosts)| (user, hosts));
        let (hosts, path) = hosts.split_once('/').unwrap_or((hosts, ""));
        let tls = scheme.starts_with("rediss");
        let plain = if tls { "rediss" } else { "redis" };
        let at = if user.is_empty() { String::new() } else { format!("{user}@") };
        let nodes = |at: &str| -> Result<Vec<String>, String> {
            let nodes: Vec<String> = hosts.split(',').map(|host| format!("{plain}://{at}{}", host.trim())).collect();
            nodes.iter().try_for_each(|node| check(node))?;
            Ok(nodes)
        };
        match scheme {
            "redis" | "rediss" => {
                check(text)?;
                Ok(Self::Single(text.to_owned()))
            }
            "redis+cluster" | "rediss+cluster" => Ok(Self::Cluster(nodes(&at)?)),
            "redis+sentinel" | "rediss+sentinel" => {
                let (master, db) = path.split_once('/').unwrap_or((path, "0"));
                if master.is_empty() {
                    return Err(
                        "must name the master after the Sentinels: redis+sentinel://host:port/master".to_owned()
                    );
                }
                let db = db.parse().map_err(|_| "must end in the number of a database, or without one".to_owned())?;
                let (username, password) = user.split_once(':').unwrap_or(("", user));
                let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
                let (username, password) = (some(username), some(password));
                let (sentinels, master) = (nodes("")?, master.to_owned());
                Ok(Self::Sentinel(Sentinels { sentinels, master, db, username, password, tls }))
            }
            _ => Err(forms.to_owned()),
        }
    }
}

fn check(url: &str) -> Result<(), String> {
    let bad = || "is not a valid address: a host, perhaps :port and /database are expected after ://".to_owned();
    redis::IntoConnectionInfo::into_connection_info(url).map(drop).map_err(|_| bad())
}

/// An address without user and password.
pub fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "an address".to_owned() };
    format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, hosts)| hosts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        let single = |url: &str| RedisAddress::parse(url) == Ok(RedisAddress::Single(url.to_owned()));
        assert!(single("redis://127.0.0.1:6379/3") && single("rediss://u:p@h"));
        let cluster = RedisAddress::parse("redis+cluster://u:p@a:1,b:2").map_err(|_| ());
        assert!(cluster == Ok(RedisAddress::Cluster(vec!["redis://u:p@a:1".to_owned(), "redis://u:p@b:2".to_owned()])));
        let Ok(RedisAddress::Sentinel(at)) = RedisAddress::parse("rediss+sentinel://:secret@a:1,b:2/main/5") else {
            panic!("not a Sentinel address");
        };
        assert_eq!((at.sentinels.len(), at.master.as_str(), at.db, at.tls), (2, "main", 5, true));
        assert_eq!((at.username, at.password.as_deref()), (None, Some("secret")));
    }

    #[test]
    fn a_refusal_does_not_quote_the_password() {
        for bad in ["secret", "http://u:secret@h", "redis+sentinel://u:secret@h", "redis://u:secret@h:port"] {
            let Err(words) = RedisAddress::parse(bad) else { panic!("{bad} is taken") };
            assert!(words.starts_with("must") || words.starts_with("is not"), "{words}");
            assert!(!words.contains("secret"), "{words}");
        }
        assert_eq!(shown("redis://u:secret@h:1/2"), "redis://h:1/2");
    }
}
