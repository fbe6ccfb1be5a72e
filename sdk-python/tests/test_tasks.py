"""Sub-tasks: they cost little, keep the order, attribute rightly, and never hurt the program."""

import pytest
from conftest import Runner

ENDED = """
def ended():
    import time
    while not all(producer.is_done for producer in session.subtasks.producers()):
        time.sleep(0.01)
"""


def test_finalizers_and_signal_handlers_may_enter_a_task(run: Runner) -> None:
    run.run(
        """
        import faulthandler, flowforge, gc, random, signal
        faulthandler.dump_traceback_later(60, exit=True)
        flowforge.init(flush_timeout=30)
        @flowforge.task("entered")
        def enter(*_): print("entered")
        class Cycle:
            def __init__(self): self.me = self
            def __del__(self): enter()
        signal.signal(signal.SIGALRM, enter)
        for step in range(300):
            gc.disable(); Cycle(); gc.set_threshold(gc.get_count()[0] + step % 40 + 1); gc.enable()
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00001, 0.0006))
            with flowforge.task("outer"): pass
        signal.setitimer(signal.ITIMER_REAL, 0)
        """
    )


def test_a_loop_is_one_stream_in_order_and_costs_no_threads(run: Runner) -> None:
    program = run.run(
        """
        import flowforge, os, sys
        flowforge.init(flush_timeout=60)
        with flowforge.task("x"): print("first")
        def resources():
            return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))
        before = resources()
        for number in range(2000):
            with flowforge.task("x"):
                print("entry", number)
        after = resources()
        assert after[0] <= before[0] and after[1] <= before[1] + 2, (before, after)
        """
    )
    assert run.server.lines(f"{run.task}.x") == ["first", *(f"entry {number}" for number in range(2000))]
    ends = [row for row in run.server.rows(f"{run.task}.x") if row["stream"] == "system"]
    assert len(ends) == 1 and run.server.task(f"{run.task}.x")["status"] == "succeeded", program.stderr


def test_thousands_of_sub_tasks_without_a_server_neither_raise_nor_exhaust(run: Runner) -> None:
    run.run(
        """
        import flowforge, os, resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
        flowforge.init("http://127.0.0.1:1", flush_timeout=0.2, max_buffer_bytes=1 << 20)
        for number in range(3000):
            with flowforge.task(f"t{number}"):
                print("x" * 1000)
                open(os.devnull).close()
        stats = flowforge.stats()
        assert stats["captured"] == 3000 == stats["dropped_lines"] + stats["buffered_lines"], stats
        assert stats["buffered_bytes"] <= 1 << 20, stats
        assert len(os.listdir("/proc/self/task")) < 20
        """
    )


def test_an_entry_after_the_end_is_another_attempt_in_order(run: Runner) -> None:
    run.run(
        f"""
import flowforge
flowforge._task.LINGER_S = 0.01
session = flowforge.init(flush_timeout=30)
{ENDED}
for number in range(5):
    with flowforge.task("x"):
        print("entry", number)
    ended()
"""
    )
    rows = run.server.rows(f"{run.task}.x")
    assert [row["message"] for row in rows if row["stream"] == "stdout"] == [f"entry {number}" for number in range(5)]
    assert [row["stream"] for row in rows] == ["stdout", "system"] * 5


def test_what_outlives_its_task_goes_to_the_task_around_it(run: Runner) -> None:
    run.run(
        f"""
import asyncio, contextvars, flowforge, logging, threading
flowforge._task.LINGER_S = 0.01
session = flowforge.init(flush_timeout=30)
{ENDED}
go_on = threading.Event()
def late(name):
    print(name, "early"); begun.set(); go_on.wait(); print(name, "late"); logging.warning(name + " logs late")
begun = threading.Event()
with flowforge.task("outer"):
    with flowforge.task("inner"):
        thread = threading.Thread(target=contextvars.copy_context().run, args=(late, "thread")); thread.start()
        begun.wait()
    room = session.subtasks._by_id[session.task_id + ".outer.inner"]
    while not room.producer.is_done: pass
    go_on.set(); thread.join()
async def background():
    await step.wait(); print("coroutine late")
async def main():
    global step
    step = asyncio.Event()
    with flowforge.task("A"):
        work = asyncio.create_task(background()); await asyncio.sleep(0)
    ended(); step.set(); await work
asyncio.run(main())
assert flowforge.stats()["dropped_lines"] == 0, flowforge.stats()
"""
    )
    assert run.server.lines(f"{run.task}.outer.inner") == ["thread early"]
    assert run.server.lines(f"{run.task}.outer") == ["thread late", "thread logs late"]
    assert run.server.lines(run.task) == ["coroutine late"]


