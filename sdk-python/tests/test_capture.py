"""What is printed is shipped: every line, whole, once, in order."""

import re

import pytest
from conftest import Runner
from harness import wait_until


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_threads_lose_and_tear_nothing(run: Runner, unbuffered: str) -> None:  # 1
    run.run(
        """
        import flowforge, sys, threading
        sys.setswitchinterval(1e-5)
        session = flowforge.init(max_buffer_bytes=64 << 20)
        def work(thread):
            for number in range(2000):
                print(f"<{thread}:{number}>", "x" * 50)
        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        [t.start() for t in threads]; [t.join() for t in threads]
        stats = flowforge.stats()
        assert stats["captured"] == 16000 and stats["dropped_lines"] == 0, stats
        """,
        PYTHONUNBUFFERED=unbuffered,
    )
    lines = run.server.lines(run.task)
    assert len(lines) == 16000
    for thread in range(8):
        own = [line for line in lines if line.startswith(f"<{thread}:")]
        assert own == [f"<{thread}:{number}> {'x' * 50}" for number in range(2000)]


def test_a_million_prints_are_stored_once_each_in_order(run: Runner) -> None:
    run.run(
        """
        import flowforge
        flowforge.init(max_buffer_bytes=1 << 30, flush_timeout=100)
        for number in range(1_000_000):
            print("line", number)
        """
    )
    expected = "".join(f"line {number}\n" for number in range(1_000_000)).encode()
    assert run.server.raw(run.task, "stdout") == expected
    assert (run.folder / "out").read_bytes() == expected
    record = run.server.task(run.task)
    assert record["status"] == "succeeded" and record["stored"] == 1_000_001, record


def test_a_huge_line_is_split_in_linear_time(run: Runner) -> None:  # 11
    run.run(
        """
        import flowforge, sys, time
        flowforge.init(max_buffer_bytes=1 << 30, flush_timeout=100)
        def seconds(text):
            began = time.thread_time()
            print(text)
            return time.thread_time() - began
        seconds("é" * 1000)
        small, large = seconds("é" * 2_000_000), seconds("é" * 50_000_000)
        # 25 times as long; ten times slower than linear is far from quadratic (625 times).
        assert large < max(small, 0.005) * 250, (small, large)
        """
    )
    rows = [row for row in run.server.rows(run.task) if row["stream"] == "stdout"]
    joined, current = [], ""
    for row in rows:
        assert len(row["message"].encode()) <= 64 << 10
        current += row["message"]
        if not row.get("continued"):
            joined.append(current)
            current = ""
    assert [len(line) for line in joined] == [1000, 2_000_000, 50_000_000] and not current
    assert all(set(line) == {"é"} for line in joined)


def test_a_progress_bar_is_one_row(run: Runner) -> None:  # 12, 11
    program = run.start(
        """
        import flowforge, sys, time
        from tqdm import tqdm
        flowforge.init()
        sys.stdin.readline()
        for step in tqdm(range(3000), mininterval=0, miniters=1, file=sys.stderr, ncols=80):
            time.sleep(0.001)
        """
    )
    wait_until("the task to be known", lambda: run.server.task(run.task))
    assert program.process.stdin is not None
    program.process.stdin.write(b"\n")
    program.process.stdin.flush()
    frames, final = [], ""
    for at, kind, data in run.server.events(run.task):
        if kind == "frame":
            frames.append(at)
        elif kind == "log" and data["stream"] == "stderr":
            final = data["message"]
        elif kind == "end":
            break
    assert "3000/3000" in final and "100%" in final
    assert len(run.server.lines(run.task)) == 1
    # In any second at most 4 frames, and one more at the edge of the window.
    assert frames and all(sum(at <= other < at + 1 for other in frames) <= 5 for at in frames)


def test_a_partial_line_is_visible_soon(run: Runner) -> None:  # 24
    program = run.start(
        """
        import flowforge, sys
        flowforge.init()
        print("begin")
        print("DEBUG asks: continue? ", end="", flush=True)
        sys.stdin.readline()
        print("yes")
        """
    )
    seen: dict[str, float] = {}
    for at, kind, data in run.server.events(run.task):
        text = data["message"] if kind in ("log", "frame") else ""
        seen.setdefault(f"{kind} {text}".strip(), at)
        if kind == "frame":
            assert program.process.stdin is not None
            program.process.stdin.close()
        if kind == "end":
            break
    # A second until it counts as waiting, a quarter until the clock is looked at, and some for this machine.
    assert seen["frame DEBUG asks: continue?"] - seen["log begin"] < 1.75, seen
    assert "log DEBUG asks: continue? yes" in seen
    assert run.server.lines(run.task) == ["begin", "DEBUG asks: continue? yes"]


def test_write_returns_the_length_whatever_happens(run: Runner) -> None:  # 15
    run.run(
        """
        import flowforge, socket, sys
        taken = socket.socket(); taken.bind(("127.0.0.1", 0)); port = taken.getsockname()[1]
        session = flowforge.init(f"http://127.0.0.1:{port}", flush_timeout=0.2, max_buffer_bytes=200)
        assert sys.stdout.write("añ\\n") == 3
        assert sys.stdout.write("") == 0
        for _ in range(100):
            assert sys.stdout.write("x" * 1000) == 1000
        write = sys.stdout.write
        flowforge.shutdown()
        assert write("abc") == 3
        class NoReturn:
            closed = False
            def write(self, text): pass
            def flush(self): pass
        sys.stdout = NoReturn()
        flowforge.init(f"http://127.0.0.1:{port}", flush_timeout=0.2)
        assert sys.stdout.write("abcd") == 4
        """
    )


def test_bytes_and_surrogates_pass_unchanged(run: Runner) -> None:  # 16
    program = run.run(
        r"""
        import flowforge, sys
        flowforge.init()
        sys.stdout.buffer.write(b"\xff raw\n"); sys.stdout.buffer.flush()
        sys.stdout.buffer.write(bytearray(b"array\n")); sys.stdout.buffer.write(memoryview(b"view\n"))
        sys.stdout.buffer.flush()
        print("escaped \udcfe")
        """,
        PYTHONIOENCODING="utf-8:surrogateescape",
    )
    expected = b"\xff raw\narray\nview\nescaped \xfe\n"
    assert program.out.read_bytes() == expected
    assert run.server.raw(run.task, "stdout") == expected
    assert run.server.lines(run.task) == ["\ufffd raw", "array", "view", "escaped \ufffd"]


def test_a_stream_that_refuses_raises_as_without_us(run: Runner) -> None:  # 16
    run.run(
        r"""
        import flowforge, sys
        flowforge.init()
        for text in ("\ud800", 3):
            try:
                sys.stdout.write(text)
            except (UnicodeEncodeError, TypeError):
                continue
            raise SystemExit("a strict stream took it")
        print("\ud800 shipped", file=sys.stderr)  # stderr escapes what it cannot encode
        print("after")
        """,
        PYTHONIOENCODING="utf-8:strict",
    )
    lines = run.server.lines(run.task)
    assert len(lines) == 2 and re.fullmatch("\ufffd+ shipped", lines[0]) and lines[1] == "after"
