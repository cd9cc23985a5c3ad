"""Chats of the small world: repeatable, complete, and free of what is held out."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice

import pytest

from anygpt_demo.synth import dialogues as chats
from anygpt_demo.synth import everyday, holdout, knowledge, more_topics, phrasings, topics, world
from anygpt_demo.synth.phrasings import asked
from anygpt_demo.synth.poems import BACKDROPS, poem
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


def test_people_type_in_more_ways_than_clips_speak_and_evaluation_asks_as_nobody_did(source: chats.FreeSource) -> None:
    table = phrasings.ASK_MUSIC_CAPTION
    assert set(phrasings.typed(table)) > set(asked(table)) and phrasings.typed(table, heldout=True) == asked(table, heldout=True)
    for ways in phrasings.TYPED.values():
        assert not holdout.PHRASINGS & set(ways)
    heard = {plain(sentence) for sentence in islice(spoken_sentences(2), 500)}
    only_typed = {plain(form) for form in phrasings.TYPED[table]}
    rng = random.Random(0)
    said = {
        plain(part.text) for _ in range(200) for part in chats.write("m-t", rng, source).turns[0].parts if isinstance(part, chats.Words)
    }
    assert said & only_typed and not heard & only_typed


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


def test_breadth(source: chats.FreeSource) -> None:
    assert len(chats.written_topics()) >= 130
    words: set[str] = set()
    for dialogue in islice(chats.dialogues(7, source, have=""), 6000):
        words.update(word for _, text in texts(dialogue) for word in plain(text).split())
    assert len(words) >= 3000


def test_written_sentences_are_short_and_differ() -> None:
    sentences = [sentence for table in chats.written_topics().values() for sentence in table]
    assert len(set(sentences)) == len(sentences) >= 1100
    assert all(4 <= len(plain(sentence).split()) <= 14 and sentence[-1] in ".?!" for sentence in sentences)
    assert not {letter for sentence in sentences for letter in sentence if letter.isdigit() or not letter.isascii()}
    assert set(more_topics.FURTHER) <= set(topics.TOPICS) and not set(more_topics.NEW_TOPICS) & set(topics.TOPICS)


def test_each_question_has_one_kind_of_answer() -> None:
    rows = [questions for questions, _ in (*topics.MANNERS, *everyday.EVERYDAY, *knowledge.questions())]
    asked_once = [plain(question) for questions in rows for question in questions]
    assert len(set(asked_once)) == len(asked_once)
    answers = [answer for _, answer in knowledge.questions()]
    assert len(answers) >= 300 and not any("{" in text or any(letter.isdigit() for letter in text) for text in answers)


def test_speech_keeps_to_sentences_that_clips_speak(source: chats.FreeSource) -> None:
    tables = (*topics.TOPICS.values(), *topics.FEELINGS.values(), *(answers for _, answers in topics.MANNERS), topics.SORRY)
    spoken = {plain(text) for table in tables for text in table}
    rng = random.Random(11)
    for _ in range(200):
        for pattern in ("t-s answer", "s-s"):
            reply = chats.write(pattern, rng, source).turns[-1].parts[-1]
            assert isinstance(reply, chats.SpeechPart) and reply.item.text in spoken


def test_what_a_person_told_is_remembered(source: chats.FreeSource) -> None:
    rng, recalled = random.Random(3), 0
    asks = {plain(form) for item in everyday.PERSONAL for form in item.asks}
    values = {word for item in everyday.PERSONAL for value in item.values for word in plain(value).split()}
    for _ in range(200):
        said = [plain(text) for _, text in texts(chats.write("t-t personal", rng, source))]
        if said[-2] in asks:
            recalled += 1
            assert any(value in said[-1].split() and value in " ".join(said[:-2:2]).split() for value in values)
    assert 50 < recalled < 150


def test_a_riddle_is_answered_when_the_person_gives_up(source: chats.FreeSource) -> None:
    rng = random.Random(2)
    found = [chats.write("t-t fun", rng, source) for _ in range(100)]
    riddles = dict(everyday.RIDDLES)
    said = [[text for role, text in texts(dialogue) if role == "mmgpt"] for dialogue in found]
    assert {replies[0] in riddles for replies in said} == {True, False}
    assert all(replies[1:] == [riddles[replies[0]]] for replies in said if replies[0] in riddles)


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


def test_some_people_type_carelessly(source: chats.FreeSource) -> None:
    found = [chats.write("t-t facts", random.Random(number), source) for number in range(200)]
    small = [
        text for dialogue in found for role, text in texts(dialogue) if role == "human" and text == text.lower() and text[-1].isalpha()
    ]
    assert 30 < len(small) < 90
    assert all(text[0].isupper() for dialogue in found for role, text in texts(dialogue) if role == "mmgpt")


def test_every_place_and_time_has_verses() -> None:
    assert set(BACKDROPS) == {place.name for place in world.PLACES} | {time.name for time in world.TIMES}


def test_poems_have_four_lines() -> None:
    for topic in chats.written_topics():
        assert len(poem(topic, random.Random(1)).splitlines()) == 4
