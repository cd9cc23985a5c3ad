"""A reply that is spoken and drawn: it is heard long before it is whole, and nothing jumps while its picture forms."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from anygpt_demo.media import Picture
from anygpt_demo.selftest import EXAMPLES
from tests.browser.stage import TEXT_S, Stage
from tests.browser.test_arrival import strain
from tests.browser.test_page import WAIT_MS, attach, finished

pytestmark = pytest.mark.browser
WATCH = """() => {
  window.shift = 0; window.pictures = new Set();
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
  }).observe({ type: 'layout-shift', buffered: false });
  const composer = document.querySelector('.composer'), real = AudioBufferSourceNode.prototype.start;
  AudioBufferSourceNode.prototype.start = function (when) {
    window.first ??= { at: performance.now(), state: composer.dataset.state, picture: window.pictures.size };
    return real.call(this, when);
  };
  new MutationObserver(() => {
    if (composer.dataset.state === 'busy') window.began ??= performance.now();
    const picture = document.querySelector('#chat .bot img');
    if (picture) window.pictures.add(picture.src);
  }).observe(document.body, { childList: true, subtree: true, attributes: true, attributeFilter: ['src', 'data-state'] });
}"""
SCRIPTED_IDS = 50  # of text before the first code of speech, at most
FIRST_SOUND_S = 2  # after what is scripted


@pytest.mark.usefixtures("growing")
def test_a_reply_sounds_before_it_is_whole_and_nothing_jumps_while_its_picture_forms(
    page: Page, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = threading.Semaphore(0)

    def previews(codes: np.ndarray, seed: int = 0) -> Iterator[Picture]:
        for grey in (128, 96, 64):
            yield Picture(np.full((256, 256, 3), grey, np.uint8))
            assert seen.acquire(timeout=WAIT_MS / 1000)

    monkeypatch.setattr(stage.props["image"], "previews", previews)
    attach(page, "speech", "request.wav", (EXAMPLES / "request.wav").read_bytes())
    page.evaluate(WATCH)
    page.click(".composer-send")
    for count in (1, 2, 3):
        page.wait_for_function("(count) => window.pictures.size === count", arg=count)
        seen.release()
    finished(page)
    expect(page.locator("#chat .bot img")).to_have_count(1)
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    first = page.evaluate("window.first")
    assert first["state"] == "busy" and first["picture"] == 0, "it is heard before the picture and the end"
    assert (first["at"] - page.evaluate("window.began")) / 1000 <= SCRIPTED_IDS * TEXT_S + FIRST_SOUND_S * max(1.0, strain())
    assert page.evaluate("window.pictures.size") == 4, "three that form, and the picture"
    assert page.evaluate("window.shift") <= 0.1
