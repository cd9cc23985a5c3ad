"""Stage picture-stem: the small picture encoder learns to name what stands in every cell of the 8x8 grid.

Labels per cell (noun, colour) and crowded scenes give about ten labels per picture in place of one, which is what makes
the training short. The encoder is frozen afterwards; its features feed the Q-Former (stage picture-tokenizer).
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anygpt_demo.models.seed import SeedConfig, SeedTokenizer, sine_positions, standardise
from anygpt_demo.synth.pictures import BACKGROUND, UNSURE, Batch, Studio, evaluation_batch, evaluation_scenes
from anygpt_demo.synth.world import COLOURS, PLACES, STYLES, TIMES, noun_index
from anygpt_demo.train.loop import Run, Settings, cosine

MINI = SeedConfig(
    image_size=128,
    patch_size=16,
    patch_embed="conv",
    vit_width=192,
    vit_depth=2,
    vit_heads=6,
    vit_mlp_ratio=4.0,
    width=128,
    layers=2,
    heads=4,
    intermediate=512,
    cross_every=1,
    code_dim=16,
    codebook=2048,
    decode_depth=2,
    decode_heads=4,
    image_down=(64, 32, 8),
    embedding=192,
    text_decoder=False,
    normalize_latents=True,
    feature_positions=True,
)
BATCH = 32
PEAK_RATE = 2e-3
CROWDED_SHARE = 0.7
KEPT_BATCHES = 96  # recent batches that are shown a second time, mirrored
GREY_STYLES = tuple(number for number, style in enumerate(STYLES) if style.name in ("black and white", "vintage photo", "pencil sketch"))
SCENE_SIZES = (len(PLACES), len(TIMES), len(STYLES))
COLOUR_CLASSES = len(COLOURS) + 1  # class 0: the thing's natural colour


class StemHeads(nn.Module):
    """Training-only classifiers on the encoder's features (B, 1 + 64, V)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.noun = nn.Linear(width, BACKGROUND + 1)
        self.colour = nn.Linear(width, COLOUR_CLASSES)
        self.scene = nn.Linear(width, sum(SCENE_SIZES))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the noun (B, 64, N + 1) and colour (B, 64, C) of each cell, and of place, time and style (B, S)."""
        cells = features[:, 1:]
        return self.noun(cells), self.colour(cells), self.scene(features.mean(1))


class Stem(nn.Module):
    """The picture encoder of the tokenizer with its training heads."""

    def __init__(self, config: SeedConfig = MINI) -> None:
        super().__init__()
        whole = SeedTokenizer(config)
        self.visual_encoder = whole.visual_encoder
        self.ln_vision = whole.ln_vision
        self.heads = StemHeads(config.vit_width)
        with torch.no_grad():
            self.visual_encoder.pos_embed[:, 1:] = 0.5 * sine_positions(config.grid, config.vit_width)
            self.visual_encoder.cls_token.normal_(0, 0.5)
        for module in self.modules():
            if hasattr(module, "second"):  # residual branches of the stem start silent
                nn.init.zeros_(module.second[1].weight)

    def features(self, pixels: Tensor) -> Tensor:
        """(B, 3, 128, 128) -> (B, 65, V)."""
        return self.ln_vision(self.visual_encoder(pixels))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The heads' logits for pixels (B, 3, 128, 128)."""
        return self.heads(self.features(pixels))


def cell_colours(batch: Batch) -> np.ndarray:
    """Colour class of each cell's noun, int64 (n, 8, 8); UNSURE where there is none or the style is grey."""
    result = np.full_like(batch.grid, UNSURE)
    for row, scene in enumerate(batch.scenes):
        if batch.style[row] in GREY_STYLES:
            continue
        for thing in scene.things:
            result[row][batch.grid[row] == noun_index(thing.noun)] = 1 + COLOURS.index(thing.colour) if thing.colour else 0
    return result


def scene_labels(batch: Batch) -> Tensor:
    """Place, time and style, int64 (n, 3)."""
    return torch.from_numpy(np.stack([batch.place, batch.time, batch.style], 1))


