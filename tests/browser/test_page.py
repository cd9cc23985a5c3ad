"""The page in a real browser: text, picture, music and microphone in; text, picture, speech and music out."""

from __future__ import annotations

import io
import re
import time
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from anygpt_demo.media import Audio
from anygpt_demo.selftest import EXAMPLES
from tests.browser.stage import Stage

pytestmark = pytest.mark.browser
WAIT_MS = 120_000


def say(page: Page, text: str) -> None:
    page.fill(".composer textarea", text)
    page.press(".composer textarea", "Enter")
    page.wait_for_selector(".composer[data-state=busy]")


def finished(page: Page) -> None:
    page.wait_for_selector(".composer[data-state=idle]", timeout=WAIT_MS)


def attach(page: Page, kind: str, name: str, data: bytes) -> None:
    with page.expect_file_chooser() as chooser:
        page.click(f"[data-attach={kind}]")
    chooser.value.set_files({"name": name, "mimeType": "application/octet-stream", "buffer": data})
    page.wait_for_selector(f".chip-{kind}:not(.pending)")


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "orange").save(file, "PNG")
    return file.getvalue()


def tune(seconds: float) -> bytes:
    file = io.BytesIO()
    wave_form = 8_000 * np.sin(2 * np.pi * 330 * np.arange(int(seconds * 32_000)) / 32_000)
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, 32_000, 0, "NONE", ""))
        out.writeframes(wave_form.astype("<i2").tobytes())
    return file.getvalue()


def test_the_page_loads_and_says_what_mini_is(page: Page) -> None:
    expect(page.locator("h1")).to_have_text("AnyGPT demo")
    page.click(".badge summary")
    expect(page.locator(".badge")).to_contain_text("It is not an assistant")
    expect(page.locator(".welcome")).to_be_visible()


def test_text_streams_and_stays_text(page: Page) -> None:
    say(page, "hello <b>there</b>")
    reply = page.locator("#chat .bot .part").first
    expect(reply).to_be_visible(timeout=WAIT_MS)
    lengths = set()
    while page.locator(".composer").get_attribute("data-state") == "busy":
        lengths.add(len(reply.text_content() or ""))
        time.sleep(0.05)
    assert len(lengths) >= 3, "the text did not grow"
    expect(page.locator("#chat .user .part")).to_have_text("hello <b>there</b>")
    expect(reply).to_contain_text("<img src=x onerror=alert(1)> ![x](http://evil.example/x.png) $$x$$")
    assert page.locator("#chat img, #chat b, #chat .katex").count() == 0


def test_picture_and_music_come_in_order_with_progress(page: Page) -> None:
    say(page, "draw and play")
    expect(page.locator("#status")).to_contain_text(re.compile(r"Drawing: \d+ of 32 tokens"), timeout=WAIT_MS)
    expect(page.locator("#status")).to_contain_text(re.compile(r"Composing: \d+ of at most 1000 tokens, \d"), timeout=WAIT_MS)
    finished(page)
    picture = page.locator("#chat .bot img")
    expect(picture).to_have_count(1)
    assert picture.evaluate("image => image.naturalWidth") == 256
    assert picture.get_attribute("alt"), "a picture needs an alternative text"
    kinds = page.locator("#chat .bot .part, #chat .bot img, #chat .bot audio, #chat .bot .tag").evaluate_all(
        "all => all.map(one => one.classList.contains('part') ? 'text' : one.classList.contains('tag') ? one.textContent : one.tagName)"
    )
    assert [kind for kind in kinds if kind in ("text", "Picture", "Music")] == ["text", "Picture", "Music"]
    expect(page.locator("#chat .bot .under").last).to_contain_text("AI-generated, 5.0 s, 1000 tokens")
    assert page.locator("#chat .bot .ribbon button").count() == 3
    assert page.locator("#chat .user .ribbon button").count() == 1


