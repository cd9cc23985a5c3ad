"""The LLaMA of models/llama.py once more, for writing on a CPU: packed weights, whole integers inside, no gradients.

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
import warnings
from collections.abc import Sequence
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
View = tuple[Array, Array, Tensor, Tensor]  # one layer of a cache: keys and values as arrays (G, n, E), as tensors (G, E, n) and (G, n, E)
KINDS: tuple[Kind, ...] = ("int8", "bf16", "fp32")
BLOCK = 128  # ids of a prompt that are read at once; half of it takes a fifth longer
EDGE = 16  # columns behind the inputs of fbgemm: two are needed, and rows stay aligned
CACHED_BYTES = 16_000_000  # 8-bit weights up to this size stay in a processor's cache from one id to the next
FEW = 8  # rows up to which numpy's calls are the cheaper ones, and work spaces are kept
TINY = 1e-30
fbgemm = torch.ops.quantized.linear_dynamic._op  # the operation itself: what stands around it costs as much again for one row


class Work:
    """Buffers for M rows: numpy arrays and torch views of the same memory, made on first use of a width."""

    def __init__(self, rows: int, whole: Work | None = None) -> None:
        self.rows = rows
        self.whole = whole  # a larger one whose memory is used: fresh memory costs more than the arithmetic done in it
        self._inputs: dict[int, tuple[Array, NDArray[np.int8], Tensor]] = {}
        self._edged: dict[int, tuple[Tensor, Array]] = {}
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

    def edged(self, width: int) -> tuple[Tensor, Array]:
        """Float (M, K + EDGE) with what prepack() needs behind the first K columns, and those columns alone."""
        found = self._edged.get(width)
        if found is None:
            whole = np.zeros((self.rows, width + EDGE), np.float32)
            whole[:, width], whole[:, width + 1] = -127.0, 128.0
            found = self._edged[width] = torch.from_numpy(whole), whole[:, :width]
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


class Matrix(Protocol):
    """x W, or rms_norm(x) W: float32 (M, K) -> (M, N). The result lies in `work` and is overwritten by the next of its width."""

    def __call__(self, x: Array, work: Work) -> Array: ...

    @property
    def bytes(self) -> int:
        """Bytes of the weights, which one call reads."""
        ...


def prepack(codes: Tensor, scale: Tensor) -> Any:
    """8-bit weights (N, K) and their scales in fbgemm's own layout, behind EDGE more inputs whose weights are zero.

    fbgemm chooses how to round its input by the least and the greatest number in it. With -127 and 128 among the inputs it
    chooses the step 1, and whole numbers stay what they are.
    """
    wide = torch.cat([codes, codes.new_zeros(len(codes), EDGE)], 1)
    before = torch.backends.quantized.engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that such tensors will move elsewhere: then probe() fails and int8 runs without them
        try:
            torch.backends.quantized.engine = "fbgemm"
            zeros = torch.zeros(len(codes), dtype=torch.int64)
            return torch.ops.quantized.linear_prepack(torch._make_per_channel_quantized_tensor(wide, scale.double(), zeros, 0), None)
        finally:
            torch.backends.quantized.engine = before


def probe() -> bool:
    """Whether fbgemm's products are exact on this machine and equal to torch's integer product. Old processors saturate."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-127, 128, (48, 160), dtype=torch.int8, generator=generator)
    codes[0] = 127
    rows = torch.randint(-127, 128, (3, 160), dtype=torch.int8, generator=generator)
    rows[0] = 127
    try:
        given = torch.cat([rows.float(), torch.tensor([[-127.0, 128.0] + [0.0] * (EDGE - 2)]).expand(3, EDGE)], 1)
        found = fbgemm(given.contiguous(), prepack(codes, torch.ones(48)), False)
        return torch.equal(found, torch._int_mm(rows, codes.t()).float())
    except (RuntimeError, AttributeError):
        return False


