"""How long until something is there, as the browser sees it: the real page, the shipped weights, Chromium.

    python tools/page_times.py [--json FILE]

Times in seconds: `usable` from opening the page to a composer that takes words; the others from pressing Enter to the first
word, the first rough and the finished picture, and the first sound that is played.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import screen
from playwright.sync_api import Page

ROUNDS = 3
WATCH = """() => {
  const marks = window.marks = {}, note = (name) => { marks[name] ??= performance.now(); };
  window.watcher?.disconnect();
  window.watcher = new MutationObserver(() => {
    const last = [...document.querySelectorAll('#chat .bot-row')].slice(window.before).pop();
    if (last?.querySelector('.part')?.textContent.trim()) note('text');
    if (last?.querySelector('img')) note('picture');
    if (document.querySelector('.composer').api.played > window.played) note('sound');
  });
  window.before = document.querySelectorAll('#chat .bot-row').length;
  window.played = document.querySelector('.composer').api.played;
  window.watcher.observe(document.body, {subtree: true, childList: true, characterData: true, attributes: true});
  marks.start = performance.now();
}"""
MARKS = "() => { const m = window.marks; m.end = performance.now(); return m; }"
CHIPS = {"text": "text", "picture": "image", "speech": "speech", "music": "music"}
WORDS = {
    "text": "What is a dog?",
    "picture": "Draw a dog on the beach.",
    "speech": "Say: the dog is on the beach.",
    "music": "Play some slow classical music.",
}


def ask(page: Page, name: str) -> dict[str, float]:
    """One message; seconds from sending it to what came first, by name."""
    page.click(f"[data-output={CHIPS[name]}]")
    page.fill(".composer textarea", WORDS[name])
    page.evaluate(WATCH)
    page.press(".composer textarea", "Enter")
    page.wait_for_selector(".composer[data-state=busy]")
    screen.finished(page)
    page.wait_for_timeout(500)
    marks = page.evaluate(MARKS)
    return {mark: round((when - marks["start"]) / 1000, 3) for mark, when in marks.items() if mark != "start"}


def measure() -> dict[str, object]:
    """All of it, the best and the worst of some rounds; the first round has warmed the models."""
    with screen.served() as url, screen.chromium() as browser:
        usable = []
        for _ in range(ROUNDS):
            page = screen.opened(browser, url, 1100, 900)
            usable.append(round(page.evaluate("performance.now()") / 1000, 3))
            if len(usable) < ROUNDS:
                page.context.close()
        rounds = [{name: ask(page, name) for name in WORDS} for _ in range(ROUNDS + 1)][1:]

    def span(name: str, mark: str) -> list[float]:
        found = [one[name][mark] for one in rounds if mark in one[name]]
        return [min(found), max(found)] if found else []

    return {
        "usable": [min(usable), max(usable)],
        "first_text": span("text", "text"),
        "first_picture": span("picture", "picture"),
        "picture_done": span("picture", "end"),
        "first_speech": span("speech", "sound"),
        "first_music": span("music", "sound"),
        "rounds": ROUNDS,
        "cores": os.cpu_count(),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    options = parser.parse_args()
    text = json.dumps(measure(), indent=1)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
