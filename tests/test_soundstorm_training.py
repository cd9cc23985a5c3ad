"""The voice model's training parts."""

from __future__ import annotations

import numpy as np
import torch

from anygpt_demo.models.soundstorm import SoundStorm
from anygpt_demo.train.soundstorm import FRAMES, LEVEL_SHARES, SOURCE_SHARES, Clip, Feeder, code_loss, masked_loss

TINY = {"codebook_size": 16, "num_quantizers": 7, "conformer": {"dim": 16, "depth": 1, "heads": 2, "dim_head": 8, "conv_kernel_size": 5}}


def test_shares_add_up() -> None:
    assert abs(sum(LEVEL_SHARES) - 1) < 1e-6
    assert abs(sum(SOURCE_SHARES.values()) - 1) < 1e-6
    assert sum(share for name, share in SOURCE_SHARES.items() if name != "synthetic") >= 0.5


def test_the_network_never_sees_what_it_must_predict() -> None:
    torch.manual_seed(0)
    model = SoundStorm(TINY).eval()
    codes = torch.randint(0, 16, (2, 30, 8))
    seen: list[torch.Tensor] = []
    hidden = model.net.hidden
    model.net.hidden = lambda acoustic, condition: (seen.append(acoustic.clone()), hidden(acoustic, condition))[1]  # type: ignore[method-assign]
    _, loss, accuracy = masked_loss(model, codes, 10, 2, torch.ones(2))
    fed = seen[0]
    assert torch.equal(fed[:, :10], codes[:, :10, 1:])  # the prompt is whole
    assert torch.equal(fed[:, 10:, :2], codes[:, 10:, 1:3])  # lower levels are given
    assert (fed[:, 10:, 2:] == model.mask_id).all()
    assert torch.isfinite(loss) and 0 <= float(accuracy) <= 1


def test_one_mask_at_least() -> None:
    model = SoundStorm(TINY).eval()
    total, loss, _ = masked_loss(model, torch.randint(0, 16, (2, 12, 8)), 4, 0, torch.full((2,), 1e-6), higher=0.5)
    assert torch.isfinite(loss) and bool(total.detach() > loss)


def test_examples_join_clips_of_one_voice_only() -> None:
    def clip(value: int, voice: str) -> Clip:
        return Clip(np.full((120, 8), value, np.int16), voice)

    sources = {name: [] for name in SOURCE_SHARES}
    sources["synthetic"] = [clip(1, "a"), clip(2, "a"), clip(7, "b"), clip(8, "b")]
    sources["pico_wake"] = [clip(11, ""), clip(12, "")]
    feeder = Feeder(sources, [0])
    together = [set(np.unique(feeder.example()).tolist()) for _ in range(80)]
    assert all(found <= {1, 2} or found <= {7, 8} or found in ({11}, {12}) for found in together)
    assert {1, 2} in together
    assert feeder.batch().shape[1:] == (FRAMES, 8)


def test_the_expected_vector_counts_near_misses_as_small() -> None:
    table = torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0]])
    truth = torch.tensor([0])
    near, far = torch.tensor([[-9.0, 9.0, -9.0]]), torch.tensor([[-9.0, -9.0, 9.0]])
    (near_entropy, near_total), (far_entropy, far_total) = code_loss(near, truth, table), code_loss(far, truth, table)
    assert torch.allclose(near_entropy, far_entropy)
    assert bool(near_total < far_total)
    assert torch.equal(*code_loss(near, truth, None))
