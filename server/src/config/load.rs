//! Reading the configuration, and saying everything that is wrong with it at once.
//!
//! The defaults, as a tree, say which keys there are. Each value that is given is tried by itself in that tree, so that every
//! bad one is found and not just the first.

use std::fmt;
use std::path::{Path, PathBuf};

use saphyr::{LoadableYamlNode as _, MarkedYaml, Scalar, YamlData};
use serde_json::Value;

use super::Config;

/// Read if it is there and no other path is given.
pub const DEFAULT_PATH: &str = "config.yaml";

/// Variables of this form override the file: `FLOWFORGE__SERVER__HTTP`.
const ENV_PREFIX: &str = "FLOWFORGE__";

/// Why there is no configuration. Displays one line a problem.
#[derive(Debug)]
pub struct ConfigError {
    problems: Vec<String>,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [one] => f.write_str(one),
            many => {
                write!(f, "the configuration has {} problems:", many.len())?;
                many.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

/// A value that was given, and where.
#[derive(Debug)]
struct Given {
    /// `["server", "http"]`.
    key: Vec<String>,
    value: Value,
    place: String,
}

impl Config {
    /// The file (`config.yaml` if there is one and none is named), then the environment.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let default = PathBuf::from(DEFAULT_PATH);
        let file = path.map(Path::to_path_buf).or_else(|| default.exists().then_some(default));
        let text = match &file {
            None => String::new(),
            Some(file) => std::fs::read_to_string(file).map_err(|error| ConfigError {
                problems: vec![format!("cannot read the configuration {}: {error}", file.display())],
            })?,
        };
        let name = file.map_or_else(|| DEFAULT_PATH.to_owned(), |file| file.display().to_string());
        Self::from_sources(
            &name,
            &text,
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))),
        )
    }

    /// `name` is shown in errors. Pure, for tests.
    pub fn from_sources(
        name: &str,
        yaml: &str,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let defaults = serde_json::to_value(Self::default()).expect("the defaults are plain data");
        let mut problems = Vec::new();
        let mut given = from_yaml(name, yaml, &mut problems);
        given.extend(from_env(env, &defaults));
        let mut tree = defaults.clone();
        for one in &given {
            match check(one, &defaults) {
                Ok(()) => put(&mut tree, &one.key, one.value.clone()),
                Err(words) => problems.push(format!("{}: {words}", one.place)),
            }
        }
        let config: Option<Self> = serde_json::from_value(tree).ok();
        for (key, words) in config.as_ref().map(Self::problems).unwrap_or_default() {
            let place = given
                .iter()
                .rfind(|one| one.key.join(".") == key)
                .map_or_else(|| name.to_owned(), |one| one.place.clone());
            problems.push(format!("{place}: {key} {words}"));
        }
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(ConfigError { problems }),
        }
    }
}

/// Whether this one value, alone in the tree of defaults, is good.
fn check(one: &Given, defaults: &Value) -> Result<(), String> {
    let key = one.key.join(".");
    let mut at = defaults;
    for (depth, part) in one.key.iter().enumerate() {
        let Some(known) = at.as_object() else { return Err(format!("{key} is a value, not a section")) };
        at = known.get(part).ok_or_else(|| unknown(&one.key[..=depth], known.keys()))?;
    }
    if at.is_object() {
        return Err(format!("{key} is a section: its keys must be indented below it"));
    }
    let mut tree = defaults.clone();
    put(&mut tree, &one.key, one.value.clone());
    match serde_path_to_error::deserialize::<_, Config>(tree) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{key} {}", plain(&error.into_inner().to_string()))),
    }
}

fn unknown<'a>(key: &[String], known: impl Iterator<Item = &'a String>) -> String {
    let (section, last) = (&key[..key.len() - 1], &key[key.len() - 1]);
    let nearest = known.max_by(|a, b| strsim::jaro_winkler(a, last).total_cmp(&strsim::jaro_winkler(b, last)));
    let path = |last: &str| section.iter().map(String::as_str).chain([last]).collect::<Vec<_>>().join(".");
    let hint = nearest.map_or_else(String::new, |nearest| format!("; the nearest known one is {}", path(nearest)));
    format!("unknown key {}{hint}", path(last))
}

/// serde's words for a wrong type, made to follow a key's name.
fn plain(words: &str) -> String {
    if words.starts_with("must") { words.to_owned() } else { format!("is not usable: {words}") }
}

fn put(tree: &mut Value, key: &[String], value: Value) {
    let mut at = tree;
    for part in key {
        at = &mut at[part.as_str()];
    }
    *at = value;
}

