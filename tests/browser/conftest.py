"""A real server, real producers, and Chromium in front of them. FLOWFORGE_BIN and CHROMIUM name other binaries."""

import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("FLOWFORGE_BIN", ROOT / "target/debug/flowforge"))
DEADLINE_S = 30
expect.set_options(timeout=DEADLINE_S * 1000)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)


def chromium() -> str:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    assert found, "Chromium is not there. Install it (apt-get install chromium), or name it in CHROMIUM"
    return found


class Server:
    """One `flowforge serve`; it keeps its ports and its database when it is started again."""

    def __init__(self, folder: Path) -> None:
        assert BINARY.is_file(), f"{BINARY} is not there. Build it: cargo build -p flowforge-server"
        self.folder = folder
        self.log = folder / "server.log"
        self.grpc = self.http = "127.0.0.1:0"
        self.producers: list[subprocess.Popen[bytes]] = []
        self.start()

    def start(self) -> None:
        config = self.folder / "config.yaml"
        database = self.folder / "flowforge.db"
        config.write_text(f"server:\n  grpc: {self.grpc}\n  http: {self.http}\nsqlite:\n  path: {database}\n")
        before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            command = [BINARY, "serve", "--config", config]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, cwd=self.folder)
        end = time.monotonic() + DEADLINE_S
        while not (serving := re.search(r"is serving grpc=(\S+) http=(\S+)", self.log.read_text()[before:])):
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.01)
        self.grpc, self.http = serving.groups()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        for producer in self.producers:
            producer.kill()
            producer.wait()
        self.kill()

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self.http}/api/v1/tasks/{path}", timeout=DEADLINE_S) as answer:
            return json.load(answer)

    def lines(self, task: str) -> list[dict[str, Any]]:
        return self.get(f"{task}/logs?limit=5000")["lines"]

    def url(self, task: str, more: str = "") -> str:
        return f"http://{self.http}/?task={task}{more}"

    def spawn(self, *arguments: str, **options: Any) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, "FLOWFORGE_SERVER": f"http://{self.grpc}"}
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | options
        process = subprocess.Popen([BINARY, *arguments], env=environment, cwd=self.folder, **options)
        self.producers.append(process)
        return process

    def sender(self, task: str, *arguments: str) -> "Sender":
        process = self.spawn("send", "--task", task, *arguments, stdin=subprocess.PIPE)
        return Sender(process, lambda: self.is_known(task))

    def is_known(self, task: str) -> bool:
        try:
            return bool(self.get(task))
        except urllib.error.HTTPError:
            return False

    def send(self, task: str, text: str, *arguments: str) -> None:
        """Returns when all of it is stored."""
        sender = self.sender(task, *arguments)
        sender.write(text)
        sender.close()

    def run(self, task: str, script: str, *arguments: str) -> "subprocess.Popen[bytes]":
        process = self.spawn("run", "--quiet", "--task", task, *arguments, "--", "python3", "-c", script)
        until(lambda: self.is_known(task))
        return process


class Sender:
    """`flowforge send`, line by line."""

    def __init__(self, process: "subprocess.Popen[bytes]", is_known: Callable[[], bool]) -> None:
        self.process = process
        self.is_known = is_known
        self.begun = False

    def write(self, text: str) -> None:
        """The first time, returns when the server knows the task."""
        assert self.process.stdin
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()
        if not self.begun:
            until(self.is_known)
            self.begun = True

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        assert self.process.wait(DEADLINE_S * 4) == 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.stop()
    print(server.log.read_text())  # pytest shows it when the test failed.


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1100, "height": 700})
    context.set_default_timeout(DEADLINE_S * 1000)
    yield context
    context.close()


class Complaints(list[str]):
    """What the browser complained of. `expected` is what a test means to happen."""

    expected = re.compile(r"(?!)")

    def unexpected(self) -> list[str]:
        return [text for text in self if not self.expected.search(text)]


@pytest.fixture
def complaints(page: Page) -> Complaints:
    return page.complaints  # type: ignore[attr-defined]


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page on which any error, dialog or breach of the content security policy fails the test."""
    page = context.new_page()
    complaints = Complaints()
    page.complaints = complaints  # type: ignore[attr-defined]
    page.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(f"uncaught: {error}"))
    page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}") or dialog.dismiss())
    page.add_init_script(
        "addEventListener('securitypolicyviolation', (event) => console.error('CSP', event.violatedDirective, event.blockedURI));"
    )
    yield page
    assert complaints.unexpected() == []


ROWS = """() => [...document.querySelectorAll('.row.line')].map((row) =>
    [Number(row.dataset.offset), row.querySelector('.text').textContent])"""

ALL_ROWS = """async (last) => {
  const pane = document.getElementById('pane');
  const picture = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const seen = new Map();
  pane.scrollTop = 0;
  const deadline = Date.now() + 20000;
  while (Date.now() < deadline) {
    await picture();
    const holes = [...document.querySelectorAll('.row.hole')].some((hole) => {
      const [at, view] = [hole.getBoundingClientRect(), pane.getBoundingClientRect()];
      return at.bottom > view.top && at.top < view.bottom;
    });
    if (holes) continue;
    for (const row of document.querySelectorAll('.row.line')) seen.set(Number(row.dataset.offset), row.querySelector('.text').textContent);
    if (pane.scrollTop + pane.clientHeight >= pane.scrollHeight - 2) break;
    pane.scrollTop += pane.clientHeight * 0.7;
  }
  return [...seen].sort((a, b) => a[0] - b[0]);
}"""


@pytest.fixture
def rows(page: Page) -> Callable[[], list[tuple[int, str]]]:
    """The rows in the document now."""
    return lambda: [tuple(row) for row in page.evaluate(ROWS)]


@pytest.fixture
def all_rows(page: Page) -> Callable[[], list[tuple[int, str]]]:
    """Every row, read while scrolling from the first to the last."""
    return lambda: [tuple(row) for row in page.evaluate(ALL_ROWS)]
