"""Files among words: marks are parsed once into ordered parts, which the prompt, the journal, the archive and a retry keep."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anygpt_demo import archive, protocol
from anygpt_demo.chat import Chat, Message, Settings, arranged, numbered, order_of
from anygpt_demo.conversation import Conversation, Journal, MediaPart, TextPart, Turn, from_record, to_record
from anygpt_demo.vocabulary import Vocabulary
from tests.test_archive import chat  # noqa: F401 - a fixture
from tests.test_chat import picture, sound


@pytest.mark.parametrize(
    ("text", "count", "order"),
    [
        ("what is this", 1, ()),
        ("what is [1]", 1, ("what is", 0)),
        ("[1] or [2]?", 2, (0, "or", 1, "?")),
        ("first [2] then [1]", 2, ("first", 1, "then", 0)),
        ("only [2]", 2, (0, "only", 1)),
        ("[1] and [1] again, [3] [0] [x]", 2, (1, 0, "and [1] again, [3] [0] [x]")),
        ("[2][1]", 2, (1, 0)),
        ("[1]", 0, ()),
    ],
)
def test_marks_become_places(text: str, count: int, order: tuple[str | int, ...]) -> None:
    assert order_of(text, numbered(count)) == order


@given(st.text(alphabet="[]012 ab\n"), st.integers(0, 3))
def test_every_file_stands_somewhere_once_and_no_word_is_lost(text: str, count: int) -> None:
    order = order_of(text, numbered(count))
    if order:
        assert sorted(part for part in order if isinstance(part, int)) == list(range(count))
        words = "".join(part for part in order if isinstance(part, str))
        present = "".join(mark for mark in numbered(count) if mark in text)
        assert sorted("".join((words + present).split())) == sorted("".join(text.split()))
    assert bool(order) == any(mark in text for mark in numbered(count))


def test_the_prompt_has_the_parts_where_they_were_put(vocabulary: Vocabulary) -> None:
    import numpy as np

    files = [MediaPart("image", np.full((32, 1), code)) for code in (1, 2)] + [MediaPart("speech", np.zeros((5, 1), np.int64))]
    turn = arranged(files, "", ("Is", 1, "like", 0, "?", 2))
    one, two, three = (vocabulary.block(part.modality, part.codes) for part in files)
    assert turn.placed and protocol.human_message(vocabulary, turn) == [
        *("Is", " ", two, " ", "like", " ", one, " ", "?", " ", three, " ", protocol.VOICE_COMMAND)
    ]
    assert from_record(json.loads(json.dumps(to_record(turn)))).placed and "placed" not in to_record(arranged(files, "x"))
    usual = arranged(files, "x")
    assert isinstance(usual.parts[-1], TextPart) and protocol.human_message(vocabulary, usual)[0] == one


def test_journal_archive_and_replay_keep_the_order(chat: Chat, tmp_path: Path, vocabulary: Vocabulary) -> None:  # noqa: F811
    conversation = Journal.create(tmp_path).conversation()
    message = Message.written("hear [2] and see [1] now", (("image", picture(1)), ("music", sound())))
    list(chat.reply(conversation, message, seed=4, settings=Settings(max_new=30, output="text")))

    def kinds(turn: Turn) -> list[str]:
        return [part.text if isinstance(part, TextPart) else part.modality for part in turn.parts]

    wanted = ["hear", "music", "and see", "image", "now"]
    assert kinds(conversation.turns[0]) == wanted and kinds(Journal(conversation.journal.folder).turns[0]) == wanted  # type: ignore[union-attr]
    data = archive.pack(conversation, "x", "mini", "abc")
    found = archive.unpack(data, vocabulary)
    assert kinds(found.turns[0]) == wanted and found.turns[0].placed
    assert [item.state for item in archive.replay(found, chat)] == ["same"]
    again = archive.restore(found, Journal.create(tmp_path))
    assert protocol.encode(vocabulary, again.turns) == protocol.encode(vocabulary, conversation.turns)
    page = zipfile.ZipFile(io.BytesIO(data)).read("index.html").decode()
    places = [page.index(mark) for mark in (">hear<", "<audio", ">and see<", "<img", ">now<")]
    assert places == sorted(places)
    usual = Conversation([Turn("human", found.turns[0].parts)])
    assert protocol.encode(vocabulary, usual.turns) != protocol.encode(vocabulary, found.turns[:1])
