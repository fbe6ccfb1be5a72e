"""Programs that die, however they die: what they had captured is stored all the same, once and in order."""

import random
import signal
from pathlib import Path

import pytest
from conftest import Runner
from harness import BINARY, DEADLINE_S, wait_until

LINES = 100_000

#: How it dies, the exit code, and how its task ends: of a SIGTERM the SDK can still write down that it came.
DEATHS = {
    "sigkill": ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, "lost"),
    "exit": ("os._exit(7)", 7, "lost"),
    "sigsegv": ("ctypes.string_at(0)", -signal.SIGSEGV, "lost"),
    "sigterm": ("os.kill(os.getpid(), signal.SIGTERM); signal.pause()", -signal.SIGTERM, "failed"),
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_death_without_a_server_loses_nothing(run_own: Runner, death: str) -> None:  # 22
    run_own.server.kill()
    words, code, status = DEATHS[death]
    program = run_own.start(
        f"""
        import ctypes, flowforge, os, signal, sys
        flowforge.init(spool=sys.argv[1], max_buffer_bytes=1 << 20)
        for number in range({LINES}):
            print("line", number)
        {words}
        """,
        str(run_own.spool),
    )
    assert program.process.wait(DEADLINE_S) == code, program.stderr
    assert len(run_own.left()) == 1
    run_own.server.start()
    assert f"{LINES:,} lines stored" in run_own.push()
    assert run_own.server.lines(run_own.task) == [f"line {number}" for number in range(LINES)]
    assert not run_own.left()
    assert run_own.server.ended(run_own.task)["status"] == status


@pytest.mark.parametrize("attempt", range(6))
def test_killed_in_mid_stream_is_completed_once(run: Runner, attempt: int) -> None:
    program = run.start(
        """
        import flowforge, sys
        flowforge.init(spool=sys.argv[1])
        number = 0
        while True:
            print("line", number)
            number += 1
        """,
        str(run.spool),
    )
    least = random.randrange(1, 40_000)
    wait_until("some output", lambda: True if len(program.out.read_bytes()) > least * 8 else None)
    if attempt % 2:
        wait_until("the task", lambda: run.server.task(run.task))
    program.process.kill()
    program.process.wait()
    if attempt % 2:
        # The server has given it up meanwhile; its last lines open it again.
        assert run.server.ended(run.task)["status"] == "lost"
    run.push()
    rows = [row for row in run.server.rows(run.task) if row["stream"] == "stdout"]
    lines = [row["message"] for row in rows if not row.get("no_newline")]
    assert lines == [f"line {number}" for number in range(len(lines))]
    assert all(f"line {len(lines)}".startswith(row["message"]) for row in rows[len(lines) :])
    # What is in the file of stdout was written before it was captured, in blocks that Python makes.
    printed = program.out.read_bytes().count(b"\n")
    assert len(lines) >= printed, (len(lines), printed)
    record = run.server.ended(run.task)
    assert record["status"] == "lost" and record["dropped"] == 0, record


