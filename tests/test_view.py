"""What the messages of the page hold: transcripts, folded words, cards, and where the models run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from anygpt_demo.chat import Chat
from anygpt_demo.conversation import MediaPart, TextPart, Turn
from anygpt_demo.errors import UserError
from anygpt_demo.selftest import Health, pairs
from anygpt_demo.turns import chip_of
from anygpt_demo.view import card, closer, human_content, in_line, is_folded, reply_content, transcript, without_card
from anygpt_demo.vocabulary import Vocabulary
from anygpt_demo.welcome import about_family, header, model_facts

PICTURE = MediaPart("image", np.zeros((32, 1), np.int64), "picture.png")
SPEECH = MediaPart("speech", np.zeros((50, 1), np.int64), "speech.wav")
MUSIC = MediaPart("music", np.zeros((50, 4), np.int64), "music.wav")


@pytest.fixture
def chat(vocabulary: Vocabulary) -> Chat:
    return Chat(vocabulary, None, lambda name: None)  # type: ignore[arg-type, return-value]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    for name in ("picture.png", "speech.wav", "music.wav"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_words_before_a_picture_are_the_transcript_of_the_speech_behind_it(chat: Chat, folder: Path) -> None:
    parts = [TextPart("A boat"), PICTURE, SPEECH, MUSIC, SPEECH]
    assert [transcript(parts, number) for number in range(5)] == ["", "A boat", "A boat", "", ""]
    content = [item for item in reply_content(chat, parts, folder) if isinstance(item, str)]
    assert content[0] == '<span class="part">A boat</span>' and '<span class="said">A boat</span>' in content[2]
    assert sum("said" in item for item in content) == 1
    direct = reply_content(chat, [TextPart("A boat"), SPEECH], folder)
    assert len(direct) == 2 and '<span class="said">A boat</span>' in direct[1]


@pytest.mark.parametrize(
    ("parts", "names", "captions"),
    [
        ([TextPart("A boat:"), PICTURE], ["A boat:"], []),
        ([TextPart("A boat:"), PICTURE, PICTURE, PICTURE], ["A boat:"] * 3, ["A boat"] * 2),
        ([TextPart("A boat"), SPEECH, PICTURE], ["A boat"], []),
        ([TextPart("A boat"), MUSIC, PICTURE], ["A boat"], ["A boat"]),
        ([PICTURE, TextPart("A boat")], ["A boat"], []),
        ([PICTURE], ["Picture"], []),
    ],
)
def test_the_words_of_a_picture_can_be_read_beside_it(
    chat: Chat, folder: Path, parts: list[TextPart | MediaPart], names: list[str], captions: list[str]
) -> None:
    content = reply_content(chat, parts, folder)
    assert [item["alt_text"] for item in content if isinstance(item, dict) and item["path"].endswith(".png")] == names
    assert re.findall('<span class="own caption">([^<]*)</span>', "".join(map(str, content))) == captions


def test_words_of_speech_alone_are_folded(chat: Chat, folder: Path) -> None:
    content = reply_content(chat, [TextPart("A boat"), SPEECH, TextPart("bye")], folder, fold=True)
    assert '<details class="fold"><summary>Words</summary><span class="said">A boat</span></details>' in content[1]
    assert content[2] == '<details class="fold"><summary>Words</summary><span class="part">bye</span></details>'


@pytest.mark.parametrize(
    ("settings", "chip"),
    [
        ({"output": "speech", "forbid": ["image", "music"]}, "spoken"),
        ({"output": "speech", "forbid": []}, "speech"),
        ({"output": None, "forbid": ["speech", "music"]}, "silent"),
        ({"output": None, "forbid": ["music"]}, None),
        ({"output": "speech", "forbid": [], "lead": 0}, None),
        ({"output": "image", "forbid": []}, "image"),
    ],
)
def test_a_reply_knows_the_chip_that_asked_for_it(settings: dict, chip: str | None) -> None:
    turn = Turn("mmgpt", (), facts={"settings": settings})
    assert chip_of(turn) == chip and is_folded(turn) == (chip == "spoken")
    assert chip_of(Turn("mmgpt", ())) is None


def test_what_was_heard_stands_apart_from_our_words(folder: Path) -> None:
    content = human_content([SPEECH], folder, "draw a boat")
    assert '<span>heard&#58;</span> <span class="own">draw a boat</span>' in content[1]
    assert "from you" in human_content([MUSIC], folder, "draw a boat")[1]


def test_a_card_is_put_away_alone() -> None:
    first, second = closer(), closer()
    error = UserError("a", "b", "c")
    view = [{"role": "user", "content": ["hello"]}, {"role": "assistant", "content": ["note", card(error, first)]}]
    view.append({"role": "assistant", "content": [card(error, second)]})
    value = second.split('value="')[1].split('"')[0]
    assert without_card(view, value) == view[:2]
    assert without_card(view, "absent") == view
    assert 'name="leave"' in in_line(3) and "3 before you" in in_line(3)


@pytest.mark.parametrize("family", ["mini", "anygpt-chat"])
def test_a_page_for_others_does_not_say_that_nothing_leaves_this_computer(chat: Chat, family: str) -> None:
    away = [about_family(family, False), header(family, Health(), False), model_facts(chat, family, None, Health(), False)]
    assert all("goes to the server of this page" in told and "nothing leaves" not in told for told in away)
    assert "on this computer" not in away[1] and "on this computer" in header(family, Health())
    assert ("nothing leaves" in about_family(family)) == (family == "mini")


def test_the_self_test_has_every_pair(chat: Chat) -> None:
    assert len(set(pairs(chat))) == (len(chat.modalities) + 1) ** 2
