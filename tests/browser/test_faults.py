"""What goes wrong around a page, and what it says then."""

import json
import re
import time

from conftest import Complaints, Server, until
from playwright.sync_api import BrowserContext, Page, Route, expect
from test_log import numbered, see

HIDE = """(state) => {
  Object.defineProperty(document, 'visibilityState', { configurable: true, get: () => state });
  document.dispatchEvent(new Event('visibilitychange'));
}"""


def test_a_hidden_page_gives_its_connection_back_and_goes_on(server: Server, page: Page) -> None:
    sender = server.sender("t")
    sender.write(numbered(1, 10))
    page.goto(server.url("t"))
    expect(page.locator("#connection")).to_have_text("live")
    page.evaluate(HIDE, "hidden")
    expect(page.locator("#connection")).to_have_text("paused while hidden")
    sender.write(numbered(11, 20))
    with page.expect_request(re.compile("/logs/stream")) as again:
        page.evaluate(HIDE, "visible")
    assert again.value.headers["last-event-id"].endswith("-10")
    see(page, 20, "line 20")
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator(".row.line")).to_have_count(20)


def test_a_frozen_server_is_not_live(server: Server, page: Page) -> None:
    server.send("t", "x\n")
    page.goto(f"http://{server.http}/")
    expect(page.locator("#connection")).to_have_text("live")
    held: list[Route] = []
    is_frozen = [True]
    page.route(re.compile("/api/v1/tasks"), lambda route: held.append(route) if is_frozen[0] else route.continue_())
    expect(page.locator("#connection")).to_have_text(re.compile(r"no answer for \d+ s; too many open tabs"))
    is_frozen[0] = False
    for route in held:
        route.continue_()
    expect(page.locator("#connection")).to_have_text("live")


def test_a_page_that_gets_no_connection_says_so(server: Server, page: Page) -> None:
    held: list[Route] = []
    page.route(re.compile("/logs/stream"), lambda route: held.append(route))
    page.goto(server.url("t"))
    expect(page.locator("#connection")).to_have_text("no answer; too many open tabs of this server?")
    held[0].abort("aborted")
    page.unroute_all(behavior="ignoreErrors")


def test_what_answers_instead_is_said_and_not_hammered(server: Server, page: Page, complaints: Complaints) -> None:
    complaints.expected = re.compile("Failed to load resource|net::ERR")
    asked: list[float] = []

    def portal(route: Route) -> None:
        asked.append(time.monotonic())
        route.fulfill(status=200, content_type="text/html", body="<h1>Sign in</h1>")

    page.route(re.compile("/api/"), portal)
    page.goto(server.url("t"))
    expect(page.locator("#empty-log")).to_have_text("what answers is not FlowForge Logs: it sent text/html")
    page.unroute_all()
    page.route(re.compile("/logs/stream"), lambda route: (asked.append(time.monotonic()), route.fulfill(content_type="text/event-stream", body=": hi\n\n")))
    asked.clear()
    page.reload()
    # Each wait is longer, although each connection opens.
    until(lambda: bool(page.wait_for_timeout(50) or len(asked) >= 4))
    waits = [after - before for before, after in zip(asked, asked[1:])]
    assert waits[-1] > 0.8, waits
    page.unroute_all()
    page.route(re.compile("/logs/stream"), lambda route: route.fulfill(status=503, content_type="application/problem+json", body=json.dumps({"detail": "the store is away"})))
    expect(page.locator("#empty-log")).to_have_text("the store is away")


def test_an_invalid_id_is_not_waited_for(server: Server, page: Page, complaints: Complaints) -> None:
    complaints.expected = re.compile("400")
    page.goto(f"http://{server.http}/?task=a%20b")
    expect(page.locator("#connection")).to_have_text(re.compile("refused: "))
    expect(page.locator("#empty-log")).not_to_contain_text("Nobody has printed")


def test_a_log_that_begins_anew_is_shown(server: Server, page: Page, complaints: Complaints) -> None:
    complaints.expected = re.compile("net::ERR_")
    server.sender("t").write(numbered(1, 400))
    page.goto(server.url("t"))
    see(page, 400, "line 400")
    server.stop()
    for file in server.folder.glob("flowforge.db*"):
        file.unlink()
    server.start()
    server.sender("t").write("another log\n")
    see(page, 1, "another log")
    expect(page.locator(".row.line")).to_have_count(1)


