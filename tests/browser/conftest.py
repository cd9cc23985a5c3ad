"""Chromium with a microphone that plays a recorded instruction, and the page it looks at."""

from __future__ import annotations

import shutil
import subprocess
import wave
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.stage import Growing, Stage

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
LOCAL = ("127.0.0.1", "localhost")
WAIT_MS = 120_000  # a machine that trains at the same time is slow
expect.set_options(timeout=WAIT_MS)


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The served page."""
    stage = Stage(tmp_path_factory.mktemp("stage"))
    yield stage
    stage.close()


@pytest.fixture(autouse=True)
def cache(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradio reads at every request where files may lie, and another test may have served another page since."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", stage.cache)


@pytest.fixture(scope="session")
def instruction(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spoken instruction, 16 kHz mono: by flite where it is installed, else syllables of buzz."""
    path = tmp_path_factory.mktemp("instruction") / "instruction.wav"
    if shutil.which("flite"):
        subprocess.run(
            ["flite", "-voice", "slt", "-t", "Please draw a red boat on the lake, and sing a song.", "-o", str(path)], check=True
        )
        with wave.open(str(path), "rb") as spoken:
            facts, frames = spoken.getparams(), spoken.readframes(spoken.getnframes())
        with wave.open(str(path), "wb") as file:  # the microphone plays it over and over: a pause between
            file.setparams(facts)
            file.writeframes(frames + bytes(2 * 2 * 16_000))
        return path
    seconds = np.arange(3 * 16_000) / 16_000
    buzz = np.sign(np.sin(2 * np.pi * 130 * seconds)) * np.clip(np.sin(2 * np.pi * 3 * seconds), 0, 1)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((buzz * 9_000).astype("<i2").tobytes() + bytes(2 * 2 * 16_000))
    return path


@pytest.fixture(scope="session")
def browser(instruction: Path) -> Iterator[Browser]:
    """Debian's Chromium."""
    program = next((found for found in map(shutil.which, PROGRAMS) if found), None)
    assert program, "Chromium is not installed: run `make setup`"
    flags = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*flags, f"--use-file-for-fake-audio-capture={instruction}"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, stage: Stage) -> Iterator[Page]:
    """A fresh visitor. Fails on any request to another host, on any error in the console and on any dialog."""
    context = browser.new_context(viewport={"width": 1200, "height": 800}, permissions=["microphone"])
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    faults: list[str] = []

    def local(url: str) -> bool:
        return url.startswith(("data:", "blob:", "about:")) or urlsplit(url).hostname in LOCAL

    page.on("request", lambda request: None if local(request.url) else faults.append(f"request to {request.url}"))
    page.on("console", lambda message: faults.append(f"console: {message.text}") if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (faults.append("dialog"), dialog.dismiss()))
    page.goto(stage.url)
    page.wait_for_selector(".composer[data-state=idle]")
    page.wait_for_selector("#chat")
    yield page
    context.close()
    assert not faults


@pytest.fixture
def growing(stage: Stage) -> Iterator[None]:
    """Codecs that show what they have before they are done."""
    before = dict(stage.props)
    stage.props.update({name: Growing(props.modality) for name, props in before.items()})
    stage.chat._codecs.clear()
    yield
    stage.props.update(before)
    stage.chat._codecs.clear()
