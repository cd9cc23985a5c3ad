"""The rehearsal at the tiny scale: every stage, the report, refusals; and that the full scale has the published shapes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from safetensors import safe_open

from anygpt_demo import cli, convert, mockup, rehearse, unpickle
from anygpt_demo.errors import UserError
from anygpt_demo.rehearse import Plan

MANIFESTS = Path(__file__).parent / "golden" / "data" / "manifests"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run the stages in this process. Returns the names of those that ran."""
    seen: list[str] = []

    def run_stage(stage, plan, say):
        seen.append(stage)
        ticks: list[tuple[float, float]] = []
        yield from rehearse.STAGES[stage](plan, lambda done, total: ticks.append((done, total)))
        assert all(0 <= done <= total for done, total in ticks)

    monkeypatch.setattr(rehearse, "run_stage", run_stage)
    monkeypatch.setattr(convert, "in_child", lambda job, say: unpickle.work(job))
    return seen


def test_every_stage_runs_and_is_reported(tmp_path: Path, here: list[str], capsys: pytest.CaptureFixture[str]):
    assert cli.main(["rehearse", "--dir", str(tmp_path), "--scale", "tiny", "--threads", "1"]) == 0
    assert here == ["write", "fetch", "quantize", "turns"]
    figures = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    rows = {row["label"]: row for row in figures["rows"]}
    assert list(rows)[3:] == ["start", "text to text", "image to speech", "speech to music", "music to image"]
    assert all(row["seconds"] > 0 and row["memory"] > 0 for row in rows.values())
    assert {name: peak["met"] for name, peak in figures["peaks"].items()} == {"writing": True, "the start and the turns": True}
    assert rows["music to image"]["facts"]["made"] == ["image"] and rows["music to image"]["facts"]["tokens"] >= 36
    assert rows["write"]["facts"]["bytes"] > rows["fetch --from"]["facts"]["bytes"] > rows["quantize 4bit"]["facts"]["bytes"] > 0
    table = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert table.strip() in capsys.readouterr().out and "| image to speech |" in table
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"], "the random weights are gone"


def test_an_interrupted_rehearsal_goes_on_where_it_stopped(tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch):
    plan = Plan(tmp_path, "tiny")
    stages = dict(rehearse.STAGES)

    def stopped(plan, tick):
        yield rehearse.Row("start", 1.0, 1.0, 10**6)
        raise UserError("It was stopped.", "A test did it.", "None.")

    monkeypatch.setattr(rehearse, "STAGES", {**stages, "fetch": stopped})
    with pytest.raises(UserError, match="stopped"):
        rehearse.run(plan, print)
    monkeypatch.setattr(rehearse, "STAGES", {**stages, "turns": stopped})
    with pytest.raises(UserError, match="stopped"):
        rehearse.run(plan, print)
    assert here == ["write", "fetch", "fetch", "quantize", "turns"]
    figures = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert figures["peaks"]["writing"]["met"] and figures["peaks"]["the start and the turns"]["met"] is None
    assert "Peak memory of the start and the turns: not measured" in (tmp_path / "report.md").read_text(encoding="utf-8")
    monkeypatch.setattr(rehearse, "STAGES", stages)
    said: list[str] = []
    figures = rehearse.run(plan, said.append)
    assert here[5:] == ["turns"] and said == ["write: complete", "fetch: complete", "quantize: complete"]
    assert [row["label"] for row in figures["rows"]][:4] == ["write", "fetch --from", "quantize 4bit", "start"]
    assert figures["peaks"]["the start and the turns"]["met"]


def test_a_write_that_was_cut_is_done_again(tmp_path: Path):
    scale = mockup.tiny()
    home = mockup.write(tmp_path, scale)
    assert mockup.written(home, scale)
    path = home / "speechtokenizer" / "ckpt.dev"
    path.write_bytes(path.read_bytes()[:1000])
    assert not mockup.written(home, scale)


def test_no_goal_is_met_by_figures_that_are_not_there(tmp_path: Path):
    labels = ["start", *(f"{source} to {target}" for source, target in rehearse.TURNS)]
    rows = [rehearse.Row(label, 1.0, 1.0, 10**9, stage="turns") for label in labels]

    def met(rows):
        return rehearse.report(Plan(tmp_path), rows)["peaks"]["the start and the turns"]["met"]

    assert met(rows) is True
    assert met([]) is met(rows[:-1]) is None
    rows[2].memory = 0  # where no system tells
    assert met(rows) is None
    rows[2].memory = 12 * 10**9
    assert met(rows) is False


FILLED = """
import sys
import numpy as np
from anygpt_demo.rehearse import Meter

size = 64 << 20
with Meter() as meter:
    mapped = np.memmap(sys.argv[1], np.uint8, "c")
    assert mapped.sum() == 0
    row = meter.lap("mapped")
    own = np.ones(size, np.uint8)
    later = meter.lap("own")
print(row.mapped >= size, row.memory < later.memory - size // 2, own.sum() == size)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told by Linux")
def test_pages_of_files_are_not_counted_as_memory(tmp_path: Path):
    (tmp_path / "zeros").write_bytes(bytes(64 << 20))
    alone = [sys.executable, "-c", FILLED, str(tmp_path / "zeros")]  # in this process other tests may have left what is freed meanwhile
    said = subprocess.run(alone, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["True"] * 3, "what a process fills counts, what it maps does not"


def test_a_look_counts_in_the_lap_in_which_it_ends(monkeypatch: pytest.MonkeyPatch):
    sizes, looking, look_on = iter((100, 50, 50, 50)), threading.Event(), threading.Event()

    def memory_of(process):
        size = next(sizes, 50)
        if size == 100:
            looking.set()
            assert look_on.wait(10)
        return size, 0

    monkeypatch.setattr(rehearse, "memory_of", memory_of)
    monkeypatch.setattr(rehearse, "_children", lambda process: [])
    with rehearse.Meter() as meter:
        assert looking.wait(10)
        threading.Timer(0.2, look_on.set).start()
        assert meter.lap("while a look goes on").memory == 100
        assert meter.lap("after it").memory == 50


def test_a_refusal_of_a_stage_reaches_the_person(tmp_path: Path):
    said: list[str] = []
    with pytest.raises(UserError, match=r"no folder official"):
        list(rehearse.run_stage("fetch", Plan(tmp_path, "tiny"), said.append))


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


def test_bytes_are_counted_while_folders_come_and_go(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(bytes(5))
    assert rehearse.bytes_below(tmp_path) == 5 and rehearse.bytes_below(tmp_path / "gone") == 0
