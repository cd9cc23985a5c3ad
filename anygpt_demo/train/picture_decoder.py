"""Stage picture-decoder: codes -> picture, by a condition network and a small flow UNet (models/flow.py).

Two phases share one budget. "truth": Canvas and UNet learn to paint from the true contents of a scene (half of the
pictures are crowded, which gives six things per picture in place of two). "codes": the Reader learns to find these
contents in the frozen tokenizer's 32 vectors, and all three are trained together on what it finds. Without a trained
tokenizer in the family only the first phase runs, and the second one follows when the stage is run again.

Options: truth=SHARE (of the budget for the first phase).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anygpt_demo import checkpoints
from anygpt_demo.codecs.image import conditioning
from anygpt_demo.models.flow import CELLS, Condition, FlowConfig, FlowDecoder, without_hints
from anygpt_demo.models.seed import SeedConfig, SeedTokenizer, standardise
from anygpt_demo.synth.pictures import BACKGROUND, Studio
from anygpt_demo.synth.world import COLOURS, NOUNS, PLACES, STYLES, TIMES, noun_index
from anygpt_demo.train.loop import Run, Settings, cosine

BATCH = 16
THINGS = 8  # most things of a crowded scene
RATE = 2e-3
TRUTH_SHARE = 0.45
READER_STEPS = 600  # steps at the start of the second phase that train the Reader alone
RING = 2400  # pictures kept for reuse
FRESH = 5  # new pictures per step of 16: each is used about three times
EMA = 0.995
SCENE = (len(PLACES), len(TIMES), len(STYLES))


@dataclass
class Item:
    """One picture of the ring with its truth."""

    pixels: np.ndarray  # uint8 (128, 128, 3)
    mask: np.ndarray  # bool (128, 128)
    nouns: np.ndarray  # int64 (THINGS,), BACKGROUND for none
    boxes: np.ndarray  # float32 (THINGS, 4)
    colours: np.ndarray  # int64 (THINGS,)
    scene: tuple[int, int, int]
    codes: Tensor | None = None  # int64 (32,)


class Ring:
    """A stream of pictures in which each is used a few times. Draws with its own generator."""

    def __init__(self, seed: int, tokenizer: SeedTokenizer | None, crowded_share: float) -> None:
        self._studio = Studio(seed, pool=1000)
        self._rng = random.Random(f"ring-{seed}")
        self._tokenizer = tokenizer
        self._crowded = crowded_share
        self._items: list[Item] = []
        self._next = 0

    def _draw(self, n: int) -> list[Item]:
        batch = self._studio.batch(n, self._crowded)
        items = []
        for row, scene in enumerate(batch.scenes):
            nouns, boxes, colours = np.full(THINGS, BACKGROUND, np.int64), np.zeros((THINGS, 4), np.float32), np.zeros(THINGS, np.int64)
            for slot, (thing, box) in enumerate(scene.slots()):
                nouns[slot] = noun_index(thing.noun)
                boxes[slot] = (box.x, box.y, box.size, box.mirrored)
                colours[slot] = 1 + COLOURS.index(thing.colour) if thing.colour else 0
            labels = (int(batch.place[row]), int(batch.time[row]), int(batch.style[row]))
            items.append(Item(batch.pixels[row], batch.mask[row], nouns, boxes, colours, labels))
        if self._tokenizer is not None:
            for item, codes in zip(items, self._tokenizer.encode(standardise(batch.pixels)), strict=True):
                item.codes = codes.clone()
        return items

    def sample(self, n: int) -> list[Item]:
        """n pictures, after some new ones have come in."""
        for item in self._draw(max(FRESH, 4 * n - len(self._items))):
            if len(self._items) < RING:
                self._items.append(item)
            else:
                self._items[self._next] = item
                self._next = (self._next + 1) % RING
        return self._rng.sample(self._items, n)


@dataclass(frozen=True)
class Truth:
    """A batch of the ring as tensors."""

    pixels: Tensor  # float (B, 3, 128, 128) in [-1, 1]
    weight: Tensor  # float (B, 1, 128, 128), mean 1; things count more than the backdrop
    nouns: Tensor  # int64 (B, S)
    boxes: Tensor  # float (B, S, 4)
    colours: Tensor  # int64 (B, S)
    scene: Tensor  # int64 (B, 3)
    codes: Tensor | None  # int64 (B, 32)


def collate(items: list[Item], slots: int) -> Truth:
    """Stack pictures of the ring."""
    weight = 1 + 3 * torch.from_numpy(np.stack([item.mask for item in items]))[:, None].float()
    codes = [item.codes for item in items if item.codes is not None]
    return Truth(
        pixels=torch.from_numpy(np.stack([item.pixels for item in items])).permute(0, 3, 1, 2).float() / 127.5 - 1,
        weight=weight / weight.mean(),
        nouns=torch.from_numpy(np.stack([item.nouns[:slots] for item in items])),
        boxes=torch.from_numpy(np.stack([item.boxes[:slots] for item in items])),
        colours=torch.from_numpy(np.stack([item.colours[:slots] for item in items])),
        scene=torch.tensor([item.scene for item in items]),
        codes=torch.stack(codes) if len(codes) == len(items) else None,
    )


def true_condition(truth: Truth, config: FlowConfig, cells: int) -> Condition:
    """The condition that a perfect Reader would give, without vectors."""
    n = len(truth.pixels)
    scene = torch.cat([F.one_hot(truth.scene[:, k], size).float() for k, size in enumerate(config.scene)], 1)
    thumbnail = F.adaptive_avg_pool2d(truth.pixels, CELLS)
    return Condition(
        things=F.one_hot(truth.nouns, config.nouns + 1).float(),
        boxes=truth.boxes,
        colours=F.one_hot(truth.colours, config.colours).float(),
        scene=scene,
        thumbnail=thumbnail + 0.08 * torch.randn_like(thumbnail),
        cells=torch.zeros(n, cells, CELLS, CELLS),
        vectors=torch.zeros(n, 32, config.vector),
        embedding=torch.zeros(n, config.embedding),
    )


def forced(condition: Condition, truth: Truth, config: FlowConfig) -> Condition:
    """What the Reader found, corrected by the truth where it is wrong, so that the painter is never taught a wrong thing."""
    perfect = true_condition(truth, config, 1)
    wrong = (condition.things.argmax(2) != truth.nouns)[..., None]
    boxes = torch.where(torch.rand(len(truth.nouns), 1, 1) < 0.5, perfect.boxes, condition.boxes)
    return replace(
        condition,
        things=torch.where(wrong, perfect.things, condition.things),
        boxes=torch.cat([boxes[..., :3], perfect.boxes[..., 3:]], 2),
        colours=torch.where(wrong, perfect.colours, condition.colours),
    )


def picture_loss(predicted: Tensor, truth: Truth) -> Tensor:
    """Weighted L1 + 0.7 L2, and L1 of the differences between neighbours."""
    error = predicted.float() - truth.pixels
    loss = ((error.abs() + 0.7 * error.square()) * truth.weight).mean()
    return loss + 0.5 * (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean())


def reader_loss(outputs: tuple[Tensor, ...], thumbnail: Tensor, truth: Truth, config: FlowConfig) -> Tensor:
    """Cross-entropies of things, colours and scene, L1 of boxes (things that exist) and of the colour map."""
    scene, things, colours, boxes, _ = outputs
    exists = (truth.nouns < config.nouns).float()
    loss = F.cross_entropy(things.flatten(0, 1), truth.nouns.flatten(), label_smoothing=0.02)
    loss = loss + sum(F.cross_entropy(part, truth.scene[:, k]) for k, part in enumerate(scene.split(config.scene, 1)))
    tint = F.cross_entropy(colours.flatten(0, 1), truth.colours.flatten(), reduction="none")
    mirror = F.binary_cross_entropy_with_logits(boxes[..., 3], truth.boxes[..., 3], reduction="none")
    where = (boxes[..., :3] - truth.boxes[..., :3]).abs().sum(2)
    per_thing = 0.3 * tint.view_as(exists) + 0.1 * mirror + 4 * where
    loss = loss + (per_thing * exists).sum() / exists.sum().clamp(min=1)
    return loss + 2 * (thumbnail - F.adaptive_avg_pool2d(truth.pixels, CELLS)).abs().mean()


class Trainer:
    """Model, average, optimizer and the two kinds of step."""

    def __init__(self, settings: Settings, tokenizer: SeedTokenizer | None) -> None:
        torch.manual_seed(settings.seed + 41)
        sizes = {}
        if tokenizer is not None:
            sizes = {"vector": tokenizer.config.code_dim + tokenizer.config.width, "embedding": tokenizer.config.embedding}
        self.config = FlowConfig(nouns=len(NOUNS), colours=len(COLOURS) + 1, scene=SCENE, **sizes)
        self.model = FlowDecoder(self.config).to(memory_format=torch.channels_last)
        self.average = {key: value.clone() for key, value in self.model.state_dict().items()}
        memory = [p for name, p in self.model.named_parameters() if name.startswith(("canvas.patch.", "canvas.thing."))]
        known = {id(p) for p in memory}
        rest = [p for p in self.model.parameters() if id(p) not in known]
        groups = [{"params": rest, "speed": 1.0}, {"params": memory, "speed": 2.0, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.97), weight_decay=0.02)
        self.tokenizer = tokenizer
        self.steps = 0
        self.reader_steps = 0

    def state(self) -> dict[str, Any]:
        """Everything that a continued run needs."""
        return {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
            "reader_steps": self.reader_steps,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from state()."""
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps, self.reader_steps = int(state["steps"]), int(state["reader_steps"])

    def _update(self, loss: Tensor, factor: float) -> None:
        """One optimizer step; the average follows."""
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * group["speed"] * factor
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.steps += 1
        decay = min(EMA, (1 + self.steps) / (10 + self.steps))
        for key, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value, 1 - decay)

    def _paint(self, condition: Condition, truth: Truth) -> tuple[Tensor, Tensor]:
        """Losses of the flow and of the coarse picture."""
        n = len(truth.pixels)
        time = torch.rand(n) * (torch.rand(n) > 0.3)
        share = time[:, None, None, None]
        with torch.autocast("cpu", torch.bfloat16):
            maps = self.model.canvas(condition)
            noisy = (1 - share) * torch.randn_like(truth.pixels) + share * truth.pixels
            clean = self.model.unet(noisy, time, replace(maps, coarse=maps.coarse.detach()))
        return picture_loss(clean, truth), picture_loss(maps.coarse, truth)

    def truth_step(self, items: list[Item], factor: float) -> dict[str, float]:
        """Paint from the true contents."""
        truth = collate(items, THINGS)
        flow, coarse = self._paint(without_hints(true_condition(truth, self.config, self.model.reader.WIDTH)), truth)
        self._update(flow + coarse, factor)
        return {"flow": flow.item(), "coarse": coarse.item()}

    def codes_step(self, items: list[Item], factor: float) -> dict[str, float]:
        """Paint from the codes. The first steps train the Reader alone."""
        truth = collate(items, 3)
        with torch.no_grad():
            vectors, embedding = conditioning(self.tokenizer, truth.codes)
        outputs = self.model.reader.logits(vectors, embedding)
        condition = self.model.reader.understand(outputs, vectors, embedding)
        reading = reader_loss(outputs, condition.thumbnail, truth, self.config)
        right = (condition.things.argmax(2) == truth.nouns)[truth.nouns < self.config.nouns].float().mean()
        if self.reader_steps < READER_STEPS:
            self.reader_steps += 1
            self._update(reading, 1.0)
            return {"reading": reading.item(), "right": right.item()}
        flow, coarse = self._paint(forced(condition, truth, self.config), truth)
        self._update(flow + coarse + 0.2 * reading, factor)
        return {"flow": flow.item(), "coarse": coarse.item(), "reading": reading.item(), "right": right.item()}

    def export(self, settings: Settings) -> None:
        """The averaged weights as role image_decoder."""
        checkpoints.export(settings.family, "image_decoder", {"kind": "flow", **self.config.to_json()}, self.average)


