"""Stage picture-tokenizer: causal Q-Former, codebook and decode path, first on the frozen features of stage picture-stem,
then together with the encoder on scenes that are drawn as they are needed; the encoder goes on naming the cells of crowded ones.

Codes 0-7 carry the scene, codes 8-15, 16-23 and 24-31 one thing each in the order of Scene.slots(). Small heads that
read only the codes of their own group, and attention guided to the thing, give the codes an order that a language model
can learn. The heads exist in training only. Afterwards the tokenizer is exported and the stock of scenes is encoded.

Options: from=DIR (a family whose exported tokenizer and decoder's Reader go on, in the second phase only), evaluate=N (scenes
that are looked at now and then in the second phase).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anygpt_demo.checkpoints import Family, export, load_strict
from anygpt_demo.models.seed import SeedConfig, SeedTokenizer, attend, sine_positions, standardise
from anygpt_demo.synth.pictures import BACKGROUND, UNSURE, Batch, Studio, evaluation_batch, evaluation_scenes
from anygpt_demo.synth.scenes import SLOTS
from anygpt_demo.train.loop import Run, Settings, cosine
from anygpt_demo.train.picture_data import labels_of, load_labels, make_stock
from anygpt_demo.train.picture_stem import (
    COLOUR_CLASSES,
    GREY_STYLES,
    MINI,
    SCENE_SIZES,
    Feed,
    Stem,
    StemHeads,
    recall,
    scene_hits,
    scene_loss,
)
from anygpt_demo.train.picture_stem import loss_of as stem_loss
from anygpt_demo.train.quantizer import kmeans, nearest

BATCH = 16  # steps count here, not pictures: 64 was measured to be far worse
PEAK_RATE = 1.3e-3
WHOLE_RATE = 5e-4  # where the encoder learns, too
CROWD_EVERY = 6  # steps: then the encoder alone learns from a crowd
FROZEN_SHARE = 0.25  # of the budget, for the first phase
UNQUANTIZED_SHARE = 0.22  # of the first phase, before k-means
NATURAL_WEIGHT = 0.15  # of a thing in its natural colour, as nine of ten are
GROUP = 8  # codes per group: scene, first, second and third thing
COUNTS = SLOTS + 1
THING_SIZES = (BACKGROUND + 1, COLOUR_CLASSES, 4)  # class, colour, box
THUMBNAIL = 32  # pixels per side
FEATURES = "features.npy"
THUMBNAILS = "thumbnails.npy"


# --- data ---


@dataclass(frozen=True)
class Rows:
    """A batch of frozen features with the truth."""

    features: Tensor  # float32 (B, 65, V)
    scene: Tensor  # int64 (B, 3): place, time, style
    count: Tensor  # int64 (B,): things in the slots
    nouns: Tensor  # int64 (B, 3), BACKGROUND for an empty slot
    colours: Tensor  # int64 (B, 3), UNSURE for an empty slot or a grey style
    boxes: Tensor  # float32 (B, 3, 4): x, y, size, mirrored
    grid: Tensor  # int64 (B, 64), BACKGROUND or UNSURE
    thumbnail: Tensor  # float32 (B, 64, 48) in [-1, 1]: 4x4 pixels per cell

    def to(self, device: str) -> Rows:
        """The same rows on another device."""
        return Rows(*(getattr(self, field.name).to(device) for field in fields(self)))


def thumbnails(pixels: np.ndarray) -> np.ndarray:
    """uint8 (n, 128, 128, 3) -> box-reduced uint8 (n, 64, 48), the 4x4x3 pixels of each cell of the 8x8 grid."""
    small = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float()
    small = F.avg_pool2d(small, pixels.shape[1] // THUMBNAIL).round().to(torch.uint8)
    return small.view(-1, 3, 8, 4, 8, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 64, 48).numpy()


class Shelf:
    """Features and labels of many pictures, read a few rows at a time."""

    def __init__(self, features: np.ndarray, thumbs: np.ndarray, labels: dict[str, np.ndarray]) -> None:
        self.features, self.thumbs, self.labels = features, thumbs, labels
        empty = labels["nouns"] == BACKGROUND
        grey = np.isin(labels["style"], GREY_STYLES)[:, None]
        self.colours = np.where(empty | grey, UNSURE, labels["colours"])

    def __len__(self) -> int:
        return len(self.features)

    def rows(self, index: np.ndarray) -> Rows:
        """The rows of an index array (B,)."""
        index = np.sort(index)
        labels = self.labels

        def take(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values[index]))

        return Rows(
            features=take(self.features).float(),
            scene=torch.stack([take(labels[name]) for name in ("place", "time", "style")], 1),
            count=take(labels["count"]),
            nouns=take(labels["nouns"]),
            colours=take(self.colours),
            boxes=take(labels["boxes"]),
            grid=take(labels["grid"]).flatten(1),
            thumbnail=take(self.thumbs).float() / 127.5 - 1,
        )

    def stream(self, seed: int) -> Iterator[Rows]:
        """Endless batches; every picture once per round."""
        rng = np.random.default_rng(seed)
        while True:
            order = rng.permutation(len(self))
            for start in range(0, len(order) - BATCH + 1, BATCH):
                yield self.rows(order[start : start + BATCH])


def load_stem(runs: Path, tokenizer: SeedTokenizer) -> None:
    """Copy the trained encoder into a tokenizer, rounded to bfloat16 as it will be exported."""
    stem = Stem(tokenizer.config)
    saved = torch.load(runs / "picture-stem" / "state.pt", map_location="cpu", weights_only=True)
    stem.load_state_dict(saved["state"]["model"])
    for part in ("visual_encoder", "ln_vision"):
        state = {
            key: value.bfloat16().float() if value.is_floating_point() else value for key, value in getattr(stem, part).state_dict().items()
        }
        getattr(tokenizer, part).load_state_dict(state)
        getattr(tokenizer, part).requires_grad_(False)
    tokenizer.visual_encoder.to(memory_format=torch.channels_last)


@torch.no_grad()
def features_of(tokenizer: SeedTokenizer, pixels: np.ndarray, device: str) -> np.ndarray:
    """uint8 (n, 128, 128, 3) -> float16 features (n, 65, V), computed in bfloat16."""
    parts = []
    for start in range(0, len(pixels), 64):
        with torch.autocast(device, torch.bfloat16):
            features = tokenizer.features(standardise(pixels[start : start + 64]).to(device))
        parts.append(features.half().cpu().numpy())
    return np.concatenate(parts)


def cache(folder: Path, tokenizer: SeedTokenizer, device: str) -> Shelf:
    """Features and thumbnails of the stock, computed once (about 3 ms per picture)."""
    pixels = np.load(folder / "pixels.npy", mmap_mode="r")
    if not (folder / THUMBNAILS).is_file():
        width = tokenizer.config.vit_width
        features = np.lib.format.open_memmap(folder / FEATURES, "w+", np.float16, (len(pixels), 65, width))
        thumbs = np.empty((len(pixels), 64, 48), np.uint8)
        for start in range(0, len(pixels), 512):
            part = pixels[start : start + 512]
            features[start : start + 512] = features_of(tokenizer, part, device)
            thumbs[start : start + 512] = thumbnails(part)
        features.flush()
        np.save(folder / THUMBNAILS, thumbs)  # last: its presence says that the cache is complete
    return Shelf(np.load(folder / FEATURES, mmap_mode="r"), np.load(folder / THUMBNAILS), load_labels(folder))


def shelf_of(truth: Batch, tokenizer: SeedTokenizer, device: str) -> Shelf:
    """A small set of labelled pictures in memory."""
    return Shelf(features_of(tokenizer, truth.pixels, device), thumbnails(truth.pixels), labels_of(truth))


# --- training-only parts ---


class GridReader(nn.Module):
    """64 positions read the 32 re-expanded vectors: noun, frozen feature and 4x4 pixels of every cell."""

    def __init__(self, config: SeedConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.decode_heads
        self.positions = nn.Parameter(sine_positions(config.grid, width))
        self.query, self.key, self.value, self.mix = (nn.Linear(width, width) for _ in range(4))
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))
        self.norm = nn.LayerNorm(width)
        self.sizes = (BACKGROUND + 1, config.vit_width, 48)
        self.out = nn.Linear(width, sum(self.sizes))

    def forward(self, restored: Tensor) -> tuple[Tensor, ...]:
        """(B, 32, W) -> logits (B, 64, N + 1), features (B, 64, V), pixels (B, 64, 48)."""
        x = self.positions.expand(len(restored), -1, -1)
        mixed, _ = attend(self.query(x), self.key(restored), self.value(restored), self.heads)
        x = x + self.mix(mixed)
        return self.out(self.norm(x + self.mlp(x))).split(self.sizes, dim=-1)


def _reader(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 256), nn.GELU(), nn.Linear(256, outputs))


class Heads(nn.Module):
    """What the codes are asked for while training."""

    def __init__(self, config: SeedConfig) -> None:
        super().__init__()
        self.scene = _reader(GROUP * config.code_dim, sum(SCENE_SIZES) + COUNTS)
        self.thing = _reader(GROUP * config.code_dim, sum(THING_SIZES))
        self.restored_norm = nn.LayerNorm(config.width)
        self.restored_scene = nn.Linear(GROUP * config.width, sum(SCENE_SIZES) + COUNTS)
        self.restored_thing = nn.Linear(GROUP * config.width, sum(THING_SIZES))
        self.grid = GridReader(config)

    def from_codes(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Code vectors (B, 32, C) -> scene logits (B, S) from the first group, thing logits (B, 3, ...) from the others."""
        groups = vectors.view(len(vectors), 1 + SLOTS, -1)
        return self.scene(groups[:, 0]), self.thing(groups[:, 1:])

    def from_restored(self, restored: Tensor) -> tuple[Tensor, Tensor]:
        """The same from the re-expanded vectors (B, 32, W), by linear layers."""
        groups = self.restored_norm(restored).view(len(restored), 1 + SLOTS, -1)
        return self.restored_scene(groups[:, 0]), self.restored_thing(groups[:, 1:])


