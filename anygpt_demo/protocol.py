"""The chat and base templates: turns to ids, and the ids of a reply to events.

Structure is integers from the start: marks and codes are appended as ids, only the words between them pass through
sentencepiece, one segment at a time (which is also how the official tokenizer behaves). Strings are exactly those
the official models were trained with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from anygpt_demo.conversation import MediaPart, Part, TextPart, Turn
from anygpt_demo.vocabulary import SPACE, CodeRange, TextStream, Vocabulary

SYSTEM = "You are an AI assistant named MMGPT who can understand and generate multimodal content, including text, speech, images and audio."
VOICE_COMMAND = "Please recognize the voice command and give reply and voice"  # follows every spoken message
TEXT_INPUT = "This is input: "  # introduces a text in the base template

Segment = str | list[int]  # words, or ids of marks and codes
History = Literal["clean", "official"]


# ---------------------------------------------------------------- turns to ids


def flatten(vocabulary: Vocabulary, segments: Iterable[Segment]) -> list[int]:
    """Segments to ids: neighbouring strings are joined, every joined string is encoded on its own."""
    ids: list[int] = []
    words = ""
    for segment in segments:
        if isinstance(segment, str):
            words += segment
            continue
        ids += vocabulary.encode_text(words)
        ids += segment
        words = ""
    return ids + vocabulary.encode_text(words)


def input_order(vocabulary: Vocabulary) -> tuple[str, ...]:
    """Order of media in a person's message: as registered, speech last."""
    return tuple(sorted(vocabulary.ranges, key=lambda name: name == "speech"))


def human_message(vocabulary: Vocabulary, turn: Turn) -> list[Segment]:
    """A person's message: every medium and a space, then the words; a spoken message ends with the voice command.

    Where a person has placed the files among the words, they stand there.
    """
    segments: list[Segment] = []
    spoken = False
    if turn.placed:
        return _placed_message(vocabulary, turn)
    for name in input_order(vocabulary):
        for part in turn.parts:
            if isinstance(part, MediaPart) and part.modality == name:
                segments += [vocabulary.block(name, part.codes), " "]
                spoken = spoken or name == "speech"
    words = turn.text.strip() + (f" {VOICE_COMMAND}" if spoken else "")
    if words:
        segments.append(words)
    elif segments:
        segments.pop()
    return segments


def _placed_message(vocabulary: Vocabulary, turn: Turn) -> list[Segment]:
    """The parts in order with one space between, and the voice command if one of them is spoken."""
    spoken = any(isinstance(part, MediaPart) and part.modality == "speech" for part in turn.parts)
    segments: list[Segment] = []
    for part in (*turn.parts, *([TextPart(VOICE_COMMAND)] if spoken else [])):
        if segments:
            segments.append(" ")
        segments.append(part.text.strip() if isinstance(part, TextPart) else vocabulary.block(part.modality, part.codes))
    return segments


def reply_message(vocabulary: Vocabulary, turn: Turn) -> list[Segment]:
    """The model's message, parts in order with one space between; `heard` opens the chain <-Ins-> heard <-Res-> reply."""
    segments: list[Segment] = []
    if turn.heard is not None:
        segments += [[vocabulary.ins], f" {turn.heard.strip()}\n ", [vocabulary.res]]
    for part in turn.parts:
        if segments:
            segments.append(" ")
        segments.append(part.text.strip() if isinstance(part, TextPart) else vocabulary.block(part.modality, part.codes))
    return segments


