"""Waits that end: Ctrl-C, a second shutdown, hooks of others; and what the SDK says, and where."""

import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import Runner
from harness import BINARY, DEADLINE_S, wait_until


@pytest.mark.parametrize("wait", ["flush", "shutdown"])
def test_ctrl_c_ends_a_wait(run: Runner, wait: str) -> None:
    program = run.start(
        f"""
        import flowforge, sys
        flowforge.init("http://127.0.0.1:1", flush_timeout=0)
        print("line")
        print("ready", file=sys.__stdout__, flush=True)
        try:
            flowforge.{wait}(100)
        except KeyboardInterrupt:
            print("interrupted", file=sys.__stdout__, flush=True)
        """
    )
    wait_until("the wait", lambda: "ready" in program.stdout or None)
    # The line before the wait may be the last that ran.
    began = time.monotonic()
    while program.process.poll() is None and time.monotonic() < began + 30:
        program.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    assert "interrupted" in program.stdout or "KeyboardInterrupt" in program.stderr
    assert program.process.wait(DEADLINE_S) is not None and time.monotonic() < began + 30
    if wait == "shutdown" and "interrupted" in program.stdout:
        assert "not delivered" in program.stderr, program.stderr


def test_a_second_shutdown_waits_for_the_first(run_own: Runner) -> None:
    run_own.server.kill()
    program = run_own.start(
        """
        import flowforge, sys, threading
        session = flowforge.init(flush_timeout=60)
        print("line")
        outcomes = []
        thread = threading.Thread(target=lambda: outcomes.append(session.shutdown(60)), daemon=True); thread.start()
        while session._closing is None: pass
        print("closing", file=sys.__stdout__, flush=True)
        outcomes.append(session.shutdown())
        thread.join()
        assert outcomes == [True, True], outcomes
        """
    )
    wait_until("the first", lambda: "closing" in program.stdout or None)
    run_own.server.start()
    assert program.process.wait(DEADLINE_S) == 0, program.stderr
    assert run_own.server.lines(run_own.task) == ["line"]


def test_the_end_waits_for_a_shutdown_in_a_daemon_thread(run: Runner) -> None:
    run.run(
        """
        import flowforge, threading
        session = flowforge.init(flush_timeout=60)
        for number in range(50_000): print("line", number)
        threading.Thread(target=flowforge.shutdown, daemon=True).start()
        while session._closing is None: pass
        """
    )
    assert len(run.server.lines(run.task)) == 50_000 and run.server.task(run.task)["status"] == "succeeded"


def test_a_hook_that_takes_the_place_of_ours_does_not_hide_the_failure(run: Runner) -> None:
    program = run.start(
        "import flowforge, sys\nflowforge.init()\nsys.excepthook = lambda *_: print('mine')\nraise ValueError('boom')"
    )
    assert program.process.wait() == 1
    record = run.server.ended(run.task)
    assert (record["status"], record["exit_code"]) == ("failed", 1) and run.server.lines(run.task) == ["mine"]


def test_with_stderr_closed_nothing_is_said_into_a_file_of_the_program(run: Runner) -> None:
    script, data = run.folder / "closed.py", run.folder / "data"
    script.write_text(
        "import sys\n"
        "file = open(sys.argv[1], 'w')\n"
        "assert file.fileno() == 2\n"
        "import flowforge\n"
        "flowforge.init('http://127.0.0.1:1', flush_timeout=0.5)\n"
        "print('line'); flowforge.flush(0.5); file.write('data')\n"
    )
    subprocess.run(["/bin/sh", "-c", f"{sys.executable} {script} {data} 2>&-"], check=True, timeout=DEADLINE_S)
    assert data.read_text() == "data"


def test_the_longest_task_id_has_room_for_sub_tasks(run: Runner) -> None:
    program = run.run(
        f"""
        import flowforge
        flowforge.init(task_id={"x" * 128!r}, flush_timeout=30)
        with flowforge.task("y"): print("in a task")
        """
    )
    assert not program.stderr


def test_a_grandchild_of_the_supervisor_with_other_streams_is_captured(run: Runner) -> None:
    grandchild = """
import flowforge, logging, sys
flowforge.init(flush_timeout=30)
print("to nobody"); print("to the supervisor", file=sys.stderr)
logging.basicConfig(stream=sys.stdout); logging.warning("a record")
"""
    run.run(
        f"""
import flowforge, subprocess, sys
flowforge.init(flush_timeout=30)
subprocess.run([sys.executable, "-c", {grandchild!r}], stdout=subprocess.DEVNULL, check=True)
subprocess.run([sys.executable, "-c", {grandchild!r}], check=True)
""",
        under=(str(BINARY), "run", "--quiet", "--"),
    )
    lines = run.server.lines(run.task)
    assert sorted(lines) == sorted(["to nobody", "to the supervisor"] * 2 + ["a record", "WARNING:root:a record"])


def test_on_the_supervisors_terminal_nothing_is_captured_twice(run: Runner) -> None:
    run.run(
        "import flowforge\nflowforge.init(flush_timeout=30)\nprint('once')",
        under=(str(BINARY), "run", "--quiet", "--pty", "--"),
    )
    assert run.server.lines(run.task) == ["once"]


def test_lines_of_a_child_that_cannot_start_a_client_are_counted(run: Runner) -> None:
    program = run.run(
        """
        import flowforge, os, resource
        flowforge.init(flush_timeout=30)
        pid = os.fork()
        if pid == 0:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
            print("lost"); stats = flowforge.stats()
            os._exit(0 if stats["captured"] > 0 == stats["captured"] - stats["dropped_lines"] else 1)
        assert os.waitpid(pid, 0)[1] == 0
        """
    )
    assert "is not shipped" in program.stderr


def test_an_absent_server_is_no_reason_to_hang(run: Runner) -> None:
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        program = run.start(
            f"import flowforge\nflowforge.init('http://127.0.0.1:{hole.getsockname()[1]}', flush_timeout=0.5)\n"
            "with flowforge.task('a'): print('in')\nprint('out')"
        )
        assert program.process.wait(DEADLINE_S) == 0
        assert "2 lines not delivered" in program.stderr, program.stderr


def test_a_shutdown_leaves_no_thread_and_no_descriptor(run: Runner) -> None:
    run.run(
        """
        import flowforge, gc, os, time
        def counts():
            gc.collect()
            return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))
        def settles_at(threads, descriptors):
            end = time.monotonic() + 60
            while (now := counts()) > (threads, descriptors):
                assert time.monotonic() < end, (now, descriptors)
        # The runtime keeps a pair of sockets for the process's signals, once.
        threads, descriptors = counts(); descriptors += 2
        for _ in range(20):
            flowforge.init(flush_timeout=30)
            print("line")
            with flowforge.task("x"): print("in a task")
            assert flowforge.shutdown()
            settles_at(threads, descriptors)
        """
    )


def test_ctrl_c_at_the_end_ends_the_wait(run: Runner) -> None:
    program = run.start(
        """
        import atexit, flowforge, sys
        flowforge.init("http://127.0.0.1:1", flush_timeout=100)
        print("line")
        atexit.register(lambda: print("leaving", file=sys.__stdout__, flush=True))
        """
    )
    wait_until("the end", lambda: "leaving" in program.stdout or None)
    began = time.monotonic()
    while program.process.poll() is None:
        assert time.monotonic() < began + 60
        program.process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    assert "1 line not delivered" in program.stderr, program.stderr