class MovingCodebook:
    """Moving averages behind the codebook: k-means start, decay, reseeding of codes below 3 % of the mean use."""

    def __init__(self, table: Tensor, decay: float = 0.98, dead_share: float = 0.03) -> None:
        self.table = table  # (K, C), changed in place
        self.decay, self.dead_share = decay, dead_share
        self.uses = torch.ones(len(table), device=table.device)
        self.sums = table.detach().clone()
        self.started = False

    @torch.no_grad()
    def start(self, latents: Tensor, per_batch: int) -> None:
        """K-means over a buffer of latents (n, C); per_batch: latents in one training batch."""
        centres, counts = kmeans(latents, len(self.table))
        self.uses.copy_((counts * per_batch / len(latents)).clamp(min=0.1))
        self.table.copy_(centres)
        self.sums.copy_(centres * self.uses[:, None])
        self.started = True

    @torch.no_grad()
    def learn(self, latents: Tensor, index: Tensor) -> None:
        """One step for latents (n, C) and their codes (n,)."""
        size = len(self.table)
        self.uses.lerp_(torch.bincount(index, minlength=size).float(), 1 - self.decay)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, index, latents), 1 - self.decay)
        self.table.copy_(self.sums / self.uses.clamp(min=1e-3)[:, None])
        mean = len(index) / size
        dead = torch.nonzero(self.uses < self.dead_share * mean)[:, 0]
        if len(dead):
            fresh = latents[torch.randint(len(latents), (len(dead),), device=latents.device)]
            self.table[dead], self.uses[dead], self.sums[dead] = fresh, mean, fresh * mean

    def state(self) -> dict[str, Any]:
        """Plain values for a saved state."""
        return {"uses": self.uses, "sums": self.sums, "started": self.started}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of state()."""
        self.uses.copy_(state["uses"])
        self.sums.copy_(state["sums"])
        self.started = bool(state["started"])


class Trainee(nn.Module):
    """The tokenizer and its training heads."""

    def __init__(self, config: SeedConfig = MINI) -> None:
        super().__init__()
        self.tokenizer = SeedTokenizer(config)
        self.heads = Heads(config)
        with torch.no_grad():
            self.tokenizer.query_tokens.normal_()
            self.tokenizer.pos_embed_image.normal_(0, 0.5)
        self.tokenizer.quantize.requires_grad_(False)
        self.codebook = MovingCodebook(self.tokenizer.quantize.embedding.weight.data)

    def learned(self) -> list[nn.Parameter]:
        """Parameters that the optimizer moves."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def encode(self, features: Tensor, learn: bool) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Features (B, 65, V) -> code vectors (B, 32, C), commitment loss, ids (B, 32) and attention traces."""
        latents, traces = self.tokenizer.latents(features)
        latents = latents.float()
        if not self.codebook.started:
            return latents, latents.new_zeros(()), torch.zeros(latents.shape[:-1], dtype=torch.long, device=latents.device), traces
        flat = latents.flatten(0, 1)
        index = nearest(flat.detach(), self.codebook.table)
        chosen = self.codebook.table[index].view_as(latents)
        if learn:
            self.codebook.learn(flat.detach(), index)
        passed = latents + (chosen - latents).detach()
        return passed, 0.25 * F.mse_loss(latents, chosen), index.view(latents.shape[:-1]), traces


