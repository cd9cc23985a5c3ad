"""LLaMA (arXiv 2302.13971) with an enlarged vocabulary: the one language model of every family.

Parameter names and arithmetic are those of transformers' LlamaForCausalLM, so published checkpoints load as they are.
What is added: a preallocated key-value cache that can be cut back to a common prefix, and logits for a part of the
vocabulary only (`logits(hidden, ranges)`), so that an illegal token is never computed.

Dimension names: B batch, T positions, D model width, H heads, G key-value heads, E head width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOM = 512  # positions by which a cache grows
SCALE_BYTES = 2  # of a key or value in 8 bits: its scale, a float16
LEAST = 2.0**-24  # the smallest float16 above zero


@dataclass(frozen=True)
class RopeScaling:
    """How rotary positions are stretched for a longer context than the one trained first.

    linear: all turn slower by the factor (arXiv 2306.15595); llama3: only those that turn less than low_freq_factor times within the
    original context, none that turn more than high_freq_factor times, and in between some (arXiv 2407.21783).
    """

    rope_type: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192

    @classmethod
    def from_json(cls, facts: Mapping[str, Any], longest: int) -> RopeScaling | None:
        """Read rope_scaling or rope_parameters of a config.json; None: plain positions. longest: max_position_embeddings.

        Raises ValueError for other kinds.
        """
        kind = facts.get("rope_type") or facts.get("type") or "default"
        if kind == "default" and facts.get("partial_rotary_factor", 1.0) == 1.0:
            return None
        factor = facts.get("factor")
        if kind not in ("linear", "llama3") or facts.get("partial_rotary_factor", 1.0) != 1.0 or not factor or factor < 0:
            raise ValueError(f"rope_scaling must be of type linear or llama3 with a factor, not {dict(facts)}")
        found = {name: facts[name] for name in cls.__dataclass_fields__ if facts.get(name) is not None}
        return cls(**{"original_max_position_embeddings": longest} | found | {"rope_type": kind})

    def stretch(self, inverse: Tensor) -> Tensor:
        """Angles per position: float32 (E/2,), as without it, to as with it."""
        slow = inverse / self.factor
        if self.rope_type == "linear":
            return slow
        turns = self.original_max_position_embeddings * inverse / (2 * math.pi)
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        return torch.lerp(slow, inverse, kept.clamp(0, 1))


@dataclass(frozen=True)
class LlamaConfig:
    """The fields of a Hugging Face LLaMA config.json that change the arithmetic."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = False
    head_dim: int = 0  # E, the width of one attention head; 0: hidden_size / num_attention_heads
    rope_scaling: RopeScaling | None = None

    def __post_init__(self) -> None:
        if self.head_dim == 0:
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> LlamaConfig:
        """Read a config.json. Raises ValueError for variants whose arithmetic differs from plain LLaMA."""
        if config.get("attention_bias") or config.get("mlp_bias"):
            raise ValueError("only LLaMA without biases is supported: no attention_bias or mlp_bias")
        if config.get("hidden_act", "silu") != "silu":
            raise ValueError(f"hidden_act must be silu, not {config['hidden_act']}")
        fields = {name: config[name] for name in cls.__dataclass_fields__ if config.get(name) is not None}
        rope = {**(config.get("rope_parameters") or {}), **(config.get("rope_scaling") or {})}
        fields.setdefault("rope_theta", float(rope.get("rope_theta", 10000.0)))
        fields["rope_scaling"] = RopeScaling.from_json(rope, fields.get("max_position_embeddings", cls.max_position_embeddings))
        fields.setdefault("num_key_value_heads", config["num_attention_heads"])
        return cls(**fields)

    def to_json(self) -> dict[str, Any]:
        """A config.json that transformers' LlamaForCausalLM reads."""
        own = asdict(self)
        if self.head_dim * self.num_attention_heads == self.hidden_size:
            del own["head_dim"]
        if self.rope_scaling is None:
            del own["rope_scaling"]
        return own | {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "torch_dtype": "bfloat16"}


