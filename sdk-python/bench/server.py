"""A server for a benchmark or an example: the real binary, on free ports, in a folder that goes with it."""

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_S = 30


@dataclass(frozen=True)
class Server:
    """Where it listens."""

    grpc: str
    http: str


@contextmanager
def serve() -> Generator[Server]:
    """Run `flowforge serve` until the end of the block."""
    binary = Path(os.environ.get("FLOWFORGE_BIN", ROOT / "target/release/flowforge"))
    if not binary.is_file():
        raise SystemExit(f"{binary} is not there. Build it: cargo build --release -p flowforge-server")
    with tempfile.TemporaryDirectory(prefix="flowforge-bench-") as folder:
        env = {
            **os.environ,
            "FLOWFORGE__SERVER__GRPC": "127.0.0.1:0",
            "FLOWFORGE__SERVER__HTTP": "127.0.0.1:0",
            "FLOWFORGE__SQLITE__PATH": f"{folder}/flowforge.db",
        }
        log = Path(folder, "server.log")
        with log.open("wb") as out:
            process = subprocess.Popen([binary, "serve"], env=env, stdin=subprocess.DEVNULL, stderr=out, cwd=folder)
        try:
            yield _wait(process, log)
        finally:
            process.terminate()
            process.wait()


def _wait(process: "subprocess.Popen[bytes]", log: Path) -> Server:
    end = time.monotonic() + START_S
    while not (serving := re.search(r"is serving grpc=(\S+) http=(\S+)", log.read_text())):
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(log.read_text())
        time.sleep(0.01)
    return Server(f"http://{serving[1]}", f"http://{serving[2]}")