@torch.no_grad()
def spread(model: Trainee, features: Tensor) -> None:
    """Scale the layers around the bottleneck so that their outputs differ between pictures with unit deviation."""
    tokenizer = model.tokenizer
    layers = [layer.crossattention.output.dense for layer in tokenizer.Qformer.bert.encoder.layer if layer.crosses]
    layers += [
        tokenizer.encode_task_layer[0],
        tokenizer.encode_task_layer[2],
        tokenizer.decode_task_layer[0],
        tokenizer.decode_task_layer[2],
    ]
    seen: list[Tensor] = []
    for layer in [*layers, model.heads.grid.mix]:
        seen.clear()
        layer.bias.zero_()
        handle = layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        model.heads.grid(tokenizer.expand(tokenizer.latents(features)[0]))
        handle.remove()
        layer.weight.div_((seen[0] - seen[0].mean(0, keepdim=True)).std().clamp(min=1e-6))


# --- losses ---


def guidance(traces: list[Tensor], rows: Rows) -> Tensor:
    """Cross-entropy between the attention of a thing's eight queries and a Gaussian at the thing.

    traces: attention weights (B, heads, 32, 65) of each cross-attention.
    """
    centres = (torch.arange(8, device=rows.boxes.device) + 0.5) / 8
    x, y, size = rows.boxes[..., 0:1], rows.boxes[..., 1:2], rows.boxes[..., 2:3].clamp(min=0.1)
    variance = 2 * (size / 3.5) ** 2
    across = torch.exp(-((centres - x) ** 2) / variance)  # (B, 3, 8)
    down = torch.exp(-((centres - y) ** 2) / variance)
    target = (down[..., :, None] * across[..., None, :]).flatten(2)
    target = target / target.sum(-1, keepdim=True)
    there = (rows.nouns != BACKGROUND).float()
    total = there.new_zeros(())
    for weights in traces:
        mean = weights.float().mean(1)[:, GROUP:, 1:].unflatten(1, (SLOTS, GROUP))
        entropy = -(target[:, :, None] * (mean + 1e-6).log()).sum(-1).mean(-1)
        total = total + (entropy * there).sum() / there.sum()
    return total / len(traces)


