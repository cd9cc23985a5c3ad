"""The small family's picture decoder: 32 re-expanded code vectors and the global embedding -> a picture, by flow.

    vectors, embedding -> Reader -> what stands where, scene, colours (8x8)       once per picture
                       -> Canvas -> condition maps at 8, 16, 32 and a coarse picture  once per picture
    noise + maps       -> FlowUNet, predicting the clean picture                  once per step (8 steps)

The Reader and the Canvas take the place of unCLIP's image-embedding projection; the UNet is conditioned by added maps,
by cross-attention to the vectors, and by a scene embedding added to the time embedding. Pixels are folded by 4
(pixel-unshuffle), so that the UNet works on 32 x 32.

Dimension names: B batch, V width of one vector, E width of the embedding, S slots (3), N nouns + 1 (the last is "none").
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CELLS = 8  # cells per side of the coarsest map
SLOTS = 3
GROUP = 8  # codes per slot: 0-7 tell the scene, 8-15, 16-23 and 24-31 one thing each
LEAK = 0.1  # of the UNet's activations
PATCH_MARGIN = 1.12  # a slot's patch is this much larger than its thing


@dataclass(frozen=True)
class FlowConfig:
    """Sizes of the decoder."""

    code: int = 16  # width of a code vector
    restored: int = 128  # width of a re-expanded vector
    embedding: int = 192  # E
    nouns: int = 208
    colours: int = 9  # natural colour first
    scene: tuple[int, ...] = (10, 7, 8)  # places, times, styles
    side: int = 128  # pixels
    fold: int = 4  # pixel-unshuffle
    widths: tuple[int, ...] = (48, 80, 144)  # channels of the Canvas at 32, 16 and 8
    unet_widths: tuple[int, ...] = (96, 128, 128)  # channels of the UNet at 32, 16 and 8
    time: int = 128  # width of the time embedding
    patch: int = 12  # cells per side of a slot's patch
    patch_channels: int = 32
    hidden: int = 256  # of the Reader
    steps: int = 8

    @property
    def vector(self) -> int:
        """V: code vector and re-expanded vector side by side."""
        return self.code + self.restored

    @property
    def cells(self) -> int:
        """Channels of the Reader's map: hidden, noun probabilities and 4 x 4 pixels of each cell."""
        return self.restored + self.nouns + 1 + 48

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> FlowConfig:
        """Read a component's config.json; unknown fields are ignored."""
        fields = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})

    def to_json(self) -> dict[str, Any]:
        """Plain values for config.json."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Condition:
    """What the Reader understood of B pictures. Training may put the truth in place of the first five."""

    things: Tensor  # (B, S, N) probabilities
    boxes: Tensor  # (B, S, 4): x, y, size in shares of the side, probability of being mirrored
    colours: Tensor  # (B, S, colours) probabilities
    scene: Tensor  # (B, sum(config.scene)) probabilities
    thumbnail: Tensor  # (B, 3, 8, 8) mean colours in [-1, 1]
    cells: Tensor  # (B, config.cells, 8, 8)
    vectors: Tensor  # (B, 32, V)
    embedding: Tensor  # (B, E)


@dataclass(frozen=True)
class Maps:
    """What the UNet is conditioned on."""

    levels: tuple[Tensor, Tensor, Tensor]  # (B, widths[k], 32 / 2**k, 32 / 2**k)
    context: Tensor  # (B, 32, unet_widths[2])
    scene: Tensor  # (B, time)
    coarse: Tensor  # (B, 3, side, side): the mean picture, in about [-1, 1]


def _norm_conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Two 3x3 convolutions around a skip; an embedding may be added in the middle.

    leak: slope below zero. Where a last layer begins at zero, blocks without one may die before anything comes through.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int = 0, leak: float = 0.0) -> None:
        super().__init__()
        self.leak = leak
        self.first = _norm_conv(inputs, outputs)
        self.second = _norm_conv(outputs, outputs)
        nn.init.zeros_(self.second[1].weight)  # starts as the identity
        self.embedding = nn.Linear(embedding, outputs) if embedding else None
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        hidden = F.leaky_relu(self.first(x), self.leak)
        if self.embedding is not None:
            hidden = hidden + self.embedding(embedding)[..., None, None]
        return F.leaky_relu(self.skip(x) + self.second(hidden), self.leak)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Multi-head attention. query (B, Q, D), key and value (B, N, D) -> (B, Q, D)."""
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    weights = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).float().softmax(3)
    return (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)