def test_half_a_line_survives_its_program_once(run_own: Runner) -> None:
    run_own.server.kill()
    program = run_own.start(
        """
        import flowforge, os, signal, sys
        flowforge.init(spool=sys.argv[1])
        print("begin")
        print("half", end="", flush=True)
        print("another half", end="", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        str(run_own.spool),
    )
    assert program.process.wait(DEADLINE_S) == -signal.SIGKILL, program.stderr
    run_own.server.start()
    assert "3 lines stored" in run_own.push()
    rows = [(row["stream"], row["message"], row.get("no_newline", False)) for row in run_own.server.rows(run_own.task)]
    printed = sorted(row for row in rows if row[0] != "system")
    assert printed == [("stderr", "another half", True), ("stdout", "begin", False), ("stdout", "half", True)]
    assert not run_own.left()


@pytest.mark.parametrize("attempt", range(8))
def test_killed_in_the_middle_of_a_line_loses_no_text(run: Runner, attempt: int) -> None:
    program = run.start(
        """
        import flowforge, sys
        flowforge.init(spool=sys.argv[1])
        number = 0
        while True:
            print(number, end="\\n" if number % 7 == 0 else " ", flush=number % 3 == 0)
            number += 1
        """,
        str(run.spool),
    )
    least = random.randrange(1, 60_000 if attempt % 2 else 600)
    wait_until("some output", lambda: True if len(program.out.read_bytes()) > least else None)
    program.process.kill()
    program.process.wait()
    run.push()
    rows = [row for row in run.server.rows(run.task) if row["stream"] == "stdout"]
    stored = "".join(row["message"] + ("" if row.get("no_newline") else "\n") for row in rows)
    text = "".join(f"{number}\n" if number % 7 == 0 else f"{number} " for number in range(len(stored)))
    assert text.startswith(stored)
    # A text is written to stdout before it is captured: the one under way may be missing.
    printed = program.out.read_text()
    assert len(stored) >= len(printed) - len("123456 "), (len(stored), len(printed))
    assert not run.left()


def test_the_next_init_uploads_in_the_background(run: Runner) -> None:
    dead = """
        import flowforge, os, sys
        flowforge.init(sys.argv[2], spool=sys.argv[1], task_id=sys.argv[3])
        for number in range(1000):
            print("line", number)
        os._exit(1)
        """
    # An own server for one of them, which the next process has nothing to do with.
    for server, task in ((run.server.grpc_url, run.task), ("http://127.0.0.1:1", "elsewhere")):
        assert run.start(dead, str(run.spool), server, task).process.wait(DEADLINE_S) == 1
    run.run(
        """
        import flowforge, pathlib, sys, time
        flowforge.init(spool=sys.argv[1], task_id="next")
        end = time.monotonic() + 60
        while [path for path in pathlib.Path(sys.argv[1]).glob("test-*")] and time.monotonic() < end:
            time.sleep(0.01)
        """,
        str(run.spool),
    )
    assert run.server.lines(run.task) == [f"line {number}" for number in range(1000)]
    assert [path.name.split(".")[0] for path in run.left()] == ["elsewhere"]


def test_the_supervisor_uploads_what_its_dead_child_left(run_own: Runner) -> None:
    server = run_own.server
    program = run_own.start(
        """
        import flowforge, logging, os, signal, sys
        flowforge.init()
        work = logging.getLogger("work")
        work.addHandler(logging.NullHandler())  # else the last resort prints them, and the supervisor has them
        print(os.getpid(), flush=True)
        sys.stdin.readline()
        for number in range(5000):
            work.warning("record %d", number)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        under=(str(BINARY), "run", "--flush-timeout", "60", "--"),
    )
    wait_until("the task", lambda: server.task(run_own.task))
    wait_until("the child", lambda: program.stdout or None)
    # It takes nothing while the child works, so all is left.
    server.signal(signal.SIGSTOP)
    assert program.process.stdin is not None
    program.process.stdin.write(b"\n")
    program.process.stdin.flush()
    child = Path("/proc") / program.stdout.split()[0]
    wait_until("the child's death", lambda: None if child.exists() else True)
    assert len(run_own.left()) == 2
    server.signal(signal.SIGCONT)
    assert program.process.wait(DEADLINE_S) == 128 + signal.SIGKILL, program.stderr
    assert server.lines(run_own.task, "log") == [f"record {number}" for number in range(5000)], program.stderr
    assert "lines that the command's processes left" in program.stderr
    record = server.ended(run_own.task)
    assert record["status"] == "failed" and record["exit_code"] == 137, record
    assert not run_own.left()


def test_forked_children_have_files_of_their_own(run_own: Runner) -> None:
    run_own.server.kill()
    run_own.run(
        """
        import ctypes, flowforge, os, sys
        flowforge.init(spool=sys.argv[1], flush_timeout=0.1)
        for number in range(100):
            print("parent", number)
        for child in range(3):
            pid = os.fork()
            if pid == 0:
                if child:
                    print("child", child)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        print("half a line", end="", flush=True)
        # A library in C forks, and the child goes on in its parent's line.
        pid = ctypes.PyDLL(None).fork()
        if pid == 0:
            print(" of the child", flush=True)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        os._exit(0)  # before the parent writes over what the child may have written
        """,
        str(run_own.spool),
    )
    assert len(run_own.left()) == 4, "the parent's, and those of the three children that print"
    run_own.server.start()
    run_own.push()
    lines = run_own.server.lines(run_own.task)
    assert [line for line in lines if line.startswith("parent")] == [f"parent {number}" for number in range(100)]
    assert sorted(line for line in lines if line.startswith("child")) == ["child 1", "child 2"]
    # The parent's half is the parent's alone, and the child has none of it.
    halves = [line for line in lines if "half" in line or "of the child" in line]
    assert sorted(halves) == [" of the child", "half a line"]


def test_a_full_ring_counts_exactly(run_own: Runner) -> None:
    run_own.server.kill()
    program = run_own.start(
        f"""
        import flowforge, sys
        flowforge.init(spool=sys.argv[1], flush_timeout=0.2)
        for number in range({LINES}):
            print("line", number)
        """,
        str(run_own.spool),
        FLOWFORGE_SPOOL_SIZE="1MiB",
    )
    assert program.process.wait(DEADLINE_S) == 0
    assert f"kept in the spool: `flowforge spool push --dir {run_own.spool}`" in program.stderr, program.stderr
    run_own.server.start()
    run_own.push()
    rows = run_own.server.rows(run_own.task)
    told = sum(row["fields"]["dropped"]["lines"] for row in rows if "dropped" in row.get("fields", {}))
    lines = [row["message"] for row in rows if row["stream"] == "stdout"]
    assert lines == [f"line {number}" for number in range(told, LINES)] and 0 < told < LINES
    assert run_own.server.ended(run_own.task)["status"] == "succeeded"


