"""A stock of drawn training scenes on disk, shared by the picture tokenizer, the picture decoder and the language model.

runs/data/pictures/: pixels.npy uint8 (n, 128, 128, 3), labels.npz (fields of synth.pictures.Batch), scenes.jsonl
(one scene with captions per line). Rows of all files correspond. features.npy is added by the stage picture-tokenizer.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from anygpt_demo.synth.pictures import Batch, Studio, describe
from anygpt_demo.synth.scenes import Box, Scene, Thing
from anygpt_demo.synth.world import STYLES
from anygpt_demo.train.picture_stem import GREY_STYLES, cell_colours

CHUNK = 500
LABELS = ("place", "time", "style", "count", "nouns", "colours", "boxes", "grid")
TRUE_SHARE = 0.3  # drawn at 256 px with the true filters and reduced
STOCK = 40_000
STOCK_SEED = 77  # of the stock with seed 0


def scene_to_json(scene: Scene) -> dict[str, Any]:
    """Plain values of a scene."""
    return asdict(scene)


def scene_from_json(values: dict[str, Any]) -> Scene:
    """The inverse of scene_to_json, also for rows with further fields."""
    things = tuple(
        Thing(thing["noun"], tuple(Box(**box) for box in thing["boxes"]), thing["colour"], thing["size"]) for thing in values["things"]
    )
    fields = {name: values[name] for name in Scene.__dataclass_fields__ if name in values}
    return Scene(**(fields | {"things": things}))


def visible(scene: Scene) -> Scene:
    """The scene without the colours that its style does not show."""
    if scene.style not in {STYLES[number].name for number in GREY_STYLES}:
        return scene
    return replace(scene, things=tuple(replace(thing, colour="") for thing in scene.things))


def row_of(scene: Scene, rng: random.Random, captions: int = 3) -> dict[str, Any]:
    """One line of scenes.jsonl: the scene, different captions, and the nouns in the tokenizer's slot order."""
    scene = visible(scene)
    found: list[str] = [describe(scene, rng, "full")]
    for _ in range(8):
        caption = describe(scene, rng)
        if caption not in found and len(found) < captions:
            found.append(caption)
    return scene_to_json(scene) | {"captions": found, "slots": [thing.noun for thing, _ in scene.slots()]}


def labels_of(batch: Batch) -> dict[str, np.ndarray]:
    """The label arrays of a batch, with the colour of each cell."""
    return {name: getattr(batch, name) for name in LABELS} | {"cell_colours": cell_colours(batch)}


def make_stock(folder: Path, seed: int = 0, size: int = STOCK) -> None:
    """Draw the stock unless it is there. Interrupted runs begin again (about 3 CPU minutes)."""
    if (folder / "labels.npz").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    studio = Studio(STOCK_SEED + seed, pool=3000, true_share=TRUE_SHARE)
    words = random.Random(STOCK_SEED + seed)
    pixels = np.lib.format.open_memmap(folder / "pixels.npy", "w+", np.uint8, (size, 128, 128, 3))
    labels: list[dict[str, np.ndarray]] = []
    with (folder / "scenes.jsonl").open("w", encoding="utf-8") as lines:
        for start in range(0, size, CHUNK):
            batch = studio.batch(min(CHUNK, size - start))
            pixels[start : start + len(batch)] = batch.pixels
            labels.append(labels_of(batch))
            for scene in batch.scenes:
                lines.write(json.dumps(row_of(scene, words), ensure_ascii=False) + "\n")
    pixels.flush()
    whole = {name: np.concatenate([part[name] for part in labels]) for name in labels[0]}
    np.savez(folder / "labels.npz", **whole)  # last: its presence says that the stock is complete


def load_labels(folder: Path) -> dict[str, np.ndarray]:
    """All label arrays of the stock."""
    with np.load(folder / "labels.npz") as file:
        return {name: file[name] for name in file.files}


def load_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a scenes.jsonl."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