fn from_yaml(name: &str, yaml: &str, problems: &mut Vec<String>) -> Vec<Given> {
    let mut given = Vec::new();
    match MarkedYaml::load_from_str(yaml) {
        Err(error) => problems.push(format!("{name} is not YAML: {error}")),
        Ok(documents) if documents.len() > 1 => problems.push(format!("{name} holds more than one YAML document")),
        Ok(documents) => {
            for root in &documents {
                walk(name, root, &mut Vec::new(), &mut given, problems);
            }
        }
    }
    given
}

fn walk(name: &str, node: &MarkedYaml<'_>, key: &mut Vec<String>, given: &mut Vec<Given>, problems: &mut Vec<String>) {
    match &node.data {
        YamlData::Mapping(entries) => {
            for (entry_key, value) in entries {
                let Some(part) = entry_key.data.as_str() else {
                    problems.push(format!("{}: a key must be text", place(name, entry_key)));
                    continue;
                };
                key.push(part.to_owned());
                if matches!(value.data, YamlData::Mapping(_)) {
                    walk(name, value, key, given, problems);
                } else if let Some(value) = to_json(value) {
                    given.push(Given { key: key.clone(), value, place: place(name, entry_key) });
                }
                key.pop();
            }
        }
        YamlData::Value(Scalar::Null) => {}
        _ => problems.push(format!("{}: expected sections such as \"server:\"", place(name, node))),
    }
}

fn place(name: &str, node: &MarkedYaml<'_>) -> String {
    format!("{name}, line {}, column {}", node.span.start.line(), node.span.start.col() + 1)
}

/// `None` for an empty value: a key whose values are all commented out.
fn to_json(node: &MarkedYaml<'_>) -> Option<Value> {
    match &node.data {
        YamlData::Value(Scalar::Null) => None,
        YamlData::Value(Scalar::Boolean(value)) => Some(Value::from(*value)),
        YamlData::Value(Scalar::Integer(value)) => Some(Value::from(*value)),
        YamlData::Value(Scalar::FloatingPoint(value)) => Some(Value::from(value.into_inner())),
        YamlData::Value(Scalar::String(value)) => Some(Value::from(value.as_ref())),
        YamlData::Sequence(items) => Some(items.iter().filter_map(to_json).collect()),
        _ => Some(Value::from("a YAML feature that is not supported here")),
    }
}

/// Values are text; where the default is a number or a flag, they are read as one, and where it is a list, split at commas.
fn from_env(env: impl IntoIterator<Item = (String, String)>, defaults: &Value) -> Vec<Given> {
    let mut given = Vec::new();
    for (name, text) in env {
        let Some(rest) = name.strip_prefix(ENV_PREFIX) else { continue };
        let key: Vec<String> = rest.split("__").map(str::to_ascii_lowercase).collect();
        let default = key.iter().try_fold(defaults, |at, part| at.get(part));
        let value = match default {
            Some(Value::Number(_) | Value::Bool(_)) => serde_json::from_str(&text).unwrap_or(Value::from(text)),
            Some(Value::Array(_)) => text.split(',').map(str::trim).map(Value::from).collect(),
            _ => Value::from(text),
        };
        given.push(Given { key, value, place: format!("environment variable {name}") });
    }
    given.sort_by(|a, b| a.place.cmp(&b.place));
    given
}

#[cfg(test)]
mod tests {
    use super::super::{Period, Size, StorageDriver};
    use super::*;

    fn load(yaml: &str, env: &[(&str, &str)]) -> Result<Config, String> {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::from_sources("c.yaml", yaml, env).map_err(|error| error.to_string())
    }

    #[test]
    fn the_shipped_file_says_the_defaults() {
        let text = include_str!("../../../config.yaml");
        assert_eq!(load(text, &[]).unwrap(), Config::default());
        let Value::Object(sections) = serde_json::to_value(Config::default()).unwrap() else { panic!("not a tree") };
        for (section, keys) in sections {
            for key in keys.as_object().unwrap().keys() {
                assert!(text.contains(&format!("\n  {key}: ")), "config.yaml does not document {section}.{key}");
            }
        }
    }

    #[test]
    fn nothing_given_means_the_defaults() {
        assert_eq!(load("", &[]).unwrap(), Config::default());
        assert_eq!(load("# all commented out\nserver:\n", &[("FLOWFORGE_SERVER", "x")]).unwrap(), Config::default());
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let yaml = "server:\n  http: 0.0.0.0:1\nbatch:\n  max_rows: 7\nsqlite: { path: a.db, busy_timeout: 1s }\n";
        let env = [("FLOWFORGE__SERVER__HTTP", "127.0.0.1:2"), ("FLOWFORGE__RETENTION__DAYS", "3")];
        let config = load(yaml, &env).unwrap();
        assert_eq!(config.server.http.port(), 2);
        assert_eq!((config.batch.max_rows, config.retention.days), (7, 3));
        assert_eq!((config.sqlite.path, config.sqlite.busy_timeout), ("a.db".into(), Period::seconds(1)));
    }

