"""What a fork means: the child has our memory and none of our threads.

Native code counts forks. The first line that is written in a child starts a client of its own, with a new producer id;
what the parent had queued stays the parent's. A child that writes nothing starts nothing.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

_is_watching = False


def watch(in_child: Callable[[], None]) -> None:
    """Register the hook, once: it cannot be taken back."""
    global _is_watching  # noqa: PLW0603 - of this process and its children
    if not _is_watching:
        _is_watching = True
        os.register_at_fork(after_in_child=in_child)


def deliver_with_multiprocessing(deliver: Callable[[], object], *, forked: bool) -> None:
    """Deliver a multiprocessing child's lines: it ends by `os._exit`, without `atexit`.

    The last thing that it does is to flush both streams: after its finalizers, after its other threads, and after the
    traceback that it may end with. `forked`: this is a child of which multiprocessing does not know yet.
    """
    util: Any = sys.modules.get("multiprocessing.util")
    process: Any = sys.modules.get("multiprocessing.process")
    if util is None or process is None or hasattr(util, "_flowforge_deliver"):
        return
    if not forked and process.parent_process() is None:
        return
    flush = util._flush_std_streams

    def flush_and_deliver() -> None:
        try:
            flush()
        finally:
            # It is also called before this process forks children of its own.
            if util._exiting:
                deliver()

    util._flowforge_deliver = deliver
    util._flush_std_streams = flush_and_deliver
