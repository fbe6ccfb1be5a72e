"""`task("name")`: what is printed and logged inside belongs to a task of its own, `<session's task>.<name>`.

The current task is a context variable, so threads and coroutines have their own. Each sub-task has one producer while
somebody is inside; the last one out closes it, without waiting.
"""

import functools
import inspect
import math
import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from . import _core
from ._errors import FlowForgeError
from ._settings import safe_id

F = TypeVar("F", bound=Callable[..., Any])

MAX_CLOSING = 64
"""Ended sub-tasks that wait for the server for as long as it takes."""

current: ContextVar[_core.Producer | None] = ContextVar("flowforge_task", default=None)
_path: ContextVar[tuple[str, ...]] = ContextVar("flowforge_task_path", default=())


class Parent(Protocol):
    """The session, as far as sub-tasks need it."""

    def new_producer(self, task_id: str, name: str) -> _core.Producer:
        """Start a producer."""

    @property
    def task_id(self) -> str:
        """The session's own task."""

    @property
    def flush_timeout(self) -> float:
        """How long a close may take."""


class SubTasks:
    """The open sub-tasks of a session, and how many are inside each."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._lock = threading.Lock()
        self._open: dict[str, tuple[_core.Producer, int, bool]] = {}
        self._closing: list[tuple[_core.Producer, bool]] = []
        self._past: Counter[str] = Counter()

    def enter(self, name: str, path: tuple[str, ...]) -> tuple[str, _core.Producer]:
        """Join the sub-task, or begin it."""
        task_id = ".".join((self._parent.task_id, *map(safe_id, path)))
        with self._lock:
            known = self._open.get(task_id)
            producer = known[0] if known else self._parent.new_producer(task_id, name)
            count, failed = (known[1], known[2]) if known else (0, False)
            self._open[task_id] = (producer, count + 1, failed)
            self._settle()
        _core.use_tasks()
        return task_id, producer

    def leave(self, task_id: str, failed: bool) -> None:
        """Go out; the last one closes the door."""
        with self._lock:
            producer, count, failed_before = self._open.pop(task_id)
            failed = failed or failed_before
            if count > 1:
                self._open[task_id] = (producer, count - 1, failed)
                return
            # A server that is away loses no line of a task that is over, while this process lives. But each such task
            # has a buffer of its own, so their number has a bound.
            patience = math.inf if len(self._closing) < MAX_CLOSING else self._parent.flush_timeout
            self._closing.append((producer, failed))
        producer.close_later(failed, patience)

    def producers(self) -> list[_core.Producer]:
        """All that may still hold lines."""
        return [producer for producer, _ in self.ending(failed=False)]

    def ending(self, *, failed: bool) -> list[tuple[_core.Producer, bool]]:
        """Say of all that may still hold lines how they ended; `failed`: those that somebody is still inside."""
        return [(producer, failed or before) for producer, _, before in list(self._open.values())] + list(self._closing)

    def past_counts(self) -> "Counter[str]":
        """Sum up the counters of producers that are gone."""
        return Counter(self._past)

    def _settle(self) -> None:
        """Let go of closed producers that have delivered everything."""
        still = []
        for producer, failed in self._closing:
            stats = producer.stats()
            if stats["buffered_lines"]:
                still.append((producer, failed))
            else:
                self._past.update({key: value for key, value in stats.items() if type(value) is int})
        self._closing = still

    def forget_lock(self) -> None:
        """In a child: whoever held the lock is not here."""
        self._lock = threading.Lock()


class task:  # noqa: N801 - reads as a statement: `with task("extract"):`
    """Context manager and decorator, for functions and coroutines."""

    def __init__(self, name: str) -> None:
        if not name:
            raise FlowForgeError("a task needs a name")
        self.name = name
        self._entered: list[Any] = []

    def __enter__(self) -> "task":
        scope = self._scope()
        scope.__enter__()
        self._entered.append(scope)
        return self

    def __exit__(self, *exception: object) -> None:
        self._entered.pop().__exit__(*exception)

    def __call__(self, function: F) -> F:
        """Run each call of the function inside the task."""
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def call_async(*args: Any, **kwargs: Any) -> Any:
                with self._scope():
                    return await function(*args, **kwargs)

            return call_async  # type: ignore[return-value]

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._scope():
                return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    @contextmanager
    def _scope(self) -> Generator[None]:
        from ._session import require  # noqa: PLC0415 - the session knows tasks, tasks need the session

        subtasks = require().subtasks
        path = (*_path.get(), self.name)
        task_id, producer = subtasks.enter(self.name, path)
        tokens = current.set(producer), _path.set(path)
        failed = True
        try:
            yield
            failed = False
        finally:
            current.reset(tokens[0])
            _path.reset(tokens[1])
            subtasks.leave(task_id, failed)
