"""Training of the picture decoder: what its perceptual loss hears of a style, and what it moves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from anygpt_demo.checkpoints import MINI
from anygpt_demo.synth.pictures import evaluation_batch, evaluation_scenes
from anygpt_demo.train.picture_codes import load_tokenizer
from anygpt_demo.train.picture_decoder import Perception


@pytest.fixture(scope="module")
def perception() -> Perception:
    return Perception(load_tokenizer(MINI).requires_grad_(False))


def drawn(style: str) -> Tensor:
    """The same four scenes in a style, (4, 3, 128, 128) in [-1, 1]."""
    scenes = [replace(scene, style=style) for scene in evaluation_scenes(4, seed=3)]
    return torch.from_numpy(evaluation_batch(scenes).pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_a_picture_is_no_distance_from_itself(perception: Perception) -> None:
    picture = drawn("plain")
    assert perception(picture, picture).item() == 0


def test_a_blur_is_further_than_it_is_in_pixels(perception: Perception) -> None:
    """Pixels forgive a blur more than a shift by one; the encoder sees that a blur is another style."""
    true = drawn("pixel art")
    blurred = torch.nn.functional.avg_pool2d(true, 9, 1, 4, count_include_pad=False)
    shifted = true.roll(2, 3)
    pixels = [(other - true).square().mean().item() for other in (blurred, shifted)]
    seen = [perception(other, true).item() for other in (blurred, shifted)]
    assert seen[0] / seen[1] > 1.2 * pixels[0] / pixels[1]


def test_gradients_reach_the_picture_alone(perception: Perception) -> None:
    true = drawn("comic")
    made = (0.5 * true).requires_grad_()
    perception(made, true).backward()
    assert made.grad is not None and made.grad.abs().sum() > 0
    assert all(value.grad is None for value in perception.parameters())
