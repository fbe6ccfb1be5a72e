"""Breaks the product on purpose, one promise at a time, and checks that the named test notices.

Each mutant is a change of one file. It is applied to a copy of the committed tree, the program is built, and the test that
is meant to catch it must fail; on the unchanged copy the same tests must pass. `make mutants` runs all; names as arguments
run some.
"""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "mutants"
COPY = WORK / "tree"
ENV = {**os.environ, "CARGO_TARGET_DIR": str(WORK / "target"), "RUST_BACKTRACE": "0"}


@dataclass
class Mutant:
    name: str
    breaks: str
    file: str
    find: str
    replace: str
    #: Test binary of flowforge-tests and name of the test.
    caught_by: tuple[str, str]


MUTANTS = [
    Mutant(
        "digest-not-compared",
        "Verified means that what is stored is what was sent.",
        "server/src/proof/verdict.rs",
        """        (proof.digest != hex(&fold.digest)).then(||""",
        """        false.then(||""",
        ("e2e", "proof::a_changed_row_is_noticed"),
    ),
    Mutant(
        "holes-not-noticed",
        "Verified means that every number is stored once.",
        "server/src/proof/reading.rs",
        """        if begin > expected {
""",
        """        if begin > expected && row.seq == 0 {
""",
        ("e2e", "proof::a_missing_row_and_one_too_many_are_named"),
    ),
    Mutant(
        "ack-before-commit",
        "An ack means stored.",
        "server/src/writer/mod.rs",
        """            self.store_delivery(&delivery).await;
            fail_point::pass(FailPoint::Committed);
            self.broker.stored(delivery).await;
""",
        """            self.broker.stored(Delivery { batches: delivery.batches.clone() }).await;
            self.store_delivery(&delivery).await;
""",
        ("e2e", "crash::killed_ten_times_under_load"),
    ),
    Mutant(
        "history-before-subscribe",
        "Subscribe, then read the position, then scan.",
        "server/src/tail/mod.rs",
        """                position = self.look().await?;
                if !self.request.follow &&""",
        """                // History up to the end that was there at first, then whatever comes from now on.
                if live {
                    position = self.look().await?;
                } else if self.next > position.end {
                    position = self.look().await?;
                    self.next = position.end + 1;
                }
                if !self.request.follow &&""",
        ("e2e", "opens::two_hundred_random_opens_miss_nothing_and_repeat_nothing"),
    ),
    Mutant(
        "publish-before-append",
        "Publishing is the last step of an atomic append.",
        "server/src/broker/memory/session.rs",
        """        let published = {
""",
        """        {
            let (first, epoch) = {
                let state = self.slot.lock();
                (state.end + 1, state.position().epoch().epoch)
            };
            let early = lines.iter().cloned().zip(0..).map(|(line, at)| {
                crate::broker::record_of(line, self.producer, first_seq + at, first + at, epoch, now_ms())
            });
            let batch = crate::broker::Batch::new(self.slot.key.clone(), self.producer, early.collect());
            self.slot.feed.push(Arc::new(batch));
            self.slot.feed.wake();
        }
        let published = {
""",
        ("e2e", "protocol::a_gap_in_the_numbers_is_answered_with_resync_and_repeats_are_dropped"),
    ),
    Mutant(
        "dedupe-off",
        "What is already there is dropped.",
        "server/src/broker/task/state.rs",
        """        if seq <= queued {
            return None;
        }
""",
        "",
        ("e2e", "protocol::a_gap_in_the_numbers_is_answered_with_resync_and_repeats_are_dropped"),
    ),
    Mutant(
        "batch-dropped-on-a-failed-insert",
        "What the store cannot take now is tried again for as long as it takes.",
        "server/src/writer/mod.rs",
        """                sleep(delay.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                delay = (delay * 2).min(RETRY_MOST);
""",
        """                sleep(delay).await;
                delay = RETRY_MOST;
                return Ok(());
""",
        ("e2e", "shutdown::sigterm_with_a_blocked_store_ends_in_time_and_says_what_is_left"),
    ),
    Mutant(
        "canary-misses-lines",
        "The canary notices a line that does not come.",
        "server/src/canary/read.rs",
        """        let Some(number) = number else { return };""",
        """        let Some(number) = number.filter(|number| number % 97 != 5) else { return };""",
        ("e2e", "canary::an_ordinary_task_that_is_seen_and_ends_well"),
    ),
]


def fresh_copy() -> None:
    shutil.rmtree(COPY, ignore_errors=True)
    COPY.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", str(COPY)], input=archive.stdout, check=True)


def test_passes(mutant: Mutant) -> bool:
    binary, name = mutant.caught_by
    build = ["cargo", "build", "--quiet", "-p", "flowforge-server", "--bins"]
    subprocess.run(build, cwd=COPY, env=ENV, check=True)
    test = ["cargo", "test", "--quiet", "-p", "flowforge-tests", "--test", binary, "--", "--exact", name]
    done = subprocess.run(test, cwd=COPY, env=ENV, capture_output=True, text=True)
    if "1 passed" not in done.stdout and "1 failed" not in done.stdout:
        sys.exit(f"{mutant.name}: the test did not run\n{done.stdout}\n{done.stderr}")
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error: ")]
        print(f"    {said[0] if said else 'failed'}"[:160])
    return done.returncode == 0


def main() -> int:
    wanted = sys.argv[1:]
    chosen = [mutant for mutant in MUTANTS if not wanted or mutant.name in wanted]
    fresh_copy()
    survivors = []
    for mutant in chosen:
        started = time.monotonic()
        print(f"{mutant.name}: breaks «{mutant.breaks}»", flush=True)
        path = COPY / mutant.file
        good = path.read_text()
        if good.count(mutant.find) != 1:
            sys.exit(f"{mutant.name}: its place in {mutant.file} has changed; update tests/mutants/run.py")
        if not test_passes(mutant):
            sys.exit(f"{mutant.caught_by[1]} fails without any mutant")
        path.write_text(good.replace(mutant.find, mutant.replace))
        survived = test_passes(mutant)
        path.write_text(good)
        if survived:
            survivors.append(mutant.name)
        verdict = "SURVIVED" if survived else "caught"
        print(f"    {verdict} by {mutant.caught_by[1]} after {time.monotonic() - started:.0f} s", flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
