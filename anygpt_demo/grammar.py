"""Which ids may follow, and how the next one is drawn: a state machine over the token language.

    text --open mark--> block --frames..., end mark--> text --<eos>--> closing --</s>--> done

A picture is exactly 32 codes; speech and music end only between whole frames; nothing nests. `<-Ins-> heard
<-Res-> reply` may stand once, before any block. A block opens only if its shortest form still fits into the token
budget, and is closed when the budget says so: random logits cannot write a malformed reply.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from anygpt_demo.modality import CHAT_WORDS, Sampling
from anygpt_demo.vocabulary import CodeRange, Vocabulary

PRESETS: Mapping[str, Sampling] = {  # how words are drawn; codes are drawn as their modality says
    "paper": Sampling(beams=5),
    "chat": CHAT_WORDS,
    "greedy": Sampling(temperature=0.0),
}
BOUNDS: Mapping[str, tuple[float, float]] = {  # of the numbers that a person may choose, both ends included
    "temperature": (0.0, 2.0),
    "top_p": (0.05, 1.0),
    "top_k": (0, 1000),
    "guidance": (1.0, 10.0),
}
CLOSING = 2  # ids that end a reply: <eos> </s>
HEARD_LIMIT = 256  # most word pieces of a transcript; 30 s of fast speech are about 200
HEARD_RATE, HEARD_LEAST = 8, 6  # most pieces per second of what was heard, and beyond that: who speaks fast says four words a second

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Slice:
    """The ids that are legal now, as ascending half-open ranges, and how to draw one of them.

    block: name of the open block (the repetition penalty looks at its codes only); None in a text. onward: words or codes, from the first
    to before the last, after each of which the same is legal, see Grammar.ahead().
    """

    ranges: Ranges
    sampling: Sampling
    block: str | None = None
    onward: tuple[int, int] = (0, 0)


class IllegalToken(ValueError):
    """An id that the grammar does not allow at this place."""


def merge(ranges: Collection[tuple[int, int]]) -> Ranges:
    """Sort half-open ranges, join those that touch and drop empty ones."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted(item for item in ranges if item[0] < item[1]):
        if joined and low <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return tuple(joined)


def one(number: int) -> tuple[int, int]:
    """The range of a single id."""
    return number, number + 1


def word_ranges(vocabulary: Vocabulary) -> Ranges:
    """All word pieces that may stand in a text: everything but unknown, begin and end."""
    control = sorted({vocabulary.unk, vocabulary.bos, vocabulary.stop})
    edges = [-1, *control, vocabulary.text_size]
    return merge([(low + 1, high) for low, high in zip(edges, edges[1:], strict=False)])


def samplings(vocabulary: Vocabulary, preset: str = "chat", own: Mapping[str, Mapping[str, float]] | None = None) -> dict[str, Sampling]:
    """How words ("text") and the codes of each modality are drawn. own: the numbers that a person has chosen, as Settings has them.

    Words with numbers of one's own are drawn one by one, never searched for.
    """
    own = own or {}
    words = vocabulary.words if preset == "chat" else PRESETS[preset]
    found = {"text": replace(words, **own["text"], beams=1) if own.get("text") else words}  # type: ignore[arg-type]
    for name, item in vocabulary.ranges.items():
        found[name] = replace(item.modality.sampling, **own.get(name, {}))  # type: ignore[arg-type]
    return found