class RMSNorm(nn.Module):
    """x / rms(x) * weight, computed in float32 as in the reference."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., D) float. Returns the same shape and dtype."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def rotary_angles(positions: Tensor, head_dim: int, theta: float, scaling: RopeScaling | None = None) -> tuple[Tensor, Tensor]:
    """Rotary position embedding (arXiv 2104.09864), halves layout. positions: int64 (T,). Returns cos and sin, float32 (T, E)."""
    inverse = 1.0 / theta ** (torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim)
    if scaling is not None:
        inverse = scaling.stretch(inverse)
    angles = positions[:, None].float() * inverse[None, :]
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply the rotary embedding. x: (B, H, T, E); cos, sin: (T, E)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat([-second, first], dim=-1) * sin.to(x.dtype)


def row_bytes(width: int, size: int, kv: str) -> int:
    """Bytes of one key or value of `width` numbers. kv: "none", `size` bytes for each, or "int8", one for each and two for their scale."""
    return width + SCALE_BYTES if kv == "int8" else width * size


def packed(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Keys or values as they are kept in a dtype. x: float (..., E). Returns x, or for int8 (..., E + 2), the last two bytes a float16.

    Each is rounded by itself: what was read in the same block or just now is looked at as what was kept long ago.
    """
    if dtype != torch.int8:
        return x
    x = x.float()
    scale = (x.abs().amax(-1) / 127).clamp(LEAST, torch.finfo(torch.float16).max).half()[..., None]
    return torch.cat([(x / scale).round().clamp(-127, 127).to(torch.int8), scale.view(torch.int8)], dim=-1)


