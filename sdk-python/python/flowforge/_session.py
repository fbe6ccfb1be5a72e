"""The one session of a process: what `init()` starts and `shutdown()` ends."""

import atexit
import contextlib
import threading
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

from . import _core, _diagnostics, _fork, _hooks, _logging, _settings
from ._errors import FlowForgeError
from ._streams import StdoutRedirector
from ._task import SubTasks

_lock = threading.RLock()
_session: "Session | None" = None


class Session:
    """What is shipped, and where to. Made by `flowforge.init()`; `with` shuts it down at the end."""

    def __init__(self, settings: _settings.Settings, *, records: bool, exceptions: bool, announce: bool) -> None:
        self._settings = settings
        self._announce = announce
        self.subtasks = SubTasks(self)
        self.producer = self.new_producer(settings.task_id, "")
        self._redirectors: list[StdoutRedirector] = []
        self._logging = _logging.Capture(
            self.producer, settings.task_id, automatic=records, supervised=settings.supervised
        )
        shown = settings.capture or 2 in settings.supervised
        self._hooks = _hooks.Hooks(None if shown else self._logging.handler.emit, self.shutdown)
        self._closing: threading.Thread | None = None
        self._closed = threading.Event()
        self._deadline = 0.0
        self._outcome = False
        self._logging.install()
        if exceptions:
            self._hooks.install()
        if settings.capture:
            self._redirectors = self._redirect(*self._unsupervised("stdout", "stderr"))
        _fork.watch(_in_child)
        # This may be a child already: of a fork server, or where the initializer of a pool calls us.
        self.deliver_with_multiprocessing()
        self._begin_spooling()
        atexit.register(self._at_exit)

    def _begin_spooling(self) -> None:
        if self._settings.spool is None:
            return
        if problem := self.producer.stats()["spool_problem"]:
            _diagnostics.say(f"no spool ({problem}): what is not stored is lost if this process is killed")
        if not self._settings.supervised:
            # The supervisor sees to what its own processes leave.
            self.producer.upload_spool()

    @property
    def task_id(self) -> str:
        """The task that this process's output belongs to."""
        return self._settings.task_id

    @property
    def server(self) -> str:
        """Where it is shipped to."""
        return self._settings.server

    @property
    def is_supervised(self) -> bool:
        """Whether `flowforge run` reads what this process prints, or a part of it."""
        return bool(self._settings.supervised)

    @property
    def flush_timeout(self) -> float:
        """Seconds that the end of the process may wait for the server."""
        return self._settings.flush_timeout

    @property
    def viewer_url(self) -> str | None:
        """Where people read it, once the server has said so."""
        return self.producer.viewer_url

    @contextmanager
    def capture(self, *, stdout: bool = True, stderr: bool = True) -> Generator[None]:
        """Capture what is printed inside. Under `flowforge run` the supervisor does that already."""
        wanted = {"stdout": stdout, "stderr": stderr}
        names = [name for name, is_wanted in wanted.items() if is_wanted]
        redirectors = self._redirect(*self._unsupervised(*names))
        try:
            yield
        finally:
            _stop(redirectors)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that was printed and logged before the call is stored. False: not in time.

        An unfinished line is not waited for.
        """
        end = time.monotonic() + (self.flush_timeout if timeout is None else timeout)
        waits = [producer.flush(max(end - time.monotonic(), 0)) for producer in self._producers()]
        return all(waits)

    def shutdown(self, timeout: float | None = None) -> bool:
        """Undo what `init()` did, deliver what is left, and say what could not be. True: everything is stored."""
        global _session  # noqa: PLW0603 - the one session of this process
        timeout = self.flush_timeout if timeout is None else timeout
        with _lock:
            if self._closing is None:
                self._deadline = time.monotonic() + timeout
            before, self._closing = self._closing, self._closing or threading.current_thread()
            if _session is self:
                _session = None
        if before is not None:
            # Whoever waits for itself, in a signal handler, would wait in vain.
            if before is not threading.current_thread():
                self._wait_for_other(timeout)
            return self._outcome
        try:
            self._flush_replacements()
            _stop(self._redirectors)
            self._hooks.remove()
            self._logging.remove()
            self._outcome = self._close(timeout, reopen=False)
        finally:
            self._closed.set()
            _diagnostics.let_go()
        # Until here a process that ends waits for us.
        atexit.unregister(self._at_exit)
        return self._outcome

    def _wait_for_other(self, timeout: float) -> None:
        """Wait for the thread that closes."""
        self._closed.wait(min(timeout, threading.TIMEOUT_MAX))

    def _flush_replacements(self) -> None:
        """Have what the program put in the place of our streams write out what it holds: it is on its way to us."""
        for redirector in self._redirectors:
            redirector.flush_replacement()

    def stats(self) -> dict[str, Any]:
        """Counters over all producers of this process; `connected` and `last_error` are the session's own."""
        own = self.producer.stats()
        sums = self.subtasks.past_counts()
        for stats in [own, *(producer.stats() for producer in self.subtasks.producers())]:
            sums.update({key: value for key, value in stats.items() if type(value) is int})
        return {**own, **sums}

    def new_producer(self, task_id: str, name: str) -> _core.Producer:
        """Make a producer for a task, and start the session's own. `FlowForgeError`: the server would refuse it."""
        settings = self._settings
        try:
            return _core.Producer(
                server=settings.server,
                task_id=task_id,
                tenant=settings.tenant,
                workflow_id=settings.workflow_id or (settings.task_id if name else ""),
                name=_settings.short_text(name),
                max_buffer_bytes=settings.max_buffer_bytes,
                spool=settings.spool,
                # Not a method: native code would hold this session for ever.
                on_restart=_restarted,
                # Under the supervisor most programs have nothing to ship beside the pipes: no connection until then.
                at_once=not settings.supervised and not name,
                announce=self._announce and not name,
            )
        except ValueError as error:
            raise FlowForgeError(str(error)) from None

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exception: object) -> None:
        error = exception[1]
        if isinstance(error, SystemExit):
            self._hooks.exit_code = _hooks.exit_code_of(error.code)
        elif error is not None and self._hooks.exit_code is None:
            self._hooks.exit_code = 1
        self.shutdown()

    def _at_exit(self) -> None:
        if self._hooks.exit_code is None:
            self._hooks.exit_code = self._hooks.code_of_exit()
        with contextlib.suppress(KeyboardInterrupt):
            # Whoever closes already may have been given more time.
            self.shutdown(max(self.flush_timeout, self._deadline - time.monotonic()))

    def _producers(self) -> list[_core.Producer]:
        return [*self.subtasks.producers(), self.producer]

    def is_supervising(self, name: str) -> bool:
        """Whether `flowforge run` reads this stream."""
        return (2 if name == "stderr" else 1) in self._settings.supervised

    def _unsupervised(self, *names: str) -> list[str]:
        return [name for name in names if not self.is_supervising(name)]

    def _redirect(self, *names: str) -> list[StdoutRedirector]:
        return [StdoutRedirector(name).start_with(self.producer) for name in names]

    def _close(self, timeout: float, *, reopen: bool) -> bool:
        end = time.monotonic() + timeout
        exit_code = self._hooks.exit_code or None
        failed = None if exit_code is None else True
        subtasks = self.subtasks.ending(failed=bool(failed))
        for producer, its_failed in subtasks:
            producer.close_later(its_failed, 0, timeout)
        ends: list[tuple[_core.Producer, bool | None, int | None]] = [(*subtask, None) for subtask in subtasks]
        ends.append((self.producer, failed, exit_code))
        outcomes = []
        interrupt: KeyboardInterrupt | None = None
        for producer, status, code in ends:
            while True:
                try:
                    left = max(end - time.monotonic(), 0)
                    outcomes.append(producer.close(status, code, left, reopen))
                except KeyboardInterrupt as error:
                    # Somebody has no patience: what is left is given up, and told.
                    interrupt, end = error, 0
                else:
                    break
        self._report(outcomes)
        self._report_spool()
        if interrupt is not None:
            raise interrupt
        return all(outcome[0] for outcome in outcomes)

    def _report_spool(self) -> None:
        # One that could not be made was told at the beginning.
        stats = self.producer.stats()
        if stats["spool_problem"] and stats["dropped_lines"]:
            _diagnostics.say(f"the spool could not keep everything: {stats['spool_problem']}")

    def _kept(self, undelivered: int, spooled: int, stays: bool) -> str:
        """Say where what was not delivered is, and how to send it."""
        if self._settings.spool is None or not stays:
            return ""
        if self._settings.supervised:
            return "; left to the supervisor"
        push = f"`flowforge spool push --dir {self._settings.spool[0]}`"
        if spooled < undelivered:
            return f"; {spooled} of them are in the spool: {push}"
        return f"; kept in the spool: {push}"

    def _report(self, outcomes: list[tuple[bool, int, int, str | None, int, bool]]) -> None:
        undelivered = sum(outcome[1] for outcome in outcomes)
        dropped = sum(outcome[2] for outcome in outcomes) + self.subtasks.past_counts()["dropped_lines"]
        error = next((outcome[3] for outcome in outcomes if outcome[3]), None)
        because = f" ({error})" if error else ""
        kept = self._kept(undelivered, sum(outcome[4] for outcome in outcomes), any(outcome[5] for outcome in outcomes))
        if undelivered:
            _diagnostics.say(f"{_diagnostics.lines(undelivered)} not delivered to {self.server}{because}{kept}")
        elif error:
            _diagnostics.say(f"the end of the task was not delivered to {self.server}{because}{kept}")
        if dropped:
            _diagnostics.say(f"{_diagnostics.lines(dropped)} dropped: the server was too slow or away")
        if (panic := _core.panicked()) is not None:
            _diagnostics.say(f"capture stopped after an error of its own: {panic}")

    def deliver_with_multiprocessing(self, *, forked: bool = False) -> None:
        """In a child of multiprocessing, see to its last lines."""
        _fork.deliver_with_multiprocessing(_deliver, forked=forked)

    def deliver(self) -> None:
        """Close, but for what may yet be written."""
        self._close(self.flush_timeout, reopen=True)


def _stop(redirectors: Iterable[StdoutRedirector]) -> None:
    for redirector in redirectors:
        redirector.stop()


def _restarted() -> None:
    if _session is not None:
        _session.deliver_with_multiprocessing()


def _deliver() -> None:
    if _session is not None:
        _session.deliver()


def _in_child() -> None:
    """Make new locks, since whoever held the old ones is not here, and let go of what the parent holds."""
    global _lock  # noqa: PLW0603 - see above
    _lock = threading.RLock()
    _diagnostics.let_go()
    if _session is not None:
        _session.subtasks.forget_past()
        _session.deliver_with_multiprocessing(forked=True)


def start(settings: _settings.Settings, *, records: bool, exceptions: bool, announce: bool) -> Session:
    """Make the session, or return the one that is there."""
    global _session  # noqa: PLW0603 - the one session of this process
    with _lock:
        if _session is None:
            _session = Session(settings, records=records, exceptions=exceptions, announce=announce)
        return _session


def active() -> Session | None:
    """Return the session, if there is one."""
    return _session


def require() -> Session:
    """Return the session."""
    if _session is None:
        raise FlowForgeError("call flowforge.init() first")
    return _session
