"""Figures against their gates."""

import pytest

from anygpt_demo.eval.table import row, table


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
