"""What the Tokens drawer lets one hear: one sound alone, its first layers, and an upload beside the model's copy of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from anygpt_demo.media import Audio
from tests.browser.stage import Stage
from tests.browser.test_page import attach, finished, say, tune

pytestmark = pytest.mark.browser
LENGTHS = "() => [...document.querySelectorAll('#tokens audio')].map((one) => one.duration)"
LAYER_S = 0.5


def layers(stuff: Any, amount: int) -> Audio:
    """A sound whose length tells how many layers it has."""
    return Audio((0.3 * np.sin(np.arange(round(amount * LAYER_S * 16_000)) / 20)).astype(np.float32), 16_000)


def lengths(page: Page, *wanted: float) -> None:
    """Wait until the players of the drawer have sounds of these lengths."""
    same = f"(wanted) => {{ const found = ({LENGTHS})(); return found.length === wanted.length"
    page.wait_for_function(same + " && wanted.every((one, at) => Math.abs(one - found[at]) < 0.1); }", arg=list(wanted))


def scrub(page: Page, amount: int, of: int, *wanted: float) -> None:
    slider = page.locator("#tokens input[name=scrub]")
    assert (slider.get_attribute("min"), slider.get_attribute("max")) == ("1", str(of))
    slider.fill(str(amount))
    expect(page.locator("#tokens figcaption").last).to_have_text(f"the first {amount} of {of} layers, AI-generated")
    expect(page.locator("#tokens output")).to_have_text(f"{amount} of {of}")
    lengths(page, *wanted, amount * LAYER_S)


def test_sounds_are_heard_alone_by_layers_and_as_the_model_hears_them(page: Page, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("speech", "music"):
        monkeypatch.setattr(stage.props[name], "layers", layers, raising=False)
    attach(page, "speech", "spoken.wav", tune(2))
    attach(page, "music", "tune.wav", tune(3))
    say(page, "listen")
    finished(page)
    page.locator("#chat .bot .ribbon .r-speech").evaluate("(one) => one.click()")
    expect(page.locator("#tokens figcaption")).to_have_text(["the reply, AI-generated"])
    lengths(page, 1.2)
    page.locator("#tokens audio").evaluate("(one) => one.play()")
    page.wait_for_function("document.querySelector('#tokens audio').currentTime > 0")
    for amount in (1, 8, 3):
        scrub(page, amount, 8, 1.2)
    for which, (sent, heard, most) in enumerate(((2.0, 2.0, 8), (3.0, 3.0, 4))):
        page.get_by_role("button", name="What the model hears").nth(which).evaluate("(one) => one.click()")
        expect(page.locator("#tokens figcaption")).to_have_text(["as you sent it", "what the model hears"])
        lengths(page, sent, heard)
        left, right = (figure.bounding_box() for figure in page.locator("#tokens figure").all())
        assert left and right and left["y"] == right["y"] and left["x"] + left["width"] <= right["x"], "side by side"
        for amount in (1, most):
            scrub(page, amount, most, sent)
