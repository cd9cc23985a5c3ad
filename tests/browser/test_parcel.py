"""A saved chat without the program: the page in the zip, opened as a file by a browser that has no network."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.test_page import WAIT_MS, attach, finished, png, say

pytestmark = pytest.mark.browser


def test_the_saved_page_shows_and_plays_without_a_network(page: Page, browser: Browser, tmp_path: Path) -> None:
    attach(page, "image", "orange.png", png())
    say(page, "draw and speak")
    finished(page)
    page.get_by_role("button", name="Chats").click()
    with page.expect_download() as parcel:
        page.get_by_role("button", name="Save this chat").click()
    with zipfile.ZipFile(str(parcel.value.path())) as file:
        file.extract("index.html", tmp_path)
    context = browser.new_context(offline=True)
    saved = context.new_page()
    saved.set_default_timeout(WAIT_MS)
    asked: list[str] = []
    saved.on("request", lambda request: asked.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
    saved.goto((tmp_path / "index.html").as_uri())
    expect(saved.locator("section.human")).to_contain_text("draw and speak")
    assert saved.locator("img").evaluate_all("all => all.map((one) => one.naturalWidth)") == [64, 256]
    saved.wait_for_function("Math.abs(document.querySelector('audio').duration - 3) < 0.1")
    expect(saved.locator("audio")).to_have_count(1)
    assert not asked
    context.close()
