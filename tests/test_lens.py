"""Looking at tokens: ids, how likely they were, and a part from its first tokens or layers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anygpt_demo import lens
from anygpt_demo.chat import Chat, write_file
from anygpt_demo.conversation import Journal, MediaPart, TextPart, Turn
from anygpt_demo.errors import BadText
from anygpt_demo.view import human_content, reply_content, reply_end, ribbon
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


def test_words_have_the_models_own_ids_and_probabilities(chat: Chat, tmp_path: Path) -> None:
    """Ids that no tokenizer would give: they are shown as they were written, each a place to go on from."""
    tokens = chat.vocabulary
    journal = Journal(tmp_path)
    conversation = journal.conversation()
    letters = [tokens.encode_text(letter)[-1] for letter in "Here"]
    heard = [tokens.ins, *tokens.encode_text(" who"), tokens.res]
    picture = reply(chat, journal, "image", 32).parts[1]
    assert isinstance(picture, MediaPart)
    ids = (*heard, *letters, *tokens.block("image", picture.codes), *tokens.encode_text(" Bye"))
    shares = [round(0.001 * place, 3) for place in range(len(ids))]
    shares[len(heard) : len(heard) + 4] = [0.11, 0.22, None, 0.44]
    parts = (TextPart("Here"), picture, TextPart("Bye"))
    conversation.add(Turn("mmgpt", parts, "who", ids, {"shares": shares}), Turn("human", (TextPart("Here"),)))
    shown = lens.panel(chat, conversation, tmp_path, "0.0")
    assert "Text: 4 tokens" in shown and all(f"<small>{letter}" in shown for letter in letters)
    assert [mark in shown for mark in ("11%", "22%", "44%", "0%")] == [True, True, True, False]
    assert [f'value="0.0.{count}"' in shown for count in range(6)] == [False, True, True, True, True, False]
    row = lens.panel(chat, conversation, tmp_path, "0.1")
    first = len(heard) + 5
    assert f"<small>{shares[first + 31]:.0%}</small>" in row and 'value="0.1.32"' in row
    last = lens.panel(chat, conversation, tmp_path, "0.2")
    assert f"Text: {len(tokens.encode_text(' Bye'))} tokens" in last and f"{shares[-1]:.0%}" in last
    told = lens.panel(chat, conversation, tmp_path, "0.heard")
    assert f"Heard: {len(heard) - 2} tokens" in told and "<button" not in told
    mine = lens.panel(chat, conversation, tmp_path, "1.0")
    assert f"Text: {len(tokens.encode_text('Here'))} tokens" in mine and "<button" not in mine and "%" not in mine


def test_the_strip_below_a_turn_is_as_long_as_its_tokens(chat: Chat, tmp_path: Path) -> None:
    tokens = chat.vocabulary
    heard = [tokens.ins, *tokens.encode_text(" a boat"), tokens.res]
    said = tokens.encode_text(" There it goes, over the lake.")
    codes = np.zeros((9, 4), np.int64)
    turn = Turn("mmgpt", (TextPart("There it goes, over the lake."), MediaPart("music", codes)), "a boat")
    written = replace(turn, ids=(*heard, *said, *tokens.block("music", codes)))
    widths = re.findall(r'value="2\.(\w+)" class="r-(\w+)" style="flex-grow:(\d+)"', ribbon(chat, written, 2))
    assert widths == [("heard", "heard", str(len(heard))), ("0", "text", str(len(said))), ("1", "music", "36")]
    human = Turn("human", (MediaPart("image", np.zeros((32, 1), np.int64)), TextPart("What is it?")))
    shown = human_content(human.parts, tmp_path, None, 5, ribbon(chat, human, 5))
    strip = next(item for item in shown if "ribbon" in item)
    assert 'class="r-image" style="flex-grow:32"' in strip
    assert f'value="5.1" class="r-text" style="flex-grow:{len(tokens.encode_text("What is it?"))}"' in strip
    assert ribbon(chat, Turn("mmgpt", ()), 1) == ""


def test_one_picture_or_sound_can_be_saved_and_words_copied(chat: Chat, tmp_path: Path) -> None:
    """A saved file is the one of the chat, with what marks it as generated."""
    journal = Journal(tmp_path)
    turn = reply(chat, journal, "image", 32)
    shown = reply_content(chat, turn.parts, tmp_path, 1)
    (place,) = re.findall(r'name="save" value="gradio_api/file=([^"]+)"[^>]*title="Save this picture"', " ".join(map(str, shown)))
    part = turn.parts[1]
    assert isinstance(part, MediaPart) and part.file is not None
    assert Path(place).name == part.file and Path(place).read_bytes() == (tmp_path / part.file).read_bytes()
    assert Image.open(place).info["ai_generated"] == "true"
    assert 'name="copy" value="1"' in reply_end(chat, turn, 1)[-1]
    assert 'name="copy"' not in reply_end(chat, Turn("mmgpt", turn.parts[1:], None, turn.ids[-34:]), 1)[-1]
    assert "save" not in str(reply_content(chat, turn.parts, tmp_path)) and "save" not in str(
        reply_content(chat, turn.parts, tmp_path, 1, (1, 1))
    )