@pytest.mark.usefixtures("growing")
def test_a_rough_picture_and_a_first_piece_of_sound_come_before_the_end(page: Page) -> None:
    page.evaluate(
        """() => { window.before = null; new MutationObserver(() => {
        if (window.before === null && document.querySelector("#chat .bot .tag-music"))
            window.before = document.querySelector(".composer").api.played;
        }).observe(document.body, {childList: true, subtree: true}); }"""
    )
    say(page, "draw and play")
    picture = page.locator("#chat .bot img")
    seen: list[str | None] = []
    while page.locator(".composer").get_attribute("data-state") == "busy":
        if picture.count():
            address = picture.first.get_attribute("src")
            seen += [address] if address not in seen else []
        time.sleep(0.05)
    assert len(seen) >= 3 and picture.count() == 1, seen
    assert page.evaluate("window.before") >= 1, "nothing was heard before the music was whole"
    assert picture.evaluate("image => image.naturalWidth") == 256
    expect(page.locator("#chat .bot .timestamp")).to_have_text("0:05")


def test_nothing_jumps_while_parts_stream_in(page: Page) -> None:
    page.evaluate(
        """() => { window.shift = 0; new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
        }).observe({type: 'layout-shift', buffered: false}); }"""
    )
    say(page, "draw and play")
    finished(page)
    page.wait_for_timeout(500)
    assert page.evaluate("window.shift") < 0.1


def test_an_uploaded_picture_is_seen(page: Page, stage: Stage) -> None:
    before = len(stage.props["image"].encoded)
    attach(page, "image", "orange.png", png())
    say(page, "What is this?")
    finished(page)
    expect(page.locator("#chat .bot .part").last).to_contain_text("I see your image.")
    expect(page.locator("#chat .user img")).to_be_visible()
    seen = stage.props["image"].encoded[before:]
    assert len(seen) == 1 and seen[0].rgb.shape == (48, 64, 3)


def test_a_picture_a_recording_and_music_in_one_message(page: Page, stage: Stage) -> None:
    before = {name: len(props.encoded) for name, props in stage.props.items()}
    attach(page, "image", "orange.png", png())
    attach(page, "speech", "request.wav", (EXAMPLES / "request.wav").read_bytes())
    attach(page, "music", "tune.wav", tune(2))
    expect(page.locator(".chip")).to_have_text(
        ["[1]Picture: orange.png×", "[2]Speech: request.wavAs music×", "[3]Music: tune.wavAs speech×"]
    )
    say(page, "What are these?")
    finished(page)
    expect(page.locator("#chat .user .tag")).to_have_text(["Picture", "Speech", "Music"])
    expect(page.locator("#chat .user img")).to_have_count(1)
    expect(page.locator("#chat .user .timestamp")).to_have_count(2)
    expect(page.locator("#chat .user .part")).to_have_text("What are these?")
    classes = [one.get_attribute("class") for one in page.locator("#chat .user .ribbon button").all()]
    assert classes == ["r-image", "r-speech", "r-music", "r-text"]
    new = {name: props.encoded[before[name] :] for name, props in stage.props.items()}
    assert [len(found) for found in new.values()] == [1, 1, 1]
    assert new["image"][0].rgb.shape == (48, 64, 3) and new["speech"][0].rate_hz == 16_000 and new["music"][0].rate_hz == 32_000
    expect(page.locator("#chat .user .under").nth(1)).to_contain_text("heard: draw a boat and sing")


def test_long_music_is_cut_and_says_so(page: Page, stage: Stage) -> None:
    attach(page, "music", "tune.wav", tune(7))
    page.click(".composer-send")
    finished(page)
    expect(page.locator("#chat")).to_contain_text("Only the first 5 seconds are used.")
    assert len(stage.props["music"].encoded[-1].samples) == 160_000


def test_a_spoken_instruction_by_holding_the_button(page: Page, stage: Stage) -> None:
    page.hover(".composer-talk")
    page.mouse.down()
    page.wait_for_selector(".composer[data-state=recording]", timeout=WAIT_MS)
    time.sleep(2.5)
    page.mouse.up()
    page.wait_for_selector(".composer[data-state=busy]", timeout=WAIT_MS)
    finished(page)
    heard: Audio = stage.props["speech"].encoded[-1]
    assert heard.rate_hz == 16_000 and 2 < heard.seconds < 10
    assert np.sqrt(np.mean(heard.samples**2)) > 0.005, "the microphone was silent"
    expect(page.locator("#chat .user .under")).to_contain_text("heard: draw a boat and sing")
    expect(page.locator("#chat .bot .tag-speech")).to_be_visible()
    expect(page.locator("#chat .bot .under").first).to_contain_text("Here you are.")
    expect(page.locator("#chat .bot img")).to_have_count(1)


