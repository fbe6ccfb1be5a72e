"""The real server and real Python processes: what a test expects comes from what it made the process print."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Generator
from pathlib import Path

import pytest
from harness import BINARY, DEADLINE_S, Program, Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    """One server for all tests that do not hurt it. Its lease is short, so that a killed task ends soon."""
    shared = Server(tmp_path_factory.mktemp("server"))
    shared.start()
    yield shared
    shared.kill()


@pytest.fixture
def own_server(tmp_path: Path) -> Generator[Server]:
    """One to be killed."""
    own = Server(tmp_path / "server")
    own.start()
    yield own
    own.kill()
    print(own.log.read_text()[-5000:])


def _heed_ctrl_c() -> None:
    """Tests that a shell runs in the background inherit that SIGINT is ignored, and Python then leaves it so."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Runner:
    """Runs Python programs that ship to one server, each as a task of its own."""

    def __init__(self, server: Server, folder: Path, name: str) -> None:
        self.server = server
        self.folder = folder
        self.task = "".join(c if c.isalnum() else "-" for c in name)
        self.spool = folder / "spool"
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, code: str, *arguments: str, under: tuple[str, ...] = (), **env: str) -> Program:
        """Start a program; its stdout and stderr go to files."""
        script = self.folder / "script.py"
        script.write_text(textwrap.dedent(code))
        out, err = self.folder / "out", self.folder / "err"
        variables = {
            **os.environ,
            "FLOWFORGE_SERVER": self.server.grpc_url,
            "FLOWFORGE_TASK_ID": self.task,
            "PYTHONFAULTHANDLER": "1",
            "PYTHONUNBUFFERED": "",
            **({"FLOWFORGE_SPOOL": str(self.spool)} if under else {}),
            **env,
        }
        command = [*under, sys.executable, str(script), *arguments]
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                command, env=variables, stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, preexec_fn=_heed_ctrl_c
            )
        self.started.append(process)
        return Program(process, out, err)

    def run(self, code: str, *arguments: str, under: tuple[str, ...] = (), **env: str) -> Program:
        """Run a program to its end, which must be a good one."""
        program = self.start(code, *arguments, under=under, **env)
        code_ = program.process.wait(DEADLINE_S)
        assert code_ == 0, program.stderr
        return program

    def push(self) -> str:
        """Upload what dead programs left; what the command says."""
        command = [str(BINARY), "spool", "push", "--dir", str(self.spool)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stderr

    def left(self) -> list[Path]:
        """Find the files of the spool."""
        return sorted(self.spool.glob("**/*.spool"))

    def stop(self) -> None:
        """Leave no process behind."""
        for process in self.started:
            process.kill()
            process.wait()


@pytest.fixture
def run(server: Server, tmp_path: Path, request: pytest.FixtureRequest) -> Generator[Runner]:
    """Programs against the shared server."""
    runner = Runner(server, tmp_path, request.node.name)
    yield runner
    runner.stop()


@pytest.fixture
def run_own(own_server: Server, tmp_path: Path, request: pytest.FixtureRequest) -> Generator[Runner]:
    """Programs against a server that the test may kill."""
    runner = Runner(own_server, tmp_path, request.node.name)
    yield runner
    runner.stop()
