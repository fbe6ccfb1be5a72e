"""The redirector is the stream it replaces, and gives it back."""

from conftest import Runner


def test_import_changes_nothing(run: Runner) -> None:  # 2
    run.run(
        """
        import logging, os, sys, threading
        def state():
            return (sys.stdout, sys.stderr, sys.excepthook, threading.excepthook, threading.active_count(),
                    len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")), logging.root.handlers[:],
                    logging.root.level, logging.Logger.callHandlers, logging.Handler.handle, logging.raiseExceptions)
        before = state()
        import flowforge
        assert state() == before
        session = flowforge.init()
        assert state() != before and flowforge.init(task_id="other") is session and session.task_id != "other"
        assert logging.root.handlers == [] and logging.root.level == logging.WARNING
        flowforge.shutdown()
        after = state()
        assert after[:4] == before[:4] and after[7:] == before[7:]
        """
    )


def test_the_stream_answers_as_the_original(run: Runner) -> None:  # 14
    run.run(
        """
        import faulthandler, flowforge, io, subprocess, sys
        original = sys.stdout
        names = ["isatty", "fileno", "readable", "writable", "seekable"]
        def answers(stream):
            return [getattr(stream, name)() for name in names] + [
                stream.encoding, stream.errors, stream.closed, stream.newlines, stream.name, stream.mode,
                stream.line_buffering, stream.write_through, stream.buffer.name, stream.buffer.closed,
                stream.buffer.fileno(), stream.buffer.mode]
        before = answers(original)
        flowforge.init()
        ours = sys.stdout
        assert ours is not original and isinstance(ours, io.TextIOBase) and answers(ours) == before
        ours.reconfigure(line_buffering=True)
        assert original.line_buffering and ours.line_buffering
        ours.writelines(["one\\n", "two\\n"])
        print("three", file=ours, flush=True)
        for missing in ("nothing_such", "_nothing_such"):
            assert not hasattr(ours, missing)
        faulthandler.enable()
        subprocess.run([sys.executable, "-c", "print('from a child')"], stdout=sys.stdout, check=True)
        import gc, weakref
        gone = weakref.ref(ours)
        del ours; flowforge.shutdown(); gc.collect()
        assert gone() is None
        assert sys.stdout is original and not original.closed
        print("still open")
        """
    )
    assert (run.folder / "out").read_text() == "one\ntwo\nthree\nfrom a child\nstill open\n"
    # What another process writes to the descriptor passes us by.
    assert run.server.lines(run.task) == ["one", "two", "three"]


def test_nested_redirections_end_in_any_order(run: Runner) -> None:  # 17
    run.run(
        """
        import contextlib, flowforge, io, itertools, sys
        flowforge.init(capture="off")
        real = sys.stdout
        for order in itertools.permutations(range(3)):
            nest = [flowforge.StdoutRedirector("stdout") for _ in range(3)]
            for redirector in nest:
                redirector.start()
            print("nested", *order)
            for place in order:
                nest[place].stop()
                nest[place].stop()
            assert sys.stdout is real, order
        # Someone else's replacement in between.
        ours, buffer = flowforge.StdoutRedirector("stdout").start(), io.StringIO()
        with contextlib.redirect_stdout(buffer):
            print("elsewhere")
            ours.stop()
        print("after: not captured, but shown")
        sys.stdout = real
        with contextlib.redirect_stdout(io.StringIO()):
            with flowforge.capture():
                print("captured inside a redirection")
        assert sys.stdout is real and buffer.getvalue() == "elsewhere\\n"
        with flowforge.capture(stdout=False):
            print("not this"); print("but this", file=sys.stderr)
        assert sys.stdout is real
        """
    )
    nested = [f"nested {a} {b} {c}" for a in range(3) for b in range(3) for c in range(3) if len({a, b, c}) == 3]
    assert run.server.lines(run.task) == [*nested, "captured inside a redirection", "but this"]
    assert "after: not captured, but shown" in (run.folder / "out").read_text()


