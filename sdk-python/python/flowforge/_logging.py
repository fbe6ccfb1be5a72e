"""Logging records, with their structure.

`init(logging=True)` adds no handler to any logger: that would switch `logging.basicConfig()` and the last-resort
handler off, and change what the terminal shows. It looks at each record on its way to the handlers instead.

**A record ships once.** A handler that prints it to a stream that we redirect (or, under `flowforge run`, to a pipe
that the supervisor reads) would bring it a second time, so:

- in process, the record ships with its structure, and what such a handler prints reaches the terminal alone;
- under the supervisor, what is printed is in the pipe already: only a record that nobody printed ships.

A record that was shipped carries a mark, also through a pickle: a queue may bring it to the handlers in another thread
or process, or through another logger.

No lock is taken and nothing is waited for: the queue is made for many writers.
"""

import copy
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from . import _core, _diagnostics
from ._record import MARK, PLAIN_LEN, TRACEBACKS, fields, plain_text, safe_str, severity
from ._streams import BytesTee, StdoutRedirector
from ._task import current

_OWN = "flowforge"
_OWN_PREFIX = "flowforge."
_STDOUT, _STDERR = 1, 2
_YEAR_2200 = 7_258_118_400


class Handler(logging.Handler):
    """Ships records to the session's task. Without a session it does nothing.

    Needed only with `init(logging=False)`, to choose loggers, levels and filters by hand; beside `logging=True` it
    would bring every record twice, and therefore rests.
    """

    def handle(self, record: logging.LogRecord) -> bool:
        """Ship the record, without the handler's lock."""
        capture = _active
        if capture is None or not self.takes(record):
            return False
        if self.filters and not self.filter(record):
            return False
        if capture.handler is not self and capture.is_automatic:
            return False
        if capture.supervised:
            capture.dispatch.pending = self
        elif not capture.has_shipped(record) and capture.dispatch.printed is not record:
            self.emit(record)
        return True

    def takes(self, record: logging.LogRecord) -> bool:
        """Whether level and name allow it. Our own loggers could speak while a record is being shipped."""
        try:
            name = str(record.name)
            return record.levelno >= self.level and name != _OWN and not name.startswith(_OWN_PREFIX)
        except Exception:  # noqa: BLE001 - a strange record is a record
            return True

    def emit(self, record: logging.LogRecord) -> None:
        """Capture the record; nothing in it can make this raise, and nothing can lose it."""
        capture = _active
        if capture is None:
            return
        try:
            extras = fields(record) if len(record.__dict__) > PLAIN_LEN or record.exc_info else None
            level, name, thread = severity(record.levelno), str(record.name), str(record.threadName)
            capture.ship(level, self.text(record), name, thread, record.created, extras)
        except Exception:  # noqa: BLE001 - whatever a record's own objects raise
            self._emit_plainly(capture, record)
        capture.mark(record)

    def _emit_plainly(self, capture: "Capture", record: logging.LogRecord) -> None:
        """Capture what can be had of a record that breaks its own contract."""
        try:
            level = record.levelno if isinstance(record.levelno, int) else logging.INFO
            name, thread = safe_str(record.name), safe_str(record.threadName)
            created = record.created
            if not isinstance(created, (int, float)) or not 0 <= created < _YEAR_2200:
                created = time.time()
            capture.ship(severity(level), safe_str(self.text(record)), name, thread, float(created), None)
        except Exception as error:  # noqa: BLE001 - see above
            _diagnostics.say(f"a logging record could not be shipped: {type(error).__name__}")

    def text(self, record: logging.LogRecord) -> str:
        """Return what a reader sees: the message, and the traceback below it."""
        try:
            if self.formatter is not None:
                return self.formatter.format(record)
            if record.exc_info or record.exc_text or record.stack_info:
                # Of a copy: a formatter leaves its text in the record, and the program's own would find it there.
                return TRACEBACKS.format(copy.copy(record))
            return record.getMessage()
        except Exception:  # noqa: BLE001 - "%d" % "x", a broken __str__
            return plain_text(record)


class _Dispatch(threading.local):
    """Of the record that this thread is handing out: under the supervisor whether it was printed, else which."""

    printed: object = None
    pending: Handler | None = None


