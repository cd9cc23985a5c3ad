"""Parity of SpeechTokenizer with the official code: same keys, same codes, same waves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from anygpt_demo.models.speechtokenizer import SpeechTokenizer, with_training_buffers, without_training_buffers
from tests.golden import places


def cases() -> list[Path]:
    """Every NAME.npz with a NAME.config.json: of the reference data, else of the subset kept beside the tests."""
    return sorted(path for path in places.part("speechtokenizer").glob("*.npz") if path.with_suffix(".config.json").is_file())


@pytest.fixture(params=cases(), ids=lambda path: path.stem)
def case(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def build(case: Path) -> SpeechTokenizer:
    config = json.loads(case.with_suffix(".config.json").read_text())
    model = SpeechTokenizer(config)
    official = case.with_suffix(".ckpt.dev")
    if official.is_file():
        state = torch.load(official, weights_only=True)
    else:
        from safetensors.torch import load_file

        state = load_file(case.with_suffix(".safetensors"))
    model.load_state_dict(state, strict=True)
    return model.eval()


def close(actual: torch.Tensor, expected: np.ndarray, atol: float = 2e-5) -> None:
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-4, atol=atol)


@torch.inference_mode()
def test_every_input_gives_the_official_codes_and_wave(case: Path) -> None:
    model, data = build(case), np.load(case)
    numbers = [key.removeprefix("wav_") for key in data if key.startswith("wav_")]
    assert numbers
    for number in numbers:
        wav = torch.from_numpy(data[f"wav_{number}"])
        codes = model.encode(wav)
        np.testing.assert_array_equal(codes.numpy(), data[f"codes_{number}"])
        close(model.decode(codes), data[f"dec_{number}"])
        if f"enc_{number}" in data:
            close(model.encoder(wav), data[f"enc_{number}"], atol=1e-5)


@torch.inference_mode()
def test_partial_levels(case: Path) -> None:
    model, data = build(case), np.load(case)
    wav, codes = torch.from_numpy(data["wav_0"]), torch.from_numpy(data["codes_0"].astype(np.int64))
    np.testing.assert_array_equal(model.encode(wav, n_q=3).numpy(), data["codes_0_nq3"])
    np.testing.assert_array_equal(model.encode(wav, st=2).numpy(), data["codes_0_st2"])
    close(model.decode(codes[:1]), data["dec_0_layer0_only"])
    close(model.decode(codes[1:], st=1), data["dec_0_st1"])
    close(model.quantizer.decode(codes), data["rvq_sum_0"], atol=1e-5)
    close(model.decode(torch.from_numpy(data["rand_codes"].astype(np.int64))), data["rand_codes_dec"])


@torch.inference_mode()
def test_features_and_forward(case: Path) -> None:
    model, data = build(case), np.load(case)
    wav = torch.from_numpy(data["wav_0"])
    first, fourth = model.forward_feature(wav, [0, 3])
    close(first, data["feat_layer0_0"], atol=1e-5)
    close(fourth, data["feat_layer3_0"], atol=1e-5)
    out, semantic = model(wav)
    close(out, data["forward_wav_0"])
    close(semantic, data["forward_semantic_0"], atol=1e-5)


def test_training_buffers_can_be_dropped_and_rebuilt(case: Path) -> None:
    model = build(case)
    light = without_training_buffers(model.state_dict())
    assert not any("embed_avg" in key for key in light)
    model.load_state_dict(with_training_buffers(light), strict=True)


@pytest.mark.parametrize("name", ["speechtokenizer_snake_anygpt", "speechtokenizer_elu_hubert_avg"])
def test_full_size_has_exactly_the_published_keys(name: str) -> None:
    manifest = places.manifest(name)
    with torch.device("meta"):
        model = SpeechTokenizer(manifest["config"])
    own = {key: [list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in model.state_dict().items()}
    assert own == manifest["state_dict"]
    assert sum(value.numel() for value in model.parameters()) == manifest["n_params"]
