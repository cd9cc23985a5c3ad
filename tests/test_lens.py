"""Looking at tokens: ids, how likely they were, and a part from its first tokens or layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anygpt_demo import lens
from anygpt_demo.chat import Chat, write_file
from anygpt_demo.conversation import Journal, MediaPart, TextPart, Turn
from anygpt_demo.errors import BadText
from anygpt_demo.vocabulary import Vocabulary
from tests.browser.stage import Props


@pytest.fixture
def chat(vocabulary: Vocabulary) -> Chat:
    props = {name: Props(item.modality) for name, item in vocabulary.ranges.items()}
    return Chat(vocabulary, None, props.__getitem__)  # type: ignore[arg-type]


def reply(chat: Chat, journal: Journal, name: str, frames: int, **facts: object) -> Turn:
    """A finished reply of words and one medium."""
    codec = chat.codec(name)
    codes = np.arange(frames * codec.modality.layers).reshape(frames, -1) % codec.modality.codebook
    data, suffix = write_file(codec.decode(codes))
    part = MediaPart(name, codes, journal.save(name, suffix, data))
    words = chat.vocabulary.encode_text("Here:")
    return Turn("mmgpt", (TextPart("Here:"), part), None, (*words, *chat.vocabulary.block(name, codes)), facts)


def test_how_likely_each_code_was(chat: Chat, tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    conversation = journal.conversation()
    plain = reply(chat, journal, "image", 32)
    shares = [None] * (len(plain.ids) - 34) + [0.9] + [round(0.01 * code, 2) for code in range(32)] + [None]
    for facts in ({}, {"shares": shares}, {"shares": shares[1:]}, {"shares": ["x"] * len(shares)}, {"shares": 5}):
        conversation.add(reply(chat, journal, "image", 32, **facts))
    shown = [lens.panel(chat, conversation, tmp_path, f"{turn}.1") for turn in range(5)]
    assert "<small>31%</small>" in shown[1] and "<small>0%</small>" in shown[1]
    assert not any("%</small>" in text for text in (shown[0], shown[2], shown[3], shown[4]))
    assert shown[0].count("<tr><th>") == 33 and 'max="32"' in shown[0]


@pytest.mark.parametrize(
    ("name", "frames", "most", "unit"), [("image", 32, 32, "tokens"), ("speech", 20, 8, "layers"), ("music", 10, 4, "layers")]
)
def test_a_part_is_taken_apart(chat: Chat, tmp_path: Path, name: str, frames: int, most: int, unit: str) -> None:
    journal = Journal(tmp_path)
    conversation = journal.conversation()
    conversation.add(reply(chat, journal, name, frames))
    for wish, used in ((1, 1), (most, most), (99, most), (-5, 1)):
        assert f"the first {used} of {most} {unit}" in lens.panel(chat, conversation, tmp_path, "0.1", wish).replace("&#44;", ",")
    assert "Text: " in lens.panel(chat, conversation, tmp_path, "0.0")


@pytest.mark.parametrize("place", ["9.0", "0.7", "x", "", "-1.0", "0.x", "1e3", "0.0.0"])
def test_places_that_are_not_there(chat: Chat, tmp_path: Path, place: str) -> None:
    journal = Journal(tmp_path)
    conversation = journal.conversation()
    conversation.add(reply(chat, journal, "image", 32))
    with pytest.raises(BadText, match="gone"):
        lens.panel(chat, conversation, tmp_path, place)
