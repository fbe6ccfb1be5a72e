#!/usr/bin/env bash
# The main job on the embedded default: builds the server and the Python package, serves, and runs a realistic Python
# pipeline whose every line is in the browser milliseconds later. Ctrl-C stops the server cleanly.
# DEMO_GRPC and DEMO_HTTP listen elsewhere; DEMO_ONCE=1 stops it after the run; DEMO_SPEED=10 makes the pipeline ten times faster.
set -euo pipefail
cd "$(dirname "$0")/../.."

./.ci/prepare demo
echo "== building the server (the first time about ten minutes on two cores, and 1.5 GB below target/)"
cargo build -p flowforge-server --locked
echo "== building the Python package into target/venv-demo"
VIRTUAL_ENV=$PWD/target/venv-demo target/venv-demo/bin/maturin develop --manifest-path sdk-python/Cargo.toml --profile dev

flowforge=$PWD/target/debug/flowforge
folder=$(mktemp -d "${TMPDIR:-/tmp}/flowforge-demo.XXXXXX")
grpc=${DEMO_GRPC:-127.0.0.1:50051}
http=${DEMO_HTTP:-127.0.0.1:8080}

# In a session of its own: Ctrl-C ends the pipeline first, and then the server, once everything is stored.
FLOWFORGE__SERVER__GRPC=$grpc FLOWFORGE__SERVER__HTTP=$http FLOWFORGE__SQLITE__PATH=$folder/flowforge.db \
    setsid "$flowforge" serve > >(tee "$folder/serve.log" >&2) 2>&1 &
server=$!
stop() {
    trap - EXIT INT TERM
    kill -TERM "$server" 2>/dev/null || true
    wait "$server" || true
    rm -rf "$folder"
    echo "== stopped, the demo's data is deleted"
}
trap stop EXIT
trap 'exit 130' INT TERM

until grep -qs "is serving" "$folder/serve.log"; do
    if ! kill -0 "$server" 2>/dev/null; then
        echo "the server did not start. If something listens there already: DEMO_GRPC=127.0.0.1:50052 DEMO_HTTP=127.0.0.1:8081 make demo" >&2
        exit 1
    fi
    sleep 0.1
done

page="http://$http/?task=demo"
echo
echo "== open $page and watch; sdk-python/examples/pipeline.py begins to print in ${DEMO_WAIT:-3} seconds"
echo
sleep "${DEMO_WAIT:-3}"
FLOWFORGE_SERVER=http://$grpc FLOWFORGE_TASK_ID=demo target/venv-demo/bin/python sdk-python/examples/pipeline.py

echo
echo "== the run is stored: $page, its step http://$http/?task=demo.train, all tasks http://$http/"
[ -z "${DEMO_ONCE:-}" ] || exit 0
echo "== in another terminal: target/debug/flowforge run --server http://$grpc -- any command of yours"
echo "== Ctrl-C stops the server"
wait "$server" || true
