"""The LLaMA of models/llama.py once more, for writing on a CPU: packed weights, whole integers inside, no gradients.

It needs torch and numpy only; with a C compiler models/compiled.py does the same several times faster.

    embedding row --[ norm+qkv -> rotary -> attention over the cache -> out ; norm+gate,up -> silu -> down ] x layers--> row

One forward takes any mix of sessions: of some it reads many ids, of others one. In 8 bit every row is quantized by itself
and multiplied in whole numbers, and sums that decide a rounding are sums of whole numbers below 2**24; so a row's result
does not depend on which other rows were computed with it. What is left are the sums of attention, whose order depends on
how many ids are read at once; so prompts are read in blocks that begin at multiples of BLOCK (see Cache.keep).

Small arrays are numpy's, whose calls cost a fifth of torch's; matrices are torch's, on the same memory.

Dimension names: M rows (one per id), K and N input and output width of a matrix, D model width, G key-value heads,
R query heads per key-value head, E head width, n positions in a cache.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from anygpt_demo.models.llama import Cache, Llama, rotary_angles

Array = NDArray[np.float32]
Kind = Literal["int8", "bf16", "fp32"]
Ranges = tuple[tuple[int, int], ...]
View = tuple[Array, Array, Array, Tensor]  # one layer of a cache: both (2, G, n, E), keys (G, E, n), values (G, n, E), and both as a tensor
KINDS: tuple[Kind, ...] = ("int8", "bf16", "fp32")
BLOCK = 128  # ids of a prompt that are read at once; half of it takes a fifth longer
CACHED_BYTES = 16_000_000  # 8-bit weights up to this size stay in a processor's cache from one id to the next
FEW = 8  # rows up to which numpy's calls are the cheaper ones, and work spaces are kept
TINY = 1e-30
LARGEST_TURN = 512  # channels over which turned() and spread() spread one, as in kernels.c


class Work:
    """Buffers for M rows: numpy arrays and torch views of the same memory, made on first use of a width."""

    def __init__(self, rows: int, whole: Work | None = None) -> None:
        self.rows = rows
        self.whole = whole  # a larger one whose memory is used: fresh memory costs more than the arithmetic done in it
        self._inputs: dict[int, tuple[Array, NDArray[np.int8], Tensor]] = {}
        self._outputs: dict[int, tuple[NDArray[np.int32], Tensor, Array, Tensor]] = {}

    def inputs(self, width: int) -> tuple[Array, NDArray[np.int8], Tensor]:
        """Float (M, K), and int8 (M, K) twice."""
        found = self._inputs.get(width)
        if found is None:
            if self.whole is not None:
                whole = self.whole.inputs(width)
                rounded, codes = whole[0][: self.rows], whole[1][: self.rows]
            else:
                rounded, codes = np.empty((self.rows, width), np.float32), np.empty((self.rows, width), np.int8)
            found = self._inputs[width] = rounded, codes, torch.from_numpy(codes)
        return found

    def outputs(self, width: int) -> tuple[NDArray[np.int32], Tensor, Array, Tensor]:
        """Int32 (M, N) twice, float (M, N) twice."""
        found = self._outputs.get(width)
        if found is None:
            if self.whole is not None:
                whole = self.whole.outputs(width)
                sums, values = whole[0][: self.rows], whole[2][: self.rows]
            else:
                sums, values = np.empty((self.rows, width), np.int32), np.empty((self.rows, width), np.float32)
            found = self._outputs[width] = sums, torch.from_numpy(sums), values, torch.from_numpy(values)
        return found


class Inside:
    """What a layer makes of M rows on the way, as views that are made once: a view costs as much as small arithmetic.

    turned: complex (M, H + G, E/2), queries and keys; new: (M, 2, G, E), keys and values; queries: (M, G, R, E); all of them lie in
    the output of qkv. mixed: (M, H E), what attention makes, and the same as seats: (M, G, R, E); gate, up: in the output of gate_up;
    gated: (M, F) twice.
    """

    def __init__(self, work: Work, shape: tuple[int, int, int], hidden: int) -> None:
        heads, groups, width = shape
        rows, inner = work.rows, heads * width
        y = work.outputs((heads + 2 * groups) * width)[2]
        self.turned = torch.from_numpy(y[:, : (heads + groups) * width].view(np.complex64)).unflatten(1, (heads + groups, -1))
        self.new = y[:, inner:].reshape(rows, 2, groups, width)
        self.queries = y[:, :inner].reshape(rows, groups, -1, width)
        self.mixed: Array = np.empty((rows, inner), np.float32)
        self.seats = self.mixed.reshape(rows, groups, -1, width)
        self.gate, self.up = work.outputs(2 * hidden)[3].chunk(2, dim=1)
        self.gated: Array = np.empty((rows, hidden), np.float32)
        self.gated_view = torch.from_numpy(self.gated)


class Matrix(Protocol):
    """x W, or rms_norm(x) W: float32 (M, K) -> (M, N). The result lies in `work` and is overwritten by the next of its width."""

    def __call__(self, x: Array, work: Work) -> Array: ...

    @property
    def bytes(self) -> int:
        """Bytes of the weights, which one call reads."""
        ...


class Int8:
    """8-bit weights, one scale per output; inputs are rounded to 8 bits row by row, and multiplied and summed in integers.

    eps: given if the input is to be RMS-normalised first; the norm's gain must be in the weight. The norm only changes the
    scale of a row, and that is taken out anyway: its root mean square is that of the rounded row, an exact sum.
    """

    def __init__(self, weight: Tensor, eps: float | None = None) -> None:
        weight = weight.float()
        scale = weight.abs().amax(1).clamp_min(TINY) / 127
        self.turned = (weight / scale[:, None]).round().to(torch.int8).contiguous().t()  # (K, N), its columns in memory
        self.scale_view = scale
        self.scale: Array = scale.numpy()
        self.eps = eps
        self.line: Tensor | None = None  # int64 (K N / 8,): the same memory, if it is read once before it is multiplied

    @property
    def bytes(self) -> int:
        """Bytes of the weights and their scales."""
        return self.turned.nbytes + self.scale.nbytes

    def move(self, home: NDArray[np.int8]) -> None:
        """Put the weights into `home`, int8 (K N,), and read them once, in order, before each product with few rows.

        For a model that does not fit into a processor's cache: the product asks for memory in an order that no processor foresees, and
        waits; a plain sum takes all that memory gives, and leaves the weights in the cache. Twice as fast together.
        """
        width, outs = self.turned.shape
        place = torch.from_numpy(home).view(outs, width)
        place.copy_(self.turned.t())
        self.turned = place.t()
        self.line = place.view(-1).view(torch.int64) if place.numel() % 8 == 0 else None

    def __call__(self, x: Array, work: Work) -> Array:
        """x: float32 (M, K). Returns (M, N)."""
        width, outs = self.turned.shape
        if self.line is not None and len(x) <= FEW:
            self.line.sum()
        rounded, codes, codes_view = work.inputs(width)
        sums, sums_view, y, y_view = work.outputs(outs)
        if len(x) > FEW:
            torch.abs(torch.from_numpy(x), out=torch.from_numpy(rounded))
        else:
            np.abs(x, out=rounded)
        if len(x) == 1:  # the same arithmetic as below on plain numbers, which is twice as fast for one row
            row = rounded[0]
            top = float(row[row.argmax()]) + TINY
            step = 127.0 / top
            np.multiply(x, step, out=rounded)
            np.rint(rounded, out=rounded)
            factor = top / 127.0 if self.eps is None else 1.0 / math.sqrt(float(row.dot(row)) / width + self.eps * step * step)
            codes[...] = rounded
            torch._int_mm(codes_view, self.turned, out=sums_view)
            np.multiply(sums, self.scale, out=y, dtype=np.float32, casting="unsafe")
            return np.multiply(y, factor, out=y)
        view = torch.from_numpy(rounded)
        tops = (rounded.max(1, keepdims=True) if len(x) <= FEW else view.amax(1, True).numpy()).astype(np.float64) + TINY
        steps = 127.0 / tops
        if len(x) <= FEW:
            np.multiply(x, steps.astype(np.float32), out=rounded)
            np.rint(rounded, out=rounded)
        else:
            torch.mul(torch.from_numpy(x), torch.from_numpy(steps.astype(np.float32)), out=view).round_()
        if self.eps is None:
            factors = tops / 127.0
        else:
            squares = np.vecdot(rounded, rounded).astype(np.float64)[:, None]
            factors = 1.0 / np.sqrt(squares / width + self.eps * steps * steps)
        codes[...] = rounded
        torch._int_mm(codes_view, self.turned, out=sums_view)
        y_view.copy_(sums_view).mul_(self.scale_view).mul_(torch.from_numpy(factors.astype(np.float32)))
        return y


class Plain:
    """Weights as floats: float32, or bfloat16 where that is faster. eps as in Int8."""

    def __init__(self, weight: Tensor, eps: float | None = None, dtype: torch.dtype = torch.float32) -> None:
        self.turned = weight.to(dtype).contiguous().t()
        self.dtype = dtype
        self.eps = eps

    @property
    def bytes(self) -> int:
        """Bytes of the weights."""
        return self.turned.nbytes

    def __call__(self, x: Array, work: Work) -> Array:
        """x: float32 (M, K). Returns (M, N)."""
        width, outs = self.turned.shape
        _, _, y, y_view = work.outputs(outs)
        given = torch.from_numpy(x)
        if self.dtype == torch.float32:
            torch.mm(given, self.turned, out=y_view)
        else:
            y_view.copy_(given.to(self.dtype) @ self.turned)
        if self.eps is not None:
            np.multiply(y, 1.0 / np.sqrt(np.vecdot(x, x)[:, None] / np.float32(width) + np.float32(self.eps)), out=y)
        return y


def matrix(weight: Tensor, kind: Kind, eps: float | None = None) -> Matrix:
    """A weight (N, K) in the given kind."""
    if kind == "int8":
        return Int8(weight, eps)
    return Plain(weight, eps, torch.bfloat16 if kind == "bf16" else torch.float32)


class HeadIds:
    """Some ids of a vocabulary. ids: int64 (N,), in the order of the scores; place: id -> its position, or -1."""

    def __init__(self, vocabulary: int, ranges: Ranges) -> None:
        self.ids: NDArray[np.int64] = np.concatenate([np.arange(low, high) for low, high in ranges])
        self.place: NDArray[np.int64] = np.full(vocabulary, -1)
        self.place[self.ids] = np.arange(len(self.ids))

    def rows(self, weight: Tensor, ranges: Ranges) -> Tensor:
        """Their rows of a weight (V, D): (N, D)."""
        return weight[ranges[0][0] : ranges[0][1]] if len(ranges) == 1 else weight[torch.from_numpy(self.ids)]


class Head(HeadIds):
    """The output rows of some ids."""

    def __init__(self, weight: Tensor, ranges: Ranges, kind: Kind, eps: float) -> None:
        super().__init__(len(weight), ranges)
        self.matrix = matrix(self.rows(weight, ranges), kind, eps)


def turned(rows: Tensor) -> Tensor:
    """Rows (N, D) in other coordinates, by an orthogonal matrix: signs, then Hadamard matrices on the diagonal (arXiv 2404.00456).

    In the model's own coordinates one channel is thirty times as large as the others, and takes most of the 8 bits of its row; here it
    is spread over all. Lengths stay, so norms without a gain do not notice, and it costs nothing once embedding, layers and head are
    turned. Equal for every model of a width.
    """
    width = rows.shape[-1]
    signs = np.random.default_rng(0).choice((-1.0, 1.0), width).astype(np.float32)
    size, hadamard = min(width & -width, LARGEST_TURN), torch.ones(1, 1)
    while len(hadamard) < size:
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    return ((rows.float() * torch.from_numpy(signs)).unflatten(-1, (-1, size)) @ (hadamard * size**-0.5)).flatten(-2)


def unturned(rows: Tensor) -> Tensor:
    """Rows as they are, where nothing is rounded."""
    return rows.float()


def spread(rows: Tensor) -> Tensor:
    """Rows (M, F) times Hadamard matrices on the diagonal, by sums and differences alone; twice is F's largest power of two times as much.

    What goes into `down` has outliers that differ from row to row, and no coordinates of its own to be turned beforehand: three quarters of
    the error of 8-bit rows arose there. So each row is spread when it is computed (the online rotation of arXiv 2404.00456), and
    the weights have been spread before.
    """
    width, half = rows.shape[-1], 1
    while half < min(width & -width, LARGEST_TURN):
        pairs = rows.unflatten(-1, (-1, 2, half))
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        rows = torch.stack([first + second, first - second], -2).flatten(-3)
        half *= 2
    return rows


def folded(block: Any, heads: int, groups: int, width: int, turn: Callable[[Tensor], Tensor], whole: bool) -> Iterator[Tensor]:
    """The four matrices of a layer: qkv, out, gate and up, down, each (N, K), with the gain of their norm.

    Rotary halves (0, E/2), (1, E/2+1), ... stand side by side in queries and keys, and queries are scaled for attention. turn: turned()
    or unturned(), the coordinates between the layers. whole: for products in whole numbers, before whose last rows are spread.
    """
    attention, feed = block.self_attn, block.mlp
    pairs = torch.arange(width).view(2, width // 2).t().reshape(-1)
    query = attention.q_proj.weight.unflatten(0, (heads, width))[:, pairs].flatten(0, 1) * width**-0.5
    key = attention.k_proj.weight.unflatten(0, (groups, width))[:, pairs].flatten(0, 1)
    yield turn(torch.cat([query, key, attention.v_proj.weight]) * block.input_layernorm.weight)
    yield turn(attention.o_proj.weight.t()).t()
    yield turn(torch.cat([feed.gate_proj.weight, feed.up_proj.weight]) * block.post_attention_layernorm.weight)
    down = turn(feed.down_proj.weight.t()).t()
    hidden = down.shape[1]
    yield spread(down) / min(hidden & -hidden, LARGEST_TURN) if whole else down


class Layer:
    """One transformer layer, packed: three projections in one matrix, gate and up in another, both with their norm's gain."""

    def __init__(self, block: Any, kind: Kind, eps: float, heads: int, groups: int, width: int) -> None:
        norms = (eps, None) * 2
        parts = folded(block, heads, groups, width, turned if kind == "int8" else unturned, kind == "int8")
        self.qkv, self.out, self.gate_up, self.down = map(matrix, parts, [kind] * 4, norms)

    @property
    def parts(self) -> tuple[Matrix, ...]:
        """Its matrices."""
        return self.qkv, self.out, self.gate_up, self.down

    @property
    def bytes(self) -> int:
        """Bytes of all weights, which writing one id reads."""
        return sum(part.bytes for part in self.parts)


