"""Logging records, with their structure.

`init(logging=True)` adds no handler to any logger: that would switch `logging.basicConfig()` and the last-resort
handler off, and change what the terminal shows. It looks at each record on its way to the handlers instead.

**A record ships once.** A handler that prints it to a stream that we redirect (or, under `flowforge run`, to a pipe
that the supervisor reads) would bring it a second time, so:

- in process, the record ships with its structure, and what such a handler prints reaches the terminal alone;
- under the supervisor, what is printed is in the pipe already: only a record that nobody printed ships.

No lock is taken and nothing is waited for: the queue is made for many writers.
"""

import json
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

from . import _core, _diagnostics
from ._streams import StdoutRedirector
from ._task import current

_PLAIN = logging.makeLogRecord({}).__dict__
_STANDARD = frozenset(_PLAIN) | {"message", "asctime", "taskName"}
_PLAIN_LEN = len(_PLAIN)
_OWN = "flowforge"
_OWN_PREFIX = "flowforge."
_TRACEBACKS = logging.Formatter()
_DEEPEST_REPR = 10_000


def severity(levelno: int) -> int:
    """OpenTelemetry's number for a level of Python's."""
    if levelno >= logging.ERROR:
        return 21 if levelno >= logging.CRITICAL else 17
    if levelno >= logging.INFO:
        return 13 if levelno >= logging.WARNING else 9
    return 5 if levelno >= logging.DEBUG else 1


class Handler(logging.Handler):
    """Ships records to the session's task. Without a session it does nothing.

    Needed only with `init(logging=False)`, to choose loggers, levels and filters by hand; beside `logging=True` it
    would bring every record twice, and therefore rests.
    """

    def handle(self, record: logging.LogRecord) -> bool:
        """Ship the record, without the handler's lock."""
        if not self.takes(record):
            return False
        capture = _active
        if capture is None or (self.filters and not self.filter(record)):
            return False
        if capture.handler is not self and capture.is_automatic:
            return False
        if capture.supervised:
            capture.dispatch.pending = self
        else:
            self.emit(record)
        return True

    def takes(self, record: logging.LogRecord) -> bool:
        """Whether level and name allow it. Our own loggers could speak while a record is being shipped."""
        name = str(record.name)
        return record.levelno >= self.level and name != _OWN and not name.startswith(_OWN_PREFIX)

    def emit(self, record: logging.LogRecord) -> None:
        """Capture the record; nothing in it can make this raise."""
        capture = _active
        if capture is None:
            return
        try:
            producer = current.get() or capture.producer
            extras = fields(record) if len(record.__dict__) > _PLAIN_LEN or record.exc_info else None
            producer.log(
                severity(record.levelno),
                self.text(record),
                str(record.name),
                str(record.threadName),
                record.created,
                extras,
            )
        except Exception as error:  # noqa: BLE001 - whatever a record's own objects raise
            _diagnostics.say(f"a logging record could not be shipped: {type(error).__name__}")

    def text(self, record: logging.LogRecord) -> str:
        """Return what a reader sees: the message, and the traceback below it."""
        try:
            if self.formatter is not None:
                return self.formatter.format(record)
            if record.exc_info or record.exc_text or record.stack_info:
                return _TRACEBACKS.format(record)
            return record.getMessage()
        except Exception:  # noqa: BLE001 - "%d" % "x", a broken __str__
            return f"{_safe_repr(record.msg)} {_safe_repr(record.args)}"


def fields(record: logging.LogRecord) -> str | None:
    """Everything beside the message, as a JSON object."""
    values = record.__dict__
    extras: dict[str, Any] = {str(key): values[key] for key in values.keys() - _STANDARD}
    for reserved in ("logger", "thread"):
        if reserved in extras:
            extras[f"extra.{reserved}"] = extras.pop(reserved)
    if record.exc_info and record.exc_info[0] is not None:
        kind, error, _ = record.exc_info
        extras["exception"] = {"type": f"{kind.__module__}.{kind.__qualname__}", "message": _safe_str(error)}
    if not extras:
        return None
    try:
        return json.dumps(extras, default=_safe_repr, ensure_ascii=False, allow_nan=False, skipkeys=True)
    except (ValueError, TypeError, RecursionError):
        return json.dumps({key: _safe_repr(value) for key, value in extras.items()}, ensure_ascii=False)


