"""Children of fork: they never hang, ship their own lines, and none of their parent's."""

from collections import Counter

from conftest import Runner


def test_forks_while_threads_print(run: Runner) -> None:  # 20
    run.run(
        """
        import flowforge, os, sys, threading
        flowforge.init(max_buffer_bytes=64 << 20, flush_timeout=30)
        stop = threading.Event()
        counts = [0] * 4
        def work(thread):
            while not stop.is_set():
                print("parent", thread, counts[thread]); counts[thread] += 1
                stop.wait(0.0005)
        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        [t.start() for t in threads]
        children = []
        for number in range(40):
            pid = os.fork()
            if pid == 0:
                stop.set()
                if number % 2:
                    print("child", number)
                    assert flowforge.flush(30)
                flowforge.shutdown()
                os._exit(0)
            children.append(pid)
        assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
        stop.set(); [t.join() for t in threads]
        open(sys.argv[1], "w").write(" ".join(map(str, counts)))
        """,
        str(run.folder / "counts"),
    )
    counts = [int(count) for count in (run.folder / "counts").read_text().split()]
    rows = [row for row in run.server.rows(run.task) if row["stream"] == "stdout"]
    parents = {f"parent {thread} {n}" for thread, count in enumerate(counts) for n in range(count)}
    children = {f"child {number}" for number in range(1, 40, 2)}
    assert Counter(row["message"] for row in rows) == dict.fromkeys(parents | children, 1)
    assert len({row["producer"] for row in rows if row["message"] in children}) == 20
    assert len({row["producer"] for row in rows if row["message"] in parents}) == 1


def test_a_pool_while_threads_print(run: Runner) -> None:  # 20
    run.run(
        """
        import flowforge, multiprocessing, threading
        def work(number):
            print("job", number); return number
        if __name__ == "__main__":
            flowforge.init(flush_timeout=30)
            stop = threading.Event()
            def chatter():
                number = 0
                while not stop.is_set():
                    print("parent", number); number += 1; stop.wait(0.001)
            thread = threading.Thread(target=chatter); thread.start()
            with multiprocessing.get_context("fork").Pool(4) as pool:
                assert pool.map(work, range(200)) == list(range(200))
                pool.close(); pool.join()
            stop.set(); thread.join()
        """
    )
    lines = run.server.lines(run.task)
    assert sorted(line for line in lines if line.startswith("job")) == sorted(f"job {n}" for n in range(200))
    parents = [line for line in lines if line.startswith("parent")]
    assert parents == [f"parent {number}" for number in range(len(parents))] and parents


def test_a_pool_that_is_terminated_delivers_and_ends(run: Runner) -> None:
    """The end of `with Pool()` terminates its workers, which may have printed a moment ago."""
    run.run(
        """
        import flowforge, multiprocessing
        def work(number):
            print("job", number)
        if __name__ == "__main__":
            flowforge.init(flush_timeout=30)
            with multiprocessing.get_context("fork").Pool(3) as pool:
                pool.map(work, range(6))
        """
    )
    record = run.server.task(run.task)
    assert (record["status"], record.get("complete")) == ("succeeded", True), record
    assert sorted(run.server.lines(run.task)) == [f"job {number}" for number in range(6)]


def test_a_forked_process_delivers_all_its_lines(run: Runner) -> None:  # 21
    run.run(
        """
        import flowforge, logging, multiprocessing
        def work():
            for number in range(100):
                print("child", number)
            logging.error("a record")
        def fail():
            raise ValueError("in a child")
        if __name__ == "__main__":
            flowforge.init(flush_timeout=30)
            print("parent")
            for target in (work, fail):
                process = multiprocessing.get_context("fork").Process(target=target)
                process.start(); process.join()
        """
    )
    lines = run.server.lines(run.task)
    assert [line for line in lines if line.startswith("child")] == [f"child {number}" for number in range(100)]
    assert lines.count("parent") == 1 and lines.count("a record") == 1
    assert lines.count("ValueError: in a child") == 1, lines[-10:]
    assert run.server.task(run.task)["status"] == "succeeded"


def test_a_child_that_exits_normally_delivers(run: Runner) -> None:
    run.run(
        """
        import flowforge, os, sys
        flowforge.init(flush_timeout=30)
        print("before")
        sys.stdout.flush()  # or the child has it in its buffer, too
        assert flowforge.flush()  # the order of two processes is that of their arrival
        pid = os.fork()
        if pid == 0:
            print("child")
            sys.exit()
        assert os.waitpid(pid, 0)[1] == 0
        print("after")
        """
    )
    assert run.server.lines(run.task) == ["before", "child", "after"]


def test_a_fork_behind_pythons_back_is_noticed(run: Runner) -> None:
    run.run(
        """
        import ctypes, flowforge, os, sys
        flowforge.init(flush_timeout=30)
        print("parent", flush=True)
        assert flowforge.flush()
        # As a library in C forks: holding the GIL, and without telling Python.
        pid = ctypes.PyDLL(None).fork()
        if pid == 0:
            print("child", flush=True)
            os._exit(0 if flowforge.flush(30) else 1)
        assert os.waitpid(pid, 0)[1] == 0
        """
    )
    assert run.server.lines(run.task) == ["parent", "child"]


