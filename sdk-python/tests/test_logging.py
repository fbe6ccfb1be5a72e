"""Records ship once, with their structure, and nothing about them can hurt."""

import json
import textwrap
from typing import Any

import pytest
from conftest import Runner

WAYS = {
    "before init": "logging.basicConfig(level=20, stream=sys.stdout); flowforge.init()",
    "after init": "flowforge.init(); logging.basicConfig(level=20, stream=sys.stdout)",
    "both streams": "flowforge.init(); logging.basicConfig(level=20, handlers=[logging.StreamHandler(sys.stdout), logging.StreamHandler()])",
    "our handler too": "flowforge.init(); logging.basicConfig(level=20, handlers=[logging.StreamHandler(sys.stdout), flowforge.Handler()])",
    "our handler only": "flowforge.init(logging=False); logging.root.setLevel(20); logging.root.addHandler(flowforge.Handler())",
    "without propagation": "flowforge.init(); log.setLevel(20); log.propagate = False; log.addHandler(logging.StreamHandler(sys.stdout))",
    "last resort": "flowforge.init()",
    "formatted": "flowforge.init(); logging.basicConfig(level=20, format='%(asctime)s %(levelname)s %(message)s')",
}


@pytest.mark.parametrize("way", WAYS)
def test_each_record_ships_once(run: Runner, way: str) -> None:  # 4
    program = run.run(
        f"import flowforge, logging, sys; log = logging.getLogger('app.part')\n{WAYS[way]}\n"
        "log.warning('unique %d', 1); print('printed')"
    )
    rows = [row for row in run.server.rows(run.task) if row["stream"] != "system"]
    assert sorted(row["message"] for row in rows) == ["printed", "unique 1"]
    record = next(row for row in rows if row["message"] == "unique 1")
    assert record["stream"] == "log" and record["severity"] == 13
    assert record["fields"] == {"logger": "app.part", "thread": "MainThread"}
    shown = (program.stdout + program.stderr).count("unique 1")
    assert shown == {"both streams": 2, "our handler only": 0}.get(way, 1)


def test_the_terminal_is_as_without_us(run: Runner) -> None:
    code = """
        import {0} logging, sys, warnings
        {1}
        logging.warning("last resort"); log = logging.getLogger("a"); log.error("error %s", "x")
        logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
        log.info("info"); log.debug("debug"); warnings.warn("careful")
        print("out"); sys.stdout.flush()
        """
    plain = run.run(code.format("", "import os"))
    expected = plain.stderr, plain.stdout
    with_us = run.run(code.format("flowforge,", "flowforge.init()"))
    assert (with_us.stderr, with_us.stdout) == expected


def test_structure_arrives(run: Runner) -> None:
    run.run(
        """
        import flowforge, logging, threading
        flowforge.init()
        log = logging.getLogger("app")
        log.setLevel(1)
        for level in (5, 10, 20, 25, 30, 40, 50):
            log.log(level, "level %d", level)
        log.error("extras", extra={"n": 1, "deep": {"a": [1, None]}, "logger": "x", "odd": float("nan"), "o": object})
        def work():
            try:
                raise KeyError("missing")
            except KeyError:
                log.exception("failed")
        thread = threading.Thread(target=work, name="worker-7"); thread.start(); thread.join()
        """
    )
    rows = [row for row in run.server.rows(run.task) if row["stream"] == "log"]
    assert [row["severity"] for row in rows[:7]] == [1, 5, 9, 9, 13, 17, 21]
    fields: dict[str, Any] = rows[7]["fields"]
    assert fields["n"] == "1" and fields["extra.logger"] == "'x'"  # one NaN, and all are shown as text
    assert rows[8]["message"].startswith("failed\nTraceback") and rows[8]["message"].endswith("KeyError: 'missing'")
    assert rows[8]["fields"]["exception"] == {"type": "builtins.KeyError", "message": "'missing'"}
    assert rows[8]["fields"]["thread"] == "worker-7"


def test_our_own_loggers_are_filtered_before_the_lock(run: Runner) -> None:  # 5, 6
    run.run(
        """
        import flowforge, logging, threading
        flowforge.init(logging=False)
        handler = flowforge.Handler()
        logging.root.addHandler(handler)
        held, release = threading.Event(), threading.Event()
        def hold():
            handler.acquire(); held.set(); release.wait(); handler.release()
        threading.Thread(target=hold, daemon=True).start(); held.wait()
        logging.getLogger("flowforge.inner").error("own"); logging.getLogger("flowforge").error("own")
        logging.getLogger("flowforger").error("another's")
        handler.flush(); handler.close()
        print("not stuck")
        release.set()
        """
    )
    assert run.server.lines(run.task) == ["another's", "not stuck"]


