"""`task("name")`: what is printed and logged inside belongs to a task of its own, `<session's task>.<name>`.

Who is inside is a context variable, so threads and coroutines have their own. A sub-task has one producer, which stays
open for a while after the last one went out: a loop that enters again and again is one stream in one order, and costs
one connection.

No lock: a finalizer or a signal handler may enter a task at any place. Only single operations of dicts and sets change
what is shared; where two threads race, the worst is a second producer for a while.
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FunctionType
from typing import Any, Protocol, TypeVar, cast

from . import _core, _diagnostics, _steps
from ._errors import FlowForgeError
from ._settings import child_id

F = TypeVar("F", bound=Callable[..., Any])

LINGER_S = 2.0
"""How long a sub-task waits for the next entry before it ends."""
MAX_OPEN = 256
"""Sub-tasks that are open or not delivered yet: each has a connection."""
MAX_IDLE = 16
"""Of these, so many may wait for the next entry."""

current: ContextVar[_core.Producer | None] = ContextVar("flowforge_task", default=None)
_stack: ContextVar[tuple["_Scope", ...]] = ContextVar("flowforge_tasks", default=())


class Parent(Protocol):
    """The session, as far as sub-tasks need it."""

    @property
    def producer(self) -> _core.Producer:
        """Ships what belongs to no sub-task."""

    def new_producer(self, task_id: str, name: str) -> _core.Producer:
        """Make a producer."""

    @property
    def task_id(self) -> str:
        """The session's own task."""

    @property
    def is_supervised(self) -> bool:
        """Whether most sub-tasks have nothing to ship."""


class _Room:
    """A sub-task: its producer, who is inside, and whether it went wrong since it was last empty."""

    def __init__(self, producer: _core.Producer) -> None:
        self.producer = producer
        self.inside: set[_Scope] = set()
        self.failed = False
        self.is_ending = False


class SubTasks:
    """The sub-tasks of a session."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._by_id: dict[str, _Room] = {}
        self._all: dict[_Room, None] = {}
        self._past: list[Any] = []
        self._told = False

    def enter(self, scope: "_Scope", path: tuple[str, ...], heir: _core.Producer | None) -> _Room | None:
        """Go in, or begin it; `None`: it cannot be had, and its lines go to the task around it."""
        task_id = child_id(self._parent.task_id, path)
        while True:
            room = self._by_id.get(task_id) or self._begin(task_id, path[-1], heir or self._parent.producer)
            if room is None:
                return None
            if not room.inside:
                room.failed = False
            room.inside.add(scope)
            if room.producer.reopen():
                # Somebody may have thought that it was over before it began.
                self._all.setdefault(room)
                return room
            # It has ended in the meantime; another attempt begins.
            room.inside.discard(scope)
            if self._by_id.get(task_id) is room:
                self._by_id.pop(task_id, None)

    def _begin(self, task_id: str, name: str, heir: _core.Producer) -> _Room | None:
        self._settle()
        if len(self._all) >= MAX_OPEN:
            if not self._told:
                self._told = True
                _diagnostics.say(
                    f"more than {MAX_OPEN} sub-tasks at once: the lines of others go to the task around them"
                )
            return None
        fresh = _Room(self._parent.new_producer(task_id, name))
        fresh.producer.pass_to(heir)
        room = self._by_id.setdefault(task_id, fresh)
        self._all[room] = None
        if not self._parent.is_supervised and not room.producer.start():
            self._by_id.pop(task_id, None)
            self._all.pop(room, None)
            return None
        return room

    def leave(self, scope: "_Scope", room: _Room, failed: bool) -> None:
        """Go out; after the last one it ends soon."""
        room.failed = room.failed or failed
        room.inside.discard(scope)
        if room.inside:
            return
        # A server that is away loses no line of a task that is over, while this process lives.
        room.producer.close_later(room.failed, LINGER_S, math.inf)
        if room.inside:
            room.producer.reopen()

    def producers(self) -> list[_core.Producer]:
        """All that may still hold lines."""
        return [room.producer for room in list(self._all)]

    def ending(self, *, failed: bool) -> list[tuple[_core.Producer, bool]]:
        """Say of all that may still hold lines how they ended; `failed`: those that somebody is still inside."""
        return [(room.producer, room.failed or (failed and bool(room.inside))) for room in list(self._all)]

    def past_counts(self) -> "Counter[str]":
        """Sum up the counters of producers that are gone."""
        sums: Counter[str] = Counter()
        for stats in list(self._past):
            sums.update({key: value for key, value in stats.items() if type(value) is int})
        return sums

    def _settle(self) -> None:
        """Let go of those that have delivered everything, and end those that wait for too many others."""
        idle = [room for room in list(self._all) if not room.inside]
        for room in idle:
            # Who takes it out counts it.
            if room.producer.is_done and self._all.pop(room, self) is None:
                self._past.append(room.producer.stats())
        if len(self._past) > MAX_OPEN:
            self._past = [self.past_counts()]
        for room in idle[:-MAX_IDLE]:
            if not room.inside and not room.is_ending:
                room.is_ending = True
                room.producer.close_later(room.failed, 0, math.inf)

    def forget_past(self) -> None:
        """In a child: what was counted is the parent's."""
        self._past = []


