"""The language model at full size has exactly the keys and shapes of the published chat model."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from anygpt_demo.models.llama import Llama, LlamaConfig

HERE = Path(__file__).parent
NAME = "llama2_7b_anygpt_chat.json"


def manifest(golden_dir: Path) -> dict:
    path = golden_dir / "manifests" / NAME
    return json.loads((path if path.is_file() else HERE / "data" / "manifests" / NAME).read_text())


def test_full_size_keys_and_shapes_are_the_published_ones(golden_dir: Path) -> None:
    facts = manifest(golden_dir)
    with torch.device("meta"):
        model = Llama(LlamaConfig.from_json(facts["config"]))
    own = {key: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for key, tensor in model.state_dict().items()}
    assert own == facts["state_dict"]
    assert sum(parameter.numel() for parameter in model.parameters()) == facts["n_params"]


def test_the_vocabulary_of_the_manifest_fits_the_model(golden_dir: Path) -> None:
    path = golden_dir / "manifests" / "llm_vocab.json"
    vocabulary = json.loads((path if path.is_file() else HERE / "data" / "manifests" / "llm_vocab.json").read_text())
    assert vocabulary["published_chat"]["vocab_size"] == manifest(golden_dir)["config"]["vocab_size"]
