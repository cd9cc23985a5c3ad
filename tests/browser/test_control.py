"""Going back, changing, forcing, keeping: everything that the buttons of the page do."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.stage import Stage
from tests.browser.test_access import faults
from tests.browser.test_page import attach, finished, png, say, tune

pytestmark = pytest.mark.browser


def press(page: Page, name: str, which: int = -1) -> None:
    buttons = page.locator(f"#chat button[name={name}]")
    buttons.nth(which if which >= 0 else buttons.count() - 1).click(force=True)


def test_retry_edit_and_undo(page: Page) -> None:
    say(page, "first")
    finished(page)
    say(page, "second and draw")
    finished(page)
    press(page, "retry")
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    expect(page.locator("#chat .user .part")).to_have_text(["first", "second and draw"])
    expect(page.locator("#chat .bot img")).to_have_count(1)
    press(page, "undo")
    expect(page.locator("#chat .user .part")).to_have_text(["first"])
    press(page, "edit", 0)
    expect(page.locator(".composer textarea")).to_have_value("first")
    say(page, "changed")
    finished(page)
    expect(page.locator("#chat .user .part")).to_have_text(["changed"])
    expect(page.locator("#chat .bot .part")).to_contain_text(["You said: changed"])


def test_files_of_an_old_message_are_changed(page: Page, stage: Stage) -> None:
    attach(page, "image", "orange.png", png())
    attach(page, "music", "tune.wav", tune(1))
    say(page, "what are these")
    finished(page)
    encoded = len(stage.props["music"].encoded)
    press(page, "edit", 0)
    expect(page.locator(".composer-tray .chip")).to_have_count(2)
    expect(page.locator(".chip-image img")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".composer-tray .chip")).to_have_count(0)
    press(page, "edit", 0)
    expect(page.locator(".chip-image")).to_contain_text("Picture")
    assert not faults(page)
    page.get_by_role("button", name="Remove Picture").click()
    attach(page, "image", "second.png", png())
    page.fill(".composer textarea", "Is [2] like [1] then")
    page.click(".composer-send")
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    order = "() => [...document.querySelectorAll('#chat .user-row :is(.part, .tag)')].map((one) => one.textContent)"
    assert page.evaluate(order) == ["Is", "Picture", "like", "Music", "then"]
    assert len(stage.props["music"].encoded) == encoded, "what stays is not encoded again"
    marks = [stage.chat.vocabulary.starts[number] for number in stage.actor.message if number in stage.chat.vocabulary.starts]
    assert marks == ["image", "music"]
    expect(page.locator(".composer-tray .chip")).to_have_count(0)


def test_files_are_put_into_words(page: Page, stage: Stage) -> None:
    attach(page, "image", "orange.png", png())
    attach(page, "speech", "first.wav", tune(1))
    attach(page, "speech", "second.wav", tune(1))
    page.click(".composer-send")
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    expect(page.locator("#chat .user .own")).to_have_text(["draw a boat and sing"])
    press(page, "words", 0)
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    expect(page.locator("#chat .user .own")).to_have_text(["I see your image.", "draw a boat and sing"])
    expect(page.locator("#chat .user .under").first).to_contain_text("in the model's words:")
    expect(page.locator("#chat .user img")).to_have_attribute("alt", "I see your image.")
    press(page, "words", 0)
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    expect(page.locator("#chat .user .own")).to_have_text(["I see your image.", "draw a boat and sing", "draw a boat and sing"])
    expect(page.locator("#chat .user button[name=words]")).to_have_count(0)
    assert not faults(page)
    page.reload()
    page.wait_for_selector("#chat .bot .part")
    expect(page.locator("#chat .user .own").first).to_have_text("I see your image.")


def test_one_part_anew_and_from_here(page: Page) -> None:
    say(page, "draw and play")
    finished(page)
    before = page.locator("#chat .bot img").get_attribute("src")
    press(page, "again", 0)
    finished(page)
    expect(page.locator("#chat .bot .tag")).to_have_text(["Picture", "Music"])
    press(page, "render", 0)
    finished(page)
    assert page.locator("#chat .bot img").count() == 1 and before
    press(page, "branch", 0)
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    expect(page.locator("#chat .bot .tag").first).to_have_text("Picture")
    expect(page.locator("#chat .user .part")).to_have_count(1)


def test_a_chip_forces_the_modality(page: Page, stage: Stage) -> None:
    page.click("[data-output=music]")
    expect(page.locator("[data-output=music]")).to_have_attribute("aria-pressed", "true")
    say(page, "something")
    finished(page)
    assert stage.actor.forced == "music"
    expect(page.locator("[data-output=music]")).to_have_attribute("aria-pressed", "false")


def test_settings_reach_the_model(page: Page, stage: Stage) -> None:
    page.get_by_role("button", name="Settings", exact=True).click()
    page.locator("#drawer").get_by_label("fast").check()
    page.locator("#drawer").get_by_label("Picture").check()
    page.locator("#drawer").get_by_label("Use this seed for every reply").check()
    page.locator("#drawer input[type=number][aria-label*=Seed], #drawer label:has-text('Seed') input").first.fill("77")
    page.keyboard.press("Tab")
    page.wait_for_timeout(1500)
    say(page, "go")
    finished(page)
    assert stage.actor.grammar.limits["music"] == 75 and "image" not in stage.actor.grammar.open_to
    expect(page.locator("#chat .seed")).to_have_text("seed 77")
    page.reload()
    page.wait_for_selector(".composer[data-state=idle]")
    page.get_by_role("button", name="Settings", exact=True).click()
    expect(page.locator("#drawer").get_by_label("fast")).to_be_checked()
    expect(page.locator("#drawer").get_by_label("Use this seed for every reply")).to_be_checked()


def test_a_message_written_meanwhile_is_sent_afterwards(page: Page) -> None:
    say(page, "a long answer")
    page.fill(".composer textarea", "next one")
    page.press(".composer textarea", "Enter")
    expect(page.locator("#chat .user .part")).to_have_text(["a long answer", "next one"])
    finished(page)


def test_chats_are_listed_renamed_searched_saved_opened_and_deleted(page: Page, tmp_path: Path) -> None:
    attach(page, "image", "orange.png", png())
    say(page, "keep this draw")
    finished(page)
    page.get_by_role("button", name="Chats").click()
    page.fill("#rail input[name=rename]", "Orange things")
    page.press("#rail input[name=rename]", "Enter")
    page.locator("#rail input[name=search]").focus()
    expect(page.locator("#rail .chat-title")).to_contain_text("Orange things")
    with page.expect_download() as parcel:
        page.get_by_role("button", name="Save this chat").click()
    data = Path(parcel.value.path()).read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        record = json.loads(file.read("chat.json"))
        assert record["title"] == "Orange things" and record["turns"][1]["ids"] and record["turns"][1]["facts"]["seed"] >= 0
        assert b'src="http' not in file.read("index.html") and b"data:image/png" in file.read("index.html")
        assert sum(name.startswith("media/") for name in file.namelist()) >= 1
    page.get_by_role("button", name="New chat").click(force=True)
    expect(page.locator("#chat .part")).to_have_count(0)
    saved = tmp_path / "chat.zip"
    saved.write_bytes(data)
    page.locator("#rail input[type=file]").set_input_files(str(saved))
    expect(page.locator("#chat .user .part")).to_have_text(["keep this draw"])
    expect(page.locator("#rail .chat-title")).to_have_count(2)
    page.fill("#rail input[name=search]", "nothing like it")
    page.press("#rail input[name=search]", "Enter")
    expect(page.locator("#rail .chat-title")).to_have_count(0)
    page.fill("#rail input[name=search]", "orange")
    page.press("#rail input[name=search]", "Enter")
    expect(page.locator("#rail .chat-title")).to_have_count(2)
    page.locator("#rail button[name=delete]").first.click()
    page.locator("#rail button[name=delete]").first.click()
    expect(page.locator("#rail .chat-title")).to_have_count(1)


def test_tokens_are_shown(page: Page) -> None:
    attach(page, "image", "orange.png", png())
    say(page, "draw")
    finished(page)
    page.get_by_role("button", name="What the model sees").click(force=True)
    expect(page.locator("#tokens figcaption")).to_have_text(["as you sent it", "what the model sees"])
    expect(page.locator("#tokens td")).to_have_count(32)
    page.locator("#tokens input[name=scrub]").fill("5")
    expect(page.locator("#tokens figcaption").last).to_have_text(re.compile("first 5 of 32 tokens"))


def test_music_goes_on_and_back_and_its_player_has_the_new_sound(page: Page) -> None:
    page.click("[data-output=music]")
    say(page, "a tune")
    finished(page)
    time = page.locator("#chat .bot .timestamp")
    expect(time).to_have_text("0:01")
    expect(page.locator("#chat button[name=longer]")).to_have_text(["10 s", "20 s", "30 s"])
    press(page, "longer", 0)
    expect(page.locator("#status")).to_contain_text(re.compile(r"Composing: \d+ of 2000 tokens, \d"))
    finished(page)
    expect(page.locator("#chat .bot .under")).to_contain_text("AI-generated, 10.0 s, 100 tokens")
    expect(time).to_have_text("0:10")
    expect(page.locator("#chat button[name=longer]")).to_have_text(["20 s", "30 s"])
    page.reload()
    expect(time).to_have_text("0:10")
    page.locator("#chat").get_by_role("button", name="As written").click(force=True)
    finished(page)
    expect(time).to_have_text("0:01")


def test_another_chat_has_its_own_sounds(page: Page) -> None:
    for text, seconds in (("one", 0), ("two", 10)):
        page.get_by_role("button", name="New chat").click()
        expect(page.locator(".welcome")).to_be_visible()
        page.click("[data-output=music]")
        say(page, text)
        finished(page)
        if seconds:
            press(page, "longer", 0)
            page.wait_for_selector(".composer[data-state=busy]")
            finished(page)
    expect(page.locator("#chat .bot .timestamp")).to_have_text("0:10")
    page.get_by_role("button", name="Chats").click()
    page.locator("#rail .chat-title", has_text="one").click()
    expect(page.locator("#chat .user .part")).to_have_text("one")
    expect(page.locator("#chat .bot .timestamp")).to_have_text("0:01")


def test_a_reply_goes_on_from_within_a_part(page: Page, stage: Stage) -> None:
    say(page, "draw and play")
    finished(page)
    before = page.locator("#chat .bot .part").inner_text()
    page.locator("#chat .bot .ribbon .r-music").evaluate("(one) => one.click()")
    expect(page.locator("#tokens h2")).to_have_text("Music: 1000 tokens")
    page.locator('#tokens button[name=branch][value="1.2.40"]').click()
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    expect(page.locator("#chat .bot .tag")).to_have_text(["Picture", "Music"])
    assert stage.actor.given == 161, "the start mark and forty frames of four codes"
    page.locator("#chat .bot .ribbon .r-text").evaluate("(one) => one.click()")
    expect(page.locator("#tokens h2")).to_have_text(re.compile("Text: "))
    page.locator("#tokens button.piece").nth(3).click()
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    after = page.locator("#chat .bot .part").inner_text()
    assert after != before and after.startswith(before[:3]) and stage.actor.given == 4


def test_saving_one_part_and_copying_words(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    say(page, "draw, speak")
    finished(page)
    for label, suffix in (("Save this picture", ".png"), ("Save this speech", ".wav")):
        with page.expect_download() as parcel:
            page.get_by_title(label).click(force=True)
        assert parcel.value.suggested_filename.endswith(suffix)
        data = Path(parcel.value.path()).read_bytes()
        assert b"ai_generated" in data and data[:4] in (b"\x89PNG", b"RIFF")
    page.get_by_title("Copy the words of this reply").click(force=True)
    expect(page.locator("#chat button[name=copy]")).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("You said: draw, speak") and copied.endswith("The boat goes over the lake, slowly.")
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')); }")
    expect(page.locator("#chat button[name=copy]")).to_have_text("Copy")
    page.evaluate(
        "document.body.addEventListener('copy', () => { window.taken = getSelection().toString() || document.activeElement.value; })"
    )
    page.get_by_title("Copy the words of this reply").click(force=True)
    page.wait_for_function("(words) => window.taken === words", arg=copied)


def test_tokens_below_what_one_says(page: Page) -> None:
    attach(page, "image", "orange.png", png())
    say(page, "what is this")
    finished(page)
    strip = page.locator("#chat .user .ribbon button")
    assert [one.get_attribute("class") for one in strip.all()] == ["r-image", "r-text"]
    expect(strip.first).to_have_attribute("title", "image, 32 tokens")
    strip.last.evaluate("(one) => one.click()")
    expect(page.locator("#tokens h2")).to_have_text(re.compile(r"Text: \d+ tokens"))
    assert page.locator("#tokens .piece small").count() > 2 and page.locator("#tokens button.piece").count() == 0


def test_files_stand_where_they_were_put_among_the_words(page: Page, stage: Stage) -> None:
    attach(page, "image", "orange.png", png())
    attach(page, "music", "tune.wav", tune(1))
    attach(page, "image", "later.png", png())
    page.fill(".composer textarea", "Is like to you")
    for name, at in (("later.png", 2), ("tune.wav", 11)):
        page.evaluate("at => document.querySelector('.composer textarea').setSelectionRange(at, at)", at)
        page.get_by_role("button", name=f"Place {name} in the text").click()
    expect(page.locator(".composer textarea")).to_have_value("Is [3] like [2] to you")
    assert not faults(page)
    page.get_by_role("button", name="Remove orange.png").click()
    expect(page.locator(".composer textarea")).to_have_value("Is [2] like [1] to you")
    page.press(".composer textarea", "Enter")
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    order = "() => [...document.querySelectorAll('#chat .user-row :is(.part, .tag)')].map((one) => one.textContent)"
    assert page.evaluate(order) == ["Is", "Picture", "like", "Music", "to you"]
    message = stage.actor.message
    tokens = stage.chat.vocabulary
    marks = [tokens.starts[number] for number in message if number in tokens.starts]
    assert marks == ["image", "music"] and message.index(tokens.ranges["image"].start) > 2
    press(page, "edit", 0)
    expect(page.locator(".composer textarea")).to_have_value("Is [1] like [2] to you")
    page.fill(".composer textarea", "Now [2] and [1]")
    page.press(".composer textarea", "Enter")
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    assert page.evaluate(order) == ["Now", "Music", "and", "Picture"]
    page.reload()
    page.wait_for_selector("#chat .bot .part")
    assert page.evaluate(order) == ["Now", "Music", "and", "Picture"]


def test_numbers_of_ones_own_reach_the_model(page: Page, stage: Stage) -> None:
    page.get_by_role("button", name="Settings", exact=True).click()
    drawer = page.locator("#drawer")
    drawer.get_by_role("button", name="Sampling per modality").click()
    heat, share = drawer.get_by_label("Words: temperature"), drawer.get_by_label("Music: top-p")
    expect(heat).to_have_value("0.7")
    heat.fill("9")
    heat.press("Enter")
    expect(drawer.locator(".refusal")).to_contain_text("The temperature cannot be 9. It must be from 0 to 2.")
    assert not faults(page)
    drawer.get_by_role("button", name="Back to the preset").first.click()
    expect(heat).to_have_value("0.7")
    expect(drawer.locator(".refusal")).to_have_count(0)
    for field, value in ((heat, "1.2"), (share, "0.5")):
        field.fill(value)
        field.press("Enter")
    page.wait_for_timeout(1500)
    say(page, "go")
    finished(page)
    drawn = stage.actor.grammar.drawn
    assert (
        drawn["text"].temperature == 1.2
        and drawn["music"].top_p == 0.5
        and drawn["image"] == stage.actor.vocabulary.ranges["image"].modality.sampling
    )
    drawer.get_by_label("best").check()
    expect(heat).to_have_value("0")
    expect(share).to_have_value("1")
    heat.fill("0.4")
    heat.press("Enter")
    page.wait_for_timeout(1500)
    page.reload()
    page.wait_for_selector(".composer[data-state=idle]")
    page.get_by_role("button", name="Settings", exact=True).click()
    drawer.get_by_role("button", name="Sampling per modality").click()
    expect(heat).to_have_value("0.4")
    expect(drawer.get_by_label("best")).to_be_checked()


def test_what_a_model_can_do_wrong_is_a_card_with_a_way_out(page: Page) -> None:
    for text, problem, way in (
        ("unfinished", "The picture was not finished.", "Retry"),
        ("damaged", "The picture is damaged and was left out.", "Retry"),
        ("too much", "The language model failed.", "Answer with the preset fast"),
    ):
        say(page, text)
        finished(page)
        card = page.locator("#chat .refusal").last
        expect(card).to_contain_text(problem)
        expect(card.get_by_role("button", name=way)).to_be_visible()
        assert "<" not in (card.text_content() or "") and "Traceback" not in (card.text_content() or "")
    page.locator("#chat .refusal").last.get_by_role("button", name="Answer with the preset fast").click()
    page.wait_for_selector(".composer[data-state=busy]")
    finished(page)
    expect(page.locator("#chat .bot").last).to_contain_text("You said: too much")
