"""What somebody finds who opens the page: soon, in their language, and with words where nothing is yet."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.stage import Stage
from tests.browser.test_access import ENGLISH, LEFT
from tests.browser.test_page import WAIT_MS

pytestmark = pytest.mark.browser
OPEN_S = 4  # the page takes words after two seconds; twice that while Chromium and the server share two cores


def strain() -> float:
    """How many times longer work takes than it would if no other program ran."""
    began, used = time.perf_counter(), time.thread_time()
    while time.thread_time() - used < 0.1:
        pass
    return (time.perf_counter() - began) / (time.thread_time() - used)


def test_the_page_takes_words_soon_after_it_is_opened(browser: Browser, stage: Stage) -> None:
    page = browser.new_context().new_page()
    page.set_default_timeout(WAIT_MS)
    before = strain()
    page.goto(stage.url, wait_until="commit")
    page.fill(".composer textarea", "hello")
    page.wait_for_selector(".composer[data-state=idle] .composer-send:not([disabled])")
    took = page.evaluate("performance.now()") / 1000
    assert took <= OPEN_S * max(1.0, before, strain())
    page.context.close()


def test_a_chinese_browser_opens_the_page_in_chinese(browser: Browser, stage: Stage) -> None:
    page = browser.new_context(locale="zh-CN").new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(stage.url)
    page.wait_for_selector(".composer[data-state=idle]")
    expect(page.locator("html")).to_have_attribute("lang", "zh")
    expect(page.locator("#bar")).to_contain_text("新对话")
    expect(page.locator(".composer textarea")).to_have_attribute("placeholder", "输入文字，或按住按钮说话")
    assert not set(page.evaluate(ENGLISH)) - LEFT
    kinds = page.locator(".example small").all_text_contents()  # what goes in and out
    assert kinds and not [text for text in kinds if re.search("[A-Za-z]", text)]
    page.context.close()


def test_what_is_empty_says_how_it_is_filled(page: Page) -> None:
    expect(page.locator(".welcome")).to_contain_text("Type, hold the button and speak, or attach a file.")
    page.get_by_role("button", name="Model", exact=True).click()
    drawer = page.locator("#drawer")
    expect(drawer.locator(".grid + .smallprint")).to_have_text("From the row to the column. Each cell is a real reply.")
    drawer.get_by_role("tab", name="Tokens").click()
    expect(page.locator("#tokens")).to_have_text('Click the coloured strip below a reply, or "What the model sees" below a file of yours.')
    drawer.get_by_role("tab", name="Voice").click()
    expect(drawer).to_contain_text("Your own: a sentence or two")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Chats").click()
    expect(page.locator("#rail li")).to_have_text("Chats appear here once you have sent something.")
    page.fill("#rail input[name=search]", "boats")
    page.press("#rail input[name=search]", "Enter")
    expect(page.locator("#rail li")).to_have_text("No chat contains that.")


def test_the_settings_show_what_this_browser_has_chosen(browser: Browser, stage: Stage) -> None:
    page = browser.new_context(locale="en-US").new_page()
    page.set_default_timeout(WAIT_MS)
    for language, colours in (("English", "As the system"), ("English", "Dark")):
        page.goto(stage.url)
        page.wait_for_selector(".composer[data-state=idle]")
        page.get_by_role("button", name="Settings", exact=True).click()
        drawer = page.locator("#drawer")
        expect(drawer.get_by_label(language, exact=True)).to_be_checked()
        expect(drawer.get_by_label(colours, exact=True)).to_be_checked()
        drawer.get_by_label("Dark", exact=True).check()
        expect(page.locator("body")).to_have_class(re.compile("dark"))
    page.context.close()