def slot_loss(scene: Tensor, thing: Tensor, rows: Rows) -> Tensor:
    """1.2 (place + time + style + count) + class + 0.3 colour + 12 L1(x, y, size) + 0.1 mirroring."""
    context, count = scene.float().split((sum(SCENE_SIZES), COUNTS), dim=1)
    noun, colour, box = thing.float().split(THING_SIZES, dim=-1)
    there = (rows.nouns != BACKGROUND).float()
    loss = 1.2 * (scene_loss(context, rows.scene) + F.cross_entropy(count, rows.count))
    loss = loss + F.cross_entropy(noun.flatten(0, 1), rows.nouns.flatten(), label_smoothing=0.02)
    if (rows.colours != UNSURE).any():
        rare = torch.ones(COLOUR_CLASSES, device=colour.device)
        rare[0] = NATURAL_WEIGHT
        loss = loss + 0.3 * F.cross_entropy(colour.flatten(0, 1), rows.colours.flatten(), weight=rare, ignore_index=UNSURE)
    loss = loss + 12 * ((box[..., :3] - rows.boxes[..., :3]).abs() * there[..., None]).mean()
    mirrored = F.binary_cross_entropy_with_logits(box[..., 3], rows.boxes[..., 3], reduction="none")
    return loss + 0.1 * (mirrored * there).mean()


