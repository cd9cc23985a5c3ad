"""SEED-2 (arXiv 2310.01218): a picture as 32 causal codes, and codes back to one image embedding.

    pixels -> ViT -> ln_vision -> causal Q-Former (32 queries) -> encode_task_layer -> nearest codebook entry -> ids
    ids -> codebook -> decode_task_layer -> blocks_image -> image_down -> distill_image_proj -> image embedding

Parameter names and arithmetic are those of the published checkpoint (`seed_quantizer.pt` + BLIP-2's `eva_vit_g.pth`).
The small family uses the same classes with other sizes and three options: a convolutional stem in place of the patch
convolution, sine positions on the features, and a fixed normalisation of the latents before quantization.

Dimension names: B batch, N patches + 1, V ViT width, Q queries (32), W Q-Former width, C code width, K codebook size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, RGB in [0, 1]
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
MASKED = -10000.0  # added to forbidden attention scores, as in BERT


@dataclass(frozen=True)
class SeedConfig:
    """Sizes of the tokenizer; the defaults are the published SEED-2 with EVA-CLIP g."""

    image_size: int = 224
    patch_size: int = 14  # pixels per side of one patch; of one cell of the grid for patch_embed "conv"
    patch_embed: str = "patch"  # "patch": one convolution; "conv": a BatchNorm convolution stem
    stem: tuple[int, ...] = (24, 64, 112)  # channels of the stem's first three levels; "conv" only
    vit_width: int = 1408
    vit_depth: int = 39
    vit_heads: int = 16
    vit_mlp_ratio: float = 4.3637
    queries: int = 32
    width: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    cross_every: int = 2  # cross-attention in layers 0, 2, 4, ...
    code_dim: int = 32
    codebook: int = 8192
    decode_depth: int = 4
    decode_heads: int = 12
    image_down: tuple[int, ...] = (256, 128, 32)
    embedding: int = 1024
    text_decoder: bool = True  # the published file holds `blocks` and `pos_embed`, which run time never uses
    normalize_latents: bool = False
    feature_positions: bool = False  # the Q-Former reads features with sine positions added

    @property
    def grid(self) -> int:
        """Patches per side."""
        return self.image_size // self.patch_size

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> SeedConfig:
        """Read a component's config.json; unknown fields are ignored, absent ones take the published value."""
        fields = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})

    def to_json(self) -> dict[str, Any]:
        """Plain values for config.json."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def preprocess(rgb: np.ndarray, size: int = 224) -> Tensor:
    """Squash to size x size (bicubic, no crop) and standardise. rgb: uint8 (h, w, 3). Returns float32 (3, size, size)."""
    from PIL import Image

    picture = Image.fromarray(rgb).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    return standardise(np.asarray(picture)[None])[0]


def standardise(rgb: np.ndarray) -> Tensor:
    """uint8 (B, h, w, 3) -> float32 (B, 3, h, w) with CLIP's mean and deviation."""
    pixels = torch.from_numpy(np.array(rgb)).permute(0, 3, 1, 2).float().div(255.0)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    return (pixels - mean) / std


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Multi-head attention. query (B, Q, D), key and value (B, N, D), mask added to (Q, N) scores.

    Returns (B, Q, D) and the attention weights (B, heads, Q, N).
    """
    batch, _, width = query.shape
    q, k, v = (x.view(batch, x.shape[1], heads, width // heads).transpose(1, 2) for x in (query, key, value))
    scores = (q * (width // heads) ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask
    weights = scores.softmax(-1)
    return (weights @ v).transpose(1, 2).reshape(batch, -1, width), weights


def sine_positions(grid: int, width: int) -> Tensor:
    """Sine and cosine positions of a square grid, (1, grid * grid, width); width must be a multiple of 4."""
    frequencies = torch.exp(-torch.arange(width // 4) / (width // 4) * math.log(50.0))
    rows, columns = torch.meshgrid(torch.arange(grid).float(), torch.arange(grid).float(), indexing="ij")
    parts = [wave(axis.reshape(-1, 1) * frequencies) for axis in (rows, columns) for wave in (torch.sin, torch.cos)]
    return torch.cat(parts, dim=1)[None]


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class VitAttention(nn.Module):
    """Self-attention. EVA's has biases for query and value only, kept as separate parameters."""

    def __init__(self, width: int, heads: int, split_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.split_bias = split_bias
        self.qkv = nn.Linear(width, 3 * width, bias=not split_bias)
        if split_bias:
            self.q_bias = nn.Parameter(torch.zeros(width))
            self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        if self.split_bias:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
            qkv = F.linear(x, self.qkv.weight, bias)
        else:
            qkv = self.qkv(x)
        mixed, _ = attend(*qkv.chunk(3, dim=-1), self.heads)  # five times faster to train on a CPU than the fused kernel
        return self.proj(mixed)


class VitBlock(nn.Module):
    """Pre-norm transformer block, LayerNorm eps 1e-6."""

    def __init__(self, width: int, heads: int, hidden: int, split_bias: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = VitAttention(width, heads, split_bias)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """One convolution per patch: (B, 3, H, W) -> (B, grid * grid, V)."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels).flatten(2).transpose(1, 2)


def _conv(channels: int, out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out))


class Residual(nn.Module):
    """Two 3x3 convolutions with BatchNorm around a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels, 1)
        self.second = _conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class ConvStem(nn.Module):
    """Four 3x3 stride-2 convolutions with BatchNorm (cells of 16 pixels): (B, 3, H, W) -> (B, grid * grid, V)."""

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        a, b, c = channels
        relu = nn.ReLU()
        self.proj = nn.Sequential(
            _conv(3, a, 2), relu, _conv(a, b, 2), relu, _conv(b, c, 2), relu, Residual(c), _conv(c, width, 2), relu, Residual(width)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels.contiguous(memory_format=torch.channels_last)).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """EVA-CLIP's ViT without a final norm: (B, 3, H, W) -> (B, N, V), the class token first."""

    def __init__(self, config: SeedConfig) -> None:
        super().__init__()
        width = config.vit_width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.grid**2 + 1, width))
        self.patch_embed = ConvStem(config.stem, width) if config.patch_embed == "conv" else PatchEmbed(config.patch_size, width)
        hidden = int(width * config.vit_mlp_ratio)
        self.blocks = nn.ModuleList(VitBlock(width, config.vit_heads, hidden, split_bias=True) for _ in range(config.vit_depth))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embed(pixels)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1).to(x.dtype), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x