def test_a_disk_that_refuses_more_leaves_the_rest_to_memory(run_own: Runner) -> None:
    run_own.server.kill()
    program = run_own.start(
        """
        import flowforge, resource, sys
        flowforge.init(spool=sys.argv[1], flush_timeout=60, max_buffer_bytes=64 << 20)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20))
        for number in range(30_000):
            print("line", number)
        stats = flowforge.stats()
        assert stats["spool_problem"] and stats["dropped_lines"] == 0, stats
        print("done", file=sys.__stderr__, flush=True)
        """,
        str(run_own.spool),
    )
    wait_until("the lines", lambda: True if "done" in program.stderr or program.process.poll() is not None else None)
    run_own.server.start()
    assert program.process.wait(DEADLINE_S) == 0, program.stderr
    assert run_own.server.lines(run_own.task) == [f"line {number}" for number in range(30_000)]
    assert not run_own.left()


def test_a_spool_that_cannot_be_made_costs_a_warning(run: Runner) -> None:
    program = run.run(
        """
        import flowforge
        flowforge.init(spool="/proc/nowhere", flush_timeout=30)
        print("captured all the same")
        """
    )
    assert program.stderr.count("no spool (/proc/nowhere") == 1, program.stderr
    assert run.server.lines(run.task) == ["captured all the same"]


def test_what_is_stored_leaves_nothing_behind(run: Runner) -> None:
    program = run.run(
        """
        import flowforge, pathlib, sys
        flowforge.init(flush_timeout=30)
        print("one")
        with flowforge.task("sub"):
            print("two")
        folder = pathlib.Path(sys.argv[1])
        assert folder.stat().st_mode & 0o777 == 0o700
        files = list(folder.iterdir())
        assert files and all(file.stat().st_mode & 0o777 == 0o600 for file in files), files
        """,
        str(run.spool),
        FLOWFORGE_SPOOL=str(run.spool),
    )
    assert program.stderr == "" and not run.left()
    assert run.server.lines(run.task) == ["one"]


def test_what_only_memory_had_is_counted_where_it_is_missing(run_own: Runner) -> None:
    run_own.server.kill()
    program = run_own.start(
        """
        import flowforge, resource, sys
        flowforge.init(spool=sys.argv[1], flush_timeout=0.2, max_buffer_bytes=64 << 20)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20))
        for number in range(30_000):
            print("line", number)
        """,
        str(run_own.spool),
    )
    assert program.process.wait(DEADLINE_S) == 0
    assert "of them are in the spool" in program.stderr, program.stderr
    run_own.server.start()
    run_own.push()
    rows = run_own.server.rows(run_own.task)
    told = sum(row["fields"]["dropped"]["lines"] for row in rows if "dropped" in row.get("fields", {}))
    lines = [row["message"] for row in rows if row["stream"] == "stdout"]
    assert lines == [f"line {number}" for number in range(30_000 - told)] and 0 < told < 30_000
    assert run_own.server.ended(run_own.task)["status"] == "succeeded"


def test_a_second_try_of_a_killed_task_decides_how_it_ends(run: Runner) -> None:
    dead = """
        import flowforge, os, sys
        flowforge.init(spool=sys.argv[1])
        for number in range(20_000):
            print("dead", number)
        os._exit(1)
        """
    assert run.start(dead, str(run.spool)).process.wait(DEADLINE_S) == 1
    wait_until("the task", lambda: run.server.task(run.task))
    assert run.server.ended(run.task)["status"] == "lost"
    run.run(
        """
        import flowforge, pathlib, sys, time
        flowforge.init(spool=sys.argv[1], flush_timeout=60)
        print("alive")
        end = time.monotonic() + 60
        while len(list(pathlib.Path(sys.argv[1]).glob("*.spool"))) > 1 and time.monotonic() < end:
            time.sleep(0.01)
        """,
        str(run.spool),
    )
    lines = run.server.lines(run.task)
    assert [line for line in lines if line.startswith("dead")] == [f"dead {number}" for number in range(20_000)]
    assert "alive" in lines
    # The dead one's lease is waited for; then the living one's word counts.
    wait_until("the end", lambda: run.server.task(run.task)["status"] == "succeeded" or None)
