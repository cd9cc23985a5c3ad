"""Stage picture-decoder: codes -> picture, by a condition network and a small flow UNet (models/flow.py).

Two phases share one budget. "truth": the Canvas alone learns to paint the coarse picture from the true contents of a
scene (most of the pictures are crowded, which gives six things per picture in place of two); a step costs a third of a
full one. "codes": the heads of the finished tokenizer become the Reader, and Canvas and UNet learn to paint from what
it finds in the codes of the stock of scenes; every third step still paints a crowd from the truth. Without a trained
tokenizer in the family only the first phase runs, and the second one follows when the stage is run again.

Options: truth=SHARE (of the budget for the first phase); from=DIR (a family whose exported decoder goes on, in the second phase only),
unet=new (with it: the UNet begins anew), reader=new (with it: the Reader comes from the tokenizer's stage, as its codes are new).

The UNet learns from pixels and from what the frozen picture encoder of the tokenizer sees in its picture: pixels alone leave
style and backdrops to the mean of all pictures that fit. The judges of the evaluation are other networks.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anygpt_demo import checkpoints
from anygpt_demo.codecs.image import conditioning
from anygpt_demo.models.flow import CELLS, Condition, FlowConfig, FlowDecoder
from anygpt_demo.models.seed import PIXEL_MEAN, PIXEL_STD, SeedTokenizer
from anygpt_demo.synth.pictures import BACKGROUND, Studio
from anygpt_demo.synth.world import COLOURS, NOUNS, PLACES, STYLES, TIMES, noun_index
from anygpt_demo.train.loop import Averaged, Run, Settings, cosine
from anygpt_demo.train.picture_codes import load_tokenizer
from anygpt_demo.train.picture_data import load_labels
from anygpt_demo.train.picture_stem import MINI

BATCH = 16
THINGS = 8  # most things of a crowded scene
RATE = 2e-3
TRUTH_SHARE = 0.45
RING = 2400  # pictures kept for reuse
FRESH = 5  # new pictures per step of 16: each is used about three times
CROWDED_SHARE = 0.8  # of the first phase
FLOW_FROM = 0.5  # share of the budget after which every step from codes trains the UNet too
SEEN_WEIGHT = 0.3  # of the perceptual loss
STYLE_SHARE = 0.5  # of its statistics beside its places
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


class Ring:
    """A stream of fresh pictures in which each is used a few times."""

    def __init__(self, seed: int, crowded_share: float) -> None:
        self._studio = Studio(seed, pool=1000)
        self._rng = random.Random(f"ring-{seed}")
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
        return items

    def sample(self, n: int) -> Truth:
        """n pictures, after some new ones have come in."""
        for item in self._draw(max(FRESH, 4 * n - len(self._items))):
            if len(self._items) < RING:
                self._items.append(item)
            else:
                self._items[self._next] = item
                self._next = (self._next + 1) % RING
        return collate(self._rng.sample(self._items, n))


class Stock:
    """The stored scenes with the codes that the finished tokenizer gives them."""

    def __init__(self, runs: Path, seed: int) -> None:
        folder = runs / "data" / "pictures"
        self._pixels = np.load(folder / "pixels.npy", mmap_mode="r")
        self._labels = load_labels(folder)
        codes = np.fromfile(runs / "data" / "codes" / "pictures" / "codes.u16", "<u2").reshape(-1, 32)
        self._codes = codes.astype(np.int64)
        self._rng = np.random.default_rng(seed)

    def sample(self, n: int) -> Truth:
        """n random pictures."""
        rows = np.sort(self._rng.choice(len(self._codes), n, replace=False))
        labels = {name: torch.from_numpy(values[rows]) for name, values in self._labels.items()}
        things = (labels["grid"] != BACKGROUND).float()[:, None]
        return Truth(
            pixels=torch.from_numpy(self._pixels[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1,
            weight=_weight(F.interpolate(things, scale_factor=16)),
            nouns=labels["nouns"],
            boxes=labels["boxes"],
            colours=labels["colours"],
            scene=torch.stack([labels["place"], labels["time"], labels["style"]], 1),
            codes=torch.from_numpy(self._codes[rows]),
        )


def _weight(things: Tensor) -> Tensor:
    """Things count four times as much as the backdrop. things: 0/1 (B, 1, 128, 128). Returns the same shape, mean 1."""
    weight = 1 + 3 * things
    return weight / weight.mean()


@dataclass(frozen=True)
class Truth:
    """A batch of pictures as tensors."""

    pixels: Tensor  # float (B, 3, 128, 128) in [-1, 1]
    weight: Tensor  # float (B, 1, 128, 128), mean 1; things count more than the backdrop
    nouns: Tensor  # int64 (B, S)
    boxes: Tensor  # float (B, S, 4)
    colours: Tensor  # int64 (B, S)
    scene: Tensor  # int64 (B, 3)
    codes: Tensor | None  # int64 (B, 32)


def collate(items: list[Item]) -> Truth:
    """Stack pictures of the ring."""
    return Truth(
        pixels=torch.from_numpy(np.stack([item.pixels for item in items])).permute(0, 3, 1, 2).float() / 127.5 - 1,
        weight=_weight(torch.from_numpy(np.stack([item.mask for item in items]))[:, None].float()),
        nouns=torch.from_numpy(np.stack([item.nouns for item in items])),
        boxes=torch.from_numpy(np.stack([item.boxes for item in items])),
        colours=torch.from_numpy(np.stack([item.colours for item in items])),
        scene=torch.tensor([item.scene for item in items]),
        codes=None,
    )


def true_condition(truth: Truth, config: FlowConfig) -> Condition:
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
        cells=torch.zeros(n, config.cells, CELLS, CELLS),
        vectors=torch.zeros(n, 32, config.vector),
        embedding=torch.zeros(n, config.embedding),
    )


def forced(condition: Condition, truth: Truth, config: FlowConfig) -> Condition:
    """What the Reader found, with the true classes where it is wrong and the true boxes: nothing wrong is taught to be painted."""
    perfect = true_condition(truth, config)
    wrong = (condition.things.argmax(2) != truth.nouns)[..., None]
    return replace(
        condition,
        things=torch.where(wrong, perfect.things, condition.things),
        boxes=perfect.boxes,
        colours=torch.where(wrong, perfect.colours, condition.colours),
    )


def picture_loss(predicted: Tensor, truth: Truth) -> Tensor:
    """Weighted L1 + 0.7 L2, and L1 of the differences between neighbours."""
    error = predicted.float() - truth.pixels
    loss = ((error.abs() + 0.7 * error.square()) * truth.weight).mean()
    return loss + 0.5 * (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean())


class Perception(nn.Module):
    """How far two pictures are apart for the tokenizer's frozen encoder (perceptual loss of Johnson et al. 2016, arXiv 1603.08155).

    Layers are compared place by place, and by the mean and deviation of each channel over the picture, which tell a style
    wherever it is (Huang and Belongie 2017, arXiv 1703.06868).
    """

    TAPS = (1, 3, 6, 9)  # of the convolutional stem: 64, 32, 16 and 8 cells per side

    def __init__(self, tokenizer: SeedTokenizer) -> None:
        super().__init__()
        self.stem = tokenizer.visual_encoder.patch_embed.proj
        mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def seen(self, pixels: Tensor) -> list[Tensor]:
        """Pictures (B, 3, side, side) in [-1, 1] -> features of each tapped layer (B, C, n, n)."""
        x = ((pixels + 1) / 2 - self.mean) / self.deviation
        found = []
        for number, layer in enumerate(self.stem):
            x = layer(x)
            if number in self.TAPS:
                found.append(x)
        return found

    def forward(self, made: Tensor, true: Tensor) -> Tensor:
        """Mean over the layers of the L1 differences, each as a share of the true features' size."""
        with torch.no_grad():
            targets = [item.float() for item in self.seen(true)]
        parts = []
        for found, target in zip(self.seen(made), targets, strict=True):
            own = found.float()
            size = target.abs().mean()
            parts.append((own - target).abs().mean() / size)
            for a, b in zip(_statistics(own), _statistics(target), strict=True):
                parts.append(STYLE_SHARE * (a - b).abs().mean() / size)
        return torch.stack(parts).sum() / len(targets)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation over the places, (B, C) each."""
    return x.mean((2, 3)), (x.var((2, 3)) + 1e-5).sqrt()


class Trainer(Averaged):
    """Model, average, optimizer and the two kinds of step."""

    model: FlowDecoder

    def __init__(self, settings: Settings, tokenizer: SeedTokenizer | None) -> None:
        torch.manual_seed(settings.seed + 41)
        sizes = {"code": MINI.code_dim, "restored": MINI.width, "embedding": MINI.embedding}
        self.config = FlowConfig(nouns=len(NOUNS), colours=len(COLOURS) + 1, scene=SCENE, **sizes)
        model = FlowDecoder(self.config).to(memory_format=torch.channels_last)
        model.reader.requires_grad_(False)
        memory = [p for name, p in model.named_parameters() if name.startswith(("canvas.patch.", "canvas.thing."))]
        known = {id(p) for p in memory}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        groups = [{"params": rest, "speed": 1.0}, {"params": memory, "speed": 2.0, "weight_decay": 0.0}]
        super().__init__(model, torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.97), weight_decay=0.02), EMA)
        self.tokenizer = tokenizer
        self.perception = None if tokenizer is None else Perception(tokenizer)

    def begin_from(self, family: Path, new_unet: bool = False) -> None:
        """Continue from an exported decoder, its Reader included; with a new UNet if asked for."""
        part = checkpoints.Family.open(family).component("image_decoder")
        state = part.state()
        if new_unet:  # it may have other widths
            state = {key: value for key, value in state.items() if not key.startswith("unet.")}
            state |= {key: value for key, value in self.model.state_dict().items() if key.startswith("unet.")}
        checkpoints.load_strict(self.model, state, part.role)
        self.begin()

    def take_reader(self, runs: Path) -> None:
        """The heads of the finished tokenizer become the Reader, rounded as they will be exported."""
        saved = torch.load(runs / "picture-tokenizer" / "state.pt", map_location="cpu", weights_only=True)["state"]["model"]
        for name, value in self.model.reader.state_dict().items():
            value.copy_(saved[f"heads.{name}"].bfloat16().float())
            self.average[f"reader.{name}"].copy_(value)

    def _paint(self, condition: Condition, truth: Truth) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of the flow, of the coarse picture, and of the flow as the encoder sees it."""
        n = len(truth.pixels)
        time = torch.rand(n) * (torch.rand(n) > 0.3)
        share = time[:, None, None, None]
        with torch.autocast("cpu", torch.bfloat16):
            maps = self.model.canvas(condition)
            noisy = (1 - share) * torch.randn_like(truth.pixels) + share * truth.pixels
            clean = self.model.unet(noisy, time, replace(maps, coarse=maps.coarse.detach()))
            seen = self.perception(clean, truth.pixels)
        return picture_loss(clean, truth), picture_loss(maps.coarse, truth), seen

    def truth_step(self, truth: Truth, factor: float) -> dict[str, float]:
        """Paint the coarse picture from the true contents."""
        with torch.autocast("cpu", torch.bfloat16):
            maps = self.model.canvas(true_condition(truth, self.config))
        coarse = picture_loss(maps.coarse, truth)
        self.update(coarse, RATE * factor, 1.0)
        return {"coarse": coarse.item()}

    def codes_step(self, truth: Truth, factor: float, flow: bool) -> dict[str, float]:
        """Paint from the codes. `flow` False leaves the UNet out, which is half as dear."""
        with torch.no_grad():
            condition = self.model.reader(*conditioning(self.tokenizer, truth.codes))
        right = (condition.things.argmax(2) == truth.nouns)[truth.nouns < self.config.nouns].float().mean()
        condition = forced(condition, truth, self.config)
        if not flow:
            with torch.autocast("cpu", torch.bfloat16):
                maps = self.model.canvas(condition)
            coarse = picture_loss(maps.coarse, truth)
            self.update(coarse, RATE * factor, 1.0)
            return {"painted": coarse.item(), "right": right.item()}
        clean, coarse, seen = self._paint(condition, truth)
        self.update(clean + coarse + SEEN_WEIGHT * seen, RATE * factor, 1.0)
        return {"flow": clean.item(), "painted": coarse.item(), "seen": seen.item(), "right": right.item()}

    def export(self, settings: Settings) -> None:
        """The averaged weights as role image_decoder."""
        checkpoints.export(settings.family, "image_decoder", {"kind": "flow", **self.config.to_json()}, self.average)


