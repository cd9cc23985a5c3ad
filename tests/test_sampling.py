"""Numbers of one's own: they reach the grammar, are kept with the reply, and make it again; those out of range are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from anygpt_demo import archive
from anygpt_demo.chat import PRESETS, Chat, Message, Settings
from anygpt_demo.conversation import Journal
from anygpt_demo.errors import BadText
from anygpt_demo.grammar import BOUNDS, Grammar, samplings
from anygpt_demo.vocabulary import Vocabulary
from tests.test_archive import chat  # noqa: F401 - a fixture

OWN = {"text": {"temperature": 1.5, "top_k": 40}, "music": {"top_p": 0.5}}


def test_numbers_take_the_place_of_those_of_the_preset(vocabulary: Vocabulary) -> None:
    usual, own = samplings(vocabulary), samplings(vocabulary, "paper", OWN)
    assert list(usual) == ["text", *vocabulary.ranges]
    assert (
        own["text"].temperature == 1.5 and own["text"].top_k == 40 and own["text"].beams == 1 < samplings(vocabulary, "paper")["text"].beams
    )
    assert own["music"].top_p == 0.5 and own["music"].top_k == usual["music"].top_k and own["image"] == usual["image"]
    grammar = Grammar(vocabulary, sampling=OWN, force="music", force_after=0)
    grammar.begin([vocabulary.ranges["music"].start])
    assert grammar.allowed().sampling == own["music"] and grammar.words.temperature == 1.5
    assert Grammar(vocabulary, preset="greedy").words == samplings(vocabulary, PRESETS["best"].preset)["text"]


@pytest.mark.parametrize("value", [-0.1, 2.1, math.nan, math.inf, "hot", True, None])
def test_what_is_out_of_range_is_refused(value: Any) -> None:
    with pytest.raises(BadText, match="must be from 0 to 2"):
        Settings(sampling={"image": {"temperature": value}})


def test_every_bound_may_be_chosen_and_nothing_else_can_be_set() -> None:
    for name, both in BOUNDS.items():
        for value in both:
            Settings(sampling={"text": {name: value}})
    with pytest.raises(BadText):
        Settings(sampling={"text": {"beams": 7}})


def test_they_are_kept_with_the_reply_and_make_it_again(chat: Chat, tmp_path: Path, vocabulary: Vocabulary) -> None:  # noqa: F811
    wish = Settings(max_new=60, limits={"music": 5}, sampling=OWN)
    made = []
    for settings in (wish, Settings(max_new=60, limits={"music": 5})):
        conversation = Journal.create(tmp_path).conversation()
        list(chat.reply(conversation, Message("say"), seed=3, settings=settings))
        made.append(conversation)
    one, other = made
    assert one.turns[1].ids != other.turns[1].ids
    assert Settings.of(json.loads(json.dumps(one.turns[1].facts["settings"]))) == wish
    found = archive.unpack(archive.pack(one, "x", "mini", "abc"), vocabulary)
    assert [item.state for item in archive.replay(found, chat)] == ["same"]
