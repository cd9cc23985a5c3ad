"""From ids to ids: the decode loop. It knows a grammar and a sampler, nothing of media, text or people.

    prompt --cache--> what is new --blocks--> row --head of the legal ids--> scores --sampler--> id --+
                                               ^------------------ one forward for all who write <----+

The grammar names the ids that are legal now; only their scores are computed, so a malformed block cannot be expressed.
Replies that are written at the same time, each in its own thread, share one forward per id, or one on each of two processors (`Desk`).
A remote engine can stand behind the same interface: ids in, a stream of ids out.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import math
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from anygpt_demo import memory, protocol
from anygpt_demo.checkpoints import Family, load_strict
from anygpt_demo.errors import ModelFault, UserError
from anygpt_demo.modality import Sampling
from anygpt_demo.models.compiled import STEPS, Compiled, Way, Wish, cores, library
from anygpt_demo.models.eager import Eager
from anygpt_demo.models.fast import Fast, Kind
from anygpt_demo.models.graphs import Graphs, Later, seats_for
from anygpt_demo.models.llama import Cache, Llama, LlamaConfig

if TYPE_CHECKING:
    from anygpt_demo.grammar import Grammar, Slice

Array = NDArray[np.float32]
Reason = Literal["eos", "stop", "budget"]
NUCLEUS = 64  # best scores that are sorted at first; they nearly always hold the nucleus
AHEAD = 100  # ids that wait for their reader, from which on no more are written for it
HANDFUL = 8  # ids for which a reader is woken at once
CALL_S = 0.004  # the kernels in C write several ids in one call, for about this time: nobody has to wait longer for his turn
FEW = 4  # ids of a call while a prompt waits
SHORTEST = 0.7  # of the middle one of several drawings of a block: shorter ones have been given up
LENGTH_POWER = 0.6  # by which the likelihood of a drawing is set against its length
LUCK = 128  # numbers that are drawn at once: asking for them costs more than they do
PATIENCE_S = 0.01  # after which it looks for itself: waking costs both threads more than an id
CACHE_BYTES = 256 << 20  # keys and values kept for all conversations together, if two of the longest take no more
CACHE_SHARE = 0.25  # of the free memory, which they never exceed
WORST_ERROR = 0.1  # of the scores in fewer bits, relative: the shipped weights have .04 to .06, a broken kernel 1
log = logging.getLogger(__name__)


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


# ------------------------------------------------------------------------------------------------------------ sampling


def penalise(scores: Array, seen: NDArray[np.int64], penalty: float) -> None:
    """Repetition penalty (arXiv 1909.05858), in place: scores of codes already in the block are divided, or multiplied if negative.

    scores: float32 (N,); seen: int64 (M,) positions in it, each once.
    """
    if penalty != 1.0 and len(seen):
        found = scores[seen]
        scores[seen] = np.where(found < 0, found * np.float32(penalty), found / np.float32(penalty))


def lead(scores: Array, other: Array, guidance: float, codes: NDArray[np.bool_]) -> None:
    """Lead scores away from others, in place (classifier-free guidance, arXiv 2207.12598): other + guidance x (scores - other).

    A mark keeps its odds against all codes: whether a block ends is no matter of taste. codes: bool (N,), which of them are codes.
    """
    if codes.any():
        before = np.logaddexp.reduce(scores[codes].astype(np.float64))
        scores[codes] = other[codes] + np.float32(guidance) * (scores[codes] - other[codes])
        scores[~codes] += np.float32(np.logaddexp.reduce(scores[codes].astype(np.float64)) - before)


def likeliest(lengths: Sequence[int], chances: Sequence[float]) -> int:
    """Which of several drawings of a block is kept: of those that are not much shorter than the middle one the likeliest for its length.

    As a whole nothing is as likely as a drawing that was given up at once, or that swallows words; per id nothing as one that drags on.
    Between the two is a power of the length, as in arXiv 1609.08144, equation 14. lengths: in ids; chances: logarithms of the likelihood.
    """
    middle = sorted(lengths)[len(lengths) // 2]
    long_enough = (number for number, length in enumerate(lengths) if length >= SHORTEST * middle)
    return max(long_enough, key=lambda number: chances[number] / lengths[number] ** LENGTH_POWER)


def not_finite() -> ModelFault:
    """Scores that are no numbers."""
    return ModelFault("The language model stopped.", "It computed something that is not a number.", "Try again, or choose another seed.")


def draw(scores: Array, sampling: Sampling, random: np.random.Generator) -> int:
    """Draw one position: temperature, then top-k, then top-p (nucleus, arXiv 1904.09751). Temperature 0 takes the best.

    scores: float32 (N,). Raises ModelFault if they are not finite.
    """
    peak = scores.max()
    if not math.isfinite(peak):
        raise not_finite()
    if sampling.temperature == 0.0 or len(scores) == 1:
        return int(scores.argmax())
    order = None
    if 0 < sampling.top_k < len(scores):
        best = torch.from_numpy(scores).topk(sampling.top_k)
        scores, order = best.values.numpy(), best.indices.numpy()
    shares = np.exp((scores - peak) / np.float32(sampling.temperature))
    if sampling.top_p < 1.0:
        wanted, count = sampling.top_p * float(shares.sum(dtype=np.float64)), NUCLEUS
        if order is None:  # sort no more than is needed to fill the nucleus
            while True:
                first = torch.from_numpy(shares).topk(min(count, len(shares)))
                sums = np.cumsum(first.values.numpy(), dtype=np.float64)
                if sums[-1] >= wanted or count >= len(shares):
                    break
                count *= 8
            order = first.indices.numpy()
        else:
            sums = np.cumsum(shares, dtype=np.float64)
        sums = sums[: int(np.searchsorted(sums, wanted)) + 1]
    else:
        sums = np.cumsum(shares, dtype=np.float64)
    place = min(int(np.searchsorted(sums, random.random() * sums[-1], side="right")), len(sums) - 1)
    return place if order is None else int(order[place])


# ------------------------------------------------------------------------------------------- one forward for everybody


Run = Callable[[Sequence[tuple[Sequence[int], Cache]]], Any]  # as Runner.run: directly, or by way of the desk


class Runner(Protocol):
    """What computes: models/compiled.py or models/fast.py on a CPU, models/graphs.py on a card, models/eager.py anywhere."""

    unit: int  # prompts are read in blocks that begin at multiples of it; 1: anywhere
    block: int  # most ids of a prompt that are read at once

    def cache(self, capacity: int) -> Cache:
        """An empty cache."""
        ...

    def run(self, pieces: Sequence[tuple[Sequence[int], Cache]]) -> Any:
        """Continue caches by ids; one row per piece."""
        ...

    def head(self, ranges: tuple[tuple[int, int], ...]) -> Any:
        """What scores() needs to score these ids: its `ids` and `place`."""
        ...

    def scores(self, row: Any, head: Any) -> Array:
        """Scores of a head's ids after a row; float32 (N,), the caller's to change."""
        ...


class Client(Protocol):
    """Somebody at the desk: rows are computed for its pieces, until it is satisfied."""

    waiting: bool  # its thread waits for the bell
    bell: queue.SimpleQueue[None]

    @property
    def pieces(self) -> Sequence[tuple[Sequence[Any], Cache]]:
        """What is to be read, by cache."""
        ...

    @property
    def satisfied(self) -> bool:
        """Whether there is something for its thread."""
        ...

    @property
    def urgent(self) -> bool:
        """Whether its thread should be woken for that."""
        ...

    def receive(self, rows: Any) -> None:
        """Take one row per piece. Raises nothing."""
        ...

    def fail(self, error: Exception) -> None:
        """Take an error instead."""
        ...


class Ticket:
    """Work handed in once, and its result. then: called with the rows by whoever computed them, before the result is handed out.

    begins: it is the first block of a prompt.
    """

    def __init__(
        self, pieces: Sequence[tuple[Sequence[int], Cache]], then: Callable[[Any], None] | None = None, begins: bool = False
    ) -> None:
        self.pieces, self.then, self.begins = pieces, then, begins
        self.reading = len(pieces[0][0]) > 1  # a block of a prompt
        self.waiting = self.satisfied = False
        self.bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.rows: Any = None
        self.error: Exception | None = None

    @property
    def urgent(self) -> bool:
        """When it is done."""
        return self.satisfied

    def receive(self, rows: Any) -> None:
        """It is done."""
        self.rows = rows
        if self.then is not None:
            self.then(rows)
        self.satisfied = True

    def fail(self, error: Exception) -> None:
        """It has failed."""
        self.error, self.satisfied = error, True


def processors(thread: int) -> set[int]:
    """Those on which a thread of this process may run; none where nobody can say. thread: its native id."""
    try:
        return os.sched_getaffinity(thread)
    except (AttributeError, OSError):  # not on this system
        return set()


def give_way() -> None:
    """Let threads run that Linux has put behind this one."""
    if hasattr(os, "sched_yield"):
        os.sched_yield()


def confine(thread: int, share: Iterable[int]) -> None:
    """Keep a thread to some processors."""
    with contextlib.suppress(OSError):  # what is allowed may have changed
        os.sched_setaffinity(thread, share)


class Desk:
    """Collects what all threads want computed. Whoever finds a free place computes, for others too.

    There are as many places as threads that the runner should have in it at once. All replies that are being written take part in
    every forward, or their share of those at each place, whether their thread has come back for more or not (up to AHEAD ids): nobody
    waits for anybody. The thread that computes also draws everybody's id, so the others only have to wake up for theirs. Blocks of
    prompts are served one at a time, in turn with that: as many in a row as there are places, so that nobody waits longer than for a
    block, and those who begin together go on together.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.calls = 0
        self.places = runner.threads if isinstance(runner, Compiled) else 1
        self._door = threading.Condition()
        self._jobs: list[Ticket] = []
        self._writers: list[LocalGeneration] = []
        self._served: dict[int, list[Client]] = {}  # now, by place
        self._threads: dict[int, int] = {}  # who serves there, by native id
        self._confined: dict[int, set[int]] = {}  # and the processors of those who are kept to a share of them
        self._read = 0  # blocks of prompts in a row that were served before ids, just now
        self._pace = CALL_S  # seconds of computing that a step of the last call took

    def join(self, writer: LocalGeneration) -> None:
        """Write a reply on from now."""
        with self._door:
            self._writers.append(writer)

    def leave(self, writer: LocalGeneration) -> None:
        """Write it no longer. Returns when nobody computes for it."""
        with self._door:
            self._writers = [other for other in self._writers if other is not writer]
            self._door.wait_for(lambda: not self._serves(writer))

    def run(self, pieces: Sequence[tuple[Sequence[int], Cache]], then: Callable[[Any], None] | None = None, begins: bool = False) -> Any:
        """Rows of the pieces; then, begins: as of a ticket. Raises what the runner raises."""
        ticket = Ticket(pieces, then, begins)
        with self._door:
            self._jobs.append(ticket)
        self.satisfy(ticket)
        if ticket.error is not None:
            raise ticket.error
        return ticket.rows

    def satisfy(self, client: Client) -> None:
        """Return when there is something for a client; compute while there is a free place."""
        while True:
            with self._door:
                if client.satisfied:
                    return
                place = next((place for place in range(self.places) if place not in self._served), None)
                batch = self._next(client) if place is not None else []
                if place is not None and batch:
                    self._served[place], self._threads[place] = batch, threading.get_native_id()
                    self._spread()
                client.waiting = not batch
                first = len(self._served) == 1
            if place is not None and batch:
                if first and self.places > 1 and isinstance(batch[0], Ticket) and batch[0].begins:
                    give_way()  # who began at the same moment was woken here, and would wait while another processor idles
                self._serve(place, batch)
            else:
                with contextlib.suppress(queue.Empty):
                    client.bell.get(timeout=PATIENCE_S)

    def _spread(self) -> None:
        """Keep threads that compute at the same time to their shares of the processors, until each is done.

        Linux likes to let a thread run where it was woken, behind another one that computes, for milliseconds, while a processor idles.
        """
        for place, thread in self._threads.items() if len(self._threads) > 1 else ():
            there = processors(thread) if place not in self._confined else set()
            if len(there) >= self.places:
                self._confined[place] = there
                confine(thread, sorted(there)[place :: self.places])

    def _serves(self, client: Client) -> bool:
        """Whether somebody computes for a client."""
        return any(client is other for batch in self._served.values() for other in batch)

    def _next(self, caller: Client | None = None) -> list[Client]:
        """Whom a free place serves: a block of a prompt, or all who write, or the caller's share of them with those who have the least."""
        reads = [job for job in self._jobs if job.reading]
        steps: list[Client] = [job for job in self._jobs if not job.reading]
        served = sum(len(batch) for batch in self._served.values())
        free = [writer for writer in self._writers if not writer.over and len(writer.ready) < AHEAD]
        if served:
            free = [writer for writer in free if not self._serves(writer)]
        share = -(-(len(free) + served) // self.places)
        if share < len(free):
            free.sort(key=lambda writer: -1 if writer is caller else len(writer.ready))
        steps += free[:share]
        read = bool(reads) and (not steps or self._read < self.places)
        self._read = self._read + 1 if read and steps else 0
        batch: list[Client] = [reads[0]] if read else steps
        self._jobs = [job for job in self._jobs if all(job is not client for client in batch)]
        return batch

    def _serve(self, place: int, batch: list[Client]) -> None:
        try:
            with torch.inference_mode():
                if isinstance(self.runner, Compiled):
                    self._write(self.runner, batch)
                else:
                    self._give(batch, self.runner.run([piece for client in batch for piece in client.pieces]))
        except Exception as error:  # it belongs to all of them; each reply reports it in its own thread
            for client in batch:
                client.fail(error)
        with self._door:
            self.calls += 1
            del self._served[place], self._threads[place]
            if place in self._confined:
                confine(threading.get_native_id(), self._confined.pop(place))
            everybody: list[Client] = [*batch, *self._writers, *self._jobs]
            for client in everybody:  # who has nothing, and for whom nobody computes, may find a free place
                if client.waiting and (client.urgent or not (client.satisfied or self._serves(client))):
                    client.waiting = False
                    client.bell.put(None)
            self._door.notify_all()

    def _give(self, batch: Sequence[Client], rows: Any) -> None:
        """Each client gets its rows."""
        first = 0
        for client in batch:
            count = len(client.pieces)
            client.receive(rows[first : first + count])
            first += count

    def _write(self, runner: Compiled, batch: Sequence[Client]) -> None:
        """Some ids for each of the replies in a batch in one call; rows of the others in another."""
        steps = max(1, min(FEW if self._jobs else STEPS, int(CALL_S / max(self._pace, 1e-9))))
        writing: list[tuple[int, Cache, Wish]] = []
        asked, others = [], []
        for client in batch:
            if not isinstance(client, LocalGeneration) or client.wish is None:
                others.append(client)
            elif client.ask(steps):
                writing.append((client.pieces[0][0][0], client.cache, client.wish))
                asked.append(client)
        if asked:
            start = time.thread_time()
            runner.write(writing)
            self._pace = (time.thread_time() - start) / max(wish.drawn for _, _, wish in writing)
        for writer in asked:
            writer.answer()
        if others:
            self._give(others, runner.run([piece for client in others for piece in client.pieces]))


# --------------------------------------------------------------------------------------------------------- the engine


def pack(model: Llama, threads: int = 1) -> Fast | Compiled:
    """The model in the fewest bits that are right and quick on this machine: int8, else bfloat16, else float32.

    threads: see LocalEngine. The scores after a reading of 32 ids and after 8 more are compared with those of the unpacked model, and the
    time of the eight with float32. int8 runs with the kernels of models/kernels.c where they can be compiled and are quicker than torch's.
    """
    exact = Fast(model, "fp32")
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, 40).tolist()
    with torch.inference_mode():
        wanted = model(torch.tensor([ids]))[0, 31:].float().numpy()

    def measure(packed: Any) -> tuple[float, float]:
        with torch.inference_mode():
            cache, head = packed.cache(64), packed.head(((0, model.config.vocab_size),))
            found, times = [packed.scores(packed.run([(ids[:32], cache)])[0], head).copy()], []
            for number in ids[32:]:
                start = time.perf_counter()
                row = packed.run([([number], cache)])[0]
                times.append(time.perf_counter() - start)
                found.append(packed.scores(row, head).copy())
        packed.clear()
        return float(np.linalg.norm(np.array(found) - wanted) / np.linalg.norm(wanted)), min(times)

    def find(make: Callable[[], Fast | Compiled], slowest: float) -> tuple[Fast | Compiled, float] | None:
        try:
            packed = make()
            error, spent = measure(packed)
        except (RuntimeError, AttributeError, ValueError) as problem:  # another processor or torch may lack an operation
            log.info("fewer bits do not run here: %s", problem)
            return None
        if error <= WORST_ERROR and spent <= slowest:
            return packed, spent
        log.info("%s is not used: error %.3f, %.2f ms per id", packed.kind, error, 1000 * spent)
        return None

    slowest = 1.5 * measure(exact)[1]  # measured beside other work: only what is clearly slower is refused
    found = find(lambda: Fast(model, "int8"), slowest) or find(lambda: Fast(model, "bf16"), slowest)
    kernels = library()
    compiled = find(lambda: Compiled(model, kernels, threads), found[1] if found else slowest) if kernels is not None else None
    packed = (compiled or found or (exact, 0.0))[0]
    log.info("the language model runs in %s", packed.kind)
    return packed


