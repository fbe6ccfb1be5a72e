#!/usr/bin/env bash
# The main job on the embedded default: builds, serves, and runs a realistic Python pipeline under `flowforge run`.
# Ctrl-C stops the server cleanly. DEMO_ONCE=1 stops it after the first run, for tests.
set -euo pipefail
cd "$(dirname "$0")/../.."

./.ci/prepare demo
echo "== building flowforge (the first time a few minutes)"
cargo build -p flowforge-server --locked

flowforge=$PWD/target/debug/flowforge
folder=$(mktemp -d "${TMPDIR:-/tmp}/flowforge-demo.XXXXXX")
grpc=${DEMO_GRPC:-127.0.0.1:50051}
http=${DEMO_HTTP:-127.0.0.1:8080}

FLOWFORGE__SERVER__GRPC=$grpc FLOWFORGE__SERVER__HTTP=$http FLOWFORGE__SQLITE__PATH=$folder/flowforge.db \
    "$flowforge" serve &
server=$!
stop() {
    trap - EXIT INT TERM
    kill -TERM "$server" 2>/dev/null || true
    wait "$server" || true
    rm -rf "$folder"
    echo "== stopped, the demo's data is deleted"
}
trap stop EXIT
trap 'exit 0' INT TERM

for _ in $(seq 100); do
    curl -fs "http://$http/readyz" >/dev/null && break
    kill -0 "$server" 2>/dev/null || { echo "the server did not start, see above" >&2; exit 1; }
    sleep 0.1
done

echo "== running docs/demo/pipeline.py; open http://$http/ to watch it live"
"$flowforge" run --server "http://$grpc" --name "demo pipeline" --label team=data -- python3 docs/demo/pipeline.py || true

echo
echo "== the run is stored. Look at it: http://$http/"
[ -z "${DEMO_ONCE:-}" ] || exit 0
echo "== Ctrl-C stops the server"
wait "$server" || true
