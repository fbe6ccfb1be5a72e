//! The id of a task that the user did not name: `<program>-<UTC time>-<6 random>`.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Programs whose name says less than the script that they run.
const INTERPRETERS: [&str; 13] =
    ["python", "pypy", "ruby", "perl", "node", "php", "lua", "Rscript", "julia", "sh", "bash", "dash", "zsh"];

/// An id for this command, within the rule for ids.
pub(super) fn new_task_id(command: &[OsString]) -> String {
    let time = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S");
    let random: String = (0..6).map(|_| fastrand::char('a'..='z')).collect();
    format!("{}-{time}-{random}", name(command))
}

/// What the command is called, in the letters of an id.
fn name(command: &[OsString]) -> String {
    let Some((program, args)) = command.split_first() else { return "task".to_owned() };
    let program = Path::new(program).file_name().unwrap_or(program).to_string_lossy();
    let name = script(&program, args).unwrap_or_else(|| program.into_owned());
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = name.chars().map(safe).take(64).collect();
    match name.trim_matches(|c: char| !c.is_ascii_alphanumeric()) {
        "" => "task".to_owned(),
        name => name.to_owned(),
    }
}

/// `pipeline` for `python3 -u jobs/pipeline.py …`, and for `python3 -m pipeline`.
fn script(program: &str, args: &[OsString]) -> Option<String> {
    let bare = program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    if !INTERPRETERS.contains(&bare) {
        return None;
    }
    for (at, arg) in args.iter().enumerate() {
        let text = arg.to_string_lossy();
        match text.strip_prefix('-') {
            Some("m") => return args.get(at + 1).map(|module| module.to_string_lossy().into_owned()),
            // Program text, as in `sh -c` and `bash -ec`: no name in it.
            Some(flags) if flags.ends_with(['c', 'e']) && !flags.starts_with('-') => return None,
            // Behind other flags, a word may be the value of one (`-W ignore`) and is taken for a script by its look.
            None if at == 0 || Path::new(arg).extension().is_some() => {
                return Path::new(arg).file_stem().map(OsStr::to_string_lossy).map(Into::into);
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(command: &str) -> String {
        let command: Vec<OsString> = command.split(' ').map(OsString::from).collect();
        name(&command)
    }

    #[test]
    fn made_ids_are_valid() {
        for program in ["/usr/bin/python3", "a b", "日本", "-x", "", &"y".repeat(300), ".hidden."] {
            let id = new_task_id(&[OsString::from(program)]);
            assert!(flowforge_client::is_valid_id(&id), "{id}");
        }
        assert!(new_task_id(&[OsString::from("/bin/sh")]).starts_with("sh-2"));
    }

    #[test]
    fn a_script_names_the_task_rather_than_its_interpreter() {
        for (command, expected) in [
            ("python3 path/pipeline.py --x a.csv", "pipeline"),
            ("/usr/bin/python3.11 -u -W ignore train.py", "train"),
            ("python -m pkg.etl --fast", "pkg.etl"),
            ("bash ./deploy now", "deploy"),
            ("sh -c ./x.sh", "sh"),
            ("bash -ec ./x.sh", "bash"),
            ("node --inspect srv.mjs", "srv"),
            ("python3", "python3"),
            ("./tool.py a.txt", "tool.py"),
            ("make build.mk", "make"),
        ] {
            assert_eq!(named(command), expected, "{command}");
        }
    }
}
