"""What the microphone hears: silence is cut away, speaking silences a reply, and a voice is recorded in the drawer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from anygpt_demo.media import Audio
from tests.browser.stage import Stage
from tests.browser.test_page import finished, say

pytestmark = pytest.mark.browser
MICROPHONE = """() => {
  const context = new AudioContext(), out = context.createMediaStreamDestination(), quiet = context.createConstantSource();
  quiet.offset.value = 0;
  quiet.connect(out);
  quiet.start();
  window.sound = (seconds) => new Promise((over) => {
    const tone = context.createOscillator(), gain = context.createGain(), from = context.currentTime + 0.1;
    gain.gain.value = 0.3;
    tone.connect(gain).connect(out);
    tone.onended = over;
    tone.start(from);
    tone.stop(from + seconds);
  });
  navigator.mediaDevices.getUserMedia = async () => { await context.resume(); return out.stream.clone(); };
}"""  # silent, but for the seconds of window.sound
PLAYED = """() => { window.pieces = []; const real = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (when) {
  const piece = { seconds: this.buffer.duration };
  window.pieces.push(piece);
  this.addEventListener('ended', () => { piece.played = this.context.currentTime - when; });
  return real.call(this, when);
}; }"""
CLOCK = "parseInt(document.querySelector('.composer-time').textContent)"  # seconds recorded so far


def test_silence_around_a_sound_is_cut_off(page: Page, stage: Stage) -> None:
    before = len(stage.props["speech"].encoded)
    page.evaluate(MICROPHONE)
    page.click(".composer-talk")
    page.wait_for_selector(".composer[data-state=recording]")
    page.wait_for_function(f"{CLOCK} >= 2")
    page.evaluate("window.sound(1)")
    over = page.evaluate(CLOCK)
    page.wait_for_function(f"{CLOCK} >= {over + 2}")
    page.click(".composer-talk")
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    heard = stage.props["speech"].encoded[before]
    assert 1.2 < heard.seconds < 2.2, "a second of sound, a quarter of a second before it and after it"
    assert np.sqrt(np.mean(heard.samples**2)) > 0.1


def test_speaking_silences_what_is_played_and_is_answered(page: Page, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    rate = 32_000

    def decode(codes: np.ndarray, **options: Any) -> Audio:
        return Audio((0.3 * np.sin(np.arange(20 * rate) / 20)).astype(np.float32), rate)

    monkeypatch.setattr(stage.props["music"], "decode", decode)
    before = len(stage.props["speech"].encoded)
    page.evaluate(MICROPHONE)
    page.evaluate(PLAYED)
    page.click(".composer-free")
    expect(page.locator(".composer-time")).to_have_text("listening")
    say(page, "play")
    finished(page)
    page.wait_for_function("window.pieces.length")
    page.evaluate("window.sound(1.5)")
    page.wait_for_function("window.pieces[0].played !== undefined")
    first = page.evaluate("window.pieces[0]")
    assert first["seconds"] > 19 and first["played"] < 15, "it was silenced long before its end"
    expect(page.locator("#chat .user .own")).to_have_text("draw a boat and sing")
    expect(page.locator("#chat .bot .said")).to_have_text("Here you are.")
    page.click(".composer-free")
    finished(page)
    expect(page.locator("#chat .user-row")).to_have_count(2)
    assert len(stage.props["speech"].encoded) == before + 1 and 1 < stage.props["speech"].encoded[before].seconds < 4


def test_a_voice_is_recorded_named_and_used(page: Page, stage: Stage) -> None:
    page.get_by_role("button", name="Voice", exact=True).click()
    drawer = page.locator("#drawer")
    drawer.get_by_role("button", name="Record", exact=True).click()
    expect(drawer.locator(".timestamps .duration")).to_have_text("0:04")
    drawer.locator(".stop-button:visible").click()
    expect(drawer).to_contain_text("What is used")
    drawer.get_by_label("Its name").fill("Grandfather")
    drawer.locator("input[type=checkbox]").check()
    page.get_by_role("button", name="Use this voice").click()
    expect(drawer.locator(".notes")).to_contain_text("Replies now speak with Grandfather (3.0 s of it).")
    expect(drawer.get_by_label("Voices")).to_have_value("Grandfather")
    page.click("[data-output=speech]")
    say(page, "hello")
    finished(page)
    voice = stage.props["speech"].voice
    assert voice.name == "Grandfather" and voice.audio.seconds == 3.0 and np.sqrt(np.mean(voice.audio.samples**2)) > 0.005
