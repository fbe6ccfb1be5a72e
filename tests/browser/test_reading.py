"""What a reader does with a page: copies, follows addresses, reads on a telephone, with a clock that is wrong."""

import json
import re
from typing import Any

from conftest import Complaints, Server, until
from playwright.sync_api import Page, Route, expect
from test_log import numbered, see

COPIED = """([first, last]) => {
  const row = (offset) => document.querySelector(`.row[data-offset="${offset}"]`);
  const range = document.createRange();
  range.setStart(row(first), 0);
  range.setEnd(row(last), row(last).childNodes.length);
  getSelection().removeAllRanges();
  getSelection().addRange(range);
  return getSelection().toString();
}"""

NARROW = {"width": 360, "height": 640}


def test_a_selection_is_the_text_alone(server: Server, page: Page) -> None:
    lines = ["first", "", "  indented", "a\tb", "trailing  ", "\u00e9\u4f60", "word " * 60, "last"]
    server.send("t", "\n".join(lines) + "\n")
    page.goto(server.url("t"))
    see(page, len(lines), "last")
    for _ in ("as it is", "wrapped"):
        assert page.evaluate(COPIED, [1, len(lines)]).split("\n") == lines
        page.keyboard.press("w")
        page.wait_for_timeout(200)


def test_text_is_found_and_marked_across_colours(server: Server, page: Page) -> None:
    assert server.run("t", r"print('a \x1b[31mer\x1b[0mror'); print('\x1b[31mred\x1b[0m')").wait() == 0
    page.goto(server.url("t", "&q=ERROR"))
    see(page, 1, "a error")
    expect(page.locator(".row.line")).to_have_count(1)
    expect(page.locator("mark")).to_have_text(["er", "ror"])
    page.fill("#q", "31")
    expect(page.locator(".row.note")).to_have_text("no line matches")


SILENT_STREAM = """
  const real = fetch;
  const headers = { 'content-type': 'text/event-stream' };
  window.fetch = (url, options) =>
    String(url).includes('/logs/stream') ? Promise.resolve(new Response(new ReadableStream(), { headers })) : real(url, options);
"""


def test_a_slow_beginning_is_not_an_unknown_task(server: Server, page: Page, complaints: Complaints) -> None:
    complaints.expected = re.compile("404")
    server.send("t", "x\n")
    page.add_init_script(SILENT_STREAM)
    page.goto(server.url("t"))
    expect(page.locator("#connection")).to_have_text("reading history…")
    expect(page.locator("#summary")).to_have_text("1 line, succeeded")
    expect(page.locator("#empty-log")).not_to_contain_text("Nobody has printed")
    page.goto(server.url("nobody"))
    expect(page.locator("#empty-log")).to_contain_text("Nobody has printed")
    expect(page.locator("#connection")).to_have_text("waiting for the first line")


def test_a_choice_that_is_none_is_said(server: Server, page: Page) -> None:
    server.send("t", "x\n")
    page.goto(server.url("t", "&level=loud&stream=stdout&q="))
    expect(page.locator("#hint")).to_have_text("The address says something that this page does not know: level=loud")
    page.goto(f"http://{server.http}/?status=green&text=a")
    expect(page.locator("#hint")).to_have_text("The address says something that this page does not know: status=green")


def test_a_permalink_into_a_moving_bar_shows_the_bar(server: Server, page: Page) -> None:
    gate = server.folder / "gate"
    script = f"""
import os, sys, time
print('\\n'.join(f'line {{n}}' for n in range(1, 201)), flush=True)
step = 0
while not os.path.exists({str(gate)!r}):
    step += 1
    sys.stderr.write(f'\\rbar {{step}}'); sys.stderr.flush(); time.sleep(0.05)
sys.stderr.write('\\rbar is done\\n')
"""
    task = server.run("t", script)
    until(lambda: any("update_id" in line for line in server.lines("t")))
    state = next(line["offset"] for line in server.lines("t") if "update_id" in line)
    page.goto(server.url("t", f"#L{state}"))
    expect(page.locator(".row.frame")).to_be_in_viewport()
    expect(page.locator(".row.frame")).to_have_class(re.compile("marked"))
    gate.touch()
    assert task.wait() == 0
    expect(page.locator(".row.marked .text")).to_have_text("bar is done")


def test_a_wrong_clock_makes_no_wrong_ages(server: Server, page: Page) -> None:
    sender = server.sender("t")
    sender.write("x\n")
    page.add_init_script("const now = Date.now; Date.now = () => now() - 3_600_000;")
    page.goto(f"http://{server.http}/")
    row = page.locator("tbody tr")
    expect(row.locator("td").nth(5)).to_have_text(re.compile(r"^(now|\d s ago)$"))
    expect(row.locator("td").nth(4)).to_have_text(re.compile(r"^\d+(\.\d)? s$"))
    page.wait_for_timeout(1500)
    expect(row.locator("td").nth(4)).not_to_have_text(re.compile(r"^0\.\d s$"))
    sender.close()


def task_of(number: int, **more: Any) -> dict[str, Any]:
    time = "2026-01-01T00:00:00.000Z"
    made = {"tenant": "default", "task_id": f"task-{number}", "attempt": 1, "status": "succeeded", "created_at": time}
    return made | {"started_at": time, "ended_at": time, "end": 3, "lines": 2, "floor": 1, "dropped": 0, "complete": True} | more


