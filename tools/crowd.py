"""Many people at once: does everybody get their own reply, and does nothing fail?

    python tools/crowd.py [--people 10] [--minutes 5] [--url http://127.0.0.1:7860]

Each person first asks alone; the replies (ids and media) are written down. Then all ask at the same time,
over and over, each with their own words, pictures and seeds. Equal questions give equal replies, so any reply that differs from
the one that was given alone would be somebody else's, or damaged; `crossed` counts those with other ids, `damaged` those whose ids
are right and whose media differ by more than rounding (busy processors sum in another order).
Without --url the shipped weights are served here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

THINGS = ("dog", "cat", "boat", "tree", "car", "horse", "bird", "house", "fish", "train")
COLOURS = ("red", "orange", "gold", "green", "teal", "navy", "purple", "pink", "brown", "gray")
READING_S = 0.6  # before the next message: a public page answers 600 a minute, and ten people who never stop ask for more
ASKS = 6  # different questions of one person
ROUNDING = 0.02  # of the range of a picture or a sound


def values(path: Path) -> np.ndarray:
    """A medium as float32 in [-1, 1]: pixels (height, width, 3) or samples (count,)."""
    if path.suffix == ".wav":
        import soundfile

        samples: np.ndarray = soundfile.read(path, dtype="float32")[0]
        return samples
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"), np.float32) / 127.5 - 1


def difference(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """The largest difference of two replies' media; infinite if they are not of the same kind and size."""
    if [item.shape for item in one] != [item.shape for item in other]:
        return float("inf")
    return max((float(np.abs(mine - theirs).max(initial=0.0)) for mine, theirs in zip(one, other, strict=True)), default=0.0)


@dataclass
class Result:
    """What happened in the crowd. seconds: of each reply, waiting included."""

    replies: int = 0
    crossed: int = 0
    damaged: int = 0
    rounding: float = 0.0  # the largest difference of media that counts as equal
    errors: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """As plain values."""
        found = sorted(self.seconds)
        times = {"median_s": round(statistics.median(found), 2), "longest_s": round(found[-1], 2)} if found else {}
        counts = {"replies": self.replies, "errors": len(self.errors), "crossed": self.crossed, "damaged": self.damaged}
        return {**counts, "rounding": round(self.rounding, 5), **times, "first_errors": self.errors[:3]}


class Person:
    """Somebody with words, pictures and seeds of their own."""

    def __init__(self, url: str, number: int, folder: Path) -> None:
        import soundfile
        from gradio_client import Client, handle_file
        from PIL import Image

        down = folder / f"person-{number}"
        self.client = Client(url, verbose=False, analytics_enabled=False, download_files=str(down))
        self.number = number
        picture = folder / f"{number}.png"
        Image.new("RGB", (96, 64), COLOURS[number % len(COLOURS)]).save(picture)
        tune = folder / f"{number}.wav"
        soundfile.write(tune, 0.3 * np.sin(2 * np.pi * 110 * 2 ** (number / 6) * np.arange(2 * 32_000) / 32_000), 32_000)
        thing = THINGS[number % len(THINGS)]
        self.asks: list[tuple[Any, ...]] = [  # text, image, speech, music, output, preset, seed
            (f"Draw a {thing} for visitor {number}.", None, None, None, "image", "fast", 10 * number),
            (f"What is in picture {number}?", handle_file(str(picture)), None, None, "text", "fast", 10 * number + 1),
            (f"Tell me about the {thing}, number {number}.", None, None, None, "", "fast", 10 * number + 2),
            (f"Say: I see a {thing}.", None, None, None, "speech", "fast", 10 * number + 3),
            (f"Play something for a {thing}.", None, None, None, "music", "fast", 10 * number + 4),
            ("What do you hear?", None, None, handle_file(str(tune)), "text", "fast", 10 * number + 5),
        ]
        self.alone: list[tuple[str, list[np.ndarray]]] = []

    def ask(self, which: int) -> tuple[str, list[np.ndarray]]:
        """One reply: a fingerprint of its ids, and its media as arrays in [-1, 1]."""
        reply = self.client.predict(*self.asks[which], api_name="/chat")
        ids = hashlib.sha256(json.dumps([reply["ids"], reply["heard"], reply["seed"]]).encode())
        media = []
        for part in reply["parts"]:
            ids.update(part.get("text", "").encode())
            if part.get("file"):
                file = part["file"]
                media.append(values(Path(file["path"] if isinstance(file, dict) else file)))
        return ids.hexdigest(), media


def run(url: str, people: int, seconds: float) -> Result:
    """The whole test against a server."""
    result, lock = Result(), threading.Lock()
    with tempfile.TemporaryDirectory() as folder:
        crowd = [Person(url, number, Path(folder)) for number in range(people)]
        for person in crowd:
            person.alone = [person.ask(which) for which in range(ASKS)]
        end = time.monotonic() + seconds

        def keep_asking(person: Person) -> None:
            turn = person.number
            while time.monotonic() < end:
                time.sleep(READING_S)
                which, start = turn % ASKS, time.monotonic()
                turn += 1
                try:
                    ids, media = person.ask(which)
                    apart = difference(media, person.alone[which][1])
                    with lock:
                        result.replies += 1
                        result.crossed += ids != person.alone[which][0]
                        result.damaged += ids == person.alone[which][0] and apart > ROUNDING
                        result.rounding = max(result.rounding, apart if apart <= ROUNDING else 0.0)
                        result.seconds.append(time.monotonic() - start)
                except Exception as error:  # whatever goes wrong is what this test looks for
                    with lock:
                        result.errors.append(f"{type(error).__name__}: {error}")

        threads = [threading.Thread(target=keep_asking, args=(person,)) for person in crowd]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return result


def main() -> int:
    """Run it and print the figures; 1 if anything failed or crossed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--url", help="a page that is being served (default: serve the shipped weights)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    options = parser.parse_args()
    if options.url is None:
        import screen

    with nullcontext(options.url) if options.url else screen.served() as url:
        result = run(url, options.people, 60 * options.minutes)
    text = json.dumps({"people": options.people, "minutes": options.minutes, **result.record()}, indent=1)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")
    return 1 if result.errors or result.crossed or result.damaged or not result.replies else 0


if __name__ == "__main__":
    sys.exit(main())
