"""Chats of the small world: repeatable, complete, and free of what is held out."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice

import pytest

from anygpt_demo.synth import dialogues as chats
from anygpt_demo.synth import holdout, phrasings, topics
from anygpt_demo.synth.phrasings import asked
from anygpt_demo.synth.poems import poem
from anygpt_demo.synth.spoken import plain, spoken_items, spoken_sentences, understand


@pytest.fixture(scope="module")
def source() -> chats.FreeSource:
    return chats.FreeSource(1, pool=1500)


@pytest.fixture(scope="module")
def written(source: chats.FreeSource) -> list[chats.Dialogue]:
    return list(islice(chats.dialogues(3, source), 3000))


def texts(dialogue: chats.Dialogue) -> Iterator[tuple[str, str]]:
    """(role, words) of all typed or spoken parts."""
    for turn in dialogue.turns:
        for part in turn.parts:
            if isinstance(part, chats.Words):
                yield turn.role, part.text
            elif isinstance(part, chats.SpeechPart):
                yield turn.role, part.item.text


def test_equal_seeds_give_equal_chats(source: chats.FreeSource) -> None:
    first, second = (list(islice(chats.dialogues(5, source), 40)) for _ in range(2))
    assert first == second
    assert first != list(islice(chats.dialogues(6, source), 40))
    assert list(islice(spoken_sentences(2), 50)) == list(islice(spoken_sentences(2), 50))


def test_every_pattern_is_written(written: list[chats.Dialogue]) -> None:
    found = {dialogue.pattern for dialogue in written}
    assert found >= {name for name in chats.PATTERNS if name != "sm-t"} - {"sp-m", "sm-p"}
    given = {(letter, name.split("-")[1][0]) for name in found for letter in name.split("-")[0] if "-" in name}
    assert {(source, target) for source in "tspm" for target in "tspm"} - given <= {("p", "p")}


@pytest.mark.parametrize("pattern", list(chats.PATTERNS))
def test_turns_alternate_and_replies_come_last(pattern: str, source: chats.FreeSource) -> None:
    dialogue = chats.write(pattern, random.Random(pattern), source)
    roles = [turn.role for turn in dialogue.turns]
    assert roles == ["human", "mmgpt"] * (len(roles) // 2) and roles
    for before, turn in zip(dialogue.turns, dialogue.turns[1:], strict=False):
        spoken = [part.item.text for part in before.parts if isinstance(part, chats.SpeechPart)]
        if turn.role == "mmgpt" and turn.heard is not None:
            assert turn.heard == spoken[0]
        assert all(part.text.strip() for part in turn.parts if isinstance(part, chats.Words))


def test_answers_are_true(written: list[chats.Dialogue]) -> None:
    for dialogue in written:
        if dialogue.pattern == "p-t":
            scene = next(part.scene for part in dialogue.turns[0].parts if isinstance(part, chats.PicturePart))
            answer = next(part.text for part in dialogue.turns[1].parts if isinstance(part, chats.Words))
            assert answer == f"I see {chats.scene_words(scene)}."
        if dialogue.pattern == "s-p":
            item = next(part.item for part in dialogue.turns[0].parts if isinstance(part, chats.SpeechPart))
            scene = next(part.scene for part in dialogue.turns[1].parts if isinstance(part, chats.PicturePart))
            assert item.facts.items() <= chats.scene_facts(scene).items()


def test_held_out_phrasings_and_pairs_stay_out(written: list[chats.Dialogue]) -> None:
    openings = chats.held_out_openings()
    whole = {plain(form) for form in holdout.PHRASINGS if "{" not in form}
    for dialogue in written:
        for role, text in texts(dialogue):
            if role == "human":
                assert plain(text) not in whole
                assert not any(text.lower().startswith(opening) for opening in openings)
        for turn in dialogue.turns:
            for part in turn.parts:
                if isinstance(part, chats.PicturePart):
                    assert all(holdout.picture_allowed(thing.noun, part.scene.place) for thing in part.scene.things)
                if isinstance(part, chats.MusicPart):
                    assert (part.piece.lead, part.piece.genre) not in holdout.MUSIC_PAIRS


def test_held_out_tables() -> None:
    assert asked(phrasings.ASK_CAPTION, heldout=True) == ("What is shown here?",)
    assert not set(asked(phrasings.ASK_CAPTION)) & holdout.PHRASINGS
    tables = [value for name, value in vars(phrasings).items() if isinstance(value, tuple) and name.isupper()]
    known = {form for table in (*tables, topics.ASK_TOPIC) for form in table}
    assert known >= holdout.PHRASINGS


def test_breadth(written: list[chats.Dialogue]) -> None:
    assert len(topics.TOPICS) >= 60
    words = {word for dialogue in written for _, text in texts(dialogue) for word in plain(text).split()}
    assert len(words) >= 1100


def test_spoken_sentences_are_plain_words() -> None:
    for item in islice(spoken_items(4), 1500):
        assert item.text == plain(item.text)
        assert 1 <= len(item.text.split()) <= 20


def test_meaning_is_read_back() -> None:
    wrong = 0
    for item in islice(spoken_items(9), 1000):
        read = understand(item.text)
        wrong += read.kind != item.kind or (item.kind == "draw" and read.facts != item.facts)
    assert wrong <= 10
    assert understand("please draw two orange cars by a lake at night").facts == {
        "noun": "car", "colour": "orange", "count": "2", "place": "lake", "time": "night",
    }  # fmt: skip
    assert understand("the quick brown fox").kind == "other"


def test_poems_have_four_lines() -> None:
    for topic in topics.TOPICS:
        assert len(poem(topic, random.Random(1)).splitlines()) == 4
