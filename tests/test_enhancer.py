"""Picture enhancement: the network, its training, the codec with and without it, and its figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from anygpt_demo import chat as dialogue
from anygpt_demo import codecs
from anygpt_demo.chat import PRESETS, Chat, Settings
from anygpt_demo.checkpoints import MINI, Family, export, load_strict
from anygpt_demo.codecs.base import Rendering
from anygpt_demo.codecs.image import MODALITY, ImageCodec
from anygpt_demo.errors import BadCheckpoint
from anygpt_demo.eval import enhancer as figures
from anygpt_demo.media import Picture
from anygpt_demo.models.enhancer import Enhancer, EnhancerConfig
from anygpt_demo.models.flow import FlowConfig, FlowDecoder
from anygpt_demo.models.seed import SeedConfig, SeedTokenizer
from anygpt_demo.synth.pictures import evaluation_scenes, render_rgb
from anygpt_demo.train import STAGES, picture_enhancer
from anygpt_demo.train.loop import Settings as TrainSettings

SMALL = EnhancerConfig(width=16, blocks=1)


def trained(config: EnhancerConfig = SMALL) -> Enhancer:
    """An enhancer whose last layer is not zero."""
    torch.manual_seed(3)
    model = Enhancer(config).eval().requires_grad_(False)
    torch.nn.init.normal_(model.leave.weight, std=0.02)
    return model


@pytest.fixture(scope="module")
def codec() -> ImageCodec:
    """A tiny codec with an enhancer."""
    torch.manual_seed(0)
    sizes = dict(vit_width=32, vit_depth=1, vit_heads=2, width=32, layers=1, heads=2, intermediate=32, code_dim=8, codebook=64)
    config = SeedConfig(
        image_size=128, patch_size=16, patch_embed="conv", stem=(8, 8, 8), decode_depth=1, decode_heads=2, image_down=(8, 8, 4),
        embedding=16, text_decoder=False, vit_mlp_ratio=2.0, cross_every=1, **sizes,
    )  # fmt: skip
    decoder = FlowDecoder(
        FlowConfig(code=8, restored=32, embedding=16, unet_widths=(16, 16, 16), widths=(16, 16, 16), time=16, patch_channels=8, hidden=32)
    )
    torch.nn.init.normal_(decoder.unet.leave.weight, std=0.2)
    return ImageCodec(SeedTokenizer(config).eval(), decoder.eval(), replace(MODALITY, codebook=64), enhancer=trained())


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize("shape", [(1, 256, 256), (2, 64, 96), (1, 2, 2)])
def test_twice_the_side_and_always_the_same(shape: tuple[int, int, int]) -> None:
    n, high, wide = shape
    given = torch.rand(n, 3, high, wide) * 2 - 1
    model = trained()
    first, second = model(given), model(given)
    assert first.shape == (n, 3, 2 * high, 2 * wide) and torch.isfinite(first).all() and torch.equal(first, second)


def test_untrained_it_enlarges_bilinearly() -> None:
    given = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.equal(Enhancer(SMALL)(given), torch.nn.functional.interpolate(given, scale_factor=2, mode="bilinear"))


def test_it_is_small() -> None:
    sizes = [tensor.numel() for tensor in Enhancer().state_dict().values()]
    assert 2 * sum(sizes) < 1_000_000  # bytes in bfloat16


def test_export_round_trip(tmp_path: Path) -> None:
    model = trained()
    export(tmp_path, "image_enhancer", {"kind": "subpixel", **SMALL.to_json()}, model.state_dict())
    part = Family.open(tmp_path).component("image_enhancer")
    again = Enhancer(EnhancerConfig.from_json(part.config))
    load_strict(again, part.state(), part.role)
    given = torch.rand(1, 3, 16, 16) * 2 - 1
    assert again.config == SMALL and torch.allclose(again(given), model(given), atol=0.02)


# ---------------------------------------------------------------- training


def test_inputs_fit_their_targets() -> None:
    torch.manual_seed(0)
    fine, soft = picture_enhancer.Drawings(1).sample(6, 0)
    assert fine.shape == (6, 3, 128, 128) and fine.abs().max() <= 1 and soft.shape == (6,)
    for share in (0.0, 1.0):
        given = picture_enhancer.inputs_of(fine, soft, share)
        assert given.shape == (6, 3, 64, 64) and given.abs().max() <= 1
        assert (given - torch.nn.functional.avg_pool2d(fine, 2)).abs().mean() < 0.2
    flat = torch.full((2, 3, 32, 32), 0.25)
    assert torch.allclose(picture_enhancer.blurred(flat, torch.tensor([0.1, 1.5]).view(2, 1, 1, 1)), flat, atol=1e-5)
    stepped = picture_enhancer.inputs_of(fine, torch.zeros(6, dtype=torch.bool), 0.0)
    assert (stepped - torch.nn.functional.avg_pool2d(fine, 2)).abs().mean() < 0.02
    (again, _), (other, _) = (picture_enhancer.Drawings(seed).sample(6, 0) for seed in (1, 2))
    assert again.equal(fine) and not other.equal(fine)


def test_steps_lower_the_loss(tmp_path: Path) -> None:
    settings = TrainSettings(1.0, tmp_path, family=tmp_path, options={"width": "16", "blocks": "1", "true": "1"})
    trainer = picture_enhancer.Trainer(settings)
    fine, soft = picture_enhancer.Drawings(1).sample(2, 0)
    ratios = []
    for _ in range(80):
        torch.manual_seed(0)  # the same inputs at every step
        found = trainer.step(fine, soft, 1.0)
        ratios.append(found["loss"] / found["bilinear"])
    assert ratios[0] == pytest.approx(1, abs=0.01) and ratios[-1] < 0.985
    other = picture_enhancer.Trainer(settings)
    other.restore(trainer.state())
    assert other.steps == 80 and all(torch.equal(value, other.average[key]) for key, value in trainer.average.items())


def test_the_stage_exports(tmp_path: Path) -> None:
    assert list(STAGES).index("picture-enhancer") == list(STAGES).index("picture-decoder") + 1
    options = {"width": "16", "blocks": "1"}
    picture_enhancer.train(TrainSettings(2.0, tmp_path / "runs", family=tmp_path / "family", options=options))
    part = Family.open(tmp_path / "family").component("image_enhancer")
    assert EnhancerConfig.from_json(part.config) == SMALL
    load_strict(Enhancer(SMALL), part.state(), part.role)
    assert (tmp_path / "runs" / "picture-enhancer" / "state.pt").is_file()


# ---------------------------------------------------------------- the codec


def test_the_codec_enhances_when_asked(codec: ImageCodec) -> None:
    codes = np.arange(32)[:, None]
    plain, fine = (codecs.tune(codec, Rendering(enhance=on)) for on in (False, True))
    first, large = plain.decode(codes, seed=1).rgb, fine.decode(codes, seed=1).rgb
    assert first.shape == (256, 256, 3) and np.array_equal(first, codec.decode(codes, seed=1).rgb)
    assert large.shape == (512, 512, 3) and large.dtype == np.uint8 and np.array_equal(large, fine.decode(codes, seed=1).rgb)
    assert np.array_equal(large, codec.enhanced(Picture(first)).rgb)
    shown = [picture.rgb for picture in fine.previews(codes, 1)]
    assert len(shown) == 9 and np.array_equal(shown[-2], first) and np.array_equal(shown[-1], large)


def test_a_family_without_an_enhancer_draws_as_before(codec: ImageCodec) -> None:
    bare, codes = replace(codec, enhancer=None), np.arange(32)[:, None]
    assert np.array_equal(codecs.tune(bare, Rendering(enhance=True)).decode(codes).rgb, codec.decode(codes).rgb)
    with pytest.raises(BadCheckpoint, match="cannot enhance"):
        bare.enhanced(bare.decode(codes))


def test_settings_keep_it() -> None:
    assert [name for name, preset in PRESETS.items() if not preset.rendering.enhance] == ["fast"]
    assert all(Settings.of(preset.record()) == preset for preset in PRESETS.values())
    old = {"rendering": {"picture_steps": 2, "seed": None}}  # as saved before there was enhancement: the picture is the same
    assert not Settings.of(old).rendering.enhance


@pytest.mark.parametrize("able", [True, False])
def test_the_drawer_has_a_switch_where_the_family_can(able: bool) -> None:
    import gradio as gr

    from anygpt_demo.drawer import settings_tab
    from anygpt_demo.visitors import Session

    chat = Chat.unread(MINI)
    chat.enhances = able
    with gr.Blocks() as page:
        restore, places = settings_tab(chat, gr.State(None))
    (switch,) = [item for item in places if item.label == "Size of a picture"]
    assert switch.visible == able
    change = next(event.fn for event in page.fns.values() if event.fn is not None and event.fn.__name__ == "change")
    session = Session.__new__(Session)
    session.settings, session.seed, session.aloud = Settings(), None, True
    given = [item.value for item in places if isinstance(item, gr.Slider)]
    for preset, size, wanted in (
        ("fast", "as the preset says", False), ("best", "as the preset says", True), ("best", "256 px", False), ("fast", "512 px", True)
    ):  # fmt: skip
        change(session, preset, [], 0, False, True, size, *given)
        assert session.settings.rendering.enhance == wanted
        shown = dict(zip([item.label for item in places], restore(session), strict=True))
        assert (shown["Preset"], shown["Size of a picture"]) == (preset, size)


# ---------------------------------------------------------------- the shipped weights


@pytest.fixture(scope="module")
def shipped() -> ImageCodec:
    return ImageCodec.load(Family.open(MINI), purpose="decode")


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 60, 30), (90, 130, 240)])
def test_flat_colours_stay(shipped: ImageCodec, colour: tuple[int, int, int]) -> None:
    flat = np.broadcast_to(np.array(colour, np.uint8), (256, 256, 3))
    made = shipped.enhanced(Picture(flat)).rgb.astype(int)
    assert np.abs(made - np.array(colour)).mean() < 2 and np.abs(made - np.array(colour)).max() < 16


def test_true_pictures_come_nearer_to_the_fine_drawing(shipped: ImageCodec) -> None:
    found = dict(figures.nearness(shipped, figures.scenes_of(4)))
    assert found["ssim"]["value"] > found["ssim"]["floor"] and found["psnr_db"]["value"] > 25
    assert found["nearer"]["value"] >= 0.5 and found["seconds"]["n"] == 4


def test_encoding_needs_no_enhancer() -> None:
    assert ImageCodec.load(Family.open(MINI), purpose="encode").enhancer is None


def test_a_reply_holds_the_larger_picture() -> None:
    from anygpt_demo.conversation import Conversation

    chat = dialogue.Chat.open(Family.open(MINI))
    assert chat.enhances
    made = {}
    for on in (False, True):
        settings = Settings(output="image", max_new=90, rendering=Rendering(enhance=on))
        updates = list(chat.reply(Conversation(), dialogue.Message("Draw a dog."), seed=1, settings=settings))
        (made[on],) = [update for update in updates if isinstance(update, dialogue.Made)]
        (last,) = [update for update in updates if isinstance(update, dialogue.Finished)]
        assert last.turn is not None and Settings.of(last.turn.facts["settings"]).rendering.enhance == on
    assert np.array_equal(made[False].part.codes, made[True].part.codes)
    assert made[False].media.rgb.shape == (256, 256, 3) and made[True].media.rgb.shape == (512, 512, 3)  # type: ignore[union-attr]


# ---------------------------------------------------------------- figures


def test_figures_know_equal_pictures() -> None:
    rgb = render_rgb(evaluation_scenes(1, seed=3)[0])
    noise = (rgb.astype(int) + np.random.default_rng(0).integers(-20, 21, rgb.shape)).clip(0, 255).astype(np.uint8)
    assert figures.psnr_db(rgb, rgb) == 100 and figures.ssim(rgb, rgb) == pytest.approx(1)
    assert 20 < figures.psnr_db(noise, rgb) < 30 and figures.ssim(noise, rgb) < 0.9
    assert figures.psnr_db(np.zeros_like(rgb), np.full_like(rgb, 255)) == 0
