"""Figures of picture enhancement: nearness to a drawing of 512 px, what the judge still sees, and what it costs.

    python -m anygpt_demo.eval.enhancer --family checkpoints/mini --grid grid.png

`psnr_db` and `ssim`: a true picture of 256 px (a drawing of 512 px, halved by boxes) enhanced, against that drawing; `floor` is
bicubic enlargement, and `nearer` the share of pictures in which enhancement has the higher PSNR. `object`, `place`, `time`,
`style`: the judge's hits in enhanced copies by the decoder, as in eval/pictures.py; `plain` is the share in the same copies of
256 px. `seconds`: CPU time of one picture on one thread. Half of the scenes hold things at places where training never shows
them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from anygpt_demo.checkpoints import Family
from anygpt_demo.codecs.base import Rendering
from anygpt_demo.codecs.image import ImageCodec
from anygpt_demo.eval.judges_pictures import load
from anygpt_demo.eval.metrics import figure
from anygpt_demo.eval.pictures import shares
from anygpt_demo.media import Picture
from anygpt_demo.synth.pictures import Scene, evaluation_scenes, render, render_fine

SEED = 13_579  # of the scenes
SEEN = ("object", "place", "time", "style")


def scenes_of(n: int) -> list[Scene]:
    """n scenes, every second one with a pair that training never shows."""
    return evaluation_scenes(n - n // 2, SEED) + evaluation_scenes(n // 2, SEED, heldout=True)


def halved(rgb: np.ndarray) -> np.ndarray:
    """uint8 (2h, 2w, 3) -> (h, w, 3), by boxes."""
    return np.asarray(Image.fromarray(rgb).reduce(2))


def bicubic(rgb: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3) -> (2h, 2w, 3)."""
    return np.asarray(Image.fromarray(rgb).resize((2 * rgb.shape[1], 2 * rgb.shape[0]), Image.Resampling.BICUBIC))


def psnr_db(made: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures of one shape, at most 100 dB."""
    error = np.mean((made.astype(np.float64) - truth) ** 2)
    return float(10 * np.log10(255**2 / max(error, 255**2 * 1e-10)))


def ssim(made: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity of the luma of two uint8 pictures (h, w, 3), Gaussian window of 11 px (Wang et al. 2004)."""
    window = torch.exp(-0.5 * (torch.arange(-5.0, 6.0) / 1.5).square()).double()
    window = window / window.sum()
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    x, y = (torch.from_numpy(np.array(rgb)).double() @ luma for rgb in (made, truth))
    maps = torch.stack([x, y, x * x, y * y, x * y])[:, None]
    maps = F.conv2d(F.conv2d(maps, window.view(1, 1, 11, 1)), window.view(1, 1, 1, 11))[:, 0]
    mean_x, mean_y = maps[0], maps[1]
    spread_x, spread_y, shared = maps[2] - mean_x**2, maps[3] - mean_y**2, maps[4] - mean_x * mean_y
    low, high = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    alike = (2 * mean_x * mean_y + low) * (2 * shared + high) / ((mean_x**2 + mean_y**2 + low) * (spread_x + spread_y + high))
    return float(alike.mean())


def nearness(codec: ImageCodec, scenes: Sequence[Scene]) -> Iterator[tuple[str, dict[str, Any]]]:
    """psnr_db, ssim, nearer and seconds of true pictures enhanced."""
    found: dict[str, list[float]] = {"psnr_db": [], "ssim": [], "nearer": [], "seconds": []}
    plain: dict[str, list[float]] = {"psnr_db": [], "ssim": []}
    for scene in scenes:
        truth = render_fine(scene)
        given = halved(truth)
        start = time.process_time()
        made = codec.enhanced(Picture(given)).rgb
        found["seconds"].append(time.process_time() - start)
        for name, measure in (("psnr_db", psnr_db), ("ssim", ssim)):
            found[name].append(measure(made, truth))
            plain[name].append(measure(bicubic(given), truth))
        found["nearer"].append(float(found["psnr_db"][-1] > plain["psnr_db"][-1]))
    for name, values in found.items():
        yield name, figure(values, floor=float(np.mean(plain[name])) if name in plain else None)


def evaluate(family: Family, judge_path: Path, n: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("picture_enhance.psnr_db", figure), ... Raises BadCheckpoint if the family has no enhancer."""
    codec, judge, scenes = ImageCodec.load(family), load(judge_path), scenes_of(n)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        codec.enhanced(render(scenes[0]))  # what is made once is not timed
        for name, value in nearness(codec, scenes):
            yield f"picture_enhance.{name}", value
    finally:
        torch.set_num_threads(threads)
    plain = [codec.decode(codec.encode(render(scene)), seed=number) for number, scene in enumerate(scenes)]
    before = shares(plain, scenes, judge)
    after = shares([codec.enhanced(picture) for picture in plain], scenes, judge)
    for name in SEEN:
        yield f"picture_enhance.{name}", after[name] | {"plain": before[name]["value"]}


def grid(codec: ImageCodec, scenes: Sequence[Scene]) -> Image.Image:
    """A column per scene: true picture enlarged, enhanced, drawn at 512 px; the decoder's copy enlarged, enhanced."""
    columns = []
    fine = codec.tuned(Rendering(enhance=True))
    for number, scene in enumerate(scenes):
        truth = render_fine(scene)
        given, codes = Picture(halved(truth)), codec.encode(render(scene))
        copies = bicubic(codec.decode(codes, seed=number).rgb), fine.decode(codes, seed=number).rgb
        columns.append(np.concatenate([bicubic(given.rgb), codec.enhanced(given).rgb, truth, *copies]))
    return Image.fromarray(np.concatenate(columns, 1))


def main() -> None:
    """Command line: writes the grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", type=Path, default=Path("checkpoints/mini"))
    parser.add_argument("--grid", type=Path, required=True)
    parser.add_argument("--n", type=int, default=6)
    given = parser.parse_args()
    grid(ImageCodec.load(Family.open(given.family)), scenes_of(given.n)).save(given.grid)
    sys.stdout.write(f"{given.grid}\n")


if __name__ == "__main__":
    main()