class Grammar:
    """One reply's state. `allowed()` gives the legal ids, `advance(id)` takes one.

    budget: most ids of the reply, closing ids included. preset: how words are drawn ("chat": as the family states, if it
    does); the transcript of what was heard takes the best pieces; sampling: numbers in the place of those. limits: most frames per block
    by modality. force: a modality that the reply must contain, "text" for none, or "heard" for the transcript of what
    was spoken and nothing else; a modality opens after at most `force_after` words (0: at once, and the reply ends with it). forbid:
    modalities that must not appear. chain: whether <-Ins-> <-Res-> may be written; heard_s: seconds of what was heard, which bound
    the transcript.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        budget: int = 2048,
        preset: str = "chat",
        limits: Mapping[str, int] | None = None,
        force: str | None = None,
        force_after: int = 48,
        forbid: Collection[str] = (),
        chain: bool = True,
        sampling: Mapping[str, Mapping[str, float]] | None = None,
        heard_s: float | None = None,
    ) -> None:
        if force is not None and force not in ("text", "heard") and force not in vocabulary.ranges:
            raise ValueError(f"no modality named {force}")
        self.vocabulary = vocabulary
        self.budget = budget
        self.drawn = samplings(vocabulary, preset, sampling)
        self.words = self.drawn["text"]
        self.transcript = self.words if self.words.beams > 1 else vocabulary.heard
        most = {name: item.modality.frames.stop - 1 for name, item in vocabulary.ranges.items()}
        self.limits = {name: min(longest, (limits or {}).get(name, longest)) for name, longest in most.items()}
        forced = None if force in ("text", "heard") else force
        self.open_to = tuple(name for name in vocabulary.ranges if name not in forbid and force in (None, name))
        self.forced = forced
        self.force_after = force_after
        self.chain = chain
        self.transcribe = force == "heard"
        self.most_heard = HEARD_LIMIT if heard_s is None else min(HEARD_LIMIT, HEARD_LEAST + int(HEARD_RATE * heard_s))
        self.state: Literal["text", "block", "ending", "closing", "done"] = "text"
        self.phase: Literal["free", "heard", "said"] = "free"  # free: no chain; heard: after <-Ins->; said: after <-Res->
        self.used = 0
        self.words_used = 0
        self.blocks = 0
        self.codes = 0  # codes written in the open block
        self._item: CodeRange | None = None
        self._word_ranges = word_ranges(vocabulary)
        self._memo: dict[tuple[object, ...], Slice] = {}

    def clone(self) -> Grammar:
        """An independent copy, for beam search."""
        other = object.__new__(Grammar)
        other.__dict__.update(self.__dict__)
        return other

    @property
    def done(self) -> bool:
        """True after </s>."""
        return self.state == "done"

    @property
    def left(self) -> int:
        """Ids left in the budget."""
        return self.budget - self.used

    @property
    def block(self) -> str | None:
        """Name of the modality of the open block."""
        return self._item.modality.name if self._item is not None else None

    def _shortest(self, item: CodeRange) -> int:
        """Ids of the shortest reply end that contains one block of this modality."""
        return item.modality.frames.start * item.modality.layers + 2 + CLOSING

    def allowed(self) -> Slice:
        """The legal ids and their sampling settings. After </s>: nothing."""
        key = self._key()
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = self._slice()
        return found

    def _key(self) -> tuple[object, ...]:
        if self.state == "text":
            openable = tuple(name for name in self.open_to if self.left >= self._shortest(self.vocabulary.ranges[name]))
            musts = (self._must_open(openable), self._must_answer(), self._may_chain())
            return (self.state, self.phase, min(self.left, CLOSING + 1), openable, self.blocks > 0, musts, self.forced)
        if self.state == "block":
            assert self._item is not None
            facts = self._item.modality
            frame, layer = divmod(self.codes, facts.layers)
            return (self.state, facts.name, layer, frame >= facts.frames.start, self._full(frame))
        return (self.state,)

    def _must_open(self, openable: tuple[str, ...]) -> bool:
        """Whether the forced block has to open now."""
        if self.forced is None or self.forced not in openable or self.phase == "heard":
            return False
        tight = self.left <= self._shortest(self.vocabulary.ranges[self.forced])
        return tight or self.words_used >= self.force_after

    def _may_chain(self) -> bool:
        """Whether <-Ins-> may stand here: once, before any block, and not at the expense of a forced one."""
        room = self.forced is None or self.left > self._shortest(self.vocabulary.ranges[self.forced]) + 2
        return self.chain and room and self.phase == "free" and self.blocks == 0

    def _must_answer(self) -> bool:
        """Whether the transcript has to end now: it is too long, or the forced block would no longer fit after it."""
        if self.phase != "heard":
            return False
        tight = self.forced is not None and self.left <= self._shortest(self.vocabulary.ranges[self.forced]) + 1
        return tight or self.words_used >= self.most_heard

    def _full(self, frame: int) -> bool:
        """Whether no further frame may begin: the limit or the budget is reached. One more frame costs its layers, then 3 closing ids."""
        assert self._item is not None
        name = self._item.modality.name
        return frame >= self.limits[name] or self.left < self._item.modality.layers + 1 + CLOSING

    def _slice(self) -> Slice:
        if self.state == "done":
            return Slice((), self.words)
        if self.state == "ending":
            return Slice((one(self.vocabulary.eos),), self.words)
        if self.state == "closing":
            return Slice((one(self.vocabulary.stop),), self.words)
        if self.state == "block":
            return self._block_slice()
        return self._text_slice()

    def _block_slice(self) -> Slice:
        assert self._item is not None
        item, facts = self._item, self._item.modality
        frame, layer = divmod(self.codes, facts.layers)
        may_end = layer == 0 and frame >= facts.frames.start
        if may_end and self._full(frame):
            return Slice((one(item.end),), self.drawn[facts.name], facts.name)
        codes = item.layer(layer)
        return Slice(merge([codes, one(item.end)] if may_end else [codes]), self.drawn[facts.name], facts.name, codes)

    def _text_slice(self) -> Slice:
        tokens = self.vocabulary
        if self.left <= 1:
            return Slice((one(tokens.stop),), self.words)
        if self.left <= CLOSING:
            return Slice(merge([one(tokens.eos), one(tokens.stop)]), self.words)
        openable = tuple(name for name in self.open_to if self.left >= self._shortest(tokens.ranges[name]))
        if self._must_open(openable):
            assert self.forced is not None
            return Slice((one(tokens.ranges[self.forced].start),), self.words)
        if self.transcribe and self.phase != "heard":
            return Slice((one(tokens.ins if self.phase == "free" else tokens.eos),), self.words)
        ranges, onward = list(self._word_ranges), max(self._word_ranges, key=lambda item: item[1] - item[0])
        if self.phase == "heard":
            if self._must_answer():
                return Slice((one(tokens.res),), self.transcript)
            return Slice(merge([*ranges, one(tokens.res)]), self.transcript, onward=onward)
        ranges += [one(tokens.ranges[name].start) for name in openable]
        if self.forced is None or self.forced not in openable:
            ranges += [one(tokens.eos), one(tokens.stop)]
        if self._may_chain():
            ranges.append(one(tokens.ins))
        return Slice(merge(ranges), self.words, onward=onward)

    def ahead(self, most: int) -> list[Slice]:
        """What allowed() will be for the next ids, at most `most`, while each of them is among the onward ids of its slice.

        Of codes whole frames if that can be: replies that are written together then draw from the same rows.
        """
        if self._item is not None and most > 1:
            most -= (self.codes + most) % self._item.modality.layers % most
        found: list[Slice] = []
        while len(found) < most and (legal := self.allowed()).ranges:
            found.append(legal)
            self._skip(1)
            if legal.onward[0] >= legal.onward[1]:
                break
        self._skip(-len(found))
        return found

    def follow(self, ids: Sequence[int]) -> None:
        """Take ids of which all but the last are onward ones of the slices that ahead() foretold. Raises IllegalToken for the last."""
        self._skip(len(ids) - 1)
        self.advance(ids[-1])

    def _skip(self, count: int) -> None:
        """Take onward ids: which ones makes no difference."""
        self.used += count
        if self._item is None:
            self.words_used += count
        else:
            self.codes += count

    def advance(self, number: int) -> None:
        """Take one id. Raises IllegalToken if allowed() does not contain it."""
        if not any(low <= number < high for low, high in self.allowed().ranges):
            raise IllegalToken(f"id {number} is not allowed in state {self.state}")
        self._take(number)

    def begin(self, ids: Iterable[int]) -> None:
        """Take the ids of a reply that already stand, without asking whether these settings would allow them."""
        for number in ids:
            self._take(number)

    def _take(self, number: int) -> None:
        self.used += 1
        tokens = self.vocabulary
        if number == tokens.stop:
            self.state = "done"
        elif number == tokens.eos:
            self.state = "closing"
        elif self._item is not None:
            self._advance_block(number)
        elif number in tokens.starts:
            self._item = tokens.ranges[tokens.starts[number]]
            self.state, self.codes = "block", 0
        elif number == tokens.ins:
            self.phase, self.words_used = "heard", 0
        elif number == tokens.res:
            self.phase, self.words_used = "said", 0
        else:
            self.words_used += 1

    def _advance_block(self, number: int) -> None:
        assert self._item is not None
        if number != self._item.end:
            self.codes += 1
            return
        last = self._item.modality.name == self.forced and self.force_after == 0
        if self._item.modality.name == self.forced:
            self.forced = None
        self._item = None
        self.state, self.words_used = "ending" if last else "text", 0
        self.blocks += 1


def sections(vocabulary: Vocabulary) -> tuple[Ranges, ...]:
    """The legal sub-vocabularies that training normalizes over, one per grammar state that has a choice.

    Index 0: text (words, turn-internal marks, open marks, <eos>, </s>). Then per modality in registry order: one
    section per layer; layer 0 includes the end mark where a block may end at more than one length.
    """
    tokens = vocabulary
    marks = [tokens.eos, tokens.stop, tokens.ins, tokens.res, *tokens.starts]
    found: list[Ranges] = [merge([*word_ranges(tokens), *(one(number) for number in marks)])]
    for item in tokens.ranges.values():
        open_ended = len(item.modality.frames) > 1
        for layer in range(item.modality.layers):
            found.append(merge([item.layer(layer), *([one(item.end)] if layer == 0 and open_ended else [])]))
    return tuple(found)


def section_of(vocabulary: Vocabulary, ids: np.ndarray) -> np.ndarray:
    """For each id (any shape, integer) as a target: the index of its section, or -1 where the grammar leaves no choice."""
    numbers = np.asarray(ids)
    table = np.full(vocabulary.size, -1, dtype=np.int16)
    for index, ranges in enumerate(sections(vocabulary)):
        for low, high in ranges:
            table[low:high] = index
    return table[numbers]
