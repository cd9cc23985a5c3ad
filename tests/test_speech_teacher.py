"""The phone teacher's parts: filters, alignment, distances."""

from __future__ import annotations

import numpy as np
import torch

from anygpt_demo.synth.speech import PHONES
from anygpt_demo.train.speech_teacher import MELS, PhoneNet, align, augment, collapse, edit_distance, log_mel, mel_filters


def test_the_filters_cover_the_band_and_a_tone_lands_in_one_place() -> None:
    filters = mel_filters()
    assert filters.shape == (MELS, 257)
    assert (filters >= 0).all() and (filters.sum(1) > 0).all()
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(3200) / 16_000)
    table = log_mel(tone, filters)
    assert table.shape == (20, MELS)
    centres = (filters * torch.linspace(0, 8000, 257)).sum(1) / filters.sum(1)
    assert abs(float(centres[int(table[10].argmax())]) - 1000) < 80


def test_alignment_finds_the_borders() -> None:
    truth = np.array([0, 0, 5, 5, 5, 9, 9, 0, 7, 7, 0])
    table = np.full((len(truth), len(PHONES)), -6.0, np.float32)
    table[np.arange(len(truth)), truth] = -0.1
    table[6] = -1.0  # one frame says nothing
    path = align(table, [5, 9, 7])
    assert path is not None
    assert collapse(path) == [5, 9, 7]
    assert (path == truth).sum() >= len(truth) - 1
    assert align(table, [5] * 20) is None
    assert align(table, []) is None


def test_edit_distance() -> None:
    assert edit_distance([1, 2, 3], [1, 2, 3]) == 0
    assert edit_distance([], [1, 2]) == 2
    assert edit_distance([1, 2, 3], [2, 3, 4]) == 2


def test_the_network_keeps_the_frame_rate() -> None:
    net = PhoneNet(width=16, depth=1)
    assert net(torch.randn(2, 40, MELS)).shape == (2, 20, len(PHONES))


def test_augmentation_is_repeatable_and_finite() -> None:
    mel = torch.randn(60, MELS)
    torch.manual_seed(0)
    first = augment(mel.clone(), np.random.default_rng(4))
    again = augment(mel.clone(), np.random.default_rng(4))
    assert torch.equal(first, again)
    assert torch.isfinite(first).all()
    assert len(first) % 2 == 0 and 46 <= len(first) <= 74