class Int8:
    """8-bit weights, one scale per output; inputs are rounded to 8 bits row by row, and multiplied and summed in integers.

    eps: given if the input is to be RMS-normalised first; the norm's gain must be in the weight. The norm only changes the
    scale of a row, and that is taken out anyway: its root mean square is that of the rounded row, an exact sum.

    Two products with one result: torch's, whose calls cost least, and fbgemm's, which reads weights from memory nearly twice
    as fast. packed: take fbgemm's for a few rows, because the model is too large for a processor's cache.
    """

    def __init__(self, weight: Tensor, eps: float | None = None, packed: bool = False) -> None:
        weight = weight.float()
        self.scale_view = weight.abs().amax(1).clamp_min(TINY) / 127
        self.scale: Array = self.scale_view.numpy()
        codes = (weight / self.scale_view[:, None]).round().to(torch.int8).contiguous()
        self.turned = codes.t()  # (K, N), its columns in memory
        self.packed = prepack(codes, self.scale_view) if packed else None
        self.eps = eps

    @property
    def bytes(self) -> int:
        """Bytes of the weights and their scales."""
        return self.turned.nbytes + self.scale.nbytes

    def __call__(self, x: Array, work: Work) -> Array:
        """x: float32 (M, K). Returns (M, N)."""
        if len(x) == 1:
            return self._one(x, work)
        width, outs = self.turned.shape
        few = len(x) <= FEW
        if few and self.packed is not None:
            whole, rounded = work.edged(width)
        else:
            rounded = work.inputs(width)[0]
        view = torch.from_numpy(rounded)
        if few:
            np.abs(x, out=rounded)
            tops = rounded.max(1, keepdims=True).astype(np.float64) + TINY
            steps = 127.0 / tops
            np.multiply(x, steps.astype(np.float32), out=rounded)
            np.rint(rounded, out=rounded)
        else:
            tops = torch.abs(torch.from_numpy(x), out=view).amax(1, True).numpy().astype(np.float64) + TINY
            steps = 127.0 / tops
            torch.mul(torch.from_numpy(x), torch.from_numpy(steps.astype(np.float32)), out=view).round_()
        if self.eps is None:
            factors = tops / 127.0
        else:
            squares = np.vecdot(rounded, rounded).astype(np.float64)[:, None]
            factors = 1.0 / np.sqrt(squares / width + self.eps * steps * steps)
        if few and self.packed is not None:
            y: Array = fbgemm(whole, self.packed, False).numpy()
            return np.multiply(y, factors.astype(np.float32), out=y)
        _, codes, codes_view = work.inputs(width)
        _, sums_view, y, y_view = work.outputs(outs)
        codes[...] = rounded
        torch._int_mm(codes_view, self.turned, out=sums_view)
        y_view.copy_(sums_view).mul_(self.scale_view).mul_(torch.from_numpy(factors.astype(np.float32)))
        return y

    def _one(self, x: Array, work: Work) -> Array:
        """The same arithmetic on plain numbers, which is twice as fast for one row."""
        width, outs = self.turned.shape
        if self.packed is None:
            rounded, codes, codes_view = work.inputs(width)
        else:
            whole, rounded = work.edged(width)
        np.abs(x, out=rounded)
        row = rounded[0]
        top = float(row[row.argmax()]) + TINY
        step = 127.0 / top
        np.multiply(x, step, out=rounded)
        np.rint(rounded, out=rounded)
        factor = top / 127.0 if self.eps is None else 1.0 / math.sqrt(float(row.dot(row)) / width + self.eps * step * step)
        if self.packed is not None:
            found: Array = fbgemm(whole, self.packed, False).numpy()
            return np.multiply(found, factor, out=found)
        codes[...] = rounded
        sums, sums_view, y, _ = work.outputs(outs)
        torch._int_mm(codes_view, self.turned, out=sums_view)
        np.multiply(sums, self.scale, out=y, dtype=np.float32, casting="unsafe")
        return np.multiply(y, factor, out=y)


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


