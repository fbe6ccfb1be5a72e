"""Makes the pictures of the viewer that the documentation shows, and more of them for who changes how it looks.

    FLOWFORGE_BIN=… python tests/browser/pictures.py docs [folder for the others]
"""

import contextlib
import json
import re
import sys
import tempfile
import threading
import time
from pathlib import Path

from conftest import FLAGS, Sender, Server, chromium, expect
from playwright.sync_api import Browser, Page, Route, sync_playwright

TASK = "train-resnet50-eu"
WIDE, NARROW = {"width": 1240, "height": 700}, {"width": 400, "height": 760}
SMALL = {"width": 360, "height": 640}
PAUSE_S = 0.1


class Run:
    """A training run: what it prints, what it logs, and how its progress bar moves."""

    def __init__(self, server: Server) -> None:
        self.name = ("--name", "resnet50, eu-west")
        self.out, self.err = server.sender(TASK, *self.name), server.sender(TASK, "--stream", "stderr", *self.name)
        levels = ("debug", "info", "warn", "error")
        self.log = {level: server.sender(TASK, "--stream", "log", "--level", level, *self.name) for level in levels}

    def say(self, sender: Sender, text: str) -> None:
        sender.write(text + "\n")
        time.sleep(PAUSE_S)

    def epoch(self, number: int) -> None:
        bar = "\u2588" * 25
        self.say(self.out, f"\x1b[1mepoch {number}/90\x1b[0m  lr \x1b[35m{0.1 - number * 0.003:.4f}\x1b[0m")
        self.say(self.err, f"  train 100%|{bar}| 5000/5005 [11.1s, 548 img/s]")
        top = f"top-1 \x1b[32m{11.8 * number:.2f}%\x1b[0m  top-5 \x1b[32m{24.9 * number:.2f}%\x1b[0m"
        self.say(self.out, f"  loss \x1b[33m{6.1 / number:.4f}\x1b[0m  {top}")

    def play(self) -> None:
        say, log = self.say, self.log
        say(self.out, f"\x1b[1;36m── resnet50 · imagenet-1k · 8 × H100 {'─' * 28}\x1b[0m")
        say(log["info"], "config loaded from conf/train.yaml")
        say(log["debug"], "dataloader: 16 workers, prefetch 4, pinned memory")
        say(log["info"], "dataset imagenet-1k: 1,281,167 images in 1,000 classes")
        say(self.err, "/opt/train/loader.py:214: UserWarning: 3 corrupt EXIF blocks were skipped")
        self.epoch(1)
        say(log["warn"], "rank 5 is 1.8 × slower than the median: check its PCIe link")
        self.epoch(2)
        say(log["error"], "checkpoint upload to s3://models/resnet50/e2 failed: connection reset by peer")
        say(log["info"], "retrying the upload in 2 s (attempt 2 of 5)")
        say(log["info"], "checkpoint e2 uploaded, 97.8 MiB")
        say(log["debug"], "gpu memory 61.2 / 80.0 GiB, loss scale 16384")
        self.epoch(3)
        say(self.out, '{"event":"eval","split":"val","city":"Đà Nẵng","note":"日本語 · 한국어 · العربية"}')
        say(self.out, "dashboard: \x1b]8;;https://example.com/runs/4711\x1b\\run 4711\x1b]8;;\x1b\\")
        say(self.out, "\x1b[7m PASS \x1b[0m \x1b[30;43m 3 flaky \x1b[0m \x1b[38;5;208mthroughput 4,384 img/s\x1b[0m")
        self.out.write("\x1b[1mepoch 4/90\x1b[0m  lr \x1b[35m0.0880\x1b[0m\n")
        threading.Thread(target=self.move, daemon=True).start()

    def move(self) -> None:
        """A bar is shown to who watches while it moves. Ends with its process."""
        with contextlib.suppress(BrokenPipeError):
            while True:
                for speed in (548, 551):
                    self.err.write(f"\r  train   6%|█{'░' * 24}| 300/5005 [ 0.7s, {speed} img/s]")
                    time.sleep(0.3)