def record(model: Llama, device: str, kv: str = "none") -> Runner:
    """The model as recorded graphs where a seat's keys and values fit beside the weights; else layer by layer. kv: as in Eager."""
    seats, length = seats_for(model, torch.cuda.mem_get_info(device)[0], kv)
    if seats == 0:
        log.warning("too little graphics memory is free for recorded steps: every layer is launched by itself, which is slower")
        return Eager(model, device, kv)
    return Graphs(model, device, seats, length, kv)


def cache_room(conversation: int, free: float | None) -> int:
    """Bytes that the keys and values of all conversations may take: two of the longest, at least CACHE_BYTES, of what is free a share.

    conversation: bytes of one as long as the context; free: bytes, or None where nobody can say.
    """
    if free is None:
        return CACHE_BYTES
    return min(max(CACHE_BYTES, 2 * conversation), max(0, int(CACHE_SHARE * free)))


class LocalEngine:
    """A LLaMA in this process. Read-only after loading, except for the caches that callers hand in.

    kind: bits of the packed weights on a CPU; "auto": the fewest that are right and quick (pack()); None: the layers as they
    are, which is what a GPU and layers of bitsandbytes need. runner: what computes, if it is already there. threads: how many of those
    that write replies at the same time may compute at the same time, each with its share of the replies, if there are as many
    processors and "auto" finds kernels that can; None: 2. A reply that is written alone has one thread; its media have the other
    processor. cache_bytes: for the keys and values of all conversations; None: cache_room() of what is free beside `media`, bytes that
    codecs will take of it. kv: how keys and values are kept on a GPU and by layers as they are, see Eager; packed weights have their own
    way.
    """

    def __init__(
        self,
        model: Llama,
        device: str = "cpu",
        kind: Kind | Literal["auto"] | None = "fp32",
        cache_bytes: int | None = None,
        runner: Runner | None = None,
        threads: int | None = None,
        kv: str = "none",
        media: float = 0.0,
    ) -> None:
        self.model = model.eval()
        self.device = device
        self.context = model.config.max_position_embeddings
        if runner is not None:
            self.runner = runner
        elif device.startswith("cuda"):
            self.runner = record(model, device, kv)
        elif device != "cpu" or kind is None:
            self.runner = Eager(model, device, kv)
        else:
            self.runner = pack(model, min(threads or 2, cores())) if kind == "auto" else Fast(model, kind)
        if cache_bytes is None:
            free = memory.free_bytes(device)  # weights and seats are there already
            cache_bytes = cache_room(self.context * self.cache().each, None if free is None else free - media)
        self.cache_bytes = cache_bytes
        self.desk = Desk(self.runner)
        self._caches: list[weakref.ref[Cache]] = []  # least recently used first
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        family: Family,
        device: str = "cpu",
        quantize: str = "auto",
        tick: Callable[[int, int], None] | None = None,
        threads: int | None = None,
        kv: str = "none",
        media: float = 0.0,
    ) -> LocalEngine:
        """Build the `llm` of a family, in fewer bits if asked (quantize.KINDS). Raises UserError, BadCheckpoint if files do not fit.

        auto: on a CPU 8 bit where a check at load finds them right and quick; elsewhere the same as none.
        tick(done, total) is told the bytes read of a large model. threads, kv, media: as above.
        """
        auto = quantize == "auto"
        if device != "cpu" or family.name != "mini" or not (auto or quantize == "none"):  # read file by file, never twice in memory
            from anygpt_demo.quantize import load_llama

            return cls(load_llama(family, device, "none" if auto else quantize, tick), device, None, kv=kv, media=media)
        component = family.component("llm")
        model = Llama(LlamaConfig.from_json(component.config))
        load_strict(model, component.state(), "llm")
        return cls(model, device, "auto" if auto else "fp32", threads=threads, media=media)

    def cache(self) -> Cache:
        """An empty cache for one conversation, as long as the context."""
        return self.runner.cache(self.context)

    def _rent(self, cache: Cache, copies: int = 1) -> None:
        """Enter a cache as the one used last; the oldest give their memory back while all together exceed the budget.

        copies: how many there are to be of it, itself counted: beams have one each.
        """
        with self._lock:
            known = [ref for ref in self._caches if ref() not in (None, cache)]
            self._caches = [*known, weakref.ref(cache)]
            cache.busy = True
            kept = [found for ref in self._caches if (found := ref()) is not None]
            total = sum(found.bytes for found in kept) + (copies - 1) * cache.bytes
            for found in kept:
                if total <= self.cache_bytes:
                    break
                if not found.busy:
                    total -= found.bytes
                    found.forget()

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


