"""What a log may hold, and a page must bear."""

from conftest import Server
from playwright.sync_api import Page, expect

LINES = r"""
import sys
def say(text): sys.stdout.write(text + "\n")
say("<script>window.ran = 1; alert(1)</script><img src=x onerror=alert(2)><svg onload=alert(3)>")
say("</span></div><iframe src=javascript:alert(4)></iframe>&lt;")
say("\x1b[31mred\x1b[0m plain \x1b]52;c;aGVsbG8=\x07\x1b[2J\x1b[10;10Hmoved")
say("\x1b]8;;https://example.com/x\x1b\\good\x1b]8;;\x1b\\ \x1b]8;;javascript:alert(5)\x1b\\bad\x1b]8;;\x07")
say("open \u202eexe.gnp\u202c end \u2066x")
say("\x1b[38;2;1;2;300m\x1b[99999999999m\x1b[;;;m\x1b[38;5m\x1b[48;2mstill text")
say("A" * 1_000_000)
say("\x1b]0;" + "B" * 1_000_000)
say("\x1b[" + "1;" * 500_000 + "mC")
say("\x1b]8;;" * 200_000 + "D")
say("style='x' \" onmouseover=alert(6) x=\"")
say("last")
"""


def test_hostile_lines_are_text(server: Server, page: Page) -> None:
    assert server.run("t", LINES).wait() == 0
    page.goto(server.url("t"))
    expect(page.locator("#connection")).to_have_text("ended")
    text = page.locator(".row.line .text")
    expect(text).to_have_count(13)
    shown = text.all_inner_texts()
    assert shown[0] == "<script>window.ran = 1; alert(1)</script><img src=x onerror=alert(2)><svg onload=alert(3)>"
    assert shown[1] == "</span></div><iframe src=javascript:alert(4)></iframe>&lt;"
    assert shown[2] == "red plain moved"
    assert shown[3] == "good bad"
    assert shown[4] == "open U+202Eexe.gnpU+202C end U+2066x"
    assert shown[5] == "still text"
    assert shown[6].startswith("A" * 4000) and len(shown[6]) < 4100
    assert shown[7].startswith("0;" + "B" * 3998)
    assert shown[8] == "C"
    assert shown[9].endswith("D") or shown[9].startswith("8;;")
    assert shown[10] == "style='x' \" onmouseover=alert(6) x=\""
    assert shown[11] == "last"
    assert page.evaluate("window.ran") is None
    assert page.locator("#pane :is(script, img, svg, iframe)").count() == 0
    links = page.locator("#pane .text a")
    expect(links).to_have_count(1)
    assert links.get_attribute("href") == "https://example.com/x"
    assert "noopener" in (links.get_attribute("rel") or "")
    assert page.locator(".row .f1").inner_text() == "red"


def test_a_long_line_is_joined_and_shown_on_request(server: Server, page: Page) -> None:
    server.send("t", "before\n" + "x" * 99_999 + "END\nafter\n")
    page.goto(server.url("t"))
    # Two parts on the wire, one row here; the number of the second part is the first's.
    expect(page.locator(".row.line")).to_have_count(4)
    assert page.evaluate("[...document.querySelectorAll('.row')].map((row) => row.dataset.offset)") == ["1", "2", "4", "5"]
    long = page.locator('.row[data-offset="2"]')
    long.locator("button").click()
    expect(long.locator("button")).to_be_visible()
    long.locator("button").click()
    expect(long.locator("button")).to_have_count(0)
    assert len(long.locator(".text").inner_text()) == 100_002
    page.goto(server.url("t", "#L3"))
    page.reload()
    expect(page.locator(".row.marked")).to_have_attribute("data-offset", "2")
