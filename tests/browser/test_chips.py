"""What the chips ask for, and talking without hands: what is heard, what is played, and which microphone is opened."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.stage import Stage
from tests.browser.test_live import PLAYED, SILENCE
from tests.browser.test_page import attach, finished, png, say

pytestmark = pytest.mark.browser
ASKED = """() => { window.asked = []; const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = (wish) => { window.asked.push(wish.audio); return real(wish); }; }"""
COUNTED = """() => { window.submits = 0; new MutationObserver((list) => {
  for (const { addedNodes } of list) for (const node of addedNodes) if (node.nodeType === 1)
    window.submits += node.matches('.user-row') + node.querySelectorAll('.user-row').length;
}).observe(document.querySelector('#chat'), { subtree: true, childList: true }); }"""


def press_chip(page: Page, name: str) -> None:
    page.click(f"[data-output={name}]")
    expect(page.locator(f"[data-output={name}]")).to_have_attribute("aria-pressed", "true")


def test_draw_and_describe(page: Page, stage: Stage) -> None:
    press_chip(page, "image")
    say(page, "hello")
    finished(page)
    expect(page.locator("#chat .bot img")).to_have_count(1)
    press_chip(page, "text")
    say(page, "draw hello")
    finished(page)
    expect(page.locator("#chat .bot .part").last).to_contain_text("I see your words.")
    assert stage.actor.grammar.open_to == ()


def test_transcribe(page: Page, stage: Stage) -> None:
    press_chip(page, "heard")
    page.click(".composer-talk")
    page.wait_for_selector(".composer[data-state=recording]")
    page.wait_for_timeout(1500)
    page.click(".composer-talk")
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    expect(page.locator("#chat .user .own")).to_have_text("draw a boat and sing")
    assert stage.actor.grammar.transcribe


def test_speech_only_folds_its_words(page: Page, stage: Stage) -> None:
    press_chip(page, "spoken")
    say(page, "hello")
    finished(page)
    assert stage.actor.forced == "speech" and stage.actor.grammar.open_to == ("speech",)
    expect(page.locator("#chat .bot .tag")).to_have_text("Speech")
    expect(page.locator("#chat .bot .said")).to_be_hidden()
    page.locator("#chat .bot .fold summary").click()
    expect(page.locator("#chat .bot .said")).to_have_text("As you wish:")
    page.locator("#chat button[name=retry]").click(force=True)
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    expect(page.locator("#chat .bot .said")).to_be_hidden()


def test_silent_forbids_every_sound(page: Page, stage: Stage) -> None:
    press_chip(page, "silent")
    say(page, "draw")
    finished(page)
    assert stage.actor.forced is None and stage.actor.grammar.open_to == ("image",)
    expect(page.locator("#chat .bot img")).to_have_count(1)
    say(page, "hello")
    finished(page)
    assert stage.actor.grammar.open_to == ("image", "speech", "music")


def test_hands_free_answers_aloud_and_still_draws(page: Page, stage: Stage) -> None:
    page.evaluate(SILENCE)
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("Play sounds while they are made").uncheck()
    page.wait_for_timeout(1000)
    page.keyboard.press("Escape")
    page.click(".composer-free")
    expect(page.locator(".composer-time")).to_have_text("listening")
    say(page, "draw a dog")
    finished(page)
    expect(page.locator("#chat .bot img")).to_have_count(1)
    expect(page.locator("#chat .bot .tag")).to_have_text(["Picture", "Speech"])
    expect(page.locator("#chat .bot .said")).to_contain_text("You said: draw a dog")
    expect(page.locator("#chat .bot .part")).to_have_count(1)
    assert page.evaluate(PLAYED) == 1
    expect(page.locator(".composer-time")).to_have_text("listening")
    press_chip(page, "text")
    say(page, "hello")
    finished(page)
    assert page.evaluate(PLAYED) == 1
    page.locator("#chat button[name=retry]").nth(0)
    page.click(".composer-free")
    expect(page.locator(".composer-time")).to_have_text("")
    say(page, "quiet again")
    finished(page)
    assert page.evaluate(PLAYED) == 1


def test_the_round_button_ends_hands_free_listening(page: Page, stage: Stage) -> None:
    before = len(stage.props["speech"].encoded)
    page.evaluate(COUNTED)
    page.click(".composer-free")
    expect(page.locator(".composer-free")).to_have_attribute("aria-pressed", "true")
    page.click(".composer-talk")
    page.wait_for_selector(".composer[data-state=recording]")
    expect(page.locator(".composer-free")).to_have_attribute("aria-pressed", "false")
    page.wait_for_timeout(6000)  # a sentence and its pause: listening would send it
    page.click(".composer-talk")
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    page.wait_for_timeout(1000)
    assert len(stage.props["speech"].encoded) == before + 1
    assert page.locator("#chat .user-row").count() == 1


def test_recording_is_raw_and_its_level_is_seen(page: Page) -> None:
    page.evaluate(ASKED)
    page.evaluate(
        """() => { window.levels = new Set(); const talk = document.querySelector('.composer-talk');
        setInterval(() => window.levels.add(talk.style.getPropertyValue('--level')), 30); }"""
    )
    page.click(".composer-talk")
    page.wait_for_selector(".composer[data-state=recording]")
    page.wait_for_function("window.levels.size > 4")
    page.keyboard.press("Escape")
    assert page.evaluate("window.asked") == [
        {"channelCount": 1, "echoCancellation": False, "noiseSuppression": False, "autoGainControl": False}
    ]


def test_a_page_without_https_says_why_nothing_is_heard(page: Page) -> None:
    page.evaluate("() => Object.defineProperty(navigator, 'mediaDevices', { value: undefined })")
    page.get_by_role("button", name="Settings", exact=True).click()
    page.locator("button[name=check]").click()
    expect(page.locator(".mic-told")).to_contain_text("The microphone needs HTTPS or this computer itself (localhost).")
    page.keyboard.press("Escape")
    page.evaluate("() => document.querySelector('.composer-talk').click()")
    expect(page.locator(".composer-note")).to_contain_text("The microphone needs HTTPS")


def test_the_first_touch_lets_the_page_sound(page: Page) -> None:
    page.evaluate(
        """() => { window.woken = 0; const real = AudioContext.prototype.resume;
        AudioContext.prototype.resume = function () { window.woken += 1; return real.call(this); };
        Object.defineProperty(AudioContext.prototype, 'state', { get: () => 'suspended' }); }"""
    )
    page.click(".composer textarea")
    assert page.evaluate("window.woken") >= 1


def test_an_attached_sound_is_read_as_the_other_kind(page: Page, stage: Stage) -> None:
    from tests.browser.test_page import tune

    before = len(stage.props["speech"].encoded)
    attach(page, "image", "orange.png", png())
    expect(page.locator(".chip-kind")).to_have_count(0)
    attach(page, "music", "tune.wav", tune(2))
    page.get_by_role("button", name="As speech: tune.wav").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".chip-speech")).to_contain_text("Speech: tune.wav")
    expect(page.get_by_role("button", name="As music: tune.wav")).to_be_focused()
    page.click(".composer-send")
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    assert len(stage.props["speech"].encoded) == before + 1
