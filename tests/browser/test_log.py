"""The page of one task: history, the live end, places, filters."""

import re
from collections.abc import Callable

from conftest import Complaints, Server, until
from playwright.sync_api import Page, expect

Rows = Callable[[], list[tuple[int, str]]]


def numbered(first: int, last: int) -> str:
    return "".join(f"line {n}\n" for n in range(first, last + 1))


def text_of(page: Page, offset: int) -> str:
    return page.locator(f'.row[data-offset="{offset}"] .text').inner_text()


def see(page: Page, offset: int, text: str) -> None:
    """Waits until the row of this offset is in view, with this text."""
    row = page.locator(f'.row[data-offset="{offset}"]')
    expect(row.locator(".text")).to_have_text(text)
    expect(row).to_be_in_viewport()


def test_history_then_live(server: Server, page: Page, all_rows: Rows) -> None:
    sender = server.sender("t")
    sender.write(numbered(1, 1200))
    page.goto(server.url("t"))
    see(page, 1200, "line 1200")
    expect(page.locator("#connection")).to_have_text("live")
    sender.write(numbered(1201, 1210))
    see(page, 1210, "line 1210")
    sender.close()
    see(page, 1211, "task succeeded, 1210 lines")
    assert all_rows() == [(line["offset"], line["message"]) for line in server.lines("t")]


def test_the_end_is_told(server: Server, page: Page) -> None:
    assert server.run("t", "for n in range(67): print(n)").wait() == 0
    page.goto(server.url("t"))
    expect(page.locator("#summary")).to_have_text("67 lines, succeeded, exit code 0, verified")
    expect(page.locator("#connection")).to_have_text("ended")
    assert server.run("f", "import sys; print('oh no', file=sys.stderr); sys.exit(3)").wait() == 3
    page.goto(server.url("f"))
    expect(page.locator("#summary")).to_have_text("1 line, failed, exit code 3, verified")
    expect(page.locator(".row.stderr .mark")).to_have_text("2>")
    expect(page.locator(".row.end.bad")).to_have_count(1)


def test_a_task_that_runs_again_goes_on(server: Server, page: Page) -> None:
    server.send("t", "first\n")
    page.goto(server.url("t"))
    expect(page.locator("#connection")).to_have_text("ended")
    again = server.sender("t")
    again.write("second\n")
    see(page, 3, "second")
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator("#about")).to_contain_text("attempt 2")


def test_a_task_that_is_not_there_yet_is_waited_for(server: Server, page: Page, complaints: Complaints) -> None:
    complaints.expected = re.compile("404")
    page.goto(server.url("later"))
    expect(page.locator("#empty-log")).to_contain_text("Nobody has printed to this task yet")
    server.send("later", "now\n")
    see(page, 1, "now")
    expect(page.locator("#empty-log")).to_be_hidden()


def test_following_yields_to_who_scrolls_up(server: Server, page: Page, rows: Rows) -> None:
    sender = server.sender("t")
    sender.write(numbered(1, 500))
    page.goto(server.url("t"))
    see(page, 500, "line 500")
    page.hover("#pane")
    page.mouse.wheel(0, -600)
    expect(page.locator("#follow")).to_have_attribute("aria-pressed", "false")
    expect(page.locator('.row[data-offset="500"]')).not_to_be_in_viewport()
    top = "() => document.elementFromPoint(300, 130).closest('.row').dataset.offset"
    before = page.evaluate(top)
    sender.write(numbered(501, 540))
    expect(page.locator("#jump")).to_have_text("↓ 40 new lines")
    assert page.evaluate(top) == before, "new lines moved what is read"
    page.click("#jump")
    see(page, 540, "line 540")
    expect(page.locator("#jump")).to_be_hidden()
    sender.write(numbered(541, 541))
    see(page, 541, "line 541")


def test_the_server_is_killed_while_one_watches(server: Server, page: Page, all_rows: Rows, complaints: Complaints) -> None:
    complaints.expected = re.compile("net::ERR_")
    places: list[str | None] = []
    page.on("request", lambda request: "/logs/stream" in request.url and places.append(request.headers.get("last-event-id")))
    # Of two producers: what was not stored comes again in another order.
    one, two = server.sender("t"), server.sender("t")
    one.write(numbered(1, 300))
    page.goto(server.url("t"))
    see(page, 300, "line 300")
    rounds = 4
    for round_ in range(rounds):
        first = 301 + 100 * round_
        for n in range(first, first + 50, 2):
            one.write(numbered(n, n))
            two.write(numbered(n + 1, n + 1))
        server.kill()
        expect(page.locator("#connection")).to_have_text(re.compile(r"reconnecting in \d+ s: "))
        expect(page.locator("#said")).to_have_text(re.compile("reconnecting: "))
        expect(page.locator("#retry")).to_be_visible()
        two.write(numbered(first + 50, first + 99))
        server.start()
        expect(page.locator("#connection")).to_have_text("live")
    one.close()
    two.close()
    expect(page.locator("#connection")).to_have_text("ended")
    stored = [(line["offset"], line["message"]) for line in server.lines("t")]
    texts = {text for _, text in stored[:-1]}
    assert texts == set(numbered(1, 300 + 100 * rounds).splitlines()) and len(stored) == len(texts) + 1
    assert all_rows() == stored
    assert places[0] is None and len(places) > rounds and all(places[1:]), places


