"""Servers that are away, stuck, or killed: the task does not notice, and what is lost is told."""

import random
import re
import socket
import time

import pytest
from conftest import Runner
from harness import DEADLINE_S, wait_until


def test_an_absent_server_delays_the_end_by_the_timeout(run: Runner) -> None:  # 9
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        program = run.start(
            """
            import flowforge, time, sys, os
            flowforge.init(sys.argv[1], flush_timeout=1)
            for number in range(100):
                print("line", number)
            sys.stderr = None
            os.close(2)  # what we say goes to a copy
            open(sys.argv[2], "w").write(str(time.monotonic()))
            """,
            f"http://127.0.0.1:{taken.getsockname()[1]}",
            str(run.folder / "time"),
        )
        code = program.process.wait(DEADLINE_S)
        ended = time.monotonic()
    took = ended - float((run.folder / "time").read_text())
    assert code == 0 and took < 1.5, (took, program.stderr)
    assert re.search(r"flowforge: 100 lines not delivered to http://127\.0\.0\.1:\d+ \(cannot connect", program.stderr)


def test_a_stuck_server_costs_bounded_memory_and_counted_lines(run: Runner) -> None:  # 10
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        run.run(
            """
            import flowforge, os, sys
            def rss():
                return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            flowforge.init(sys.argv[1], flush_timeout=0.5, max_buffer_bytes=8 << 20)
            print("warm")
            before = rss()
            for number in range(999_999):
                print("line", number, "x" * 80)
            grown = rss() - before
            stats = flowforge.stats()
            assert stats["captured"] == 1_000_000 and stats["stored"] == 0, stats
            assert stats["dropped_lines"] + stats["buffered_lines"] == 1_000_000, stats
            assert stats["buffered_bytes"] <= 8 << 20, stats
            assert grown <= (8 << 20) + (8 << 20), grown
            sys.stderr.write(f"grown {grown}\\n")
            """,
            f"http://127.0.0.1:{hole.getsockname()[1]}",
        )


def test_a_loss_is_counted_in_the_log(run_own: Runner) -> None:  # 10
    run_own.server.kill()
    program = run_own.start(
        """
        import flowforge, sys
        flowforge.init(flush_timeout=60, max_buffer_bytes=100_000)
        for number in range(10_000):
            print("line", number)
        print(flowforge.stats()["dropped_lines"], file=sys.__stderr__, flush=True)
        """
    )
    dropped = int(wait_until("the count", lambda: program.stderr.strip() or None))
    run_own.server.start()
    assert program.process.wait(DEADLINE_S) == 0
    rows = run_own.server.rows(run_own.task)
    told = sum(row["fields"]["dropped"]["lines"] for row in rows if "dropped" in row.get("fields", {}))
    lines = [row["message"] for row in rows if row["stream"] == "stdout"]
    assert told == dropped > 0 and lines == [f"line {number}" for number in range(dropped, 10_000)]


def test_a_killed_server_loses_nothing_and_the_task_does_not_notice(run_own: Runner) -> None:
    program = run_own.start(
        """
        import flowforge, time
        flowforge.init(flush_timeout=60, max_buffer_bytes=64 << 20)
        for number in range(20_000):
            print("line", number)
            if number % 100 == 0:
                time.sleep(0.02)
        print("longest", max(1, 2))
        """
    )
    server, expected = run_own.server, [f"line {number}" for number in range(20_000)]
    for least in (1_000, 8_000):

        def has_stored(least: int = least) -> bool | None:
            record = server.task(run_own.task)
            return True if record is not None and record["stored"] >= least else None

        wait_until(f"{least} lines", has_stored)
        server.kill()
        printed = len(program.out.read_bytes())

        def goes_on(printed: int = printed) -> bool | None:
            return True if len(program.out.read_bytes()) > printed else None

        wait_until("the task to go on", goes_on)
        server.start()
    assert program.process.wait(DEADLINE_S) == 0, program.stderr
    assert server.lines(run_own.task) == [*expected, "longest 2"]
    assert program.stdout.splitlines() == [*expected, "longest 2"]


@pytest.mark.parametrize("attempt", range(5))
def test_a_killed_task_leaves_a_prefix(run: Runner, attempt: int) -> None:
    program = run.start(
        """
        import flowforge
        flowforge.init()
        number = 0
        while True:
            print("line", number)
            number += 1
            if number % 1000 == 0:
                flowforge.flush()
        """
    )
    least = random.randrange(1, 5_000)

    def has_stored() -> bool | None:
        record = run.server.task(run.task)
        return True if record is not None and record["stored"] >= least else None

    wait_until(f"{least} lines", has_stored)
    program.process.kill()
    program.process.wait()
    assert run.server.ended(run.task)["status"] == "lost"
    lines = run.server.lines(run.task)
    assert len(lines) >= least and lines == [f"line {number}" for number in range(len(lines))], attempt
