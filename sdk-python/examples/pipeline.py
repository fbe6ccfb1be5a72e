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
import warnings
from concurrent.futures import ThreadPoolExecutor

import flowforge
from tqdm import tqdm

SPEED = float(os.environ.get("DEMO_SPEED", "1"))
CITIES = ["Hà Nội", "上海", "서울", "Łódź", "São Paulo"]
log = logging.getLogger("pipeline")

Row = dict[str, object]


def pause(seconds: float) -> None:
    time.sleep(seconds / SPEED)


def extract(count: int) -> list[Row]:
    """Read orders, telling now and then where it is."""
    log.info("reading orders", extra={"table": "warehouse.orders", "expected": count})
    log.debug("the connection pool has %d connections", 4)
    rows: list[Row] = []
    for number in range(1, count + 1):
        rows.append({"order": number, "city": random.choice(CITIES)})
        if number % 25 == 0:
            print(f"read {number} orders, the last from {rows[-1]['city']} 📦")
            pause(0.1)
    return rows


def transform_part(part: int, rows: list[Row]) -> int:
    """One thread's share; JSON lines, as programs write them for other programs."""
    for row in rows:
        thread = threading.current_thread().name
        print(json.dumps({"event": "transform", "part": part, "thread": thread, **row}, ensure_ascii=False))
        pause(0.03)
    return len(rows)


def transform(rows: list[Row]) -> None:
    """Four threads print at once; no line is torn."""
    with ThreadPoolExecutor(4, thread_name_prefix="transform") as pool:
        jobs = [pool.submit(transform_part, part, rows[part::4]) for part in range(4)]
    log.info("transformed %d rows", sum(job.result() for job in jobs))
    warnings.warn("the price list of 2023 is deprecated", DeprecationWarning, stacklevel=2)


def load(rows: list[Row]) -> None:
    """A progress bar, and a row that cannot be stored."""
    for row in tqdm(rows, desc="loading", unit="row"):
        pause(0.02)
        if row["order"] == len(rows) // 2:
            try:
                float(str(row["city"]))
            except ValueError:
                log.exception("row %s has no price", row["order"], extra={"row": row})


@flowforge.task("train")
def train(epochs: int) -> None:
    """A step with a log of its own: the task `<this one>.train`."""
    for epoch in range(1, epochs + 1):
        for _ in tqdm(range(60), desc=f"epoch {epoch}", unit="batch"):
            pause(0.015)
        loss = 2.5 / epoch + random.random() / 10
        colour = 32 if loss < 1 else 33
        print(f"\x1b[1mepoch {epoch}/{epochs}\x1b[0m  loss \x1b[{colour}m{loss:.4f}\x1b[0m  lr 3e-4")


def main() -> None:
    logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(levelname)-8s %(name)s: %(message)s")
    warnings.simplefilter("default", DeprecationWarning)
    with flowforge.init() as session:
        print(f"task {session.task_id} on {session.server}")
        rows = extract(200)
        transform(rows)
        load(rows)
        train(4)
        log.warning("%d row used the default price", 1)
        print("✔ done")
        flowforge.flush()


if __name__ == "__main__":
    main()
