"""The native half: one client of the server, and the `write` of a redirected stream."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict, final, type_check_only

__all__ = [
    "Producer",
    "Tee",
    "__version__",
    "echo_only",
    "panicked",
    "parse_bytes",
    "speak_on",
    "spool_dir",
    "use_tasks",
]

__version__: str

@type_check_only
class ProducerStats(TypedDict):
    captured: int
    stored: int
    dropped_lines: int
    dropped_bytes: int
    buffered_lines: int
    buffered_bytes: int
    spooled_lines: int
    spool_problem: str | None
    connected: bool
    reconnects: int
    last_error: str | None

@final
class Producer:
    """Ships what one process says in one task."""

    def __new__(
        cls,
        *,
        server: str,
        task_id: str,
        tenant: str,
        workflow_id: str,
        name: str,
        max_buffer_bytes: int,
        spool: tuple[str, int] | None,
        on_restart: Callable[[], object],
        at_once: bool,
        announce: bool,
    ) -> Producer: ...
    @property
    def viewer_url(self) -> str | None: ...
    @property
    def producer(self) -> str | None: ...
    def log(
        self,
        level: int,
        message: str,
        logger: str,
        thread: str,
        created: float,
        extras: str | None = None,
        /,
    ) -> bool: ...
    def start(self) -> bool: ...
    def pass_to(self, heir: Producer) -> None: ...
    def reopen(self) -> bool: ...
    @property
    def is_done(self) -> bool: ...
    def flush(self, timeout: float) -> bool: ...
    def close(
        self, failed: bool | None, exit_code: int | None, timeout: float, reopen: bool = False
    ) -> tuple[bool, int, int, str | None, int, bool]: ...
    def close_later(self, failed: bool | None, linger: float, timeout: float) -> None: ...
    def upload_spool(self) -> None: ...
    def stats(self) -> ProducerStats: ...

@final
class Tee:
    """Writes to a stream of the program, and ships what was written."""

    def __new__(
        cls,
        target_write: Callable[[Any], Any],
        producer: Producer,
        current_task: Callable[[], Producer | None],
        stream: str,
    ) -> Tee: ...
    def write(self, text: str, /) -> int: ...
    def write_bytes(self, data: Any, /) -> int: ...
    def stop(self) -> None: ...

def panicked() -> str | None: ...
def spool_dir(setting: str, /) -> Path | None: ...
def parse_bytes(text: str, /) -> int | None: ...
def speak_on(descriptor: int, /) -> None: ...
def use_tasks() -> None: ...
def echo_only(streams: int, also: bool = False, /) -> int: ...