    #[test]
    fn every_problem_is_told_at_once_with_its_place() {
        let yaml =
            "server:\n  htp: 1\nlogging:\n  storage_driver: mongo\nbatch:\n  max_delay: 5\nlimits: 3\nserve:\n  a: 1\n";
        let error =
            load(yaml, &[("FLOWFORGE__TAIL__BUFFERS", "1"), ("FLOWFORGE__TAIL__DEFAULT_LINES", "many")]).unwrap_err();
        for words in [
            "6 problems",
            "c.yaml, line 2, column 3: unknown key server.htp; the nearest known one is server.http",
            "c.yaml, line 4, column 3: logging.storage_driver is not usable: unknown variant `mongo`, expected one of `sqlite`, `postgres`, `clickhouse`",
            "c.yaml, line 6, column 3: batch.max_delay must be a duration such as 500ms, 10s or 5m, with its unit, but is 5",
            "c.yaml, line 7, column 1: limits is a section",
            "unknown key serve; the nearest known one is server",
            "environment variable FLOWFORGE__TAIL__BUFFERS: unknown key tail.buffers; the nearest known one is tail.buffer",
        ] {
            assert!(error.contains(words) || words == "6 problems", "{words:?} is not in:\n{error}");
        }
        assert!(error.contains("7 problems"), "{error}");
    }

    #[test]
    fn lists_and_secrets_come_from_the_environment_too() {
        let env = [("FLOWFORGE__CLICKHOUSE__HOSTS", "a, b:1"), ("FLOWFORGE__CLICKHOUSE__PASSWORD", "4711")];
        let config = load("clickhouse:\n  hosts: [c]\n", &env).unwrap();
        assert_eq!(config.clickhouse.hosts, ["a", "b:1"]);
        assert_eq!(config.clickhouse.password.reveal(), "4711");
        assert!(!format!("{config:?}").contains("4711"));
        let error = load("clickhouse:\n  hosts: [\"tcp://a\"]\n  password: 4711\n", &[]).unwrap_err();
        assert!(error.contains("line 3, column 3: clickhouse.password must be text: put it in quotes"), "{error}");
        assert!(error.contains("line 2, column 3: clickhouse.hosts has \"tcp://a\", which is not"), "{error}");
        assert!(!error.contains("4711"), "{error}");
    }

    #[test]
    fn the_flush_interval_follows_the_store() {
        let interval = |yaml| load(yaml, &[]).unwrap().min_interval().as_millis();
        assert_eq!(interval(""), 200);
        assert_eq!(interval("logging:\n  storage_driver: clickhouse\n"), 500);
        assert_eq!(interval("logging:\n  storage_driver: clickhouse\nbatch:\n  min_interval: 1s\n"), 1000);
    }

    #[test]
    fn rules_between_values_are_checked() {
        let error = load("limits:\n  max_line_bytes: 4MiB\n", &[]).unwrap_err();
        assert!(error.contains("limits.max_message_bytes must be at least twice"), "{error}");
        let good = load("limits:\n  max_line_bytes: 1MiB\n", &[]).unwrap();
        assert_eq!(good.limits.max_line_bytes, Size::mebibytes(1));
        assert_eq!(good.logging.storage_driver, StorageDriver::Sqlite);
    }

    #[test]
    fn a_canary_is_off_unless_it_is_asked_for() {
        assert!(!load("", &[]).unwrap().canary.enabled);
        let given = load("canary:\n  interval: 100ms\n", &[("FLOWFORGE__CANARY__ENABLED", "true")]).unwrap().canary;
        assert!(given.enabled && given.interval == Period::milliseconds(100));
        let error = load("canary:\n  interval: 1ms\n  fail_after: 900ms\n  enabled: yes please\n", &[]).unwrap_err();
        assert!(error.contains("line 4, column 3: canary.enabled is not usable"), "{error}");
        assert!(error.contains("line 2, column 3: canary.interval must be 10ms to 1h"), "{error}");
        assert!(error.contains("line 3, column 3: canary.fail_after must be at least 1s"), "{error}");
        assert_eq!(load("canary:\n  name: blue-1\n", &[]).unwrap().canary.name, "blue-1");
        for bad in ["a/b", "a b", "größe", &"x".repeat(112)] {
            let error = load(&format!("canary:\n  name: {bad}\n"), &[]).unwrap_err();
            assert!(error.contains("line 2, column 3: canary.name may have letters, digits"), "{error}");
        }
    }

    #[test]
    fn broken_yaml_and_missing_files_are_one_clear_line() {
        assert!(load("server: [", &[]).unwrap_err().contains("c.yaml is not YAML"));
        assert!(load("- a\n", &[]).unwrap_err().contains("expected sections"));
        let error = Config::load(Some(Path::new("/no/such.yaml"))).unwrap_err().to_string();
        assert!(error.contains("cannot read the configuration /no/such.yaml"), "{error}");
    }
}
