"""Figures of pictures: captions are read as they are written, and the codec's interfaces hold with untrained weights."""

from __future__ import annotations

import random

import numpy as np
import pytest

from anygpt_demo.eval.pictures import ATTRIBUTES, cider, marks, nouns_in, picture_to_text
from anygpt_demo.synth.pictures import evaluation_batch, evaluation_scenes
from anygpt_demo.synth.scenes import describe, sample_scene
from anygpt_demo.synth.world import NOUNS, noun_index


def test_every_noun_is_found_in_its_caption() -> None:
    rng = random.Random(3)
    for _ in range(600):
        scene = sample_scene(rng)
        caption = describe(scene, rng, "full")
        assert {thing.noun for thing in scene.things} <= nouns_in(caption), caption


def test_true_captions_score_best() -> None:
    rng = random.Random(4)
    scenes = evaluation_scenes(40, seed=6)
    captions = [describe(scene, rng, "full") for scene in scenes]
    references = [[describe(scene, rng, "full") for _ in range(5)] for scene in scenes]
    found = picture_to_text(captions, scenes, references)
    assert found["object_f1"]["value"] > 0.97 and found["place"]["value"] == 1
    assert found["cider"]["value"] > 3 * found["cider"]["floor"]
    assert np.allclose(cider(captions, [[caption] for caption in captions]), 10)


def test_marks_of_a_perfect_verdict() -> None:
    from anygpt_demo.eval.judges_pictures import Verdict, layout

    batch = evaluation_batch(evaluation_scenes(20, seed=7))
    nouns = np.zeros((20, len(NOUNS)), np.float32)
    centres = np.zeros((20, len(NOUNS), 2), np.float32)
    for row, scene in enumerate(batch.scenes):
        for thing in scene.things:
            nouns[row, noun_index(thing.noun)] = 1
            centres[row, noun_index(thing.noun)] = (thing.box.x, thing.box.y)
    verdict = Verdict(
        nouns, centres, batch.place, batch.time, batch.style, batch.count, np.array([layout(scene) for scene in batch.scenes])
    )
    found = marks(verdict, batch.scenes)
    assert set(found) == set(ATTRIBUTES)
    assert all(value == 1 for name in ATTRIBUTES for value, weight in found[name] if weight)


@pytest.fixture(scope="module")
def codec():  # type: ignore[no-untyped-def]
    """An untrained picture codec of the small family's shape."""
    import torch

    from anygpt_demo.codecs.image import MODALITY, ImageCodec
    from anygpt_demo.models.flow import FlowConfig, FlowDecoder
    from anygpt_demo.models.seed import SeedConfig, SeedTokenizer

    torch.manual_seed(0)
    sizes = dict(vit_width=32, vit_depth=1, vit_heads=2, width=32, layers=1, heads=2, intermediate=32, code_dim=8, codebook=64)
    config = SeedConfig(
        image_size=128, patch_size=16, patch_embed="conv", stem=(8, 8, 8), decode_depth=1, decode_heads=2, image_down=(8, 8, 4),
        embedding=16, text_decoder=False, vit_mlp_ratio=2.0, cross_every=1, **sizes,
    )  # fmt: skip
    decoder = FlowDecoder(
        FlowConfig(code=8, restored=32, embedding=16, unet_widths=(16, 16, 16), widths=(16, 16, 16), time=16, patch_channels=8, hidden=32)
    )
    torch.nn.init.normal_(decoder.unet.leave.weight, std=0.2)  # starts at zero, which would hide the noise
    from dataclasses import replace

    return ImageCodec(SeedTokenizer(config).eval(), decoder.eval(), replace(MODALITY, codebook=64))


def test_codec_round_trip(codec) -> None:  # type: ignore[no-untyped-def]
    from anygpt_demo.media import Picture

    rgb = np.random.default_rng(0).integers(0, 256, (90, 140, 3), np.uint8)
    codes = codec.encode(Picture(rgb))
    assert codes.shape == (32, 1) and codes.dtype == np.int64 and codes.min() >= 0 and codes.max() < 64
    first, second, other = (codec.decode(codes, seed=seed).rgb for seed in (1, 1, 2))
    assert first.shape == (256, 256, 3) and first.dtype == np.uint8
    assert np.array_equal(first, second) and not np.array_equal(first, other)
    previews = [picture.rgb for picture in codec.previews(codes, 1)]
    assert len(previews) == 8 and np.array_equal(previews[-1], first)
    (streamed,) = codec.stream(iter(codes), seed=1)
    assert np.array_equal(streamed.rgb, first)


def test_wrong_codes_are_refused(codec) -> None:  # type: ignore[no-untyped-def]
    for codes in (np.zeros((31, 1), np.int64), np.full((32, 1), 64), np.full((32, 1), -1)):
        with pytest.raises(ValueError, match="32 codes"):
            codec.decode(codes)
