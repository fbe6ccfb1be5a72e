"""A pipeline as people write them: it logs, prints, shows a progress bar, runs threads, and trips over bad data.

Standard library only. Run it as it is, or under `flowforge run -- python3 docs/demo/pipeline.py`.
"""

import json
import logging
import os
import random
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

SPEED = float(os.environ.get("DEMO_SPEED", "1"))
log = logging.getLogger("pipeline")


def pause(seconds: float) -> None:
    time.sleep(seconds / SPEED)


def bar(title: str, steps: int) -> None:
    """Draws as tqdm does: one line, rewritten with a carriage return."""
    started = time.monotonic()
    for step in range(steps + 1):
        filled = "█" * (20 * step // steps)
        rate = step / max(time.monotonic() - started, 1e-9)
        sys.stderr.write(f"\r{title}: {100 * step // steps:3d}%|{filled:<20}| {step}/{steps} [{rate:6.1f} it/s]")
        sys.stderr.flush()
        pause(0.02)
    sys.stderr.write("\n")


def extract() -> list[dict]:
    log.info("reading orders from %s", "warehouse/orders-2024.parquet")
    log.debug("the connection pool has %d connections", 4)
    rows = []
    for number in range(1, 301):
        rows.append({"order": number, "city": random.choice(["Hà Nội", "上海", "서울", "Łódź", "São Paulo"])})
        if number % 25 == 0:
            print(f"read {number} orders, the last from {rows[-1]['city']} 📦")
            pause(0.1)
    return rows


def transform(part: int, rows: list[dict]) -> int:
    for at, row in enumerate(rows):
        if at % 10 == 0:
            # One write a line: print() would write the newline by itself, and threads would mix.
            sys.stdout.write(json.dumps({"event": "transform", "worker": part, "thread": threading.current_thread().name, **row}, ensure_ascii=False) + "\n")
            pause(0.05)
    return len(rows)


def load(rows: list[dict]) -> None:
    bar("loading", 150)
    log.warning("%d rows have no price, the default is used", 7)
    try:
        float(random.choice(rows)["city"])
    except ValueError:
        log.error("one row is broken and is set aside")
        traceback.print_exc()


def train() -> None:
    for epoch in range(1, 6):
        loss = 2.5 / epoch + random.random() / 10
        colour = 32 if loss < 1 else 33
        print(f"\x1b[1mepoch {epoch}/5\x1b[0m  loss \x1b[{colour}m{loss:.4f}\x1b[0m  lr 3e-4")
        bar(f"epoch {epoch}", 40)
        pause(0.2)


def main() -> int:
    logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(levelname)-8s %(name)s: %(message)s")
    log.info("run %s begins", os.environ.get("FLOWFORGE_TASK_ID", "(not under flowforge)"))
    rows = extract()
    with ThreadPoolExecutor(4, thread_name_prefix="worker") as pool:
        parts = [rows[at::4] for at in range(4)]
        done = sum(pool.map(transform, range(4), parts))
    log.info("%d orders transformed by 4 threads", done)
    load(rows)
    train()
    log.critical("this is only a drill: every level has been seen now")
    print("done", end="")  # the last line has no newline, and must not be lost
    return 0


if __name__ == "__main__":
    sys.exit(main())
