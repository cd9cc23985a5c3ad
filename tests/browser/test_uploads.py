"""Files that do not arrive: each has a card that says why, and a button that goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser.stage import Stage
from tests.browser.test_access import ENGLISH, faults
from tests.browser.test_page import WAIT_MS, attach, finished, png, say, tune

pytestmark = pytest.mark.browser
MB = 1024 * 1024


@pytest.fixture
def visitor(browser: Browser, stage: Stage) -> Iterator[Page]:
    """Somebody on a phone whose network may fail: what the browser says about that is no fault."""
    context = browser.new_context(viewport={"width": 360, "height": 740})
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(stage.url)
    page.wait_for_selector(".composer[data-state=idle]")
    yield page
    context.close()


def large(folder: Path, name: str, size: int) -> Path:
    path = folder / name
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_a_file_that_is_too_large_is_told_the_true_limit(page: Page, tmp_path: Path) -> None:
    page.locator(".composer-file").set_input_files([large(tmp_path, "sky.png", 64 * MB + 1), large(tmp_path, "sea.png", 70 * MB)])
    cards = page.locator(".composer-note .refusal")
    expect(cards).to_have_count(2)
    expect(cards.first).to_contain_text("sky.png is too large.It has 64.1 MB; the limit is 64 MB. Save it smaller, for instance as JPEG.")
    expect(page.locator(".composer-tray .chip")).to_have_count(0)
    assert not faults(page)
    with page.expect_file_chooser() as chooser:
        cards.first.get_by_role("button", name="Choose another file").click()
    assert chooser.value.is_multiple()
    chooser.value.set_files([{"name": f"{name}.png", "mimeType": "image/png", "buffer": png()} for name in ("one", "two")])
    expect(page.locator(".chip-image:not(.pending)")).to_have_count(2)
    expect(cards).to_have_count(0)
    say(page, "what are these")
    finished(page)
    expect(page.locator("#chat .user .tag")).to_have_text(["Picture", "Picture"])


def test_a_public_page_takes_smaller_files(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    stage = Stage(tmp_path, public=True)
    page = browser.new_context(locale="zh-CN").new_page()
    try:
        page.goto(stage.url)
        page.wait_for_selector(".composer[data-state=idle]")
        with page.expect_file_chooser() as chooser:
            page.click("[data-attach=music]")
        chooser.value.set_files(str(large(tmp_path, "long.wav", 20 * MB + MB // 2)))
        card = page.locator(".composer-note .refusal")
        expect(card).to_contain_text("long.wav 太大了。它有 20.5 MB；上限是 20 MB。 请剪短，或存为 FLAC 或 MP3。")
        expect(card.locator("button")).to_have_text("选择另一个文件")
        assert not [text for text in page.evaluate(ENGLISH) if "20" in text or "large" in text]
        with page.expect_file_chooser() as chooser:
            page.click("[data-attach=music]")
        chooser.value.set_files(str(large(tmp_path, "short.wav", 20 * MB - 1000)))
        page.wait_for_selector(".chip-music:not(.pending)")
        expect(card).to_have_count(0)
    finally:
        page.context.close()
        stage.close()


@pytest.mark.parametrize("how", ["refused", "cut"])
def test_an_upload_that_fails_can_be_tried_again(visitor: Page, how: str) -> None:
    def fail(route: Route) -> None:
        route.abort() if how == "cut" else route.fulfill(status=413, body="no")

    visitor.route("**/upload*", fail)
    with visitor.expect_file_chooser() as chooser:
        visitor.click("[data-attach=music]")
    chooser.value.set_files({"name": "tune.wav", "mimeType": "audio/wav", "buffer": tune(1)})
    card = visitor.locator(".composer-note .refusal")
    expect(card).to_contain_text("tune.wav was not uploaded.The server did not take it, or the network is gone. Try again.")
    expect(visitor.locator(".composer-tray .chip")).to_have_count(0)
    expect(visitor.locator(".toast-body")).to_have_count(0)
    assert not faults(visitor)
    card.get_by_role("button", name="Try again").click()
    expect(card).to_have_count(1)
    visitor.unroute("**/upload*")
    card.get_by_role("button", name="Try again").click()
    visitor.wait_for_selector(".chip-music:not(.pending)")
    expect(visitor.locator(".composer-note")).to_be_hidden()
    attach(visitor, "image", "orange.png", png())
    say(visitor, "what are these")
    finished(visitor)
    expect(visitor.locator("#chat .user .tag")).to_have_text(["Music", "Picture"])
