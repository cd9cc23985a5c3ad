"""Fewer bits on a tiny model: small errors, the kept copy, refusals, silence, no network."""

from __future__ import annotations

import socket
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from anygpt_demo import checkpoints, quantize
from anygpt_demo.checkpoints import Family
from anygpt_demo.errors import BadCheckpoint, UserError
from anygpt_demo.models.llama import Llama, LlamaConfig

pytestmark = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
IDS = torch.tensor([[1, 5, 9, 30, 31, 2, 7]])


def write_family(folder: Path, width: int = 128) -> Family:
    torch.manual_seed(0)
    config = LlamaConfig(96, width, 2 * width, 2, 2, 2, max_position_embeddings=64)
    model = Llama(config)
    checkpoints.export(folder, "llm", config.to_json(), model.state_dict())
    return Family.open(folder)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return write_family(tmp_path_factory.mktemp("family"))


@torch.inference_mode()
def logits(model: Llama) -> torch.Tensor:
    return model(IDS).float()


@pytest.mark.parametrize(("kind", "bound"), [("8bit", 0.06), ("4bit", 0.4)])
def test_errors_are_small_and_the_copy_is_the_same(family: Family, kind: str, bound: float, monkeypatch, caplog, capfd):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it asked the network"))
    exact = logits(quantize.load_llama(family))
    model = quantize.load_llama(family, kind=kind)
    found = logits(model)
    assert (found - exact).norm() / exact.norm() < bound
    again = Family.open(family.folder)
    assert again.has(f"llm_{kind}")
    monkeypatch.setattr(quantize, "from_full", lambda *_: pytest.fail("the copy was not used"))
    torch.testing.assert_close(logits(quantize.load_llama(again, kind=kind)), found, rtol=0, atol=1e-3)
    assert (
        not [record for record in caplog.records if "bitsandbytes" in record.name]
        and capfd.readouterr() == ("", "")
        and not sys.modules.get("kernels")
    )


def test_a_copy_of_other_weights_is_not_used_and_a_damaged_one_is_refused(tmp_path: Path):
    family = write_family(tmp_path)
    quantize.load_llama(family, kind="8bit")
    torch.manual_seed(1)
    config = LlamaConfig.from_json(family.component("llm").config)
    checkpoints.export(tmp_path, "llm", config.to_json(), Llama(config).state_dict())
    family = Family.open(tmp_path)
    assert not quantize._has_copy(family, "8bit")
    quantize.load_llama(family, kind="8bit")
    family = Family.open(tmp_path)
    assert quantize._has_copy(family, "8bit")
    file = tmp_path / "llm_8bit" / "model-00001.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(BadCheckpoint, match="model-00001"):
        quantize.load_llama(family, kind="8bit")


def test_unfit_widths_and_unknown_kinds_are_refused_in_words(tmp_path: Path):
    family = write_family(tmp_path, 96)
    for kind in ("4bit", "8bit"):
        with pytest.raises(UserError, match=r"multiples of 64"):
            quantize.load_llama(family, kind=kind)
    with pytest.raises(UserError, match="3bit"):
        quantize.load_llama(family, kind="3bit")
