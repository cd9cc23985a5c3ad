"""The drawn world: deterministic, labelled, described in words, and true to its held-out lists."""

from __future__ import annotations

import random

import numpy as np
import pytest

from anygpt_demo.synth import holdout
from anygpt_demo.synth.pictures import (
    BACKGROUND,
    UNSURE,
    Studio,
    evaluation_batch,
    evaluation_scenes,
    render_fine,
    render_rgb,
    sample_scene,
)
from anygpt_demo.synth.scenes import CAPTIONS, REQUESTS, describe, request
from anygpt_demo.synth.world import NOUNS, PLACES, RELATIONS, STYLES, TIMES, noun_index


def test_the_world_is_large_enough() -> None:
    assert len(NOUNS) >= 200 and len(PLACES) >= 10 and len(TIMES) >= 7 and len(STYLES) >= 8 and len(RELATIONS) == 5
    assert len({noun.name for noun in NOUNS}) == len({noun.emoji for noun in NOUNS}) == len(NOUNS)
    assert all(noun.homes and noun.plural for noun in NOUNS)
    assert len(set(CAPTIONS)) >= 10 and len(set(REQUESTS)) >= 10


def test_equal_seeds_give_equal_pixels() -> None:
    scenes = [evaluation_scenes(3, seed=5) for _ in range(2)]
    assert scenes[0] == scenes[1]
    for scene in scenes[0]:
        assert np.array_equal(render_rgb(scene), render_rgb(scene))
    first, second = (Studio(3, pool=4, true_share=0.2).batch(8, 0.5) for _ in range(2))
    assert first.scenes == second.scenes and np.array_equal(first.pixels, second.pixels)
    assert not np.array_equal(first.pixels, Studio(4, pool=4).batch(8, 0.5).pixels)


def test_training_never_shows_what_is_held_out() -> None:
    assert len(holdout.PICTURE_PAIRS) >= 20
    known = {noun.name for noun in NOUNS}, {place.name for place in PLACES}
    assert all(noun in known[0] and place in known[1] for noun, place in holdout.PICTURE_PAIRS)
    rng = random.Random(0)
    for number in range(6000):
        scene = sample_scene(rng, crowded=number % 2 == 0)
        assert all(holdout.picture_allowed(thing.noun, scene.place) for thing in scene.things)
        assert holdout.style_allowed(scene.style, scene.place)
    for _ in range(100):
        scene = sample_scene(rng, heldout=True)
        assert any((thing.noun, scene.place) in holdout.PICTURE_PAIRS for thing in scene.things)


def test_words_name_every_thing_in_order() -> None:
    rng = random.Random(1)
    for _ in range(500):
        scene = sample_scene(rng)
        assert 1 <= len(scene.instances()) <= 3
        for text in (describe(scene, rng), request(scene, rng)):
            lowered = text.lower()
            at = [lowered.find(thing.phrase()) for thing in scene.things]
            assert min(at) >= 0 and at == sorted(at), text


def test_relations_hold() -> None:
    rng = random.Random(2)
    for _ in range(2000):
        scene = sample_scene(rng, kinds=(0, 1, 0))
        first, second = scene.things[0].boxes, scene.things[1].box
        if scene.relation == "left of":
            assert max(box.x for box in first) < second.x
        elif scene.relation == "right of":
            assert min(box.x for box in first) > second.x
        elif scene.relation == "above":
            assert first[0].y < second.y - 0.2
        elif scene.relation == "behind":
            assert first[0].y < second.y


def test_labels_agree_with_the_scenes() -> None:
    batch = evaluation_batch(evaluation_scenes(12, seed=8))
    assert batch.pixels.shape == (12, 128, 128, 3) and batch.pixels.dtype == np.uint8
    for row, scene in enumerate(batch.scenes):
        nouns = [noun_index(thing.noun) for thing, _ in scene.slots()]
        assert sorted(scene.slots(), key=str) == sorted(scene.instances(), key=str)
        assert batch.nouns[row, : len(nouns)].tolist() == nouns and batch.count[row] == len(nouns)
        assert set(batch.nouns[row, len(nouns) :].tolist()) <= {BACKGROUND}
        assert set(np.unique(batch.grid[row]).tolist()) <= {BACKGROUND, UNSURE, *nouns}
        assert batch.mask[row].any()


@pytest.mark.parametrize("style", [style.name for style in STYLES])
def test_every_style_draws_at_both_sizes(style: str) -> None:
    from anygpt_demo.synth.scenes import with_changes

    scene = with_changes(evaluation_scenes(1, seed=9)[0], style=style)
    assert render_rgb(scene).shape == (256, 256, 3) and render_rgb(scene, 64).shape == (64, 64, 3)


@pytest.mark.parametrize("style", [style.name for style in STYLES])
def test_a_fine_drawing_shows_the_same_scene(style: str) -> None:
    from anygpt_demo.synth.scenes import with_changes

    first = [item.name for item in STYLES].index(style)
    for number, scene in enumerate(evaluation_scenes(3, seed=17), first):
        scene = with_changes(scene, style=style, place=PLACES[number % len(PLACES)].name)
        fine = render_fine(scene)
        assert fine.shape == (512, 512, 3) and fine.dtype == np.uint8
        halved = fine.reshape(256, 2, 256, 2, 3).mean((1, 3))
        assert np.abs(halved - render_rgb(scene)).mean() < 8  # lines are finer, nothing has moved
    assert np.array_equal(fine, render_fine(scene))


def test_codes_without_any_thing_are_drawn_as_a_backdrop():
    import torch

    from anygpt_demo.models.flow import Canvas, Condition, FlowConfig

    torch.manual_seed(0)
    config = FlowConfig(nouns=5)
    background = torch.zeros(1, 3, config.nouns + 1)
    background[..., -1] = 1
    condition = Condition(
        things=background,
        boxes=torch.rand(1, 3, 4),
        colours=torch.rand(1, 3, config.colours),
        scene=torch.rand(1, sum(config.scene)),
        thumbnail=torch.rand(1, 3, 8, 8),
        cells=torch.rand(1, config.cells, 8, 8),
        vectors=torch.rand(1, 32, config.vector),
        embedding=torch.rand(1, config.embedding),
    )
    with torch.inference_mode():
        coarse = Canvas(config).eval()(condition).coarse
    assert coarse.shape == (1, 3, 128, 128) and torch.isfinite(coarse).all()