class CrossBlock(nn.Module):
    """Pre-norm block: self-attention, attention to a context of the same width, MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_self, self.norm_cross, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.self_qkv, self.self_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.query, self.key_value, self.cross_out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.self_out(attend(*self.self_qkv(self.norm_self(x)).chunk(3, 2), self.heads))
        x = x + self.cross_out(attend(self.query(self.norm_cross(x)), *self.key_value(context).chunk(2, 2), self.heads))
        return x + self.mlp(self.norm_mlp(x))


class GridReader(nn.Module):
    """64 positions read the re-expanded vectors: noun, frozen feature and 4 x 4 pixels of every cell.

    Parameters are those of the head of the same name that the tokenizer was trained with.
    """

    HEADS = 4

    def __init__(self, config: FlowConfig, features: int) -> None:
        super().__init__()
        width = config.restored
        self.positions = nn.Parameter(torch.zeros(1, CELLS**2, width))
        self.query, self.key, self.value, self.mix = (nn.Linear(width, width) for _ in range(4))
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))
        self.norm = nn.LayerNorm(width)
        self.sizes = (config.nouns + 1, features, 48)
        self.out = nn.Linear(width, sum(self.sizes))

    def forward(self, restored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 32, W) -> hidden (B, 64, W), noun logits (B, 64, N), pixels (B, 64, 48) in about [-1, 1]."""
        x = self.positions.expand(len(restored), -1, -1)
        x = x + self.mix(attend(self.query(x), self.key(restored), self.value(restored), self.HEADS))
        hidden = self.norm(x + self.mlp(x))
        nouns, _, pixels = self.out(hidden).split(self.sizes, 2)
        return hidden, nouns, pixels


