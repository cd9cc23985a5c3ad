"""From ids to ids: the decode loop. It knows a grammar and a sampler, nothing of media, text or people.

The grammar names the ids that are legal now; only their logits are computed, so a malformed block cannot be expressed.
A remote engine can stand behind the same interface: ids in, a stream of ids out.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from anygpt_demo.checkpoints import Family, load_strict
from anygpt_demo.errors import ModelFault, UserError
from anygpt_demo.modality import Sampling
from anygpt_demo.models.llama import Cache, Llama, LlamaConfig

if TYPE_CHECKING:
    from anygpt_demo.grammar import Grammar

Reason = Literal["eos", "stop", "budget"]
PREFILL = 512  # positions read between two looks at the stop flag


class Generation(Protocol):
    """A running reply: iterate for ids as they are drawn; `reason` is set when it has ended."""

    reason: Reason | None

    def __iter__(self) -> Iterator[int]: ...


class Engine(Protocol):
    """What a chat needs of a language model."""

    context: int  # most ids of prompt and reply together

    def generate(self, ids: Sequence[int], grammar: Grammar, *, seed: int, stop: threading.Event | None, max_new: int) -> Generation:
        """Continue `ids` under `grammar`, which is advanced by every id drawn. Equal arguments give equal ids."""
        ...


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Repetition penalty (arXiv 1909.05858): scores of codes already in the block are divided, or multiplied if negative.

    logits: float (N,); seen: int64 (M,) positions in it. Returns a new tensor.
    """
    if penalty == 1.0 or seen.numel() == 0:
        return logits
    scores = logits[seen]
    return logits.index_copy(0, seen, torch.where(scores < 0, scores * penalty, scores / penalty))


def draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw one position: temperature, then top-k, then top-p (nucleus, arXiv 1904.09751). Temperature 0 takes the best.

    logits: float (N,). Raises ModelFault if they are not finite.
    """
    if not bool(torch.isfinite(logits).all()):
        raise ModelFault("The language model stopped.", "It computed something that is not a number.", "Try again, or choose another seed.")
    if sampling.temperature == 0.0 or logits.numel() == 1:
        return int(logits.argmax())
    logits = logits.float() / sampling.temperature
    if 0 < sampling.top_k < logits.numel():
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[-1], float("-inf"))
    shares = logits.softmax(-1)
    if sampling.top_p < 1.0:
        ordered, order = shares.sort(descending=True)
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= sampling.top_p, 0.0)
        return int(order[torch.multinomial(ordered, 1, generator=generator)])
    return int(torch.multinomial(shares, 1, generator=generator))


def id_at(ranges: Sequence[tuple[int, int]], place: int) -> int:
    """The id at a position of the joined ranges."""
    for low, high in ranges:
        if place < high - low:
            return low + place
        place -= high - low
    raise IndexError(place)


def places(ranges: Sequence[tuple[int, int]], ids: Iterable[int]) -> list[int]:
    """Positions in the joined ranges of those ids that lie in them, each once."""
    found = []
    for number in set(ids):
        before = 0
        for low, high in ranges:
            if low <= number < high:
                found.append(before + number - low)
            before += high - low
    return found


class LocalEngine:
    """A LLaMA in this process. Read-only after loading, except for the caches that callers hand in."""

    def __init__(self, model: Llama, device: str = "cpu") -> None:
        self.model = model.eval()
        self.device = device
        self.context = model.config.max_position_embeddings

    @classmethod
    def load(cls, family: Family, device: str = "cpu", quantize: str = "none") -> LocalEngine:
        """Build the `llm` of a family, in fewer bits if asked (quantize.KINDS). Raises UserError, BadCheckpoint if files do not fit."""
        if quantize != "none" or device != "cpu" or family.name != "mini":  # read file by file, never twice in memory
            from anygpt_demo.quantize import load_llama

            return cls(load_llama(family, device, quantize), device)
        component = family.component("llm")
        model = Llama(LlamaConfig.from_json(component.config))
        load_strict(model, component.state(), "llm")
        return cls(model.to(device), device)

    def cache(self) -> Cache:
        """An empty cache for one conversation, as long as the context."""
        weight = self.model.model.norm.weight
        return Cache(self.model.config, self.context, weight.dtype, self.device)

    def generate(
        self,
        ids: Sequence[int],
        grammar: Grammar,
        *,
        seed: int,
        stop: threading.Event | None = None,
        max_new: int,
        cache: Cache | None = None,
    ) -> LocalGeneration:
        """Continue `ids`. A cache kept from an earlier turn saves reading what both have in common."""
        if len(ids) >= self.context:
            raise UserError("This conversation is too long.", f"It fills the model's memory of {self.context} tokens.", "Start a new chat.")
        return LocalGeneration(self, list(ids), grammar, seed, stop, min(max_new, self.context - len(ids)), cache or self.cache())


class LocalGeneration:
    """One reply being written by a LocalEngine."""

    def __init__(
        self, engine: LocalEngine, ids: list[int], grammar: Grammar, seed: int, stop: threading.Event | None, budget: int, cache: Cache
    ) -> None:
        self.engine, self.ids, self.grammar, self.stop, self.budget, self.cache = engine, ids, grammar, stop, budget, cache
        self.generator = torch.Generator().manual_seed(seed)
        self.reason: Reason | None = None
        self.block: str | None = None
        self.seen: list[int] = []  # ids drawn since the block (or the text) began: the repetition penalty looks at no others

    def __iter__(self) -> Iterator[int]:
        """Yield ids until the grammar ends the turn, the stop flag is set or the budget is spent."""
        with torch.inference_mode():
            hidden = self._read(self.ids[self.cache.cut(self.ids) :])
        for _ in range(self.budget):
            if hidden is None or (self.stop is not None and self.stop.is_set()):
                self.reason = "stop"
                return
            with torch.inference_mode():
                token = self._choose(hidden)
            if token is None:
                break
            self.grammar.advance(token)
            yield token
            if self.grammar.done:
                self.reason = "eos"
                return
            with torch.inference_mode():
                hidden = self._read([token])
        self.reason = "budget"

    def _read(self, fresh: list[int]) -> Tensor | None:
        """Run the model over new ids; the last hidden state (D,), or None if stopped meanwhile."""
        hidden = None
        for start in range(0, len(fresh), PREFILL):
            if self.stop is not None and self.stop.is_set():
                return None
            piece = fresh[start : start + PREFILL]
            hidden = self.engine.model.hidden(torch.tensor([piece], device=self.engine.device), self.cache)[0, -1]
            self.cache.ids += piece
        return hidden

    def _choose(self, hidden: Tensor) -> int | None:
        """Draw the next id among the legal ones; None if there is none."""
        legal = self.grammar.allowed()
        if not legal.ranges:
            return None
        if legal.block != self.block:
            self.block, self.seen = legal.block, []
        logits = self.engine.model.logits(hidden, legal.ranges).float().cpu()
        seen = torch.tensor(places(legal.ranges, self.seen), dtype=torch.int64)
        place = draw(penalise(logits, seen, legal.sampling.repetition_penalty), legal.sampling, self.generator)
        token = id_at(legal.ranges, place)
        self.seen.append(token)
        return token
