"""Every modality to every other, run live: sixteen short replies, each with its time and what it made."""

from __future__ import annotations

import logging
import resource
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from anygpt_demo.chat import Card, Chat, Finished, Media, Message, Settings, read_file
from anygpt_demo.conversation import Conversation, MediaPart
from anygpt_demo.errors import UserError
from anygpt_demo.media import Audio, Picture
from anygpt_demo.view import literal

EXAMPLES = Path(__file__).resolve().parent.parent / "assets" / "examples"
ASK = {"text": "Tell me about it.", "image": "Draw it.", "speech": "Say it.", "music": "Play it."}
SHORT = {"speech": 50, "music": 25}  # frames
LABELS = {"text": "Text", "image": "Picture", "speech": "Speech", "music": "Music"}
FRAMES = 10  # of a sound that is decoded to see whether its codec works
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """One of the sixteen. note: what was made, or why nothing was; seconds: for reading, writing and rendering.

    memory: MB, the most that the process had held when it ended.
    """

    source: str
    target: str
    ok: bool
    seconds: float
    note: str
    memory: float = 0.0


class Health:
    """What is known of each codec since the start. found: "" if it works, LOADING, or what is wrong with it."""

    LOADING = "loading"

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.found = dict.fromkeys(names, self.LOADING)
        self.done = threading.Event()
        if not self.found:
            self.done.set()

    @property
    def state(self) -> str:
        """busy, bad or good."""
        if self.LOADING in self.found.values():
            return "busy"
        return "bad" if any(self.found.values()) else "good"

    def check(self, chat: Chat) -> None:
        """Load every codec and decode a few codes with it."""
        for name in self.found:
            try:
                facts = chat.vocabulary.ranges[name].modality
                count = facts.frames.start if facts.kind == "image" else FRAMES
                made = chat.codec(name).decode(np.zeros((count, facts.layers), np.int64))
                values = made.rgb if isinstance(made, Picture) else made.samples
                self.found[name] = "" if np.isfinite(values).all() else "gives what is not a number"
            except UserError as error:
                self.found[name] = error.problem
            except Exception as error:  # the border to the codecs: the page must come up and say so
                log.exception("the %s codec does not work", name)
                self.found[name] = f"does not work ({type(error).__name__})"
        self.done.set()


def memory_mb() -> float:
    """The most memory this process has held, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def sample(chat: Chat, name: str) -> Media:
    """Something to send: the example picture, the example request, two seconds of a chord."""
    files = {"image": "picture.png", "speech": "request.wav"}
    path = EXAMPLES / files.get(name, "absent")
    if path.is_file():
        return read_file(chat.vocabulary, name, path.read_bytes())[0]
    facts = chat.vocabulary.ranges[name].modality
    if facts.kind == "image":
        down, across = np.mgrid[:256, :256]
        return Picture(np.stack([across, down, 255 - across], axis=-1).astype(np.uint8))
    rate = facts.sample_rate_hz or 16_000
    seconds = np.arange(2 * rate) / rate
    chord = np.sin(2 * np.pi * np.outer([220.0, 277.2, 329.6], seconds)).sum(0)
    return Audio((0.15 * chord).astype(np.float32), rate)


def pairs(chat: Chat) -> Iterator[tuple[str, str]]:
    """All combinations: what is sent, and what is asked for."""
    names = ("text", *chat.modalities)
    return product(names, names)


def cell(chat: Chat, source: str, target: str, seed: int = 0) -> Cell:
    """One combination. It is right if the reply holds what was asked for and nothing failed."""
    start = time.perf_counter()
    media = () if source == "text" else ((source, sample(chat, source)),)
    settings = replace(Settings(output=target, max_new=400), limits=SHORT)
    error, last = "", None
    for update in chat.reply(Conversation(), Message(ASK.get(target, "Continue."), media), seed=seed, settings=settings):
        if isinstance(update, Card):
            error = update.error.problem
        elif isinstance(update, Finished):
            last = update
    turn = last.turn if last is not None else None
    made = [part.modality for part in turn.parts if isinstance(part, MediaPart)] if turn is not None else []
    ok = not error and turn is not None and (bool(turn.text) if target == "text" else target in made)
    note = error or (f"{last.tokens} tokens" if last is not None and ok else "nothing was made")
    return Cell(source, target, ok, time.perf_counter() - start, note, memory_mb())


def table(chat: Chat, done: list[Cell]) -> str:
    """The grid as HTML; cells that have not run are empty."""
    names = ("text", *chat.modalities)
    found = {(item.source, item.target): item for item in done}
    head = "".join(f'<th scope="col" class="of-{name}">{LABELS.get(name, name)}</th>' for name in names)
    rows = []
    for source in names:
        row = []
        for target in names:
            item = found.get((source, target))
            if item is None:
                row.append("<td>&#8230;</td>")
            else:
                kind, word = ("good", "works") if item.ok else ("bad", "fails")
                told = f"<small>{item.seconds:.1f} s</small><small>{item.memory:.0f} MB</small>"
                row.append(f'<td class="{kind}" title="{literal(item.note)}">{word}{told}</td>')
        rows.append(f'<tr><th scope="row" class="of-{source}">{LABELS.get(source, source)}</th>{"".join(row)}</tr>')
    works = sum(item.ok for item in done)
    told = "From the row to the column. Each cell is a real reply."
    if done:
        told = f"{works} of {len(done)} work; at most {memory_mb():.0f} MB of memory so far."
    return f'<table class="grid"><tr><td></td>{head}</tr>{"".join(rows)}</table><p class="smallprint" role="status">{told}</p>'
