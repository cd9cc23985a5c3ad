"""The command line of the page, and what its view does with words and turns."""

from __future__ import annotations

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import html
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

import app


@pytest.mark.parametrize("argv", [["--share"], ["--host", "0.0.0.0"], ["--auth", "nobody"]])
def test_exposure_needs_a_password_or_a_clear_word(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        app.arguments(argv)
    assert "--auth" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["--share", "--public"], ["--host", "0.0.0.0", "--auth", "me:secret"], ["--port", "8000"]])
def test_allowed_command_lines(argv: list[str]) -> None:
    assert app.arguments(argv).public == ("--public" in argv)


def test_a_missing_family_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    assert app.main(["--family", str(tmp_path)]) == 1
    assert "manifest.json" in capsys.readouterr().err


@given(st.text())
def test_words_are_inert_and_unchanged(text: str) -> None:
    from anygpt_demo.view import literal

    made = literal(text)
    assert not set(made) & set("<>\"'`*_[]()!$\\~|@:./-+=")
    kept = "".join(sign for sign in text if sign in "\n\t" or unicodedata.category(sign) not in ("Cc", "Cs", "Cn"))
    assert html.unescape(made) == kept


def test_uploads_are_taken_from_the_upload_folder_only(tmp_path: object) -> None:
    from pathlib import Path
    from types import SimpleNamespace

    from anygpt_demo.errors import BadText
    from anygpt_demo.turns import read_items

    secret = Path(str(tmp_path)) / "secret.png"
    secret.write_bytes(b"secret")
    chat = SimpleNamespace(modalities=("image",), vocabulary=None)
    for items in (
        [{"kind": "image", "path": str(secret)}],
        [{"kind": "image", "path": "../../etc/passwd"}],
        [{}],
        [{"kind": "other"}],
        [{}] * 9,
        "x",
    ):
        with pytest.raises(BadText):
            read_items(chat, items)  # type: ignore[arg-type]


def test_sessions_are_found_by_key_only(tmp_path: object) -> None:
    from pathlib import Path

    from anygpt_demo.visitors import Visitors

    visitors = Visitors(Path(str(tmp_path)))
    one = visitors.find(None)
    assert visitors.find(one.key, one.chat) is one
    for key in ("../../etc", "", one.key[:-1], one.key + "0", 7, ["x"]):
        assert visitors.find(key) is not one
    visitors.leave(one, erase=True)
    assert not one.folder.exists()
