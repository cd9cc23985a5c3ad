"""A picture of the real page after a few messages: `python tools/screenshot.py URL OUT.png "message" ...` (needs Chromium)."""

from __future__ import annotations

import shutil
import sys

from playwright.sync_api import sync_playwright


def main(url: str, out: str, *messages: str) -> None:
    """Send the messages one after the other, wait for each reply, and save what the page shows."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 900}, device_scale_factor=1.5)
        page.set_default_timeout(300_000)
        page.goto(f"{url}?__theme=light")
        page.wait_for_selector(".composer[data-state=idle]")
        for message in messages:
            page.fill(".composer textarea", message)
            page.press(".composer textarea", "Enter")
            page.wait_for_selector(".composer[data-state=busy]")
            page.wait_for_selector(".composer[data-state=idle]")
        page.wait_for_timeout(1000)
        page.screenshot(path=out)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