def encode(vocabulary: Vocabulary, turns: Sequence[Turn], *, history: History = "clean", system: str = SYSTEM) -> list[int]:
    """The prompt of the next reply: system sentence, all turns, and an open [MMGPT]: .

    Replies are read back from Turn.ids when they are known. `official` reproduces the official command line's
    history, with its doubled colon, its spaces between codes and its roles by position.
    """
    if history == "official":
        return _encode_official(vocabulary, turns, system)
    ids = [vocabulary.bos]
    segments: list[Segment] = [system + "\n"]
    for turn in turns:
        if turn.role == "human":
            segments += [[vocabulary.human], ": ", *human_message(vocabulary, turn), [vocabulary.eoh], "\n"]
            continue
        segments += [[vocabulary.mmgpt]]
        segments += [":", list(turn.ids)] if turn.ids else [": ", *reply_message(vocabulary, turn)]
        segments += [[vocabulary.eos], "\n"]
    return ids + flatten(vocabulary, [*segments, [vocabulary.mmgpt], ":"])


def anything(vocabulary: Vocabulary, name: str) -> list[int]:
    """The prompt of a chat in which a person asks for just anything of a modality."""
    return encode(vocabulary, [Turn("human", (TextPart(vocabulary.ranges[name].modality.anything),))])


def training_ids(vocabulary: Vocabulary, turns: Sequence[Turn], *, system: str = SYSTEM) -> tuple[np.ndarray, np.ndarray]:
    """A whole conversation that ends with a reply. Returns ids int64 (n,) and a bool mask (n,).

    The mask is true where the id is to be predicted: the words and codes of replies, their <eos>, and the last </s>.
    """
    ids, mask = [vocabulary.bos], [False]

    def add(segments: Sequence[Segment], learn: bool) -> None:
        new = flatten(vocabulary, segments)
        ids.extend(new)
        mask.extend([learn] * len(new))

    lead: list[Segment] = [system + "\n"]
    for turn in turns:
        if turn.role == "human":
            add([*lead, [vocabulary.human], ": ", *human_message(vocabulary, turn), [vocabulary.eoh]], False)
        else:
            add([*lead, [vocabulary.mmgpt]], False)
            _add_reply(vocabulary, ids, mask, reply_message(vocabulary, turn))
        lead = ["\n"]
    ids.append(vocabulary.stop)
    mask.append(True)
    return np.asarray(ids, dtype=np.int64), np.asarray(mask, dtype=bool)


def _add_reply(vocabulary: Vocabulary, ids: list[int], mask: list[bool], message: list[Segment]) -> None:
    """Append `: message<eos>`; the colon is given, the rest is learnt."""
    given = vocabulary.encode_text(":")
    new = [*flatten(vocabulary, [": ", *message]), vocabulary.eos]
    known = 0
    while known < len(given) and new[known] == given[known]:
        known += 1
    ids.extend(new)
    mask.extend([False] * known + [True] * (len(new) - known))


def _base_input(vocabulary: Vocabulary, part: Part) -> list[Segment]:
    return [TEXT_INPUT + part.text] if isinstance(part, TextPart) else [vocabulary.block(part.modality, part.codes)]


def spoken_s(vocabulary: Vocabulary, turn: Turn) -> float | None:
    """Seconds of speech in a person's turn; None without any."""
    item = vocabulary.ranges.get("speech")
    frames = sum(len(part.codes) for part in turn.parts if not isinstance(part, TextPart) and part.modality == "speech")
    return frames / (item.modality.frame_rate_hz or 50.0) if item is not None and frames else None


def encode_base(vocabulary: Vocabulary, instruction: str, source: Part) -> list[int]:
    """The base model's prompt: one instruction and one input, no system sentence."""
    segments = [[vocabulary.human], f": {instruction} ", *_base_input(vocabulary, source), [vocabulary.eoh], " ", [vocabulary.mmgpt], ":"]
    return [vocabulary.bos, *flatten(vocabulary, segments)]


def training_base(vocabulary: Vocabulary, instruction: str, source: Part, target: Part) -> tuple[np.ndarray, np.ndarray]:
    """A pre-training row, one input and one output. Returns ids int64 (n,) and a bool mask (n,) as training_ids does."""
    colon = len(vocabulary.encode_text(":"))
    ids = encode_base(vocabulary, instruction, source)[:-colon]
    mask = [False] * len(ids)
    _add_reply(vocabulary, ids, mask, reply_message(vocabulary, Turn("mmgpt", (target,))))
    return np.asarray([*ids, vocabulary.stop], dtype=np.int64), np.asarray([*mask, True], dtype=bool)