def test_dict_config_is_quick_while_the_server_is_away(run: Runner) -> None:  # 6
    run.run(
        """
        import flowforge, logging.config, socket, time
        taken = socket.socket(); taken.bind(("127.0.0.1", 0))
        flowforge.init(f"http://127.0.0.1:{taken.getsockname()[1]}", flush_timeout=0)
        config = {"version": 1, "handlers": {"ff": {"class": "flowforge.Handler"}}, "root": {"handlers": ["ff"]}}
        logging.config.dictConfig(config)
        logging.warning("first")
        began = time.monotonic()
        logging.config.dictConfig(config)
        took = time.monotonic() - began
        assert took < 0.05, took
        """
    )


def test_finalizers_that_log_do_not_deadlock(run: Runner) -> None:  # 7, 3
    run.run(
        """
        import flowforge, gc, logging, sys, threading
        flowforge.init(max_buffer_bytes=256 << 20)
        logging.basicConfig(level=logging.INFO, stream=sys.stdout)
        gc.set_threshold(1)
        class Cycle:
            def __init__(self): self.me = self
            def __del__(self): logging.info("finalized")
        def work():
            for number in range(300):
                Cycle()
                logging.info("record %d", number, extra={"cycle": [Cycle()][0].__class__.__name__})
        threads = [threading.Thread(target=work) for _ in range(4)]
        [t.start() for t in threads]; [t.join() for t in threads]
        gc.set_threshold(700); gc.collect()
        """
    )
    lines = run.server.lines(run.task)
    assert lines.count("finalized") == 2400
    assert sorted(line for line in lines if line != "finalized") == sorted(
        f"record {n}" for n in range(300) for _ in range(4)
    )


def test_a_bad_record_stops_nothing(run: Runner) -> None:  # 8
    run.run(
        r"""
        import flowforge, logging
        flowforge.init()
        logging.raiseExceptions = False
        class Bad:
            def __str__(self): raise RuntimeError("no str")
            __repr__ = __str__
        log = logging.getLogger("app"); log.setLevel(logging.INFO)
        loop = []; loop.append(loop)
        log.info("number %d", "text")
        log.info(Bad())
        log.info("extra", extra={"bad": Bad(), "loop": loop, "big": 10**400, 5: "five"})
        log.info("huge extra", extra={"text": "x" * 200_000})
        log.info("surrogate \ud800", extra={"s": "\udcff"})
        log.info("m" * 100_000)
        log.handle(logging.LogRecord(5, logging.INFO, "", 0, "odd name", None, None))
        deep = {}
        for _ in range(500): deep = {"d": deep}
        log.info("deep", extra={"deep": deep})
        log.info("good")
        """
    )
    rows = [row for row in run.server.rows(run.task) if row["stream"] == "log"]
    messages = [row["message"] for row in rows]
    assert messages[0] == "'number %d' ('text',)" and messages[1] == "<Bad> ()"
    assert messages[2] == "extra" and messages[3] == "huge extra" and messages[4].startswith("surrogate \ufffd")
    assert rows[3]["fields"]["fields_error"] == "too large"
    assert messages[5] + messages[6] == "m" * 100_000 and rows[5]["continued"] and not rows[6].get("continued")
    assert messages[-2:] == ["deep", "good"] and run.server.task(run.task)["dropped"] == 0, json.dumps(messages)


def test_prints_inside_our_paths_neither_loop_nor_block(run: Runner) -> None:  # 3
    program = run.run(
        """
        import flowforge, logging, sys
        class Loud:
            def __str__(self):
                print("inside str"); return "loud"
        class Chatty(logging.Filter):
            def filter(self, record):
                print("inside filter"); return True
        class Stream:
            closed = False
            def __init__(self, below): self.below = below
            def write(self, text):
                logging.getLogger("quiet").info("inside write")
                return self.below.write(text)
            def flush(self): self.below.flush()
        sys.stdout = Stream(sys.stdout)
        flowforge.init(logging=False)
        handler = flowforge.Handler(); handler.addFilter(Chatty())
        logging.root.addHandler(handler); logging.root.setLevel(logging.INFO)
        logging.getLogger("quiet").propagate = False
        logging.info("%s", Loud())
        print("end")
        """
    )
    assert program.stdout == "inside filter\ninside str\nend\n"
    assert run.server.lines(run.task) == ["inside filter", "inside str", "loud", "end"]


