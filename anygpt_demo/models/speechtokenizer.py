"""SpeechTokenizer: 16 kHz speech <-> 50 frames per second of residual codes; level 1 follows the phones, the others add the voice.

Zhang et al. 2023 (arXiv 2308.16692). SEANet encoder and decoder after Défossez et al. 2022 (arXiv 2210.13438) with a residual vector
quantizer. Module names and arithmetic are those of the published checkpoints (`SpeechTokenizer.pt`, ELU or Snake), which load strictly.

Dimension names in this file: B batch, C channels, D latent width, T frames (n / 320 rounded up), Q levels, n samples, K codebook size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def normalised(v: Tensor, g: Tensor) -> Tensor:
    """Weight normalisation over the first axis: g * v / |v|. v: (out, in, kernel), g: (out, 1, 1)."""
    return v * (g / torch.linalg.vector_norm(v, dim=(1, 2), keepdim=True))


class NormedConv1d(nn.Module):
    """A 1-D convolution stored as direction `weight_v` and length `weight_g` (one per output channel)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.stride, self.dilation = stride, dilation
        self.folded: Tensor | None = None  # the ready weight, see SpeechTokenizer.fold()
        weight = torch.empty(outputs, inputs, kernel)
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        self.weight_v = nn.Parameter(weight)
        self.weight_g = nn.Parameter(torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, inputs, n) already padded."""
        weight = normalised(self.weight_v, self.weight_g) if self.folded is None else self.folded
        return F.conv1d(x, weight, self.bias, self.stride, 0, self.dilation)


class NormedConvTranspose1d(nn.Module):
    """A 1-D transposed convolution; here `weight_g` has one entry per *input* channel, as the old weight_norm made it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.folded: Tensor | None = None
        weight = torch.empty(inputs, outputs, kernel)
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        self.weight_v = nn.Parameter(weight)
        self.weight_g = nn.Parameter(torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, inputs, n). Returns (B, outputs, (n - 1) * stride + kernel)."""
        weight = normalised(self.weight_v, self.weight_g) if self.folded is None else self.folded
        return F.conv_transpose1d(x, weight, self.bias, self.stride)


def pad_reflect(x: Tensor, left: int, right: int) -> Tensor:
    """Reflect-pad the last axis; an input no longer than the pad is first lengthened by zeros, which are cut off again.

    Joining flipped ends is 4 to 6 times as fast as F.pad(mode="reflect") on a CPU, and as exact.
    """
    if left == right == 0:
        return x
    missing = max(0, max(left, right) - x.shape[-1] + 1)
    if missing:
        x = F.pad(x, (0, missing))
    n = x.shape[-1]
    padded = torch.cat([x[..., 1 : left + 1].flip(-1), x, x[..., n - right - 1 : n - 1].flip(-1)], -1)
    return padded[..., : padded.shape[-1] - missing]


class _Conv(nn.Module):
    """Inner shell that gives the published key path `conv.conv`."""

    def __init__(self, conv: NormedConv1d) -> None:
        super().__init__()
        self.conv = conv


class SConv1d(nn.Module):
    """Non-causal convolution that returns ceil(n / stride) frames: reflect padding, floor half on the right, last frame completed."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = _Conv(NormedConv1d(inputs, outputs, kernel, stride, dilation))
        self.stride = stride
        self.total = (kernel - 1) * dilation - (stride - 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, inputs, n). Returns (B, outputs, ceil(n / stride))."""
        right = self.total // 2
        complete = -x.shape[-1] % self.stride
        result: Tensor = self.conv.conv(pad_reflect(x, self.total - right, right + complete))
        return result


class _ConvTranspose(nn.Module):
    """Inner shell that gives the published key path `convtr.convtr`."""

    def __init__(self, convtr: NormedConvTranspose1d) -> None:
        super().__init__()
        self.convtr = convtr


class SConvTranspose1d(nn.Module):
    """Transposed convolution that returns n * stride frames: kernel - stride samples are cropped, the floor half on the right."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.convtr = _ConvTranspose(NormedConvTranspose1d(inputs, outputs, kernel, stride))
        self.crop = kernel - stride

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, inputs, n). Returns (B, outputs, n * stride)."""
        y: Tensor = self.convtr.convtr(x)
        right = self.crop // 2
        return y[..., self.crop - right : y.shape[-1] - right]


class Snake(nn.Module):
    """x + sin^2(alpha x) / alpha with one alpha per channel (Ziyin et al. 2020, arXiv 2006.08195)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, n)."""
        return x + torch.sin(self.alpha * x).pow(2) / (self.alpha + 1e-9)


def activation(name: str, channels: int) -> nn.Module:
    """The activation that config["activation"] names: "ELU" or "Snake"."""
    if name.lower() == "snake":
        return Snake(channels)
    if name.upper() == "ELU":
        return nn.ELU()
    raise ValueError(f"unknown activation {name!r}: ELU and Snake exist")


class ResidualBlock(nn.Module):
    """act, conv (dilated, half the channels), act, 1x1 conv, plus a learned 1x1 shortcut."""

    def __init__(self, channels: int, kernel: int, dilation: int, act: str) -> None:
        super().__init__()
        half = channels // 2
        self.block = nn.Sequential(
            activation(act, channels),
            SConv1d(channels, half, kernel, dilation=dilation),
            activation(act, half),
            SConv1d(half, channels, 1),
        )
        self.shortcut = SConv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, n), the same shape back."""
        return self.shortcut(x) + self.block(x)