def cell_loss(nouns: Tensor, rows: Rows) -> Tensor:
    """Cross-entropy of the noun of each cell, logits (B, 64, N + 1); background weighs 0.2."""
    weight = torch.ones(BACKGROUND + 1, device=nouns.device)
    weight[BACKGROUND] = 0.2
    return F.cross_entropy(nouns.flatten(0, 1), rows.grid.flatten(), weight=weight, ignore_index=UNSURE)


def grid_loss(outputs: tuple[Tensor, ...], rows: Rows) -> Tensor:
    """0.7 cell class + squared error of the features + 2 L1 on the thumbnail."""
    noun, features, pixels = (part.float() for part in outputs)
    return (
        0.7 * cell_loss(noun, rows)
        + F.mse_loss(features, rows.features.detach()[:, 1:].float())
        + 2 * (pixels - rows.thumbnail).abs().mean()
    )


@dataclass(frozen=True)
class Target:
    """The image embedding's target: mean feature of the picture, standardised."""

    mean: Tensor  # (V,)
    deviation: Tensor  # (V,)

    @classmethod
    def of(cls, features: Tensor) -> Target:
        """Statistics of features (n, 65, V)."""
        pooled = features[:, 1:].mean(1)
        return cls(pooled.mean(0), pooled.std(0).clamp(min=1e-3))

    def __call__(self, features: Tensor) -> Tensor:
        """(B, 65, V) -> (B, V)."""
        return (features[:, 1:].mean(1) - self.mean) / self.deviation


def loss_of(model: Trainee, rows: Rows, target: Target, device: str) -> Tensor:
    """The whole training loss of a batch; moves the codebook."""
    with torch.autocast(device, torch.bfloat16):
        vectors, commitment, _, traces = model.encode(rows.features, learn=True)
        restored = model.tokenizer.expand(vectors)
        embedding = model.tokenizer.project(restored)
        direct, again, grid = model.heads.from_codes(vectors), model.heads.from_restored(restored), model.heads.grid(restored)
    loss = slot_loss(*direct, rows) + 0.5 * slot_loss(*again, rows) + grid_loss(grid, rows) + guidance(traces, rows)
    return loss + commitment + 0.5 * F.mse_loss(embedding.float(), target(rows.features.detach().float()))


# --- figures ---


def thing_figures(thing: Tensor, rows: Rows) -> dict[str, float]:
    """Recall, slot accuracy, colours and position errors from thing logits (n, 3, ...)."""
    noun, colour, box = thing.split(THING_SIZES, dim=-1)
    there = rows.nouns != BACKGROUND
    tinted = (rows.colours != UNSURE) & (rows.colours > 0)
    error = (box[..., :3] - rows.boxes[..., :3]).abs()[there].mean(0)
    return {
        "recall": recall(noun.softmax(-1)[..., :BACKGROUND].amax(1), rows.nouns),
        "slot": (noun.argmax(-1) == rows.nouns)[there].float().mean().item(),
        "colour": (colour.argmax(-1) == rows.colours)[tinted].float().mean().item(),
        "x": error[0].item(),
        "y": error[1].item(),
        "size": error[2].item(),
    }


