"""A family folder: what is written is what is read, and anything else is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from anygpt_demo import checkpoints
from anygpt_demo.checkpoints import Family, export, load_strict
from anygpt_demo.errors import BadCheckpoint


@pytest.fixture
def family(tmp_path):
    module = nn.Linear(300, 100)
    export(tmp_path, "toy", {"width": 300}, module.state_dict(), half=False)
    return Family.open(tmp_path), module


def shard(family):
    return next(family.component("toy").folder.glob("*.safetensors"))


def test_round_trip(family):
    opened, module = family
    again = load_strict(nn.Linear(300, 100), opened.component("toy").state(), "toy")
    assert torch.equal(again.weight, module.weight) and not again.training
    assert opened.component("toy").config == {"width": 300}


def test_shards_stay_below_their_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHARD_BYTES", 50_000)
    state = {f"w{number}": torch.randn(100, 100) for number in range(4)}
    export(tmp_path, "toy", {}, state)
    component = Family.open(tmp_path).component("toy")
    assert len(list(component.folder.glob("*.safetensors"))) == 2
    read = component.state()
    assert all(torch.equal(read[key], value.bfloat16().float()) for key, value in state.items())


def test_exporting_again_leaves_no_old_file(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHARD_BYTES", 1000)
    export(tmp_path, "toy", {}, {"a": torch.randn(900), "b": torch.randn(900)})
    monkeypatch.setattr(checkpoints, "SHARD_BYTES", 10**6)
    export(tmp_path, "toy", {}, {"a": torch.randn(900)})
    assert set(Family.open(tmp_path).component("toy").state()) == {"a"}


def test_an_interrupted_export_leaves_the_old_component(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(tmp_path, "toy", {}, {"a": torch.ones(9)})

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        export(tmp_path, "toy", {"width": 2}, {"a": torch.zeros(9)})
    assert Family.open(tmp_path).component("toy").state()["a"].sum() == 9


@pytest.mark.parametrize("harm", ["flip one bit", "cut", "remove", "replace by text", "swap"])
def test_a_changed_file_is_refused_by_name(family, harm):
    path = shard(family[0])
    data = bytearray(path.read_bytes())
    if harm == "flip one bit":
        data[-7] ^= 1
    elif harm == "cut":
        data = data[:-1]
    elif harm == "replace by text":
        data = bytearray(b"<html>not found</html>")
    elif harm == "swap":
        data[-8:-4], data[-4:] = data[-4:], data[-8:-4]
    path.unlink() if harm == "remove" else path.write_bytes(data)
    with pytest.raises(BadCheckpoint, match=path.name):
        family[0].component("toy").state()


@pytest.mark.parametrize("harm", ["missing", "unknown", "shape"])
def test_a_state_that_does_not_fit_is_refused_by_key(harm):
    state = dict(nn.Linear(4, 3).state_dict())
    if harm == "missing":
        del state["bias"]
    elif harm == "unknown":
        state["extra"] = torch.zeros(1)
    else:
        state["bias"] = torch.zeros(7)
    target = nn.Linear(4, 3)
    before = target.weight.clone()
    with pytest.raises(BadCheckpoint, match="extra" if harm == "unknown" else "bias"):
        load_strict(target, state, "toy")
    assert torch.equal(target.weight, before)  # nothing half-loaded


@pytest.mark.parametrize("manifest", ["", "{", json.dumps({"family": "toy"})])
def test_a_damaged_manifest_is_refused(tmp_path, manifest):
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(BadCheckpoint):
        Family.open(tmp_path).component("toy")


def test_an_absent_component_is_refused(family):
    with pytest.raises(BadCheckpoint, match="llm"):
        family[0].component("llm")