class SLSTM(nn.Module):
    """LSTM over time with a skip connection; bidirectional: output and skip are twice as wide."""

    def __init__(self, width: int, layers: int, bidirectional: bool) -> None:
        super().__init__()
        self.bidirectional = bidirectional
        self.lstm = nn.LSTM(width, width, layers, bidirectional=bidirectional)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, T). Returns (B, C or 2 C, T)."""
        x = x.permute(2, 0, 1)
        y, _ = self.lstm(x)
        skip = x.repeat(1, 1, 2) if self.bidirectional else x
        return (y + skip).permute(1, 2, 0)


class Encoder(nn.Module):
    """Waveform to latent frames. Strides run in the reverse of the config's (decoder) order."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        act, width = config["activation"], int(config["n_filters"])
        layers: list[nn.Module] = [SConv1d(1, width, 7)]
        for stride in reversed(config["strides"]):
            for number in range(config["n_residual_layers"]):
                layers.append(ResidualBlock(width, config["residual_kernel_size"], config["dilation_base"] ** number, act))
            layers += [activation(act, width), SConv1d(width, 2 * width, 2 * stride, stride=stride)]
            width *= 2
        if config["lstm_layers"]:
            layers.append(SLSTM(width, config["lstm_layers"], config["bidirectional"]))
            width *= 2 if config["bidirectional"] else 1
        layers += [activation(act, width), SConv1d(width, config["dimension"], 7)]
        self.model = nn.Sequential(*layers)

    def forward(self, wav: Tensor) -> Tensor:
        """wav: (B, 1, n). Returns (B, D, T)."""
        result: Tensor = self.model(wav)
        return result


class Decoder(nn.Module):
    """Latent frames to waveform; its LSTM runs forward only."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        act, strides = config["activation"], config["strides"]
        width = int(config["n_filters"]) * 2 ** len(strides)
        layers: list[nn.Module] = [SConv1d(config["dimension"], width, 7)]
        if config["lstm_layers"]:
            layers.append(SLSTM(width, config["lstm_layers"], bidirectional=False))
        for stride in strides:
            layers += [activation(act, width), SConvTranspose1d(width, width // 2, 2 * stride, stride)]
            width //= 2
            for number in range(config["n_residual_layers"]):
                layers.append(ResidualBlock(width, config["residual_kernel_size"], config["dilation_base"] ** number, act))
        layers += [activation(act, width), SConv1d(width, 1, 7)]
        self.model = nn.Sequential(*layers)

    def forward(self, latent: Tensor) -> Tensor:
        """latent: (B, D, T). Returns (B, 1, T * 320)."""
        result: Tensor = self.model(latent)
        return result


class Codebook(nn.Module):
    """K code vectors with the buffers of the published files; cluster_size and embed_avg only matter to training."""

    inited: Tensor
    cluster_size: Tensor
    embed: Tensor
    embed_avg: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        embed = torch.empty(size, width)
        nn.init.kaiming_uniform_(embed)
        self.register_buffer("inited", torch.ones(1))
        self.register_buffer("cluster_size", torch.ones(size))
        self.register_buffer("embed", embed)
        self.register_buffer("embed_avg", embed.clone())

    def distances(self, x: Tensor) -> Tensor:
        """Squared euclidean distances to all codes. x: (N, D). Returns (N, codes)."""
        table = self.embed.t()
        return x.pow(2).sum(1, keepdim=True) - 2 * x @ table + table.pow(2).sum(0, keepdim=True)

    def nearest(self, x: Tensor) -> Tensor:
        """Index of the nearest code by euclidean distance. x: (N, D). Returns int64 (N,)."""
        return self.distances(x).argmin(dim=-1)


def steady(distances: np.ndarray, stay: float) -> np.ndarray:
    """The codes with the least sum of distances, where every change of code costs `stay` more (Viterbi). distances: float (T, codes).

    Returns int64 (T,). A small codebook that is trained on little data flickers between neighbours; a language model has to guess
    every flicker. With stay 0 each frame has its nearest code.
    """
    best, back = distances[0], np.zeros(distances.shape, np.int64)
    own = np.arange(distances.shape[1])
    for frame in range(1, len(distances)):
        other = int(best.argmin())
        back[frame] = np.where(best <= best[other] + stay, own, other)
        best = np.minimum(best, best[other] + stay) + distances[frame]
    path = [int(best.argmin())]
    for frame in range(len(distances) - 1, 0, -1):
        path.append(int(back[frame, path[-1]]))
    return np.array(path[::-1], np.int64)


class _Level(nn.Module):
    """Shell that gives the published key path `layers.N._codebook`."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self._codebook = Codebook(size, width)


