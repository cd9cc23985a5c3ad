"""The music codec computes what the official 32 kHz EnCodec computes. The subset beside the tests holds the encoder half only."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import EncodecModel

from anygpt_demo.models import encodec
from tests.golden import places

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
WAVE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(scope="module")
def cases(golden_dir: Path) -> list[Path]:
    found = sorted(path.parent for path in golden_dir.glob("encodec/*/golden.npz"))
    assert found
    return found


@cache
def load(case: Path) -> tuple[EncodecModel, bool]:
    """The model of a case and whether its file has the decoder."""
    state = encodec.with_training_buffers(torch.load(case / "pytorch_model.bin", weights_only=True))
    model = encodec.build(json.loads((case / "config.json").read_text())).eval()
    report = model.load_state_dict(state, strict=False)
    whole = any(key.startswith("decoder.") for key in state)
    assert not report.unexpected_keys
    assert not [key for key in report.missing_keys if whole or not key.startswith("decoder.")]
    return model, whole


def numbers(golden: np.lib.npyio.NpzFile, pattern: str) -> list[str]:
    return [match.group(1) for key in golden.files if (match := re.fullmatch(pattern, key))]


def test_codes_are_exact(cases: list[Path]):
    for case in cases:
        model, _ = load(case)
        golden = np.load(case / "golden.npz")
        for i in numbers(golden, r"codes_(\d+)"):
            wav = torch.from_numpy(golden[f"wav_{i}"])[:, None]
            want = torch.from_numpy(golden[f"codes_{i}"].astype(np.int64))[0].transpose(1, 2)
            assert torch.equal(encodec.encode(model, wav), want), (case.name, i)


def test_latents_and_their_quantized_sum(cases: list[Path]):
    for case in cases:
        model, _ = load(case)
        golden = np.load(case / "golden.npz")
        with torch.inference_mode():
            latent = model.encoder(torch.from_numpy(golden["wav_0"])[:, None])
            total = model.quantizer.decode(torch.from_numpy(golden["codes_0"].astype(np.int64))[0].transpose(0, 1))
        np.testing.assert_allclose(latent.numpy(), golden["enc_0"], **CLOSE)
        np.testing.assert_allclose(total.numpy(), golden["quant_0"], **CLOSE)


def test_decoded_waves(cases: list[Path]):
    checked = 0
    for case in cases:
        model, whole = load(case)
        golden = np.load(case / "golden.npz")
        for i in numbers(golden, r"dec_(\d+)") if whole else []:
            codes = torch.from_numpy(golden[f"codes_{i}"].astype(np.int64))[0].transpose(1, 2)
            np.testing.assert_allclose(encodec.decode(model, codes).numpy(), golden[f"dec_{i}"], **WAVE)
            checked += 1
        if whole:
            codes = torch.from_numpy(golden["rand_codes"].astype(np.int64))[0].transpose(1, 2)
            np.testing.assert_allclose(encodec.decode(model, codes).numpy(), golden["rand_codes_dec"], **WAVE)
    if not checked:
        pytest.skip("the subset has no decoder")


def test_a_padded_batch_is_encoded_as_silence(cases: list[Path]):
    for case in cases:
        model, _ = load(case)
        golden = np.load(case / "golden.npz")
        if "ragged_codes" in golden:
            want = torch.from_numpy(golden["ragged_codes"].astype(np.int64))[0].transpose(1, 2)
            assert torch.equal(encodec.encode(model, torch.from_numpy(golden["ragged_input"])), want)


def test_the_official_checkpoint_fits():
    manifest = places.manifest("encodec_32khz_hf")
    with torch.device("meta"):
        model = encodec.build(manifest["config"])
        official = encodec.build(encodec.OFFICIAL)
    assert sum(parameter.numel() for parameter in model.parameters()) == manifest["n_params"]
    assert model.quantizer.num_quantizers == 4
    facts = manifest["state_dict"].items()
    published = {key: torch.empty(shape, dtype=getattr(torch, dtype), device="meta") for key, (shape, dtype) in facts}
    wanted = {key: (tensor.shape, tensor.dtype) for key, tensor in encodec.with_training_buffers(published).items()}
    for module in (model, official):
        assert {key: (tensor.shape, tensor.dtype) for key, tensor in module.state_dict().items()} == wanted