def test_capsys_and_ours_in_any_order(run: Runner) -> None:  # 17
    test = run.folder / "test_inner.py"
    test.write_text(
        """
import flowforge, sys

def test_one(capsys):
    flowforge.init()
    print("in one")
    assert capsys.readouterr().out == "in one\\n"

def test_two(capsys):
    print("in two")  # the session of the test before, whose stream is gone
    assert capsys.readouterr().out == "in two\\n"
    flowforge.shutdown()
    print("after")
    assert capsys.readouterr().out == "after\\n"
"""
    )
    run.run(f"import pytest; raise SystemExit(pytest.main(['-q', '-p', 'no:cacheprovider', {str(test)!r}]))")
    assert run.server.lines(run.task) == ["in one"]


def test_a_handler_that_keeps_a_stopped_stream_writes_to_the_live_one(run: Runner) -> None:  # 18
    program = run.run(
        """
        import flowforge, io, logging, sys
        real, inner = sys.stderr, io.StringIO()
        session = flowforge.init(logging=False)
        early = logging.StreamHandler(sys.stderr)
        sys.stderr = inner
        redirector = flowforge.StdoutRedirector("stderr").start()
        late = logging.StreamHandler(sys.stderr)
        redirector.stop()
        sys.stderr = real
        inner.close()
        flowforge.shutdown()
        for name, handler in (("early", early), ("late", late)):
            logger = logging.getLogger(name)
            logger.addHandler(handler)
            logger.warning("%s after stop", name)
        """
    )
    assert program.stderr == "early after stop\nlate after stop\n"


def test_a_stream_with_only_write_and_flush(run: Runner) -> None:
    program = run.run(
        """
        import logging, sys
        class Bare:
            def __init__(self, below): self.below = below
            def write(self, text): self.below.write(str(text))
            def flush(self): self.below.flush()
        sys.stdout = Bare(sys.stdout)
        import flowforge, io
        flowforge.init(flush_timeout=30)
        assert not sys.stdout.isatty() and not sys.stdout.closed and sys.stdout.writable() and not sys.stdout.readable()
        try: sys.stdout.fileno()
        except io.UnsupportedOperation: pass
        else: raise SystemExit("a number")
        assert not hasattr(sys.stdout, "live2") and sys.stdout.write(5) is None
        held = sys.stdout
        logging.basicConfig(stream=held, level=20)
        logging.info("before"); print("printed")
        flowforge.shutdown()
        assert not held.isatty() and not held.closed
        logging.info("after"); held.write("held\\n")
        """
    )
    assert program.stdout == "5INFO:root:before\nprinted\nINFO:root:after\nheld\n" and not program.stderr
    assert run.server.lines(run.task) == ["before", "printed"]


def test_writers_around_our_buffer_are_captured(run: Runner) -> None:
    program = run.run(
        """
        import flowforge, io, sys
        flowforge.init(flush_timeout=30)
        sys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding="utf-8")
        for number in range(3): print("detached", number)
        sys.stderr = io.TextIOWrapper(sys.stderr.buffer, encoding="utf-8")
        print("wrapped", file=sys.stderr)
        """
    )
    assert program.stdout == "detached 0\ndetached 1\ndetached 2\n" and program.stderr == "wrapped\n"
    assert run.server.lines(run.task, "stdout") == ["detached 0", "detached 1", "detached 2"]
    assert run.server.lines(run.task, "stderr") == ["wrapped"]


def test_lines_of_threads_that_are_gone_neither_wait_nor_tear_others(run: Runner) -> None:
    run.run(
        """
        import flowforge, sys, threading
        flowforge.init(flush_timeout=30)
        for number in range(200):
            thread = threading.Thread(target=sys.stdout.write, args=(".",)); thread.start(); thread.join()
        barrier = threading.Barrier(2)
        def work(own):
            for number in range(20):
                for turn in range(4):
                    barrier.wait()
                    if turn % 2 == own: sys.stdout.write(f"thread {own} " if turn < 2 else f"line {number}\\n")
        threads = [threading.Thread(target=work, args=(own,)) for own in (0, 1)]
        [t.start() for t in threads]; [t.join() for t in threads]
        """
    )
    lines = run.server.lines(run.task)
    assert lines.count(".") == 200
    for own in (0, 1):
        assert [line for line in lines if line.startswith(f"thread {own}")] == [
            f"thread {own} line {n}" for n in range(20)
        ]
