"""A million lines: each is reached, and few are in the document."""

from conftest import Server
from playwright.sync_api import Page
from test_log import see

LINES = 1_000_000
MOST_ROWS = 300


def test_any_line_of_a_million_is_reached(server: Server, page: Page) -> None:
    server.send("t", "".join(f"this is line {n} of many\n" for n in range(1, LINES + 1)))
    counts = []

    def check(offset: int) -> None:
        see(page, offset, f"this is line {offset} of many")
        counts.append(page.locator(".row").count())

    page.goto(server.url("t"))
    check(LINES)
    page.keyboard.press("g")
    check(1)
    page.evaluate("location.hash = '#L500000'")
    check(500_000)
    # As by dragging the scroll bar: to its middle, to both ends.
    pane = "document.getElementById('pane')"
    bar = f"{pane}.dispatchEvent(new PointerEvent('%s', {{ bubbles: true, buttons: %d, clientX: innerWidth }}))"
    page.evaluate(bar % ("pointerdown", 1))
    for share in (0.5, 0.25, 0.999):
        page.evaluate(f"{pane}.scrollTop = ({pane}.scrollHeight - {pane}.clientHeight) * {share}")
        near = round(LINES * share)
        page.wait_for_function(
            """(near) => [...document.querySelectorAll('.row.line')].some((row) => Math.abs(row.dataset.offset - near) < 1500)""",
            arg=near,
        )
        offset = int(page.evaluate("document.elementFromPoint(300, 400).closest('.row').dataset.offset"))
        check(offset)
    page.evaluate(f"{pane}.scrollTop = 0")
    check(1)
    page.evaluate(f"{pane}.scrollTop = {pane}.scrollHeight")
    check(LINES)
    page.evaluate(bar % ("pointerup", 0))
    # Small steps are exact: what one scrolls is what the rows move.
    page.evaluate("location.hash = '#L700000'")
    check(700_000)
    top = page.locator('.row[data-offset="700000"]').bounding_box()["y"]
    page.hover("#pane")
    for step in (1, 2, 3):
        page.mouse.wheel(0, 200)
        page.wait_for_function(
            """([offset, top]) => {
              const row = document.querySelector(`.row[data-offset="${offset}"]`);
              return row && Math.abs(row.getBoundingClientRect().top - top) < 1;
            }""",
            arg=[700_000 + 10 * step, top],
        )
        check(700_000 + 10 * step)
    assert max(counts) <= MOST_ROWS, counts
    print("rows in the document:", max(counts))
