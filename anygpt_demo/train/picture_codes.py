"""Pictures of the stock as codes, for the language model and the picture decoder.

runs/data/codes/pictures/: codes.u16 (n x 32, little endian), scenes.jsonl (row i belongs to codes i) and the same for
test pictures, test_codes.u16 and test_scenes.jsonl, which training must not touch; "heldout" marks combinations of a
noun and a place that no training picture shows. previous.u16: codes of the same stock by the tokenizer before this one, from
which a language model that knew those begins.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np

from anygpt_demo.checkpoints import Family, load_strict
from anygpt_demo.models.seed import SeedConfig, SeedTokenizer, standardise
from anygpt_demo.synth.pictures import evaluation_batch, evaluation_scenes
from anygpt_demo.train.loop import Settings
from anygpt_demo.train.picture_data import row_of

ORDINARY, HELD_OUT = 800, 200  # test pictures


def load_tokenizer(family: Path) -> SeedTokenizer:
    """The exported tokenizer of a family, float32, on the CPU."""
    component = Family.open(family).component("image_tokenizer")
    model = SeedTokenizer(SeedConfig.from_json(component.config))
    load_strict(model, component.state(), component.role)
    return model


def codes_of_pixels(model: SeedTokenizer, pixels: np.ndarray) -> np.ndarray:
    """uint8 (n, 128, 128, 3) -> uint16 (n, 32), as at run time."""
    parts = [model.encode(standardise(pixels[start : start + 64])).numpy() for start in range(0, len(pixels), 64)]
    return np.concatenate(parts).astype("<u2")


def make_test(model: SeedTokenizer, folder: Path) -> None:
    """True drawings of unseen scenes, the last HELD_OUT of them with held-out combinations."""
    scenes = evaluation_scenes(ORDINARY) + evaluation_scenes(HELD_OUT, heldout=True)
    words = random.Random(1)
    codes = [codes_of_pixels(model, evaluation_batch(scenes[start : start + 100]).pixels) for start in range(0, len(scenes), 100)]
    np.concatenate(codes).tofile(folder / "test_codes.u16")
    with (folder / "test_scenes.jsonl").open("w", encoding="utf-8") as lines:
        for number, scene in enumerate(scenes):
            lines.write(json.dumps(row_of(scene, words) | {"heldout": number >= ORDINARY}, ensure_ascii=False) + "\n")


def make_codes(settings: Settings) -> None:
    """Encode the whole stock and the test pictures with the exported tokenizer."""
    folder = settings.runs / "data" / "codes" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    model = load_tokenizer(settings.family)
    codes = codes_of_pixels(model, np.load(settings.runs / "data" / "pictures" / "pixels.npy", mmap_mode="r"))
    shutil.copyfile(settings.runs / "data" / "pictures" / "scenes.jsonl", folder / "scenes.jsonl")
    draft, whole = folder / "codes.u16.part", folder / "codes.u16"
    codes.tofile(draft)
    if whole.is_file() and whole.read_bytes() != draft.read_bytes():
        whole.replace(folder / "previous.u16")
    draft.replace(whole)  # a reader finds all of it or nothing
    make_test(model, folder)
