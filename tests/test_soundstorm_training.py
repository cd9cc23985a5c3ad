"""The voice model's training parts."""

from __future__ import annotations

import numpy as np
import torch

from anygpt_demo.models.soundstorm import SoundStorm
from anygpt_demo.models.speechtokenizer import SpeechTokenizer
from anygpt_demo.train.soundstorm import (
    FRAMES,
    LEVEL_SHARES,
    NEAR,
    SOURCE_SHARES,
    Aids,
    Clip,
    Feeder,
    code_loss,
    disguise,
    masked_loss,
    pitch_classes,
)

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


def test_onward_the_frames_after_a_moment_are_masked_and_the_nearest_count() -> None:
    torch.manual_seed(0)
    model = SoundStorm(TINY).eval()
    codes = torch.randint(0, 16, (2, 100, 8))
    seen: list[torch.Tensor] = []
    hidden, logits = model.net.hidden, model.net.level_logits
    asked: list[int] = []
    model.net.hidden = lambda acoustic, condition: (seen.append(acoustic.clone()), hidden(acoustic, condition))[1]  # type: ignore[method-assign]
    model.net.level_logits = lambda rows, level: (asked.append(len(rows)), logits(rows, level))[1]  # type: ignore[method-assign]
    masked_loss(model, codes, 10, 0, torch.full((2,), 0.5), onward=torch.tensor([True, True]))
    assert torch.equal(seen[0][:, :55, 0], codes[:, :55, 1])
    assert (seen[0][:, 55:, 0] == model.mask_id).all()
    assert asked == [2 * NEAR]


def test_a_disguise_changes_what_is_heard_and_keeps_what_is_spoken() -> None:
    torch.manual_seed(0)
    small = {"n_filters": 4, "strides": [8, 5, 4, 2], "dimension": 16, "semantic_dimension": 16, "bidirectional": True, "dilation_base": 2}
    small |= {"residual_kernel_size": 3, "n_residual_layers": 1, "lstm_layers": 1, "activation": "ELU", "codebook_size": 64, "n_q": 8}
    tokenizer = SpeechTokenizer(small | {"sample_rate": 16000}).eval()
    latent = tokenizer.encoder(torch.randn(1, 1, 16000)).detach()
    for book in tokenizer.quantizer.codebooks:
        book.embed.copy_(torch.randn(64, 16) * latent.std() * 0.5)
    wave = (0.3 * np.sin(np.arange(9600) * 0.06) * np.linspace(0, 1, 9600)).astype(np.float32)
    plain = tokenizer.encode(torch.from_numpy(wave)[None, None])[:, 0].T
    assert np.array_equal(disguise(wave, 1.0, tokenizer), plain.numpy())
    found = torch.from_numpy(disguise(wave, 1.3, tokenizer).astype(np.int64))
    assert found.shape == (30, 8)
    truth = tokenizer.encoder(torch.from_numpy(wave)[None, None])
    left = (truth - tokenizer.quantizer.decode(found[:, :1].T[:, None])).transpose(1, 2)[0]
    assert torch.equal(found[:, 1], tokenizer.quantizer.codebooks[1].nearest(left))  # the next level codes what its own first level left


def test_the_pitch_of_a_voice_is_found() -> None:
    found = {}
    for hertz in (80.0, 120.0, 250.0):
        wave = 0.1 * sum(np.sin(2 * np.pi * hertz * k * np.arange(16000) / 16000) / k for k in range(1, 9))
        found[hertz] = float(np.median(pitch_classes(wave.astype(np.float32), 50)))
        exact = 1 + 40 * np.log(hertz / 65) / np.log(400 / 65)
        assert abs(found[hertz] - exact) < 1.5
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    assert (pitch_classes(noise, 50) == 0).mean() > 0.9 and (pitch_classes(0 * noise, 50) == 0).all()


def test_unknown_pitch_teaches_nothing() -> None:
    aids = Aids(8, 4)
    hidden, voice = torch.randn(2, 5, 8), torch.randn(2, 4)
    pitch = torch.full((2, 5), -1)
    pitch[0, 0] = 3
    known, error = aids.losses(hidden, pitch, voice)
    assert torch.isfinite(known) and torch.isfinite(error)
    hidden[1] = 9.0
    assert torch.equal(aids.losses(hidden, pitch, voice)[0], known)
    assert float(aids.losses(hidden, torch.full((2, 5), -1), voice)[0]) == 0


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
    together = [set(np.unique(feeder.example()[0]).tolist()) for _ in range(80)]
    assert all(found <= {1, 2} or found <= {7, 8} or found in ({11}, {12}) for found in together)
    assert {1, 2} in together
    assert feeder.batch()[0].shape[1:] == (FRAMES, 8)


def test_only_what_lies_behind_the_prompt_is_disguised() -> None:
    clip = Clip(np.full((300, 8), 1, np.int16), "a", np.full((300, 8), 2, np.int16))
    feeder = Feeder({name: [clip] if name == "synthetic" else [] for name in SOURCE_SHARES}, [0])
    examples = [feeder.example(100)[0] for _ in range(40)]
    assert all((feeder.example(100)[1] == 1).all() for _ in range(20))  # what the voice is read from
    assert all((one[:100] == 1).all() for one in examples)
    assert {int(one[150, 0]) for one in examples} == {1, 2}


def test_the_expected_vector_counts_near_misses_as_small() -> None:
    table = torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0]])
    truth = torch.tensor([0])
    near, far = torch.tensor([[-9.0, 9.0, -9.0]]), torch.tensor([[-9.0, -9.0, 9.0]])
    (near_entropy, near_total), (far_entropy, far_total) = code_loss(near, truth, table), code_loss(far, truth, table)
    assert torch.allclose(near_entropy, far_entropy)
    assert bool(near_total < far_total)
    assert torch.equal(*code_loss(near, truth, None))
