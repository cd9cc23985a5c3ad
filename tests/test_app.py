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


@pytest.mark.parametrize(("public", "limit_mb"), [(True, 20), (False, 64)])
def test_uploads_are_limited_where_they_arrive(public: bool, limit_mb: int, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """While no model is there: what is too large is refused before anything reads it."""
    from pathlib import Path

    import httpx

    from anygpt_demo.loading import Loading
    from tests.browser.stage import Stage

    monkeypatch.setenv("GRADIO_TEMP_DIR", os.environ.get("GRADIO_TEMP_DIR", ""))  # as it was, afterwards
    loading, folder = Loading(), Path(str(tmp_path))
    stage = Stage(folder, public=public, loading=loading)

    def upload(size: int) -> httpx.Response:
        return httpx.post(f"{stage.url}gradio_api/upload", files={"files": ("tune.wav", bytes(size))}, timeout=600, trust_env=False)

    try:
        assert upload(limit_mb * 1024**2).status_code == 200
        assert upload(limit_mb * 1024**2 + 1).status_code == 413
        assert not [path for path in folder.rglob("*.wav") if path.stat().st_size > limit_mb * 1024**2]
        assert stage.actor.heard == 0 and not loading.there.is_set()
    finally:
        loading.there.set()
        loading.done.set()
        stage.close()
