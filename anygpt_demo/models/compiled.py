"""The LLaMA of models/llama.py in 8 bit, one call of C per forward and the draws after it (models/kernels.c).

The C is compiled by the system's compiler when a model is first loaded, for this processor, and kept in the user's cache folder.
Without a compiler models/fast.py does the same with the calls of torch and numpy. A row's result has the same bits whatever else
is computed with it, and whether its past was read at once, in pieces, or written id by id. Python's lock is free during a call, and
calls know nothing of each other: two threads that write for two sessions each take two processors.

Dimension names: M rows (one per id), K and N input and output width of a matrix, D model width, E head width.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anygpt_demo.modality import Sampling
from anygpt_demo.models.fast import TINY, Array, HeadIds, Ranges, folded, turned
from anygpt_demo.models.llama import ROOM, Cache, Llama, LlamaConfig, rotary_angles

SOURCE = Path(__file__).with_name("kernels.c")
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-funroll-loops")
BLOCK = 128  # rows of one call, as in kernels.c
OUTS, STEP, TOGETHER = 32, 8, 4  # as in kernels.c: outputs of a tile, inputs of a step, sessions that draw at once
SCALE = 4  # bytes of a key's or a value's scale
STEPS = 32  # as in kernels.c: most ids that one call writes for a session
LINE = 128  # bytes that two processors do not share well
PATIENCE_S = 120  # for the compiler
ROW = struct.Struct("5q")  # Row of kernels.c
log = logging.getLogger(__name__)


def cores() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def room(shape: tuple[int, ...], kind: type[np.generic]) -> NDArray[Any]:
    """An empty array that begins where a line of the cache does: nothing is read across two lines, or shared by two threads."""
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    whole = np.empty(size + LINE, np.uint8)
    start = -whole.ctypes.data % LINE
    return whole[start : start + size].view(kind).reshape(shape)


def folder() -> Path:
    """Where this user's programs keep what they can make again."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "anygpt_demo"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "anygpt_demo"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anygpt_demo"


def abilities() -> str:
    """What this processor can do, as far as the system says; code made for another one may not run here."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    wanted = ("flags", "Features", "model name", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)})) or platform.processor() + platform.machine()


def build(flags: Sequence[str] = FLAGS) -> Path | None:
    """The compiled kernels, made if they are not there yet. None, with a line in the log, where that is not possible."""
    compiler = shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        log.info("no C compiler: the language model runs on torch's kernels, which is slower")
        return None
    facts = "\n".join((SOURCE.read_text(encoding="utf-8"), *flags, compiler, abilities()))
    try:
        made = folder() / f"kernels-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.so"
        if made.is_file():
            return made
        made.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=made.parent) as room:  # moved into place when whole: another process may do the same
            fresh = Path(room) / made.name
            command = [compiler, *flags, str(SOURCE), "-o", str(fresh), "-lm"]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S)
            fresh.replace(made)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: this user has no home
        log.info("the kernels could not be compiled (%s): the language model runs on torch's kernels", error)
        return None
    return made


def library(flags: Sequence[str] = FLAGS) -> ctypes.CDLL | None:
    """The kernels, ready to be called; None where there are none."""
    made = build(flags)
    if made is None:
        return None
    try:
        found = ctypes.CDLL(str(made))
    except OSError as error:
        log.info("the kernels could not be loaded: %s", error)
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    found.forward.argtypes = [pointer, pointer, pointer, number, pointer]
    found.write_ids.argtypes = [pointer, pointer, pointer, number, pointer]
    found.score.argtypes = [pointer, pointer, number, pointer, pointer]
    found.draw.argtypes = [number, pointer, pointer, pointer]
    for name in ("forward", "write_ids", "score", "draw"):
        getattr(found, name).restype = None
    return found


class MatrixFacts(ctypes.Structure):
    """Matrix of kernels.c."""

    _fields_ = [("width", ctypes.c_int64), ("outs", ctypes.c_int64), ("weights", ctypes.c_void_p)]
    _fields_ += [("scales", ctypes.c_void_p), ("eps", ctypes.c_double)]


class LayerFacts(ctypes.Structure):
    """Layer of kernels.c."""

    _fields_ = [(name, MatrixFacts) for name in ("qkv", "out", "gate_up", "down")]


class ModelFacts(ctypes.Structure):
    """Model of kernels.c."""

    _fields_ = [(name, ctypes.c_int64) for name in ("heads", "groups", "width", "model", "hidden", "layers", "longest")]
    _fields_ += [(name, ctypes.c_void_p) for name in ("layer", "embedding", "turns")]


class SpaceFacts(ctypes.Structure):
    """Space of kernels.c."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("x", "y", "mixed", "gated", "looks", "scores", "codes")]