def load_tokenizer(settings: Settings) -> SeedTokenizer | None:
    """The family's picture tokenizer, frozen, or None."""
    if not (settings.family / "manifest.json").is_file():
        return None
    family = checkpoints.Family.open(settings.family)
    if not family.has("image_tokenizer"):
        return None
    component = family.component("image_tokenizer")
    tokenizer = SeedTokenizer(SeedConfig.from_json(component.config))
    checkpoints.load_strict(tokenizer, component.state(), "image_tokenizer")
    return tokenizer.requires_grad_(False)


def train(settings: Settings) -> None:
    """Train within the budget and export image_decoder."""
    run = Run("picture-decoder", settings)
    tokenizer = load_tokenizer(settings)
    trainer = Trainer(settings, tokenizer)
    if state := run.resume():
        trainer.restore(state)
    share = float(settings.options.get("truth", TRUTH_SHARE)) if tokenizer is not None else 1.0
    ring: Ring | None = None
    codes = False
    means: dict[str, float] = {}
    while run.going:
        if ring is None or codes != (run.progress >= share):
            codes = run.progress >= share
            ring = Ring(settings.seed + trainer.steps, tokenizer if codes else None, 0.0 if codes else 0.5)
        step = trainer.codes_step if codes else trainer.truth_step
        for key, value in step(ring.sample(BATCH), cosine(run.progress)).items():
            means[key] = means.get(key, value) * 0.98 + 0.02 * value
        if trainer.steps % 50 == 0:
            run.log(step=trainer.steps, **means)
        if run.due():
            run.save(trainer.state())
            if codes and trainer.reader_steps >= READER_STEPS:
                trainer.export(settings)
    run.save(trainer.state())
    if tokenizer is not None and codes:
        trainer.export(settings)
    run.plot()