@torch.no_grad()
def evaluate(model: Trainee, rows: Rows, target: Target) -> dict[str, float]:
    """Figures of the codes (or latents before quantization) on true drawings, float32."""
    model.eval()
    vectors, _, ids, _ = model.encode(rows.features, learn=False)
    restored = model.tokenizer.expand(vectors)
    scene, thing = model.heads.from_codes(vectors)
    _, again = model.heads.from_restored(restored)
    noun, _, pixels = model.heads.grid(restored)
    embedding = model.tokenizer.project(restored)
    model.train()
    context, count = scene.split((sum(SCENE_SIZES), COUNTS), dim=1)
    place, time, style = scene_hits(context, rows.scene)
    things = (rows.grid >= 0) & (rows.grid < BACKGROUND)
    uses = torch.bincount(ids.flatten(), minlength=len(model.codebook.table)).float()
    share = uses / uses.sum()
    return thing_figures(thing, rows) | {
        "restored_slot": thing_figures(again, rows)["slot"],
        "place": place,
        "time": time,
        "style": style,
        "count": (count.argmax(1) == rows.count).float().mean().item(),
        "cell": (noun.argmax(-1) == rows.grid)[things].float().mean().item(),
        "thumbnail": (pixels - rows.thumbnail).abs().mean().item(),
        "embedding": F.cosine_similarity(embedding, target(rows.features)).mean().item(),
        "used": float((uses > 0).sum()),
        "perplexity": torch.exp(-(share * (share + 1e-9).log()).sum()).item(),
    }


# --- the stage ---


@torch.no_grad()
def start_codebook(model: Trainee, shelf: Shelf, device: str) -> None:
    """K-means on the latents of 1,600 pictures."""
    model.eval()
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(25):
        rows = shelf.rows(rng.choice(len(shelf), 64, replace=False))
        parts.append(model.tokenizer.latents(rows.features.to(device))[0].float().flatten(0, 1))
    model.train()
    model.codebook.start(torch.cat(parts), BATCH * model.tokenizer.config.queries)


def config_of(config: SeedConfig) -> dict[str, Any]:
    """The component's config.json."""
    return {"type": "seed"} | config.to_json()


def train(settings: Settings) -> None:
    """Train, export the role image_tokenizer and encode the stock into runs/data/codes/pictures."""
    from anygpt_demo.train.picture_codes import make_codes

    folder = settings.runs / "data" / "pictures"
    make_stock(folder, settings.seed)
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    device = settings.device
    model = Trainee().to(device)
    if "from" not in settings.options:
        load_stem(settings.runs, model.tokenizer)
        model.tokenizer.eval()
        shelf = cache(folder, model.tokenizer, device)
        truth = shelf_of(evaluation_batch(evaluation_scenes(512, seed=1)), model.tokenizer, device)
        if not fit(model, shelf, truth.rows(np.arange(len(truth))), replace(settings, budget_s=FROZEN_SHARE * settings.budget_s)):
            return  # stopped early: the state is saved, nothing is exported
    if fit_whole(model, settings):
        export(settings.family, "image_tokenizer", config_of(model.tokenizer.config), model.tokenizer.state_dict())
        make_codes(settings)


def begin_from(model: Trainee, family: Path) -> None:
    """Continue from an exported tokenizer and the heads that became its decoder's Reader."""
    source = Family.open(family)
    load_strict(model.tokenizer, source.component("image_tokenizer").state(), "image_tokenizer")
    reader = {key: value.float() for key, value in source.component("image_decoder").state().items() if key.startswith("reader.")}
    own = model.heads.state_dict()
    model.heads.load_state_dict(own | {key.removeprefix("reader."): value for key, value in reader.items()})
    book = model.codebook
    book.uses.fill_(BATCH * model.tokenizer.config.queries / len(book.table))
    book.sums.copy_(book.table * book.uses[:, None])
    book.started = True


def drawn_rows(studio: Studio, tokenizer: SeedTokenizer, device: str) -> Rows:
    """A batch of fresh scenes; the features carry gradients into the encoder."""
    batch = studio.batch(BATCH)
    labels = labels_of(batch)
    shelf = Shelf(np.zeros((BATCH, 1), np.float16), thumbnails(batch.pixels), labels)
    return replace(shelf.rows(np.arange(BATCH)).to(device), features=tokenizer.features(standardise(batch.pixels).to(device)))


