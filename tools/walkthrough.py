"""The animated walk-through of the README: the real page, the shipped weights, a real Chromium, one command.

    python tools/walkthrough.py [--out assets/walkthrough.webp]

Nothing is staged: the messages are sent, the replies are whatever the weights make. Waits longer than half a second are
shortened; a line at the foot says what is being done, because the picture has no sound. At most 8 MB and about two minutes.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
import wave
from dataclasses import dataclass, field
from pathlib import Path

import screen
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Page

SIZE = (960, 720)
LIMIT = 8_000_000  # bytes
FRAME_S = 0.35  # between looks at the page while something is made
LONGEST_MS = 500  # a wait is shown for at most so long
QUALITY = ((960, 60), (800, 55), (720, 50), (640, 40))  # width and quality: the first that fits is taken
BAR = 34  # pixels below the page for the caption
PAPER, INK = (43, 63, 87), (255, 255, 255)


@dataclass
class Film:
    """Frames of the page and how long each is shown, in milliseconds."""

    page: Page
    frames: list[Image.Image] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    words: str = ""

    def look(self, shown_ms: int) -> None:
        """One frame; if nothing has changed, the last one is shown longer."""
        image = Image.new("RGB", SIZE, PAPER)
        image.paste(Image.open(io.BytesIO(self.page.screenshot(type="jpeg", quality=92))).convert("RGB"))
        ImageDraw.Draw(image).text((SIZE[0] / 2, SIZE[1] - BAR / 2), self.words, INK, ImageFont.load_default(17), "mm")
        if self.frames and image.tobytes() == self.frames[-1].tobytes():
            self.lengths[-1] += shown_ms
        else:
            self.frames.append(image)
            self.lengths.append(shown_ms)

    def caption(self, words: str, shown_ms: int = 2000) -> None:
        """What is done now, below the page."""
        self.words = words
        self.look(shown_ms)

    def hold(self, shown_ms: int = 4000) -> None:
        """Time to look."""
        self.page.wait_for_timeout(400)
        self.look(shown_ms)

    def until_idle(self) -> None:
        """The reply as it grows."""
        before = time.monotonic()
        while self.page.locator(".composer").get_attribute("data-state") != "idle":
            self.page.wait_for_timeout(int(1000 * FRAME_S))
            spent = int(1000 * (time.monotonic() - before))
            same = len(self.frames)
            self.look(min(spent, LONGEST_MS))
            if len(self.frames) == same:  # nothing new: do not make the wait longer than it is worth
                self.lengths[-1] = min(self.lengths[-1], 2 * LONGEST_MS)
            before = time.monotonic()
        self.hold()

    def write(self, text: str) -> None:
        """Type a message and send it."""
        field_ = self.page.locator(".composer textarea")
        for end in range(0, len(text), 4):
            field_.fill(text[: end + 4])
            self.look(110)
        field_.press("Enter")
        self.page.wait_for_selector(".composer[data-state=busy]")


def attach(page: Page, kind: str, path: Path) -> None:
    """A file for the next message."""
    with page.expect_file_chooser() as chooser:
        page.click(f"[data-attach={kind}]")
    chooser.value.set_files(str(path))
    page.wait_for_selector(f".chip-{kind}:not(.pending)")


def close_drawer(page: Page) -> None:
    """Put the open drawer away."""
    page.locator(".sidebar.open .toggle-button").first.click()
    page.wait_for_timeout(500)


def play(film: Film, broken: Path) -> None:
    """The walk. broken: a file that is no picture."""
    page, examples = film.page, screen.ROOT / "assets" / "examples"
    film.caption("Text, pictures, speech and music, in and out. No GPU, no network, nothing canned.", 4000)
    film.caption("Ask for a picture: it forms while you watch")
    film.write("Draw a dog on the beach.")
    film.until_idle()
    film.caption("The strip shows the tokens. Click one to look inside, and use only the first of the 32")
    page.locator("#chat .bot .ribbon .r-image").last.click()
    page.wait_for_selector("#tokens input[name=scrub]")
    film.hold(1500)
    for amount in ("2", "8", "16", "32"):
        page.locator("#tokens input[name=scrub]").fill(amount)
        page.locator("#tokens figcaption", has_text=f"first {amount} of").wait_for()
        page.wait_for_timeout(300)
        film.look(1000)
    close_drawer(page)
    film.caption("Any message can be edited, and is answered anew")
    page.locator("#chat .user button[name=edit]").first.click(force=True)
    film.hold(1500)
    film.write("Draw a dog on the beach at night.")
    film.until_idle()
    film.caption("Show it a picture and ask")
    attach(page, "image", examples / "picture.png")
    film.hold(1200)
    film.write("What is in this picture?")
    film.until_idle()
    film.caption("Hold the button and speak; it repeats what it heard, then answers")
    page.hover(".composer-talk")
    page.mouse.down()
    page.wait_for_selector(".composer[data-state=recording]")
    for _ in range(6):
        page.wait_for_timeout(350)
        film.look(350)
    page.mouse.up()
    page.wait_for_selector(".composer[data-state=busy]")
    film.until_idle()
    film.caption("Hands-free: it hears when you have ended, and answers aloud")
    page.click(".composer-free")
    page.wait_for_selector(".composer[data-state=busy]")
    page.click(".composer-free")
    film.until_idle()
    film.caption("Ask for speech: it is heard while it is made")
    page.click("[data-output=speech]")
    film.write("Say: the dog is on the beach.")
    film.until_idle()
    film.caption("The same words in another voice: built in, or three seconds of your own")
    page.get_by_role("button", name="Voice", exact=True).click()
    page.wait_for_timeout(700)
    film.hold(1500)
    page.locator("#drawer").get_by_label("Voices").click()
    film.hold(800)
    page.get_by_role("option").nth(1).click()
    film.hold(1500)
    close_drawer(page)
    page.locator("#chat button[name=render]", has_text="Other voice").last.click(force=True)
    page.wait_for_selector(".composer[data-state=busy]")
    film.until_idle()
    film.caption("A file that cannot be read: what is wrong, why, and what to do")
    attach(page, "image", broken)
    film.write("What is this?")
    page.locator("#chat .refusal").last.wait_for()
    film.hold(2500)
    page.locator(".composer textarea").fill("")
    film.caption("Ask for music: a count, the seconds so far and the time left")
    page.click("[data-output=music]")
    film.write("Compose a fast rock tune with drums.")
    film.until_idle()
    film.caption("Music goes on from its own last frames")
    page.locator("#chat button[name=longer]").first.click(force=True)
    page.wait_for_selector(".composer[data-state=busy]")
    film.until_idle()
    film.caption("Music in: what do you hear?")
    attach(page, "music", examples / "tune.wav")
    film.write("What do you hear in this music?")
    film.until_idle()
    film.caption("How it is drawn: presets, seeds, lengths, and the numbers of each modality")
    page.get_by_role("button", name="Settings", exact=True).click()
    page.wait_for_timeout(700)
    film.hold(2000)
    page.get_by_text("Sampling per modality").click()
    film.hold(2500)
    close_drawer(page)
    film.caption("Retry with another seed, undo, edit, continue from any part, make one part anew")
    page.locator("#chat button[name=retry]").last.hover()
    film.hold(2500)
    film.caption("Every combination is tried live, with its time")
    page.get_by_role("button", name="Model", exact=True).click()
    page.get_by_role("button", name="Run the self-test").click()
    seen = -1
    while (done := page.locator("#drawer .grid .good, #drawer .grid .bad").count()) < 16:
        if done != seen:
            seen = done
            film.look(350)
        page.wait_for_timeout(400)
    film.hold(3000)
    close_drawer(page)
    film.caption("Chats are kept, searched, saved as one file that plays offline, and made again to the same tokens")
    page.get_by_role("button", name="Chats").click()
    film.hold(3500)


def save(film: Film, out: Path) -> int:
    """Write the animation in the best quality that fits. Returns its bytes. Raises SystemExit if none does."""
    for width, quality in QUALITY:
        size = (width, round(width * SIZE[1] / SIZE[0]))
        frames = [frame if frame.size == size else frame.resize(size, Image.Resampling.LANCZOS) for frame in film.frames]
        data = io.BytesIO()
        options = {"duration": film.lengths, "loop": 0, "quality": quality, "method": 3}
        frames[0].save(data, "WEBP", save_all=True, append_images=frames[1:], **options)
        if data.tell() <= LIMIT:
            out.write_bytes(data.getvalue())
            return data.tell()
    sys.exit("The walk-through is larger than 8 MB in every quality.")


def main() -> None:
    """Read the command line, and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=screen.ROOT / "assets" / "walkthrough.webp")
    options = parser.parse_args()
    request = (screen.ROOT / "assets" / "examples" / "request.wav").read_bytes()
    with tempfile.TemporaryDirectory() as folder, wave.open(io.BytesIO(request)) as spoken:
        microphone = Path(folder) / "microphone.wav"
        with wave.open(str(microphone), "wb") as heard:  # it is heard over and over: a pause in between
            heard.setparams(spoken.getparams())
            heard.writeframes(spoken.readframes(spoken.getnframes()) + bytes(2 * 2 * spoken.getframerate()))
        record(microphone, options.out)


def record(microphone: Path, out: Path) -> None:
    """Walk with the page over the shipped weights, and write the picture."""
    with screen.served() as url, screen.chromium(microphone) as browser:
        film = Film(screen.opened(browser, url, SIZE[0], SIZE[1] - BAR))
        broken = microphone.with_name("holiday.png")
        broken.write_bytes(b"this is no picture")
        play(film, broken)
    written = save(film, out)
    sys.stdout.write(f"{out}: {len(film.frames)} frames, {sum(film.lengths) / 1000:.0f} s, {written / 1e6:.1f} MB\n")


if __name__ == "__main__":
    main()
