"""A picture of the real page after a few messages: `python tools/screenshot.py OUT.png "message" ...` (needs Chromium)."""

from __future__ import annotations

import sys

import screen


def main(out: str, *messages: str) -> None:
    """Send the messages one after the other, wait for each reply, and save what the page shows."""
    with screen.served() as url, screen.chromium() as browser:
        page = screen.opened(browser, url, 1100, 900, scale=1.5)
        for message in messages:
            screen.say(page, message)
            screen.finished(page)
        page.wait_for_timeout(1000)
        page.screenshot(path=out)


if __name__ == "__main__":
    main(*sys.argv[1:])
