"""Training of the picture tokenizer: small models on a handful of made-up features."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from anygpt_demo.checkpoints import Family, export, load_strict
from anygpt_demo.models.flow import FlowConfig, FlowDecoder
from anygpt_demo.models.seed import SeedTokenizer
from anygpt_demo.synth.pictures import BACKGROUND, UNSURE
from anygpt_demo.train import picture_codes
from anygpt_demo.train.loop import Settings
from anygpt_demo.train.picture_codes import codes_of_pixels
from anygpt_demo.train.picture_stem import MINI, Stem, recall
from anygpt_demo.train.picture_tokenizer import (
    MovingCodebook,
    Rows,
    Shelf,
    Target,
    Trainee,
    begin_from,
    config_of,
    fit,
    fit_whole,
    guidance,
    loss_of,
    thumbnails,
)
from tests.clock import ticking

TINY = replace(
    MINI,
    stem=(4, 4, 8),
    vit_width=24,
    vit_heads=2,
    vit_depth=1,
    width=32,
    heads=2,
    intermediate=32,
    codebook=64,
    code_dim=8,
    embedding=24,
    decode_depth=1,
    decode_heads=2,
    image_down=(16, 8, 4),
)


@pytest.fixture(autouse=True)
def clock() -> Iterator[None]:
    """A budget of a second is twenty looks at the clock."""
    with ticking(0.05):
        yield


@pytest.fixture(autouse=True)
def _handlers():
    """The training loop installs signal handlers; put the old ones back."""
    old = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    torch.manual_seed(0)
    yield
    for number, handler in old.items():
        signal.signal(number, handler)


def shelf(n: int = 64) -> Shelf:
    """Made-up features and labels of n pictures."""
    rng = np.random.default_rng(0)
    nouns = rng.integers(0, 12, (n, 3))
    count = rng.integers(1, 4, n)
    nouns[np.arange(3) >= count[:, None]] = BACKGROUND
    labels = {
        "place": rng.integers(0, 10, n),
        "time": rng.integers(0, 7, n),
        "style": rng.integers(0, 8, n),
        "count": count,
        "nouns": nouns,
        "colours": rng.integers(0, 4, (n, 3)),
        "boxes": rng.random((n, 3, 4), dtype=np.float32).round(2),
        "grid": rng.integers(UNSURE, 12, (n, 8, 8)),
    }
    return Shelf(rng.standard_normal((n, 65, 24)).astype(np.float16), rng.integers(0, 255, (n, 64, 48)).astype(np.uint8), labels)


def first(n: int = 16) -> Rows:
    return shelf(n).rows(np.arange(n))


def test_the_loss_comes_down_and_every_part_learns() -> None:
    model = Trainee(TINY)
    rows = first()
    target = Target.of(rows.features)
    model.codebook.start(torch.randn(512, TINY.code_dim), 512)
    optimizer = torch.optim.AdamW(model.learned(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss = loss_of(model, rows, target, "cpu")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0]
    frozen = ("visual_encoder", "ln_vision")
    silent = [
        name
        for name, value in model.named_parameters()
        if value.requires_grad and value.grad is None and not any(part in name for part in frozen)
    ]
    assert silent == []


def test_training_stops_and_goes_on(tmp_path: Path) -> None:
    model, stock = Trainee(TINY), shelf()
    rows = stock.rows(np.arange(16))
    fit(model, stock, rows, Settings(1.0, runs=tmp_path))
    again = Trainee(TINY)
    saved = torch.load(tmp_path / "picture-tokenizer" / "state.pt", weights_only=True)
    assert saved["state"]["codebook"]["started"]
    fit(again, stock, rows, Settings(1.0, runs=tmp_path))  # the budget is used up: nothing but the state is read
    for key, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value)


def exported(folder: Path) -> Path:
    """A family of an untrained tokenizer and decoder."""
    tokenizer = SeedTokenizer(TINY)
    with torch.no_grad():
        tokenizer.query_tokens.normal_()
        tokenizer.quantize.embedding.weight.normal_()
    export(folder, "image_tokenizer", config_of(TINY), tokenizer.state_dict())
    config = FlowConfig(code=TINY.code_dim, restored=TINY.width, embedding=TINY.embedding, widths=(8, 8, 8), unet_widths=(8, 8, 8))
    export(folder, "image_decoder", {"kind": "flow", **config.to_json()}, FlowDecoder(config).state_dict())
    return folder


def test_an_exported_tokenizer_goes_on_as_a_whole(tmp_path: Path) -> None:
    family = exported(tmp_path / "family")
    before = Trainee(TINY)
    begin_from(before, family)
    reader = Family.open(family).component("image_decoder").state()
    torch.testing.assert_close(before.heads.thing[0].weight, reader["reader.thing.0.weight"].float())
    assert before.codebook.started
    model, given = Trainee(TINY), Settings(4.0, runs=tmp_path, options={"from": str(family), "evaluate": "4"})
    assert fit_whole(model, given)
    old, new = before.state_dict(), model.state_dict()
    moved = {key for key, value in new.items() if not torch.equal(value, old[key])}
    for part in ("visual_encoder", "Qformer", "quantize", "decode_task_layer"):
        assert any(key.startswith(f"tokenizer.{part}") for key in moved), part
    assert not any("running_" in key for key in moved)  # codes keep their meaning
    again = Trainee(TINY)
    assert fit_whole(again, given)  # the budget is used up: nothing but the state is read
    for key, value in new.items():
        torch.testing.assert_close(again.state_dict()[key], value)


def test_the_whole_goes_on_where_the_first_phase_ended(tmp_path: Path) -> None:
    model, stock = Trainee(TINY), shelf()
    rows = stock.rows(np.arange(16))
    assert fit(model, stock, rows, Settings(1.0, runs=tmp_path))
    before = model.heads.thing[0].weight.detach().clone()
    assert fit_whole(model, Settings(5.0, runs=tmp_path, options={"evaluate": "4"}))
    after = model.heads.thing[0].weight.detach()
    assert 0 < (after - before).abs().mean() < 0.5 * before.abs().mean()
    assert fit(Trainee(TINY), stock, rows, Settings(1.0, runs=tmp_path))  # of a later phase: nothing is left to do
    assert fit_whole(again := Trainee(TINY), Settings(5.0, runs=tmp_path, options={"evaluate": "4"}))
    assert torch.equal(again.heads.thing[0].weight, after)


def test_codes_of_the_tokenizer_before_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_codes, "make_test", lambda model, folder: None)
    stock, codes = tmp_path / "data" / "pictures", tmp_path / "data" / "codes" / "pictures"
    stock.mkdir(parents=True)
    np.save(stock / "pixels.npy", np.random.default_rng(0).integers(0, 255, (4, 128, 128, 3)).astype(np.uint8))
    (stock / "scenes.jsonl").write_text("{}\n" * 4)
    given = Settings(1.0, runs=tmp_path, family=exported(tmp_path / "family"))
    for _ in range(2):
        picture_codes.make_codes(given)
    assert not (codes / "previous.u16").is_file()  # the same codes again are no new ones
    old = (codes / "codes.u16").read_bytes()
    torch.manual_seed(1)
    exported(tmp_path / "family")
    picture_codes.make_codes(given)
    assert (codes / "previous.u16").read_bytes() == old != (codes / "codes.u16").read_bytes()


def test_an_exported_tokenizer_gives_legal_codes(tmp_path: Path) -> None:
    model = SeedTokenizer(TINY).eval()
    with torch.no_grad():
        model.query_tokens.normal_()
        model.quantize.embedding.weight.normal_()
    export(tmp_path, "image_tokenizer", config_of(TINY), model.state_dict())
    component = Family.open(tmp_path).component("image_tokenizer")
    again = SeedTokenizer(type(TINY).from_json(component.config))
    load_strict(again, component.state(), component.role)
    codes = codes_of_pixels(again, np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3)).astype(np.uint8))
    assert codes.shape == (3, 32)
    assert codes.dtype == np.uint16
    assert codes.max() < TINY.codebook
    ids = torch.from_numpy(codes.astype(np.int64))
    assert again.restore(ids).shape == (3, 32, TINY.width)
    assert again.embedding(ids).shape == (3, TINY.embedding)


def test_dead_codes_move_to_live_data() -> None:
    table = torch.full((8, 2), 100.0)
    table[0] = 0.0
    book = MovingCodebook(table)
    book.started = True
    latents = torch.randn(64, 2)
    for _ in range(200):
        book.learn(latents, torch.zeros(64, dtype=torch.long))
    assert book.table.abs().max() < 10


def test_guidance_prefers_attention_at_the_thing() -> None:
    rows = first(1)
    rows = replace(rows, boxes=torch.tensor([[[0.2, 0.2, 0.3, 0.0]] * 3]), nouns=torch.zeros(1, 3, dtype=torch.long))
    near, far = torch.full((1, 1, 32, 65), 1e-4), torch.full((1, 1, 32, 65), 1e-4)
    near[..., 1 + 8 * 1 + 1] = 1.0
    far[..., 1 + 8 * 6 + 6] = 1.0
    assert guidance([near], rows) < guidance([far], rows)


def test_recall_counts_different_nouns_once() -> None:
    scores = torch.zeros(2, BACKGROUND)
    scores[0, 3] = scores[0, 5] = scores[1, 7] = 1.0
    nouns = torch.tensor([[3, 5, BACKGROUND], [8, 8, 8]])
    assert recall(scores, nouns) == pytest.approx(2 / 3)


def test_thumbnails_keep_rows_columns_and_colours_apart() -> None:
    pixels = np.zeros((1, 128, 128, 3), np.uint8)
    pixels[0, 16:32, 48:64, 2] = 200  # cell in row 1, column 3, blue
    cells = thumbnails(pixels).reshape(8, 8, 4, 4, 3)
    assert cells[1, 3, :, :, 2].min() == 200
    assert cells.sum() == 200 * 16


def test_the_stem_reads_a_picture_as_64_cells() -> None:
    stem = Stem(TINY).eval()
    noun, colour, scene = stem(torch.zeros(2, 3, 128, 128))
    assert noun.shape == (2, 64, BACKGROUND + 1)
    assert colour.shape[:2] == (2, 64)
    assert scene.shape[0] == 2
