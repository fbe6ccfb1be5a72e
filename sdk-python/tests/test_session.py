"""Settings, sub-tasks, the end of a task, and `flowforge run`."""

import signal

import pytest
from conftest import Runner
from harness import BINARY, wait_until


def test_wrong_settings_are_told_and_unavailable_ones_refused(run: Runner) -> None:
    run.run(
        """
        import flowforge
        wrong = [dict(server="https://x:1"), dict(server="nonsense"), dict(task_id="a b"), dict(redact=["s"]),
                 dict(token="very-secret"), dict(capture="fd"), dict(capture="other"), dict(max_buffer_bytes=0),
                 dict(flush_timeout=-1)]
        for settings in wrong:
            try:
                flowforge.init(**settings)
            except flowforge.FlowForgeError as error:
                assert "very-secret" not in str(error)
            else:
                raise SystemExit(f"{settings} was taken")
        for use in (lambda: flowforge.on_command("stop"), lambda: flowforge.task(lambda: 1), flowforge.capture):
            try:
                use()
            except flowforge.FlowForgeError:
                continue
            raise SystemExit("used without a session")
        assert flowforge.flush() and flowforge.shutdown() and flowforge.stats() == {}
        """
    )


def test_a_sub_interpreter_is_refused_at_import(run: Runner) -> None:
    program = run.run(
        """
        import flowforge, sys
        try: import _interpreters as interpreters
        except ImportError: import _xxsubinterpreters as interpreters
        code = "import sys\\ntry: import flowforge\\nexcept ImportError as error: sys.__stderr__.write(str(error))"
        interpreters.run_string(interpreters.create(), code)
        """
    )
    assert "main interpreter" in program.stderr


def test_a_session_tells_and_flushes(run: Runner) -> None:
    run.run(
        """
        import flowforge, os
        os.environ["FLOWFORGE_WORKFLOW_ID"] = "flow"
        with flowforge.init(flush_timeout=30) as session:
            print("one"); print("two")
            assert flowforge.flush() and flowforge.stats()["stored"] == 2
            assert session.viewer_url.startswith("http://")
        print("not captured")
        flowforge.init(flush_timeout=30)
        print("captured again")
        """
    )
    assert run.server.lines(run.task) == ["one", "two", "captured again"]
    assert run.server.task(run.task)["workflow_id"] == "flow"


def test_an_uncaught_exception_fails_the_task(run: Runner) -> None:
    program = run.start("import flowforge\nflowforge.init()\nraise ValueError('boom')")
    assert program.process.wait() == 1
    lines = run.server.lines(run.task)
    assert lines == program.stderr.splitlines() and lines[-1] == "ValueError: boom"
    record = run.server.task(run.task)
    assert record["status"] == "failed" and record["exit_code"] == 1


def test_an_uncaught_exception_is_a_record_where_stderr_is_not_captured(run: Runner) -> None:
    program = run.start(
        """
        import flowforge, threading
        flowforge.init(capture="off")
        thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()
        raise ValueError("boom")
        """
    )
    assert program.process.wait() == 1 and "ValueError: boom" in program.stderr
    rows = [row for row in run.server.rows(run.task) if row["stream"] == "log"]
    assert [row["fields"]["exception"]["type"] for row in rows] == ["builtins.ZeroDivisionError", "builtins.ValueError"]
    assert {row["severity"] for row in rows} == {21}


def test_sub_tasks_have_their_own_lines(run: Runner) -> None:
    run.run(
        """
        import asyncio, contextvars, flowforge, logging, threading
        flowforge.init(flush_timeout=30)
        print("outside")
        @flowforge.task("A")
        async def a(step):
            for number in range(50):
                print("A", number, end="")
                await asyncio.sleep(0)
                print(" done")
        async def b():
            with flowforge.task("B"):
                for number in range(50):
                    print("B", number)
                    await asyncio.sleep(0)
                context = contextvars.copy_context()
                thread = threading.Thread(target=context.run, args=(print, "B in a thread"))
                thread.start(); thread.join()
                logging.warning("B logs")
                with flowforge.task("inner part"):
                    print("inner")
        async def main():
            await asyncio.gather(a(1), b())
        asyncio.run(main())
        try:
            with flowforge.task("bad"):
                raise KeyError("x")
        except KeyError:
            pass
        print("outside again")
        assert flowforge.flush() and flowforge.stats()["captured"] == 105, flowforge.stats()
        """
    )
    server, task = run.server, run.task
    assert server.lines(task) == ["outside", "outside again"]
    assert server.lines(f"{task}.A") == [f"A {number} done" for number in range(50)]
    assert server.lines(f"{task}.B") == [*(f"B {number}" for number in range(50)), "B in a thread", "B logs"]
    assert server.lines(f"{task}.B.inner-part") == ["inner"]
    statuses = [server.ended(f"{task}.{name}")["status"] for name in ("A", "B", "bad")]
    assert statuses == ["succeeded", "succeeded", "failed"] and server.task(f"{task}.A")["workflow_id"] == task


