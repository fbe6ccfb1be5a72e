"""A server process, what it stored, and what a program left behind."""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("FLOWFORGE_BIN", ROOT / "target/debug/flowforge"))
DEADLINE_S = 120

T = TypeVar("T")


def wait_until(what: str, check: Callable[[], T | None], deadline_s: float = DEADLINE_S) -> T:
    """Poll until the check gives something."""
    end = time.monotonic() + deadline_s
    while (found := check()) is None:
        assert time.monotonic() < end, f"waited {deadline_s} s for {what}"
        time.sleep(0.01)
    return found


def free_port() -> int:
    """Find a port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Program:
    """A Python program, running or done."""

    process: "subprocess.Popen[bytes]"
    out: Path
    err: Path

    @property
    def stdout(self) -> str:
        return self.out.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return self.err.read_text(errors="replace")


class Server:
    """One `flowforge serve` on fixed ports, which can be killed and started again on the same data."""

    def __init__(self, folder: Path) -> None:
        assert BINARY.is_file(), f"{BINARY} is not there. Build it: cargo build -p flowforge-server"
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.log = folder / "server.log"
        self.grpc, self.http = free_port(), free_port()
        self.grpc_url = f"http://127.0.0.1:{self.grpc}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        env = {
            **os.environ,
            "FLOWFORGE__SERVER__GRPC": f"127.0.0.1:{self.grpc}",
            "FLOWFORGE__SERVER__HTTP": f"127.0.0.1:{self.http}",
            "FLOWFORGE__SQLITE__PATH": str(self.folder / "flowforge.db"),
            "FLOWFORGE__BROKER__LEASE": "2s",
        }
        with self.log.open("ab") as log:
            command = [str(BINARY), "serve"]
            self._process = subprocess.Popen(command, env=env, cwd=self.folder, stdin=subprocess.DEVNULL, stderr=log)
        wait_until("the server to serve", self._is_ready)

    def _is_ready(self) -> bool | None:
        assert self._process is not None and self._process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/readyz", timeout=DEADLINE_S):
                return True
        except (urllib.error.URLError, OSError):
            return None

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def open(self, path: str) -> Any:
        return urllib.request.urlopen(f"http://127.0.0.1:{self.http}/api/v1/tasks/{path}", timeout=DEADLINE_S)

    def task(self, task: str) -> Any:
        """Look up the task's record; `None`: the server does not know it."""
        try:
            with self.open(task) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def ended(self, task: str) -> Any:
        """Wait until the task is over; its record."""

        def check() -> Any:
            record = self.task(task)
            return record if record is not None and record["status"] != "running" else None

        return wait_until(f"{task} to end", check)

    def rows(self, task: str) -> list[dict[str, Any]]:
        """Everything that is stored, the server's own rows included."""
        rows: list[dict[str, Any]] = []
        place: int | None = 1
        while place is not None:
            with self.open(f"{task}/logs?from={place}&limit=5000") as answer:
                page = json.load(answer)
            rows += page["lines"]
            place = page.get("next_from") if page["lines"] else None
        return rows

    def lines(self, task: str, stream: str | None = None) -> list[str]:
        """What the program printed and logged."""
        wanted = ("stdout", "stderr", "log") if stream is None else (stream,)
        return [row["message"] for row in self.rows(task) if row["stream"] in wanted]

    def raw(self, task: str, stream: str) -> bytes:
        """Download the exact bytes of a stream."""
        with self.open(f"{task}/logs/download?format=text&stream={stream}") as answer:
            return bytes(answer.read())

    def events(self, task: str) -> Generator[tuple[float, str, Any]]:
        """Follow the task live: when, what, data."""
        kind, data = "", ""
        with self.open(f"{task}/logs/stream?from=1") as answer:
            for raw in answer:
                line = raw.decode().rstrip("\n")
                if line.startswith("event:"):
                    kind = line[6:].strip()
                elif line.startswith("data:"):
                    data = line[5:].strip()
                elif not line and kind:
                    yield time.monotonic(), kind, json.loads(data) if data else None
                    kind, data = "", ""
