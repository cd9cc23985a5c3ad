"""The command line: help, refusals, one turn from a script, a conversation, codes and back, training dispatch."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from anygpt_demo import cli, terminal
from anygpt_demo.conversation import Journal
from anygpt_demo.media import read_picture, write_png, write_wav
from tests.test_chat import block, make, picture, sound, written  # noqa: F401 - make is a fixture

REPO = Path(__file__).parent.parent


def shell(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "anygpt_demo", *words], capture_output=True, text=True, cwd=REPO)


@pytest.fixture
def speaking(monkeypatch, make, vocabulary):  # noqa: F811
    """Lets every command use a chat with a scripted engine."""

    def use(*replies):
        chat = make(*replies)
        monkeypatch.setattr(terminal, "open_chat", lambda options: chat)
        return chat

    return use


@pytest.fixture
def files(tmp_path):
    (tmp_path / "p.png").write_bytes(write_png(picture(9)))
    (tmp_path / "s.wav").write_bytes(write_wav(sound(1.0)))
    (tmp_path / "t.txt").write_text("hello <eos> there", encoding="utf-8")
    return tmp_path


def test_help_and_version_need_no_model():
    assert "chat" in shell("--help").stdout
    assert shell("version").stdout.strip()
    code = "import sys, anygpt_demo.cli as c; c.arguments(); print([m for m in ('torch', 'gradio', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO).stdout.strip() == "[]"


def test_a_refusal_is_three_lines_and_status_2(tmp_path):
    done = shell("chat", "--once", "--text", "hi", "--family", str(tmp_path), "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.strip().split("\n")) == 3
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["chat", "--once", "--nope"], ["train", "nothing"], ["synth", "x"], ["eval"], [], ["tokenize"]])
def test_bad_usage_is_explained(words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2 and "usage" in capsys.readouterr().err


def test_one_turn_from_a_script(speaking, vocabulary, files, capsys):
    image, speech = block(vocabulary, "image", 40), block(vocabulary, "speech", 7)
    speaking(written(vocabulary, " ", [vocabulary.ins], " draw\n ", [vocabulary.res], " here ", image, " done ", speech))
    out = files / "out"
    status = cli.main(
        [
            "chat",
            "--once",
            "--text",
            "go",
            "--image",
            str(files / "p.png"),
            "--image",
            str(files / "p.png"),
            "--speech",
            str(files / "s.wav"),
        ]
        + ["--voice", str(files / "s.wav"), "--seed", "3", "--out", str(out), "--json"]
    )
    reply = json.loads((out / "reply.json").read_text(encoding="utf-8"))
    assert status == 0 and json.loads(capsys.readouterr().out) == reply
    assert [part["type"] for part in reply["parts"]] == ["text", "image", "text", "speech"] and reply["heard"] == "draw"
    assert np.array(reply["parts"][1]["codes"]).shape == (32, 1) and (np.array(reply["parts"][1]["codes"]) == 40).all()
    assert read_picture((out / reply["parts"][1]["file"]).read_bytes()).rgb[0, 0].tolist() == [40, 40, 40]
    with wave.open(str(out / reply["parts"][3]["file"])) as file:
        assert file.getframerate() == 16000 and file.getnframes() == 5 * 320
    assert reply["parts"][3]["transcript"] == "here done" and reply["reason"] == "eos" and reply["seed"] == 3
    assert [part["type"] for part in reply["human"]] == ["image", "image", "speech", "text"]
    assert {"load", "encode", "first_token", "generate", "decode", "total"} <= set(reply["times"])


def test_own_numbers_for_drawing(speaking, vocabulary, files, capsys):
    speaking(written(vocabulary, " yes"))
    given = ["chat", "--once", "--text", "x", "--out", str(files / "out"), "--sampling"]
    parsed = cli.arguments().parse_args([*given, "music.guidance=2", "--sampling", "music.top_k=7", "--sampling", "text.temperature=0"])
    assert terminal.sampling_of(parsed) == {"music": {"guidance": 2.0, "top_k": 7}, "text": {"temperature": 0.0}}
    for wrong in ("music", "smell.top_k=7", "music.top_k=x", "music.tries=2", "music.temperature=9"):
        assert cli.main([*given, wrong]) == 2
        assert len(capsys.readouterr().err.strip().split("\n")) == 3


def test_a_bad_file_is_refused_before_anything_is_written(speaking, vocabulary, files, capsys):
    speaking(written(vocabulary, " no"))
    for name in ("t.txt", "absent.png"):
        assert cli.main(["chat", "--once", "--image", str(files / name), "--out", str(files / "out")]) == 2
        assert len(capsys.readouterr().err.strip().split("\n")) == 3 and not (files / "out").exists()
    assert cli.main(["chat", "--once", "--out", str(files / "out")]) == 2


def test_a_failed_part_shows_in_the_status(speaking, vocabulary, files):
    speaking(written(vocabulary, " a ", block(vocabulary, "image", 13), " b"))
    assert cli.main(["chat", "--once", "--text", "x", "--out", str(files / "out")]) == 1
    reply = json.loads((files / "out" / "reply.json").read_text(encoding="utf-8"))
    assert len(reply["errors"]) == 1 and [part["type"] for part in reply["parts"]] == ["text", "image", "text"]


def test_a_conversation_in_the_terminal(speaking, vocabulary, files, capsys, monkeypatch):
    chat = speaking(written(vocabulary, " one ", block(vocabulary, "image")), written(vocabulary, " two"), written(vocabulary, " three"))
    lines = [
        "hello",
        f"/image {files / 'p.png'}",
        "/nonsense",
        "/output text",
        f"/voice {files / 't.txt'}",
        "again",
        "/clear",
        "anew",
        "/quit",
    ]
    monkeypatch.setattr("builtins.input", lambda prompt: lines.pop(0))
    assert cli.main(["chat", "--out", str(files / "session")]) == 0
    shown = capsys.readouterr().out
    assert "one" in shown and "two" in shown and ".png]" in shown and shown.count(terminal.HELP) == 2
    assert len(chat.engine.prompts[1]) > len(chat.engine.prompts[0]) > 0
    assert chat.engine.prompts[2].count(vocabulary.human) == 1
    assert [turn.text for turn in Journal(files / "session").turns] == ["anew", "three"]


@pytest.mark.parametrize(("name", "kind"), [("p.png", "image"), ("s.wav", "speech"), ("t.txt", "text")])
def test_codes_and_back(speaking, vocabulary, files, capsys, name, kind):
    speaking()
    assert cli.main(["tokenize", str(files / name), "--out", str(files / "codes.json")]) == 0
    record = json.loads((files / "codes.json").read_text(encoding="utf-8"))
    assert record["modality"] == kind
    assert cli.main(["detokenize", str(files / "codes.json"), "--out", str(files / "back")]) == 0
    shown = capsys.readouterr().out.strip()
    if kind == "text":
        assert shown == "hello <eos> there" and max(record["ids"]) < vocabulary.text_size
    else:
        assert vocabulary.block(kind, np.array(record["codes"])) == record["ids"]
        assert Path(shown).stat().st_size > 100


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"modality": "image", "codes": [[1]]}', '{"modality": "smell", "ids": []}', '{"modality": "music", "ids": [1, 2]}'],
)
def test_bad_codes_are_refused(speaking, capsys, monkeypatch, text):
    speaking()
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert cli.main(["detokenize"]) == 2
    assert len(capsys.readouterr().err.strip().split("\n")) == 3


def test_stages_get_their_settings(monkeypatch, tmp_path, capsys):
    seen = []
    monkeypatch.setattr(cli, "call", lambda target: lambda settings: seen.append((target, settings)))
    words = [
        "train",
        "llm",
        "--budget",
        "20m",
        "--runs",
        str(tmp_path),
        "--family",
        str(tmp_path),
        "--seed",
        "5",
        "--threads",
        "1",
        "--set",
        "a=b",
    ]
    assert cli.main(words) == 0
    target, settings = seen[0]
    assert target == "anygpt_demo.train.llm:train" and settings.budget_s == 1200 and settings.options == {"a": "b"} and settings.seed == 5
    assert cli.main(["synth", "all"]) == 0 and len(seen) == 4
    assert cli.main(["train", "llm", "--budget", "soon"]) == 2


def test_figures_are_written(monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "call", lambda target: lambda settings: {"figures": {}})
    assert cli.main(["eval", "mini", "--json", str(tmp_path / "f.json")]) == 0
    assert json.loads((tmp_path / "f.json").read_text()) == {"figures": {}}
