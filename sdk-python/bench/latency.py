"""How long from `print` to a reader of the live stream (SSE).

    FLOWFORGE_BIN=target/release/flowforge python sdk-python/bench/latency.py [--lines 500] [--rate 20]

A program prints its clock at a steady rate; this process reads the stream as a browser does, and compares with its own
clock, which on one machine is the same (CLOCK_MONOTONIC). Above 20 lines a second the server writes to a reader every
10 ms, and that is then most of the figure.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.request

from server import Server, serve

PRINTER = """
import flowforge, sys, time
lines, rate = int(sys.argv[1]), float(sys.argv[2])
flowforge.init(task_id="latency")
print("ready")
sys.stdin.readline()
due = time.monotonic()
for _ in range(lines):
    due += 1 / rate
    time.sleep(max(due - time.monotonic(), 0))
    print(time.monotonic_ns())
"""


def measure(server: Server, lines: int, rate: float) -> list[float]:
    """Milliseconds of each line."""
    command = [sys.executable, "-c", PRINTER, str(lines), str(rate)]
    env = {**os.environ, "FLOWFORGE_SERVER": server.grpc}
    costs = []
    url = f"{server.http}/api/v1/tasks/latency/logs/stream?from=1"
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=env) as printer,
        urllib.request.urlopen(url, timeout=60) as stream,
    ):
        for raw in stream:
            now = time.monotonic_ns()
            if raw.startswith(b"event: end") or raw.startswith(b"event:end"):
                break
            if not raw.startswith(b"data:"):
                continue
            message = json.loads(raw[5:]).get("message", "")
            if message == "ready" and printer.stdin:
                printer.stdin.close()
            elif message.isdigit():
                costs.append((now - int(message)) / 1e6)
    if len(costs) != lines:
        raise SystemExit(f"{len(costs)} of {lines} lines were seen")
    return sorted(costs)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lines", type=int, default=500)
    parser.add_argument("--rate", type=float, default=20)
    args = parser.parse_args()
    with serve() as server:
        costs = measure(server, args.lines, args.rate)
    p50, p99 = costs[len(costs) // 2], costs[int(len(costs) * 0.99)]
    print(
        f"print to SSE, {args.lines} lines at {args.rate:g}/s, ms: p50 {p50:.2f}, p99 {p99:.2f}, most {costs[-1]:.2f}"
    )


if __name__ == "__main__":
    main()
