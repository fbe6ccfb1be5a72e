"""FlowForge Logs: what this process prints and logs, live in a browser and stored, line by line.

    import flowforge
    flowforge.init(task_id="nightly")

Importing changes nothing; `init()` does, and `shutdown()`, which also runs at exit, undoes it. What the terminal shows
is the same with and without us, and nothing here makes the program fail or wait: after `init()` the only waits are
`flush()` and `shutdown()`, each with a time limit.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, NoReturn

from . import _diagnostics, _session, _settings
from ._core import __version__
from ._errors import FlowForgeError
from ._logging import Handler
from ._session import Session
from ._streams import StdoutRedirector
from ._task import task

__all__ = [
    "FlowForgeError",
    "Handler",
    "Session",
    "StdoutRedirector",
    "__version__",
    "capture",
    "flush",
    "init",
    "on_command",
    "shutdown",
    "stats",
    "task",
]


def init(
    server: str | None = None,
    *,
    task_id: str | None = None,
    token: str | None = None,
    capture: str | bool | None = "auto",
    logging: bool = True,
    exceptions: bool = True,
    redact: Iterable[str] = (),
    spool: str | os.PathLike[str] | bool | None = None,
    max_buffer_bytes: int = 64 << 20,
    flush_timeout: float = 5.0,
) -> Session:
    """Start shipping; a second call returns the same session, whatever its arguments.

    Args:
        server: `http://host:port`; else `FLOWFORGE_SERVER`, else `http://127.0.0.1:50051`. It may come later.
        task_id: else `FLOWFORGE_TASK_ID`, else `<program>-<time>-<random>`.
        token: not available yet.
        capture: "auto" or "sys" for what is written to `sys.stdout` and `sys.stderr`, "off" for nothing. Under
            `flowforge run` the supervisor reads both, and nothing is captured here.
        logging: ship the records of `logging`, with their structure.
        exceptions: an uncaught exception, SIGTERM and `sys.exit(code)` decide how the task ended.
        redact: not available yet.
        spool: keep what is not stored yet in a file, so that it survives this process, however it dies. `True`: in the
            user's state directory; a path: there; `False`: not; else `FLOWFORGE_SPOOL`. What dead processes left there
            for this server is uploaded in the background, or by `flowforge spool push`.
        max_buffer_bytes: of lines that may wait for the server, of this process and all its sub-tasks, each with 128
            bytes of overhead. Memory is taken only while the server is behind. Beyond it the oldest go, and a line says
            how many. With a spool lines wait there, up to `FLOWFORGE_SPOOL_SIZE`, 64 MiB.
        flush_timeout: seconds that the end of the process may wait for the server.

    Raises:
        FlowForgeError: a setting is wrong or not available yet.
    """
    if (running := _session.active()) is not None:
        return running
    _diagnostics.keep_stderr()
    settings = _settings.resolve(server, task_id, token, capture, redact, spool, max_buffer_bytes, flush_timeout)
    # Where nobody looks, and the task has the name that its owner gave it, nothing is said.
    announce = not settings.supervised and (_diagnostics.is_terminal() or settings.is_new_id)
    return _session.start(settings, records=logging, exceptions=exceptions, announce=announce)


def capture(*, stdout: bool = True, stderr: bool = True, mode: str = "sys") -> AbstractContextManager[None]:
    """Capture what is printed inside the `with`, where `init(capture="off")` does not."""
    _settings.check_mode(mode)
    return _session.require().capture(stdout=stdout, stderr=stderr)


def flush(timeout: float | None = None) -> bool:
    """Wait until everything so far is stored. False: not within the timeout (default: `flush_timeout`)."""
    session = _session.active()
    return session.flush(timeout) if session else True


def shutdown(timeout: float | None = None) -> bool:
    """Undo `init()` and deliver what is left. False: not everything was stored within the timeout."""
    session = _session.active()
    return session.shutdown(timeout) if session else True


def stats() -> dict[str, Any]:
    """Counters of this process: every captured line is stored, buffered or dropped. Empty without a session."""
    session = _session.active()
    return session.stats() if session else {}


def on_command(name: str) -> Callable[[Callable[..., Any]], NoReturn]:
    """Not available yet: commands from people to the task."""
    raise FlowForgeError(f"on_command({name!r}) is not available yet")
