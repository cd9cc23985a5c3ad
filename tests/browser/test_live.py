"""Sound while it is made, hands-free talking, the self-test, and what the page says when something fails."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from anygpt_demo import selftest
from anygpt_demo.chat import Chat
from anygpt_demo.errors import BadText
from tests.browser.stage import Stage
from tests.browser.test_access import faults
from tests.browser.test_page import attach, finished, png, say, tune

pytestmark = pytest.mark.browser
SILENCE = """() => { navigator.mediaDevices.getUserMedia = async () => {
  const context = new AudioContext(), out = context.createMediaStreamDestination(), quiet = context.createGain();
  quiet.gain.value = 0;
  quiet.connect(out);
  return out.stream;
}; }"""
OWN_RATE = """() => { const Real = window.AudioContext; window.AudioContext = function (options) {
  if (options?.sampleRate === 16000) throw new DOMException('no', 'NotSupportedError');
  return new Real(options);
}; }"""
PLAYED = "document.querySelector('.composer').api.played"


def test_sounds_are_played_when_they_are_made_unless_unwanted(page: Page) -> None:
    say(page, "play")
    finished(page)
    page.wait_for_function(f"{PLAYED} === 1")
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("Play sounds while they are made").uncheck()
    page.wait_for_timeout(1000)
    say(page, "play")
    finished(page)
    assert page.evaluate(PLAYED) == 1


MARKS = """() => { window.marks = []; setInterval(() => {
  const word = [...(CSS.highlights.get('spoken') || [])].map(String)[0];
  if (word && word !== window.marks.at(-1)) window.marks.push(word);
}, 10); }"""


def marked(page: Page) -> None:
    """Words were marked one after the other, up to the last. A busy machine may look too late to see one that is not the last."""
    page.wait_for_function("window.marks.at(-1) === 'wish:'")
    page.wait_for_function("!CSS.highlights.has('spoken')")
    marks = page.evaluate("window.marks")
    assert marks == [word for word in ("As", "you", "wish:") if word in marks] and len(marks) > 1


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_the_word_that_is_said_is_marked_and_nothing_else_changes(page: Page, motion: str) -> None:
    page.emulate_media(reduced_motion=motion)  # type: ignore[arg-type]
    page.evaluate(MARKS)
    page.click("[data-output=speech]")
    say(page, "slowly")
    finished(page)
    words = page.locator("#chat .said")
    expect(words).to_have_text("As you wish:")
    marked(page)  # while it was made
    page.evaluate("""() => { window.marks = []; window.changes = 0; new MutationObserver((list) => { window.changes += list.length; })
        .observe(document.querySelector('#chat .said').closest('.under'), {subtree: true, childList: true, attributes: true}); }""")
    page.locator("#chat .bot .play-btn").click()
    marked(page)
    assert page.evaluate("window.changes") == 0


def test_hands_free_hears_the_end_of_speech(page: Page, stage: Stage) -> None:
    before = len(stage.props["speech"].encoded)
    page.click(".composer-free")
    expect(page.locator(".composer-free")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#chat .bot .tag-speech").first).to_be_visible()
    page.click(".composer-free")
    heard = stage.props["speech"].encoded[before]
    assert 1 < heard.seconds < 15


def test_speaking_interrupts_a_reply(page: Page) -> None:
    say(page, "a long answer")
    page.click(".composer-free")
    expect(page.locator("#status")).to_contain_text("Stopped")
    page.click(".composer-free")
    finished(page)


def test_the_microphone_is_checked_in_words(page: Page) -> None:
    page.get_by_role("button", name="Settings", exact=True).click()
    page.locator("button[name=check]").click()
    expect(page.locator(".mic-told")).to_contain_text(re.compile("The microphone (works|is too loud)"))
    page.evaluate("() => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('no', 'NotFoundError')); }")
    page.locator("button[name=check]").click()
    expect(page.locator(".mic-told")).to_contain_text("There is no microphone")


def test_silence_is_cut_off_and_not_sent_alone(page: Page, stage: Stage) -> None:
    before = len(stage.props["speech"].encoded)
    page.evaluate(SILENCE)
    page.click(".composer-talk")
    page.wait_for_selector(".composer[data-state=recording]")
    page.wait_for_timeout(800)
    page.click(".composer-talk")
    expect(page.locator(".composer-note")).to_contain_text("The recording is silent")
    expect(page.locator(".composer")).to_have_attribute("data-state", "idle")
    assert len(stage.props["speech"].encoded) == before


def test_the_button_records_music_as_it_is(page: Page, stage: Stage) -> None:
    before = len(stage.props["music"].encoded)
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("Music or humming").check()
    page.keyboard.press("Escape")
    page.evaluate("() => document.querySelector('.composer-talk').click()")
    page.wait_for_selector(".composer[data-state=recording]")
    page.wait_for_timeout(1500)
    page.evaluate("() => document.querySelector('.composer-talk').click()")
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    assert len(stage.props["music"].encoded) == before + 1 and stage.props["music"].encoded[-1].rate_hz == 32_000


def test_a_browser_that_records_at_its_own_rate(page: Page, stage: Stage) -> None:
    before = len(stage.props["speech"].encoded)
    page.evaluate(OWN_RATE)
    page.click(".composer-talk")
    page.wait_for_selector(".composer[data-state=recording]")
    page.wait_for_timeout(2500)
    page.click(".composer-talk")
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    heard = stage.props["speech"].encoded[before]
    assert heard.rate_hz == 16_000 and 0.5 < heard.seconds < 6


def test_a_slash_goes_to_the_message(page: Page) -> None:
    page.get_by_role("button", name="New chat").focus()
    page.keyboard.press("/")
    page.keyboard.type("a/b")
    expect(page.locator(".composer textarea")).to_have_value("a/b")


def test_a_part_that_fails_can_be_made_anew(page: Page, stage: Stage) -> None:
    stage.props["image"].broken = True
    say(page, "draw")
    finished(page)
    expect(page.locator("#chat .refusal")).to_contain_text("The picture could not be made.")
    stage.props["image"].broken = False
    page.locator("#chat .refusal").get_by_role("button", name="Make it anew").click()
    finished(page)
    expect(page.locator("#chat .bot img")).to_have_count(1)


def test_colours_are_chosen_and_kept(page: Page) -> None:
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("Dark", exact=True).check()
    page.wait_for_function("() => document.body.classList.contains('dark')")
    page.reload()
    page.wait_for_function("() => document.body.classList.contains('dark')")


def test_the_self_test_fills_its_grid(page: Page) -> None:
    page.get_by_role("button", name="Model", exact=True).click()
    expect(page.locator("#drawer")).to_contain_text("It is not an assistant")
    page.get_by_role("button", name="Run the self-test").click()
    expect(page.locator("#drawer .grid .good, #drawer .grid .bad")).to_have_count(16)
    expect(page.locator("#drawer .grid .good")).to_have_count(16)
    expect(page.locator("#drawer")).to_contain_text(re.compile(r"16 of 16 work; at most \d+ MB"))


def test_failures_have_buttons(page: Page, stage: Stage) -> None:
    say(page, "explode once")
    finished(page)
    expect(page.locator("#chat .refusal")).to_contain_text("It was told to.")
    stage.actor.tame = True
    page.locator("#chat .refusal button[name=resend]").click()
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    stage.actor.tame = False
    expect(page.locator("#chat .bot .part").last).to_contain_text("You said: explode once")
    say(page, "a long answer")
    finished(page)
    expect(page.locator("#chat .refusal").last).to_contain_text("goes in circles")
    expect(page.locator("#chat .refusal button[name=retry]")).to_be_visible()


def test_cards_of_drawers_have_buttons(page: Page, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = tmp_path / "aunt.voice"
    recording.write_bytes(tune(4))
    page.get_by_role("button", name="Voice", exact=True).click()
    card = page.locator("#drawer .refusal:visible")
    page.get_by_role("button", name="Use this voice").click()
    expect(card).to_contain_text("not ticked")
    card.get_by_role("button", name="It is mine, or I may use it").click()
    expect(card).to_contain_text("There is no recording.")
    assert not faults(page)
    with page.expect_file_chooser() as chooser:
        card.get_by_role("button", name="Choose another file").click()
    chooser.value.set_files(str(recording))
    expect(page.locator("#drawer").get_by_label("Its name")).to_have_value("aunt")
    page.locator("#drawer input[type=checkbox]").uncheck()
    page.get_by_role("button", name="Use this voice").click()
    card.get_by_role("button", name="It is mine, or I may use it").click()
    expect(page.locator("#drawer .notes:visible").last).to_contain_text("Replies now speak with aunt")
    attach(page, "image", "orange.png", png())
    say(page, "look")
    finished(page)
    stage.props["image"].broken = True
    page.locator("#chat .user-row button[name=tokens]").first.click()
    expect(card).to_contain_text("This could not be shown.")
    stage.props["image"].broken = False
    card.get_by_role("button", name="Try again").click()
    expect(page.locator("#tokens h2")).to_contain_text("Picture: 32 tokens")
    real, asked = selftest.cell, list[str]()

    def cell(chat: Chat, source: str, target: str, seed: int = 0) -> selftest.Cell:
        asked.append(target)
        if len(asked) == 1:
            raise BadText("That was quick.", "Somebody else is here.", "Wait a little.")
        return replace(real(chat, "text", "text", seed), source=source, target=target)

    monkeypatch.setattr(selftest, "cell", cell)
    page.get_by_role("button", name="Model", exact=True).click()
    page.get_by_role("button", name="Run the self-test").click()
    expect(card).to_contain_text("Somebody else is here.")
    card.get_by_role("button", name="Run it again").click()
    expect(page.locator("#drawer .grid .good, #drawer .grid .bad").first).to_be_visible()
    expect(card).to_have_count(0)