def scene_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed cross-entropy of place, time and style. logits (B, S), labels (B, 3)."""
    parts = logits.split(SCENE_SIZES, dim=1)
    return torch.stack([F.cross_entropy(part, labels[:, k]) for k, part in enumerate(parts)]).sum()


def scene_hits(logits: Tensor, labels: Tensor) -> list[float]:
    """Accuracy of place, time and style."""
    return [(part.argmax(1) == labels[:, k]).float().mean().item() for k, part in enumerate(logits.split(SCENE_SIZES, dim=1))]


def recall(scores: Tensor, nouns: Tensor) -> float:
    """Share of the true nouns among the k best of each picture, k = number of different nouns.

    scores (B, N): one score per noun. nouns (B, 3): slot labels, BACKGROUND for empty.
    """
    hits = total = 0
    for row, labels in zip(scores, nouns.tolist(), strict=True):
        true = set(labels) - {BACKGROUND}
        hits += len(true & set(row.topk(len(true)).indices.tolist()))
        total += len(true)
    return hits / total


class Feed:
    """Training batches as tensors: fresh ones, and recent ones again, mirrored."""

    def __init__(self, seed: int, crowded_share: float = CROWDED_SHARE) -> None:
        self._studio = Studio(seed)
        self._rng = random.Random(seed)
        self._crowded_share = crowded_share
        self._kept: deque[tuple[np.ndarray, ...]] = deque(maxlen=KEPT_BATCHES)

    def next(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pixels (B, 3, 128, 128), nouns (B, 64), colours (B, 64) and scene labels (B, 3)."""
        rng = self._rng
        fresh = len(self._kept) < 24 or rng.random() < 0.5
        if fresh:
            batch = self._studio.batch(BATCH, self._crowded_share)
            self._kept.append((batch.pixels, batch.grid, cell_colours(batch), scene_labels(batch).numpy()))
        rgb, nouns, colours, scene = self._kept[-1] if fresh else self._kept[rng.randrange(len(self._kept))]
        pixels, cells, tints = standardise(rgb), torch.from_numpy(nouns), torch.from_numpy(colours)
        if not fresh:
            pixels, cells, tints = pixels.flip(3), cells.flip(2), tints.flip(2)
        if rng.random() < 0.3:
            pixels = pixels * rng.uniform(0.85, 1.15) + rng.uniform(-0.15, 0.15)
        return pixels, cells.flatten(1), tints.flatten(1), torch.from_numpy(scene)


def loss_of(outputs: tuple[Tensor, Tensor, Tensor], nouns: Tensor, colours: Tensor, scene: Tensor) -> Tensor:
    """Cell cross-entropy (background weighs 0.15) + 0.2 colour + 0.15 place, time and style."""
    noun, colour, context = (logits.float() for logits in outputs)
    weight = torch.ones(BACKGROUND + 1, device=noun.device)
    weight[BACKGROUND] = 0.15
    loss = F.cross_entropy(noun.flatten(0, 1), nouns.flatten(), weight=weight, ignore_index=UNSURE, label_smoothing=0.02)
    tinted = F.cross_entropy(colour.flatten(0, 1), colours.flatten(), ignore_index=UNSURE, reduction="sum")
    return loss + 0.2 * tinted / (colours != UNSURE).sum().clamp(min=1) + 0.15 * scene_loss(context, scene)


@torch.no_grad()
def evaluate(model: Stem, truth: Batch, device: str) -> dict[str, float]:
    """Figures on true drawings: object recall, cell accuracy, colours, place, time, style."""
    model.eval()
    outputs = []
    for start in range(0, len(truth), 64):
        with torch.autocast(device, torch.bfloat16):
            outputs.append([part.float().cpu() for part in model(standardise(truth.pixels[start : start + 64]).to(device))])
    model.train()
    noun, colour, context = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    cells, tints = (torch.from_numpy(grid).flatten(1) for grid in (truth.grid, cell_colours(truth)))
    things, sure = (cells >= 0) & (cells < BACKGROUND), tints != UNSURE
    place, time, style = scene_hits(context, scene_labels(truth))
    return {
        "recall": recall(noun.softmax(-1)[..., :BACKGROUND].amax(1), torch.from_numpy(truth.nouns)),
        "cell": (noun.argmax(-1) == cells)[things].float().mean().item(),
        "colour": (colour.argmax(-1) == tints)[sure].float().mean().item(),
        "place": place,
        "time": time,
        "style": style,
    }


def train(settings: Settings) -> None:
    """Train the encoder for settings.budget_s; the state in runs/picture-stem is what the next stage reads."""
    run = Run("picture-stem", settings)
    torch.manual_seed(settings.seed)
    model = Stem().to(settings.device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    saved = run.resume()
    step = 0
    if saved:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    feed = Feed(settings.seed + step)
    truth = evaluation_batch(evaluation_scenes(int(settings.options.get("evaluate", "256")), seed=1))

    def state() -> dict[str, Any]:
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}

    shown = run.progress
    while run.going:
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * cosine(run.progress)
        pixels, *labels = (tensor.to(settings.device) for tensor in feed.next())
        with torch.autocast(settings.device, torch.bfloat16):
            outputs = model(pixels)
        loss = loss_of(outputs, *labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        step += 1
        if run.progress - shown > 0.08 or not run.going:
            shown = run.progress
            run.log(loss=loss.item(), pictures=step * BATCH, **evaluate(model, truth, settings.device))
        if run.due():
            run.save(state())
    run.save(state())
    run.plot()