def test_a_filtered_page_sees_a_second_run(server: Server, page: Page) -> None:
    server.send("t", "needle 1\n")
    page.goto(server.url("t", "&q=needle"))
    expect(page.locator("#connection")).to_have_text("ended")
    server.send("t", "needle 2\n")
    see(page, 3, "needle 2")


def test_long_lines_are_all_loaded(server: Server, page: Page) -> None:
    server.send("t", "".join(f"{n} {'x' * 60_000}\n" for n in range(1, 601)))
    page.goto(server.url("t", "#L257"))
    for offset in (257, 500, 300):
        page.evaluate(f"location.hash = '#L{offset}'")
        expect(page.locator(f'.row[data-offset="{offset}"] .text')).to_contain_text(f"{offset} xxx")
    expect(page.locator(".row.gap")).to_have_count(0)


def test_a_fling_is_no_drag_of_the_bar(server: Server, page: Page) -> None:
    server.send("t", numbered(1, 500_000))
    page.goto(server.url("t", "#L250000"))
    see(page, 250_000, "line 250000")
    pane = page.locator("#pane")
    before = int(page.evaluate("document.elementFromPoint(300, 300).closest('.row').dataset.offset"))
    pane.evaluate("(pane) => { pane.scrollTop += 3000 }")
    see(page, before + 150, f"line {before + 150}")
    assert abs(int(page.evaluate("document.elementFromPoint(300, 300).closest('.row').dataset.offset")) - before - 150) <= 1


def test_keys_of_a_log(server: Server, page: Page) -> None:
    server.send("t", numbered(1, 300))
    page.goto(server.url("t", "&q=line%2012"))
    see(page, 12, "line 12")
    # Back leads from the context to the matches.
    assert page.locator('.row[data-offset="120"] .no').get_attribute("title") == "show it among its neighbours"
    page.click('.row[data-offset="120"] .no')
    see(page, 121, "line 121")
    page.keyboard.press("n")
    expect(page.locator(".row.marked")).to_have_attribute("data-offset", "121")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("N")
    expect(page.locator(".row.marked")).to_have_attribute("data-offset", "122")
    page.keyboard.press("y")
    expect(page.locator("#hint")).to_contain_text("address of line 122")
    page.go_back()
    expect(page.locator("#q")).to_have_value("line 12")
    expect(page.locator(".row.line")).to_have_count(11)
    page.keyboard.press("Escape")
    expect(page.locator("#q")).to_have_value("")
    page.keyboard.press("g")
    see(page, 1, "line 1")
    page.keyboard.press("Space")
    expect(page.locator('.row[data-offset="1"]')).not_to_be_in_viewport()
    page.keyboard.press("Shift+Space")
    expect(page.locator('.row[data-offset="1"]')).to_be_in_viewport()
    page.keyboard.press("u")
    expect(page.locator("tbody tr")).to_have_count(1)


def test_the_address_of_the_list_holds_its_filters(server: Server, page: Page, context: BrowserContext) -> None:
    server.send("alpha", "x\n")
    server.send("beta", "x\n", "--name", "a \u202efdp.exe")
    page.goto(f"http://{server.http}/?text=beta&status=succeeded&colour=red")
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("td.name")).to_have_text("a U+202Efdp.exe")
    expect(page.locator("td.number").first).to_have_text("1")
    expect(page.locator("button[data-status=succeeded]")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#hint")).to_contain_text("colour")
    page.fill("#task-text", "alph")
    expect(page.locator("td.task")).to_have_text("alpha")
    page.reload()
    expect(page.locator("td.task")).to_have_text("alpha")


def test_odd_characters_have_names(server: Server, page: Page) -> None:
    assert server.run("t", r"import sys; sys.stdout.write('dos\r\nnul \x00 bell \x07\n\x1b[7;31mreverse\x1b[0m\n')").wait() == 0
    page.goto(server.url("t", "#L99"))
    expect(page.locator(".row.line .text").first).to_have_text("dos")
    expect(page.locator('.row[data-offset="2"] .text')).to_have_text("nul NUL bell BEL")
    expect(page.locator(".row .b1")).to_have_text("reverse")
    expect(page.locator("#hint")).to_have_text("there is no line 99: the log ends at 4")
