"""Stage picture-enhancer: pictures of 256 px -> 512 px, by a small super-resolution network (models/enhancer.py).

Targets are scenes drawn at 512 px. Inputs are made from the same pixels, so that both show the same thing at the same place: a
share of them is only halved, as a true picture of 256 px is, and the rest is made to look like what the picture decoder draws
(`softened`; styles whose edges are steps never are, or steps would be seen in all that is soft): reduced to the decoder's 128
px, blurred, folded, mottled, and enlarged to 256 px as the codec does. Copies by the decoder itself cannot serve as inputs: their
things stand a little off, and a network that has to guess where learns to blur.

The decoder's own texture is left alone: what looks like grain in its pictures is how it tells a place, so the grain that the network
learns to take away is finer and fainter than that.

Options: width=C, blocks=N (sizes of the network); true=SHARE (of inputs that are only halved); from=FAMILY (begin with its weights).
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anygpt_demo import checkpoints
from anygpt_demo.models.enhancer import Enhancer, EnhancerConfig
from anygpt_demo.synth.pictures import render_fine, sample_scene, sprite
from anygpt_demo.train.loop import Averaged, Run, Settings, cosine

BATCH = 12
PATCH = 128  # pixels of a target patch
RATE = 1e-3
EMA = 0.998
RING = 240  # drawn pictures kept for reuse, 0.8 MB each
EVERY = 2  # steps per new picture
CROWDED_SHARE = 0.4
TRUE_SHARE = 0.5
MOTTLES = {1: 0.015, 2: 0.02, 4: 0.01}  # the decoder's mottled noise: cells in pixels of 128, and the most of each
BLURS = (0.2, 1.2)  # widths of its softness, in pixels of 128
STEPPED = ("pixel art", "oil painting")  # styles that are only halved
FOLD = 4  # of the decoder, whose pixel shuffle leaves a pattern of this side


class Drawings:
    """A stream of patches of scenes drawn at 512 px; every scene is used for some tens of patches."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"enhancer-{seed}")
        self._pictures: list[tuple[np.ndarray, bool]] = []  # and whether its style may be softened
        self._drawn = 0

    def _draw(self) -> None:
        scene = sample_scene(self._rng, self._rng.random() < CROWDED_SHARE)
        picture = render_fine(scene), scene.style not in STEPPED
        if len(self._pictures) < RING:
            self._pictures.append(picture)
        else:
            self._pictures[self._drawn % RING] = picture
        self._drawn += 1
        if self._drawn % RING == 0:
            sprite.cache_clear()  # glyphs of this size fill the memory

    def sample(self, n: int, fresh: int) -> tuple[Tensor, Tensor]:
        """n patches, mirrored half of the time, after `fresh` new pictures.

        Returns float (n, 3, PATCH, PATCH) in [-1, 1], and bool (n,), whether they may be softened. Places are multiples of FOLD,
        so that patches meet the decoder's pixels.
        """
        for _ in range(max(fresh, 24 - len(self._pictures))):
            self._draw()
        rng = self._rng
        patches, soft = [], []
        for picture, may in rng.choices(self._pictures, k=n):
            top, left = (FOLD * rng.randrange((len(picture) - PATCH) // FOLD + 1) for _ in range(2))
            patch = picture[top : top + PATCH, left : left + PATCH]
            patches.append(patch[:, ::-1] if rng.random() < 0.5 else patch)
            soft.append(may)
        return torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).float() / 127.5 - 1, torch.tensor(soft)


def _uniform(like: Tensor, low: float, high: float) -> Tensor:
    """One number per picture: (B, 1, 1, 1)."""
    return torch.empty(len(like), 1, 1, 1).uniform_(low, high)


def blurred(pictures: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of a width per picture. pictures: (B, 3, H, W); sigma: (B, 1, 1, 1) in pixels, at most 2."""
    reach = 5
    place = torch.arange(-reach, reach + 1.0)
    kernel = torch.exp(-0.5 * (place / sigma.view(-1, 1).clamp(min=0.05)).square())
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
    flat = F.pad(pictures, [reach] * 4, mode="replicate").flatten(0, 1)[None]
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=len(kernel))
    return F.conv2d(flat, kernel[:, None, None, :], groups=len(kernel)).view_as(pictures)


def mottled(pictures: Tensor) -> Tensor:
    """Pictures with the noise of a decoder: clouds of some pixels, and the pattern of a pixel shuffle. (B, 3, H, W), as given."""
    n, _, high, wide = pictures.shape
    strength = _uniform(pictures, 0, 1)
    noise = torch.zeros_like(pictures)
    for cell, most in MOTTLES.items():
        grain = torch.randn(n, 3, high // cell, wide // cell) + torch.randn(n, 1, high // cell, wide // cell)
        noise += F.interpolate(grain, size=(high, wide), mode="bilinear") * _uniform(pictures, 0, most)
    pattern = torch.randn(n, 3, FOLD, FOLD).tile(1, 1, high // FOLD, wide // FOLD)
    where = F.interpolate(torch.rand(n, 1, high // FOLD, wide // FOLD), size=(high, wide), mode="bilinear")
    return pictures + strength * (noise + pattern * where * _uniform(pictures, 0, 0.06))


def folded(pictures: Tensor) -> Tensor:
    """Pictures with the steps of a decoder that paints FOLD x FOLD pixels at a time: as given and blocks of means, mixed.

    pictures: (B, 3, H, W), as returned.
    """
    cell = random.choice((2, FOLD))
    steps = F.interpolate(F.avg_pool2d(pictures, cell), scale_factor=float(cell), mode="nearest")
    return torch.lerp(pictures, steps, _uniform(pictures, -0.5, 0.8).clamp(min=0))


def softened(fine: Tensor) -> Tensor:
    """What a decoder might draw of these patches: float (B, 3, H, W) -> (B, 3, H / 2, W / 2), in [-1, 1]."""
    small = F.avg_pool2d(fine, 4)
    ghost = torch.roll(small, (random.randint(-1, 1), random.randint(-2, 2)), (2, 3))
    small = torch.lerp(small, ghost, (0.5 * _uniform(small, -1, 1)).clamp(min=0))
    small = mottled(folded(blurred(small, _uniform(small, *BLURS)))).clamp(-1, 1)
    # antialias: this bicubic kernel is the one with which the codec enlarges
    return F.interpolate(small, scale_factor=2.0, mode="bicubic", antialias=True).clamp(-1, 1)


def inputs_of(fine: Tensor, soft: Tensor, true_share: float = TRUE_SHARE) -> Tensor:
    """Inputs for target patches (B, 3, H, W), soft: bool (B,). Returns float (B, 3, H / 2, W / 2), as of 8-bit pixels, in [-1, 1]."""
    halved = F.avg_pool2d(fine, 2)
    halved = halved + torch.randn_like(halved) * _uniform(halved, -0.04, 0.03).clamp(min=0)
    true = (torch.rand(len(fine)) < true_share).logical_or(~soft)[:, None, None, None]
    return ((torch.where(true, halved, softened(fine)).clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def enhancer_loss(made: Tensor, fine: Tensor) -> Tensor:
    """L1, and L1 of the differences between neighbours, which keeps edges sharp. Both (B, 3, H, W)."""
    error = made.float() - fine
    return error.abs().mean() + 0.5 * (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean())


class Trainer(Averaged):
    """Model, average and optimizer."""

    model: Enhancer

    def __init__(self, settings: Settings) -> None:
        torch.manual_seed(settings.seed + 53)
        sizes = {name: int(settings.options[name]) for name in ("width", "blocks") if name in settings.options}
        self.true_share = float(settings.options.get("true", TRUE_SHARE))
        self.config = EnhancerConfig(**sizes)
        self.device = settings.device
        model = Enhancer(self.config).to(self.device, memory_format=torch.channels_last)
        if "from" in settings.options:
            part = checkpoints.Family.open(Path(settings.options["from"])).component("image_enhancer")
            checkpoints.load_strict(model, part.state(), part.role)
        super().__init__(model, torch.optim.Adam(model.parameters(), lr=RATE, betas=(0.9, 0.98)), EMA)

    def step(self, fine: Tensor, soft: Tensor, factor: float) -> dict[str, float]:
        """Learn from target patches (B, 3, H, W), soft: bool (B,). Returns the loss, and that of bilinear enlargement."""
        given, fine = inputs_of(fine, soft, self.true_share).to(self.device), fine.to(self.device)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16):
            made = self.model(given.contiguous(memory_format=torch.channels_last))
        loss = enhancer_loss(made, fine)
        self.update(loss, RATE * factor, 0.5)
        plain = F.interpolate(given, scale_factor=2, mode="bilinear", align_corners=False)
        return {"loss": loss.item(), "bilinear": enhancer_loss(plain, fine).item()}

    def export(self, settings: Settings) -> None:
        """The averaged weights as role image_enhancer."""
        checkpoints.export(settings.family, "image_enhancer", {"kind": "subpixel", **self.config.to_json()}, self.average)


def train(settings: Settings) -> None:
    """Train within the budget and export image_enhancer."""
    run = Run("picture-enhancer", settings)
    trainer = Trainer(settings)
    state = run.resume()
    if state:
        trainer.restore(state)
    random.seed(settings.seed + trainer.steps)
    drawings = Drawings(settings.seed + trainer.steps)
    means: dict[str, float] = {}
    while run.going:
        fine, soft = drawings.sample(BATCH, int(trainer.steps % EVERY == 0))
        for key, value in trainer.step(fine, soft, cosine(run.progress)).items():
            means[key] = means.get(key, value) * 0.98 + 0.02 * value
        if trainer.steps % 50 == 0:
            run.log(step=trainer.steps, **means)
        if run.due():
            run.save(trainer.state())
            trainer.export(settings)
    run.save(trainer.state())
    trainer.export(settings)
    run.plot()
