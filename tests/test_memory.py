"""Sizes from the configs, presets, and the shelf that evicts."""

from __future__ import annotations

import pytest

from anygpt_demo import memory
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
