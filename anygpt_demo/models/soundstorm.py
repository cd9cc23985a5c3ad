"""SoundStorm: the semantic codes of a sentence + a few seconds of somebody's codes -> the acoustic codes of that voice.

Borsos et al. 2023 (arXiv 2305.09636): a conformer that predicts masked codes, level by level, all positions at once.
Module names and arithmetic are those of the published checkpoint, which loads strictly; both key layouts and the trainer's
wrapped files are accepted. Size is a matter of config.

Dimension names in this file: B batch, N frames (prompt frames, then target frames), Q acoustic levels, V codebook size,
D model width, H heads. The sequence that the network reads is (B, N * Q), frame-major. Id V is the mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Noise = Callable[[Tensor], Tensor]  # logits -> noise of the same shape
SPAN = 50  # frames that generate_clean() writes in `steps` passes

# where the un-forked repository keeps the convolution module -> where the checkpoint of AnyGPT has it
UNFORKED = {"net.0.": "net1.0.", "net.2.": "net1.2.", "net.4.conv.": "ds_conv.conv.", "net.6.": "net2.1.", "net.7.": "net2.2."}


def adapt(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Any published spelling of the weights -> this module's keys.

    Accepts a plain state dict, the trainer's {"model": state, ...}, and the un-forked names of the convolution module.
    """
    plain: Mapping[str, Tensor] = state["model"] if "model" in state and isinstance(state["model"], Mapping) else state
    renamed: dict[str, Tensor] = {}
    for key, tensor in plain.items():
        head, found, tail = key.partition(".conv.net.")
        if found:
            tail = "net." + tail
            for old, new in UNFORKED.items():
                if tail.startswith(old):
                    tail = new + tail[len(old) :]
                    break
            key = f"{head}.conv.{tail}"
        renamed[key] = tensor
    return renamed


def gumbel(generator: torch.Generator | None = None) -> Noise:
    """Gumbel noise, -log(-log(u)) with the reference's epsilon; the global generator when none is given."""

    def draw(logits: Tensor) -> Tensor:
        uniform = torch.zeros_like(logits).uniform_(0, 1, generator=generator)
        return -torch.log(-torch.log(uniform + 1e-10) + 1e-10)

    return draw


def keep_best(logits: Tensor, share: float) -> Tensor:
    """Logits outside the best `share` of the entries become -inf. (..., V)."""
    values, places = logits.topk(math.ceil(share * logits.shape[-1]), dim=-1)
    return torch.full_like(logits, -math.inf).scatter_(-1, places, values)


def remask_counts(steps: int, frames: int) -> list[int]:
    """How many positions are masked again after each of the steps + 1 passes over level 0: trunc(cos(pi/2 i/steps) frames)."""
    shares = torch.cos(torch.linspace(0.0, 1.0, steps + 1) * math.pi / 2)
    return [int(count) for count in (shares * frames).long()]


class Swish(nn.Module):
    """x * sigmoid(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x)


class FeedForward(nn.Module):
    """Two linear layers with swish between; `net` has the numbering of the checkpoint (0 and 3)."""

    def __init__(self, width: int, factor: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(width, width * factor), Swish(), nn.Dropout(dropout), nn.Linear(width * factor, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return self.net(x)


class Normed(nn.Module):
    """A layer norm before a module."""

    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, *rest: Tensor | None) -> Tensor:
        return self.fn(self.norm(x), *rest)


class Halved(nn.Module):
    """Half the output of a module: the conformer's feed-forward layers count half."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * self.fn(x)


