"""The language model at full size has exactly the keys and shapes of the published chat model."""

from __future__ import annotations

import torch

from anygpt_demo.models.llama import Llama, LlamaConfig
from tests.golden import places

NAME = "llama2_7b_anygpt_chat"


def test_full_size_keys_and_shapes_are_the_published_ones() -> None:
    facts = places.manifest(NAME)
    with torch.device("meta"):
        model = Llama(LlamaConfig.from_json(facts["config"]))
    own = {key: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for key, tensor in model.state_dict().items()}
    assert own == facts["state_dict"]
    assert sum(parameter.numel() for parameter in model.parameters()) == facts["n_params"]


def test_the_vocabulary_of_the_manifest_fits_the_model() -> None:
    assert places.manifest("llm_vocab")["published_chat"]["vocab_size"] == places.manifest(NAME)["config"]["vocab_size"]
