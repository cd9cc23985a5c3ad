"""Nothing is lost: refused and stopped messages, going back, waiting, and what the buttons of cards do."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.stage import Stage
from tests.browser.test_access import faults
from tests.browser.test_control import press
from tests.browser.test_page import WAIT_MS, attach, finished, png, say, tune

pytestmark = pytest.mark.browser
SLOW = "play and play and play, a long answer"


def another(browser: Browser, stage: Stage) -> Page:
    """Somebody else."""
    page = browser.new_context().new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(stage.url)
    page.wait_for_selector(".composer[data-state=idle]")
    return page


def test_a_refused_file_takes_nothing_with_it(page: Page, stage: Stage) -> None:
    attach(page, "image", "orange.png", png())
    attach(page, "music", "letter.txt", b"I am no music")
    page.click("[data-output=text]")
    page.fill(".composer textarea", "What are these?")
    page.click(".composer-send")
    expect(page.locator("#chat .refusal")).to_contain_text("This file cannot be read as sound.")
    finished(page)
    expect(page.locator(".composer textarea")).to_have_value("What are these?")
    expect(page.locator(".composer-tray .chip")).to_have_count(1)
    expect(page.locator(".chip-image")).to_contain_text("orange.png")
    expect(page.locator("[data-output=text]")).to_have_attribute("aria-pressed", "true")
    with page.expect_file_chooser() as chooser:
        page.locator("#chat .refusal button[name=attach]").click()
    chooser.value.set_files({"name": "tune.wav", "mimeType": "audio/wav", "buffer": tune(1)})
    page.wait_for_selector(".chip-music:not(.pending)")
    page.click(".composer-send")
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    expect(page.locator("#chat .user .part")).to_have_text("What are these?")
    expect(page.locator("#chat .user .tag")).to_have_text(["Picture", "Music"])
    expect(page.locator(".composer textarea")).to_have_value("")


def test_stopped_before_anything_was_made(page: Page, browser: Browser, stage: Stage) -> None:
    other = another(browser, stage)
    say(other, SLOW)
    expect(other.locator("#status")).to_contain_text("Composing")
    say(page, "hello there")
    card = page.locator("#chat .refusal.waiting")
    expect(card).to_contain_text(re.compile(r"Waiting for the model: \d before you.*It answers one person at a time"))
    card.get_by_role("button", name="Leave the line").click()
    finished(page)
    other.context.close()
    expect(card).to_have_count(0)
    expect(page.locator("#chat .notes")).to_have_text("Stopped before anything was made.Retry")
    page.locator("#chat .user button[name=edit]").click(force=True)
    expect(page.locator(".composer textarea")).to_have_value("hello there")
    page.fill(".composer textarea", "")
    page.locator("#chat button[name=resend]").click()
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    expect(page.locator("#chat .bot .part")).to_contain_text("You said: hello there")
    expect(page.locator("#chat .notes")).to_have_count(0)
    expect(page.locator("#chat .user .part")).to_have_count(1)


def test_stopped_before_the_first_word(page: Page, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = stage.actor.generate

    def slow(*given: Any, **options: Any) -> Any:
        time.sleep(4)
        return begin(*given, **options)

    monkeypatch.setattr(stage.actor, "generate", slow)
    attach(page, "image", "orange.png", png())
    say(page, "hello there")
    page.wait_for_timeout(1000)
    page.click(".composer-talk")
    finished(page)
    expect(page.locator("#chat .notes")).to_contain_text("Stopped before anything was made.")
    expect(page.locator("#chat button[name=resend]")).to_be_visible()
    page.locator("#chat .user button[name=edit]").click(force=True)
    expect(page.locator(".composer textarea")).to_have_value("hello there")
    expect(page.locator(".chip-image")).to_contain_text("orange.png")
    page.click(".composer-send")
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    expect(page.locator("#chat .bot .part")).to_contain_text("I see your image.")


def test_our_remarks_are_translated_and_nobody_elses_words(page: Page, stage: Stage) -> None:
    page.evaluate("() => document.querySelector('.composer').api.speak('中文')")
    attach(page, "speech", "speech.wav", tune(1))
    expect(page.locator(".chip-speech")).to_contain_text("语音：speech.wav")
    page.click(".composer-send")
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    expect(page.locator("#chat .user .under")).to_contain_text("听到：")
    expect(page.locator("#chat .user .own")).to_have_text("draw a boat and sing")
    expect(page.locator("#chat .bot .said")).to_have_text("Here you are.")
    attach(page, "image", "orange.png", png())
    stage.props["image"].broken = True
    say(page, "draw")
    finished(page)
    stage.props["image"].broken = False
    expect(page.locator("#chat .user .under").last).to_contain_text("来自您")
    expect(page.locator("#chat .bot .under").last).to_contain_text("无法生成")
    expect(page.locator("#chat .refusal").last).to_contain_text("图片无法生成。")


def test_a_retry_that_is_stopped_in_the_line_leaves_the_reply(page: Page, browser: Browser, stage: Stage) -> None:
    say(page, "hello there")
    finished(page)
    other = another(browser, stage)
    say(other, SLOW)
    expect(other.locator("#status")).to_contain_text("Composing")
    press(page, "retry")
    page.locator("#chat .refusal.waiting button[name=leave]").click()
    finished(page)
    other.context.close()
    expect(page.locator("#chat .bot .part")).to_contain_text("You said: hello there")


def test_going_back_from_an_old_reply_asks_twice(page: Page) -> None:
    for text in ("one", "two"):
        say(page, text)
        finished(page)
    for name in ("retry", "undo", "edit"):
        press(page, name, 0)
        expect(page.locator(f"#chat button[name={name}]").first).to_have_text("Really? What follows is deleted")
        expect(page.locator("#chat .user .part")).to_have_count(2)
    expect(page.locator(".composer textarea")).to_have_value("")
    press(page, "undo", 0)
    expect(page.locator(".welcome")).to_be_visible()


def test_what_is_written_meanwhile_stays_after_stop(page: Page) -> None:
    say(page, "a long answer")
    page.fill(".composer textarea", "next one")
    page.press(".composer textarea", "Enter")
    expect(page.locator(".composer-time")).to_have_text("next")
    page.click(".composer-talk")
    finished(page)
    page.wait_for_timeout(500)
    expect(page.locator(".composer textarea")).to_have_value("next one")
    expect(page.locator("#chat .user .part")).to_have_text(["a long answer"])


def test_cards_can_be_put_away_or_tried_again(page: Page, stage: Stage, tmp_path: Path) -> None:
    page.get_by_role("button", name="Chats").click()
    bad = tmp_path / "chat.zip"
    bad.write_bytes(b"no zip")
    page.locator("#rail input[type=file]").set_input_files(str(bad))
    expect(page.locator("#chat .refusal")).to_contain_text("This is not a saved chat.")
    page.locator(".sidebar.open .toggle-button").first.click()
    page.wait_for_timeout(600)
    with page.expect_file_chooser():
        page.locator("#chat .refusal").get_by_role("button", name="Choose another file").click()
    say(page, "draw")
    finished(page)
    stage.props["image"].broken = True
    press(page, "render", 0)
    expect(page.locator("#chat .refusal").last).to_contain_text("The picture could not be made.")
    finished(page)
    stage.props["image"].broken = False
    page.locator("#chat .refusal").last.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    expect(page.locator("#chat .refusal", has_text="could not be made")).to_have_count(0)
    press(page, "edit", 0)
    page.fill(".composer textarea", " ")
    page.press(".composer textarea", "Enter")
    card = page.locator("#chat .refusal", has_text="This message is empty.")
    expect(card).to_be_visible()
    finished(page)
    card.get_by_role("button", name="Close").click()
    expect(card).to_have_count(0)
    expect(page.locator("#chat .bot img")).to_have_count(1)


def test_a_saved_chat_opens_with_the_settings_of_its_visitor(page: Page, stage: Stage, tmp_path: Path) -> None:
    say(page, "keep this")
    finished(page)
    page.get_by_role("button", name="Settings", exact=True).click()
    page.locator("#drawer").get_by_label("Picture").check()
    page.wait_for_timeout(1500)
    page.locator(".sidebar.open .toggle-button").first.click()
    page.get_by_role("button", name="Chats").click()
    with page.expect_download() as parcel:
        page.get_by_role("button", name="Save this chat").click()
    saved = tmp_path / "chat.zip"
    saved.write_bytes(Path(parcel.value.path()).read_bytes())
    page.locator("#rail input[type=file]").set_input_files(str(saved))
    expect(page.locator("#rail .chat-title")).to_have_count(2)
    say(page, "and now")
    finished(page)
    assert "image" not in stage.actor.grammar.open_to


def test_the_open_list_of_chats_follows_the_conversation(page: Page) -> None:
    page.get_by_role("button", name="Chats").click()
    expect(page.locator("#rail .chat-title")).to_have_count(0)
    say(page, "a new thing")
    finished(page)
    expect(page.locator("#rail .chat-title")).to_contain_text("a new thing")


def test_others_are_answered_while_the_self_test_runs(page: Page, browser: Browser, stage: Stage) -> None:
    page.get_by_role("button", name="Model", exact=True).click()
    page.get_by_role("button", name="Run the self-test").click()
    done = page.locator("#drawer .grid .good, #drawer .grid .bad")
    expect(done.first).to_be_visible()
    other = another(browser, stage)
    say(other, "hi")
    finished(other)
    expect(other.locator("#chat .bot .part")).to_contain_text("You said: hi")
    assert done.count() < 16
    other.context.close()
    expect(done).to_have_count(16)


def test_a_voice_file_is_opened(page: Page, tmp_path: Path) -> None:
    recording = tmp_path / "Aunt Mary.voice"
    recording.write_bytes(tune(3.2))
    page.get_by_role("button", name="Voice", exact=True).click()
    page.locator("#drawer input[type=file][accept*='.voice']").set_input_files(str(recording))
    expect(page.locator("#drawer").get_by_label("Its name")).to_have_value("Aunt Mary")
    expect(page.locator("#drawer")).to_contain_text("What is used")
    page.locator("#drawer input[type=checkbox]").check()
    page.get_by_role("button", name="Use this voice").click()
    expect(page.locator("#drawer .notes")).to_contain_text("Replies now speak with Aunt Mary")


@pytest.mark.parametrize("preset", ["paper", "best", "chat"])
def test_presets_reach_the_model(page: Page, stage: Stage, preset: str) -> None:
    from anygpt_demo.chat import PRESETS
    from anygpt_demo.grammar import Grammar

    page.get_by_role("button", name="Settings", exact=True).click()
    page.locator("#drawer").get_by_label("fast").check()
    page.wait_for_timeout(500)
    page.locator("#drawer").get_by_label(preset, exact=True).check()
    page.wait_for_timeout(1500)
    say(page, "hello")
    finished(page)
    wanted = PRESETS[preset]
    assert stage.actor.grammar.words == Grammar(stage.chat.vocabulary, preset=wanted.preset).words
    assert stage.actor.grammar.limits["music"] == 250


def test_music_says_how_long_it_takes(page: Page) -> None:
    say(page, "play")
    expect(page.locator("#status")).to_contain_text(re.compile(r"Composing: \d+ of at most 1000 tokens, [\d.]+ s, at most \d+ s left"))
    finished(page)


def test_a_screen_of_3840_pixels(page: Page) -> None:
    page.set_viewport_size({"width": 3840, "height": 2160})
    say(page, "draw")
    finished(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 3840
    box = page.locator(".composer-field").bounding_box()
    assert box is not None and box["y"] + box["height"] <= 2160 and 800 < box["width"] < 1200


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_here_either(page: Page, browser: Browser, stage: Stage, theme: str) -> None:
    page.goto(f"{stage.url}?__theme={theme}")
    page.wait_for_selector(".composer[data-state=idle]")
    for text in ("one", "two"):
        page.click("[data-output=spoken]")
        say(page, text)
        finished(page)
    press(page, "undo", 0)
    attach(page, "music", "tune.wav", tune(1))
    page.wait_for_timeout(500)
    found = faults(page)
    other = another(browser, stage)
    say(other, SLOW)
    expect(other.locator("#status")).to_contain_text("Composing")
    say(page, "and me?")
    page.locator("#chat .refusal.waiting").wait_for()
    page.wait_for_timeout(300)
    found += faults(page)
    page.locator("#chat .refusal.waiting button").click()
    finished(page)
    other.context.close()
    assert not found + faults(page)