def _safe_repr(value: object) -> str:
    try:
        return repr(value)[:_DEEPEST_REPR]
    except Exception:  # noqa: BLE001 - a broken __repr__
        return f"<{type(value).__name__}>"


def _safe_str(value: object) -> str:
    try:
        return str(value)[:_DEEPEST_REPR]
    except Exception:  # noqa: BLE001 - a broken __str__
        return f"<{type(value).__name__}>"


class _Dispatch(threading.local):
    """Of the record that this thread is handing out, under the supervisor."""

    printed = False
    pending: Handler | None = None


class Capture:
    """Looks at every record on its way to the handlers, between `install()` and `remove()`."""

    def __init__(self, producer: _core.Producer, *, automatic: bool, supervised: bool) -> None:
        self.producer = producer
        self.handler = Handler()
        self.is_automatic = automatic
        self.supervised = supervised
        self.dispatch = _Dispatch()
        self._call_handlers = logging.Logger.callHandlers
        self._handle = logging.Handler.handle
        self._ours: tuple[Any, Any] | None = None

    def install(self) -> None:
        """Begin to look."""
        global _active  # noqa: PLW0603 - one session a process
        _active = self
        if self.is_automatic or self.supervised:
            self._ours = (self._make_call_handlers(), self._make_handle())
            logging.Logger.callHandlers, logging.Handler.handle = self._ours  # type: ignore[method-assign, assignment]

    def remove(self) -> None:
        """Look no more. Who has patched after us keeps our functions, which then do nothing of their own."""
        global _active  # noqa: PLW0603
        _active = None
        if self._ours is None:
            return
        if logging.Logger.callHandlers is self._ours[0]:
            logging.Logger.callHandlers = self._call_handlers  # type: ignore[method-assign]
        if logging.Handler.handle is self._ours[1]:
            logging.Handler.handle = self._handle  # type: ignore[method-assign]

    def _make_call_handlers(self) -> Callable[[logging.Logger, logging.LogRecord], None]:
        original, ship = self._call_handlers, self.handler.handle
        observe = self._observe if self.supervised else None

        def callHandlers(logger: logging.Logger, record: logging.LogRecord) -> None:
            if observe is not None:
                return observe(logger, record)
            ship(record)
            return original(logger, record)

        return callHandlers

    def _observe(self, logger: logging.Logger, record: logging.LogRecord) -> None:
        """Let the handlers go first, and see whether one of them prints the record."""
        dispatch = self.dispatch
        outer = dispatch.printed, dispatch.pending
        dispatch.printed, dispatch.pending = False, None
        if self.is_automatic and self.handler.takes(record):
            dispatch.pending = self.handler
        try:
            self._call_handlers(logger, record)
        finally:
            printed, pending = dispatch.printed, dispatch.pending
            dispatch.printed, dispatch.pending = outer
        if pending is not None and not printed:
            pending.emit(record)

    def _make_handle(self) -> Callable[[logging.Handler, logging.LogRecord], Any]:
        original, echo_only = self._handle, _core.echo_only

        def handle(handler: logging.Handler, record: logging.LogRecord) -> Any:
            stream = _stream_of(handler)
            if self.supervised:
                handled = original(handler, record)
                if handled and _is_pipe(stream):
                    self.dispatch.printed = True
                return handled
            if isinstance(stream, StdoutRedirector) and self._has_shipped(record):
                before = echo_only(True)
                try:
                    return original(handler, record)
                finally:
                    echo_only(before)
            return original(handler, record)

        return handle

    def _has_shipped(self, record: logging.LogRecord) -> bool:
        """A record of another process, brought here by a queue, was not seen on its way."""
        return _active is self and self.handler.takes(record) and record.process in (None, os.getpid())


_active: Capture | None = None


def _stream_of(handler: logging.Handler) -> Any:
    """Where a handler prints: `stream` of the standard ones, `console.file` of rich's."""
    try:
        stream = getattr(handler, "stream", None)
        return stream if stream is not None else getattr(getattr(handler, "console", None), "file", None)
    except Exception:  # noqa: BLE001 - a property of somebody else's
        return None


def _is_pipe(stream: Any) -> bool:
    """Whether the supervisor reads what is written there."""
    try:
        return stream is not None and stream.fileno() in (1, 2)
    except Exception:  # noqa: BLE001 - not a file
        return False
