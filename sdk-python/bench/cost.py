"""What a printed line and a log record cost the thread that makes them, in one run.

    FLOWFORGE_BIN=target/release/flowforge python sdk-python/bench/cost.py [--lines 100000] [--repeats 9]

CPU time of the calling thread (`time.thread_time_ns`), ns per line: the least and the median over the repeats. Each way
runs in a process of its own with stdout and stderr on /dev/null. FlowForge is connected, ships all the while, and after
each repeat everything must be stored and nothing dropped, or the run fails. `wandb` is measured if it is installed.
"""

import argparse
import importlib.util
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from server import serve

LINE = "x" * 99
PRINT_GATE_NS, LOG_GATE_NS = 1_000, 4_000

Body = Callable[[int], None]


def prints(lines: int) -> None:
    for _ in range(lines):
        print(LINE)


def records(lines: int) -> None:
    logger = logging.getLogger("bench")
    for number in range(lines):
        logger.info("a record with a number: %d", number)


def measure(body: Body, lines: int, repeats: int, settle: Callable[[int], None]) -> list[float]:
    body(1000)
    settle(0)
    costs = []
    for _ in range(repeats):
        began = time.thread_time_ns()
        body(lines)
        costs.append((time.thread_time_ns() - began) / lines)
        settle(lines)
    return costs


def stored(_: int) -> None:
    import flowforge

    if not flowforge.flush(120):
        raise SystemExit("not everything was stored")
    if flowforge.stats()["dropped_lines"]:
        raise SystemExit("lines were dropped: the figures are not of shipping")


def run_here(way: str, lines: int, repeats: int) -> list[float]:
    """One way, in this process."""
    settle: Callable[[int], None] = lambda _: None  # noqa: E731
    logging.getLogger("bench").setLevel(logging.INFO)
    logging.getLogger("bench").addHandler(logging.NullHandler())
    if way.startswith("flowforge"):
        import flowforge

        spool = tempfile.mkdtemp() if way.endswith("spool") else False
        os.environ["FLOWFORGE_SPOOL_SIZE"] = "1GiB"
        task = way.replace(" ", "-").replace(",", "")
        flowforge.init(task_id=task, max_buffer_bytes=1 << 30, spool=spool)
        if flowforge.stats()["spool_problem"]:
            raise SystemExit("there is no spool: the figures are not of spooling")
        settle = stored
    if way == "wandb print":
        import wandb

        wandb.init(mode="offline", settings=wandb.Settings(console="wrap", silent=True))
    return measure(records if way.endswith("info") else prints, lines, repeats, settle)


def run_apart(way: str, lines: int, repeats: int, server: str, folder: str) -> list[float]:
    """One way, in a process of its own; the figures come through a pipe."""
    reader, writer = os.pipe()
    options = {"--way": way, "--lines": str(lines), "--repeats": str(repeats), "--to": str(writer)}
    command = [sys.executable, __file__, *(word for option in options.items() for word in option)]
    own = {"FLOWFORGE_SERVER": server, "WANDB_DIR": folder, "WANDB_SILENT": "true", "PYTHONUNBUFFERED": ""}
    env = {**os.environ, **own}
    with subprocess.Popen(command, pass_fds=[writer], stdout=subprocess.DEVNULL, env=env) as process:
        os.close(writer)
        with os.fdopen(reader) as pipe:
            text = pipe.read()
    if process.returncode != 0 or not text:
        raise SystemExit(f"{way} failed with {process.returncode}")
    return [float(cost) for cost in json.loads(text)]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--to", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        with os.fdopen(args.to, "w") as pipe:
            json.dump(run_here(args.way, args.lines, args.repeats), pipe)
        return 0
    ways = ["plain print", "flowforge print", "flowforge print, spool", "NullHandler info", "flowforge info"]
    if importlib.util.find_spec("wandb"):
        ways.insert(3, "wandb print")
    costs = {}
    print(f"Python {sys.version.split()[0]}, {args.repeats} x {args.lines} lines")
    print(f"{'':22} {'min ns':>8} {'median ns':>10}")
    for way in ways:
        lines = min(args.lines, 10_000) if way.startswith("wandb") else args.lines
        with serve() as server, tempfile.TemporaryDirectory() as folder:
            costs[way] = run_apart(way, lines, args.repeats, server.grpc, folder)
        print(f"{way:22} {min(costs[way]):8.0f} {statistics.median(costs[way]):10.0f}", flush=True)
    return report(costs)


def report(costs: dict[str, list[float]]) -> int:
    """Compare the medians with the gates."""
    good = True
    for what, base, ours, gate in (
        ("a printed line", "plain print", "flowforge print", PRINT_GATE_NS),
        ("a spooled line", "plain print", "flowforge print, spool", PRINT_GATE_NS),
        ("a log record", "NullHandler info", "flowforge info", LOG_GATE_NS),
    ):
        more = statistics.median(costs[ours]) - statistics.median(costs[base])
        good &= more <= gate
        print(f"{what} costs {more:+.0f} ns; the gate is +{gate} ns: {'kept' if more <= gate else 'BROKEN'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
