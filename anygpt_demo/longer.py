"""Longer than one block: music that goes on from how it began, and speech by the sentence.

    block --its beginning, up to where it is most like the end--> other frames --+
      ^--------------------------------------------------------------------------+      until the piece is as long as it should be

All frames are decoded as one line, so the sound has no seam; the beginning that the model hears each time keeps level and tempo.
In the history the piece stays the block that the model wrote, for a longer one would not fit into its memory. A long text is said in
blocks of whole sentences, each asked for by itself, with a natural pause between them; in the history stays the first one.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from anygpt_demo import protocol
from anygpt_demo.ahead import Ahead, Halt
from anygpt_demo.chat import Card, Finished, Made, Note, Piece, Progress, Settings, Sound, Update, fault, write_file
from anygpt_demo.conversation import Conversation, MediaPart, TextPart, Turn
from anygpt_demo.errors import BadText, ModelFault, UserError
from anygpt_demo.grammar import CLOSING, Grammar
from anygpt_demo.media import Audio

if TYPE_CHECKING:
    from anygpt_demo.chat import Chat
    from anygpt_demo.codecs.base import Codec
    from anygpt_demo.media import Voice

SHORTEST = 50  # frames that a block may have at least when it is continued: a second of music
LONGEST_S = 120.0
RECENT = 30  # frames by which the place is found in the first block where it goes on
REUSED = 0.6  # of the first block are heard again at most, so that much is new
TRIES = 4  # blocks in a row that the model may end at once
PAUSE_S = 0.2  # between what is heard of two blocks of speech
EDGE_S = 0.05  # of their own quiet on either side of the pause, which is part of it
QUIET = 0.02  # of the loudest sample so far: what is below is silence
READ = "Read this aloud: "  # asks for one block
ASKED = re.compile(
    r"\s*(?:(?:please|can you|could you|i want to hear you)[,\s]+)*(?:say|speak|read)"
    r"(?:\s+(?:this|these|that|it|the|my|following|text|words?|sentences?|lines?|story|poem|aloud|out|loud|slowly|after|to|for|me))*"
    r"\s*(?::|\n|(?=[\"“]))(?P<quote>.+)",
    re.IGNORECASE | re.DOTALL,
)
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
    first = np.asarray(codes)[:longest]
    keep = getattr(engine, "cache", None)
    options: dict[str, Any] = {"cache": keep()} if keep is not None else {}
    fruitless, turn = 0, 0
    while len(whole) < frames and fruitless < TRIES and not (stop is not None and stop.is_set()):
        turn += 1
        kept = like_now(np.stack(whole), first)
        given = tokens.block(name, first[:kept])[:-1]
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


def like_now(whole: np.ndarray, first: np.ndarray) -> int:
    """How many frames of the first block had been played where it was most like the end of all frames; at most REUSED of it.

    A model plays from the first beat on. Frames that begin elsewhere are another rhythm to it, and the tempo is soon lost; what it
    began with keeps tempo, key and level. whole, first: int64 (T, layers), all frames so far and the first block; the first codebook is
    compared, which holds the rhythm.
    """
    count = max(1, min(RECENT, len(first) // 3))
    recent = whole[-count:, 0]
    places = range(count, max(count, int(REUSED * len(first))) + 1)
    return max(places, key=lambda place: float((first[place - count : place, 0] == recent).mean()))


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


def blocks_of(text: str, letters: int) -> list[str]:
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


def quoted(text: str) -> str:
    """The words that a message asks to be said ("Read this aloud: ..."), or nothing if it asks for something else."""
    found = ASKED.fullmatch(text)
    return found["quote"].strip().strip('"“”').strip() if found else ""


class Pauses:
    """Joins sounds that come in pieces, with a pause between them in the place of the silence at their own ends.

    Samples are float32 (n,) at rate_hz. A quiet end waits until it is known whether the sound goes on.
    """

    def __init__(self, rate_hz: int, pause_s: float = PAUSE_S) -> None:
        self.pause, self.edge = round(pause_s * rate_hz), round(min(EDGE_S, pause_s / 2) * rate_hz)
        self.held = np.zeros(0, np.float32)
        self.peak = 0.0
        self.owed: int | None = None  # samples of silence before the next sound

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """More of a sound; what can be heard of it by now."""
        line = np.concatenate([self.held, samples])
        self.peak = max(self.peak, float(np.abs(line).max(initial=0.0)))
        loud = np.flatnonzero(np.abs(line) > QUIET * self.peak)
        if not len(loud):
            self.held = line
            return line[:0]
        silence, first = line[:0], 0
        if self.owed is not None:
            first = max(0, int(loud[0]) - self.edge)
            silence = np.zeros(max(0, self.owed - (int(loud[0]) - first)), np.float32)
            self.owed = None
        last = int(loud[-1]) + 1
        self.held = line[last:]
        return np.concatenate([silence, line[first:last]])

    def turn(self) -> np.ndarray:
        """The sound has ended and another one follows: what remains to be heard of it."""
        if self.owed is not None:  # nothing was heard since the last one
            self.held = self.held[:0]
            return self.held
        rest, self.held = self.held[: self.edge], self.held[:0]
        self.owed = self.pause - len(rest)
        return rest

    def finish(self) -> np.ndarray:
        """The end of the last sound."""
        rest, self.held = self.held, self.held[:0]
        return rest


def joined(pieces: Sequence[Audio], pause_s: float = PAUSE_S) -> Audio:
    """Sounds one after the other, with a pause between what is heard of them."""
    pauses, parts = Pauses(pieces[0].rate_hz, pause_s), []
    for number, piece in enumerate(pieces):
        parts += [pauses.turn()] if number else []
        parts.append(pauses.feed(piece.samples))
    return Audio(np.concatenate([*parts, pauses.finish()]), pieces[0].rate_hz)


class Recital:
    """Texts said one after the other, each in a block of its own, as one sound.

    seed: of the first block's codes; given: these codes, int64 (frames, 1), if they are known. first: the frames of the first block
    so far, int64 (1,) each; written: codes of all blocks; pieces: the sound so far.
    """

    def __init__(
        self, chat: Chat, settings: Settings, voice: Voice | None, seed: int, stop: threading.Event, given: np.ndarray | None = None
    ) -> None:
        self.chat, self.settings, self.voice, self.seed, self.stop, self.given = chat, settings, voice, seed, stop, given
        self.rate_hz = chat.vocabulary.ranges["speech"].modality.sample_rate_hz or 1
        self.pauses = Pauses(self.rate_hz)
        self.first: list[np.ndarray] = []
        self.written = 0
        self.pieces: list[Audio] = []

    @property
    def audio(self) -> Audio:
        """All pieces joined."""
        return Audio(np.concatenate([np.zeros(0, np.float32), *(piece.samples for piece in self.pieces)]), self.rate_hz)

    def say(self, texts: Sequence[str], codec: Codec, seed: int) -> Iterator[Update]:
        """Yields Progress, of each block by itself, and the sound in pieces. seed: of the first block's voice.

        Raises what engine and codec raise.
        """
        for number, text in enumerate(texts):
            if self.stop.is_set():
                break
            if number:
                yield from self._told(self.pauses.turn())
            yield from self._block(number, text, codec, seed + number)
        yield from self._told(self.pauses.finish())

    def _block(self, number: int, text: str, codec: Codec, seed: int) -> Iterator[Update]:
        codes: list[np.ndarray] = self.first if number == 0 else []
        options: dict[str, Any] = {"voice": self.voice, "seed": seed}
        streamer = codec.streamer(**options) if hasattr(codec, "streamer") else None
        with closing(self._frames(number, text)) as frames:
            for frame in frames:
                codes.append(frame)
                self.written += 1
                yield Progress("speech", len(codes), None)
                for audio in streamer.feed(frame) if streamer is not None else ():
                    yield from self._told(self.pauses.feed(audio.samples))
        if not codes:
            return
        for audio in streamer.finish() if streamer is not None else [codec.decode(np.stack(codes), **options)]:
            assert isinstance(audio, Audio)
            yield from self._told(self.pauses.feed(audio.samples))

    def _frames(self, number: int, text: str) -> Generator[np.ndarray, None, None]:
        if number == 0 and self.given is not None:
            yield from self.given
        else:
            yield from _said(self.chat, text, self.settings, self.seed + number, self.stop)

    def _told(self, samples: np.ndarray) -> Iterator[Piece]:
        if len(samples):
            start = sum(piece.seconds for piece in self.pieces)
            self.pieces.append(Audio(samples, self.rate_hz))
            yield Piece("speech", self.pieces[-1], start)


def _said(chat: Chat, text: str, settings: Settings, seed: int, stop: threading.Event) -> Generator[np.ndarray, None, None]:
    """The frames of one block of speech that says a text, int64 (1,) each."""
    tokens, engine = chat.vocabulary, chat.engine
    item = tokens.ranges["speech"]
    given = [*tokens.encode_text(f" {text} "), item.start]
    prompt = [*protocol.encode(tokens, [Turn("human", (TextPart(READ + text),))]), *given]
    room = min(item.modality.frames.stop + CLOSING, engine.context - len(prompt))
    others = tuple(name for name in chat.modalities if name != "speech")
    grammar = Grammar(tokens, budget=len(given) + room, preset=settings.preset, forbid=others, chain=False, sampling=settings.sampling)
    grammar.begin(given)
    keep = getattr(engine, "cache", None)
    options: dict[str, Any] = {"cache": keep()} if keep is not None else {}
    halt = Halt(stop)
    with closing(Ahead(engine.generate(prompt, grammar, seed=seed, stop=halt, max_new=room, **options), halt).ids()) as numbers:
        for number in numbers:
            if number == item.end or stop.is_set():
                return
            yield tokens.codes("speech", [number])[0]
