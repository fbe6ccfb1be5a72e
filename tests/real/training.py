"""Prints as a training run does: logging at all levels, progress bars, unicode, bytes that are not text, threads.

Writes to its own copies of stdout and stderr what it writes to the real ones: argv[1] and argv[2] are the journal.
"""

import json
import logging
import os
import random
import sys
import threading
import traceback


class Tee:
    """The test's journal: whole writes, under one lock for both streams, to the descriptor and to the file."""

    lock = threading.Lock()

    def __init__(self, descriptor: int, path: str) -> None:
        self.descriptor = descriptor
        self.journal = open(path, "wb", buffering=0)

    def write_bytes(self, data: bytes) -> None:
        with Tee.lock:
            self.journal.write(data)
            while data:
                data = data[os.write(self.descriptor, data):]

    def write(self, text: str) -> int:
        self.write_bytes(text.encode())
        return len(text)

    def flush(self) -> None:
        pass


sys.stdout = out = Tee(1, sys.argv[1])  # type: ignore[assignment]
sys.stderr = err = Tee(2, sys.argv[2])  # type: ignore[assignment]
random.seed(7)
logging.basicConfig(level=logging.DEBUG, stream=err, format="%(asctime)s %(levelname)s %(message)s")

for epoch in range(30):
    for step in range(200):
        err.write(f"\repoch {epoch} {'█' * (step // 10):<20} {step}/200")
    err.write("\n")
    logging.info("epoch %d done, loss %.4f", epoch, random.random())
    print(f"\x1b[1mepoch {epoch}\x1b[0m mất mát 손실 損失 {random.random():.3f} 🎉")
    print(json.dumps({"epoch": epoch, "accuracy": random.random()}))
    out.write_bytes(bytes(random.randrange(256) for _ in range(300)) + b"\n")

try:
    {}["missing"]
except KeyError:
    traceback.print_exc()
    logging.exception("with its traceback")

out.write("a" * 300_000 + "\n")  # longer than a line may be: split, and joined again
out.write("é" * 100_000 + "\n")
out.write("\r\n\n\r\r\n")


def chatter(number: int) -> None:
    for line in range(2_000):
        out.write(f"thread {number} line {line}\n")


threads = [threading.Thread(target=chatter, args=(number,)) for number in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
out.write("the end, without a newline")
sys.exit(3)