def has_tokenizer(settings: Settings) -> bool:
    """Whether the family has a finished picture tokenizer and the stock has its codes."""
    ready = (settings.family / "manifest.json").is_file() and checkpoints.Family.open(settings.family).has("image_tokenizer")
    return ready and (settings.runs / "data" / "codes" / "pictures" / "codes.u16").is_file()


def train(settings: Settings) -> None:
    """Train within the budget and export image_decoder."""
    run = Run("picture-decoder", settings)
    tokenizer = load_tokenizer(settings.family).requires_grad_(False) if has_tokenizer(settings) else None
    trainer = Trainer(settings, tokenizer)
    state = run.resume()
    if state:
        trainer.restore(state)
    share = float(settings.options.get("truth", TRUTH_SHARE)) if tokenizer is not None else 1.0
    exported, flow_from = settings.options.get("from"), FLOW_FROM
    if exported is not None:
        share, flow_from = 0.0, 0.0
        if not state:
            trainer.begin_from(Path(exported), settings.options.get("unet") == "new")
            if settings.options.get("reader") == "new":
                trainer.take_reader(settings.runs)
    crowd, stock = Ring(settings.seed + trainer.steps, CROWDED_SHARE), None
    means: dict[str, float] = {}
    while run.going:
        if stock is None and run.progress >= share:
            stock = Stock(settings.runs, trainer.steps)
            if exported is None:
                trainer.take_reader(settings.runs)
        from_truth = stock is None or trainer.steps % 3 == 2
        factor = cosine(run.progress)
        if from_truth:
            found = trainer.truth_step(crowd.sample(BATCH), factor)
        else:
            found = trainer.codes_step(stock.sample(BATCH), factor, trainer.steps % 3 == 0 or run.progress > flow_from)
        for key, value in found.items():
            means[key] = means.get(key, value) * 0.98 + 0.02 * value
        if trainer.steps % 50 == 0:
            run.log(step=trainer.steps, **means)
        if run.due():
            run.save(trainer.state())
            if stock is not None:
                trainer.export(settings)
    run.save(trainer.state())
    if stock is not None:
        trainer.export(settings)
    run.plot()