def test_a_hook_that_prints_in_the_child_in_the_middle_of_a_line(run: Runner) -> None:
    """The hook runs before Python's own, and the parent's threads may hold any lock."""
    run.run(
        """
        import os, sys, threading
        os.register_at_fork(after_in_child=lambda: print("hook"))
        import flowforge
        flowforge.init(flush_timeout=30)
        stop = threading.Event()
        def chatter():
            while not stop.wait(0.0001): print("x" * 40)
        threads = [threading.Thread(target=chatter) for _ in range(2)]
        [t.start() for t in threads]
        for number in range(30):
            print("partial ", end="")
            pid = os.fork()
            if pid == 0:
                print("child", number)
                os._exit(0 if flowforge.flush(60) else 1)
            assert os.waitpid(pid, 0)[1] == 0
            print()
        stop.set(); [t.join() for t in threads]
        """
    )
    lines = run.server.lines(run.task)
    assert [line for line in lines if line.startswith("child")] == [f"child {number}" for number in range(30)]
    assert lines.count("hook") == 30 and lines.count("partial ") == 30


def test_children_that_print_only_in_a_task_deliver(run: Runner) -> None:
    run.run(
        """
        import flowforge, multiprocessing, os
        from concurrent.futures import ProcessPoolExecutor
        os.register_at_fork(after_in_child=lambda: print("hook"))
        @flowforge.task("work")
        def work(number): print("job", number)
        if __name__ == "__main__":
            flowforge.init(flush_timeout=30)
            context = multiprocessing.get_context("fork")
            for number in range(10):
                process = context.Process(target=work, args=(number,)); process.start(); process.join()
            with context.Pool(3) as pool:
                pool.map(work, range(10, 60), chunksize=1); pool.close(); pool.join()
            with ProcessPoolExecutor(3, mp_context=context) as pool: list(pool.map(work, range(60, 100)))
        """
    )
    jobs = [line for line in run.server.lines(f"{run.task}.work") if line.startswith("job")]
    assert sorted(jobs) == sorted(f"job {number}" for number in range(100))


def test_children_that_call_init_themselves_deliver(run: Runner) -> None:
    run.run(
        """
        import flowforge, multiprocessing, sys
        def work(number): print("job", number)
        def alone(): flowforge.init(flush_timeout=30); print("alone")
        if __name__ == "__main__":
            for number, method in enumerate(("fork", "forkserver", "spawn")):
                context = multiprocessing.get_context(method)
                process = context.Process(target=alone); process.start(); process.join()
                with context.Pool(2, initializer=flowforge.init, initargs=()) as pool:
                    pool.map(work, range(100 * number, 100 * number + 50), chunksize=1); pool.close(); pool.join()
        """
    )
    lines = run.server.lines(run.task)
    assert lines.count("alone") == 3
    assert sorted(line for line in lines if line.startswith("job")) == sorted(
        f"job {100 * method + number}" for method in range(3) for number in range(50)
    )
    assert run.server.ended(run.task)["status"] == "succeeded"


def test_a_thread_that_outlives_run_in_a_child_delivers(run: Runner) -> None:
    run.run(
        """
        import flowforge, logging, multiprocessing, threading
        def work():
            logging.warning("first")
            import multiprocessing.util as util
            def late():
                while not util._exiting: pass
                for number in range(100): logging.warning("late %d", number)
            threading.Thread(target=late).start()
        if __name__ == "__main__":
            flowforge.init(capture="off", flush_timeout=30)
            process = multiprocessing.get_context("fork").Process(target=work); process.start(); process.join()
        """
    )
    assert run.server.lines(run.task) == ["first", *(f"late {number}" for number in range(100))]


def test_a_child_waits_for_an_absent_server_only_once(run: Runner) -> None:
    run.run(
        """
        import flowforge, multiprocessing, time
        flowforge.init("http://127.0.0.1:1", flush_timeout=2)
        if __name__ == "__main__":
            process = multiprocessing.get_context("fork").Process(target=print, args=("child",))
            began = time.monotonic(); process.start(); process.join(); took = time.monotonic() - began
            assert 1.9 < took < 3.8, took
        """
    )


def test_a_childs_counters_are_its_own(run: Runner) -> None:
    run.run(
        """
        import flowforge, os
        flowforge._task.LINGER_S = 0.01
        session = flowforge.init(flush_timeout=30)
        with flowforge.task("A"): print("one")
        while not all(producer.is_done for producer in session.subtasks.producers()): pass
        with flowforge.task("B"): print("two")
        pid = os.fork()
        if pid == 0:
            print("child")
            os._exit(flowforge.stats()["captured"])
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
        """
    )


def test_a_daemonizing_child_lets_go_of_stderr(run: Runner) -> None:
    """Whoever reads the program's stderr to its end must not wait for the daemon."""
    daemon = """
import flowforge, os, time
flowforge.init()
if os.fork(): os._exit(0)
os.setsid()
null = os.open(os.devnull, os.O_RDWR)
for descriptor in (0, 1, 2): os.dup2(null, descriptor)
time.sleep(60)
"""
    run.run(
        f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {daemon!r}], capture_output=True, timeout=40, check=True)
"""
    )