def matrix(weight: Tensor, kind: Kind, eps: float | None = None, packed: bool = False) -> Matrix:
    """A weight (N, K) in the given kind; packed: see Int8."""
    if kind == "int8":
        return Int8(weight, eps, packed)
    return Plain(weight, eps, torch.bfloat16 if kind == "bf16" else torch.float32)


class Head:
    """The output rows of some ids. ids: int64 (N,), in the order of the scores; place: id -> its position, or -1."""

    def __init__(self, weight: Tensor, ranges: Ranges, kind: Kind, eps: float, packed: bool) -> None:
        self.ids: NDArray[np.int64] = np.concatenate([np.arange(low, high) for low, high in ranges])
        self.place: NDArray[np.int64] = np.full(len(weight), -1)
        self.place[self.ids] = np.arange(len(self.ids))
        rows = weight[ranges[0][0] : ranges[0][1]] if len(ranges) == 1 else weight[torch.from_numpy(self.ids)]
        self.matrix = matrix(rows, kind, eps, packed)


class Layer:
    """One transformer layer, packed: three projections in one matrix, gate and up in another, both with their norm's gain."""

    def __init__(self, block: Any, kind: Kind, eps: float, shape: tuple[int, int, int], packed: bool) -> None:
        heads, groups, width = shape
        attention, feed = block.self_attn, block.mlp
        pairs = torch.arange(width).view(2, width // 2).t().reshape(-1)  # rotary halves (0, E/2), (1, E/2+1), ... side by side
        query = attention.q_proj.weight.unflatten(0, (heads, width))[:, pairs].flatten(0, 1) * width**-0.5
        key = attention.k_proj.weight.unflatten(0, (groups, width))[:, pairs].flatten(0, 1)
        gain, later_gain = block.input_layernorm.weight, block.post_attention_layernorm.weight
        self.qkv = matrix(torch.cat([query, key, attention.v_proj.weight]) * gain, kind, eps, packed)
        self.out = matrix(attention.o_proj.weight, kind, None, packed)
        self.gate_up = matrix(torch.cat([feed.gate_proj.weight, feed.up_proj.weight]) * later_gain, kind, eps, packed)
        self.down = matrix(feed.down_proj.weight, kind, None, packed)

    @property
    def bytes(self) -> int:
        """Bytes of all weights, which writing one id reads."""
        return sum(part.bytes for part in (self.qkv, self.out, self.gate_up, self.down))


class Fast:
    """Packed weights of a Llama. Read-only but for the work spaces of run(): one thread at a time may be in it."""

    unit = BLOCK
    block = BLOCK

    @torch.no_grad()
    def __init__(self, model: Llama, kind: Kind = "int8") -> None:
        config = model.config
        self.config, self.kind = config, kind
        self.heads, self.groups, self.width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        weights = sum(parameter.numel() for parameter in model.model.layers.parameters())
        self.packed = kind == "int8" and weights > CACHED_BYTES and probe()
        shape = self.heads, self.groups, self.width
        self.layers = [Layer(block, kind, config.rms_norm_eps, shape, self.packed) for block in model.model.layers]
        self.embedding: Array = model.model.embed_tokens.weight.detach().float().numpy()
        self._rows = (model.head.detach() * model.model.norm.weight.detach()).float()
        cos, sin = rotary_angles(torch.arange(config.max_position_embeddings), self.width, config.rope_theta)
        half = self.width // 2
        self.turns = torch.complex(cos[:, :half], sin[:, :half])[:, None]  # (positions, 1, E/2)
        self._heads: dict[Ranges, Head] = {}
        self._work: dict[int, Work] = {}
        self._looks = torch.empty(2, 0)
        self._threads = torch.get_num_threads()

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
            found = self._heads[ranges] = Head(self._rows, ranges, self.kind, self.config.rms_norm_eps, self.packed)
        return found

    def scores(self, row: Array, head: Head) -> Array:
        """Scores of a head's ids after one row of run(), float32 (D,). Returns float32 (N,)."""
        return head.matrix(row[None], Work(1))[0]

    def _space(self, rows: int) -> Work:
        found = self._work.get(rows)
        if found is None:
            found = Work(rows, self._space(BLOCK) if FEW < rows < BLOCK else None)
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
        work = self._space(count)
        starts = [len(cache.ids) for _, cache in pieces]
        ends = np.cumsum([len(piece) for piece, _ in pieces]).tolist()
        x = self.embedding[ids]
        if count == 1:
            turns = self.turns[starts[0] : starts[0] + 1]
        else:
            turns = torch.cat([self.turns[at : at + len(piece)] for at, (piece, _) in zip(starts, pieces, strict=True)])
        views = [cache.views() for _, cache in pieces]
        mixed = np.empty((count, self.heads * self.width), np.float32)
        for number, layer in enumerate(self.layers):
            last = number == len(self.layers) - 1  # of the last layer only each piece's last row is wanted, and all keys and values
            y = layer.qkv(x, work)
            turned = torch.from_numpy(y[:, : (self.heads + self.groups) * self.width].view(np.complex64))
            turned.view(count, self.heads + self.groups, -1).mul_(turns)
            row = 0
            for end, start, view in zip(ends, starts, views, strict=True):
                self._keep(y[row:end], start, view[number])
                first = end - 1 if last else row
                self._attend(y[first:end], mixed[first:end], start + first - row, view[number])
                row = end
            if last and len(pieces) < count:
                rows = np.asarray(ends) - 1
                x, mixed, work = x[rows], mixed[rows], self._space(len(pieces))
            x += layer.out(mixed, work)
            y = layer.gate_up(x, work)
            gate, up = torch.from_numpy(y).chunk(2, dim=1)
            x += layer.down(torch.mul(F.silu(gate), up).numpy(), work)
        for piece, cache in pieces:
            cache.ids += piece
        return x

    def _keep(self, y: Array, start: int, view: View) -> None:
        """Put the keys and values of one session's new rows, in y (T, (H + 2G) E), into its cache."""
        inner, size, count = self.heads * self.width, self.groups * self.width, len(y)
        for part, plane in enumerate(view[:2]):
            new = y[:, inner + part * size : inner + (part + 1) * size].reshape(count, self.groups, self.width)
            if count == 1:
                plane[:, start] = new[0]
            else:
                plane[:, start : start + count] = new.swapaxes(0, 1)

    def _attend(self, y: Array, mixed: Array, start: int, view: View) -> None:
        """Attention of consecutive rows of one session, the first at position `start`: from y (T, (H + 2G) E) into mixed (T, H E)."""
        _, _, keys, values = view
        groups, width, count = self.groups, self.width, len(y)
        end = start + count
        keys, values = keys.narrow(2, 0, end), values.narrow(1, 0, end)
        if count == 1:
            query = torch.from_numpy(y[0, : self.heads * width].reshape(groups, -1, width))
            torch.bmm(torch.bmm(query, keys).softmax(-1), values, out=torch.from_numpy(mixed[0].reshape(groups, -1, width)))
            return
        rows = y[:, : self.heads * width].reshape(count, groups, -1, width)
        query = torch.from_numpy(rows.transpose(1, 2, 0, 3).reshape(groups, -1, width))
        looks, shares = self._scratch((groups, query.shape[1], end))
        torch.bmm(query, keys, out=looks)
        looks.unflatten(1, (-1, count))[..., start:] += torch.full((count, count), -math.inf).triu_(1)
        torch.softmax(looks, -1, out=shares)
        found = torch.bmm(shares, values).unflatten(1, (-1, count))
        mixed[...] = found.permute(2, 0, 1, 3).reshape(count, -1).numpy()
