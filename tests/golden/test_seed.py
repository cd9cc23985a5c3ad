"""Parity of the picture tokenizer with the official SEED-2 code: same files, same ids, same embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anygpt_demo.models.seed import PIXEL_MEAN, PIXEL_STD, SeedConfig, SeedTokenizer, official_state, preprocess, resize_positions
from tests.golden import places

SUFFIX = ".seed_quantizer.pt"
OPTIONAL = {"Qformer.bert.embeddings.position_ids"}


def cases() -> list[Path]:
    """Every NAME.seed_quantizer.pt."""
    return sorted(places.part("seed").glob("*" + SUFFIX))


@pytest.fixture(params=cases(), ids=lambda path: path.name.removesuffix(SUFFIX))
def case(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def beside(case: Path, suffix: str) -> Path:
    return case.with_name(case.name.removesuffix(SUFFIX) + suffix)


def config_of(facts: dict[str, Any]) -> SeedConfig:
    vit, bert, constants = facts["vit"], facts["bert"], facts["overridden_defaults"]
    return SeedConfig(
        vit_width=vit["embed_dim"],
        vit_depth=vit["depth"],
        vit_heads=vit["num_heads"],
        width=bert["hidden_size"],
        layers=bert["num_hidden_layers"],
        heads=bert["num_attention_heads"],
        intermediate=bert["intermediate_size"],
        codebook=constants["n_embed"],
        code_dim=constants["codebook_embed_dim"],
        embedding=constants["image_features_dim"],
        text_decoder=not facts.get("without_text_decoder", False),
    )


def build(case: Path) -> SeedTokenizer:
    config = config_of(json.loads(beside(case, ".config.json").read_text()))
    files = [torch.load(path, map_location="cpu", weights_only=True) for path in (case, beside(case, ".eva_vit_g.pth"))]
    model = SeedTokenizer(config)
    model.load_state_dict(official_state(*files, config), strict=True)
    return model.eval()


def close(actual: torch.Tensor, expected: np.ndarray, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-4, atol=atol)


@torch.inference_mode()
def test_every_picture_gives_the_official_ids(case: Path) -> None:
    model, data = build(case), np.load(beside(case, ".npz"))
    numbers = [key.removeprefix("ids_") for key in data if key.startswith("ids_") and f"rgb_{key[4:]}" in data]
    assert numbers
    batch = []
    for number in numbers:
        pixels = preprocess(data[f"rgb_{number}"])
        batch.append(pixels)
        if f"pixels_{number}" in data:
            close(pixels, data[f"pixels_{number}"])
        if f"pixels_{number}_sample" in data:
            close(pixels[:, ::16, ::16], data[f"pixels_{number}_sample"])
        np.testing.assert_array_equal(model.encode(pixels[None]).numpy(), data[f"ids_{number}"])
    if "ids_batch01" in data and {"0", "1"} <= set(numbers):
        np.testing.assert_array_equal(model.encode(torch.stack(batch[:2])).numpy(), data["ids_batch01"])


@torch.inference_mode()
def test_every_stage_gives_the_official_values(case: Path) -> None:
    model, data = build(case), np.load(beside(case, ".npz"))
    if "rgb_0" in data:  # the subset has no room for the large picture
        pixels = preprocess(data["rgb_0"])[None]
        hidden, _ = model.Qformer(model.query_tokens, model.features(pixels))
        close(model.visual_encoder(pixels)[:, ::32], data["vit_out_0_rows"])
        close(hidden, data["qformer_out_0"])
        close(model.encode_task_layer(hidden), data["query_down_0"])
    ids = torch.from_numpy(data["ids_0"].astype(np.int64))
    close(model.decode_task_layer(model.codes_to_vectors(ids)), data["query_output_up_0"])
    close(model.codes_to_vectors(torch.arange(8)[None])[0], data["codebook_first8"])


@torch.inference_mode()
def test_embeddings_are_the_official_ones(case: Path) -> None:
    model, data = build(case), np.load(beside(case, ".npz"))
    ids = torch.from_numpy(data["rand_ids"].astype(np.int64))
    close(model.embedding(ids), data["rand_embeds"], atol=1e-3)
    first = torch.from_numpy(data["ids_0"].astype(np.int64))
    close(model.embedding(first), data["embeds_0"], atol=1e-3)
    close(model.embedding(ids[:1].int()), data["embeds_int32_input"], atol=1e-3)


def test_a_query_depends_only_on_earlier_queries(case: Path) -> None:
    model = build(case)
    features = torch.randn(1, 257, model.config.vit_width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before, _ = model.Qformer(model.query_tokens, features)
        changed = model.query_tokens.clone()
        changed[:, 20:] += 1.0
        after, _ = model.Qformer(changed, features)
    torch.testing.assert_close(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20:], after[:, 20:])


def test_foreign_keys_are_ignored_and_missing_ones_are_not_invented(case: Path) -> None:
    config = config_of(json.loads(beside(case, ".config.json").read_text()))
    quantizer = torch.load(case, map_location="cpu", weights_only=True)
    state = official_state(quantizer, {}, config)
    assert not any(key.startswith(("text_proj", "temp", "Qformer.cls", "visual_encoder")) for key in state)
    with pytest.raises(RuntimeError, match="visual_encoder"):
        SeedTokenizer(config).load_state_dict(state, strict=True)


def test_full_size_keys_and_shapes_are_the_published_ones() -> None:
    quantizer = places.manifest("seed2_quantizer")
    vit = places.manifest("eva_vit_g")["state_dict"]
    with torch.device("meta"):
        model = SeedTokenizer()
    own = {key: [list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in model.state_dict().items()}
    wanted = {key: value for key, value in quantizer["state_dict"].items() if key not in OPTIONAL}
    wanted |= {f"visual_encoder.{key}": value for key, value in vit.items()}
    assert own == wanted
    assert sum(parameter.numel() for parameter in model.parameters()) == quantizer["n_params"]


def test_constants_of_the_preprocessing() -> None:
    pixels = preprocess(np.full((30, 50, 3), 255, np.uint8))
    assert pixels.shape == (3, 224, 224)
    expected = [(1 - mean) / std for mean, std in zip(PIXEL_MEAN, PIXEL_STD, strict=True)]
    close(pixels[:, 7, 9], np.array(expected))


def test_positions_of_another_grid_are_resized() -> None:
    table = torch.randn(1, 17, 6)
    resized = resize_positions(table, 8)
    assert resized.shape == (1, 65, 6)
    torch.testing.assert_close(resized[:, 0], table[:, 0])
    torch.testing.assert_close(resize_positions(table, 4), table)
