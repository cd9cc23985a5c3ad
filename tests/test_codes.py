"""The stage that encodes what the language model learns from."""

from pathlib import Path

import pytest

from anygpt_demo.train import codes, music_codes, picture_codes, picture_data
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
