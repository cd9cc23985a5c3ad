"""The bench: what it promises about its file, its table and its plot, and that the bench of a card runs as far as a CPU can say."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from anygpt_demo.eval import bench, bench_gpu
from anygpt_demo.models.llama import LlamaConfig


def some_figures() -> dict:
    return {"figures": {name: bench.figure([gate * 2] * 5, "x") | {"gate": "g"} for name, (_, gate) in bench.GATES.items()}}


def test_a_figure_is_the_median_of_its_runs():
    found = bench.figure([3.0, 1.0, 2.0], "ms", "wall")
    assert found == {"value": 2.0, "runs": [3.0, 1.0, 2.0], "unit": "ms", "clock": "wall"}
    assert bench.figure([1.0], "s", wall=[4.0, 5.0, 9.0])["wall"] == 5.0


def test_a_percentile_is_a_value_that_only_the_rest_exceeds():
    assert bench.percentile(range(1, 41), 95) == 38 and bench.percentile(range(1, 42), 50) == 21
    assert bench.percentile([3.0, 1.0, 2.0], 95) == 3.0 and bench.percentile([7.0], 50) == 7.0


def test_a_gate_is_kept_from_its_own_side():
    assert bench.met("music_vs_hf", 5.0) and not bench.met("music_vs_hf", 4.9)
    assert bench.met("abort_ms", 50.0) and not bench.met("abort_ms", 50.1)
    assert bench.met("read_limit_gb_s", 1.0) is None


def test_the_table_has_a_row_per_figure():
    lines = bench.table(some_figures()).splitlines()
    assert len(lines) == 2 + len(bench.GATES) and all(line.count("|") == lines[0].count("|") for line in lines)


def test_the_table_has_what_is_attainable_beside_what_was_measured():
    figures = {"music_us": bench.figure([90.0], "us") | {"limit": 45.25}, "peak_rss_mb": bench.figure([1234.5], "MB", "none")}
    rows = bench.table({"figures": figures}).splitlines()[2:]
    assert rows[0] == "| `music_us` | 90 us | 45.2 |  |  | cpu |  |"
    assert rows[1] == "| `peak_rss_mb` | 1,234 MB |  |  | yes | none |  |"


def test_the_table_takes_its_place_in_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before <!-- bench -->old<!-- /bench --> after")
    facts = {**bench.machine(1), "load_before": 0.1, "weights": "int8", "together": 2}
    bench.put(some_figures() | {"machine": facts}, page)
    text = page.read_text()
    assert text.startswith("before <!-- bench -->") and text.endswith("<!-- /bench --> after") and "old" not in text
    assert "`music_vs_hf`" in text and facts["date"] in text
    page.write_text("no place")
    with pytest.raises(ValueError, match="no place"):
        bench.put(some_figures() | {"machine": facts}, page)


def test_the_plot_is_a_picture_with_bars(tmp_path):
    bench.plot(some_figures(), tmp_path / "bars.png")
    with Image.open(tmp_path / "bars.png") as picture:
        assert picture.width > 600 and len(picture.getcolors(100_000)) > 3


@pytest.mark.parametrize("tied", [True, False])
@torch.inference_mode()
def test_the_reference_of_a_card_has_the_same_layers(tied):
    model = bench_gpu.random_llama(LlamaConfig(300, 64, 128, 2, 2, 1, tie_word_embeddings=tied), "cpu", "none")
    ids = torch.randint(0, 300, (1, 40))
    assert (bench_gpu.reference(model)(ids).logits - model(ids)).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", ["none", "4bit"])
def test_the_bench_of_a_card_runs_on_a_tiny_model(vocabulary, monkeypatch, kind):
    if kind != "none":
        pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(bench_gpu.Vocabulary, "of", lambda family: vocabulary)
    monkeypatch.setattr(bench_gpu, "CODES", 12)
    config = LlamaConfig(vocabulary.size, 64, 128, 2, 2, 2, max_position_embeddings=1024)
    found = bench_gpu.run("cpu", None, 1, config, (kind,))
    assert {"music_tok_s", "bandwidth_share", "prefill_tok_s", "music_vs_hf", "batch8"} <= {
        name.removesuffix(f"_{kind}") for name in found["figures"]
    }
    assert all(item["value"] > 0 for name, item in found["figures"].items() if not name.startswith("peak"))


def test_the_peak_of_a_card_is_counted_anew_for_each_kind(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", seen.append)
    bench_gpu.forget_peak("cuda:0")
    bench_gpu.forget_peak("cpu")
    assert seen == ["cuda:0"]


def test_divergence_is_what_the_packed_weights_cost_on_average():
    true, own = torch.tensor([0.5, 0.25, 0.25]).log(), torch.tensor([0.25, 0.5, 0.25]).log()
    assert bench.divergence(true, true) == 0
    drawn = torch.multinomial(true.exp(), 20_000, replacement=True, generator=torch.Generator().manual_seed(0))
    assert bench.divergence(own, true) == pytest.approx(float((true - own)[drawn].mean()), abs=0.02)
