"""What the SDK itself has to say, on a copy of the descriptor that was stderr at the beginning.

Not through `sys.stderr`: that may be our own redirector, or closed by now, and what we say is not the task's output.
"""

import contextlib
import os

_fd: int | None = None


def keep_stderr() -> None:
    """Copy descriptor 2 while it is there."""
    global _fd  # noqa: PLW0603 - the one copy of this process
    if _fd is None:
        with contextlib.suppress(OSError):
            _fd = os.dup(2)


def is_terminal() -> bool:
    """Whether somebody reads what is said here."""
    with contextlib.suppress(OSError):
        return os.isatty(2 if _fd is None else _fd)
    return False


def say(text: str) -> None:
    """Write one line; nobody to read it is no error."""
    with contextlib.suppress(OSError):
        os.write(2 if _fd is None else _fd, f"flowforge: {text}\n".encode(errors="replace"))


def lines(count: int) -> str:
    """Count in words."""
    return "1 line" if count == 1 else f"{count} lines"