def test_under_the_supervisor_everything_ships_once(run: Runner) -> None:
    program = run.run(
        """
        import flowforge, logging, sys
        flowforge.init()
        stdout = sys.stdout
        print("printed"); print("to stderr", file=sys.stderr)
        logging.getLogger().warning("by the last resort")
        logging.basicConfig(level=logging.INFO, stream=sys.stderr)
        logging.info("by a stream handler", extra={"n": 1})
        quiet = logging.getLogger("quiet"); quiet.propagate = False
        quiet.addHandler(logging.FileHandler(sys.argv[1]))
        quiet.warning("only in a file", extra={"n": 2})
        own = logging.getLogger("own"); own.propagate = False; own.addHandler(flowforge.Handler())
        own.warning("ours alone")
        own.addHandler(logging.StreamHandler(sys.stdout))
        own.warning("ours and printed")
        assert sys.stdout is sys.__stdout__
        """,
        str(run.folder / "file.log"),
        under=(str(BINARY), "run", "--quiet", "--"),
    )
    rows = [row for row in run.server.rows(run.task) if row["stream"] != "system"]
    expected = {
        "printed": "stdout",
        "to stderr": "stderr",
        "by the last resort": "stderr",
        "INFO:root:by a stream handler": "stderr",
        "only in a file": "log",
        "ours alone": "log",
        "ours and printed": "stdout",
    }
    assert sorted((row["message"], row["stream"]) for row in rows) == sorted(expected.items()), program.stderr
    assert next(row for row in rows if row["message"] == "only in a file")["fields"]["n"] == 2


@pytest.mark.parametrize(
    ("ending", "status", "code"),
    [
        ("sys.exit(3)", "failed", 3),
        ("sys.exit('told')", "failed", 1),
        ("sys.exit(0)", "succeeded", None),
        ("sys.exit()", "succeeded", None),
        ("try:\n    sys.exit(3)\nfinally:\n    print('cleaned up')", "failed", 3),
        ("def main():\n    sys.exit(4)\nmain()", "failed", 4),
        ("try:\n    sys.exit(3)\nexcept SystemExit:\n    print('caught')", "succeeded", None),
        ("def main():\n    try:\n        sys.exit(3)\n    except SystemExit:\n        pass\nmain()", "succeeded", None),
    ],
)
def test_the_exit_code_is_the_tasks(run: Runner, ending: str, status: str, code: int | None) -> None:
    run.task = f"{run.task[:40]}-{abs(hash(ending))}"
    program = run.start(f"import flowforge, sys\nflowforge.init()\nprint('begun')\n{ending}")
    assert program.process.wait() == (code or 0)
    record = run.server.ended(run.task)
    assert (record["status"], record.get("exit_code")) == (status, code)


def test_a_terminated_task_keeps_its_lines_and_dies_of_the_signal(run: Runner) -> None:
    program = run.start(
        """
        import flowforge, time
        flowforge.init()
        for number in range(1000):
            print("line", number)
        print("ready", flush=True)
        time.sleep(60)
        """
    )
    wait_until("the last line to be printed", lambda: "ready" in program.stdout or None)
    program.process.terminate()
    assert program.process.wait() == -signal.SIGTERM
    assert run.server.lines(run.task) == [*(f"line {number}" for number in range(1000)), "ready"]
    record = run.server.ended(run.task)
    assert (record["status"], record["exit_code"]) == ("failed", 128 + signal.SIGTERM)


def test_a_handler_of_the_program_is_left_alone(run: Runner) -> None:
    run.run(
        """
        import flowforge, os, signal
        seen = []
        signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
        flowforge.init()
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [1]
        flowforge.shutdown()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        flowforge.init()
        flowforge.shutdown()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        """
    )


def test_the_page_is_told_where_the_id_is_new_and_an_absent_server_at_once(run: Runner) -> None:
    new = run.start("import flowforge\nflowforge.init(task_id=None)\nprint(flowforge.flush(30))", FLOWFORGE_TASK_ID="")
    assert new.process.wait() == 0
    assert f"127.0.0.1:{run.server.http}/?task=" in new.stderr
    forks = "import flowforge, os\nflowforge.init(task_id=None)\nassert flowforge.flush(30)\nif os.fork() == 0: print('x'); os._exit(not flowforge.flush(30))\nassert os.wait()[1] == 0"
    parent = run.start(forks, FLOWFORGE_TASK_ID="")
    assert parent.process.wait() == 0 and parent.stderr.count("/?task=") == 1, parent.stderr
    named = run.start("import flowforge\nflowforge.init()\nprint(flowforge.flush(30))")
    assert named.process.wait() == 0
    assert named.stderr == ""
    away = run.start("import flowforge\nflowforge.init('http://127.0.0.1:1', flush_timeout=0.5)", FLOWFORGE_TASK_ID="")
    assert away.process.wait() == 0
    assert "Connection refused" in away.stderr and "wait in memory" in away.stderr


def test_the_http_port_is_recognised(run: Runner) -> None:
    program = run.start(
        f"import flowforge\nflowforge.init('http://127.0.0.1:{run.server.http}', flush_timeout=1)\nprint('x')"
    )
    program.process.wait()
    assert "is it the HTTP port?" in program.stderr, program.stderr