class Space:
    """What one call computes in, and the tables it is asked with."""

    def __init__(self, config: LlamaConfig) -> None:
        inner, given, hidden = config.num_attention_heads * config.head_dim, config.hidden_size, config.intermediate_size
        both = inner + 2 * config.num_key_value_heads * config.head_dim
        longest = config.max_position_embeddings + 64
        self.arrays: list[NDArray[Any]] = [  # in the order of SpaceFacts; memory is taken when it is first written
            room((BLOCK, given), np.float32),
            room((BLOCK, max(both, 2 * hidden)), np.float32),
            room((BLOCK, inner), np.float32),
            room((BLOCK, hidden), np.float32),
            room((TOGETHER, longest), np.float32),
            room((9 * config.vocab_size + TOGETHER * given,), np.float32),
            room((max(BLOCK * (max(inner, given, hidden) + STEP), 2 * TOGETHER * longest),), np.int8),
        ]
        self.facts = SpaceFacts(*(array.ctypes.data for array in self.arrays))
        self.address = ctypes.addressof(self.facts)
        self.rows = ctypes.create_string_buffer(BLOCK * ROW.size)
        self.rows_at = ctypes.addressof(self.rows)
        self.wishes = (ctypes.c_void_p * BLOCK)()
        self.wishes_at = ctypes.addressof(self.wishes)


class Way(ctypes.Structure):
    """One way to draw an id: Way of kernels.c."""

    _fields_ = [("head", ctypes.c_void_p), ("ids", ctypes.c_void_p), ("place", ctypes.c_void_p)]
    _fields_ += [(name, ctypes.c_int64) for name in ("first", "last", "top_k")]
    _fields_ += [(name, ctypes.c_double) for name in ("temperature", "top_p", "penalty")]

    address: int
    asked: CompiledHead
    lucky: bool  # whether luck decides anything

    @classmethod
    def of(cls, head: CompiledHead, sampling: Sampling, onward: tuple[int, int] = (0, 0)) -> Way:
        """Draw from this head. onward: ids, from the first to before the last, after which a plan goes on."""
        head_at, ids, place = head.places
        way = cls(head_at, ids, place, *onward, sampling.top_k, sampling.temperature, sampling.top_p, sampling.repetition_penalty)
        way.asked, way.address = head, ctypes.addressof(way)  # the head is kept alive
        way.lucky = sampling.temperature != 0.0 and len(head.ids) > 1
        return way


class Wish(ctypes.Structure):
    """What one session draws, and what it drew: Wish of kernels.c. It knows the ids of its block that were drawn before.

    tokens: -1 if the scores were no numbers; shares: how likely each was among the legal ids; drawn: how many there are.
    """

    _fields_ = [("ways", ctypes.c_void_p * STEPS), ("luck", ctypes.c_double * STEPS)]
    _fields_ += [("tokens", ctypes.c_int64 * STEPS), ("shares", ctypes.c_double * STEPS)]
    _fields_ += [("seen", ctypes.c_void_p), ("count", ctypes.c_int64), ("wanted", ctypes.c_int64), ("drawn", ctypes.c_int64)]
    _fields_ += [("guidance", ctypes.c_double), ("position", ctypes.c_int64), ("capacity", ctypes.c_int64), ("cache", ctypes.c_void_p)]

    address: int
    room: NDArray[np.int64]
    beside: Cache | None  # what was not asked for anything, where the draw is led away from that

    @classmethod
    def of(cls, most: int) -> Wish:
        """For a reply of at most `most` ids."""
        wish = cls()
        wish.room = np.empty(most, np.int64)
        wish.beside, wish.guidance = None, 1.0
        wish.seen, wish.address = wish.room.ctypes.data, ctypes.addressof(wish)
        return wish

    def plan(self, ways: Sequence[Way]) -> None:
        """Draw one id in each of these ways, at most STEPS, which must be kept alive."""
        self.ways[: len(ways)] = [way.address for way in ways]

    def guide(self, guidance: float, beside: Cache | None) -> None:
        """Draw from scores that are led away from those after what `beside` has read, see engine.lead(); None: from the scores."""
        self.beside, self.guidance = beside, 1.0 if beside is None else guidance

    def try_luck(self, luck: Sequence[float]) -> None:
        """Draw as planned, with a number in [0, 1) for each of the ids, which may be fewer than planned."""
        self.wanted, self.drawn = len(luck), 0
        self.luck[: len(luck)] = luck

    @property
    def answer(self) -> tuple[list[int], list[float]]:
        """The ids that were drawn, and their shares."""
        return self.tokens[: self.drawn], self.shares[: self.drawn]