class Fast:
    """Packed weights of a Llama. Read-only but for the work spaces of run(): one thread at a time may be in it."""

    unit = BLOCK
    block = BLOCK

    @torch.no_grad()
    def __init__(self, model: Llama, kind: Kind = "int8") -> None:
        config = model.config
        self.config, self.kind = config, kind
        self.heads, self.groups, self.width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.layers = [Layer(block, kind, config.rms_norm_eps, self.heads, self.groups, self.width) for block in model.model.layers]
        self._gather()
        turn = turned if kind == "int8" else unturned
        self.embedding: Array = turn(model.model.embed_tokens.weight.detach()).numpy()
        self._rows = turn(model.head.detach() * model.model.norm.weight.detach())
        cos, sin = rotary_angles(torch.arange(config.max_position_embeddings), self.width, config.rope_theta, config.rope_scaling)
        half = self.width // 2
        self.turns = torch.complex(cos[:, :half], sin[:, :half])[:, None]  # (positions, 1, E/2)
        self._heads: dict[Ranges, Head] = {}
        self._work: dict[int, tuple[Work, Inside]] = {}
        self._looks = torch.empty(2, 0)
        self._own = threading.local()  # scores() may be asked for by any thread at any time
        self._threads = torch.get_num_threads()

    def _gather(self) -> None:
        """Put the weights of a model that is too large for a processor's cache into one piece of memory: large pages, found sooner."""
        parts = [part for layer in self.layers for part in layer.parts if isinstance(part, Int8)]
        self.far = sum(part.bytes for part in parts) > CACHED_BYTES
        if not self.far:
            return
        sizes = [part.turned.numel() for part in parts]
        ends = np.cumsum(sizes)
        whole = np.empty(ends[-1], np.int8)
        for part, size, end in zip(parts, sizes, ends, strict=True):
            part.move(whole[end - size : end])

    @property
    def bytes(self) -> int:
        """Bytes of the weights of all layers, which writing one id reads."""
        return sum(layer.bytes for layer in self.layers)

    def cache(self, capacity: int) -> Cache:
        """An empty cache."""
        return Cache(self.config, capacity, torch.float32, "cpu")

    def clear(self) -> None:
        """Forget the heads made so far."""
        self._heads.clear()

    def head(self, ranges: Ranges) -> Head:
        """The head of these ids; made once, for a grammar has few states."""
        found = self._heads.get(ranges)
        if found is None:
            if sum(len(head.ids) for head in self._heads.values()) > 4 * len(self._rows):
                self._heads.clear()
            found = self._heads[ranges] = Head(self._rows, ranges, self.kind, self.config.rms_norm_eps)
        return found

    def scores(self, row: Array, head: Head) -> Array:
        """Scores of a head's ids after one row of run(), float32 (D,). Returns float32 (N,), until the thread's next call."""
        work = getattr(self._own, "work", None)
        if work is None:
            work = self._own.work = Work(1)
        return head.matrix(row[None], work)[0]

    def _space(self, rows: int) -> tuple[Work, Inside]:
        """Memory for some rows."""
        found = self._work.get(rows)
        if found is None:
            work = Work(rows, self._space(BLOCK)[0] if FEW < rows < BLOCK else None)
            found = work, Inside(work, (self.heads, self.groups, self.width), self.config.intermediate_size)
            if rows <= FEW or rows == BLOCK:
                self._work[rows] = found
        return found

    def _scratch(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Two buffers for the scores of attention."""
        size = math.prod(shape)
        if self._looks.shape[1] < size:
            self._looks = torch.empty(2, 2 * size)
        first, second = self._looks[:, :size].view(2, *shape)
        return first, second

    def run(self, pieces: Sequence[tuple[Sequence[int], Cache]]) -> Array:
        """Continue caches by ids: any number of ids for each of the caches, which must differ. The caches' ids are extended.

        Returns the last row of each piece, float32 (pieces, D), not yet normalised: scores() takes them. A few rows are computed
        by one thread: handing such small work to others costs more than it saves, and the other core has media to decode.
        """
        few = len(pieces) == sum(len(piece) for piece, _ in pieces) and self._threads > 1
        if few:
            torch.set_num_threads(1)
        try:
            return self._run(pieces)
        finally:
            if few:
                torch.set_num_threads(self._threads)

    def _run(self, pieces: Sequence[tuple[Sequence[int], Cache]]) -> Array:
        ids = [number for piece, _ in pieces for number in piece]
        count = len(ids)
        work, inside = self._space(count)
        starts = [len(cache.ids) for _, cache in pieces]
        ends = list(accumulate(len(piece) for piece, _ in pieces))
        x = self.embedding[ids]
        if count == 1:
            turns = self.turns[starts[0] : starts[0] + 1]
        else:
            turns = torch.cat([self.turns[at : at + len(piece)] for at, (piece, _) in zip(starts, pieces, strict=True)])
        views = [cache.views() for _, cache in pieces]
        for number, layer in enumerate(self.layers):
            last = number == len(self.layers) - 1  # of the last layer only each piece's last row is wanted, and all keys and values
            layer.qkv(x, work)
            inside.turned.mul_(turns)
            row = 0
            for end, start, view in zip(ends, starts, views, strict=True):
                if end - row == 1 and count <= FEW:
                    self._write(inside, row, start, view[number])
                else:
                    self._read(inside, row, end, start, view[number], last)
                row = end
            mixed = inside.mixed
            if last and len(pieces) < count:
                rows = np.asarray(ends) - 1
                x, mixed = x[rows], mixed[rows]
                work, inside = self._space(len(pieces))
            x += layer.out(mixed, work)
            layer.gate_up(x, work)
            torch.mul(F.silu(inside.gate), inside.up, out=inside.gated_view)
            if self.kind == "int8":
                inside.gated_view.copy_(spread(inside.gated_view))
            x += layer.down(inside.gated, work)
        for piece, cache in pieces:
            cache.ids += piece
        return x

    def _write(self, inside: Inside, row: int, start: int, view: View) -> None:
        """Attention of one row at position `start` of a session."""
        plane, keys, values, both = view
        plane[:, :, start] = inside.new[row]
        if self.far:
            both.narrow(2, 0, start).sum()  # as in Int8.move()
        looks = torch.from_numpy(np.matmul(inside.queries[row], keys[:, :, : start + 1]))
        np.matmul(looks.softmax(-1).numpy(), values[:, : start + 1], out=inside.seats[row])

    def _read(self, inside: Inside, row: int, end: int, start: int, view: View, last: bool) -> None:
        """Attention of the rows from `row` to `end` - 1, consecutive ones of one session, the first at position `start`.

        last: only the last row's result is wanted.
        """
        plane, _, _, both = view
        size = start + end - row
        plane[:, :, start:size] = inside.new[row:end].transpose(1, 2, 0, 3)
        first = end - 1 if last else row
        count, start = end - first, start + first - row
        keys, values = both[0].narrow(1, 0, size).transpose(1, 2), both[1].narrow(1, 0, size)
        query = torch.from_numpy(inside.queries[first:end].transpose(1, 2, 0, 3).reshape(self.groups, -1, self.width))
        looks, shares = self._scratch((self.groups, query.shape[1], size))
        torch.bmm(query, keys, out=looks)
        looks.unflatten(1, (-1, count))[..., start:] += torch.full((count, count), -math.inf).triu_(1)
        torch.softmax(looks, -1, out=shares)
        found = torch.bmm(shares, values).unflatten(1, (-1, count))
        inside.mixed[first:end] = found.permute(2, 0, 1, 3).reshape(count, -1).numpy()