def unpacked(kept: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers again. kept: as packed() returns them. Returns dtype (..., E)."""
    if kept.dtype != torch.int8:
        return kept
    return (kept[..., :-SCALE_BYTES] * kept[..., -SCALE_BYTES:].view(torch.float16)).to(dtype)


class Cache:
    """Keys and values of the positions read so far, with the ids they stand for.

    keys, values: (layers, 1, G, capacity, E), allocated on first use. tile: positions whose keys lie together, and so are copied together;
    extra: what every position has besides its E numbers (models/compiled.py, and packed() in int8). cut(ids) keeps the common prefix, so a
    later turn of the same conversation reads only what is new, and an edited or undone turn stays correct. read: how many of the first
    positions were read as a prompt; those after them were written one at a time.
    """

    def __init__(self, config: LlamaConfig, capacity: int, dtype: torch.dtype, device: str, tile: int = 1, extra: int = 0) -> None:
        self.tile = tile
        self.shape = (config.num_hidden_layers, 1, config.num_key_value_heads, self._tiles(capacity), config.head_dim + extra)
        self.dtype, self.device = dtype, device
        self.ids: list[int] = []
        self.read = 0
        self.busy = False  # a reply is being written with it
        self._both: Tensor | None = None  # (2, layers, 1, G, capacity, E)
        self._views: list[tuple[Any, Any, Any, Tensor]] | None = None
        self._address = 0

    def _tiles(self, count: int) -> int:
        """Positions of the tiles in which the first `count` are."""
        return -(-count // self.tile) * self.tile

    @property
    def both(self) -> Tensor:
        """Keys and values of all layers, (2, layers, 1, G, capacity, E)."""
        if self._both is None:
            self._both = torch.empty((2, *self.shape), dtype=self.dtype, device=self.device)
        return self._both

    @property
    def keys(self) -> Tensor:
        """Keys of all layers."""
        return self.both[0]

    @property
    def values(self) -> Tensor:
        """Values of all layers."""
        return self.both[1]

    def views(self) -> list[tuple[Any, Any, Any, Tensor]]:
        """Per layer, on a CPU: arrays of both (2, G, capacity, E), keys (G, E, capacity), values (G, capacity, E); both as a tensor."""
        if self._views is None:
            planes = self.both[:, :, 0].unbind(1)
            self._views = [(plane.numpy(), plane[0].transpose(1, 2).numpy(), plane[1].numpy(), plane) for plane in planes]
        return self._views

    @property
    def address(self) -> int:
        """Where keys and values begin in memory."""
        if self._address == 0:
            self._address = self.both.data_ptr()
        return self._address

    @property
    def capacity(self) -> int:
        """Positions that fit."""
        return self.shape[3]

    @property
    def bytes(self) -> int:
        """Memory of the positions in use (on a CPU, pages that were never written take none)."""
        return self.each * len(self.ids)

    @property
    def each(self) -> int:
        """Memory of one position."""
        layers, _, groups, _, width = self.shape
        return 2 * layers * groups * width * self.dtype.itemsize

    def reserve(self, count: int) -> None:
        """Have room for `count` positions, in steps of ROOM: on a card memory that is not used yet is taken all the same."""
        if count <= self.capacity:
            return
        old, last = self._both, self._tiles(len(self.ids))
        self.shape = (*self.shape[:3], -(-count // ROOM) * ROOM, self.shape[4])
        self._both, self._views, self._address = None, None, 0
        if old is not None:
            self.both[..., :last, :] = old[..., :last, :]

    def forget(self) -> None:
        """Give the memory back; everything will be read again."""
        self.ids, self.read, self._both, self._views, self._address = [], 0, None, None, 0

    def copy(self, capacity: int) -> Cache:
        """An independent cache of another capacity with the same contents."""
        other = object.__new__(Cache)
        shape = (*self.shape[:3], self._tiles(capacity), self.shape[4])
        other.__dict__.update(self.__dict__, ids=list(self.ids), shape=shape, _both=None, _views=None, _address=0)
        other.take(self, 0)
        return other

    @torch.inference_mode()
    def take(self, other: Cache, first: int) -> None:
        """Become equal to another cache, which agrees with this one before position `first`."""
        self.reserve(len(other.ids))
        self.ids = list(other.ids)
        first, last = first // self.tile * self.tile, self._tiles(len(other.ids))
        self.both[:, :, :, :, first:last] = other.both[:, :, :, :, first:last]

    def cut(self, ids: Sequence[int], unit: int = 1) -> int:
        """Forget everything after the longest common prefix with `ids`; at least the last id is left to read again.

        unit: above 1, only whole units of positions that were read as a prompt are kept; what follows is computed again
        exactly as it would be without a cache. Returns the number of positions kept.
        """
        kept = 0
        for own, new in zip(self.ids, ids[:-1], strict=False):
            if own != new:
                break
            kept += 1
        if unit > 1:
            kept = min(kept, self.read) // unit * unit
        del self.ids[kept:]
        self.read = min(self.read, kept)
        return kept


class Attention(nn.Module):
    """Causal self-attention with rotary positions and grouped keys and values."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.heads, self.groups, self.width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, self.groups * self.width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, self.groups * self.width, bias=False)
        self.o_proj = nn.Linear(self.heads * self.width, config.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cached: tuple[Tensor, Tensor] | None, past: int) -> Tensor:
        """x: (B, T, D). cached: this layer's (keys, values), each (1, G, capacity, E), filled up to `past`; None when training."""
        batch, length, _ = x.shape
        query = rotate(self.q_proj(x).view(batch, length, self.heads, self.width).transpose(1, 2), cos, sin)
        key = rotate(self.k_proj(x).view(batch, length, self.groups, self.width).transpose(1, 2), cos, sin)
        value = self.v_proj(x).view(batch, length, self.groups, self.width).transpose(1, 2)
        if cached is not None:
            keys, values = cached
            keys[:, :, past : past + length] = packed(key, keys.dtype)
            values[:, :, past : past + length] = packed(value, values.dtype)
            key, value = unpacked(keys[:, :, : past + length], query.dtype), unpacked(values[:, :, : past + length], query.dtype)
        causal = mask is None and length > 1 and past == 0
        if mask is None and length > 1 and past > 0:
            mask = torch.ones(length, past + length, dtype=torch.bool, device=x.device).tril(past)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=self.groups != self.heads)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, D). Returns the same shape."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = FeedForward(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cached: tuple[Tensor, Tensor] | None, past: int) -> Tensor:
        """x: (B, T, D). Returns the same shape."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, cached, past)
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    """Embeddings, layers and the last norm (the `model.` part of the published keys)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Llama(nn.Module):
    """The language model: ids -> hidden states -> logits of the legal part of the vocabulary."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        self.lm_head = None if config.tie_word_embeddings else nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def head(self) -> Tensor:
        """Output rows, float (V, D); the embedding itself when tied."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def hidden(self, ids: Tensor, cache: Cache | None = None, mask: Tensor | None = None) -> Tensor:
        """Read ids and return the normalised hidden states.

        ids: int64 (B, T); with a cache B is 1 and the ids continue what the cache holds (the caller extends cache.ids).
        mask: bool (T, T) or (B, 1, T, T), True = may look; None is plain causal. Returns (B, T, D).
        """
        past = len(cache.ids) if cache is not None else 0
        positions = torch.arange(past, past + ids.shape[1], device=ids.device)
        cos, sin = rotary_angles(positions, self.config.head_dim, self.config.rope_theta, self.config.rope_scaling)
        x = self.model.embed_tokens(ids)
        for number, layer in enumerate(self.model.layers):
            x = layer(x, cos, sin, mask, None if cache is None else (cache.keys[number], cache.values[number]), past)
        return self.model.norm(x)

    def logits(self, hidden: Tensor, ranges: Sequence[tuple[int, int]]) -> Tensor:
        """Scores of the ids in `ranges` [(low, high), ...), joined in order. hidden: (..., D). Returns (..., sum of widths)."""
        return torch.cat([F.linear(hidden, self.head[low:high]) for low, high in ranges], dim=-1)

    def forward(self, ids: Tensor) -> Tensor:
        """Full logits, (B, T, V). For tests and perplexity; generation uses hidden() and logits()."""
        return F.linear(self.hidden(ids), self.head)