class _Output(nn.Module):
    """BERT's dense + dropout-free residual + post-norm."""

    def __init__(self, inner: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + residual)


class _Projections(nn.Module):
    """BERT's query, key and value projections."""

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(context, width)
        self.value = nn.Linear(context, width)


class BertAttention(nn.Module):
    """Attention of BERT (post-norm), to itself or to a context of another width."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.heads = heads
        self.add_module("self", _Projections(width, context))  # the published key path says "self"
        self.output = _Output(width, width)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, Q, W), context (B, N, context width). Returns (B, Q, W) and the weights (B, heads, Q, N)."""
        maps = self.get_submodule("self")
        mixed, weights = attend(maps.query(x), maps.key(context), maps.value(context), self.heads, mask)
        return self.output(mixed, x), weights


class _Intermediate(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, hidden)


class QFormerLayer(nn.Module):
    """Causal self-attention over the queries, cross-attention to the picture (in some layers), feed-forward."""

    def __init__(self, config: SeedConfig, number: int) -> None:
        super().__init__()
        self.attention = BertAttention(config.width, config.heads, config.width)
        self.crosses = number % config.cross_every == 0
        if self.crosses:
            self.crossattention = BertAttention(config.width, config.heads, config.vit_width)
        self.intermediate_query = _Intermediate(config.width, config.intermediate)
        self.output_query = _Output(config.intermediate, config.width)

    def forward(self, x: Tensor, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        x, _ = self.attention(x, x, mask)
        weights = None
        if self.crosses:
            x, weights = self.crossattention(x, features)
        return self.output_query(F.gelu(self.intermediate_query.dense(x)), x), weights


class QFormer(nn.Module):
    """Queries that read the picture in causal order. Key paths are `Qformer.bert.*`."""

    def __init__(self, config: SeedConfig) -> None:
        super().__init__()
        self.bert = nn.Module()
        self.bert.embeddings = nn.Module()
        self.bert.embeddings.LayerNorm = nn.LayerNorm(config.width, eps=1e-12)
        self.bert.encoder = nn.Module()
        self.bert.encoder.layer = nn.ModuleList(QFormerLayer(config, number) for number in range(config.layers))

    def forward(self, queries: Tensor, features: Tensor) -> tuple[Tensor, list[Tensor]]:
        """queries (B, Q, W), features (B, N, V). Returns (B, Q, W) and each cross-attention's weights (B, heads, Q, N)."""
        x = self.bert.embeddings.LayerNorm(queries)
        length = x.shape[1]
        mask = torch.full((length, length), MASKED, device=x.device, dtype=x.dtype).triu(1)
        traces = []
        for layer in self.bert.encoder.layer:
            x, weights = layer(x, features, mask)
            if weights is not None:
                traces.append(weights)
        return x, traces


class Codebook(nn.Module):
    """Plain euclidean nearest neighbour; the table is `quantize.embedding.weight` (K, C)."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, width)

    def forward(self, latents: Tensor) -> Tensor:
        """latents (..., C) -> ids int64 (...), in [0, K)."""
        table = self.embedding.weight
        flat = latents.reshape(-1, latents.shape[-1]).to(table.dtype)
        distance = flat.pow(2).sum(1, keepdim=True) + table.pow(2).sum(1) - 2 * flat @ table.t()
        return distance.argmin(1).view(latents.shape[:-1])


class SeedTokenizer(nn.Module):
    """The picture tokenizer: encode() to 32 ids, codes_to_vectors()/restore()/embedding() back."""

    def __init__(self, config: SeedConfig | None = None) -> None:
        super().__init__()
        config = config or SeedConfig()
        self.config = config
        width, codes = config.width, config.code_dim
        self.query_tokens = nn.Parameter(torch.zeros(1, config.queries, width))
        self.visual_encoder = VisionTransformer(config)
        self.ln_vision = nn.LayerNorm(config.vit_width, eps=1e-5)
        if config.feature_positions:
            with torch.device("cpu"):  # computed, not loaded: it must be there even if the module is built without memory
                table = F.pad(sine_positions(config.grid, config.vit_width), (0, 0, 1, 0))  # the class token has no place
            self.register_buffer("feature_positions", table, persistent=False)
        self.Qformer = QFormer(config)
        self.encode_task_layer = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, codes))
        size = config.queries * codes
        self.latent_norm = nn.BatchNorm1d(size, affine=False, momentum=0.03) if config.normalize_latents else nn.Identity()
        self.quantize = Codebook(config.codebook, codes)
        self.decode_task_layer = nn.Sequential(nn.Linear(codes, codes), nn.Tanh(), nn.Linear(codes, width))
        if config.text_decoder:
            self.pos_embed = nn.Parameter(torch.zeros(1, config.queries, width))
            self.blocks = self._blocks()
        self.pos_embed_image = nn.Parameter(torch.zeros(1, config.queries, width))
        self.blocks_image = self._blocks()
        a, b, c = config.image_down
        down = [nn.Linear(n, m, bias=False) for n, m in ((width, a), (a, b), (b, c))]
        self.image_down = nn.Sequential(down[0], nn.ReLU(), down[1], nn.ReLU(), down[2])
        self.distill_image_proj = nn.Linear(config.queries * c, config.embedding)

    def _blocks(self) -> nn.ModuleList:
        config = self.config
        return nn.ModuleList(
            VitBlock(config.width, config.decode_heads, 4 * config.width, split_bias=False) for _ in range(config.decode_depth)
        )

    def features(self, pixels: Tensor) -> Tensor:
        """Pixels from preprocess(), (B, 3, H, W) -> normalised picture features (B, N, V)."""
        hidden = self.visual_encoder(pixels)
        norm = self.ln_vision
        return F.layer_norm(hidden.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps).to(hidden.dtype)

    def latents(self, features: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features (B, N, V) -> latents before quantization (B, Q, C), and the cross-attention weights."""
        if self.config.feature_positions:
            features = features + self.feature_positions
        hidden, traces = self.Qformer(self.query_tokens.expand(len(features), -1, -1), features)
        down = self.encode_task_layer(hidden)
        return self.latent_norm(down.flatten(1)).view(down.shape), traces

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels from preprocess(), (B, 3, H, W) -> ids int64 (B, 32), each in [0, codebook)."""
        latents, _ = self.latents(self.features(pixels))
        return self.quantize(latents)

    def codes_to_vectors(self, ids: Tensor) -> Tensor:
        """ids (B, 32) -> codebook vectors (B, 32, C)."""
        return self.quantize.embedding(ids.long())

    def expand(self, vectors: Tensor) -> Tensor:
        """Codebook vectors (B, 32, C) -> re-expanded vectors (B, 32, W), the output of blocks_image."""
        x = self.decode_task_layer(vectors) + self.pos_embed_image
        for block in self.blocks_image:
            x = block(x)
        return x

    def project(self, restored: Tensor) -> Tensor:
        """Re-expanded vectors (B, 32, W) -> image embedding (B, embedding)."""
        return self.distill_image_proj(self.image_down(restored).flatten(1))

    def restore(self, ids: Tensor) -> Tensor:
        """ids (B, 32) -> re-expanded vectors (B, 32, W): what a picture decoder is conditioned on."""
        return self.expand(self.codes_to_vectors(ids))

    def embed(self, ids: Tensor) -> Tensor:
        """The same as embedding(), with gradients."""
        return self.project(self.restore(ids))

    @torch.inference_mode()
    def embedding(self, ids: Tensor) -> Tensor:
        """ids (B, 32) -> image embedding (B, embedding), not normalised; the published one is unCLIP's."""
        return self.embed(ids)


def official_state(quantizer: Mapping[str, Tensor], vit: Mapping[str, Tensor], config: SeedConfig) -> dict[str, Tensor]:
    """Join the two published files into one state dict in float32; foreign keys are left out, missing ones stay missing.

    quantizer: the flat dict of seed_quantizer.pt. vit: the flat dict of eva_vit_g.pth, whose further blocks and head
    are ignored. A position table for another grid is resized bicubically, as BLIP-2 does.
    """
    with torch.device("meta"):
        wanted = SeedTokenizer(config).state_dict().keys()
    joined = dict(quantizer) | {f"visual_encoder.{key}": tensor for key, tensor in vit.items()}
    state = {key: joined[key].float() for key in wanted if key in joined}
    key = "visual_encoder.pos_embed"
    if key in state and state[key].shape[1] != config.grid**2 + 1:
        state[key] = resize_positions(state[key], config.grid)
    return state


def resize_positions(table: Tensor, grid: int) -> Tensor:
    """Position table (1, 1 + n * n, V) for another grid: (1, 1 + grid * grid, V); the class token's row is kept."""
    old = round((table.shape[1] - 1) ** 0.5)
    square = table[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    square = F.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], square.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
