"""The LLaMA of models/llama.py on a GPU as recorded graphs: two launches per id instead of hundreds, and the host never in the way.

    id --body: embedding, layers over a fixed window of keys and values--> row --draw: scores, penalty, nucleus--> id
         one recording per window and number of rows                            one recording per head and sampling

The id stays on the device and enters the next body there; the host reads it while that body already runs (`Later`). A body
computes all seats at once, each a session with its own position; a session's cache is copied into a seat when it begins to write and
back when it stops. A block that is led away from another reading (`Sampling.guidance`) takes a second seat for that one, if one is
free. Where recording is impossible (and on a CPU, for tests) the same functions run step by step.

Dimension names: S seats, B rows of one body, V vocabulary, D model width, G key-value heads, E head width, n window.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anygpt_demo.modality import Sampling
from anygpt_demo.models.eager import Eager, EagerHead
from anygpt_demo.models.llama import Cache, Llama, packed, rotary_angles, rotate, row_bytes, unpacked

WINDOWS = (256, 512, 1024, 2048, 4096)  # positions that a body looks at; the smallest that fits is taken
MOST_SEATS = 8
SHARE = 0.3  # of the free memory, at most, that seats may take
SHORTEST = 1024  # positions that a seat must hold to be worth having
log = logging.getLogger(__name__)


class Later:
    """An id that was drawn on the device, int64 (1,) there. get() waits for it, and for nothing that was launched after it.

    share: float32 (1,) on the device, how likely it was.
    """

    def __init__(self, value: Tensor, share: Tensor) -> None:
        self.value = value
        self._copies = (value, share)
        self._event: torch.cuda.Event | None = None
        if value.is_cuda:
            self._copies = (torch.empty(1, dtype=torch.int64, pin_memory=True), torch.empty(1, pin_memory=True))
            for copy, found in zip(self._copies, (value, share), strict=True):
                copy.copy_(found, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def get(self) -> tuple[int, float]:
        """The id, and how likely it was."""
        if self._event is not None:
            self._event.synchronize()
        value, share = self._copies
        return int(value[0]), float(share[0])


class Recording:
    """A function without arguments, recorded: replay() launches all it does at once. It must read and write fixed memory."""

    def __init__(self, work: Callable[[], None], device: str) -> None:
        self.work = work
        self.graph: torch.cuda.CUDAGraph | None = None
        if not device.startswith("cuda"):
            return
        try:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # kernels are chosen and memory is found in the first runs
                for _ in range(2):
                    work()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # media may be decoded meanwhile
                work()
            self.graph = graph
        except RuntimeError as error:
            log.warning("a step cannot be recorded and runs piece by piece: %s", error)

    def replay(self) -> None:
        """Do it."""
        if self.graph is not None:
            self.graph.replay()
        else:
            self.work()


def without_outliers(model: Llama) -> int:
    """Switch off the outlier path of LLM.int8 layers, which waits for the host in every layer. Returns how many there are."""
    states = [layer.state for layer in model.modules() if type(layer).__name__ == "Linear8bitLt"]
    for state in states:
        state.threshold = 0.0  # type: ignore[union-attr]
    return len(states)


def seats_for(model: Llama, free: int, kv: str = "none") -> tuple[int, int]:
    """How many seats fit into a share of `free` bytes, at most MOST_SEATS, and how many positions each holds. kv: as in Eager.

    The whole context if one such seat fits, else half of it, and so on. (0, 0): better without.
    """
    config = model.config
    width = config.num_key_value_heads * row_bytes(config.head_dim, model.model.norm.weight.element_size(), kv)
    length = config.max_position_embeddings
    while length >= min(SHORTEST, config.max_position_embeddings):
        seats = int(SHARE * free) // (2 * config.num_hidden_layers * width * length)
        if seats:
            return min(MOST_SEATS, seats), length
        length //= 2
    return 0, 0


class Graphs(Eager):
    """Runs a Llama by recordings. Prompts are read as in Eager; ids given as Later are written in seats."""

    @torch.inference_mode()
    def __init__(self, model: Llama, device: str, seats: int = 1, length: int | None = None, kv: str = "none") -> None:
        super().__init__(model, device, kv)
        if without_outliers(model):
            log.info("LLM.int8 runs without its outlier path, which cannot be recorded")
        config, weight = model.config, model.model.norm.weight
        self.seats: list[Cache | None] = [None] * seats
        self.length = length or config.max_position_embeddings  # a longer conversation is written without a seat
        spare = self.length + 1  # one position more, for seats that idle
        shape = (2, config.num_hidden_layers, seats, config.num_key_value_heads, spare, config.head_dim + self.extra)
        self.slots = torch.zeros(shape, dtype=self.stored, device=device)
        self.begun = [0] * seats  # position from which a seat holds what its cache does not
        self.ids = torch.zeros(seats, dtype=torch.int64, device=device)
        self.positions = torch.zeros(seats, dtype=torch.int64, device=device)
        self.numbers = torch.arange(seats, device=device)
        self.rows = torch.zeros(seats, config.hidden_size, dtype=weight.dtype, device=device)
        self.row = torch.zeros(config.hidden_size, dtype=weight.dtype, device=device)
        self.other = torch.zeros_like(self.row)
        self.seen = torch.zeros(config.vocab_size, dtype=torch.bool, device=device)
        self.luck = torch.zeros(1, dtype=torch.float64, device=device)
        self.drawn = torch.zeros(1, dtype=torch.int64, device=device)
        self.share = torch.zeros(1, dtype=torch.float32, device=device)
        angles = rotary_angles(torch.arange(spare, device=device), config.head_dim, config.rope_theta, config.rope_scaling)
        self.cos, self.sin = (part.to(weight.dtype) for part in angles)
        self._lock = threading.RLock()  # the memory above is everybody's
        self._bodies: dict[tuple[int, int], Recording] = {}
        self._draws: dict[tuple[Any, Sampling, tuple[int, int] | None], Recording] = {}

    # ------------------------------------------------------------------------------------------------------- seats

    @torch.inference_mode()
    def sit(self, cache: Cache) -> bool:
        """Give a session a seat to write in; whether one was free, and long enough."""
        with self._lock:
            if None not in self.seats or len(cache.ids) >= self.length:
                return False
            seat, count = self.seats.index(None), len(cache.ids)
            self.slots[:, :, seat, :, :count] = cache.both[:, :, 0, :, :count]
            self.seats[seat], self.begun[seat] = cache, count
            return True

    @torch.inference_mode()
    def stand(self, cache: Cache) -> None:
        """Give the seat back: what was written goes into the cache."""
        with self._lock:
            seat = self._seat(cache)
            if seat is not None:
                cache.reserve(len(cache.ids))
                first, last = self.begun[seat], len(cache.ids)
                cache.both[:, :, 0, :, first:last] = self.slots[:, :, seat, :, first:last]
                self.seats[seat] = None

    def _seat(self, cache: Cache) -> int | None:
        return next((seat for seat, sitting in enumerate(self.seats) if sitting is cache), None)

    # ----------------------------------------------------------------------------------------------------- forward

    def run(self, pieces: Sequence[tuple[Sequence[int | Later], Cache]]) -> list[Tensor]:
        """Continue caches by ids, or by one that was drawn. Returns the last hidden state (D,) of each piece.

        cache.ids gets -1 for a drawn id: who drew it enters it when it is known.
        """
        with self._lock:
            return self._run(pieces)

    def _run(self, pieces: Sequence[tuple[Sequence[int | Later], Cache]]) -> list[Tensor]:
        for _, cache in pieces:
            if len(cache.ids) >= self.length:
                self.stand(cache)
        seats = [self._seat(cache) if isinstance(ids[0], Later) else None for ids, cache in pieces]
        rows: list[Tensor] = [self.row] * len(pieces)
        taken = [(seat, place) for place, seat in enumerate(seats) if seat is not None]
        if taken:
            self._step([(seat, pieces[place]) for seat, place in taken])
            for seat, place in taken:
                rows[place] = self.rows[seat]
        for place, (ids, cache) in enumerate(pieces):
            if seats[place] is None and isinstance(ids[0], Later):
                cache.reserve(len(cache.ids) + 1)
                rows[place] = self.model.hidden(ids[0].value[None], cache)[0, -1]
            elif seats[place] is None:
                rows[place] = super().run([(ids, cache)])[0]  # type: ignore[list-item]
                continue
            cache.ids.append(-1)
        return rows

    def _step(self, taken: Sequence[tuple[int, tuple[Sequence[int | Later], Cache]]]) -> None:
        """One body over the seats up to the last one taken. What it writes for a seat that idles lies behind what that one holds."""
        positions = [len(sitting.ids) if sitting is not None else 0 for sitting in self.seats]
        for seat, (ids, cache) in taken:
            positions[seat] = len(cache.ids)
            later = ids[0]
            assert isinstance(later, Later)
            self.ids[seat : seat + 1] = later.value
        self._send(self.positions, torch.tensor(positions))
        rows = next(size for size in (1, 2, 4, 8, len(self.seats)) if size >= 1 + max(seat for seat, _ in taken))
        rows = min(rows, len(self.seats))
        longest = max(positions[seat] for seat, _ in taken)
        window = min(self.length, next((size for size in WINDOWS if size > longest), self.length))
        key = (rows, window)
        if key not in self._bodies:
            self._bodies[key] = Recording(lambda: self._body(rows, window), self.device)
        self._bodies[key].replay()

    def _send(self, place: Tensor, values: Tensor) -> None:
        """Host to device, without waiting."""
        place.copy_(values.pin_memory() if place.is_cuda else values, non_blocking=True)

    def _body(self, count: int, window: int) -> None:
        """The next rows of the first `count` seats."""
        config, positions, numbers = self.model.config, self.positions[:count], self.numbers[:count]
        heads, groups, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        cos, sin = self.cos[positions, None, None], self.sin[positions, None, None]
        mask = (torch.arange(window, device=self.positions.device)[None] <= positions[:, None])[:, None, None]
        x = self.model.model.embed_tokens(self.ids[:count])
        for number, block in enumerate(self.model.model.layers):
            attention = block.self_attn  # type: ignore[union-attr]
            y = block.input_layernorm(x)  # type: ignore[operator]
            query = rotate(attention.q_proj(y).view(count, heads, 1, width), cos, sin)  # type: ignore[operator, union-attr]
            key = rotate(attention.k_proj(y).view(count, groups, 1, width), cos, sin)  # type: ignore[operator, union-attr]
            keys, values = self.slots[0, number, :count], self.slots[1, number, :count]
            value = attention.v_proj(y).view(count, groups, width)  # type: ignore[operator, union-attr]
            keys[numbers, :, positions] = packed(key[:, :, 0], self.stored)
            values[numbers, :, positions] = packed(value, self.stored)
            seen, known = unpacked(keys[:, :, :window], x.dtype), unpacked(values[:, :, :window], x.dtype)
            mixed = F.scaled_dot_product_attention(query, seen, known, attn_mask=mask, enable_gqa=groups != heads)
            x = x + attention.o_proj(mixed.reshape(count, -1))  # type: ignore[operator, union-attr]
            x = x + block.mlp(block.post_attention_layernorm(x))  # type: ignore[operator]
        self.rows[:count] = self.model.model.norm(x)

    # -------------------------------------------------------------------------------------------------------- draw

    @torch.inference_mode()
    def draw(
        self,
        row: Tensor,
        head: EagerHead,
        sampling: Sampling,
        luck: float,
        seen: Tensor,
        away: tuple[Tensor, tuple[int, int]] | None = None,
    ) -> Later:
        """Draw one of a head's ids after a row (D,), as engine.draw() does from the same number `luck` in [0, 1).

        seen: bool (V,) on the device: ids already in the block; the drawn one is entered. away: another row (D,), from whose scores those
        of the codes, ids from the first to before the last, are led away as by engine.lead(); None: scores are taken as they are.
        """
        with self._lock:
            self.row.copy_(row)
            self.seen.copy_(seen)
            if away is not None:
                self.other.copy_(away[0])
            codes = None if away is None else away[1]
            self._send(self.luck, torch.tensor([luck], dtype=torch.float64))
            key = (head.ranges, sampling, codes)
            if key not in self._draws:
                self._draws[key] = Recording(lambda: self._draw(head, sampling, codes), self.device)
            self._draws[key].replay()
            value = self.drawn.clone()
            seen[value] = True
            return Later(value, self.share.clone())

    @torch.inference_mode()
    def blank(self) -> Tensor:
        """No id seen yet, bool (V,)."""
        return torch.zeros_like(self.seen)

    def _draw(self, head: EagerHead, sampling: Sampling, codes: tuple[int, int] | None) -> None:
        scores = self.model.logits(self.row, head.ranges).float()
        if codes is not None and any(low < codes[1] and codes[0] < high for low, high in head.ranges):
            scores = self._led(scores, head, sampling.guidance, codes)
        if sampling.repetition_penalty != 1.0:
            seen = torch.cat([self.seen[low:high] for low, high in head.ranges])
            punished = torch.where(scores < 0, scores * sampling.repetition_penalty, scores / sampling.repetition_penalty)
            scores = torch.where(seen, punished, scores)
        place = self._place(scores, sampling)
        first = 0
        number = torch.zeros_like(place)
        for low, high in head.ranges:  # from the place among the scores to the id
            number = torch.where((place >= first) & (place < first + high - low), place - first + low, number)
            first += high - low
        self.drawn.copy_(number)
        self.share.copy_(scores.softmax(0)[place])

    def _led(self, scores: Tensor, head: EagerHead, guidance: float, codes: tuple[int, int]) -> Tensor:
        """Scores led away from those after the other row. scores: float32 (N,), some of them of codes."""
        other = self.model.logits(self.other, head.ranges).float()
        ids = torch.cat([torch.arange(low, high, device=scores.device) for low, high in head.ranges])
        inside = (ids >= codes[0]) & (ids < codes[1])
        led = other + guidance * (scores - other)
        weights = [torch.where(inside, part.double(), -torch.inf).logsumexp(0) for part in (scores, led)]
        return torch.where(inside, led, scores + (weights[1] - weights[0]).float())

    def _place(self, scores: Tensor, sampling: Sampling) -> Tensor:
        """Temperature, top-k, top-p and the draw. scores: float32 (N,). Returns int64 (1,)."""
        if sampling.temperature == 0.0 or len(scores) == 1:
            return scores.argmax(0, keepdim=True)
        order = None
        if 0 < sampling.top_k < len(scores):
            scores, order = scores.topk(sampling.top_k)
        elif sampling.top_p < 1.0:
            scores, order = scores.sort(descending=True)
        shares = ((scores - scores.max()) / sampling.temperature).exp().double()  # thousands of small ones are added up
        sums = shares.cumsum(0)
        if sampling.top_p < 1.0:
            shares = torch.where(sums - shares < sampling.top_p * sums[-1], shares, 0.0)
            sums = shares.cumsum(0)
        place = torch.searchsorted(sums, self.luck * sums[-1], right=True)
        place = place.clamp(max=(shares > 0).sum() - 1)
        return place if order is None else order[place]
