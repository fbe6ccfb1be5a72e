"""From print to the document: how long a line takes to be seen. Prints p50, p99 and the longest, in ms.

    FLOWFORGE_BIN=… python tests/browser/latency.py [lines per second] [seconds]

Each line holds the time at which it was printed; a MutationObserver in the page compares it with the time at which its row
is in the document. Producer, server and Chromium run on this machine, so they have one clock.
"""

import statistics
import sys
import tempfile
from pathlib import Path

from conftest import FLAGS, Server, chromium
from playwright.sync_api import sync_playwright

WATCH = """() => {
  window.took = [];
  const seen = new Set();
  new MutationObserver((changes) => {
    const now = Date.now();
    for (const change of changes) for (const node of change.addedNodes) {
      const printed = Number(/^printed at (\\d+)$/.exec(node.querySelector?.('.text')?.textContent)?.[1]);
      const offset = node.dataset?.offset;
      if (!printed || seen.has(offset)) continue;
      seen.add(offset);
      window.took.push(now - printed);
    }
  }).observe(document.getElementById('pane'), { childList: true, subtree: true });
}"""


def main() -> None:
    rate = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    count = rate * seconds
    script = f"""
import time, sys
start = time.time()
for n in range({count}):
    time.sleep(max(0, start + n / {rate} - time.time()))
    sys.stdout.write(f'printed at {{time.time_ns() // 1_000_000}}\\n'); sys.stdout.flush()
"""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = Server(Path(folder))
        try:
            browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
            page = browser.new_page(viewport={"width": 1100, "height": 700})
            page.goto(server.url("t"))
            page.evaluate(WATCH)
            task = server.run("t", script)
            assert task.wait() == 0
            page.wait_for_function("(count) => window.took.length >= count", arg=count)
            took = sorted(page.evaluate("window.took"))
            cuts = statistics.quantiles(took, n=100)
            print(
                f"{count} lines at {rate}/s, print to document: p50 {cuts[49]:.0f} ms, p99 {cuts[98]:.0f} ms, longest {took[-1]} ms"
            )
            browser.close()
        finally:
            server.stop()


if __name__ == "__main__":
    main()
