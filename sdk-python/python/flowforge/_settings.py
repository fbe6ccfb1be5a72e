"""What `init()` was asked for, completed from the environment and checked."""

import contextlib
import datetime
import hashlib
import os
import re
import secrets
import string
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from . import _core, _diagnostics
from ._errors import FlowForgeError

DEFAULT_SERVER = "http://127.0.0.1:50051"
_LONGEST_ID = 128
_LONGEST_TEXT = 256
_NOT_IN_ID = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True)
class Settings:
    """Where to ship to, as what, and how much may wait."""

    server: str
    task_id: str
    tenant: str
    workflow_id: str
    capture: bool
    supervised: frozenset[int]
    """Of the descriptors 1 and 2 those that `flowforge run` reads."""
    max_buffer_bytes: int
    flush_timeout: float
    is_new_id: bool
    """The task id was made here."""
    spool: tuple[str, int] | None
    """The directory, and how large a file in it may become."""


def resolve(  # noqa: PLR0917 - called once, with all of them
    server: str | None,
    task_id: str | None,
    token: str | None,
    capture: str | bool | None,
    redact: Iterable[str],
    spool: str | os.PathLike[str] | bool | None,
    max_buffer_bytes: int,
    flush_timeout: float,
) -> Settings:
    """Arguments first, then `FLOWFORGE_*`, then defaults."""
    _refuse_what_is_not_there(token, redact)
    if max_buffer_bytes < 1 or not flush_timeout >= 0:
        raise FlowForgeError("max_buffer_bytes must be at least 1, and flush_timeout not negative")
    env = os.environ
    supervised = _supervised(env.get("FLOWFORGE_SUPERVISED", ""))
    given_id = task_id or env.get("FLOWFORGE_TASK_ID")
    return Settings(
        server=server or env.get("FLOWFORGE_SERVER") or DEFAULT_SERVER,
        task_id=given_id or new_task_id(),
        tenant=env.get("FLOWFORGE_TENANT_ID", ""),
        workflow_id=env.get("FLOWFORGE_WORKFLOW_ID", ""),
        capture=_wants_capture(capture),
        supervised=supervised,
        max_buffer_bytes=max_buffer_bytes,
        flush_timeout=flush_timeout,
        is_new_id=not given_id,
        spool=_spool(spool),
    )


def _spool(wanted: str | os.PathLike[str] | bool | None) -> tuple[str, int] | None:
    """Where what is captured survives this process; an argument goes before `FLOWFORGE_SPOOL`."""
    env = os.environ
    if wanted is None:
        setting = env.get("FLOWFORGE_SPOOL", "")
    elif wanted is True:
        # A supervisor names a directory that it looks after.
        named = env.get("FLOWFORGE_SPOOL", "")
        setting = named if _core.spool_dir(named) else "on"
    else:
        setting = "off" if wanted is False else os.fspath(wanted)
    folder = _core.spool_dir(setting)
    if folder is None:
        return None
    text = env.get("FLOWFORGE_SPOOL_SIZE") or "64MiB"
    size = _core.parse_bytes(text)
    if size is None:
        raise FlowForgeError(f"FLOWFORGE_SPOOL_SIZE={text!r} is not a size: write it like 64MiB")
    return str(folder), size


def _refuse_what_is_not_there(token: str | None, redact: Iterable[str]) -> None:
    for name, value in (("redact", tuple(redact)), ("token", token)):
        if value:
            raise FlowForgeError(f"{name} is not available yet")
    if os.environ.get("FLOWFORGE_TOKEN"):
        _diagnostics.say("FLOWFORGE_TOKEN is set, but tokens are not available yet: it is not sent")


def _supervised(told: str) -> frozenset[int]:
    """Find out which streams the supervisor reads: it tells the files of its own, as `device:inode`.

    A process further down inherits what it tells, and may have been given other streams. An older one says only `1`.
    """
    if told == "1":
        return frozenset((1, 2))
    own, found = told.split(","), set()
    for descriptor in (1, 2) if told else ():
        with contextlib.suppress(OSError):
            file = os.fstat(descriptor)
            if f"{file.st_dev}:{file.st_ino}" in own:
                found.add(descriptor)
    return frozenset(found)


def _wants_capture(capture: str | bool | None) -> bool:
    if capture in ("auto", "sys", True):
        return True
    if capture in ("off", None, False):
        return False
    check_mode(str(capture))
    return True


def check_mode(mode: str) -> None:
    """Refuse a way of capturing that is not there."""
    if mode == "fd":
        raise FlowForgeError('capture mode "fd" is not available yet; "sys" captures what Python writes')
    if mode != "sys":
        raise FlowForgeError(f'capture mode {mode!r} is unknown: "auto", "sys" or "off"')


def new_task_id() -> str:
    """Make an id as `flowforge run` does: `<program>-<UTC time>-<6 random>`."""
    name = safe_id(Path(sys.argv[0]).stem if sys.argv and sys.argv[0] else "python")
    time = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d-%H%M%S")
    random = "".join(secrets.choice(string.ascii_lowercase) for _ in range(6))
    return f"{name[:64]}-{time}-{random}"


def child_id(task_id: str, path: Iterable[str]) -> str:
    """Make a sub-task's id. One that is too long for the server keeps its beginning, and a hash of the whole."""
    whole = ".".join((task_id, *map(safe_id, path)))
    if len(whole) <= _LONGEST_ID:
        return whole
    digest = hashlib.sha256(whole.encode()).hexdigest()[:12]
    return f"{whole[: _LONGEST_ID - 13]}-{digest}"


def short_text(text: str) -> str:
    """Cut a text to what the server takes."""
    return text.encode(errors="replace")[:_LONGEST_TEXT].decode(errors="ignore")


def safe_id(name: str) -> str:
    """Make what the server takes as (a part of) an id."""
    return _NOT_IN_ID.sub("-", name).strip("-._") or "task"
