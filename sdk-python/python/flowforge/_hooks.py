"""How the program ends: uncaught exceptions, SIGTERM, `sys.exit`. They decide how the task ended.

The traceback that Python prints is captured as lines of stderr like anything else, byte for byte; a record of it would
show it twice. So there is one only while stderr is neither captured nor read by a supervisor.
"""

import dis
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


class Hooks:
    """Stands before `sys.excepthook`, `threading.excepthook` and `sys.exit`, and in the way of SIGTERM."""

    def __init__(self, ship: Callable[[logging.LogRecord], None] | None, shutdown: Callable[[], object]) -> None:
        self._ship = ship
        self._shutdown = shutdown
        self._before: tuple[Any, Any, Any] | None = None
        self._ours = (self._uncaught, self._uncaught_in_thread, self._exit)
        self._exit_said: int | None = None
        self._main_frame: FrameType | None = None
        self.exit_code: int | None = None
        self._error_before: object = None

    def install(self) -> None:
        """Begin to look."""
        self._before = (sys.excepthook, threading.excepthook, sys.exit)
        sys.excepthook, threading.excepthook, sys.exit = self._ours
        self._error_before = _last_error()
        if threading.current_thread() is threading.main_thread():
            self._main_frame = _outermost(sys._getframe())
            # A program that has a handler of its own ends in its own way.
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                signal.signal(signal.SIGTERM, self._terminated)

    def remove(self) -> None:
        """Look no more; a hook that was put before ours stays, and ours then only passes on."""
        if self._before is None:
            return
        self._ship = None
        self._main_frame = None
        if sys.excepthook is self._ours[0]:
            sys.excepthook = self._before[0]
        if threading.excepthook is self._ours[1]:
            threading.excepthook = self._before[1]
        if sys.exit is self._ours[2]:
            sys.exit = self._before[2]
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGTERM) == self._terminated:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def code_of_exit(self) -> int | None:
        """At the end of the process: the code that an exception or `sys.exit` ended it with, if one did.

        A hook that took the place of ours (`rich.traceback.install()`) does not tell us, but Python notes the exception
        before it calls any. An interactive interpreter notes those that did not end it, too.

        Nothing tells whether a SystemExit was caught on its way. But the outermost frame, kept until now, then went on
        to its own end, which is a RETURN; a frame that an exception ended stopped somewhere else.
        """
        error = _last_error()
        is_replaced = self._before is not None and sys.excepthook is not self._ours[0]
        if error is not None and error is not self._error_before and is_replaced and not hasattr(sys, "ps1"):
            return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
        frame = self._main_frame
        if frame is None or self._exit_said is None:
            return None
        last = frame.f_code.co_code[frame.f_lasti] if frame.f_lasti >= 0 else 0
        return None if dis.opname[last].startswith("RETURN") else self._exit_said

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

    def _exit(self, status: Any = None, /) -> NoReturn:
        if threading.current_thread() is threading.main_thread():
            self._exit_said = exit_code_of(status)
        raise SystemExit(status)

    def _terminated(self, number: int, _frame: FrameType | None) -> None:
        """Deliver what is left, then die of the signal as if nobody had looked."""
        signal.signal(number, signal.SIG_DFL)
        self.exit_code = TERMINATED
        self._shutdown()
        os.kill(os.getpid(), number)

    def _tell(self, exc_info: Any) -> None:
        if self._ship is not None:
            self._ship(logging.LogRecord("uncaught", logging.CRITICAL, "", 0, "uncaught exception", None, exc_info))


def exit_code_of(status: object) -> int:
    """Return what the process exits with after `SystemExit(status)`."""
    if status is None:
        return 0
    return status & 0xFF if isinstance(status, int) else 1


def _last_error() -> object:
    return getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)


def _outermost(frame: FrameType) -> FrameType:
    while frame.f_back is not None:
        frame = frame.f_back
    return frame
