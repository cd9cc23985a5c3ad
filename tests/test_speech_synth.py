"""Synthetic speech, its labels, the sets on disk, and what is held out."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anygpt_demo.synth import speech, speech_text, topics
from anygpt_demo.synth.holdout import HELD_OUT_VOICE, held_out_sentence, held_out_speaker
from anygpt_demo.train.speech_data import SpeechSet

flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")


def test_the_inventory_is_silence_and_forty_phones() -> None:
    assert len(speech.PHONES) == len(set(speech.PHONES)) == 41
    assert speech.PHONES[0] == "pau"
    assert all(target in speech.PHONE_ID for target in speech.ALIASES.values())
    assert speech.phone_id("hv") == speech.phone_id("hh") != 0
    assert speech.phone_id("nonsense") == 0


def test_end_times_become_frames() -> None:
    labels = speech.frame_labels([("pau", 0.04), ("k", 0.1), ("ae", 0.2), ("t", 9.0)], 12)
    assert labels.dtype == np.uint8
    assert [speech.PHONES[label] for label in labels] == ["pau"] * 2 + ["k"] * 3 + ["ae"] * 5 + ["t"] * 2
    assert speech.frame_labels([("k", 0.02)], 3).tolist() == [speech.phone_id("k"), 0, 0]


@pytest.mark.parametrize(("voice", "parts"), [("slt", ("slt", 0)), ("kal16+3", ("kal16", 3)), ("slt-4", ("slt", -4))])
def test_voice_names(voice: str, parts: tuple[str, int]) -> None:
    assert speech.split_voice(voice) == parts


def test_drawn_voices_stay_inside_the_intelligible_ranges_and_never_the_held_out_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        base, shift = speech.split_voice(speech.draw_voice(rng))
        assert base in speech.VOICES and base != HELD_OUT_VOICE
        assert shift == 0 or shift in speech.SHIFTS[base]


def test_a_set_on_disk_reads_back(tmp_path: Path) -> None:
    waves = [np.linspace(-0.5, 0.5, n, dtype=np.float32) for n in (1000, 640, 321)]
    with speech.SetWriter(tmp_path) as writer:
        writer.add(waves[0], np.array([1, 2, 3, 0]), text="a", voice="slt", source="slt", split="train")
        writer.add(waves[1], None, text="", voice="x", source="y", split="test")
        writer.add(waves[2], np.array([7, 8]), text="b", voice="rms", source="rms", split="train")
    found = SpeechSet(tmp_path)
    assert [clip.frames for clip in found.clips] == [4, 2, 2]
    assert found.split("train") == [found.clips[0], found.clips[2]]
    for clip, wave in zip(found.clips, waves, strict=True):
        np.testing.assert_allclose(found.wave(clip)[: len(wave)], wave, atol=1e-4)
        assert len(found.wave(clip)) == 320 * len(found.labels(clip))
    assert found.labels(found.clips[1]).tolist() == [-1] * 2
    assert found.labels(found.clips[2]).tolist() == [7, 8]
    speech.replace_phones(tmp_path, np.arange(8))
    assert SpeechSet(tmp_path).labels(found.clips[2]).tolist() == [6, 7]


@flite
def test_spoken_sentences_are_repeatable_and_labelled(tmp_path: Path) -> None:
    texts = ["the cat sat down", "good morning"]
    for name in ("one", "two"):
        speech.make(tmp_path / name, texts, 5, 1.0, voices=("kal16",))
    first, second = SpeechSet(tmp_path / "one"), SpeechSet(tmp_path / "two")
    assert np.array_equal(first.audio, second.audio)
    assert [replace(clip, set="") for clip in first.clips] == [replace(clip, set="") for clip in second.clips]
    heard = [speech.PHONES[label] for label in dict.fromkeys(first.labels(first.clips[0]).tolist())]
    assert {"k", "ae", "t", "s", "d", "aw", "n"} <= set(heard)
    assert 0.3 < np.abs(first.wave(first.clips[0])).max() < 0.9


@flite
def test_the_split_of_a_set_follows_the_held_out_list(tmp_path: Path) -> None:
    words = (f"we have {number} apples" for number in itertools.count())
    held = next(text for text in words if held_out_sentence(text))
    speech.make(tmp_path, ["we have a pear", held], 0, 1.0, voices=("kal16",))
    assert [clip.split for clip in SpeechSet(tmp_path).clips] == ["test" if held_out_sentence("we have a pear") else "train", "test"]


def test_held_out_lists_do_not_depend_on_spelling_details() -> None:
    assert held_out_sentence("Draw a cat!", 50) == held_out_sentence("draw  a CAT", 50)
    share = np.mean([held_out_sentence(f"sentence number {number}") for number in range(4000)])
    assert 0.015 < share < 0.045
    assert 0.06 < np.mean([held_out_speaker(f"libri-{number}") for number in range(2000)]) < 0.14


def test_general_sentences_without_data_are_endless_and_never_repeat(caplog: pytest.LogCaptureFixture) -> None:
    first = list(itertools.islice(speech_text.sentences(1, None), 300))
    assert first == list(itertools.islice(speech_text.sentences(1, None), 300))
    assert len(set(first)) == 300
    assert not any("{" in text for text in first)
    assert "fewer words" in caplog.text


def test_what_mini_says_begins_with_its_answers_and_never_repeats() -> None:
    answers = {text for table in (*topics.TOPICS.values(), topics.SORRY) for text in table}
    texts = list(itertools.islice(speech_text.own_sentences(1, None), 700))
    assert answers <= set(texts) and len(set(texts)) == 700
    assert texts == list(itertools.islice(speech_text.own_sentences(1, None), 700))


@flite
def test_mini_says_everything_in_one_voice_at_one_tempo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech_text, "own_sentences", lambda seed, data: iter(["good morning", "good morning"]))
    speech.make_set("own", tmp_path, None)
    first, again = SpeechSet(tmp_path / "own").clips
    assert first.voice == again.voice == speech.OWN_VOICE and first.frames == again.frames


def test_human_recordings_are_split_by_prompt_and_speaker(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    wave = io.BytesIO()
    soundfile.write(wave, 0.3 * np.sin(np.arange(16_000) / 9), 16_000, format="OGG", subtype="VORBIS")
    names = [f"{speaker}-1-0000" for speaker in range(40)]
    with tarfile.open(tmp_path / "librispeech_clean251.tar", "w") as archive:
        for name in names:
            member = tarfile.TarInfo(f"librispeech_clean251/{name}.ogg")
            member.size = len(wave.getvalue())
            archive.addfile(member, io.BytesIO(wave.getvalue()))
    assert speech.make_human(tmp_path / "set", tmp_path) > 0
    rows = json.loads((tmp_path / "set" / "index.json").read_text())
    assert len(rows) == 40
    assert all((row["split"] == "test") == held_out_speaker(row["voice"]) for row in rows)
    assert {row["split"] for row in rows} == {"train", "test"}
