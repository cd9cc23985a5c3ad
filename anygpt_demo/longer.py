"""Longer than one block: music that goes on from its own last frames, and speech by the sentence.

    block --its last half, as if a block began with it--> more frames --+
      ^------------------------------------------------------------------+      until the piece is as long as it should be

All frames are decoded as one line, so the sound has no seam; what the model hears of itself keeps level and tempo. In the history
the piece stays the block that the model wrote, for a longer one would not fit into its memory.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from anygpt_demo import protocol
from anygpt_demo.chat import Card, Finished, Made, Note, Progress, Sound, Update, fault, write_file
from anygpt_demo.conversation import Conversation, MediaPart, Turn
from anygpt_demo.errors import BadText, ModelFault, UserError
from anygpt_demo.grammar import CLOSING, Grammar
from anygpt_demo.media import Audio

if TYPE_CHECKING:
    from anygpt_demo.chat import Chat

SHORTEST = 50  # frames that a block may have at least when it is continued: a second of music
LONGEST_S = 120.0
TRIES = 4  # blocks in a row that the model may end at once
LETTERS = 300  # of a text that are spoken in one block; 30 s hold some 400
PAUSE_S = 0.2  # between two blocks of speech
log = logging.getLogger(__name__)


def onward(
    chat: Chat,
    prompt: Sequence[int],
    name: str,
    codes: np.ndarray,
    frames: int,
    *,
    seed: int = 0,
    stop: threading.Event | None = None,
    sampling: Mapping[str, Mapping[str, float]] | None = None,
) -> Iterator[np.ndarray]:
    """The frames that follow a block, int64 (layers,) each, until there are `frames` with those given, or the model insists on an end.

    prompt: what stood before the block. codes: int64 (T, layers), the block. sampling: as Settings has it. Equal arguments give equal
    frames.
    """
    tokens, engine = chat.vocabulary, chat.engine
    item = tokens.ranges[name]
    layers = item.modality.layers
    whole = list(np.asarray(codes))
    longest = min(item.modality.frames.stop - 1, max(len(whole), SHORTEST))  # as long as the model made the first one
    kept = max(1, min(len(whole), longest) // 2)
    keep = getattr(engine, "cache", None)
    options: dict[str, Any] = {"cache": keep()} if keep is not None else {}
    fruitless, turn = 0, 0
    while len(whole) < frames and fruitless < TRIES and not (stop is not None and stop.is_set()):
        turn += 1
        given = tokens.block(name, np.stack(whole[-kept:]))[:-1]
        room = (longest - kept) * layers + 1 + CLOSING
        limit = min(longest, kept + frames - len(whole))
        grammar = Grammar(tokens, budget=len(given) + room, limits={name: limit}, chain=False, sampling=sampling)
        grammar.begin(given)
        new: list[int] = []
        for number in engine.generate([*prompt, *given], grammar, seed=seed + turn, stop=stop, max_new=room, **options):
            if number == item.end:
                break
            new.append(number)
            if len(new) % layers == 0:
                whole.append(tokens.codes(name, new[-layers:])[0])
                yield whole[-1]
        fruitless = 0 if len(new) >= layers else fruitless + 1


def lengthen(
    chat: Chat,
    conversation: Conversation,
    index: int,
    number: int,
    seconds: float,
    *,
    seed: int = 0,
    stop: threading.Event | None = None,
    sampling: Mapping[str, Mapping[str, float]] | None = None,
) -> Iterator[Update]:
    """Go on with the music that is part `number` of turn `index` until it lasts `seconds`; its file is exchanged.

    sampling: numbers for drawing codes in the place of the family's, as Settings has them.

    Yields Progress, the sound in pieces from its beginning, Made and Finished; or a Card and Finished, and all stays as it was.
    Chat.render() of the part takes it back: its codes are decoded as they were written.
    """
    began, line = time.perf_counter(), []
    turn = conversation.turns[index]
    stopped = stop or threading.Event()
    try:
        part, prompt = _before(chat, conversation, index, number, seconds)
        facts = chat.vocabulary.ranges[part.modality].modality
        frames = round(seconds * (facts.frame_rate_hz or 1))
        codec = chat.codec(part.modality, "decode")
        sound = Sound(part.modality, codec.streamer(seed=seed)) if hasattr(codec, "streamer") else None
        yield from sound.feed(part.codes) if sound is not None else ()
        for frame in onward(chat, prompt, part.modality, part.codes, frames, seed=seed, stop=stopped, sampling=sampling):
            line.append(frame)
            known = len(part.codes) + len(line)
            yield Progress(part.modality, known * facts.layers, frames * facts.layers)
            yield from sound.feed([frame]) if sound is not None else ()
        if not line and not stopped.is_set() and frames > len(part.codes):
            raise ModelFault("This music does not go on.", "The model ends it here each time.", "Try again: another seed may go on.")
        yield from sound.finish() if sound is not None else ()
        media = sound.joined() if sound is not None and not sound.failed else codec.decode(np.stack([*part.codes, *line]), seed=seed)
    except UserError as error:
        failure: UserError | None = error
    except Exception as error:  # the border to the models: whatever they raise must not take the conversation down
        log.exception("music could not be continued")
        failure = fault("The music could not be continued.", error)
    else:
        failure = None
    if failure is not None:
        yield Card(failure)
        yield Finished("refused", None, {"total": time.perf_counter() - began}, 0)
        return
    assert isinstance(media, Audio)
    if len(part.codes) + len(line) < frames and not stopped.is_set():
        yield Note(f"The music ended by itself after {media.seconds:.1f} s.")
    folder = conversation.journal.folder if conversation.journal is not None else None
    data, suffix = write_file(media)
    file = conversation.journal.save(part.modality, suffix, data) if conversation.journal is not None else None
    new = MediaPart(part.modality, part.codes, file, part.text, round(media.seconds, 2))
    edits = [*turn.facts.get("edits", ()), {"part": number, "seed": seed, "seconds": round(media.seconds, 2)}]
    parts = (*turn.parts[:number], new, *turn.parts[number + 1 :])
    conversation.replace(index, replace(turn, parts=parts, facts={**turn.facts, "edits": edits}))
    spent = time.perf_counter() - began
    yield Made(new, media, spent, folder / file if folder is not None and file is not None else None)
    reason = "stop" if stopped.is_set() else "eos"
    yield Finished(reason, conversation.turns[index], {"total": spent}, len(line) * facts.layers)


def _before(chat: Chat, conversation: Conversation, index: int, number: int, seconds: float) -> tuple[MediaPart, list[int]]:
    """The part, and the ids before its block. Raises UserError."""
    turn = conversation.turns[index]
    part = turn.parts[number]
    if turn.role != "mmgpt" or not isinstance(part, MediaPart) or part.modality != "music":
        raise BadText("This cannot be continued.", "It is not music that the model made.", "Choose a piece of music in a reply.")
    if not 0 < seconds <= LONGEST_S:
        raise BadText(f"Music cannot last {seconds:g} s.", f"At most {LONGEST_S:g} s are made.", "Choose another length.")
    spans = protocol.blocks(chat.vocabulary, turn.ids)
    media = [item for item in turn.parts if isinstance(item, MediaPart)]
    if len(spans) != len(media):
        raise BadText("This music cannot be continued.", "It was not written by this model.", "Send your message again.")
    first = spans[sum(isinstance(item, MediaPart) for item in turn.parts[:number])][0]
    facts = chat.vocabulary.ranges[part.modality].modality
    room = chat.engine.context - first - (max(len(part.codes), SHORTEST) * facts.layers + 8)

    def count(turns: Sequence[Turn]) -> int:
        return len(protocol.encode(chat.vocabulary, turns))

    turns, _ = Conversation(conversation.turns[:index]).fit(count, room)
    return part, [*protocol.encode(chat.vocabulary, turns), *turn.ids[:first]]


def blocks_of(text: str, letters: int = LETTERS) -> list[str]:
    """A text in pieces of at most about `letters` letters that end where a sentence ends; a longer sentence is cut at a space."""
    found = [""]
    for sentence in re.findall(r"[^.!?…]+[.!?…]*[\"'”’)]*\s*", text) or [text]:
        for piece in _cut(sentence.strip(), letters):
            if found[-1] and len(found[-1]) + 1 + len(piece) > letters:
                found.append("")
            found[-1] = f"{found[-1]} {piece}".strip()
    return [piece for piece in found if piece]


def _cut(sentence: str, letters: int) -> Iterator[str]:
    while len(sentence) > letters:
        space = sentence.rfind(" ", 1, letters)
        at = space if space > 0 else letters
        yield sentence[:at].strip()
        sentence = sentence[at:].strip()
    yield sentence


def joined(pieces: Sequence[Audio], pause_s: float = PAUSE_S) -> Audio:
    """Sounds one after the other, with a pause between them."""
    rate_hz = pieces[0].rate_hz
    silence = np.zeros(round(pause_s * rate_hz), np.float32)
    parts = [samples for piece in pieces for samples in (silence, piece.samples)][1:]
    return Audio(np.concatenate(parts), rate_hz)
