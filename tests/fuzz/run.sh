#!/usr/bin/env bash
# Runs the fuzz targets one after the other: ./tests/fuzz/run.sh SECONDS [TARGET]. What they find is in target/fuzz.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=$1
targets=${2:-spool place hello ansi}

# The watching of branches and the sanitizer are in the pinned compiler, behind this door; the nightly one is not needed.
export RUSTC_BOOTSTRAP=1
export PATH="$PWD/target/tools/bin:$PATH"
echo "== building the targets, every branch watched (the first time about ten minutes)"
cargo fuzz build --fuzz-dir tests/fuzz --target-dir target/fuzz
# SQLite, which some targets link, has two private tables of one name.
export ASAN_OPTIONS=detect_odr_violation=0
host=$(rustc -vV | sed -n 's/^host: //p')

for target in $targets; do
    echo "== $target, $seconds seconds"
    mkdir -p "target/fuzz/corpus/$target" "target/fuzz/crashes"
    # New inputs go to the first folder; the seeds in the second stay as they are.
    if ! "target/fuzz/$host/release/$target" "target/fuzz/corpus/$target" "tests/fuzz/corpus/$target" \
        -max_total_time="$seconds" -print_final_stats=1 -timeout=10 -rss_limit_mb=2048 \
        -artifact_prefix="target/fuzz/crashes/$target-" 2>"target/fuzz/$target.log"; then
        tail -n 40 "target/fuzz/$target.log" >&2
        echo "== $target failed; the input is in target/fuzz/crashes, all of its words in target/fuzz/$target.log" >&2
        exit 1
    fi
    sed -n 's/^stat::number_of_executed_units: */   executions: /p; s/^stat::new_units_added: */   new inputs: /p' \
        "target/fuzz/$target.log"
done
