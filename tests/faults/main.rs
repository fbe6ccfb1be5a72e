//! Each fault once, on one pairing of broker and store that it can happen on. `make matrix` runs all pairings.

use anyhow::{Context as _, Result};
use flowforge_tests::faults::{self, survive};
use flowforge_tests::site::Pair;

/// Runs it on the pairing whose turn it is, so that each pairing has its share of the faults.
async fn once(name: &str) -> Result<()> {
    let fault = faults::ALL.iter().find(|fault| fault.name == name).with_context(|| format!("no fault {name}"))?;
    let fitting: Vec<Pair> = Pair::ALL.into_iter().filter(|pair| (fault.applies)(*pair)).collect();
    let pair = fitting[usize::from(fault.number) % fitting.len()];
    let outcome = survive(fault, pair).await?;
    eprintln!("{name} on {pair}: {outcome:?}");
    Ok(())
}

macro_rules! each_once {
    ($($name:ident)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() -> Result<()> {
                once(stringify!($name)).await
            }
        )+

        #[test]
        fn no_fault_is_forgotten() {
            let named = [$(stringify!($name)),+];
            let all: Vec<&str> = faults::ALL.iter().map(|fault| fault.name).collect();
            assert_eq!(all, named);
        }
    };
}

each_once! {
    server_killed
    killed_between_append_and_ack
    killed_between_commit_and_acknowledgement
    worker_frozen_past_its_hold
    half_open_stream
    connection_cut_in_mid_frame
    slow_link
    redis_killed_and_restarted
    redis_wiped
    redis_stalls
    redis_out_of_memory
    subscription_cut
    postgres_backends_killed
    store_away
    commit_outcome_unknown
    disk_full
    poison_rows
    clock_jumps
    five_hundred_viewers_that_do_not_read
    rolling_restart
}