def open_page(browser: Browser, theme: str, size: dict[str, int]) -> Page:
    context = browser.new_context(viewport=size, color_scheme=theme, timezone_id="UTC")  # type: ignore[arg-type]
    return context.new_page()


LOSSY = "nightly-import"


def lossy(route: Route) -> None:
    """As if a buffer of this task had been full, in whatever says so."""
    text = route.fetch().text()
    if "/stream" in route.request.url:
        text = text.replace('"dropped":0', '"dropped":35655').replace('"complete":true', '"complete":false')
        return route.fulfill(body=text, content_type="text/event-stream")
    body = json.loads(text)
    for task in body.get("tasks", [body]):
        if task["task_id"] == LOSSY:
            task |= {"dropped": 35_655, "complete": False}
    return route.fulfill(json=body)


def documented(server: Server, browser: Browser, folder: Path) -> None:
    for name, theme, size in (("dark", "dark", WIDE), ("light", "light", WIDE), ("narrow", "dark", NARROW)):
        page = open_page(browser, theme, size)
        page.goto(server.url(TASK))
        expect(page.locator("#connection")).to_have_text("live")
        expect(page.locator(".row.frame")).to_be_in_viewport()
        page.screenshot(path=folder / f"viewer-{name}.png")
        page.context.close()


def others(server: Server, browser: Browser, folder: Path) -> None:
    for name, theme, size in (("wide", "light", WIDE), ("dark", "dark", WIDE), ("small", "light", SMALL), ("small-dark", "dark", SMALL)):
        page = open_page(browser, theme, size)
        page.route(re.compile(rf"/api/v1/tasks(\?|/{LOSSY}(\?|$|/logs/stream))"), lossy)

        def shoot(what: str, page: Page = page, name: str = name) -> None:
            page.wait_for_timeout(600)
            page.screenshot(path=folder / f"{what}-{name}.png")

        page.goto(f"http://{server.http}/")
        expect(page.locator("tbody tr")).to_have_count(6)
        shoot("list")
        page.goto(server.url(LOSSY))
        shoot("loss")
        page.goto(server.url(TASK, "&q=epoch"))
        shoot("filter")
        page.goto(server.url(TASK, "&level=warn#L9"))
        shoot("level")
        page.goto(server.url(TASK, "#L9"))
        shoot("marked")
        page.click("#help-button")
        shoot("help")
        page.goto(server.url("odd"))
        shoot("odd")
        page.goto(server.url("nobody"))
        shoot("nobody")
        page.goto(server.url(TASK))
        expect(page.locator("#connection")).to_have_text("live")
        page.route(re.compile("/logs/stream"), lambda route: route.fulfill(status=503, json={"detail": "the store is away"}))
        page.evaluate("dispatchEvent(new Event('online'))")
        page.goto(server.url(TASK))
        shoot("away")
        page.context.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = Server(Path(folder))
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        try:
            server.send(LOSSY, "".join(f"imported order {n}\n" for n in range(1, 40)), "--name", "orders, every night")
            assert server.run("backfill-2025", "print('x'); raise SystemExit(3)", "--name", "a backfill").wait() == 3
            odd = r"print('nul \x00 bell \x07'); print('dos\r'); print('\u202eexe.gnp'); print('w' * 9000); print('{\"a\": 1}')"
            assert server.run("odd", odd, "--name", "evil \u202efdp.exe, with a name that is long enough to be cut off").wait() == 0
            for name in ("a" * 100, "hourly"):
                server.send(name, "x\n" * 1234)
            Run(server).play()
            time.sleep(1)
            documented(server, browser, Path(sys.argv[1]))
            if len(sys.argv) > 2:
                others(server, browser, Path(sys.argv[2]))
        finally:
            browser.close()
            server.stop()


if __name__ == "__main__":
    main()
