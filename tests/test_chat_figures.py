"""Figures of what the language model writes: captions against written ones, letters, facts, inputs by outputs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from anygpt_demo.eval import chat, speech
from anygpt_demo.eval.metrics import character_error_rates, cider
from anygpt_demo.synth import dialogues as chats


def test_cider_counts_what_is_rare() -> None:
    written = [["a cat on a mat"], ["a dog in the sun"], ["a dog on a mat"]]
    exact = cider([texts[0] for texts in written], written)
    assert exact == pytest.approx([10.0, 10.0, 10.0])
    cat, other = cider(["a cat on a sofa", "x", "x"], written)[0], cider(["a dog on a mat", "x", "x"], written)[0]
    assert 0 < other < 10 and 0 < cat < 10
    assert cider(["a", "x", "x"], written)[0] == 0.0  # stands in every item: says nothing
    assert cider(["a cat on a mat and a cat on a mat", "x", "x"], written)[0] < 5  # too long, and repeated


def test_two_references_share_the_score() -> None:
    both = cider(["red car", "blue sea"], [["red car", "old house"], ["blue sea"]])
    assert both == pytest.approx([10 * 0.5 * 0.5, 10 * 0.5])  # two of the four sizes exist


def test_letters_are_counted_with_the_spaces_between_words() -> None:
    rates, counts = character_error_rates(["A cat!", "dog"], ["a bat", ""])
    assert rates == [1 / 5, 1.0] and counts == [5.0, 3.0]


def test_facts_of_both_kinds_are_read() -> None:
    assert chat.facts_in("I see two dogs on a beach at night.") == {"dog", "beach", "night"}
    found = chat.facts_in("Here is a slow calm folk piece in major with a jazz guitar without drums.")
    assert found == {"tempo slow", "mood calm", "genre folk", "mode major", "lead jazz guitar", "drums no"}
    assert chat.facts_in("Hello there.") == set()


def test_what_a_request_leaves_open_is_not_counted() -> None:
    asked = chats.human("Play a slow waltz.")
    truth = chat.facts_in("Here is a slow sad waltz in minor with a cello with drums.")
    given = chat.given_facts([asked])
    assert given == {"tempo slow", "genre waltz"}
    assert chat.settled_f1(chat.facts_in("Here is a slow happy waltz in major with a piano."), truth, given) == 1.0
    assert chat.settled_f1(chat.facts_in("Here is a fast waltz."), truth, given) == pytest.approx(0.5)  # one of two, and one wrong
    assert chat.settled_f1(chat.facts_in("Here is a waltz on a beach."), truth, given) == pytest.approx(0.5)  # nobody spoke of a beach
    assert chat.settled_f1(set(), truth, given) == 0.0
    assert chat.settled_f1(truth, truth, set()) is None
    assert "tempo slow" in chat.given_facts([chats.human("The same but slower.")])


def test_what_was_seen_heard_or_said_before_is_given() -> None:
    source = chats.FreeSource(3, pool=200)
    scene, piece = source.picture(random.Random(0), {}), source.piece(random.Random(0), {})
    given = chat.given_facts([chats.human(scene, "What is it?"), chats.mini("I see a cat."), chats.human(piece)])
    assert {"cat", scene.scene.place, scene.scene.time, scene.scene.things[0].noun} <= given
    assert {f"genre {piece.piece.genre}", f"tempo {piece.piece.tempo}", f"lead {piece.piece.lead}"} <= given
    kinds = [chat.kind_of(fact) for fact in ("cat", "beach", "night", "lead pan flute", "drums no")]
    assert kinds == ["thing", "place", "time", "lead", "drums"]


class Parrot:
    """Answers every chat with the same reply."""

    def __init__(self, reply: chat.Reply) -> None:
        self.reply = reply

    def answer(self, turns: object, seed: int = 0) -> chat.Reply:
        return self.reply


class Free(chats.FreeSource):
    """Held-out chats over one picture."""

    clips = SimpleNamespace(clips=())
    pictures = SimpleNamespace(codes=np.zeros((1, 32), np.uint16))
    music = None


def test_trials_score_facts_and_modalities(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Free(1, heldout=True, pool=200)
    drawn = chat.Reply(text="Here is a cat on a beach at night.", blocks=[("image", np.zeros((32, 1)))])
    found = list(chat.trials(Parrot(drawn), source, 40, patterns=("t-p",)))  # type: ignore[arg-type]
    assert len(found) == 40 and all(trial.right and trial.pattern == "t-p" for trial in found)
    assert all(trial.facts is not None and 0 <= trial.facts < 1 for trial in found)
    assert all(trial.all_facts is not None and 0 <= trial.all_facts < 1 for trial in found)
    silent = list(chat.trials(Parrot(chat.Reply(text="Hello.")), source, 5, patterns=("t-p",)))  # type: ignore[arg-type]
    assert not any(trial.right for trial in silent) and all(trial.facts == 0 for trial in silent)
    cells = dict(chat.matrix(Parrot(drawn), source, 40))  # type: ignore[arg-type]
    assert cells["matrix.t-t"]["value"] == 0.0 and cells["matrix.min_cell"]["value"] == 0.0
    assert 0 < cells["matrix.t-p"]["value"] < 1 and "matrix.s-t" not in cells


def test_late_trials_go_on_from_the_chats_before() -> None:
    class Memory(Parrot):
        asked: ClassVar[list[int]] = []
        left = 10_000

        def room(self, turns: list[object]) -> int:
            return self.left - 500 * len(turns)

        def answer(self, turns: object, seed: int = 0) -> chat.Reply:
            self.asked.append(len(turns))  # type: ignore[arg-type]
            return self.reply

    speaker = Memory(chat.Reply(text="Here it is.", blocks=[("image", np.zeros((32, 1)))]))
    found = list(chat.trials(speaker, Free(1, heldout=True, pool=200), 6, patterns=("t-p",), before=2))  # type: ignore[arg-type]
    assert len(found) == 6
    assert speaker.asked == [1, 3, 5, 5, 5, 5, 5, 5]  # each chat: a request and a reply
    speaker.asked.clear()
    speaker.left = chat.LATE_ROOM + 1700  # room for three turns
    list(chat.trials(speaker, Free(1, heldout=True, pool=200), 3, patterns=("t-p",), before=2))  # type: ignore[arg-type]
    assert speaker.asked == [1, 3, 3, 3, 3]


def test_phones_of_codes_are_counted_on_the_held_out_voice_only(tmp_path: Path) -> None:
    folder = tmp_path / "synth9"
    folder.mkdir()
    phones = np.array([0, 5, 5, 7, 7, 0] * 3, np.uint8)
    codes = np.zeros((18, 8), "<u2")
    codes[:, 0] = phones * 10
    codes[13, 0] = 70  # the held-out voice is once heard wrongly: one of four sounds
    rest = {"samples": 1920, "frames": 6, "text": "hi"}
    rows = [
        {"start": n * 1920, "frames_start": n * 6, "voice": voice, "source": voice, "split": split} | rest
        for n, (voice, split) in enumerate((("rms", "train"), ("slt", "test"), ("awb", "test")))
    ]
    (folder / "index.json").write_text(json.dumps(rows))
    np.zeros(18 * 320, np.int16).tofile(folder / "audio.i16")
    phones.tofile(folder / "phones.u8")
    codes.tofile(folder / "codes.u16")
    found = dict(speech.phone_accuracy(tmp_path))["speech_codec.phone_accuracy"]
    assert found["value"] == 0.75 and found["n"] == 1


class Ears:
    """Hears a word wrong by beams, two by the likeliest piece, and everything unless it is asked."""

    def __init__(self, text: str = "the cat sits off her mat") -> None:
        self.text = text

    @property
    def reading(self) -> Ears:
        return Ears("the cat sits on her mat")

    def answer(self, turns, seed=0, force=None, longest=0):  # type: ignore[no-untyped-def]
        return chat.Reply(text="" if force else self.text, heard="the cat sits on the mat" if force == "heard" else "")


def test_the_better_transcript_counts_and_what_is_heard_unasked_stands_beside_it() -> None:
    said = "the cat sits on the mat"
    clips = SimpleNamespace(clips=[SimpleNamespace(item=SimpleNamespace(text=said))], codes=lambda row: np.zeros(4, np.int64))
    found = {key: one["value"] for key, one in chat.heard_figures(Ears(), clips, [0], "wer_human", "cer_human")}  # type: ignore[arg-type]
    errors = {"wer_human_beams": 1 / 6, "wer_human_greedy": 2 / 6, "wer_human_unasked": 0, "wer_human": 1 / 6}
    assert {key: found[f"speech_to_text.{key}"] for key in errors} == pytest.approx(errors, abs=1e-3)
    assert found["speech_to_text.cer_human"] == found["speech_to_text.cer_human_beams"] < found["speech_to_text.cer_human_greedy"]