def fit_whole(model: Trainee, settings: Settings) -> bool:
    """Encoder, Q-Former and codebook together, from where they are or from a family, resumable. Returns whether the budget was used up."""
    run, device, tokenizer = Run("picture-tokenizer", settings), settings.device, model.tokenizer
    model.requires_grad_(True)
    tokenizer.quantize.requires_grad_(False)
    crowd_heads = StemHeads(tokenizer.config.vit_width).to(device)
    learned = [*model.learned(), *crowd_heads.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=WHOLE_RATE, betas=(0.9, 0.98), weight_decay=0.03)
    truth = evaluation_batch(evaluation_scenes(int(settings.options.get("evaluate", "512")), seed=1))
    step = 0
    saved = run.resume()
    if saved and "crowd_heads" in saved:
        model.load_state_dict(saved["model"])
        crowd_heads.load_state_dict(saved["crowd_heads"])
        optimizer.load_state_dict(saved["optimizer"])
        model.codebook.load(saved["codebook"])
        mean, deviation, step = saved["mean"], saved["deviation"], saved["step"]
    else:
        if "from" in settings.options:
            begin_from(model, Path(settings.options["from"]))
        known = Target.of(torch.from_numpy(features_of(tokenizer.eval(), truth.pixels, device)).float().to(device))
        mean, deviation = known.mean, known.deviation
    target = Target(mean, deviation)
    tokenizer.visual_encoder.to(memory_format=torch.channels_last)
    model.eval()  # the batch norms stay as they are: codes keep their meaning
    studio, crowd, shown = Studio(settings.seed + 1000 + step, pool=3000), Feed(settings.seed + 2000 + step, 1.0), run.progress

    def state() -> dict[str, Any]:
        parts = {"model": model.state_dict(), "crowd_heads": crowd_heads.state_dict(), "optimizer": optimizer.state_dict()}
        return parts | {"codebook": model.codebook.state(), "mean": mean, "deviation": deviation, "step": step}

    begun = 0.0 if "from" in settings.options else FROZEN_SHARE
    while run.going:
        for group in optimizer.param_groups:
            group["lr"] = WHOLE_RATE * cosine(max(0.0, run.progress - begun) / (1 - begun))
        if step % CROWD_EVERY == 0:
            pixels, *labels = (tensor.to(device) for tensor in crowd.next())
            with torch.autocast(device, torch.bfloat16):
                outputs = crowd_heads(tokenizer.features(pixels))
            loss = stem_loss(outputs, *labels)
        else:
            with torch.autocast(device, torch.bfloat16):
                rows = drawn_rows(studio, tokenizer, device)
                nouns = crowd_heads.noun(rows.features[:, 1:])
            loss = loss_of(model, rows, target, device) + 0.5 * cell_loss(nouns.float(), rows)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 2.0)
        optimizer.step()
        step += 1
        if run.progress - shown > 0.04 or not run.going:
            shown = run.progress
            figures = evaluate(model, shelf_of(truth, tokenizer, device).rows(np.arange(len(truth))).to(device), target)
            model.eval()
            run.log(loss=loss.item(), step=step, **figures)
        if run.due():
            run.save(state())
    run.save(state())
    run.plot()
    return not run.stopping


def fit(model: Trainee, shelf: Shelf, truth: Rows, settings: Settings) -> bool:
    """The training loop, resumable. Returns whether the budget was used up."""
    run, device = Run("picture-tokenizer", settings), settings.device
    first = shelf.rows(np.arange(min(512, len(shelf))))
    target = Target.of(first.to(device).features)
    optimizer = torch.optim.AdamW(model.learned(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.03)
    model.train()
    step = 0
    if saved := run.resume():
        if "crowd_heads" in saved:  # of the second phase
            return True
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        model.codebook.load(saved["codebook"])
        step = saved["step"]
    else:
        spread(model, first.to(device).features[:64])
    stream, truth, shown = shelf.stream(settings.seed + step), truth.to(device), run.progress

    def state() -> dict[str, Any]:
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "codebook": model.codebook.state(), "step": step}

    while run.going:
        if not model.codebook.started and run.progress > UNQUANTIZED_SHARE:
            start_codebook(model, shelf, device)
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * cosine(run.progress)
        loss = loss_of(model, next(stream).to(device), target, device)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.learned(), 2.0)
        optimizer.step()
        step += 1
        if run.progress - shown > 0.09 or not run.going:
            shown = run.progress
            run.log(loss=loss.item(), pictures=step * BATCH, **evaluate(model, truth, target))
        if run.due():
            run.save(state())
    run.save(state())
    run.plot()
    return not run.stopping
