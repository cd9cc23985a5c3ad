"""Figures against their gates."""

import json
from pathlib import Path

import pytest

from anygpt_demo import cli
from anygpt_demo.eval.table import GATES, SUMMARY, put_between, row, summary, table


@pytest.mark.parametrize(
    ("key", "value", "state"),
    [
        ("picture_recon.object", 0.93, "goal"), ("picture_recon.object", 0.92, "must"), ("picture_recon.object", 0.79, "short"),
        ("speech_to_text.wer_seen_voices", 0.05, "goal"), ("speech_to_text.wer_seen_voices", 0.16, "short"),
        ("chat.malformed", 0.0, "goal"),
    ],
)  # fmt: skip
def test_a_row_says_what_is_reached(key: str, value: float, state: str):
    line = row(key, {"value": value, "ci95": [0.0, 1.0], "ceiling": None, "floor": 0.1, "n": 50})
    assert line.endswith(f"| {state} |")


def test_what_was_not_measured_stays_in_the_table():
    assert "| `matrix.min_cell` | not measured |" in table({})


def test_a_table_takes_the_place_of_the_one_before(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- gates -->\nold\n<!-- /gates -->\nafter\n")
    for _ in range(2):
        put_between(page, "gates", "new")
        assert page.read_text() == "before\n<!-- gates -->\nnew\n<!-- /gates -->\nafter\n"
    with pytest.raises(ValueError, match="no place for bench"):
        put_between(page, "bench", "new")


def test_a_section_measured_alone_leaves_the_others_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file, found = tmp_path / "figures.json", {"figures": {"chat.facts": {"value": 2}}, "missing": {}}
    file.write_text(
        json.dumps({"figures": {"chat.facts": {"value": 1}, "matrix.t-t": {"value": 3}}, "missing": {"voice_clone": "no", "chats": "no"}})
    )
    monkeypatch.setattr(cli, "call", lambda name: lambda settings: found)
    assert cli.main(["eval", "mini", "--json", str(file), "--set", "sections=chats"]) == 0
    assert json.loads(file.read_text())["figures"] == {"chat.facts": {"value": 2}, "matrix.t-t": {"value": 3}}
    assert json.loads(file.read_text())["missing"] == {"voice_clone": "no"}
    assert cli.main(["eval", "mini", "--json", str(file)]) == 0
    assert json.loads(file.read_text()) == found


def test_the_short_table_shows_what_was_measured_whole():
    item = {"value": 0.5, "ci95": [0.4, 0.6], "n": 40}
    figures = {key: item for _, keys in SUMMARY for key in keys}
    lines = summary(figures).splitlines()
    assert len(lines) == 2 + len(SUMMARY) and all(line.count("|") == 4 for line in lines)
    assert "0.50 [0.40, 0.60] / 0.50 [0.40, 0.60] | 40 |" in lines[5]
    del figures["chat.facts"]
    assert len(summary(figures).splitlines()) == 1 + len(SUMMARY)
    assert GATES.keys() >= {"text_to_picture.object", "chat.facts"}
