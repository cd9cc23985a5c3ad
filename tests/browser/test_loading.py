"""The page while its models are read: how far they are, what is written meanwhile, and a file that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from anygpt_demo.errors import BadCheckpoint
from anygpt_demo.loading import Loading
from tests.browser.stage import Stage
from tests.browser.test_access import faults
from tests.browser.test_page import WAIT_MS, finished, say

pytestmark = pytest.mark.browser
FILES = [("llm", f"model-{number:05d}-of-00002.safetensors", 7_000_000_000) for number in (1, 2)]
PLACES = "() => ['#chat', '#status', '.composer'].map((one) => JSON.stringify(document.querySelector(one).getBoundingClientRect()))"


@pytest.fixture
def reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Loading, Stage]]:
    """A page whose models are not there yet."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", os.environ.get("GRADIO_TEMP_DIR", ""))  # as it was, afterwards
    loading = Loading()
    loading.expect(FILES)
    stage = Stage(tmp_path, loading=loading)
    yield loading, stage
    loading.there.set()
    loading.done.set()
    stage.close()


def visit(browser: Browser, stage: Stage, width: int = 1200) -> Page:
    page = browser.new_context(viewport={"width": width, "height": 800}).new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(stage.url)
    page.wait_for_selector(".composer[data-state=idle]")
    return page


def test_files_are_told_and_messages_are_answered_afterwards(browser: Browser, reading: tuple[Loading, Stage]) -> None:
    loading, stage = reading
    page = visit(browser, stage, 360)
    expect(page.locator("#loading")).to_contain_text("Reading the models")
    loading.watch("llm", FILES[0][1], False, 3_500_000_000)
    expect(page.locator("#loading")).to_contain_text("Checking file 1 of 2")
    expect(page.locator("#loading")).to_contain_text("3.5 of 14.0 GB")
    expect(page.locator("#told")).to_have_text("Checking file 1 of 2")
    expect(page.locator("#told")).to_have_attribute("aria-live", "polite")
    expect(page.locator("#top .dot")).to_have_attribute("aria-label", "Parts are loading")
    heights = [page.locator(name).bounding_box() for name in ("#loading .loading", "#status .status")]
    assert heights[0] and heights[1] and abs(heights[0]["y"] - heights[1]["y"]) < 1
    say(page, "are you there?")
    expect(page.locator("#chat .refusal.waiting")).to_contain_text("Your message is kept.")
    for number in (1, 2):
        for checked in (False, True):
            loading.watch("llm", FILES[number - 1][1], checked, 7_000_000_000 // (2 if checked else 1))
    expect(page.get_by_role("progressbar", name="Reading the models")).to_have_attribute("value", "75")
    expect(page.locator("#told")).to_have_text("Reading file 2 of 2")
    assert not faults(page) and page.evaluate("document.documentElement.scrollWidth") <= 360
    before = page.evaluate(PLACES)
    assert stage.actor.heard == 0
    loading.there.set()
    expect(page.locator("#chat .bot .part")).to_contain_text("You said: are you there?")
    finished(page)
    loading.done.set()
    expect(page.locator("#loading .loading")).to_have_count(0)
    assert page.evaluate(PLACES) == before
    expect(page.locator("#chat .refusal")).to_have_count(0)
    page.context.close()


def test_a_file_that_cannot_be_read_is_a_card_with_a_button(browser: Browser, reading: tuple[Loading, Stage]) -> None:
    loading, stage = reading
    broken = [
        BadCheckpoint("llm: the file model.safetensors is damaged.", "Its SHA-256 differs from the manifest.", "Fetch or unpack it again.")
    ]

    def read() -> None:
        if broken:
            raise broken.pop()

    page = visit(browser, stage)
    say(page, "hello")
    loading.begin(read, lambda: None)
    expect(page.locator("#loading .refusal")).to_contain_text("is damaged.")
    finished(page)
    expect(page.locator("#chat .refusal")).to_contain_text("is damaged.")
    assert not faults(page)
    page.locator("#loading").get_by_role("button", name="Read them again").click()
    expect(page.locator("#loading .refusal")).to_have_count(0)
    page.locator("#chat .refusal").get_by_role("button", name="Try again").click()
    expect(page.locator("#chat .bot .part")).to_contain_text("You said: hello")
    finished(page)
    page.context.close()


def test_a_message_that_waits_outlives_a_reload(browser: Browser, reading: tuple[Loading, Stage]) -> None:
    loading, stage = reading
    page = visit(browser, stage)
    say(page, "keep me")
    expect(page.locator("#chat .refusal.waiting")).to_be_visible()
    page.reload()
    page.wait_for_selector(".composer[data-state=idle]")
    expect(page.locator("#chat .user .part")).to_have_text("keep me")
    page.wait_for_timeout(3000)
    page.reload()
    page.wait_for_selector(".composer[data-state=idle]")
    loading.there.set()
    loading.done.set()
    page.locator("#chat button[name=resend]").click()
    expect(page.locator("#chat .bot .part").last).to_contain_text("You said: keep me")
    finished(page)
    page.context.close()
