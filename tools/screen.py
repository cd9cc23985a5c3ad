"""The real page with the shipped weights, and a Chromium that looks at it: what the other tools of this folder share."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from playwright.sync_api import Browser, Page, sync_playwright  # noqa: E402

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 300_000


@contextmanager
def served(family: Path = ROOT / "checkpoints" / "mini") -> Iterator[str]:
    """The page over a family on a free port, its parts loaded. Yields the address; chats go when it ends."""
    with tempfile.TemporaryDirectory(prefix="anygpt-tool-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        from anygpt_demo import ui
        from anygpt_demo.chat import Chat
        from anygpt_demo.checkpoints import Family
        from anygpt_demo.selftest import Health

        home = Family.open(family)
        chat = Chat.open(home)
        health = Health(chat.modalities)
        health.check(chat)
        page = ui.build(chat, home.name, root=Path(folder) / "sessions", home=home, health=health)
        page.queue(max_size=4 * ui.QUEUE)
        _, url, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, **ui.launch_options(False))
        try:
            yield url
        finally:
            page.close(verbose=False)


@contextmanager
def chromium(microphone: Path | None = None) -> Iterator[Browser]:
    """The system's browser. microphone: a WAV file that it hears over and over."""
    program = next((found for found in map(shutil.which, PROGRAMS) if found), None)
    if program is None:
        sys.exit("Chromium is not installed: run `make setup`.")
    flags = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
    if microphone is not None:
        flags += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", f"--use-file-for-fake-audio-capture={microphone}"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        try:
            yield browser
        finally:
            browser.close()


def opened(browser: Browser, url: str, width: int, height: int, theme: str = "light", scale: float = 1.0, locale: str = "en-US") -> Page:
    """A fresh visitor's page, ready for a message."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, device_scale_factor=scale, permissions=["microphone"], locale=locale
    )
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(f"{url}?__theme={theme}")
    page.wait_for_selector(".composer[data-state=idle]")
    return page


def say(page: Page, text: str) -> None:
    """Send a message."""
    page.fill(".composer textarea", text)
    page.press(".composer textarea", "Enter")
    page.wait_for_selector(".composer[data-state=busy]")


def finished(page: Page) -> None:
    """Wait for the end of the reply."""
    page.wait_for_selector(".composer[data-state=idle]")
