"""The whole bench on a tiny model: every figure comes, parts of a token add up to it, memory is that of the app alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anygpt_demo.engine import LocalEngine
from anygpt_demo.eval import bench, bench_kernels, bench_memory
from anygpt_demo.models.compiled import FLAGS, library
from anygpt_demo.models.fast import Fast
from anygpt_demo.models.llama import Llama, LlamaConfig

SHARE = "%"


@pytest.fixture(scope="module")
def tiny(vocabulary) -> Llama:
    torch.manual_seed(0)
    return Llama(LlamaConfig(vocabulary.size, 64, 128, 2, 2, 2, max_position_embeddings=2048)).eval().requires_grad_(False)


class Sounding:
    """A codec that makes nothing, at once."""

    def streamer(self, seed: int) -> SimpleNamespace:
        return SimpleNamespace(feed=lambda frame: [frame], finish=list)

    def decode(self, codes: np.ndarray, seed: int) -> None:
        raise AssertionError("sounds are decoded while their codes come")


class Drawing:
    """The same for pictures."""

    def decode(self, codes: np.ndarray, seed: int) -> np.ndarray:
        return codes


def test_the_bench_runs_on_a_tiny_model(vocabulary, tiny, monkeypatch):
    monkeypatch.setattr(bench.LocalEngine, "load", lambda family, threads: LocalEngine(tiny, kind="auto", threads=threads))
    monkeypatch.setattr(bench.Vocabulary, "of", lambda family: vocabulary)
    monkeypatch.setattr(bench, "load_codec", lambda name, family: Drawing() if name == "image" else Sounding())
    monkeypatch.setattr(bench, "sixty_million", lambda size: Fast(tiny, "int8"))
    monkeypatch.setattr(bench, "resources", lambda given: {"peak_rss_mb": bench.figure([1.0], "MB", "none")})
    for name, count in {"PROMPT": 70, "TEXT": 4, "MUSIC": 40, "ABORTS": 20, "ROUNDS": 2}.items():
        monkeypatch.setattr(bench, name, count)
    found = bench.run(None, repeats=2)
    figures = found["figures"]
    assert set(bench.GATES) <= set(figures) and all(np.isfinite(item["value"]) and item["value"] >= 0 for item in figures.values())
    counts = {name: len(item["runs"]) for name, item in figures.items()}
    assert counts["abort_ms"] == 20 and counts["batch4_throughput"] == 4, "short runs are many"
    assert counts["batch4_p50_ms"] == counts["batch4_p95_ms"] == counts["music_vs_hf"] == 2
    assert figures["batch4_p95_ms"]["value"] >= figures["batch4_p50_ms"]["value"] > 0
    assert figures["abort_ms"]["value"] == bench.percentile(figures["abort_ms"]["runs"], 95)
    limited = {name for name, item in figures.items() if "limit" in item}
    assert limited >= {"music_rtf", "music_us", "text_us", "music_vs_hf", "bandwidth_share", "batch4_throughput", "int8_perplexity"}
    assert figures["music_vs_hf"]["limit"] > figures["music_vs_hf"]["value"], "nobody writes quicker than weights can be read"
    assert bench.table(found).count("\n") == 1 + len(figures)


@pytest.mark.parametrize("kind", ["auto", "int8"])
def test_the_parts_of_a_token_add_up_to_it(vocabulary, tiny, monkeypatch, kind):
    if kind == "auto" and library((*FLAGS, "-DLAPS")) is None:
        pytest.skip("no C compiler")
    monkeypatch.setattr(bench_kernels.LocalEngine, "load", lambda family, threads: LocalEngine(tiny, kind=kind, threads=threads))
    monkeypatch.setattr(bench_kernels.Vocabulary, "of", lambda family: vocabulary)
    monkeypatch.setattr(bench_kernels, "ROUNDS", 3)
    best = bench_kernels.best
    monkeypatch.setattr(bench_kernels, "best", lambda work, count=2, **rest: best(work, 2, 2))
    times = bench.kernels(None)
    for positions in (64, bench.PROMPT):
        parts = {name: value for name, value in times.items() if name.startswith(f"  {positions}: ") and name.endswith(SHARE)}
        assert sum(parts.values()) == pytest.approx(times[f"one code after {positions}"])
        assert {name.split(": ")[1].split(",")[0] for name in parts} >= {"matrices", "attention", "head", "draw", "rest of the engine"}
        assert any("activation" in name for name in parts) == (kind == "auto")
        assert all(value > 0 for name, value in parts.items() if "rest" not in name)
        shares = [int(name.removesuffix(SHARE).rsplit(", ", 1)[1]) for name in parts]
        assert abs(sum(shares) - 100) <= len(shares), "but for rounding"
    assert all(np.isfinite(value) for value in times.values())


def test_a_block_is_read_whole_in_every_way():
    reader = bench.Reader(50_000)
    assert reader.block.nbytes >= 50_000 and reader.rate(1) > 0
    assert reader.ways[0]() == 1
    one = np.frombuffer(b"\1" * 4, np.float32)[0]
    assert float(reader.ways[1]()) == pytest.approx(reader.block.size // 4 * float(one))
    if len(reader.ways) > 2:
        result = reader._held[1]
        result.fill(0)
        reader.ways[2]()
        assert (result == result[0]).all() and result[0] == pytest.approx(-127 * bench.WIDTH, rel=1e-3), "the sum of a row of weights"


def ask(code: str) -> float:
    """What a program prints."""
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not bench_memory.STATUS.exists(), reason="no /proc")
def test_memory_of_the_program_that_started_this_one_is_not_counted():
    own = "from anygpt_demo.eval.bench_memory import peak_mb; print(peak_mb())"
    assert ask(own) < 100
    large = f"import subprocess, sys; held = b'x' * (300 << 20); subprocess.run([sys.executable, '-c', {own!r}], check=True)"
    assert ask(large) < 100
    assert ask(f"held = b'x' * (300 << 20); del held; {own}") > 300, "what it gave back is counted"


def test_memory_is_known_without_proc(tmp_path: Path):
    pytest.importorskip("resource")
    assert bench_memory.peak_mb(tmp_path / "status") > 10


def test_memory_of_the_app_has_that_of_the_libraries_as_its_limit(monkeypatch):
    numbers = iter(["440.5 1200.0", "441.5 1210.0", "439.5 1220.0"])
    monkeypatch.setattr(bench.subprocess, "run", lambda command, **rest: SimpleNamespace(stdout=f"a line\n{next(numbers)}\n"))
    found = bench.resources(SimpleNamespace(repeats=3, family=SimpleNamespace(folder="mini")))["peak_rss_mb"]
    assert found["value"] == 1210.0 and found["limit"] == 440.5 and sorted(found["runs"]) == [1200.0, 1210.0, 1220.0]
