"""An independent judge of pictures: a small CNN that reads nouns, place, time, style, count and relation off 128 px.

It is trained on true drawings only (own seed, own widths), never against a generator, and kept out of the family.

    python -m anygpt_demo.eval.judges_pictures --budget 10m        # trains or continues runs/judge, writes checkpoints/judges
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anygpt_demo.eval.metrics import JUDGES, load_judge, save_judge
from anygpt_demo.synth.pictures import BACKGROUND, UNSURE, Batch, Scene, Studio
from anygpt_demo.synth.world import NOUNS, PLACES, STYLES, TIMES
from anygpt_demo.train.loop import Run, Settings, cosine, parse_budget

SEED = 77_001  # training stream of the judge; models under test use other streams
LAYOUTS = ("single", "side by side", "above", "behind")
PATH = JUDGES / "pictures.safetensors"
WIDTHS = (24, 48, 104, 152)


def layout(scene: Scene) -> int:
    """Index into LAYOUTS of what a picture alone can show of a scene's relation."""
    if scene.relation in ("above", "behind"):
        return LAYOUTS.index(scene.relation)
    return 1 if scene.relation else 0


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class _Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(width, width), nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


class Judge(nn.Module):
    """Pixels float (B, 3, 128, 128) in [-1, 1] -> cell classes (B, nouns + 1, 8, 8) and scene logits."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = WIDTHS
        self.trunk = nn.Sequential(
            _conv(3, a, 2), _conv(a, b, 2), _conv(b, c, 2), _Residual(c), _conv(c, d, 2), _Residual(d), _Residual(d)
        )  # fmt: skip
        self.cells = nn.Conv2d(d, len(NOUNS) + 1, 1)
        self.sizes = (len(PLACES), len(TIMES), len(STYLES), 4, len(LAYOUTS))  # place, time, style, count 0..3, layout
        self.scene = nn.Sequential(nn.Linear(3 * d, 160), nn.ReLU(), nn.Linear(160, sum(self.sizes)))

    def forward(self, pixels: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits of every cell, and of place, time, style, count and layout."""
        features = self.trunk(pixels.contiguous(memory_format=torch.channels_last))
        upper, lower = features[:, :, :4].mean((2, 3)), features[:, :, 4:].mean((2, 3))
        pooled = torch.cat([upper, lower, features.amax((2, 3))], 1)
        return self.cells(features).float(), self.scene(pooled).float().split(self.sizes, 1)


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (n, 128, 128, 3) -> float32 (n, 3, 128, 128) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


@dataclass(frozen=True)
class Verdict:
    """What the judge saw in n pictures."""

    nouns: np.ndarray  # float32 (n, nouns): probability of the most certain cell
    centres: np.ndarray  # float32 (n, nouns, 2): x, y of each noun's probability mass, shares of the side
    place: np.ndarray  # int64 (n,)
    time: np.ndarray
    style: np.ndarray
    count: np.ndarray  # 0..3
    layout: np.ndarray  # index into LAYOUTS


@torch.no_grad()
def look(judge: Judge, pixels: np.ndarray, chunk: int = 64) -> Verdict:
    """Judge pictures. pixels: uint8 (n, 128, 128, 3)."""
    nouns, centres, scenes = [], [], []
    axis = (torch.arange(8) + 0.5) / 8
    for start in range(0, len(pixels), chunk):
        cells, scene = judge(to_tensor(pixels[start : start + chunk]))
        shares = cells.softmax(1)[:, :BACKGROUND]
        mass = shares.square().sum((2, 3)).clamp(min=1e-9)  # squared: certain cells count, a haze of small ones does not
        x = (shares.square().sum(2) * axis).sum(2) / mass
        y = (shares.square().sum(3) * axis).sum(2) / mass
        nouns.append(shares.amax((2, 3)))
        centres.append(torch.stack([x, y], 2))
        scenes.append(torch.stack([logits.argmax(1) for logits in scene], 1))
    scene_ids = torch.cat(scenes).numpy()
    return Verdict(torch.cat(nouns).numpy(), torch.cat(centres).numpy(), *scene_ids.T)


def load(path: Path = PATH) -> Judge:
    """The trained judge."""
    judge = Judge()
    judge.load_state_dict(load_judge(path))
    return judge.eval()


def _augment(pixels: Tensor, rng: random.Random) -> Tensor:
    """Brightness, blur, half the resolution or grain: what is shown counts, not how sharply."""
    if rng.random() < 0.4:
        pixels = pixels * rng.uniform(0.85, 1.15) + rng.uniform(-0.1, 0.1)
    if rng.random() < 0.25:
        pixels = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    if rng.random() < 0.2:
        pixels = F.interpolate(F.avg_pool2d(pixels, 2), scale_factor=2, mode="bilinear", align_corners=False)
    if rng.random() < 0.25:
        pixels = pixels + torch.randn_like(pixels) * rng.uniform(0.02, 0.1)
    return pixels


def _loss(judge: Judge, batch: Batch, flip: bool, crowded: bool, rng: random.Random) -> Tensor:
    """Cross-entropies of cells and scene. Count and layout are learned on ordinary scenes only."""
    pixels, grid = to_tensor(batch.pixels), torch.from_numpy(batch.grid)
    if flip:
        pixels, grid = pixels.flip(3), grid.flip(2)
    with torch.autocast("cpu", torch.bfloat16):
        cells, (place, time, style, count, arrangement) = judge(_augment(pixels, rng))
    weight = torch.ones(BACKGROUND + 1)
    weight[BACKGROUND] = 0.15
    loss = F.cross_entropy(cells, grid, weight=weight, ignore_index=UNSURE, label_smoothing=0.02)
    truth = (batch.place, batch.time, batch.style)
    loss = loss + 0.2 * sum(F.cross_entropy(logits, torch.from_numpy(t)) for logits, t in zip((place, time, style), truth, strict=True))
    if not crowded:
        layouts = torch.tensor([layout(scene) for scene in batch.scenes])
        loss = loss + 0.4 * (F.cross_entropy(count, torch.from_numpy(batch.count)) + F.cross_entropy(arrangement, layouts))
    return loss


def train(settings: Settings, path: Path = PATH) -> None:
    """Train within the budget, resumable; the result is written to `path`."""
    run = Run("judge", settings)
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    judge = Judge().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.05)
    step = 0
    if state := run.resume():
        judge.load_state_dict(state["judge"])
        optimizer.load_state_dict(state["optimizer"])
        step = int(state["step"])
    studio = Studio(SEED + step, pool=1200)
    ring: list[tuple[Batch, bool]] = []
    mean = 0.0
    while run.going:
        fresh = len(ring) < 16 or rng.random() < 0.5
        if fresh:
            crowded = rng.random() < 0.6
            ring = [*ring[-63:], (studio.batch(32, float(crowded)), crowded)]
        batch, crowded = ring[-1] if fresh else rng.choice(ring)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * cosine(run.progress)
        loss = _loss(judge, batch, not fresh, crowded, rng)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(judge.parameters(), 2.0)
        optimizer.step()
        step += 1
        mean += (loss.item() - mean) / min(step, 50)
        if step % 100 == 0:
            run.log(loss=mean, step=step)
        if run.due():
            run.save({"judge": judge.state_dict(), "optimizer": optimizer.state_dict(), "step": step})
    run.save({"judge": judge.state_dict(), "optimizer": optimizer.state_dict(), "step": step})
    if not run.stopping:
        save_judge(judge, path)
    run.plot()


def main() -> None:
    """Command line of the judge's training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="10m")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    train(Settings(parse_budget(arguments.budget), arguments.runs))


if __name__ == "__main__":
    main()