class _Levels(nn.Module):
    """Shell that gives the published key path `vq.layers`."""

    def __init__(self, levels: int, size: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Level(size, width) for _ in range(levels))


class ResidualQuantizer(nn.Module):
    """Q codebooks, each coding what the ones before left over. stay: cost of a change of level-1 codes, see steady()."""

    def __init__(self, levels: int, size: int, width: int, stay: float = 0.0) -> None:
        super().__init__()
        self.stay = stay
        self.vq = _Levels(levels, size, width)

    @property
    def codebooks(self) -> list[Codebook]:
        """The codebooks, first level first."""
        return [cast(Codebook, level._codebook) for level in self.vq.layers]

    def quantize(self, latent: Tensor, n_q: int, st: int = 0) -> tuple[Tensor, list[Tensor]]:
        """Codes and dequantised vectors of levels st..n_q-1. latent: (B, D, T). Returns int64 (n_q - st, B, T) and (B, D, T) per level."""
        batch, width, frames = latent.shape
        residual = latent.transpose(1, 2).reshape(-1, width)
        codes, parts = [], []
        for level, book in enumerate(self.codebooks[st:n_q], st):
            if self.stay and level == 0:
                rows = book.distances(residual).detach().view(batch, frames, -1).cpu().numpy()
                index = torch.from_numpy(np.concatenate([steady(row, self.stay) for row in rows])).to(latent.device)
            else:
                index = book.nearest(residual)
            part = F.embedding(index, book.embed)
            residual = residual - part
            codes.append(index.view(batch, frames))
            parts.append(part.view(batch, frames, width).transpose(1, 2))
        return torch.stack(codes), parts

    def decode(self, codes: Tensor, st: int = 0) -> Tensor:
        """Sum of the code vectors. codes: int64 (levels, B, T) of levels st, st+1, ... Returns (B, D, T)."""
        total = sum(F.embedding(index, book.embed) for index, book in zip(codes, self.codebooks[st:], strict=False))
        assert isinstance(total, Tensor)
        return total.transpose(1, 2)


class SpeechTokenizer(nn.Module):
    """The whole codec. config: the published config.json (n_filters, strides, dimension, semantic_dimension, activation, n_q, ...).

    Ours alone: "stay", see steady(); the published codec has none.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = dict(config)
        self.n_q = int(config["n_q"])
        self.sample_rate = int(config["sample_rate"])
        self.hop = math.prod(config["strides"])
        self.encoder = Encoder(config)
        same = config["dimension"] == config["semantic_dimension"]
        self.transform = nn.Identity() if same else nn.Linear(config["dimension"], config["semantic_dimension"])
        self.quantizer = ResidualQuantizer(self.n_q, config["codebook_size"], config["dimension"], float(config.get("stay", 0.0)))
        self.decoder = Decoder(config)

    @torch.no_grad()
    def fold(self) -> SpeechTokenizer:
        """Compute every weight once, for inference only: the same results, a fifth less time for a short clip. Call it after to(device)."""
        for module in self.modules():
            if isinstance(module, (NormedConv1d, NormedConvTranspose1d)):
                module.folded = normalised(module.weight_v, module.weight_g)
        return self

    def encode(self, wav: Tensor, n_q: int | None = None, st: int = 0) -> Tensor:
        """wav: float (B, 1, n) in [-1, 1]. Returns int64 codes (levels, B, T) of levels st..n_q-1; skipped levels are not subtracted."""
        return self.quantizer.quantize(self.encoder(wav), n_q or self.n_q, st)[0]

    def decode(self, codes: Tensor, st: int = 0) -> Tensor:
        """codes: int64 (levels, B, T), the first of them of level st. Returns float (B, 1, T * hop)."""
        wav: Tensor = self.decoder(self.quantizer.decode(codes, st))
        return wav

    def forward_feature(self, wav: Tensor, layers: Sequence[int] | None = None) -> list[Tensor]:
        """Dequantised vectors (B, D, T) of the given levels (all by default)."""
        parts = self.quantizer.quantize(self.encoder(wav), self.n_q)[1]
        return [parts[layer] for layer in (range(self.n_q) if layers is None else layers)]

    def forward(self, wav: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction (B, 1, T * hop) and level 1 as semantic features (B, T, semantic_dimension)."""
        parts = self.quantizer.quantize(self.encoder(wav), self.n_q)[1]
        return self.decoder(torch.stack(parts).sum(0)), self.transform(parts[0].transpose(1, 2))


def without_training_buffers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict less what only training needs: half of every codebook."""
    return {key: value for key, value in state.items() if not key.endswith(("cluster_size", "embed_avg", "inited"))}


def with_training_buffers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse: the missing buffers rebuilt, so that a strict load works."""
    full = dict(state)
    for key, embed in state.items():
        if key.endswith("._codebook.embed"):
            stem = key.removesuffix("embed")
            full.setdefault(stem + "inited", torch.ones(1))
            full.setdefault(stem + "cluster_size", torch.ones(embed.shape[0]))
            full.setdefault(stem + "embed_avg", embed.clone())
    return full