def test_recording_by_tap_and_cancelling(page: Page, stage: Stage) -> None:
    before = len(stage.props["speech"].encoded)
    page.focus(".composer-talk")
    page.keyboard.press("Enter")
    page.wait_for_selector(".composer[data-state=recording]", timeout=WAIT_MS)
    page.keyboard.press("Escape")
    page.wait_for_selector(".composer[data-state=idle]")
    page.click(".composer-talk")
    page.wait_for_selector(".composer[data-state=recording]", timeout=WAIT_MS)
    time.sleep(1.5)
    page.click(".composer-talk")
    page.wait_for_selector(".composer[data-state=busy]", timeout=WAIT_MS)
    finished(page)
    assert len(stage.props["speech"].encoded) == before + 1


def test_stop_keeps_what_exists(page: Page) -> None:
    say(page, "a long answer")
    expect(page.locator("#chat .bot .part")).to_contain_text("and on and on", timeout=WAIT_MS)
    pressed = time.monotonic()
    page.click(".composer-talk")
    finished(page)
    assert time.monotonic() - pressed < 10
    expect(page.locator("#status")).to_contain_text("Stopped")
    expect(page.locator("#chat .bot .part")).to_contain_text("and on")
    say(page, "again")
    finished(page)
    expect(page.locator("#chat .bot .part")).to_have_count(2)


def test_new_chat_empties_the_page_and_a_reload_keeps_it(page: Page) -> None:
    say(page, "remember me and draw")
    finished(page)
    page.reload()
    expect(page.locator("#chat .user .part")).to_have_text("remember me and draw", timeout=WAIT_MS)
    expect(page.locator("#chat .bot img")).to_have_count(1)
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("#chat .part")).to_have_count(0)
    expect(page.locator(".welcome")).to_be_visible()


def test_failures_are_cards(page: Page) -> None:
    say(page, "explode")
    finished(page)
    expect(page.locator("#chat .refusal")).to_have_text("The language model stopped. It was told to. Say something else.Try again")
    attach(page, "image", "letter.txt", b"I am no picture")
    page.click(".composer-send")
    finished(page)
    expect(page.locator("#chat .refusal").last).to_contain_text("cannot be read as a picture")
    expect(page.locator("#chat .refusal").last.get_by_role("button", name="Choose another file")).to_be_visible()
    say(page, "still there?")
    finished(page)
    expect(page.locator("#chat .bot .part").last).to_contain_text("still there?")


def test_examples_run(page: Page) -> None:
    page.locator("#chat .example").first.click()
    page.wait_for_selector("#chat .bot .part", timeout=WAIT_MS)
    finished(page)
    expect(page.locator("#chat .bot img")).to_have_count(1)


def test_a_blocked_microphone_is_explained(page: Page) -> None:
    page.evaluate("() => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('no', 'NotAllowedError')); }")
    page.click(".composer-talk")
    expect(page.locator(".composer-note")).to_contain_text("The microphone is blocked")
    expect(page.locator(".composer")).to_have_attribute("data-state", "idle")


def test_a_voice_needs_consent(page: Page, tmp_path: Path) -> None:
    recording = tmp_path / "voice.wav"
    recording.write_bytes(tune(4))
    page.get_by_role("button", name="Voice", exact=True).click()
    page.locator("#drawer [aria-label='Upload file']").click()
    page.locator("#drawer [data-testid=file-upload]").set_input_files(str(recording))
    page.locator("#drawer [data-testid*=waveform]").first.wait_for()
    page.get_by_role("button", name="Use this voice").click()
    expect(page.locator("#drawer .refusal")).to_contain_text("not ticked")
    page.locator("#drawer input[type=checkbox]").check()
    page.get_by_role("button", name="Use this voice").click()
    expect(page.locator("#drawer .notes")).to_contain_text("3.0 s of it", timeout=WAIT_MS)


