"""`sys.stdout` and `sys.stderr`, with a reader: everything goes to the stream that was there, then to the server.

Only `write` differs from the stream underneath; whatever else is asked is asked of it. `fileno()` is the real one, so
what a subprocess or a C library writes passes us by. A program's own stream may have no more than `write` and `flush`:
where it has no answer, ours is that of a plain writer.
"""

import contextlib
import io
import sys
from collections.abc import Callable, Iterable
from typing import Any, TextIO, cast

from . import _core
from ._task import current


class BytesTee(io.BufferedIOBase):
    """The `.buffer` of a redirected stream."""

    def __init__(self, target: Any, tee: _core.Tee) -> None:
        self._target = target
        self.write = tee.write_bytes  # type: ignore[method-assign]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def __del__(self) -> None:
        """Close nothing: the stream underneath lives on."""

    def write(self, data: Any, /) -> int:
        raise NotImplementedError  # each instance has its own

    def writelines(self, lines: Iterable[Any], /) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._target.flush()

    def close(self) -> None:
        self._target.close()

    @property
    def closed(self) -> bool:
        return bool(self._target.closed)

    @property
    def raw(self) -> Any:
        return self._target.raw

    def detach(self) -> Any:
        return self._target.detach()

    def fileno(self) -> int:
        return int(self._target.fileno())

    def isatty(self) -> bool:
        return bool(self._target.isatty())

    def writable(self) -> bool:
        return bool(self._target.writable())

    def readable(self) -> bool:
        return bool(self._target.readable())

    def seekable(self) -> bool:
        return bool(self._target.seekable())

    def seek(self, *args: int) -> int:
        return int(self._target.seek(*args))

    def tell(self) -> int:
        return int(self._target.tell())

    def truncate(self, *args: Any) -> int:
        return int(self._target.truncate(*args))


class StdoutRedirector(io.TextIOBase):
    """Takes the place of `sys.stdout` or `sys.stderr` between `start()` and `stop()`.

    Redirectors and other replacements of the stream may be stopped in any order. Who still holds a stopped one writes
    to the stream that lives.
    """

    def __init__(self, name: str = "stdout") -> None:
        if name not in ("stdout", "stderr"):
            raise ValueError(f"no stream {name!r}: stdout or stderr")
        self._name = name
        self.is_stderr = name == "stderr"
        self._below: TextIO | None = None
        self._target: TextIO = getattr(sys, name)
        self._tee: _core.Tee | None = None
        self._buffer: BytesTee | None = None

    def start(self) -> "StdoutRedirector":
        """Take the stream's place; under `flowforge run`, which reads the stream already, do nothing."""
        from ._session import require  # noqa: PLC0415 - the session knows redirectors

        session = require()
        return self if session.is_supervising(self._name) else self.start_with(session.producer)

    def start_with(self, producer: _core.Producer) -> "StdoutRedirector":
        """Take the stream's place, and ship to this producer."""
        below = getattr(sys, self._name)
        if below is self:
            below = self._first_live_below()
        if self._tee is not None or below is None:
            return self
        self._below = below
        # Two of us on one stream ship once: the upper one, to the stream under both.
        self._target = below.live if isinstance(below, StdoutRedirector) else below
        tee = self._tee = _core.Tee(self._target.write, producer, current.get, self._name)
        self.write = tee.write  # type: ignore[method-assign]
        if (buffer := getattr(self._target, "buffer", None)) is not None:
            target = buffer._target if isinstance(buffer, BytesTee) else buffer
            bytes_tee = _core.Tee(target.write, producer, current.get, self._name)
            self._buffer = BytesTee(target, bytes_tee)
            self._bytes_stop: Callable[[], None] = bytes_tee.stop
        setattr(sys, self._name, self)
        return self

    def stop(self) -> None:
        """Give the stream back; stopping twice is fine."""
        if self._tee is None:
            return
        self._tee.stop()
        if self._buffer is not None:
            self._bytes_stop()
        self._tee = None
        self.write = self._write_after_stop  # type: ignore[method-assign]
        if getattr(sys, self._name) is self:
            setattr(sys, self._name, self._first_live_below())

    @property
    def is_shipping(self) -> bool:
        """Between `start()` and `stop()`."""
        return self._tee is not None

    @property
    def live(self) -> TextIO:
        """The stream underneath; if that was closed after we left it, the one that is there now."""
        if self._tee is not None or not _is_closed(self._target):
            return self._target
        now = getattr(sys, self._name)
        now = now.live if isinstance(now, StdoutRedirector) and now is not self else now
        return cast(TextIO, self._target if now is None or now is self else now)

    def _first_live_below(self) -> TextIO | None:
        below = self._below
        while isinstance(below, StdoutRedirector) and not below.is_shipping:
            below = below._below
        return below

    def _write_after_stop(self, text: str) -> int:
        return self.live.write(text)

    def write(self, text: str, /) -> int:
        """Before `start()`: the plain stream."""
        return self._target.write(text)

    def writelines(self, lines: Iterable[str], /) -> None:  # type: ignore[override]
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream underneath. Shipping needs no flush."""
        if (flush := getattr(self.live, "flush", None)) is not None:
            flush()

    def flush_replacement(self) -> None:
        """Flush what the program put in the place of this one, if it did: a writer around our `buffer`, for example."""
        now = getattr(sys, self._name, None)
        if now is not self:
            with contextlib.suppress(Exception):
                now.flush()  # type: ignore[union-attr]

    def __getattr__(self, name: str) -> Any:
        # What a property of ours fails with ends here, too, and must not ask for that property again.
        if name.startswith("_") or name == "live":
            raise AttributeError(name)
        return getattr(self.live, name)

    def __del__(self) -> None:
        """Close nothing: the stream underneath lives on."""

    def close(self) -> None:
        if (close := getattr(self.live, "close", None)) is not None:
            close()

    def detach(self) -> Any:
        """Give the bytes' stream away; what is written to it is shipped as before."""
        buffer = self._buffer if self._tee is not None else None
        below = self.live.detach()  # type: ignore[attr-defined]
        return below if buffer is None else buffer

    def fileno(self) -> int:
        return int(self._ask("fileno", io.TextIOBase.fileno))

    def isatty(self) -> bool:
        return bool(self._ask("isatty", lambda _: False))

    def readable(self) -> bool:
        return bool(self._ask("readable", lambda _: False))

    def writable(self) -> bool:
        return bool(self._ask("writable", lambda _: True))

    def seekable(self) -> bool:
        return bool(self._ask("seekable", lambda _: False))

    def _ask(self, name: str, otherwise: Callable[[Any], object]) -> Any:
        method = getattr(self.live, name, None)
        return otherwise(self) if method is None else method()

    def seek(self, *args: int) -> int:
        return self.live.seek(*args)

    def tell(self) -> int:
        return self.live.tell()

    def truncate(self, *args: Any) -> int:
        return self.live.truncate(*args)

    def read(self, *args: Any) -> str:
        return self.live.read(*args)

    def readline(self, *args: Any) -> str:  # type: ignore[override]
        return self.live.readline(*args)

    @property
    def buffer(self) -> Any:
        return self._buffer if self._tee is not None and self._buffer is not None else self.live.buffer

    @property
    def closed(self) -> bool:
        return bool(getattr(self.live, "closed", False))

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.live.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self.live.errors

    @property
    def newlines(self) -> Any:  # type: ignore[override]
        return self.live.newlines


def _is_closed(stream: object) -> bool:
    try:
        return bool(getattr(stream, "closed", False))
    except ValueError:  # detached
        return True