def test_a_task_never_raises(run: Runner) -> None:
    run.run(
        """
        import asyncio, flowforge, threading
        with flowforge.task("before"): print("without a session")
        flowforge.init(flush_timeout=30)
        @flowforge.task("walk")
        def walk(depth):
            print("level", depth)
            return depth and walk(depth - 1)
        assert walk(40) == 0
        for name in ("x" * 500, "é" * 300, "", 5, " "):
            with flowforge.task(name): print("named")
        shared, barrier = flowforge.task("shared"), threading.Barrier(4)
        def enter():
            for _ in range(50):
                with shared: barrier.wait(); print("shared")
                barrier.wait()
        threads = [threading.Thread(target=enter) for _ in range(4)]
        [t.start() for t in threads]; [t.join() for t in threads]
        async def numbers():
            with flowforge.task("generator"):
                yield 1; yield 2
        async def main():
            generator = numbers(); await anext(generator)
            await asyncio.create_task(generator.aclose())
        asyncio.run(main())
        def interleaved(name):
            with flowforge.task(name):
                yield; yield
        a, b = interleaved("a"), interleaved("b")
        next(a); next(b); list(a); list(b)
        print("outside")
        with flowforge.task("y"):
            flowforge.shutdown()
            with flowforge.task("z"): print("after the shutdown")
            flowforge.init(flush_timeout=30)
            print("in the next session")
        with flowforge.task("y"): print("in its task")
        """
    )
    assert run.server.lines(run.task) == ["outside", "in the next session"]
    assert run.server.lines(f"{run.task}.shared") == ["shared"] * 200
    assert run.server.lines(f"{run.task}.y") == ["in its task"]


def test_generators_are_attributed_step_by_step(run: Runner) -> None:
    run.run(
        """
        import asyncio, flowforge
        flowforge.init(flush_timeout=30)
        @flowforge.task("g")
        def steps():
            print("one"); got = yield 1
            print("got", got)
            try: yield 2
            except KeyError: print("caught")
            return 3
        generator = steps()
        assert next(generator) == 1; print("between")
        assert generator.send("x") == 2; print("between")
        try: generator.throw(KeyError("k"))
        except StopIteration as end: assert end.value == 3
        @flowforge.task("ag")
        async def more():
            print("first"); yield 1
            await asyncio.sleep(0); print("second"); yield 2
        async def main():
            async for number in more(): print("caller", number)
        asyncio.run(main())
        """
    )
    assert run.server.lines(f"{run.task}.g") == ["one", "got x", "caught"]
    assert run.server.lines(f"{run.task}.ag") == ["first", "second"]
    assert run.server.lines(run.task) == ["between", "between", "caller 1", "caller 2"]


@pytest.mark.parametrize(
    ("ending", "status"), [("sys.exit(0)", "succeeded"), ("sys.exit()", "succeeded"), ("sys.exit(2)", "failed")]
)
def test_an_exit_inside_a_task_decides_how_it_ends(run: Runner, ending: str, status: str) -> None:
    run.task = f"{run.task[:40]}-{abs(hash(ending))}"
    program = run.start(f"import flowforge, sys\nflowforge.init()\nwith flowforge.task('x'):\n    {ending}")
    program.process.wait()
    assert run.server.ended(f"{run.task}.x")["status"] == status


def test_a_retry_that_succeeds_ends_well(run: Runner) -> None:
    run.run(
        """
        import flowforge
        flowforge.init(flush_timeout=30)
        for fails in (True, False):
            try:
                with flowforge.task("x"):
                    if fails: raise ValueError
            except ValueError:
                print("again")
        """
    )
    assert run.server.task(f"{run.task}.x")["status"] == "succeeded"