class Capture:
    """Looks at every record on its way to the handlers, between `install()` and `remove()`."""

    def __init__(
        self, producer: _core.Producer, task_id: str, *, automatic: bool, supervised: frozenset[int] = frozenset()
    ) -> None:
        self.producer = producer
        self.handler = Handler()
        self.is_automatic = automatic
        self.supervised = supervised
        self.dispatch = _Dispatch()
        self._task_id = task_id
        self._before = (logging.Logger.callHandlers, logging.Handler.handle, logging.Handler.handleError)
        self._ours: tuple[Any, Any, Any] | None = None

    def install(self) -> None:
        """Begin to look."""
        global _active  # noqa: PLW0603 - one session a process
        _active = self
        self._ours = (self._make_call_handlers(), self._make_handle(), self._make_handle_error())
        _patch(self._ours)

    def remove(self) -> None:
        """Look no more. Who has patched after us keeps our functions, which then do nothing of their own."""
        global _active  # noqa: PLW0603
        _active = None
        if self._ours is not None:
            now = (logging.Logger.callHandlers, logging.Handler.handle, logging.Handler.handleError)
            _patch(tuple(b if n is o else n for n, o, b in zip(now, self._ours, self._before, strict=True)))

    def ship(  # noqa: PLR0917 - as the native half takes them
        self, level: int, text: str, logger: str, thread: str, created: float, extras: str | None
    ) -> None:
        """Hand a record to the current task; one that is over has none to hand it to but the session's."""
        task = current.get()
        if task is None or not task.log(level, text, logger, thread, created, extras):
            self.producer.log(level, text, logger, thread, created, extras)

    def mark(self, record: logging.LogRecord) -> None:
        """Note that the record has shipped to this task, here or in the process that it comes from."""
        record.__dict__[MARK] = self._task_id

    def has_shipped(self, record: logging.LogRecord) -> bool:
        """Whether it did."""
        return record.__dict__.get(MARK) == self._task_id

    def _make_call_handlers(self) -> Callable[[logging.Logger, logging.LogRecord], None]:
        original, ship = self._before[0], self.handler.handle
        if self.supervised:
            return self._observing()
        if not self.is_automatic:
            return self._choosing()

        def callHandlers(logger: logging.Logger, record: logging.LogRecord) -> None:
            ship(record)
            return original(logger, record)

        return callHandlers

    def _choosing(self) -> Callable[[logging.Logger, logging.LogRecord], None]:
        """With handlers of ours in the program's hands: whatever printed the record before them, it ships once."""
        original, dispatch = self._before[0], self.dispatch

        def callHandlers(logger: logging.Logger, record: logging.LogRecord) -> None:
            if (ours := _first_of_ours(logger)) is not None and _active is self:
                # Known to take it, so it may go first, and printing it is only that. A filter may not run early.
                ours.handle(record)
            outer, dispatch.printed = dispatch.printed, None
            try:
                original(logger, record)
            finally:
                dispatch.printed = outer

        return callHandlers

    def _observing(self) -> Callable[[logging.Logger, logging.LogRecord], None]:
        """Under the supervisor: let the handlers go first, and see whether one of them prints the record."""
        original, dispatch = self._before[0], self.dispatch

        def callHandlers(logger: logging.Logger, record: logging.LogRecord) -> None:
            outer = dispatch.printed, dispatch.pending
            dispatch.printed, dispatch.pending = None, None
            if self.is_automatic and self.handler.takes(record) and not self.has_shipped(record):
                dispatch.pending = self.handler
            try:
                original(logger, record)
            finally:
                printed, pending = dispatch.printed, dispatch.pending
                dispatch.printed, dispatch.pending = outer
            if pending is not None and printed is None:
                pending.emit(record)

        return callHandlers

    def _make_handle(self) -> Callable[[logging.Handler, logging.LogRecord], Any]:
        original, echo_only, dispatch = self._before[1], _core.echo_only, self.dispatch

        def handle(handler: logging.Handler, record: logging.LogRecord) -> Any:
            if _active is not self:
                return original(handler, record)
            stream = _stream_of(handler)
            will_ship = self.has_shipped(record) or (self.supervised and dispatch.pending is not None)
            streams = _reached(stream) if will_ship else 0
            # A record that is not ours is printed like anything else, also by a handler that another one calls.
            before = echo_only(streams, bool(streams))
            try:
                handled = original(handler, record)
            finally:
                echo_only(before)
            if handled and not will_ship and _reached(stream) in (_STDOUT, _STDERR):
                dispatch.printed = record
            if handled and self.supervised and _is_pipe(stream, self.supervised):
                dispatch.printed = record
            return handled

        return handle

    def _make_handle_error(self) -> Callable[[logging.Handler, logging.LogRecord], None]:
        original, echo_only = self._before[2], _core.echo_only

        def handleError(handler: logging.Handler, record: logging.LogRecord) -> None:
            # The report of a handler's failure is no record: nobody else ships it.
            before = echo_only(0)
            try:
                original(handler, record)
            finally:
                echo_only(before)

        return handleError


_active: Capture | None = None


def _patch(functions: tuple[Any, ...]) -> None:
    logging.Logger.callHandlers, logging.Handler.handle, logging.Handler.handleError = functions  # type: ignore[method-assign]


def _first_of_ours(logger: logging.Logger) -> Handler | None:
    """Find the handler of ours that the logger's records reach, if it has no filter to ask."""
    at: logging.Logger | None = logger
    while at is not None:
        for handler in at.handlers:
            if isinstance(handler, Handler) and not handler.filters:
                return handler
        at = at.parent if at.propagate else None
    return None


def _stream_of(handler: logging.Handler) -> Any:
    """Where a handler prints: `stream` of the standard ones, `console.file` of rich's."""
    try:
        stream = getattr(handler, "stream", None)
        return stream if stream is not None else getattr(getattr(handler, "console", None), "file", None)
    except Exception:  # noqa: BLE001 - a property of somebody else's
        return None


def _reached(stream: Any) -> int:
    """Which of our streams a handler's own leads to; one that has none may print to either."""
    if stream is None:
        return _STDOUT | _STDERR
    if isinstance(stream, StdoutRedirector):
        return _STDERR if stream.is_stderr else _STDOUT
    try:
        return _STDOUT | _STDERR if isinstance(getattr(stream, "buffer", None), BytesTee) else 0
    except Exception:  # noqa: BLE001 - a property of somebody else's
        return 0


def _is_pipe(stream: Any, supervised: frozenset[int]) -> bool:
    """Whether the supervisor reads what is written there."""
    try:
        return stream is not None and stream.fileno() in supervised
    except Exception:  # noqa: BLE001 - not a file
        return False
