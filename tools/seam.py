"""Music longer than one block, by the shipped weights: its level where a block goes on, and the tempo that is heard on the way.

    python tools/seam.py [--seconds 30] [--seeds 2] [--json FILE]

Each request of REQUESTS is played with each seed and made longer as the page does it. A step of level is that of the 240 ms after a
place against the 240 ms before it, without its sign; the places elsewhere are half a second from any seam, or more. The judge of
eval/judges_music.py says whether each five seconds are slow, medium or fast.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from anygpt_demo.chat import Chat, Made, Message, Settings, Update
from anygpt_demo.cli import say
from anygpt_demo.conversation import Conversation, MediaPart
from anygpt_demo.eval.judges_music import PATH, Listener
from anygpt_demo.longer import lengthen
from anygpt_demo.media import Audio

REQUESTS = {"slow": "Play some slow classical music.", "medium": "Play some medium-tempo rock music.", "fast": "Play some fast rock music."}
WINDOW_S = 0.24
AWAY_S = 0.5  # from any seam
PLACES = 200  # elsewhere
HEARD_S = 5.0  # what the judge hears at once


class Blocks:
    """An engine that notes how many ids each of its blocks has got."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.context, self.cache = engine, engine.context, engine.cache
        self.counts: list[int] = []

    def generate(self, *given: Any, **options: Any) -> Iterator[int]:
        """As the engine does it."""
        self.counts.append(0)
        for number in self.engine.generate(*given, **options):
            self.counts[-1] += 1
            yield number


def made(updates: Iterator[Update]) -> Made:
    """The piece of music that comes with some updates."""
    found = [update for update in updates if isinstance(update, Made) and update.part.modality == "music"]
    if not found:
        raise SystemExit("no music came")
    return found[-1]


def play(chat: Chat, request: str, seconds: float, seed: int) -> tuple[Audio, list[float]]:
    """A piece, and where in it a block goes on, in seconds."""
    conversation = Conversation()
    first = made(chat.reply(conversation, Message(request), seed=seed, settings=Settings(output="music", lead=4)))
    assert first.part.codes is not None
    facts = chat.vocabulary.ranges["music"].modality
    number = next(at for at, part in enumerate(conversation.turns[-1].parts) if isinstance(part, MediaPart) and part.modality == "music")
    engine: Any = chat.engine
    chat.engine = blocks = Blocks(engine)
    try:
        whole = made(lengthen(chat, conversation, len(conversation.turns) - 1, number, seconds, seed=seed))
    finally:
        chat.engine = engine
    frames = np.cumsum([len(first.part.codes), *(count // facts.layers for count in blocks.counts[:-1])])
    assert isinstance(whole.media, Audio) and facts.frame_rate_hz
    return whole.media, (np.unique(frames) / facts.frame_rate_hz).tolist()


def step_db(audio: Audio, at_s: float) -> float:
    """By how many dB the level changes at a place."""
    place, size = round(at_s * audio.rate_hz), round(WINDOW_S * audio.rate_hz)
    before, after = audio.samples[max(0, place - size) : place], audio.samples[place : place + size]
    return abs(10 * float(np.log10((np.mean(after**2) + 1e-9) / (np.mean(before**2) + 1e-9))))


def elsewhere(audio: Audio, seams: Sequence[float], seed: int) -> list[float]:
    """Places away from the seams, in seconds."""
    places = np.random.default_rng(seed).uniform(WINDOW_S, audio.seconds - WINDOW_S, PLACES)
    return [place for place in places.tolist() if all(abs(place - seam) >= AWAY_S for seam in seams)]


def tempos(audio: Audio, listener: Listener) -> list[str]:
    """What the judge hears in each five seconds."""
    size = round(HEARD_S * audio.rate_hz)
    return [
        listener.hear(Audio(audio.samples[start : start + size], audio.rate_hz))["tempo"]
        for start in range(0, len(audio.samples) - size // 2, size)
    ]


def measure(seconds: float, seeds: int) -> dict[str, Any]:
    """All pieces, and what they come to together."""
    chat, listener = Chat.open(), Listener.load(PATH)
    at_seams: list[float] = []
    others: list[float] = []
    pieces = []
    for seed in range(seeds):
        for asked, request in REQUESTS.items():
            audio, seams = play(chat, request, seconds, seed)
            inside = [seam for seam in seams if WINDOW_S <= seam <= audio.seconds - WINDOW_S]
            at_seams += [step_db(audio, seam) for seam in inside]
            others += [step_db(audio, place) for place in elsewhere(audio, seams, seed)]
            heard = tempos(audio, listener)
            pieces.append({"asked": asked, "seed": seed, "seconds": round(audio.seconds, 2), "seams": len(inside), "heard": heard})
            say(f"{asked}, seed {seed}: {audio.seconds:.1f} s, {len(inside)} seams, heard {' '.join(heard)}")
    figures = {}
    for name, steps in (("at seams", at_seams), ("elsewhere", others)):
        figures[name] = {
            "n": len(steps),
            "median_db": round(float(np.median(steps)), 2),
            "p90_db": round(float(np.percentile(steps, 90)), 2),
        }
    return {"steps": figures, "pieces": pieces}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    found = measure(given.seconds, given.seeds)
    for name, item in found["steps"].items():
        say(f"level {name}: median {item['median_db']} dB, nine of ten below {item['p90_db']} dB (n = {item['n']})")
    same = sum(heard == piece["asked"] for piece in found["pieces"] for heard in piece["heard"])
    say(f"tempo: {same} of {sum(len(piece['heard']) for piece in found['pieces'])} windows as asked")
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
