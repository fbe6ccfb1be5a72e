#!/usr/bin/env bash
# Builds server and wheel for release, then measures: what capture costs a task, and how long a line takes to be seen.
set -euo pipefail
cd "$(dirname "$0")/../.."

venv=$PWD/target/venv-bench
export FLOWFORGE_BIN=$PWD/target/release/flowforge
cargo build --release -p flowforge-server --locked
rm -rf target/wheels
"$venv/bin/maturin" build --manifest-path sdk-python/Cargo.toml --out target/wheels
"$venv/bin/pip" install --quiet --force-reinstall --no-deps target/wheels/*.whl

echo "== what a printed line and a log record cost the thread that makes them"
"$venv/bin/python" sdk-python/bench/cost.py "$@"
echo "== from print to a reader of the live stream"
"$venv/bin/python" sdk-python/bench/latency.py --rate 20
"$venv/bin/python" sdk-python/bench/latency.py --rate 100 --lines 2000
echo "== from print to the page in Chromium"
target/venv/bin/python tests/browser/latency.py
