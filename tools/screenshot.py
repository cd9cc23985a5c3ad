"""Pictures of the page (needs Chromium).

python tools/screenshot.py OUT.png "message" ...   the real page after a few messages
python tools/screenshot.py FOLDER [STATE ...]      its states, with actors in the place of the models: a phone, a desk and a 4K screen,
                                                   light and dark, and one sheet of all six for each state
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import screen
from PIL import Image
from playwright.sync_api import Browser, Page

SIZES = ((360, 740), (1280, 800), (3840, 2160))
SHRUNK = (1.0, 0.625, 0.25)  # on the sheets
GAP = 12
UNSCROLLED = ("empty", "gallery", "Chinese")  # the others show their newest message


def talk(page: Page, message: str) -> None:
    """Send a message and wait for the reply."""
    screen.say(page, message)
    screen.finished(page)


def drawer(page: Page, tab: str) -> None:
    """Open the right drawer on a tab."""
    page.evaluate("(name) => [...document.querySelectorAll('#bar button')].find((one) => one.textContent.trim() === name).click()", tab)
    page.wait_for_timeout(700)


def shut(page: Page) -> None:
    """Close the drawers."""
    page.evaluate("() => document.querySelectorAll('.sidebar.open .toggle-button').forEach((one) => one.click())")
    page.wait_for_timeout(700)


def states(page: Page, browser: Browser, url: str) -> Iterator[tuple[str, Page]]:
    """Brings the page from one state to the next; yields their names, and where they are seen."""
    yield "empty", page
    page.click(".more summary")
    page.locator(".more").scroll_into_view_if_needed()
    yield "gallery", page
    talk(page, "hello")
    yield "first reply", page
    with page.expect_file_chooser() as chooser:
        page.click("[data-attach=image]")
    chooser.value.set_files(str(screen.ROOT / "assets" / "examples" / "picture.png"))
    page.wait_for_selector(".chip-image:not(.pending)")
    page.fill(".composer textarea", "draw and speak and play")
    yield "attached", page
    talk(page, "draw and speak and play")
    page.locator("#chat button[name=retry]").last.focus()  # shows what can be done
    yield "all four", page
    page.locator("#chat .bot .ribbon button").nth(1).evaluate("(one) => one.click()")
    for state in ("bot", "user"):
        talk(page, f"draw {state}")
    page.locator("#chat .bot .ribbon button").nth(-1).evaluate("(one) => one.click()")
    page.wait_for_selector("#tokens td")
    page.wait_for_timeout(700)
    yield "tokens", page
    drawer(page, "Settings")
    page.evaluate("() => [...document.querySelectorAll('#drawer button')].find((one) => one.textContent.trim().startsWith('More')).click()")
    page.wait_for_timeout(500)
    yield "settings", page
    drawer(page, "Voice")
    page.locator("#drawer [aria-label='Upload file']").click()
    page.locator("#drawer [data-testid=file-upload]").set_input_files(str(screen.ROOT / "assets" / "voices" / "slt.wav"))
    page.wait_for_timeout(3000)
    yield "voices", page
    drawer(page, "Model")
    page.get_by_role("button", name="Run the self-test").click()
    page.wait_for_function("document.querySelectorAll('#drawer .grid .good, #drawer .grid .bad').length === 16")
    yield "self-test", page
    shut(page)
    drawer(page, "Chats")
    yield "chats and export", page
    shut(page)
    drawer(page, "New chat")
    page.wait_for_selector(".welcome")
    talk(page, "explode")
    with page.expect_file_chooser() as chooser:
        page.click("[data-attach=image]")
    chooser.value.set_files({"name": "letter.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    page.wait_for_selector(".chip-image:not(.pending)")
    page.click(".composer-send")
    screen.finished(page)
    talk(page, "a long answer")
    yield "failures", page
    talk(page, "too much")
    yield "too little memory", page
    other = screen.opened(browser, url, 800, 600)
    screen.say(other, "play and a long answer")
    screen.say(page, "and me?")
    page.wait_for_function("document.querySelector('#status').textContent.includes('before you')")
    yield "queue", page
    other.context.close()
    screen.finished(page)
    with page.expect_file_chooser() as chooser:
        page.click("[data-attach=image]")
    chooser.value.set_files(str(screen.ROOT / "assets" / "examples" / "picture.png"))
    page.wait_for_selector(".chip-image:not(.pending)")
    talk(page, "what is this")
    page.locator("#chat .user button[name=words]").last.evaluate("(one) => one.click()")
    page.wait_for_selector(".composer[data-state=busy]")
    screen.finished(page)
    yield "in words", page
    page.locator("#chat button[name=edit]").last.evaluate("(one) => one.click()")
    page.wait_for_selector(".composer.editing")
    yield "editing", page
    page.keyboard.press("Escape")
    page.hover(".composer-talk")
    page.mouse.down()
    page.wait_for_selector(".composer[data-state=recording]")
    page.wait_for_timeout(1500)
    yield "recording", page
    page.mouse.up()
    screen.finished(page)
    yield "spoken", page
    page.click(".composer-free")
    page.wait_for_timeout(700)
    yield "hands-free", page
    page.click(".composer-free")
    page.evaluate("() => { navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError') } }")
    page.click(".composer-free")
    page.wait_for_timeout(1000)
    yield "no microphone", page
    foreign = screen.opened(browser, url, 1280, 800, locale="zh-CN")
    yield "Chinese", foreign
    foreign.context.close()


def shoot(page: Page, folder: Path, name: str) -> None:
    """The six pictures of one state, and their sheet."""
    name = name.replace(" ", "-")
    rows = []
    for theme in ("Light", "Dark"):
        page.evaluate("(theme) => document.querySelector('.composer').api.paint(theme)", theme)
        row = []
        for (width, height), factor in zip(SIZES, SHRUNK, strict=True):
            page.set_viewport_size({"width": width, "height": height})
            if name not in UNSCROLLED:
                page.evaluate("() => document.querySelector('#chat .bubble-wrap').scrollTo(0, 1e6)")
            page.wait_for_timeout(400)
            path = folder / f"{name}-{width}-{theme.lower()}.png"
            page.screenshot(path=path)
            over = page.evaluate("document.documentElement.scrollWidth")
            if over > width:
                sys.stdout.write(f"{name}: {over} px wide on {width}\n")
            with Image.open(path) as image:
                small = (round(image.width * factor), round(image.height * factor))
                row.append(image.convert("RGB").resize(small, Image.Resampling.LANCZOS))
        rows.append(row)
    page.evaluate("() => document.querySelector('.composer').api.paint('Light')")
    page.set_viewport_size({"width": 1280, "height": 800})
    tall = max(image.height for image in rows[0])
    sheet = Image.new("RGB", (sum(image.width + GAP for image in rows[0]), 2 * (tall + GAP)), "grey")
    for line, row in enumerate(rows):
        left = 0
        for image in row:
            sheet.paste(image, (left, line * (tall + GAP)))
            left += image.width + GAP
    sheet.save(folder / f"{name}.png")


def every_state(folder: Path, wanted: tuple[str, ...], make: Callable[[Path], object]) -> None:
    """Walk through all states; shoot those that are wanted, or all."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="anygpt-tool-") as scratch, contextlib.ExitStack() as closing:
        stage = make(Path(scratch))
        closing.callback(stage.close)  # type: ignore[attr-defined]
        browser = closing.enter_context(screen.chromium(screen.ROOT / "assets" / "examples" / "request.wav"))
        page = screen.opened(browser, stage.url, 1280, 800)  # type: ignore[attr-defined]
        page.set_default_timeout(60_000)
        for name, seen in states(page, browser, stage.url):  # type: ignore[attr-defined]
            if not wanted or name in wanted:
                shoot(seen, folder, name)
                sys.stdout.write(f"{name}\n")
                sys.stdout.flush()


def main(out: str, *given: str) -> None:
    """Messages to a picture, or a folder of all states."""
    if Path(out).suffix != ".png":
        from tests.browser.stage import Stage

        every_state(Path(out), given, Stage)
        return
    with screen.served() as url, screen.chromium() as browser:
        page = screen.opened(browser, url, 1100, 900, scale=1.5)
        for message in given:
            talk(page, message)
        page.wait_for_timeout(1000)
        page.screenshot(path=out)


if __name__ == "__main__":
    main(*sys.argv[1:])