def test_more_tasks_than_one_answer_holds(server: Server, page: Page) -> None:
    tasks = [task_of(number) for number in range(2500)]

    def answer(route: Route) -> None:
        asked = dict(part.split("=") for part in route.request.url.partition("?")[2].split("&"))
        assert int(asked["limit"]) <= 1000
        first = int(asked.get("cursor", 0))
        last = first + int(asked["limit"])
        route.fulfill(json={"tasks": tasks[first:last]} | ({"next_cursor": str(last)} if last < len(tasks) else {}))

    page.route(re.compile(r"/api/v1/tasks\?"), answer)
    page.goto(f"http://{server.http}/")
    for shown in (100, 200, 400, 800, 1600, 2500):
        expect(page.locator("tbody tr")).to_have_count(shown)
        if shown < 2500:
            page.click("#more-tasks")
    expect(page.locator("#more-tasks")).to_be_hidden()
    expect(page.locator("#task-count")).to_have_text("2,500 tasks")


def end_with_loss(route: Route) -> None:
    text = route.fetch().text().replace('"dropped":0', '"dropped":1234').replace('"complete":true', '"complete":false')
    route.fulfill(body=text, content_type="text/event-stream")


def test_what_is_lost_is_amber_and_explained(server: Server, page: Page) -> None:
    server.send("t", "x\n")
    real = server.get("t")
    lossy = real | {"dropped": 1234, "complete": False}
    page.route(re.compile(r"/api/v1/tasks\?"), lambda route: route.fulfill(json={"tasks": [lossy]}))
    page.route(re.compile(r"/api/v1/tasks/t$"), lambda route: route.fulfill(body=json.dumps(lossy), content_type="application/json"))
    page.goto(f"http://{server.http}/")
    row = page.locator("tbody tr")
    expect(row).to_have_class("incomplete")
    expect(row.locator("td").first).to_have_text("succeeded, 1,234 lines lost")
    expect(row).to_have_attribute("title", "1,234 lines were lost: rows of the log say where, and why")
    amber = "rgb(138, 90, 0)"
    expect(row.locator("td").first).to_have_css("color", amber)
    # The stream's last words, and the row that ends the log.
    page.route(re.compile("/logs/stream"), end_with_loss)
    page.goto(server.url("t"))
    expect(page.locator("#missing")).to_have_text("1,234 lines were lost: rows of the log say where, and why")
    expect(page.locator("#summary")).to_have_text("1 line, succeeded, 1,234 lines lost")
    expect(page.locator("#summary")).to_have_css("color", amber)
    expect(page.locator(".row.end .text")).to_have_css("color", amber)


def test_a_narrow_page_is_usable(server: Server, page: Page, complaints: Complaints) -> None:
    page.set_viewport_size(NARROW)
    server.send("a-task-with-a-rather-long-name-2026-01-01", numbered(1, 200) + "a long line " * 30 + "\n")
    for address in (server.url("a-task-with-a-rather-long-name-2026-01-01"), f"http://{server.http}/"):
        page.goto(address)
        expect(page.locator(".row.line, tbody tr").first).to_be_visible()
        wide = "Math.max(...[...document.querySelectorAll('html, .scroll')].map((at) => at.scrollWidth))"
        assert page.evaluate(wide) <= NARROW["width"]
        outside = """(width) => [...document.querySelectorAll('header *, .bar *')].filter((at) => at.checkVisibility() && !at.matches('.aloud, option'))
            .filter((at) => at.getBoundingClientRect().right > width + 1).map((at) => at.id || at.className)"""
        assert page.evaluate(outside, NARROW["width"]) == []
    page.goto(server.url("a-task-with-a-rather-long-name-2026-01-01", "&q=line"))
    expect(page.locator("#clear")).to_have_text("202 matches · clear")
    # Most of a telephone is for the log.
    assert page.locator("#pane").bounding_box()["height"] > NARROW["height"] * 0.7
    page.click("#clear")
    expect(page.locator("#q")).to_have_value("")


def test_a_tall_screen_is_filled(server: Server, page: Page) -> None:
    page.set_viewport_size({"width": 900, "height": 7000})
    server.send("t", numbered(1, 2000))
    page.goto(server.url("t", "#L1"))
    see(page, 1, "line 1")
    see(page, 340, "line 340")


PLACES = """() => Object.fromEntries([...document.querySelectorAll('.row.line')]
    .map((row) => [row.dataset.offset, row.getBoundingClientRect().top]))"""


def test_wrapped_rows_move_by_what_is_scrolled(server: Server, page: Page) -> None:
    """Their heights are estimates until they are seen: what one reads must not leap when they are known."""
    server.send("t", "".join(f"{n} {'word ' * (n * 37 % 200)}\n" for n in range(1, 401)))
    page.goto(server.url("t"))
    page.keyboard.press("w")
    expect(page.locator('.row[data-offset="401"]')).to_be_in_viewport()
    page.hover("#pane")
    for _ in range(12):
        page.wait_for_timeout(100)
        before = page.evaluate(PLACES)
        page.mouse.wheel(0, -300)
        page.wait_for_timeout(250)
        after = page.evaluate(PLACES)
        moved = {round(after[offset] - before[offset]) for offset in before.keys() & after.keys()}
        assert moved == {300}


def test_a_zoom_does_not_leave_the_end(server: Server, page: Page) -> None:
    server.send("t", numbered(1, 500))
    page.goto(server.url("t"))
    see(page, 500, "line 500")
    pane = page.locator("#pane")
    pane.dispatch_event("wheel", {"deltaY": -100, "ctrlKey": True})
    expect(page.locator("#follow")).to_have_attribute("aria-pressed", "true")
    pane.dispatch_event("wheel", {"deltaY": -100})
    expect(page.locator("#follow")).to_have_attribute("aria-pressed", "false")