# ---------------------------------------------------------------- the official history


def official_message(vocabulary: Vocabulary, reply: Sequence[int]) -> list[Segment] | None:
    """A reply as the official command line stores it: everything after the last [MMGPT], colon included, up to the
    last <eom>, else the last <eos>, words and marks joined by spaces. None where it fails for want of an end mark.

    reply: the ids the model wrote after the prompt.
    """
    ids = [vocabulary.mmgpt, *vocabulary.encode_text(":"), *reply]
    ids = ids[len(ids) - ids[::-1].index(vocabulary.mmgpt) :]
    for mark in ("<eom>", "<eos>"):
        number = vocabulary.marks.get(mark)
        if number is not None and number in ids:
            ids = ids[: len(ids) - 1 - ids[::-1].index(number)]
            break
    else:
        return None
    pieces: list[Segment] = []
    words: list[int] = []
    for number in [*ids, -1]:
        if 0 <= number < vocabulary.text_size:
            words.append(number)
            continue
        text = _official_words(vocabulary, words)
        words = []
        if text:
            pieces.append(text)
        if number >= 0:
            pieces.append([number])
    return _strip(_joined(pieces))


def _official_words(vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    """Word pieces to text as the slow tokenizer does it: the first piece loses a space twice."""
    names = [vocabulary.pieces.id_to_piece(number) for number in ids if vocabulary.is_text(number)]
    if names and names[0].startswith(SPACE):
        names[0] = names[0][1:]
    return str(vocabulary.pieces.decode_pieces(names))


def _joined(pieces: Sequence[Segment]) -> list[Segment]:
    """Put a space between all pieces."""
    segments: list[Segment] = []
    for piece in pieces:
        segments += [" ", piece] if segments else [piece]
    return segments


def _strip(segments: list[Segment]) -> list[Segment]:
    """Strip white space from both ends."""
    joined: list[Segment] = []
    for segment in segments:
        if joined and isinstance(segment, str) and isinstance(joined[-1], str):
            joined[-1] += segment
        else:
            joined.append(segment)
    if joined and isinstance(joined[0], str):
        joined[0] = joined[0].lstrip()
    if joined and isinstance(joined[-1], str):
        joined[-1] = joined[-1].rstrip()
    return joined


def _encode_official(vocabulary: Vocabulary, turns: Sequence[Turn], system: str) -> list[int]:
    segments: list[Segment] = [system + "\n"]
    messages: list[tuple[Turn, list[Segment]]] = []
    for turn in turns:
        if turn.role == "human":
            messages.append((turn, human_message(vocabulary, turn)))
            continue
        written = list(turn.ids) or flatten(vocabulary, [" ", *reply_message(vocabulary, turn), [vocabulary.eos]])
        stored = official_message(vocabulary, written)
        if stored is not None:
            messages.append((turn, stored))
    for index, (turn, message) in enumerate(messages):
        name = vocabulary.human if turn.role == "human" else vocabulary.mmgpt
        segments += [[name], ": ", *message]
        if index % 2 == 0:
            segments += [[vocabulary.eoh], "\n"]
        else:
            segments += [[vocabulary.eos], *(["\n"] if index < len(messages) - 1 else [])]
    return [vocabulary.bos, *flatten(vocabulary, [*segments, [vocabulary.mmgpt], ":"])]


# ---------------------------------------------------------------- ids to events


@dataclass(frozen=True)
class TextDelta:
    """More words. heard: they repeat what the person said, not the reply."""

    text: str
    heard: bool = False


@dataclass(frozen=True)
class HeardClosed:
    """The transcript of the person's speech is complete."""

    text: str


@dataclass(frozen=True)
class BlockOpened:
    """A picture or sound begins."""

    modality: str


@dataclass(frozen=True)
class BlockProgress:
    """One more whole frame: `frames` so far, `frame` its codes, one per layer."""

    modality: str
    frames: int
    frame: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class BlockClosed:
    """A complete block. codes: int64 (frames, layers). forced: it was closed because generation ended inside it."""

    modality: str
    codes: np.ndarray
    forced: bool = False


@dataclass(frozen=True)
class BlockDropped:
    """An incomplete or malformed block, left out whole."""

    modality: str
    cause: str


@dataclass(frozen=True)
class Malformed:
    """An id that has no business where it stands; it was left out."""

    number: int
    cause: str


@dataclass(frozen=True)
class Ended:
    """The reply is over. reason: eos, stop (by the person), budget or fault."""

    reason: str


Event = TextDelta | HeardClosed | BlockOpened | BlockProgress | BlockClosed | BlockDropped | Malformed | Ended


class Parser:
    """Reply ids to events, one id at a time. Strict: every id out of place is reported and left out. Total: it never
    raises. `kept` holds the ids of everything that was accepted, <eos> and </s> excluded.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.kept: list[int] = []
        self.ended = False
        self._words = TextStream(vocabulary)
        self._heard: str | None = None  # what was heard so far, None outside <-Ins-> ... <-Res->
        self._chain_used = False
        self._closing = False
        self._item: CodeRange | None = None
        self._block_at = 0  # where the open block begins in `kept`
        self._codes: list[int] = []

    def feed(self, number: int) -> list[Event]:
        """Take one id and return what it brings."""
        if self.ended:
            return [Malformed(number, "after the end")]
        if self._item is not None:
            return self._feed_block(self._item, number)
        if number == self.vocabulary.stop:
            return self.finish("eos")
        if self._closing:
            return [Malformed(number, "after <eos>")]
        if self.vocabulary.is_text(number):
            self.kept.append(number)
            return self._delta(self._words.feed(number))
        return self._feed_mark(number)

    def finish(self, reason: str) -> list[Event]:
        """End the reply here: whole frames of an open block are kept if they suffice, else it is dropped."""
        if self.ended:
            return []
        events: list[Event] = []
        if self._item is not None:
            events += self._close_early(self._item)
        events += self._flush()
        if self._heard is not None:
            events.append(HeardClosed(self._heard))
            self._heard = None
        self.ended = True
        return [*events, Ended(reason)]

    def _delta(self, text: str) -> list[Event]:
        if not text:
            return []
        if self._heard is not None:
            self._heard += text
        return [TextDelta(text, heard=self._heard is not None)]

    def _flush(self) -> list[Event]:
        return self._delta(self._words.end())

    def _feed_mark(self, number: int) -> list[Event]:
        tokens = self.vocabulary
        if number == tokens.eos:
            self._closing = True
            return self._flush()
        if number in tokens.starts and self._heard is None:
            events = self._flush()
            self._item = tokens.ranges[tokens.starts[number]]
            self._block_at, self._codes = len(self.kept), []
            self.kept.append(number)
            self._chain_used = True
            return [*events, BlockOpened(self._item.modality.name)]
        if number == tokens.ins and not self._chain_used:
            events = self._flush()
            self._chain_used, self._heard = True, ""
            self.kept.append(number)
            return events
        if number == tokens.res and self._heard is not None:
            events = self._flush()
            heard, self._heard = self._heard, None
            self.kept.append(number)
            return [*events, HeardClosed(heard)]
        return [Malformed(number, "not a word and not a mark that may stand here")]

    def _feed_block(self, item: CodeRange, number: int) -> list[Event]:
        facts = item.modality
        layer = len(self._codes) % facts.layers
        low, high = item.layer(layer)
        frames = len(self._codes) // facts.layers
        if low <= number < high and frames < facts.frames.stop - 1:
            self._codes.append(number - low)
            self.kept.append(number)
            if layer < facts.layers - 1:
                return []
            return [BlockProgress(facts.name, frames + 1, tuple(self._codes[-facts.layers :]))]
        if number == item.end and layer == 0 and frames in facts.frames:
            return [self._close(item, forced=False)]
        dropped = self._drop(f"after {len(self._codes)} codes came an id that does not belong there")
        return [*dropped, Malformed(number, f"inside {facts.name}"), *self._again(number)]

    def _again(self, number: int) -> list[Event]:
        """After a dropped block, the id that broke it may still begin something."""
        tokens = self.vocabulary
        meaningful = number in tokens.starts or number in (tokens.eos, tokens.stop) or tokens.is_text(number)
        return self.feed(number) if meaningful else []

    def _close(self, item: CodeRange, forced: bool) -> Event:
        codes = np.asarray(self._codes, dtype=np.int64).reshape(-1, item.modality.layers)
        self.kept.append(item.end)
        self._item = None
        return BlockClosed(item.modality.name, codes, forced)

    def _close_early(self, item: CodeRange) -> list[Event]:
        facts = item.modality
        whole = len(self._codes) // facts.layers
        if whole not in facts.frames:
            return self._drop("it was not finished")
        cut = len(self._codes) - whole * facts.layers
        if cut:
            del self._codes[-cut:]
            del self.kept[-cut:]
        return [self._close(item, forced=True)]

    def _drop(self, cause: str) -> list[Event]:
        assert self._item is not None
        name = self._item.modality.name
        del self.kept[self._block_at :]
        self._item = None
        return [BlockDropped(name, cause)]


def blocks(vocabulary: Vocabulary, ids: Sequence[int]) -> list[tuple[int, int]]:
    """Where the blocks of a reply's ids lie: half-open places from start mark to end mark, in order."""
    found: list[tuple[int, int]] = []
    start = 0
    for place, number in enumerate(ids):
        if number in vocabulary.starts:
            start = place
        elif number in vocabulary.ends:
            found.append((start, place + 1))
    return found


def heard_ids(vocabulary: Vocabulary, ids: Sequence[int]) -> int:
    """How many ids at the beginning of a reply are the transcript of what was spoken, its marks included."""
    if vocabulary.ins not in ids:
        return 0
    return ids.index(vocabulary.res) + 1 if vocabulary.res in ids else len(ids)


def places(vocabulary: Vocabulary, turn: Turn) -> list[tuple[int, int]]:
    """Where the ids of each part of a reply lie: half-open; blocks with their marks, words with the spaces around them.

    Raises ValueError if its ids are not those of its parts.
    """
    spans = blocks(vocabulary, turn.ids)
    if (turn.parts and not turn.ids) or len(spans) != sum(isinstance(part, MediaPart) for part in turn.parts):
        raise ValueError("these ids stand for other parts")
    found: list[tuple[int, int]] = []
    at = heard_ids(vocabulary, turn.ids)
    for part, following in zip(turn.parts, (*turn.parts[1:], None), strict=True):
        first, last = spans[0] if spans else (len(turn.ids), len(turn.ids))
        if isinstance(part, MediaPart):
            found.append(spans.pop(0))
        elif isinstance(following, TextPart):  # a block between them was left out
            last = at + _until(vocabulary, turn.ids[at:first], part.text)
            found.append((at, last))
        else:
            last = first
            found.append((at, last))
        at = last
    return found


def _until(vocabulary: Vocabulary, ids: Sequence[int], text: str) -> int:
    """How many of the ids write a text."""
    stream, letters = TextStream(vocabulary), 0
    for count, number in enumerate(ids, 1):
        letters += len(stream.feed(number))
        if letters >= len(text):
            return count
    return len(ids)


def parse(vocabulary: Vocabulary, ids: Iterable[int], reason: Callable[[], str] = lambda: "budget") -> Iterable[Event]:
    """All events of a reply; `reason` is asked for the finish reason if the ids end without </s>."""
    parser = Parser(vocabulary)
    for number in ids:
        yield from parser.feed(number)
    yield from parser.finish(reason())