class Tiles:
    """8-bit weights with one scale per output, rounded as models/fast.py does, in the order in which kernels.c reads them.

    weight: float (N, K). eps: given if the input is to be RMS-normalised first; the norm's gain must be in the weight.
    home: uint8, where to put them; else memory of their own.
    """

    def __init__(self, weight: Tensor, eps: float | None = None, home: NDArray[np.uint8] | None = None) -> None:
        weight = weight.detach().float()
        outs, width = weight.shape
        scale = weight.abs().amax(1).clamp_min(TINY) / 127
        codes = (weight / scale[:, None]).round().to(torch.int8).numpy()
        whole = np.full((-(-outs // OUTS) * OUTS, -(-width // STEP) * STEP), 128, np.uint8)
        whole[:outs, :width] = codes.view(np.uint8) ^ 128
        tiles = whole.reshape(len(whole) // OUTS, OUTS, -1, 4).transpose(0, 2, 1, 3)
        self.weights = room((whole.size,), np.uint8) if home is None else home
        self.weights.reshape(tiles.shape)[...] = tiles
        self.scale: Array = scale.numpy()
        self.facts = MatrixFacts(width, outs, self.weights.ctypes.data, self.scale.ctypes.data, -1.0 if eps is None else eps)
        self.address = ctypes.addressof(self.facts)

    @staticmethod
    def size(outs: int, width: int) -> int:
        """Bytes of the weights of a matrix."""
        return -(-outs // OUTS) * OUTS * (-(-width // STEP) * STEP)

    @property
    def bytes(self) -> int:
        """Bytes of the weights and their scales, which one call reads."""
        return self.weights.nbytes + self.scale.nbytes


class CompiledHead(HeadIds):
    """The output rows of some ids."""

    def __init__(self, weight: Tensor, ranges: Ranges, eps: float) -> None:
        super().__init__(len(weight), ranges)
        self.matrix = Tiles(self.rows(weight, ranges), eps)
        self.places = self.matrix.address, self.ids.ctypes.data, self.place.ctypes.data


class Compiled:
    """Packed weights of a Llama. Read-only: any number of threads may be in it at once.

    threads: how many should be, for sessions that are written at the same time. Raises ValueError for head widths that the kernels do
    not know.
    """

    unit = 1
    block = BLOCK
    kind = "int8, own kernels"

    @torch.no_grad()
    def __init__(self, model: Llama, kernels: ctypes.CDLL, threads: int = 1) -> None:
        config = self.config = model.config
        if config.head_dim % 32:
            raise ValueError("the width of a head must be a multiple of 32")
        self.kernels, self.threads = kernels, threads
        heads, groups, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        inner, hidden, given = heads * width, config.intermediate_size, config.hidden_size
        shapes = ((inner + 2 * groups * width, given), (given, inner), (2 * hidden, given), (given, hidden))
        sizes = [Tiles.size(*shape) for shape in shapes]
        self._weights = room((config.num_hidden_layers, sum(sizes)), np.uint8)  # one piece: large pages, read from end to end
        ends = np.cumsum(sizes).tolist()
        self.layers: list[tuple[Tiles, ...]] = []
        for block, line in zip(model.model.layers, self._weights, strict=True):
            parts = zip(folded(block, heads, groups, width, turned, True), (config.rms_norm_eps, None) * 2, [0, *ends], ends, strict=False)
            self.layers.append(tuple(Tiles(weight, eps, line[start:end]) for weight, eps, start, end in parts))
        self._layers = (LayerFacts * len(self.layers))(*(LayerFacts(*(part.facts for part in layer)) for layer in self.layers))
        self._rows = turned(model.head.detach() * model.model.norm.weight.detach())
        self._heads: dict[Ranges, CompiledHead] = {}
        cos, sin = rotary_angles(torch.arange(config.max_position_embeddings), width, config.rope_theta, config.rope_scaling)
        half = width // 2
        self._embedding: Array = turned(model.model.embed_tokens.weight.detach()).numpy()
        self._turns: Array = torch.stack([cos[:, :half], sin[:, :half]], -1).numpy()
        self._free = [Space(config)]  # spaces that nobody computes in; taking one and giving it back are single steps
        counts = (heads, groups, width, given, hidden, len(self.layers), self._free[0].arrays[4].shape[1])
        self._facts = ModelFacts(*counts, ctypes.addressof(self._layers), self._embedding.ctypes.data, self._turns.ctypes.data)
        self._model = ctypes.addressof(self._facts)

    @property
    def bytes(self) -> int:
        """Bytes of the weights of all layers, which writing one id reads."""
        return sum(part.bytes for layer in self.layers for part in layer)

    def cache(self, capacity: int) -> Cache:
        """An empty cache. It grows when it has to: of memory that a reply never uses every page would be touched, and so cleared."""
        return Cache(self.config, min(capacity, ROOM), torch.uint8, "cpu", OUTS, SCALE)

    def clear(self) -> None:
        """Forget the heads made so far."""
        self._heads.clear()

    def head(self, ranges: Ranges) -> CompiledHead:
        """The head of these ids; made once, for a grammar has few states."""
        found = self._heads.get(ranges)
        if found is None:
            if sum(len(head.ids) for head in self._heads.values()) > 4 * len(self._rows):
                self._heads.clear()
            found = self._heads[ranges] = CompiledHead(self._rows, ranges, self.config.rms_norm_eps)
        return found

    def scores(self, row: Array, head: CompiledHead) -> Array:
        """Scores of a head's ids after one row of run(), float32 (D,). Returns float32 (N,), the caller's."""
        return self.multiply(row[None], head.matrix)[0]

    def multiply(self, rows: Array, matrix: Tiles) -> Array:
        """rows: float32 (at most BLOCK, K). Returns (M, N)."""
        codes = np.empty(len(rows) * (rows.shape[1] + STEP), np.int8)
        found = np.empty((len(rows), matrix.facts.outs), np.float32)
        self.kernels.score(matrix.address, rows.ctypes.data, len(rows), found.ctypes.data, codes.ctypes.data)
        return found

    def _space(self) -> Space:
        """A space of one's own, until it is back among the free ones."""
        try:
            return self._free.pop()
        except IndexError:
            return Space(self.config)

    def run(self, pieces: Sequence[tuple[Sequence[int], Cache]]) -> Array:
        """Continue caches by ids: any number of ids for each of the caches, which must differ. The caches' ids are extended.

        Returns the last row of each piece, float32 (pieces, D), not yet normalised: scores() and draw() take them. Raises ValueError
        for an id or a position that the model does not have.
        """
        for ids, cache in pieces:
            if len(cache.ids) + len(ids) > self.config.max_position_embeddings or min(ids) < 0 or max(ids) >= self.config.vocab_size:
                raise ValueError("an id or its position is beyond the model")
            cache.reserve(len(cache.ids) + len(ids))
        rows = [
            (number, at, cache.capacity, at + 1 == len(cache.ids) + len(ids), cache.address)
            for ids, cache in pieces
            for at, number in enumerate(ids, len(cache.ids))
        ]
        result = np.empty((len(pieces), self.config.hidden_size), np.float32)
        into = result.ctypes.data
        space = self._space()
        for start in range(0, len(rows), BLOCK):
            part = rows[start : start + BLOCK]
            for number, row in enumerate(part):
                ROW.pack_into(space.rows, number * ROW.size, *row)
            self.kernels.forward(self._model, space.address, space.rows_at, len(part), into)
            into += result.strides[0] * sum(row[3] for row in part)
        self._free.append(space)
        for ids, cache in pieces:
            cache.ids += ids
        return result

    def write(self, pieces: Sequence[tuple[int, Cache, Wish]]) -> None:
        """Continue each cache by one id and draw what its wish plans, reading each id that is drawn but the last."""
        space = self._space()
        end, size = self.config.max_position_embeddings, self.config.vocab_size
        for start in range(0, len(pieces), BLOCK // 2):
            part = pieces[start : start + BLOCK // 2]
            for number, (token, cache, wish) in enumerate(part):
                at, other = len(cache.ids), wish.beside
                longest = max(at, 0 if other is None else len(other.ids)) + wish.wanted
                if longest > end or not 0 <= token < size:
                    raise ValueError("an id or its position is beyond the model")
                cache.reserve(at + wish.wanted)
                if other is not None:
                    other.reserve(len(other.ids) + wish.wanted)
                    wish.position, wish.capacity, wish.cache = len(other.ids), other.capacity, other.address
                ROW.pack_into(space.rows, number * ROW.size, token, at, cache.capacity, True, cache.address)
                space.wishes[number] = wish.address
            self.kernels.write_ids(self._model, space.address, space.rows_at, len(part), space.wishes_at)
            for token, cache, wish in part:
                read = (token, *wish.tokens[: wish.drawn - 1])
                cache.ids += read
                if wish.beside is not None:
                    wish.beside.ids += read
        self._free.append(space)

    def draw(self, rows: Array, wishes: Sequence[Wish]) -> None:
        """Draw the first id of each plan after the rows, float32 (M, D), at most BLOCK; the answers stand in the wishes.

        A wish that is guided has two rows, the second of them what it is led away from.
        """
        addresses = (ctypes.c_void_p * len(wishes))(*[wish.address for wish in wishes])
        space = self._space()
        self.kernels.draw(len(wishes), addresses, rows.ctypes.data, space.address)
        self._free.append(space)