@dataclass
class Beam:
    """One way to go on with a text: its ids, the sum of their log-probabilities, and where it leads."""

    ids: list[int]
    score: float
    grammar: Grammar
    cache: Cache
    row: Any = field(default=None, repr=False)
    shares: list[float] = field(default_factory=list)  # how likely each id was

    @property
    def rank(self) -> float:
        """Score per id, as in the reference (length penalty 1)."""
        return self.score / max(1, len(self.ids))


class LocalGeneration:
    """One reply being written by a LocalEngine."""

    def __init__(
        self, engine: LocalEngine, ids: list[int], grammar: Grammar, seed: int, stop: threading.Event | None, budget: int, cache: Cache
    ) -> None:
        self.engine, self.ids, self.grammar, self.stop, self.budget, self.cache = engine, ids, grammar, stop, budget, cache
        self.seed, self.alone = seed, False  # alone: it ends with the block that is open, and draws it once
        self.random = np.random.default_rng(seed)
        self.reason: Reason | None = None
        self.block: str | None = None
        self._seen = np.empty(budget, np.int64)  # ids drawn since the block (or the text) began, each once
        self._count = 0
        self.wish = Wish.of(budget) if isinstance(engine.runner, Compiled) else None  # what is drawn next, together with others'
        self._ways: dict[int, tuple[Slice, Way]] = {}  # of each slice so far, by its id(): kept alive
        self._slices: list[Slice] = []  # of the plan in the wish
        self._lucky: list[bool] = []  # whether luck decides anything in each of them
        self._luck: list[float] = []  # numbers that were taken from `random` and are not used yet
        self.shares: list[float | None] = []  # how likely each id was, one per id; None if that is not known
        # at the desk
        self.ready: deque[int] = deque()  # drawn, not yet read
        self.likely: deque[float] = deque()  # and how likely each was; no pairs, which Python would have to look through for garbage
        self.over = False  # nothing is to be computed for it
        self.waiting = False
        self.bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.pieces: list[tuple[list[Any], Cache]] = []
        self.row: Any = None  # after all ids drawn so far, where it is known
        self.beside: Cache | None = None  # the open block after a request for just anything, where guidance leads away from that
        self._begun = False  # whoever read the last of the prompt has begun to write
        self._later: Later | None = None  # drawn on the device, not yet known here
        self._unasked: Any = None  # the row beside, after what was read there when the block began
        self._marks: Any = None  # ids drawn since the block began, on the device
        self._end: Reason | None = None
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[int]:
        """Yield ids until the grammar ends the turn, the stop flag is set or the budget is spent."""
        self.engine._rent(self.cache)
        try:
            yield from self._write()
        finally:
            self.engine.desk.leave(self)
            self.cache.busy = False

    @property
    def _stopped(self) -> bool:
        return self.stop is not None and self.stop.is_set()

    @property
    def _searching(self) -> bool:
        """Whether beams come next."""
        return self.grammar.state == "text" and self.grammar.allowed().sampling.beams > 1

    @property
    def _choosing(self) -> bool:
        """Whether a block comes next that is drawn several times. On a device with recorded graphs it is drawn once."""
        if self.alone or self.grammar.state != "block" or self.grammar.codes or isinstance(self.engine.runner, Graphs):
            return False
        return self.grammar.allowed().sampling.tries > 1

    def _write(self) -> Iterator[int]:
        row = self._read_prompt()
        while row is not None and not self._stopped:
            if not self._begun and self._searching:
                fresh = []
                for token, share in self._search(row, self.grammar.allowed().sampling.beams, self.budget):
                    self.grammar.advance(token)
                    fresh.append(token)
                    self.shares.append(share)
                    yield token
                self._spend(len(fresh))
                self.block = None  # the next block is another one, even of the same kind
            elif not self._begun and self._choosing:
                fresh, shares = self._likeliest(row, self.grammar.allowed().sampling.tries)
                for token in fresh:
                    self.grammar.advance(token)
                self.shares += shares
                yield from fresh
                self._spend(len(fresh))
            else:
                yield from self._sample(row)
                fresh = self.pieces[0][0] if self.pieces else []
            if self._end is not None and not self._stopped:
                self.reason = self._end
                return
            row = self._read(fresh) if self.row is None else self.row
        self.reason = "stop"

    def _sample(self, row: Any) -> Generator[int, None, None]:
        """Draw ids, one after the other, until the reply ends or beams come next."""
        runner = self.engine.runner
        if not self._begun:
            if isinstance(runner, Graphs):
                runner.sit(self.cache)
            self._begin([row], self.engine.desk.run)
        self._begun = False
        try:
            while not self._stopped:
                if self.ready:
                    self.shares.append(self.likely.popleft())
                    yield self.ready.popleft()
                elif self.over:
                    break
                else:
                    self.engine.desk.satisfy(self)
        finally:
            self.engine.desk.leave(self)
            if isinstance(runner, Graphs):
                self._forget_later()
                self._forget_beside()
                runner.stand(self.cache)
        if self._error is not None:
            raise self._error

    def _begin(self, rows: Sequence[Any], run: Run) -> None:
        """Draw the first id after a row, and write on from now."""
        self.over, self.row = False, None
        self._take(rows, run)
        self.engine.desk.join(self)

    def _begin_at_once(self, rows: Sequence[Any]) -> None:
        """The same by whoever has computed the row: the reply is written on before its own thread is awake. Raises nothing."""
        self._begun = True
        try:
            self._begin(rows, self.engine.runner.run)
        except Exception as error:  # it belongs to this reply alone
            self.fail(error)

    @property
    def satisfied(self) -> bool:
        """Whether there are ids to read, or will be none."""
        return bool(self.ready) or self.over

    @property
    def urgent(self) -> bool:
        """Whether there is a handful of ids, or the end."""
        return self.over or len(self.ready) >= HANDFUL

    def receive(self, rows: Any) -> None:
        """The row after the last id: draw the next one. Called by whoever computes."""
        try:
            self._take(rows, self.engine.runner.run)
        except Exception as error:  # it belongs to this reply alone
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Raise an error where the reply is read."""
        self._error, self.over = error, True

    def _take(self, rows: Sequence[Any], run: Run) -> None:
        """Draw what follows the rows of pieces. On a device it is read one step later, while the device is already at the next."""
        runner, row = self.engine.runner, rows[0]
        if self._later is not None:
            (token, share), self._later = self._later.get(), None
            for _, cache in self.pieces:
                cache.ids[-1] = token
            self.grammar.advance(token)
            self._accept([token], [share])
            if self.over:
                self.row = row.clone() if isinstance(row, torch.Tensor) else row  # its memory is the next step's
                return
        if isinstance(runner, Compiled):
            self.pieces = []
            if self.ask(1) and self.wish is not None:
                runner.draw(np.array([row] if self.beside is None else [row, self._unasked]), [self.wish])
                self.answer()
            return
        legal = self.grammar.allowed()
        if legal.block != self.block:
            self.pieces = []  # all that was drawn is read
            self._look_beside(legal, run)
            rows = [row, self._unasked]
        if self._stopped or not legal.ranges or self.budget <= 0:
            self._end, self.over = "budget", True
        elif isinstance(runner, Graphs):
            self._later = self._launch(runner, rows, legal)
            self.pieces = [([self._later], cache) for cache in (self.cache, self.beside) if cache is not None]
        else:
            token, share = self._choose(rows, legal)
            self.pieces = [([token], cache) for cache in (self.cache, self.beside) if cache is not None]
            self.grammar.advance(token)
            self._accept([token], [share])

    def _look_beside(self, legal: Slice, run: Run) -> None:
        """If the block that is open now is guided, read what of it is read already after a request for just anything."""
        self._forget_beside()
        if legal.block is None or legal.sampling.guidance == 1.0:
            return
        waiting = self.pieces[0][0] if self.pieces else []  # drawn and not read yet: both read it next
        block = [*self.cache.ids, *waiting][len(self.cache.ids) + len(waiting) - self.grammar.codes - 1 :]
        ids = [*protocol.anything(self.grammar.vocabulary, legal.block), *block[: len(block) - len(waiting)]]
        if len(ids) + len(waiting) + self.budget <= self.engine.context:
            self.beside = self.engine.cache()
            self._unasked = self._read_into(self.beside, ids, run)
            if self._unasked is None:  # stopped
                self.beside = None
            elif isinstance(self.engine.runner, Graphs):
                self.engine.runner.sit(self.beside)  # without a free seat it is read layer by layer

    def _forget_beside(self) -> None:
        """Lead away from nothing."""
        if self.beside is not None and isinstance(self.engine.runner, Graphs):
            self.engine.runner.stand(self.beside)
        self.beside = self._unasked = None

    def ask(self, most: int) -> bool:
        """Put the next ids into the wish, at most `most`; whether anything is to be drawn. Raises nothing."""
        assert self.wish is not None
        try:
            slices = [] if self._stopped else self.grammar.ahead(min(most, self.budget))
            if not slices:
                self._end, self.over = "budget", True
                return False
            if slices[0].block != self.block:
                self.block, self.wish.count = slices[0].block, 0
                self._look_beside(slices[0], self.engine.runner.run)
            self.wish.guide(slices[0].sampling.guidance, self.beside)
            count = len(slices)
            if slices != self._slices[:count]:  # often the same again, or fewer of them
                self._slices, ways = slices, [self._way(legal) for legal in slices]
                self._lucky = [way.lucky for way in ways]
                self.wish.plan(ways)
            chances = self._lucky[:count]
            lucky = sum(chances)
            if lucky > len(self._luck):
                self._luck += self.random.random(max(LUCK, lucky - len(self._luck))).tolist()
            luck = iter(self._luck)
            self.wish.try_luck(self._luck[:lucky] if lucky == count else [next(luck) if way else 0.0 for way in chances])
        except Exception as error:  # it belongs to this reply alone
            self.fail(error)
            return False
        return True

    def _way(self, legal: Slice) -> Way:
        """How the kernels are told of a slice."""
        found = self._ways.get(id(legal))
        if found is None:
            found = self._ways[id(legal)] = legal, Way.of(self.engine.runner.head(legal.ranges), legal.sampling, legal.onward)
        return found[1]

    def answer(self) -> None:
        """Take what was drawn. Raises nothing."""
        assert self.wish is not None
        tokens, shares = self.wish.answer
        try:
            del self._luck[: sum(self._lucky[: len(tokens)])]
            if tokens[-1] < 0:
                raise not_finite()
            self.pieces = [(tokens[-1:], self.cache)]
            self.grammar.follow(tokens)
            self._accept(tokens, shares)
        except Exception as error:  # it belongs to this reply alone
            self.fail(error)

    def _accept(self, tokens: Sequence[int], shares: Sequence[float]) -> None:
        """Ids that the grammar has taken, and how likely each was."""
        self._spend(len(tokens))
        self.likely.extend(shares)
        self.ready.extend(tokens)
        closed = self.alone and self.grammar.state != "block"
        self.over = self._end is not None or closed or self._searching or self._choosing  # last: who finds nothing ready and it over leaves

    def _launch(self, runner: Graphs, rows: Sequence[Any], legal: Slice) -> Later:
        """Draw on the device. rows: as for _choose()."""
        if self._marks is None or legal.block != self.block:
            self.block, self._marks = legal.block, runner.blank()
        head = runner.head(legal.ranges)
        alone = legal.sampling.temperature == 0.0 or len(head.ids) == 1  # no luck is needed, and none taken
        away = None if self.beside is None else (rows[1], legal.onward)
        with torch.inference_mode():
            return runner.draw(rows[0], head, legal.sampling, 0.0 if alone else self.random.random(), self._marks, away)

    def _forget_later(self) -> None:
        """Cut off an id that was read by the model but never here."""
        self._later = None
        for cache in (self.cache, self.beside):
            if cache is not None and cache.ids and cache.ids[-1] == -1:
                cache.ids.pop()

    def _spend(self, count: int) -> None:
        self.budget -= count
        if self.grammar.done:
            self._end = "eos"
        elif self.budget <= 0 or not self.grammar.allowed().ranges:
            self._end = "budget"

    def _read_prompt(self) -> Any:
        """The row after the prompt; None if stopped meanwhile."""
        row = self._read(self.ids[self.cache.cut(self.ids, self.engine.runner.unit) :])
        self.cache.read = min(len(self.cache.ids), len(self.ids))  # ids may have been written since
        return row

    def _read(self, fresh: Sequence[int]) -> Any:
        """Run the model over new ids, block by block; the last row, or None if stopped meanwhile."""
        at_once = isinstance(self.engine.runner, Compiled) and not (self._searching or self._choosing)
        then = self._begin_at_once if at_once else None
        return self._read_into(self.cache, fresh, self.engine.desk.run, then)

    def _read_into(self, cache: Cache, fresh: Sequence[int], run: Run, then: Callable[[Any], None] | None = None) -> Any:
        row, block, start = None, self.engine.runner.block, 0
        while start < len(fresh):
            if self._stopped:
                return None
            size = block - len(cache.ids) % block  # up to the next multiple
            if then is not None:
                run = partial(self.engine.desk.run, then=then if start + size >= len(fresh) else None, begins=start == 0)
            with torch.inference_mode():
                row = run([(list(fresh[start : start + size]), cache)])[0]
            start += size
        return row

    def _choose(self, rows: Sequence[Any], legal: Slice) -> tuple[int, float]:
        """Draw the next id among the legal ones; and how likely it was. rows: after all ids so far; a second one if beside."""
        if legal.block != self.block:
            self.block, self._count = legal.block, 0
        head = self.engine.runner.head(legal.ranges)
        with torch.inference_mode():
            scores = self.engine.runner.scores(rows[0], head)
            if self.beside is not None:
                scores = scores.copy()  # the next call may take its memory
                codes = (head.ids >= legal.onward[0]) & (head.ids < legal.onward[1])
                lead(scores, self.engine.runner.scores(rows[1], head), legal.sampling.guidance, codes)
            if legal.sampling.repetition_penalty != 1.0:
                seen = head.place[self._seen[: self._count]]
                penalise(scores, seen[seen >= 0], legal.sampling.repetition_penalty)
            place = draw(scores, legal.sampling, self.random)
            token = int(head.ids[place])
            likely = np.exp(scores - scores.max())
        if legal.sampling.repetition_penalty != 1.0 and token not in self._seen[: self._count]:
            self._seen[self._count] = token
            self._count += 1
        return token, float(likely[place] / likely.sum())

    # --------------------------------------------------------------------------------------- the likeliest of several

    def _likeliest(self, row: Any, tries: int) -> tuple[list[int], list[float | None]]:
        """The open block, drawn several times at once: the ids of the drawing that is kept, end mark included, and how likely each was.

        A small model stumbles now and then, and stumbling is unlikely as a whole. row: after the mark that opens the block.
        The conversation's own cache stays where it is: the caller reads the winner into it. Stopped, it is what the first has.
        """
        begun = len(self.cache.ids)
        drawings: list[LocalGeneration] = []
        for number in range(tries):
            seed = int(np.random.SeedSequence([self.seed, begun, number]).generate_state(1)[0])
            cache = self.cache.copy(begun + self.budget)
            drawing = LocalGeneration(self.engine, list(self.cache.ids), self.grammar.clone(), seed, self.stop, self.budget, cache)
            drawing.alone = True
            drawings.append(drawing)
        streams = [drawing._sample(row) for drawing in drawings]
        try:
            found = [[next(stream)] for stream in streams]  # from here on all are written together
            for ids, stream in zip(found, streams, strict=True):
                ids += stream
        except StopIteration:  # stopped before the first id
            found = [[]]
        finally:
            for stream in streams:
                stream.close()
        chances = [sum(math.log(max(share or 0.0, 1e-9)) for share in drawing.shares) for drawing in drawings]
        best = 0 if self._stopped else likeliest([len(ids) for ids in found], chances)
        return found[best], drawings[best].shares

    # ---------------------------------------------------------------------------------------------------- beam search

    def _search(self, row: Any, width: int, left: int) -> Iterator[tuple[int, float]]:
        """The best text until a mark ends it, or the part of it that is searched for, by beam search. Yields ids and how likely each
        was, as soon as all ways agree on them.

        The conversation's own cache stays where the text began: the caller reads the winner into it.
        """
        self.engine._rent(self.cache, width)
        live = [Beam([], 0.0, self.grammar.clone(), self.cache, row)]
        ended: list[Beam] = []
        begun, told = len(self.cache.ids), 0
        while not self._stopped:
            live = self._extend(live, ended, width, begun, left)
            if not live or (len(ended) >= width and max(beam.rank for beam in live) <= ended[-1].rank):
                break
            rows = self.engine.desk.run([([beam.ids[-1]], beam.cache) for beam in live])
            for beam, found in zip(live, rows, strict=True):
                beam.row = found
            agreed = self._agreed([*live, *ended], told)
            yield from zip(agreed, live[0].shares[told:], strict=False)
            told += len(agreed)
        best = max(ended or live, key=lambda beam: beam.rank)
        yield from zip(best.ids[told:], best.shares[told:], strict=True)

    def _agreed(self, beams: Sequence[Beam], told: int) -> list[int]:
        """Ids after the first `told` that all beams have in common."""
        first, *others = (beam.ids for beam in beams)
        upto = told
        while all(upto < len(ids) and ids[upto] == first[upto] for ids in others) and upto < len(first) - 1:
            upto += 1
        return first[told:upto]

    def _extend(self, live: list[Beam], ended: list[Beam], width: int, begun: int, left: int) -> list[Beam]:
        """The `width` best continuations of the live beams by one id; those that a mark ends join `ended`, best first."""
        found: list[tuple[float, int, int]] = []
        with torch.inference_mode():
            for number, beam in enumerate(live):
                head = self.engine.runner.head(beam.grammar.allowed().ranges)
                gains = torch.from_numpy(self.engine.runner.scores(beam.row, head)).log_softmax(-1)
                best = gains.topk(min(2 * width, len(gains)))
                ids = head.ids[best.indices.numpy()].tolist()
                found += [(beam.score + gain, number, token) for gain, token in zip(best.values.tolist(), ids, strict=True)]
        children: list[tuple[Beam, Beam]] = []
        for score, number, token in heapq.nlargest(2 * width, found):
            parent = live[number]
            grammar = parent.grammar.clone()
            grammar.advance(token)
            shares = [*parent.shares, math.exp(min(0.0, score - parent.score))]
            child = Beam([*parent.ids, token], score, grammar, parent.cache, shares=shares)
            if grammar.state == "text" and len(child.ids) < left and grammar.allowed().sampling.beams > 1:
                children.append((child, parent))
            else:
                ended.append(child)
            if len(children) == width:
                break
        ended.sort(key=lambda beam: beam.rank, reverse=True)
        del ended[width:]
        self._seat(children, live, begun, left)
        return [child for child, _ in children]

    def _seat(self, children: list[tuple[Beam, Beam]], live: list[Beam], begun: int, left: int) -> None:
        """Give every child a cache of its own that holds its parent's ids: the first inherits the parent's, the others get a copy."""
        free = [beam.cache for beam in live if beam.cache is not self.cache and all(parent is not beam for _, parent in children)]
        owned = [self.cache]
        for child, parent in children:
            if all(parent.cache is not cache for cache in owned):
                owned.append(parent.cache)
            elif free:
                child.cache = free.pop()
                child.cache.take(parent.cache, begun)
            else:
                child.cache = parent.cache.copy(begun + left)
