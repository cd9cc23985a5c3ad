"""Two measurements side by side: which figures got worse, and the bits that `eval mini` is asked to measure."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from anygpt_demo.checkpoints import MINI
from anygpt_demo.eval import compare, mini, precision
from anygpt_demo.train.loop import Settings


def item(value: float, n: int = 40) -> dict:
    return {"value": value, "ci95": [value - 0.1, value + 0.1], "n": n, "ceiling": None, "floor": None}


BEFORE = {"picture_recon.object": item(0.90), "speech_to_text.wer_seen_voices": item(0.050), "chat.facts": item(0.8), "no.gate": item(1.0)}
AFTER = {"picture_recon.object": item(0.88), "speech_to_text.wer_seen_voices": item(0.045), "no.gate": item(0.0)}


def test_a_loss_is_counted_from_the_side_of_its_figure():
    assert compare.drops(BEFORE, AFTER) == pytest.approx({"picture_recon.object": 2.0, "speech_to_text.wer_seen_voices": -0.5})


def test_the_table_has_the_largest_loss_first():
    lines = compare.table(BEFORE, AFTER, ("float32", "int8")).splitlines()
    assert lines[0].startswith("| figure | float32 [95 %] | int8 [95 %] |")
    assert lines[2] == "| `picture_recon.object` | 0.900 [0.800, 1.000] | 0.880 [0.780, 0.980] | +2.0 | 40 |"
    assert "| -0.5 |" in lines[3] and len(lines) == 4


@pytest.mark.parametrize(("most", "status"), [([], 0), (["--most", "1"], 1), (["--most", "2.5"], 0)])
def test_a_loss_beyond_what_is_allowed_is_an_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str], most: list[str], status: int):
    files = [tmp_path / "fp32.json", tmp_path / "int8.json"]
    for file, figures in zip(files, ({key: value for key, value in BEFORE.items() if key in AFTER}, AFTER), strict=True):
        file.write_text(json.dumps({"figures": figures, "missing": {}}))
    assert compare.main([*map(str, files), *most]) == status
    assert "| fp32 [95 %] | int8 [95 %] |" in capsys.readouterr().out


def test_what_was_measured_once_is_no_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    files = [tmp_path / "fp32.json", tmp_path / "int8.json"]
    for file, figures in zip(files, (BEFORE, AFTER), strict=True):
        file.write_text(json.dumps({"figures": figures, "missing": {}}))
    names = [*map(str, files)]
    assert compare.main([*names, "--most", "2.5"]) == 1 and "Only in one of them: chat.facts" in capsys.readouterr().out
    assert compare.main(names) == 0
    for file in files:
        file.write_text(json.dumps({"figures": {"music_us": item(80.0)}, "missing": {}}))
    assert compare.main(names) == 1  # no file of eval mini


@pytest.mark.parametrize(("options", "asked"), [({}, "auto"), ({"quantize": "none"}, "none")])
def test_the_language_model_is_measured_in_the_bits_that_are_asked_for(monkeypatch: pytest.MonkeyPatch, options: dict, asked: str):
    seen = []
    monkeypatch.setattr(mini.Family, "open", lambda folder: "family")
    monkeypatch.setattr(mini.LocalEngine, "load", lambda family, quantize: seen.append((family, quantize)) or "engine")
    monkeypatch.setattr(mini.Vocabulary, "of", lambda family: "vocabulary")
    subject = mini.Subject(Settings(1.0, options=options))
    assert subject.speaker is subject.speaker and (subject.speaker.engine, subject.speaker.vocabulary) == ("engine", "vocabulary")
    assert seen == [("family", asked)]


def test_what_does_not_need_the_language_model_is_measured_without_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mini.Family, "open", lambda folder: SimpleNamespace())
    monkeypatch.setattr(mini.LocalEngine, "load", lambda *given, **options: pytest.fail("it was loaded"))
    monkeypatch.setitem(mini.SECTIONS, "music_recon", lambda subject: iter([("music_recon.tempo", {"value": 1.0})]))
    found = mini.evaluate(Settings(1.0, options={"sections": "music_recon", "quantize": "none"}))
    assert found == {"figures": {"music_recon.tempo": {"value": 1.0}}, "missing": {}}


def test_every_round_draws_each_piece_anew(monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, int]] = []
    pieces = SimpleNamespace(pieces=["waltz", "reel", "too many"])
    monkeypatch.setattr(mini.music.MusicCodec, "load", lambda family: None)
    monkeypatch.setattr(mini.music.Listener, "load", lambda path: None)
    monkeypatch.setattr(mini.music.MusicSet, "open", lambda folder: pieces)
    monkeypatch.setattr(mini.music, "truth", str)
    monkeypatch.setattr(mini.dialogues, "piece_words", str)
    monkeypatch.setattr(mini.music, "text_to_music", lambda made, truths, given, judge: {"tempo": {"n": len(made), "of": (truths, given)}})

    def make(request: str, modality: str, seed: int) -> None:
        asked.append((request, seed))

    subject = SimpleNamespace(family=None, runs=Path(), n=2, rounds=2, make=make)
    ((key, found),) = mini.text_to_music(subject)  # type: ignore[arg-type]
    again = ["waltz", "reel"] * 2
    assert key == "text_to_music.tempo" and found == {"n": 4, "of": (again, again)}
    assert [request for request, _ in asked] == ["Play waltz.", "Play reel."] * 2 and len({seed for _, seed in asked}) == 4
    assert [seed for _, seed in asked[:2]] == [0, 1]  # the first round is what one round is


def test_8_bit_hardly_changes_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    likely = precision.shares(np.array([0.0, 1.0, 2.0]), 2)
    assert likely[0] == 0 and likely.sum() == pytest.approx(1) and precision.variation(likely, likely) == 0
    assert precision.variation(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1
    monkeypatch.setattr(precision, "BEGIN", 40)
    plain, led = precision.measure(MINI, 1).values()
    assert len(plain) == len(led) == 40 and 0 < np.mean(plain) < np.mean(led) < 0.05
