"""Sizes from the configs, presets, and the shelf that evicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from anygpt_demo import codecs, memory
from anygpt_demo.checkpoints import Component, Family
from anygpt_demo.errors import UserError


def test_the_table_counts_what_the_published_models_have():
    sizes = {item.name: item for item in memory.official()}
    assert sum(item.parameters for name, item in sizes.items() if name.startswith("language")) == 6_914_707_456
    assert sizes["SoundStorm"].parameters == 351_378_432
    assert sizes["SpeechTokenizer"].parameters == 103_683_458
    assert sizes["EnCodec 32 kHz"].parameters == 56_884_674
    assert 865e6 < sizes["unCLIP UNet"].parameters < 880e6
    assert {name for name, item in sizes.items() if item.need == "never"} == {
        "unCLIP text encoder",
        "unCLIP picture encoder",
        "EnCodec 24 kHz",
    }
    largest = max(
        sum(sizes[name].bytes for name in names)
        for names in (
            ["SEED-2, reading pictures"],
            ["SEED-2, drawing pictures", "unCLIP UNet", "unCLIP VAE"],
            ["SpeechTokenizer", "SoundStorm"],
            ["EnCodec 32 kHz"],
        )
    )
    layers = sizes["language model, layers"].parameters
    for card, choice in memory.PRESETS.items():
        assert largest <= choice.media, "one group of codecs must fit"
        fixed = layers * memory.BITS[choice.quantize] / 8 + sizes["language model, embedding and head"].bytes
        assert fixed + memory.key_value_bytes() + memory.CONTEXT_BYTES + largest <= card * memory.GB


def test_presets():
    assert memory.preset(None, "cpu") is None
    assert memory.preset(8, "cpu") == memory.PRESETS[8]
    with pytest.raises(UserError, match="9 GB"):
        memory.preset(9, "cpu")


def test_the_shelf_puts_away_what_was_used_longest_ago():
    made = []

    def load(name: str, purpose: str):
        made.append((name, purpose))
        return (name, purpose)

    shelf = memory.Shelf(load, lambda name, purpose: {"a": 4, "b": 5, "c": 3, "d": 99}[name], budget=10)
    for name in ("a", "b", "a", "c"):
        assert shelf.get(name, "encode") == (name, "encode")
    assert shelf.held == (("a", "encode"), ("c", "encode"))
    shelf.get("a", "decode")
    shelf.get("b", "encode")
    assert made.count(("b", "encode")) == 2
    shelf.get("d", "encode")
    assert shelf.held == (("d", "encode"),), "what is larger than the budget is still served, alone"


def test_estimates_follow_precision_and_purpose(converted: Path):
    family = Family.open(converted)
    both, drawing = (memory.estimate(family, "image", purpose) for purpose in ("encode", "decode"))
    values = sum(parameter.numel() for parameter in codecs.load_codec("music", family).model.parameters())
    assert memory.estimate(family, "music", "both") >= 4 * values
    assert memory.estimate(family, "image", "encode", "cuda") * 2 == both
    assert memory.estimate(family, "image", "decode", "cuda") * 2 == drawing
    assert memory.estimate(family, "music", "both", "cuda") == memory.estimate(family, "music", "both")
    assert memory.estimate(family, "speech", "both", "cuda") < memory.estimate(family, "speech", "both")


def test_a_card_without_enough_free_memory_is_refused_in_words(converted: Path, monkeypatch: pytest.MonkeyPatch):
    import torch

    family = Family.open(converted)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**6, 8 * 10**9))
    memory.require(family, "4bit", "cpu")
    with pytest.raises(UserError, match=r"graphics card has too little free memory.*0\.0 GB are free.*--quantize 4bit"):
        memory.require(family, "4bit", "cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * 10**9, 8 * 10**9))
    memory.require(family, "none", "cuda")


def test_a_machine_without_enough_free_memory_is_refused_before_loading(converted: Path, monkeypatch: pytest.MonkeyPatch):
    from anygpt_demo import engine
    from anygpt_demo.chat import Chat

    monkeypatch.setattr(engine.LocalEngine, "load", lambda *_: pytest.fail("it was loaded"))
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**6)
    with pytest.raises(UserError, match=r"This machine has too little free memory.*\(32 bit\), 0\.0 GB are free"):
        Chat.open(converted, quantize="none")
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)  # where no system tells
    memory.require(Family.open(converted), "none", "cpu")


def test_the_published_models_need_what_the_presets_say(monkeypatch: pytest.MonkeyPatch):
    """With their largest codec: 6.6 GB in 4 bit on a card; in full precision on a CPU more than most machines have."""

    class Official:
        name = "anygpt"

        def component(self, role):
            return Component(role, Path(), {**memory.LLAMA, "max_position_embeddings": 2048}, {})

    monkeypatch.setattr(memory, "estimate", lambda *rest: int(2.1 * memory.GB))
    cases = (("4bit", "cuda", 7, 8), ("8bit", "cuda", 10, 12), ("none", "cuda", 15, 18), ("4bit", "cpu", 7, 8), ("none", "cpu", 30, 34))
    for quantize, device, low, high in cases:
        assert low < memory.needed_bytes(Official(), quantize, device) / memory.GB < high, (quantize, device)
