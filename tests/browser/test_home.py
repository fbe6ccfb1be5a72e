"""The list of tasks."""

import re

from conftest import Complaints, Server
from playwright.sync_api import Page, expect


def test_the_list_is_live(server: Server, page: Page) -> None:
    page.goto(f"http://{server.http}/")
    expect(page.locator("#empty")).to_contain_text("No task has printed yet")
    running = server.sender("alpha", "--name", "the first")
    running.write("one\ntwo\n")
    row = page.locator("tbody tr", has_text="alpha")
    expect(row).to_contain_text("running")
    expect(row).to_contain_text("the first")
    # The row stays the same element while its text changes.
    page.evaluate("document.querySelector('tbody tr').kept = true")
    running.close()
    expect(row).to_contain_text("succeeded")
    assert page.evaluate("document.querySelector('tbody tr').kept") is True
    assert server.run("beta", "import sys; print(1); sys.exit(4)").wait() == 4
    failed = page.locator("tbody tr.failed")
    expect(failed).to_contain_text("beta")
    expect(failed.locator("td").last).to_have_text("4")

    page.click("button[data-status=failed]")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.click("button[data-status='']")
    expect(page.locator("tbody tr")).to_have_count(2)
    page.keyboard.press("/")
    page.keyboard.type("FIRST")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.keyboard.type("x")
    expect(page.locator("#empty")).to_have_text("No task is like that.")
    page.fill("#task-text", "")
    expect(page.locator("tbody tr")).to_have_count(2)

    # By keyboard to the second task.
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.locator("#title")).to_have_text("alpha")
    page.click(".home")
    expect(page.locator("tbody tr")).to_have_count(2)


def test_a_lost_server_is_said_and_the_list_comes_back(server: Server, page: Page, complaints: Complaints) -> None:
    complaints.expected = re.compile("net::ERR_")
    server.send("t", "x\n")
    page.goto(f"http://{server.http}/")
    expect(page.locator("tbody tr")).to_have_count(1)
    server.kill()
    expect(page.locator("#connection")).to_have_text("trying again: the server does not answer")
    expect(page.locator("tbody tr")).to_have_count(1)
    server.start()
    expect(page.locator("#connection")).to_have_text("live")