def rotary_table(frames: int, width: int, device: torch.device) -> Tensor:
    """Angles of rotary positions: float32 (frames, width), the second half repeats the first."""
    rates = 1.0 / (10000 ** (torch.arange(0, width, 2, device=device).float() / width))
    angles = torch.outer(torch.arange(frames, device=device).float(), rates)
    return torch.cat((angles, angles), dim=-1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary positions. x: (B, H, N, d)."""
    first, second = x.chunk(2, dim=-1)
    return x * angles.cos().to(x.dtype) + torch.cat((-second, first), dim=-1) * angles.sin().to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention over frames with rotary positions."""

    def __init__(self, width: int, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.to_q = nn.Linear(width, heads * head_width, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * head_width, bias=False)
        self.to_out = nn.Linear(heads * head_width, width)

    def forward(self, x: Tensor, angles: Tensor, valid: Tensor | None) -> Tensor:
        """x: (B, N, D); angles: (N, d); valid: bool (B, N) or None. Returns (B, N, D)."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.to_q(x), *self.to_kv(x).chunk(2, dim=-1))
        )
        mask = None if valid is None else valid[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(rotate(query, angles), rotate(key, angles), value, mask, dropout)
        return self.to_out(out.transpose(1, 2).flatten(2))


class ChannelNorm(nn.Module):
    """Layer norm over channels, gain only, variance clamped from below. (B, C, N)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        least = 1e-6 if x.dtype == torch.float32 else 1e-4
        variance, mean = torch.var_mean(x, dim=1, unbiased=False, keepdim=True)
        return (x - mean) * variance.clamp(min=least).rsqrt() * self.gamma


class Depthwise(nn.Module):
    """Depthwise convolution with centred padding; invalid frames count as zero and give zero."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.padding = (kernel // 2, kernel // 2 - (kernel + 1) % 2)
        self.conv = nn.Conv1d(channels, channels, kernel, groups=channels)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """x: (B, C, N); valid: bool (B, N)."""
        if valid is None:
            return self.conv(F.pad(x, self.padding))
        gone = ~valid[:, None]
        return self.conv(F.pad(x.masked_fill(gone, 0.0), self.padding)).masked_fill(gone, 0.0)


class Transposed(nn.Module):
    """Swap the last two axes; stands where the checkpoint's numbering has a rearrangement without weights."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class Convolution(nn.Module):
    """The conformer's convolution module."""

    def __init__(self, width: int, expansion: int, kernel: int, dropout: float) -> None:
        super().__init__()
        inner = width * expansion
        self.net1 = nn.Sequential(nn.LayerNorm(width), Transposed(), nn.Conv1d(width, 2 * inner, 1), nn.GLU(dim=1))
        self.ds_conv = Depthwise(inner, kernel)
        self.net2 = nn.Sequential(Swish(), ChannelNorm(inner), nn.Conv1d(inner, width, 1), Transposed(), nn.Dropout(dropout))

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """x: (B, N, D)."""
        return self.net2(self.ds_conv(self.net1(x), valid))


class Block(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, norm (Gulati et al. 2020)."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, factor = config["dim"], config.get("ff_mult", 4)
        dropout = config.get("dropout", 0.0)
        self.ff1 = Halved(Normed(width, FeedForward(width, factor, dropout)))
        self.attn = Normed(width, Attention(width, config.get("heads", 8), config.get("dim_head", 64), dropout))
        self.conv = Convolution(width, config.get("conv_expansion_factor", 2), config.get("conv_kernel_size", 31), dropout)
        self.ff2 = Halved(Normed(width, FeedForward(width, factor, dropout)))
        self.post_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, angles: Tensor, valid: Tensor | None) -> Tensor:
        """x: (B, N, D)."""
        x = self.ff1(x) + x
        x = self.attn(x, angles, valid) + x
        x = self.conv(x, valid) + x
        return self.post_norm(self.ff2(x) + x)


class Conformer(nn.Module):
    """A stack of conformer blocks."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.head_width = config.get("dim_head", 64)
        self.layers = nn.ModuleList(Block(config) for _ in range(config["depth"]))

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """x: (B, N, D); valid: bool (B, N), False at padding."""
        angles = rotary_table(x.shape[1], self.head_width, x.device)
        for layer in self.layers:
            x = layer(x, angles, valid)
        return x


class PerLevel(nn.Module):
    """One output layer per level. weight: (Q, D, V), bias: (1, 1, Q, V)."""

    def __init__(self, levels: int, width: int, codes: int) -> None:
        super().__init__()
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(levels, width, codes).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(1, 1, levels, codes).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, Q, D) -> (B, N, Q, V)."""
        return torch.einsum("bnqd,qdv->bnqv", x, self.weight) + self.bias


class Network(nn.Module):
    """Codes of all levels summed per frame -> conformer -> logits of every level."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.levels, self.codes = config["num_quantizers"], config["codebook_size"]
        width = config["conformer"]["dim"]
        self.conformer = Conformer(config["conformer"])
        self.code_embeds = nn.Embedding((self.codes + 1) * self.levels, width)
        self.heads = nn.Sequential(nn.Linear(width, width * self.levels))
        self.to_logits = nn.Sequential(nn.LayerNorm(width), nn.Identity(), PerLevel(self.levels, width, self.codes))

    def hidden(self, codes: Tensor, condition: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        """codes: int64 (B, N, Q), masks included; condition: (B, N, D). Returns the conformer's output (B, N, D)."""
        offsets = torch.arange(self.levels, device=codes.device) * (self.codes + 1)
        x = self.code_embeds(codes + offsets).sum(2)
        return self.conformer(x if condition is None else x + condition, valid)

    def embeds(self, hidden: Tensor) -> Tensor:
        """(B, N, D) -> one vector per level, (B, N, Q, D)."""
        return self.heads(hidden).unflatten(-1, (self.levels, -1))

    def level_logits(self, hidden: Tensor, level: int) -> Tensor:
        """Logits of one level alone, (B, N, V); training needs no others."""
        width, out = hidden.shape[-1], self.to_logits[2]
        linear = self.heads[0]
        rows = slice(level * width, (level + 1) * width)
        one = self.to_logits[0](F.linear(hidden, linear.weight[rows], linear.bias[rows]))
        return one @ out.weight[level].to(one.dtype) + out.bias[0, 0, level]

    def forward(self, codes: Tensor, condition: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        """codes: int64 (B, N, Q). Returns logits (B, N, Q, V)."""
        return self.to_logits(self.embeds(self.hidden(codes, condition, valid)))


def expected(logits: Sequence[Tensor], vectors: Tensor) -> Tensor:
    """What the code vectors of all levels are expected to add up to: float32 (B, N, d).

    logits: (B, N, V) of each level; vectors: (Q, V, d).
    """
    parts = [rows.float().softmax(-1) @ table.float() for rows, table in zip(logits, vectors, strict=True)]
    return torch.stack(parts).sum(0)


class SoundStorm(nn.Module):
    """The network with the table of semantic codes, and the ways to generate.

    config: {"codebook_size", "num_quantizers", "conformer": {"dim", "depth", "heads", "dim_head", ...}}.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.net = Network(config)
        self.semantic_token_emb = nn.Embedding(config.get("num_semantic_token_ids", config["codebook_size"]), config["conformer"]["dim"])
        self.levels: int = config["num_quantizers"]
        self.mask_id: int = config["codebook_size"]

    def condition(self, semantic: Tensor) -> Tensor:
        """int64 (B, N) -> (B, N, D); the pad id (the table's size) becomes a zero vector."""
        real = semantic < self.semantic_token_emb.num_embeddings
        return self.semantic_token_emb(semantic.masked_fill(~real, 0)).masked_fill(~real[..., None], 0.0)

    @torch.inference_mode()
    def generate(
        self,
        semantic: Tensor,
        prompt: Tensor | None = None,
        steps: int = 8,
        *,
        greedy: bool = True,
        join_semantic: bool = True,
        noise: Noise | None = None,
        trace: list[Tensor] | None = None,
    ) -> Tensor:
        """The published way of generating, pass for pass.

        semantic: int64 (B, n). prompt: int64 (B, p, 1 + Q), its semantic codes first. Level 0 takes steps + 1 passes, each
        other level one. noise: Gumbel noise of the global generator unless given. trace collects every network input
        (B, N * Q). Returns int64 (B, n, 1 + Q), the semantic codes as level 0 (without them if not join_semantic).
        """
        noise = noise or gumbel()
        batch, frames = semantic.shape
        codes = semantic.new_full((batch, frames, self.levels), self.mask_id)
        open_ = torch.ones_like(codes, dtype=torch.bool)
        stream = semantic
        if prompt is not None:
            stream = torch.cat([prompt[..., 0], semantic], 1)
            codes = torch.cat([prompt[..., 1:], codes], 1)
            open_ = torch.cat([torch.zeros_like(prompt[..., 1:], dtype=torch.bool), open_], 1)
        condition = self.semantic_token_emb(stream)
        target = open_

        def predict(step: int, last: bool) -> tuple[Tensor, Tensor]:
            if trace is not None:
                trace.append(codes.flatten(1).clone())
            logits = self.net(codes, condition).float()  # half precision cannot hold what the first pass divides by
            if greedy and last:
                return logits.argmax(-1), logits
            logits = keep_best(logits, 1 - 0.7)
            return (logits / max(step / steps, 1e-10) + noise(logits.flatten(1, 2)).view_as(logits)).argmax(-1), logits

        for step, count in enumerate(remask_counts(steps, codes.shape[1])):
            drawn, logits = predict(step, count == 0)
            codes = torch.where(open_, drawn, codes)
            if count:
                open_ = self._remask(logits, drawn, count) & target
                codes = codes.masked_fill(open_, self.mask_id)
        for level in range(1, self.levels):
            drawn, _ = predict(0, True)
            codes = torch.cat([codes[..., :level], drawn[..., level:]], -1)
        result = codes[:, -frames:]
        return torch.cat([semantic[..., None], result], -1) if join_semantic else result

    def _remask(self, logits: Tensor, drawn: Tensor, count: int) -> Tensor:
        """The `count` least certain of all levels' positions, and every level above 0: bool (B, N, Q)."""
        doubt = 1 - logits.softmax(-1).gather(-1, drawn[..., None])[..., 0]
        ranks = doubt.flatten(1).argsort(dim=-1, descending=True).argsort(dim=-1)
        masked = (ranks < count).view_as(drawn).clone()
        masked[..., 1:] = True
        return masked

    @torch.inference_mode()
    def generate_clean(self, semantic: Tensor, prompt: Tensor | None, vectors: Tensor, steps: int = 2) -> Tensor:
        """Generating as the small network was trained: a stretch at a time, each in one pass, onward from the prompt.

        A stretch is SPAN / steps frames. Its acoustic latents are what the code vectors of all levels are expected to add up to, and its
        codes are these latents coded again, level after level, as the codec does it: the least mean squared error, which suits a small
        network that is rarely sure of one code. Same shapes as generate(). vectors: those of the codec's acoustic levels, (Q, V, d).
        """
        batch, frames = semantic.shape
        codes = semantic.new_full((batch, frames, self.levels), self.mask_id)
        stream, before = semantic, 0
        if prompt is not None:
            stream, before = torch.cat([prompt[..., 0], semantic], 1), prompt.shape[1]
            codes = torch.cat([prompt[..., 1:], codes], 1)
        condition = self.semantic_token_emb(stream)
        stride = math.ceil(SPAN / steps)
        for first in range(before, before + frames, stride):
            now = slice(first, first + stride)
            hidden = self.net.hidden(codes, condition)[:, now]
            left = expected([self.net.level_logits(hidden, level) for level in range(self.levels)], vectors)
            for level, table in enumerate(vectors.float()):
                chosen = (table.square().sum(-1) - 2 * left @ table.T).argmin(-1)
                left = left - table[chosen]
                codes[:, now, level] = chosen
        return torch.cat([semantic[..., None], codes[:, before:]], -1)
