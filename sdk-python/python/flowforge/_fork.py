"""What a fork means: the child has our memory and none of our threads.

In the child the hook only counts. The first line that is written there starts a client of its own, with a new producer
id; what the parent had queued stays the parent's. A child that writes nothing starts nothing.
"""

import os
import sys
from collections.abc import Callable

from . import _core, _streams

_is_watching = False
_finishing: set[int] = set()


def watch(in_child: Callable[[], None]) -> None:
    """Register the hooks, once: they cannot be taken back."""
    global _is_watching  # noqa: PLW0603 - of this process and its children
    if not _is_watching:
        _is_watching = True
        os.register_at_fork(after_in_child=_core.forked)
        os.register_at_fork(after_in_child=in_child)


def finish_with_multiprocessing(flush: Callable[[], object], close: Callable[[], object]) -> None:
    """Deliver a multiprocessing child's lines: it ends by `os._exit`, without `atexit`.

    Its finalizers come last but one; after them it may print a traceback, and flushes both streams.
    """
    process = sys.modules.get("multiprocessing.process")
    util = sys.modules.get("multiprocessing.util")
    if process is None or util is None or process.parent_process() is None or os.getpid() in _finishing:
        return
    _finishing.add(os.getpid())

    def finish() -> None:
        redirected = any(isinstance(stream, _streams.StdoutRedirector) for stream in (sys.stdout, sys.stderr))
        if not redirected:
            close()
            return
        flush()
        _streams.last_words = close

    if util._exiting:
        # The finalizers have run: this is the first line of the child, and the traceback that ends it.
        _streams.last_words = close
        return
    util.Finalize(None, finish, exitpriority=-100)
