"""What the SDK itself has to say, on a copy of the descriptor that was stderr at the beginning.

Not through `sys.stderr`: that may be our own redirector, or closed by now, and what we say is not the task's output.
Where descriptor 2 was closed it may be a file of the program by now, so nothing is said.
"""

import contextlib
import os
import sys

from . import _core

_fd: int | None = None


def keep_stderr() -> None:
    """Copy descriptor 2 while it is stderr."""
    global _fd  # noqa: PLW0603 - the one copy of this process
    if _fd is None and _stderr() is not None:
        with contextlib.suppress(OSError):
            _fd = os.dup(2)
    _tell_native()


def let_go() -> None:
    """Close the copy: whoever reads the other end waits for it."""
    global _fd  # noqa: PLW0603 - see above
    if _fd is not None:
        with contextlib.suppress(OSError):
            os.close(_fd)
        _fd = None
    _tell_native()


def is_terminal() -> bool:
    """Whether somebody reads what is said here."""
    place = _place()
    with contextlib.suppress(OSError):
        return place is not None and os.isatty(place)
    return False


def say(text: str) -> None:
    """Write one line; nobody to read it is no error."""
    place = _place()
    with contextlib.suppress(OSError):
        if place is not None:
            os.write(place, f"flowforge: {text}\n".encode(errors="replace"))


def lines(count: int) -> str:
    """Count in words."""
    return "1 line" if count == 1 else f"{count} lines"


def _place() -> int | None:
    return _stderr() if _fd is None else _fd


def _stderr() -> int | None:
    """Descriptor 2, if Python found stderr there when it began, and has not closed it since."""
    try:
        stream = sys.__stderr__
        return 2 if stream is not None and stream.fileno() == 2 else None
    except (OSError, ValueError):
        return None


def _tell_native() -> None:
    place = _place()
    _core.speak_on(-1 if place is None else place)
