"""A pipeline as people write them, whose every line ends up in FlowForge Logs: print, logging, tqdm, threads, bad data.

Needs the package `flowforge` and tqdm (`pip install tqdm`), and a server (`flowforge serve`):

    python sdk-python/examples/pipeline.py                          # http://127.0.0.1:50051, or FLOWFORGE_SERVER
    flowforge run -- python sdk-python/examples/pipeline.py         # the same, and safe from `kill -9`

`DEMO_SPEED=10` makes it ten times faster.
"""

import json
import logging
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import flowforge
from tqdm import tqdm

SPEED = float(os.environ.get("DEMO_SPEED", "1"))
CITIES = ["Hà Nội", "上海", "서울", "Łódź", "São Paulo"]
log = logging.getLogger("pipeline")

Row = dict[str, object]


def pause(seconds: float) -> None:
    time.sleep(seconds / SPEED)


@flowforge.task("extract")
def extract(count: int) -> list[Row]:
    """Read orders, telling now and then where it is."""
    log.info("reading orders", extra={"table": "warehouse.orders", "expected": count})
    rows: list[Row] = []
    for number in range(1, count + 1):
        rows.append({"order": number, "city": random.choice(CITIES)})
        if number % 25 == 0:
            print(f"read {number} orders, the last from {rows[-1]['city']} 📦")
            pause(0.05)
    return rows


def transform_part(part: int, rows: list[Row]) -> int:
    """One thread's share; JSON lines, as programs write them for other programs."""
    for row in rows:
        thread = threading.current_thread().name
        print(json.dumps({"event": "transform", "part": part, "thread": thread, **row}, ensure_ascii=False))
        pause(0.01)
    return len(rows)


@flowforge.task("transform")
def transform(rows: list[Row]) -> None:
    """Four threads, each within this task: a copied context carries it there."""
    with ThreadPoolExecutor(4, thread_name_prefix="transform") as pool:
        jobs = [pool.submit(copy_context().run, transform_part, part, rows[part::4]) for part in range(4)]
    log.info("transformed %d rows", sum(job.result() for job in jobs))


@flowforge.task("load")
def load(rows: list[Row]) -> None:
    """A progress bar, and a row that cannot be stored."""
    for row in tqdm(rows, desc="loading", unit="row"):
        pause(0.01)
        if row["order"] == len(rows) // 2:
            try:
                float(str(row["city"]))
            except ValueError:
                log.exception("row %s has no price", row["order"], extra={"row": row})


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with flowforge.init() as session:
        print(f"task {session.task_id} on {session.server}")
        rows = extract(200)
        transform(rows)
        load(rows)
        log.warning("%d rows used the default price", 1)
        print("✔ done")
        flowforge.flush()
        print("read it at", session.viewer_url)


if __name__ == "__main__":
    main()