def test_the_programs_own_formatter_formats_the_exception(run: Runner) -> None:
    code = """
        import {0} logging
        {1}
        class OneLine(logging.Formatter):
            def formatException(self, info): return "one line: " + repr(info[1])
        handler = logging.StreamHandler(); handler.setFormatter(OneLine("%(message)s")); logging.root.addHandler(handler)
        try: 1 / 0
        except ZeroDivisionError: logging.exception("failed")
        """
    expected = run.run(code.format("", "import os")).stderr
    assert run.run(code.format("flowforge,", "flowforge.init()")).stderr == expected
    assert "one line: ZeroDivisionError" in expected
    assert [line.splitlines()[-1] for line in run.server.lines(run.task)] == ["ZeroDivisionError: division by zero"]


TWICE = {
    "a handler that prints": """
        flowforge.init(flush_timeout=30)
        class Printing(logging.Handler):
            def emit(self, record): print(self.format(record))
        logging.root.addHandler(Printing()); logging.warning("once")
        """,
    "both handlers by hand": """
        flowforge.init(logging=False, flush_timeout=30)
        logging.basicConfig(format="%(message)s", handlers=[logging.StreamHandler(), flowforge.Handler()])
        logging.warning("once")
        """,
    "both handlers by hand, with a filter": """
        flowforge.init(logging=False, flush_timeout=30)
        ours = flowforge.Handler(); ours.addFilter(lambda record: True)
        logging.basicConfig(format="%(message)s", handlers=[logging.StreamHandler(), ours]); logging.warning("once")
        """,
    "a queue from a child": """
        flowforge.init(flush_timeout=30)
        context = multiprocessing.get_context("fork"); queue = context.Queue()
        def work():
            logging.root.handlers = [logging.handlers.QueueHandler(queue)]; logging.warning("once")
        listener = logging.handlers.QueueListener(queue, logging.StreamHandler()); listener.start()
        process = context.Process(target=work); process.start(); process.join(); listener.stop()
        """,
    "a queue that hands records to their loggers": """
        flowforge.init(flush_timeout=30)
        context = multiprocessing.get_context("fork"); queue = context.Queue()
        def work():
            logging.root.handlers = [logging.handlers.QueueHandler(queue)]; logging.warning("once")
        process = context.Process(target=work); process.start(); process.join()
        logging.basicConfig(); record = queue.get(); logging.getLogger(record.name).handle(record)
        """,
    "a stream that logs what is printed": """
        class Logging:
            def write(self, text):
                if text.strip(): logging.getLogger("out").warning(text.rstrip())
                return len(text)
            def flush(self): pass
        logging.basicConfig(stream=sys.__stderr__); sys.stdout = Logging()
        flowforge.init(flush_timeout=30); print("once")
        """,
}


@pytest.mark.parametrize("way", TWICE)
def test_nothing_ships_twice(run: Runner, way: str) -> None:
    run.run("import flowforge, logging, logging.handlers, multiprocessing, sys\n" + textwrap.dedent(TWICE[way]))
    assert run.server.lines(run.task) == ["once"]


def test_what_else_is_printed_while_a_handler_works_is_captured(run: Runner) -> None:
    run.run(
        """
        import flowforge, logging, sys
        flowforge.init(flush_timeout=30)
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        class Loud:
            def __str__(self): print("to stderr", file=sys.stderr); return "loud"
        logging.warning("%s", Loud())
        logging.warning("%d", "x")
        """
    )
    lines = run.server.lines(run.task, "stderr")
    assert lines.count("to stderr") == 2 and "--- Logging error ---" in lines
    assert run.server.lines(run.task, "log") == ["loud", "'%d' ('x',)"] and not run.server.lines(run.task, "stdout")


def test_records_that_break_their_contract_are_neither_lost_nor_felt(run: Runner) -> None:
    run.run(
        """
        import flowforge, logging, sys
        flowforge.init(flush_timeout=30)
        logging.root.handlers = [logging.NullHandler()]
        class BadDict(dict):
            def items(self): raise RuntimeError("no items")
        class Bad:
            def __str__(self): raise RuntimeError("no str")
        def record(**what):
            made = logging.LogRecord("name", logging.WARNING, "", 0, what.pop("msg"), (), None)
            vars(made).update(what)
            logging.getLogger("strange").handle(made)
        record(msg="dict", extra=BadDict(a=1))
        record(msg="created", created="yesterday")
        record(msg="far", created=float("inf"))
        record(msg="name", name=Bad())
        record(msg="huge", number=10**5000)
        deep = []
        for _ in range(100_000): deep = [deep]
        record(msg="deep", deep=deep)
        record(msg="exc", exc_info=5)
        """
    )
    expected = ["dict", "created", "far", "name", "huge", "deep", "exc"]
    assert [line.splitlines()[0] for line in run.server.lines(run.task)] == expected