class _Scope:
    """One entry of a task. Nothing in it raises: a program does not fail because of its log."""

    def __init__(self, name: object) -> None:
        self._name = str(name) if isinstance(name, str) else f"{name}"
        self._subtasks: SubTasks | None = None
        self._room: _Room | None = None
        self._path: tuple[str, ...] = ()
        self._producer: _core.Producer | None = None
        self._left = False

    def join(self) -> None:
        """Go in; without a session nowhere."""
        from ._session import active  # noqa: PLC0415 - the session knows tasks, tasks need the session

        session = active()
        if session is None:
            return
        try:
            self._subtasks = session.subtasks
            around = [scope for scope in _stack.get() if scope._counts_for(session.subtasks)]
            outer = around[-1] if around else None
            self._path = (*(outer._path if outer else ()), self._name)
            heir = outer._producer if outer else None
            self._room = session.subtasks.enter(self, self._path, heir)
            self._producer = self._room.producer if self._room else heir
            _core.use_tasks()
        except Exception as error:  # noqa: BLE001 - see the class
            _diagnostics.say(f"task {self._name!r} is not shipped by itself: {type(error).__name__}: {error}")

    def _counts_for(self, subtasks: SubTasks) -> bool:
        return self._subtasks is subtasks and not self._left

    def push(self) -> None:
        """What this context prints from now on is the task's."""
        _go_to((*_stack.get(), self))

    def pull(self) -> None:
        """Undo `push`, in whichever order others do; in another context there is nothing to undo."""
        _go_to(tuple(scope for scope in _stack.get() if scope is not self))

    def leave(self, failed: bool) -> None:
        """Go out, once."""
        if self._left:
            return
        self._left = True
        self.pull()
        if self._subtasks is not None and self._room is not None:
            try:
                self._subtasks.leave(self, self._room, failed)
            except Exception as error:  # noqa: BLE001 - see the class
                _diagnostics.say(f"task {self._name!r} did not end by itself: {type(error).__name__}: {error}")


def _go_to(stack: tuple[_Scope, ...]) -> None:
    # Some may have been left in another context.
    stack = tuple(scope for scope in stack if not scope._left)
    _stack.set(stack)
    current.set(stack[-1]._producer if stack else None)


def _is_failure(error: object) -> bool:
    if isinstance(error, SystemExit):
        return error.code not in (None, 0)
    # A generator that is not read to its end has not failed.
    return error is not None and not isinstance(error, GeneratorExit)


class task:  # noqa: N801 - reads as a statement: `with task("extract"):`
    """Context manager and decorator, for functions, coroutines and generators of both kinds."""

    def __init__(self, name: str) -> None:
        given: object = name
        if isinstance(given, FunctionType):
            raise FlowForgeError('a task needs a name: @task("name")')
        self.name = name
        self._entered: list[_Scope] = []

    def __enter__(self) -> "task":
        scope = _Scope(self.name)
        self._entered.append(scope)
        scope.join()
        scope.push()
        return self

    def __exit__(self, *exception: object) -> None:
        scope = self._take_innermost()
        if scope is not None:
            scope.leave(_is_failure(exception[1]))

    def _take_innermost(self) -> "_Scope | None":
        """Find the scope that ends here: of this context, or of the one that it was entered in."""
        for scope in (*reversed(_stack.get()), *reversed(self._entered)):
            try:
                self._entered.remove(scope)
            except ValueError:
                continue
            return scope
        return None

    def __call__(self, function: F) -> F:
        """Run each call of the function inside the task; of a generator, each of its steps."""
        wrapped: Any = functools.wraps(function)(_steps.attributed(function, self._scope, _here))
        return cast(F, wrapped)

    @contextmanager
    def _scope(self) -> Generator[_Scope]:
        scope = _Scope(self.name)
        error: BaseException | None = None
        try:
            scope.join()
            yield scope
        except BaseException as raised:
            error = raised
            raise
        finally:
            scope.leave(_is_failure(error))


@contextmanager
def _here(scope: _Scope) -> Generator[None]:
    """What is printed inside is the scope's."""
    scope.push()
    try:
        yield
    finally:
        scope.pull()
