"""The stage that encodes what the language model learns from."""

from pathlib import Path

import pytest

from anygpt_demo.checkpoints import Family
from anygpt_demo.codecs.speech import SpeechCodec
from anygpt_demo.synth.make import SPEECH_SETS
from anygpt_demo.train import codes, music_codes, picture_codes, picture_data, speech_codes, word_spans
from anygpt_demo.train.loop import Settings


@pytest.mark.parametrize("again", [False, True])
def test_complete_codes_are_made_anew_only_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool):
    made: list[str] = []
    monkeypatch.setattr(picture_data, "make_stock", lambda folder, seed: None)
    monkeypatch.setattr(picture_codes, "make_codes", lambda settings: made.append("pictures"))
    monkeypatch.setattr(music_codes, "make", lambda settings: made.append("music"))
    (tmp_path / "data" / "codes" / "music").mkdir(parents=True)
    (tmp_path / "data" / "codes" / "music" / "replies.u16").touch()
    settings = Settings(budget_s=1.0, runs=tmp_path)
    codes.pictures(settings, again)
    codes.music(settings, again)
    assert made == (["pictures", "music"] if again else ["pictures"])


def test_sets_that_are_heard_are_also_heard_through_another_microphone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made: list[tuple[str, int]] = []
    monkeypatch.setattr(Family, "open", lambda path: None)
    monkeypatch.setattr(SpeechCodec, "load", lambda family, device: None)
    monkeypatch.setattr(speech_codes, "encode_set", lambda folder, codec, augmented=0: made.append((folder.name, augmented)))
    monkeypatch.setattr(word_spans, "write", lambda folder: None)
    for name in SPEECH_SETS:
        (tmp_path / "data" / "speech" / name).mkdir(parents=True)
        (tmp_path / "data" / "speech" / name / "index.json").write_text("[]")
    codes.speech(Settings(budget_s=1.0, runs=tmp_path))
    assert {name for name, augmented in made if not augmented} == set(SPEECH_SETS)
    assert {name for name, augmented in made if augmented} == set(codes.HEARD) <= set(SPEECH_SETS)