def test_a_voice_is_named_heard_kept_and_used_for_the_same_words(page: Page, stage: Stage, tmp_path: Path) -> None:
    page.click("[data-output=speech]")
    say(page, "hello")
    finished(page)
    assert stage.props["speech"].voice is None
    page.get_by_role("button", name="Voice", exact=True).click()
    choice = page.locator("#drawer").get_by_label("Voices")
    choice.click()
    page.get_by_role("option", name="kathleen").click()
    expect(page.locator("#drawer .notes")).to_contain_text("Replies speak with the built-in voice kathleen.")
    expect(page.locator("#drawer")).to_contain_text("What is used")
    recording = tmp_path / "aunt.wav"
    recording.write_bytes(tune(4))
    page.locator("#drawer [aria-label='Upload file']").click()
    page.locator("#drawer [data-testid=file-upload]").set_input_files(str(recording))
    begin = page.locator("#drawer").get_by_role("slider", name="The 3 s that are used begin at")
    expect(begin).to_be_visible()
    begin.fill("0.5")
    page.locator("#drawer").get_by_label("Its name").fill("Mary")
    page.locator("#drawer input[type=checkbox]").check()
    page.get_by_role("button", name="Use this voice").click()
    expect(page.locator("#drawer .notes")).to_contain_text("Replies now speak with Mary")
    expect(choice).to_have_value("Mary")
    with page.expect_download() as parcel:
        page.get_by_role("button", name="Save as .voice").click()
    assert parcel.value.suggested_filename == "Mary.voice"
    with wave.open(str(parcel.value.path()), "rb") as file:
        assert file.getnframes() == 3 * 16_000
    page.locator("#chat button[name=render]").click(force=True)
    finished(page)
    assert stage.props["speech"].voice.name == "Mary"
    page.reload()
    page.wait_for_selector(".composer[data-state=idle]")
    page.get_by_role("button", name="Voice", exact=True).click()
    expect(choice).to_have_value("Mary")


def test_visitors_do_not_see_each_other(page: Page, browser: Browser, stage: Stage) -> None:
    say(page, "canary one")
    finished(page)
    other = browser.new_context().new_page()
    other.set_default_timeout(WAIT_MS)
    other.goto(stage.url)
    other.wait_for_selector(".composer[data-state=idle]")
    expect(other.locator(".welcome")).to_be_visible()
    assert "canary" not in other.content()
    other.context.close()


@pytest.mark.parametrize(("width", "height"), [(320, 600), (360, 740), (820, 1000), (1200, 800), (2560, 1300)])
def test_nothing_scrolls_sideways(page: Page, width: int, height: int) -> None:
    page.set_viewport_size({"width": width, "height": height})
    say(page, "draw")
    finished(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("Chats", "Settings"):
        page.get_by_role("button", name=name, exact=True).click()
        page.wait_for_timeout(600)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator(".sidebar.open .toggle-button").first.click()
        page.wait_for_timeout(600)
    box = page.locator(".composer").bounding_box()
    assert box is not None and box["y"] + box["height"] <= height


def test_a_message_sent_before_the_server_knows_the_visitor_is_answered(browser: Browser, stage: Stage) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    page.add_init_script("""new MutationObserver((_, watcher) => {
      const composer = document.querySelector('.composer');
      if (!composer?.api) return;
      watcher.disconnect();
      window.first = composer.dataset.state;
      const text = composer.querySelector('textarea');
      text.value = 'Good morning';
      text.dispatchEvent(new Event('input', {bubbles: true}));
      text.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}));
    }).observe(document, {subtree: true, childList: true, attributes: true});""")
    page.goto(stage.url)
    expect(page.locator("#chat .user-row")).to_contain_text("Good morning")
    assert page.evaluate("window.first") == "opening"
    page.wait_for_selector("#chat .bot-row")
    finished(page)
    expect(page.locator("#chat .user-row")).to_have_count(1)
    context.close()