def test_a_permalink_shows_its_line(server: Server, page: Page) -> None:
    server.send("t", numbered(1, 3000))
    page.goto(server.url("t", "#L1234"))
    see(page, 1234, "line 1234")
    expect(page.locator(".row.marked")).to_have_attribute("data-offset", "1234")
    page.click('.row[data-offset="1240"] .no')
    assert page.url.endswith("?task=t#L1240")
    expect(page.locator(".row.marked")).to_have_attribute("data-offset", "1240")
    page.evaluate("location.hash = '#L7'")
    see(page, 7, "line 7")
    page.reload()
    see(page, 7, "line 7")
    expect(page.locator("#jump")).to_be_hidden()


def test_filters_show_matches_and_can_be_cleared(server: Server, page: Page) -> None:
    keep = server.sender("t")
    keep.write("".join(f"{'needle' if n % 2 == 0 else 'hay'} {n}\n" for n in range(1, 4001)))
    page.goto(server.url("t"))
    see(page, 4000, "needle 4000")
    server.send("t", "watch out\n", "--stream", "log", "--level", "warn")
    see(page, 4001, "watch out")
    expect(page.locator(".row.warn .mark")).to_have_text("wrn")
    page.keyboard.press("/")
    page.keyboard.type("NEEDLE")
    see(page, 4000, "needle 4000")
    expect(page.locator("#clear")).to_have_text("1,000 matches so far · clear")
    assert "q=NEEDLE" in page.url
    keep.write("more hay\nmore needle\n")
    see(page, 4003, "more needle")
    # Scrolling up loads the rest.
    page.keyboard.press("Enter")
    while "so far" in (found := page.locator("#clear").inner_text()):
        page.keyboard.press("g")
        expect(page.locator("#clear")).not_to_have_text(found)
    page.keyboard.press("g")
    see(page, 2, "needle 2")
    expect(page.locator("#clear")).to_have_text("2,001 matches · clear")
    expect(page.locator(".row.note")).to_have_text("no earlier line matches")
    # A number leads to the line among its neighbours.
    page.click('.row[data-offset="12"] .no')
    see(page, 11, "hay 11")
    expect(page.locator(".row.marked")).to_have_attribute("data-offset", "12")
    expect(page.locator("#clear")).to_be_hidden()
    page.select_option("#level", "warn")
    see(page, 4001, "watch out")
    expect(page.locator(".row.line")).to_have_count(1)
    page.reload()
    expect(page.locator("#level")).to_have_value("warn")
    page.click("#clear")
    see(page, 4003, "more needle")


def test_a_progress_bar_is_one_row(server: Server, page: Page) -> None:
    gate = server.folder / "gate"
    script = f"""
import sys, os, time
print('before', flush=True)
step = 0
while not os.path.exists({str(gate)!r}):
    step += 1
    sys.stderr.write(f'\\rbar {{step}} of many'); sys.stderr.flush(); time.sleep(0.05)
    if step == 30: print('between', flush=True)
sys.stderr.write('\\rbar is done\\n'); print('after')
"""
    task = server.run("t", script)
    page.goto(server.url("t"))
    bar = page.locator(".row", has_text="bar ")
    expect(bar).to_have_count(1)
    expect(bar).to_have_class(re.compile("frame"))
    expect(page.locator(".row.line", has_text="between")).to_have_count(1)

    # Its first state becomes a line of the log after ten seconds, and the bar moves on.
    def states() -> list[object]:
        return [line for line in server.lines("t") if "update_id" in line]

    until(lambda: len(states()) == 1)
    moving = bar.inner_text()
    expect(bar).not_to_have_text(moving)
    expect(bar).to_have_count(1)
    gate.touch()
    assert task.wait() == 0
    expect(page.locator("#connection")).to_have_text("ended")
    assert len(states()) >= 2
    expect(bar).to_have_count(1)
    expect(bar.locator(".text")).to_have_text("bar is done")
    page.reload()
    expect(bar.locator(".text")).to_have_text("bar is done")
    expect(bar).to_have_count(1)


def test_switches_have_keys_and_are_remembered(server: Server, page: Page) -> None:
    server.send("t", numbered(1, 300) + "long " * 400 + "\n")
    page.goto(server.url("t"))
    see(page, 302, "task succeeded, 301 lines")
    time = page.locator('.row[data-offset="302"] time')
    expect(time).to_be_visible()
    page.keyboard.press("t")
    expect(time).to_be_hidden()
    long = page.locator('.row[data-offset="301"]')
    assert long.bounding_box()["height"] < 25
    page.keyboard.press("w")
    page.wait_for_function("""() => document.querySelector('.row[data-offset="301"]').offsetHeight > 60""")
    expect(page.locator("#wrap")).to_have_attribute("aria-pressed", "true")
    page.reload()
    expect(page.locator("#wrap")).to_have_attribute("aria-pressed", "true")
    expect(time).to_be_hidden()
    page.keyboard.press("g")
    see(page, 1, "line 1")
    page.keyboard.press("G")
    see(page, 302, "task succeeded, 301 lines")
    page.keyboard.press("f")
    expect(page.locator("#follow")).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(251, 251, 250)"
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 20, 24)"


def test_wrapped_rows_are_all_there(server: Server, page: Page, all_rows: Rows) -> None:
    server.send("t", "".join(f"{n} {'word ' * (n * 37 % 300)}\n" for n in range(1, 701)))
    page.goto(server.url("t", "#L350"))
    page.keyboard.press("w")
    expect(page.locator('.row[data-offset="350"]')).to_be_in_viewport()
    assert all_rows() == [(line["offset"], line["message"]) for line in server.lines("t")]
