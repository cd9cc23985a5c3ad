"""Fitting by whole turns: never inside a block, newest first, and a refusal when the newest alone is too big."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anygpt_demo import protocol
from anygpt_demo.conversation import Conversation, MediaPart, TextPart, Turn, from_record, to_record
from anygpt_demo.errors import UserError


def chat(vocabulary, shape, seed=0):
    """Alternating turns; shape: per turn the names of its parts."""
    rng = np.random.default_rng(seed)
    turns = []
    for index, names in enumerate(shape):
        parts = [TextPart(f"turn {index}")]
        for name in names:
            facts = vocabulary.ranges[name].modality
            frames = facts.frames.start if name == "image" else int(rng.integers(1, 20))
            parts.append(MediaPart(name, rng.integers(0, facts.codebook, (frames, facts.layers)), "a.bin", "words"))
        turns.append(Turn("human" if index % 2 == 0 else "mmgpt", tuple(parts), "x" if index % 2 else None))
    return turns


shapes = st.lists(st.lists(st.sampled_from(["image", "speech", "music"]), max_size=2), min_size=1, max_size=9)


@settings(max_examples=120, deadline=None)
@given(shape=shapes, room=st.integers(40, 600))
def test_fit_keeps_whole_newest_turns(vocabulary, shape, room):
    turns = chat(vocabulary, shape[: len(shape) - (len(shape) % 2 == 0)])

    def count(some):
        return len(protocol.encode(vocabulary, some))

    conversation = Conversation(list(turns))
    try:
        kept, dropped = conversation.fit(count, room)
    except UserError:
        assert count(turns[-1:]) > room
        return
    assert kept == turns[dropped:] and kept[0].role == "human" and count(kept) <= room
    if dropped:
        assert any(count(turns[:end]) > room for end in range(1, len(turns) + 1))
    ids = protocol.encode(vocabulary, kept)
    for item in vocabulary.ranges.values():
        assert ids.count(item.start) == ids.count(item.end)


def test_the_newest_turn_may_take_the_reserve_but_not_more():
    conversation = Conversation([Turn("human", (TextPart("a"),)), Turn("mmgpt", (TextPart("b"),)), Turn("human", (TextPart("c"),))])
    assert conversation.fit(lambda turns: 100 * len(turns), 150) == (conversation.turns[2:], 2)
    assert conversation.fit(lambda turns: 100 * len(turns), 50, most=100) == (conversation.turns[2:], 2)
    with pytest.raises(UserError, match="100 tokens"):
        conversation.fit(lambda turns: 100 * len(turns), 50, most=99)
    with pytest.raises(UserError):
        Conversation([]).fit(len, 10)


def test_prompts_of_a_full_context_begin_alike_for_some_turns():
    def count(turns):
        return 20 + 100 * len(turns)

    conversation, firsts = Conversation(), []
    for number in range(40):
        conversation.add(Turn("human", (TextPart(str(number)),)))
        kept, dropped = conversation.fit(count, 1200)
        assert count(kept) <= 1200 and kept == conversation.turns[dropped:]
        firsts.append(dropped)
        conversation.add(Turn("mmgpt", (TextPart("so"),)))
    assert firsts == sorted(firsts) and firsts[0] == 0 and firsts[-1] > 0
    changed = [number for number, (one, other) in enumerate(zip(firsts, firsts[1:], strict=False)) if one != other]
    assert len(changed) <= 20, "every second prompt at least goes on from the one before"
    del conversation.turns[-5:]
    assert conversation.fit(count, 1200)[1] == firsts[37], "after undoing, the same turns are read as before"


def test_records_are_exact(vocabulary):
    for turn in chat(vocabulary, [["image", "music"], ["speech"], []]):
        again = from_record(to_record(turn))
        assert to_record(again) == to_record(turn) and again.role == turn.role and again.heard == turn.heard
    for bad in ({}, {"role": "x", "parts": [], "heard": None, "ids": []}, {"role": "human", "parts": [{"type": "image", "codes": [1]}]}):
        with pytest.raises((KeyError, ValueError, TypeError)):
            from_record(bad)


def test_undo_and_clear():
    conversation = Conversation()
    conversation.add(Turn("human", (TextPart("a"),)), Turn("mmgpt", (TextPart("b"),)))
    assert [turn.text for turn in conversation.undo()] == ["b"]
    assert len(conversation.turns) == 1
    conversation.clear()
    assert conversation.turns == [] and conversation.undo() == []
