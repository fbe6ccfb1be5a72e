//! Every fault on every pairing.

use std::io::Write as _;

use anyhow::{Result, ensure};
use flowforge_tests::faults::{self, Fault, survive};
use flowforge_tests::site::Pair;

/// Prints each cell as soon as it is known, and what failed in the end. `true`: all survived.
pub(crate) async fn run(fault: &str, pair: &str) -> Result<bool> {
    let faults: Vec<&Fault> = faults::ALL.iter().filter(|known| known.name.contains(fault)).collect();
    let pairs: Vec<Pair> = Pair::ALL.into_iter().filter(|known| known.to_string().contains(pair)).collect();
    ensure!(!faults.is_empty() && !pairs.is_empty(), "there is no such fault or pairing");
    let (mut out, mut failures) = (std::io::stdout(), Vec::new());
    write!(out, "{:<45}", "fault, seconds to recovery")?;
    pairs.iter().try_for_each(|pair| write!(out, "{:>18}", pair.to_string()))?;
    for fault in faults {
        write!(out, "\n{:>2} {:<42}", fault.number, fault.name)?;
        for pair in &pairs {
            let cell = if (fault.applies)(*pair) { cell(fault, *pair, &mut failures).await } else { "-".to_owned() };
            write!(out, "{cell:>18}")?;
            out.flush()?;
        }
    }
    writeln!(out)?;
    failures.iter().try_for_each(|failure| writeln!(out, "\n{failure}"))?;
    Ok(failures.is_empty())
}

async fn cell(fault: &Fault, pair: Pair, failures: &mut Vec<String>) -> String {
    match survive(fault, pair).await {
        Ok(outcome) => format!("{:.2}", outcome.recovery.as_secs_f64()),
        Err(error) => {
            failures.push(format!("{error:#}"));
            "FAILED".to_owned()
        }
    }
}
