"""Uncaught exceptions: they decide how the task ended, and are shipped where no captured stream shows them.

The traceback that Python prints is captured as lines of stderr like anything else, byte for byte; a record of it would
show it twice. So there is one only while stderr is neither captured nor read by a supervisor.
"""

import logging
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

INTERRUPTED = 130


class Hooks:
    """Stands before `sys.excepthook` and `threading.excepthook`."""

    def __init__(self, ship: Callable[[logging.LogRecord], None] | None) -> None:
        self._ship = ship
        self._before: tuple[Any, Any] | None = None
        self._ours = (self._uncaught, self._uncaught_in_thread)
        self.exit_code: int | None = None

    def install(self) -> None:
        """Begin to look."""
        self._before = (sys.excepthook, threading.excepthook)
        sys.excepthook, threading.excepthook = self._ours

    def remove(self) -> None:
        """Look no more; a hook that was put before ours stays, and ours then only passes on."""
        if self._before is None:
            return
        self._ship = None
        if sys.excepthook is self._ours[0]:
            sys.excepthook = self._before[0]
        if threading.excepthook is self._ours[1]:
            threading.excepthook = self._before[1]

    def _uncaught(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        self.exit_code = INTERRUPTED if issubclass(kind, KeyboardInterrupt) else 1
        self._tell((kind, error, trace))
        if self._before is not None:
            self._before[0](kind, error, trace)

    def _uncaught_in_thread(self, args: Any) -> None:
        if args.exc_type is not SystemExit:
            self._tell((args.exc_type, args.exc_value, args.exc_traceback))
        if self._before is not None:
            self._before[1](args)

    def _tell(self, exc_info: Any) -> None:
        if self._ship is not None:
            self._ship(logging.LogRecord("uncaught", logging.CRITICAL, "", 0, "uncaught exception", None, exc_info))
