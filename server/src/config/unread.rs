//! Environment variables that look like settings and are none, for want of a second underscore.

use serde_json::Value;

use super::Config;

/// How like a known key the rest of a name must be. Kubernetes makes variables of service names, `FLOWFORGE_SERVER_PORT` and the
/// like, which nobody meant for us.
const LIKENESS: f64 = 0.85;

/// One line for each of these names that was surely meant for the configuration, and is not read: what to write instead.
pub fn unread_variables(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let defaults = serde_json::to_value(Config::default()).expect("the defaults are plain data");
    let mut lines: Vec<String> = names
        .into_iter()
        .filter_map(|name| {
            let meant = meant(&name, &defaults)?;
            Some(format!("environment variable {name} is not read: two underscores stand before the section and before the key; did you mean {meant}?"))
        })
        .collect();
    lines.sort();
    lines
}

fn meant(name: &str, defaults: &Value) -> Option<String> {
    let rest = name.strip_prefix("FLOWFORGE_")?.to_ascii_lowercase();
    // This form is read, or refused as an unknown key.
    if rest.starts_with('_') {
        return None;
    }
    let (section, keys) = defaults
        .as_object()?
        .iter()
        .find(|(section, _)| rest.strip_prefix(section.as_str()).is_some_and(|key| key.starts_with(['_', '.', '-'])))?;
    let wanted = rest[section.len()..].trim_start_matches(['_', '.', '-']);
    let likeness = |key: &str| strsim::jaro_winkler(key, wanted);
    let nearest = keys.as_object()?.keys().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(nearest) >= LIKENESS)
        .then(|| format!("FLOWFORGE__{}__{}", section.to_ascii_uppercase(), nearest.to_ascii_uppercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_separator_is_told_with_the_right_name() {
        let meant = |name: &str| unread_variables([name.to_owned()]).pop().unwrap_or_default();
        for (wrong, right) in [
            ("FLOWFORGE_SERVER_HTTP", "FLOWFORGE__SERVER__HTTP"),
            ("FLOWFORGE_SERVER__HTTP", "FLOWFORGE__SERVER__HTTP"),
            ("FLOWFORGE_QUEUE_MAX_TENANT_BYTES", "FLOWFORGE__QUEUE__MAX_TENANT_BYTES"),
            ("FLOWFORGE_LOGGING_STORAGE_DRIVE", "FLOWFORGE__LOGGING__STORAGE_DRIVER"),
        ] {
            let words = meant(wrong);
            assert!(words.starts_with(&format!("environment variable {wrong} is not read")), "{words}");
            assert!(words.ends_with(&format!("did you mean {right}?")), "{words}");
        }
    }

    #[test]
    fn what_is_read_or_meant_for_others_is_left_alone() {
        let names = [
            "FLOWFORGE__SERVER__HTTP",
            "FLOWFORGE_SERVER",
            "FLOWFORGE_HTTP",
            "FLOWFORGE_TASK_ID",
            "FLOWFORGE_SPOOL_SIZE",
            "FLOWFORGE_SERVER_SERVICE_HOST",
            "FLOWFORGE_SERVER_PORT",
            "FLOWFORGE_SERVER_PORT_8080_TCP_PROTO",
            "PATH",
        ];
        assert_eq!(unread_variables(names.map(str::to_owned)), [""; 0]);
    }
}
