"""The page on a phone: a small screen, and fingers in the place of a mouse."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.stage import Stage
from tests.browser.test_listening import CLOCK
from tests.browser.test_page import WAIT_MS, finished

pytestmark = pytest.mark.browser
PLAYERS = """() => { window.players = []; const real = HTMLMediaElement.prototype.play;
HTMLMediaElement.prototype.play = function () { window.players.push(this); return real.call(this); }; }"""


@pytest.fixture
def phone(browser: Browser, stage: Stage) -> Iterator[Page]:
    """A fresh visitor with a phone."""
    screen = {"width": 390, "height": 844}
    context = browser.new_context(viewport=screen, has_touch=True, is_mobile=True, permissions=["microphone"])  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(stage.url)
    page.wait_for_selector(".composer[data-state=idle]")
    yield page
    context.close()


def test_a_finger_holds_to_talk_and_plays_the_reply(phone: Page, stage: Stage) -> None:
    before = len(stage.props["speech"].encoded)
    phone.evaluate(PLAYERS)
    box = phone.locator(".composer-talk").bounding_box()
    assert box is not None and min(box["width"], box["height"]) >= 44, "large enough for a finger"
    spot = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    finger = phone.context.new_cdp_session(phone)
    finger.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [spot]})
    phone.wait_for_selector(".composer[data-state=recording]")
    finger.send("Input.dispatchTouchEvent", {"type": "touchCancel", "touchPoints": []})
    phone.wait_for_selector(".composer[data-state=idle]")
    assert phone.locator("#chat .user").count() == 0, "what the system breaks off is not sent"
    finger.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [spot]})
    phone.wait_for_selector(".composer[data-state=recording]")
    phone.wait_for_function(f"{CLOCK} >= 2")
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    phone.wait_for_selector(".composer[data-state=busy]")
    finished(phone)
    expect(phone.locator("#chat .user .own")).to_have_text("draw a boat and sing")
    assert len(stage.props["speech"].encoded) == before + 1 and stage.props["speech"].encoded[before].seconds > 0.5
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    phone.locator("#chat .bot .play-btn").tap()
    phone.wait_for_function("window.players.length === 1 && window.players[0].currentTime > 0.1")
