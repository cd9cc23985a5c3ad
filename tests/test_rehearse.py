"""The rehearsal at the tiny scale: every stage, the report, refusals; and that the full scale has the published shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from anygpt_demo import cli, convert, mockup, rehearse, unpickle
from anygpt_demo.errors import UserError
from anygpt_demo.rehearse import Plan

MANIFESTS = Path(__file__).parent / "golden" / "data" / "manifests"


def test_every_stage_runs_and_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    seen = []

    def here(stage, plan, say):
        ticks: list[tuple[float, float]] = []
        rows = list(rehearse.STAGES[stage](plan, lambda done, total: ticks.append((done, total))))
        assert all(0 <= done <= total for done, total in ticks)
        seen.append(stage)
        return rows

    monkeypatch.setattr(rehearse, "run_stage", here)
    monkeypatch.setattr(convert, "in_child", lambda job, say: unpickle.work(job))
    assert cli.main(["rehearse", "--dir", str(tmp_path), "--scale", "tiny", "--threads", "1"]) == 0
    assert seen == ["write", "fetch", "quantize", "turns"]
    figures = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    rows = {row["stage"]: row for row in figures["stages"]}
    assert list(rows)[3:] == ["start", "text to text", "image to speech", "speech to music", "music to image"]
    assert all(row["seconds"] > 0 and row["peak"] > 0 for row in rows.values()) and figures["peak_bytes"] > 0
    assert rows["music to image"]["facts"]["made"] == ["image"] and rows["music to image"]["facts"]["tokens"] >= 36
    assert rows["write"]["facts"]["bytes"] > rows["fetch --from"]["facts"]["bytes"] > rows["quantize 4bit"]["facts"]["bytes"] > 0
    table = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert table.strip() in capsys.readouterr().out and "| image to speech |" in table
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"], "the random weights are gone"


def test_a_refusal_of_a_stage_reaches_the_person(tmp_path: Path):
    said: list[str] = []
    with pytest.raises(UserError, match=r"no folder official"):
        rehearse.run_stage("fetch", Plan(tmp_path, "tiny"), said.append)


def test_a_full_disk_is_seen_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rehearse, "expected_bytes", lambda scale: (10**18, 10**18))
    with pytest.raises(UserError, match="not enough room"):
        rehearse.run(Plan(tmp_path / "scratch", "tiny"), print)
    assert not list((tmp_path / "scratch").iterdir())


def test_the_full_scale_has_the_published_keys_and_shapes():
    full = mockup.full()
    files = mockup.files(full)
    assert mockup.vocabulary_size(full) == 53520
    published = {
        "anygpt/chat/pytorch_model.bin": "llama2_7b_anygpt_chat",
        "seed-tokenizer-2/eva_vit_g.pth": "eva_vit_g",
        "speechtokenizer/ckpt.dev": "speechtokenizer_snake_anygpt",
        "soundstorm/speechtokenizer_soundstorm_mls.pt": "soundstorm_anygpt",
        "encodec_32khz/model.safetensors": "encodec_32khz_hf",
    }
    for path, name in published.items():
        wanted = json.loads((MANIFESTS / f"{name}.json").read_text(encoding="utf-8"))["state_dict"]
        own = {key: list(shape) for key, (shape, _) in files[path][1].items() if not key.endswith("inv_freq")}
        assert own == {key: shape for key, (shape, _) in wanted.items()}, name
    assert 36e9 < sum(mockup.size_of(spec) for _, spec in files.values()) < 39e9


def test_a_safetensors_file_is_one(tmp_path: Path):
    noise = {name: mockup.Noise(tmp_path / name, name, 5000) for name in ("float32", "float16")}
    spec = {"a.weight": ((50, 100), "float32"), "b.weight": ((7,), "float16"), "c": ((3, 1), "float16"), "d.gamma": ((4,), "float32")}
    mockup.write_safetensors(tmp_path / "x.safetensors", spec, noise)
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    assert {key: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for key, tensor in found.items()} == spec
    assert found["b.weight"].tolist() == [1.0] * 7 and found["d.gamma"].tolist() == [1.0] * 4 and 0.01 < found["a.weight"].std() < 0.05


def test_the_bar_says_every_tenth_where_there_is_no_terminal():
    said: list[str] = []
    bar = rehearse.Bar("write", said.append)
    bar.alive = False
    for done in range(101):
        bar.show(done, 100)
    bar.end()
    assert len(said) == 11 and "100%" in said[-1]