class Reader(nn.Module):
    """Vectors -> Condition: the small heads that the tokenizer was trained with. Never trained with the painter."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        group = GROUP * config.code
        self.scene_outputs = sum(config.scene) + SLOTS + 1  # the last ones count things
        thing_outputs = config.nouns + 1 + config.colours + 4
        self.scene = nn.Sequential(nn.Linear(group, config.hidden), nn.GELU(), nn.Linear(config.hidden, self.scene_outputs))
        self.thing = nn.Sequential(nn.Linear(group, config.hidden), nn.GELU(), nn.Linear(config.hidden, thing_outputs))
        self.grid = GridReader(config, config.embedding)

    @torch.no_grad()
    def forward(self, vectors: Tensor, embedding: Tensor) -> Condition:
        """vectors (B, 32, V), embedding (B, E)."""
        codes, restored = vectors.float().split((self.config.code, self.config.restored), 2)
        groups = codes.reshape(len(codes), 1 + SLOTS, -1)
        scene = self.scene(groups[:, 0])[:, : sum(self.config.scene)]
        things, colours, boxes = self.thing(groups[:, 1:]).split((self.config.nouns + 1, self.config.colours, 4), 2)
        hidden, nouns, pixels = self.grid(restored)
        cells = torch.cat([hidden, 4 * nouns.softmax(2), pixels], 2)
        return Condition(
            things=things.softmax(2),
            boxes=torch.cat([boxes[..., :3], boxes[..., 3:].sigmoid()], 2),
            colours=colours.softmax(2),
            scene=torch.cat([part.softmax(1) for part in scene.split(self.config.scene, 1)], 1),
            thumbnail=pixels.unflatten(2, (16, 3)).mean(2).transpose(1, 2).unflatten(2, (CELLS, CELLS)),
            cells=cells.transpose(1, 2).unflatten(2, (CELLS, CELLS)),
            vectors=vectors,
            embedding=embedding,
        )


def _enlarge(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, 4 * outputs, 1), nn.PixelShuffle(2), nn.BatchNorm2d(outputs), nn.ReLU())


class Canvas(nn.Module):
    """Condition -> maps: the scene convolved up from 8 x 8, and one patch of features per thing, laid where it stands."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        a, b, c = config.widths
        total = sum(config.scene)
        self.enter = nn.Conv2d(3 + total, c, 1)
        self.enter_cells = nn.Conv2d(config.cells, c, 1)
        nn.init.zeros_(self.enter_cells.weight)
        self.position = nn.Parameter(torch.randn(1, c, CELLS, CELLS) * 0.3)
        self.low, self.middle, self.high, self.paint = Residual(c, c), Residual(b, b), Residual(a, a), Residual(a, a)
        self.to_middle, self.to_high = _enlarge(c, b), _enlarge(b, a)
        about = config.nouns + 1
        self.patch = nn.Linear(about, config.patch**2 * config.patch_channels)
        self.modulate = nn.Sequential(nn.Linear(config.colours + total + 64, 96), nn.GELU(), nn.Linear(96, 2 * config.patch_channels))
        self.thing = nn.Linear(about, 64)
        self.lay = nn.Conv2d(config.patch_channels, a, 3, 1, 1)
        self.coarse = nn.Conv2d(a, 3 * config.fold**2, 3, 1, 1)
        self.norm = nn.LayerNorm(config.vector)
        self.context = nn.Linear(config.vector, config.unet_widths[2])
        self.context_place = nn.Parameter(torch.randn(1, 4 * GROUP, config.unet_widths[2]) * 0.5)
        self.scene = nn.Linear(total, config.time)
        self.embedding = nn.Linear(config.embedding, config.time)
        nn.init.zeros_(self.embedding.weight)

    def _patches(self, condition: Condition) -> Tensor:
        """All things' patches, added up on the finest map: (B, patch_channels, 32, 32)."""
        config = self.config
        side = config.side // config.fold
        row, slot = (condition.things.argmax(2) < config.nouns).nonzero(as_tuple=True)
        if not len(row):  # codes in which no thing is seen: the backdrop alone
            return condition.things.new_zeros(len(condition.things), config.patch_channels, side, side)
        things, box = condition.things[row, slot], condition.boxes[row, slot]
        patch = self.patch(4 * things).view(-1, config.patch_channels, config.patch, config.patch)
        scale, shift = self.modulate(torch.cat([condition.colours[row, slot], condition.scene[row], self.thing(4 * things)], 1)).chunk(2, 1)
        patch = (patch * (1 + scale[..., None, None]) + shift[..., None, None]).float()
        patch = torch.where((box[:, 3] > 0.5)[:, None, None, None], patch.flip(3), patch)
        size = box[:, 2].clamp(0.08, 1) * PATCH_MARGIN
        x, y, zero = 2 * box[:, 0] - 1, 2 * box[:, 1] - 1, torch.zeros_like(size)
        affine = torch.stack([torch.stack([1 / size, zero, -x / size], 1), torch.stack([zero, 1 / size, -y / size], 1)], 1)
        field = F.affine_grid(affine, [len(affine), config.patch_channels, side, side], align_corners=False)
        laid = F.grid_sample(patch, field, align_corners=False)
        sums = laid.new_zeros(len(condition.things), config.patch_channels, side, side)
        return sums.index_add(0, row, laid)

    def forward(self, condition: Condition) -> Maps:
        scene = condition.scene[..., None, None].expand(-1, -1, CELLS, CELLS)
        x = self.enter(torch.cat([condition.thumbnail, 2 * scene], 1)) + self.enter_cells(condition.cells) + self.position
        low = self.low(x.contiguous(memory_format=torch.channels_last))
        middle = self.middle(self.to_middle(low))
        high = self.high(self.to_high(middle) + self.lay(self._patches(condition).contiguous(memory_format=torch.channels_last)))
        return Maps(
            levels=(high, middle, low),
            context=self.context(self.norm(condition.vectors)) + self.context_place,
            scene=self.scene(2 * condition.scene) + self.embedding(condition.embedding),
            coarse=F.pixel_shuffle(self.coarse(self.paint(high)), self.config.fold).float(),
        )


