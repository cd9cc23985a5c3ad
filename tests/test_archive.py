"""A chat as a zip: exact there and back, checked before it is believed, and made again with the same ids."""

from __future__ import annotations

import io
import json
import zipfile

import pytest
import torch

from anygpt_demo import archive
from anygpt_demo.chat import Chat, Message, Settings
from anygpt_demo.conversation import Journal, MediaPart
from anygpt_demo.engine import LocalEngine
from anygpt_demo.errors import UserError
from anygpt_demo.models.llama import Llama, LlamaConfig
from tests.test_chat import Plain, picture


@pytest.fixture(scope="module")
def chat(vocabulary):
    torch.manual_seed(0)
    config = LlamaConfig(vocabulary.size, 64, 128, 2, 2, 2, max_position_embeddings=1024, tie_word_embeddings=False)
    return Chat(vocabulary, LocalEngine(Llama(config)), lambda name: Plain(vocabulary.ranges[name].modality), model="abc")


@pytest.fixture
def conversation(chat, tmp_path):
    conversation = Journal.create(tmp_path).conversation()
    for seed, output in enumerate(["music", None, "image"]):
        settings = Settings(output=output, max_new=60, limits={"music": 5, "speech": 9})
        list(chat.reply(conversation, Message(f"say <b>{seed}</b>", (("image", picture(seed)),)), seed=seed + 40, settings=settings))
    return conversation


def test_there_and_back(chat, conversation, tmp_path, vocabulary):
    data = archive.pack(conversation, "A <title>", "mini", "abc")
    found = archive.unpack(data, vocabulary)
    assert (found.title, found.family, found.model) == ("A <title>", "mini", "abc")
    again = archive.restore(found, Journal.create(tmp_path))
    assert [turn.ids for turn in again.turns] == [turn.ids for turn in conversation.turns]
    assert [turn.facts for turn in again.turns] == [turn.facts for turn in conversation.turns]
    for old, new in zip(conversation.turns, again.turns, strict=True):
        for one, other in zip(old.parts, new.parts, strict=True):
            if isinstance(one, MediaPart):
                assert (one.codes == other.codes).all()
                old_bytes = (conversation.journal.folder / one.file).read_bytes()
                assert old_bytes == (again.journal.folder / other.file).read_bytes()
    page = zipfile.ZipFile(io.BytesIO(data)).read("index.html").decode()
    assert "<b>" not in page and 'src="data:image/png' in page and 'src="http' not in page and "<script" not in page


def test_replies_are_made_again(chat, conversation, vocabulary):
    found = archive.unpack(archive.pack(conversation, "x", "mini", "abc"), vocabulary)
    assert [item.state for item in archive.replay(found, chat)] == ["same"] * 3
    record = json.loads(zipfile.ZipFile(io.BytesIO(archive.pack(conversation, "x", "mini", "abc"))).read("chat.json"))
    record["turns"][1]["facts"]["seed"] += 1
    record["turns"][3]["facts"] = {}
    changed = archive.Archive("x", "mini", "abc", tuple(map(archive.from_record, record["turns"])), {})
    assert [item.state for item in archive.replay(changed, chat)] == ["different", "skipped", "same"]


def test_parts_that_were_made_anew_are_made_again(chat, conversation, vocabulary):
    drawn = Settings(max_new=60, limits={"music": 5, "speech": 9})
    place = next(number for number, part in enumerate(conversation.turns[1].parts) if isinstance(part, MediaPart))
    first = conversation.turns[1].ids
    list(chat.again(conversation, 1, place, seed=71, settings=drawn))
    assert conversation.turns[1].ids != first
    list(chat.reply(conversation, Message("and now"), seed=90, settings=Settings(output="image", max_new=60)))
    list(chat.again(conversation, 1, place, seed=72, settings=drawn))
    newest = next(number for number, part in enumerate(conversation.turns[7].parts) if isinstance(part, MediaPart))
    list(chat.again(conversation, 7, newest, seed=73, settings=drawn))
    list(chat.reply(conversation, Message("and then"), seed=91, settings=Settings(max_new=30)))
    assert [turn.facts.get("seen") for turn in conversation.turns[1::2]] == [None, None, None, [[1, 1]], [[1, 2], [7, 1]]]
    saved = archive.pack(conversation, "x", "mini", "abc")
    found = list(archive.replay(archive.unpack(saved, vocabulary), chat))
    assert [item.state for item in found] == ["same"] * 5 and found[0].ids > len(first)

    def states(change):
        record = json.loads(zipfile.ZipFile(io.BytesIO(saved)).read("chat.json"))
        change(record["turns"])
        changed = archive.Archive("x", "mini", "abc", tuple(map(archive.from_record, record["turns"])), {})
        return list(archive.replay(changed, chat))

    found = states(lambda turns: turns[1]["facts"]["edits"][1].update(seed=1))
    assert [item.state for item in found] == ["different", "same", "same", "same", "same"]
    found = states(lambda turns: [edit.pop("was") for edit in turns[1]["facts"]["edits"]])
    assert [item.state for item in found][::4] == ["skipped", "same"] and "older version" in found[0].cause
    assert all(item.state == "same" or "older version" in item.cause for item in found[1:])
    assert any(item.state == "skipped" for item in found[1:]), "what they saw is not in the file"
    whole = conversation.turns[7].facts["edits"][0]["was"]
    for odd in ([*whole, 10**9], [], [5], ["x"], "ids", 7, None):
        assert states(lambda turns, odd=odd: turns[7]["facts"]["edits"][0].update(was=odd))[3].state == "skipped"


def rezip(data, change):
    source = zipfile.ZipFile(io.BytesIO(data))
    record = json.loads(source.read("chat.json"))
    change(record)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("chat.json", json.dumps(record))
        for name in source.namelist():
            if name.startswith("media/"):
                file.writestr(name, b"<svg onload=alert(1)>" if record.get("spoil") else source.read(name))
    return out.getvalue()


CHANGES = [
    lambda record: record.pop("turns"),
    lambda record: record.update(format=99),
    lambda record: record.update(spoil=True),
    lambda record: record["turns"][0]["parts"][0].update(file="../../evil"),
    lambda record: record["turns"][0]["parts"][0].update(file="missing.png"),
    lambda record: record["turns"][0]["parts"][0].update(codes=[[-1]] * 32),
    lambda record: record["turns"][0]["parts"][0].update(type="smell"),
    lambda record: record["turns"][1].update(ids=[10**9]),
    lambda record: record["turns"][1].update(role="root"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_forged_zip_is_refused(conversation, vocabulary, change):
    with pytest.raises(UserError):
        archive.unpack(rezip(archive.pack(conversation, "x", "mini", "abc"), change), vocabulary)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04nothing", b"hello"])
def test_what_is_no_zip_is_refused(vocabulary, data):
    with pytest.raises(UserError, match="not a saved chat"):
        archive.unpack(data, vocabulary)