class FlowUNet(nn.Module):
    """Noisy picture, time and maps -> clean picture, as a correction of the coarse one.

    Three levels (32, 16, 8), attention to the vectors at 8 x 8.
    """

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        a, b, c = config.unet_widths
        folded, time = 3 * config.fold**2, config.time
        self.bring = nn.ModuleList(nn.Conv2d(n, m, 1) for n, m in zip(config.widths, config.unet_widths, strict=True))
        self.time = nn.Sequential(nn.Linear(32, time), nn.GELU(), nn.Linear(time, time))
        self.enter = nn.Conv2d(2 * folded, a, 3, 1, 1)
        self.down = nn.ModuleList(Residual(width, width, time, LEAK) for width in (a, b, c))
        self.shrink = nn.ModuleList([nn.Conv2d(a, b, 2, 2), nn.Conv2d(b, c, 2, 2)])
        self.position = nn.Parameter(torch.randn(1, CELLS**2, c) * 0.3)
        self.attend = CrossBlock(c, 4)
        self.bottom = Residual(c, c, time, LEAK)
        self.grow = nn.ModuleList(nn.Sequential(nn.Conv2d(n, 4 * m, 1), nn.PixelShuffle(2)) for n, m in ((c, b), (b, a)))
        self.up = nn.ModuleList(Residual(2 * width, width, time, LEAK) for width in (b, a))
        self.leave = nn.Conv2d(a, folded, 3, 1, 1)
        nn.init.zeros_(self.leave.weight)  # starts with the coarse picture
        nn.init.zeros_(self.leave.bias)

    def forward(self, noisy: Tensor, time: Tensor, maps: Maps) -> Tensor:
        """noisy (B, 3, side, side), time (B,) in [0, 1): 0 noise, 1 picture. Returns the clean picture (B, 3, side, side)."""
        angle = torch.exp(torch.arange(16, device=time.device) * 0.4) * time[:, None]
        embedding = F.gelu(self.time(torch.cat([angle.sin(), angle.cos()], 1)) + maps.scene)
        x = F.pixel_unshuffle(torch.cat([noisy, maps.coarse], 1), self.config.fold)
        high = self.down[0](self.enter(x.contiguous(memory_format=torch.channels_last)) + self.bring[0](maps.levels[0]), embedding)
        middle = self.down[1](self.shrink[0](high) + self.bring[1](maps.levels[1]), embedding)
        low = self.down[2](self.shrink[1](middle) + self.bring[2](maps.levels[2]), embedding)
        cells = self.attend(low.flatten(2).transpose(1, 2) + self.position, maps.context)
        low = cells.transpose(1, 2).unflatten(2, (CELLS, CELLS)).contiguous(memory_format=torch.channels_last)
        low = self.bottom(low, embedding)
        middle = self.up[0](torch.cat([self.grow[0](low), middle], 1), embedding)
        high = self.up[1](torch.cat([self.grow[1](middle), high], 1), embedding)
        return maps.coarse + F.pixel_shuffle(self.leave(high), self.config.fold)


class FlowDecoder(nn.Module):
    """Reader, Canvas and UNet; the whole component `image_decoder`."""

    def __init__(self, config: FlowConfig | None = None) -> None:
        super().__init__()
        self.config = config or FlowConfig()
        self.reader = Reader(self.config)
        self.canvas = Canvas(self.config)
        self.unet = FlowUNet(self.config)

    def noise(self, seed: int, batch: int = 1) -> Tensor:
        """Start noise (batch, 3, side, side) of a seed, the same on every device."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, 3, self.config.side, self.config.side, generator=generator)

    @torch.no_grad()
    def previews(self, vectors: Tensor, embedding: Tensor, noise: Tensor, steps: int | None = None) -> Iterator[Tensor]:
        """The predicted clean picture (B, 3, side, side) in [-1, 1] after every step; the last one is the result.

        Euler steps along the straight path from noise (t = 0) to picture (t = 1).
        """
        steps = steps or self.config.steps
        maps = self.canvas(self.reader(vectors, embedding))
        x = noise.to(vectors)
        for step in range(steps):
            time = step / steps
            clean = self.unet(x, torch.full((len(x),), time, device=x.device), maps).float()
            x = clean + (x - clean) * (1 - (step + 1) / steps) / (1 - time)
            yield clean.clamp(-1, 1)

    def sample(self, vectors: Tensor, embedding: Tensor, noise: Tensor, steps: int | None = None) -> Tensor:
        """The picture (B, 3, side, side) in [-1, 1]."""
        *_, result = self.previews(vectors, embedding, noise, steps)
        return result


def parameters(module: nn.Module) -> float:
    """Millions of parameters."""
    return math.fsum(parameter.numel() for parameter in module.parameters()) / 1e6
