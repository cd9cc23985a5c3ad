"""The music codec: shapes, the 5 s limit, streaming, loading from a family."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import EncodecModel

from anygpt_demo import checkpoints
from anygpt_demo.codecs.music import HOP, MODALITY, MusicCodec
from anygpt_demo.errors import BadCheckpoint
from anygpt_demo.media import Audio
from anygpt_demo.models import encodec
from anygpt_demo.train import music_codec, music_decoder, oscillators
from anygpt_demo.train.adversary import Adversary
from anygpt_demo.train.loop import Settings
from anygpt_demo.train.music_data import MusicSet, make
from anygpt_demo.train.music_listener import LOWEST as LOWEST_NOTE
from anygpt_demo.train.music_listener import NOTES, WINDOW, Feeder, Listener, load, semitone_filters, train
from anygpt_demo.train.quantizer import CodebookStack, nearest
from tests.clock import ticking

TINY = {**encodec.OFFICIAL, "num_filters": 4, "hidden_size": 16, "codebook_dim": 16}


@pytest.fixture(scope="module")
def codec() -> MusicCodec:
    torch.manual_seed(0)
    model = encodec.build(TINY).eval()
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_()
    with torch.no_grad():  # untrained convolutions hide the signal
        for name, parameter in model.named_parameters():
            if name.startswith("decoder") and name.endswith("original0"):
                parameter.mul_(2.0)
    return MusicCodec(model)


def sound(samples: int, rate_hz: int = 32000) -> Audio:
    return Audio(np.random.default_rng(0).uniform(-0.5, 0.5, samples).astype(np.float32), rate_hz)


def some_codes(frames: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, MODALITY.codebook, (frames, MODALITY.layers))


@pytest.mark.parametrize(("samples", "frames"), [(640, 1), (641, 2), (32000, 50), (200_000, 250)])
def test_codes_have_the_shape_of_the_facts(codec: MusicCodec, samples: int, frames: int):
    codes = codec.encode(sound(samples))
    assert codes.shape == (frames, MODALITY.layers) and codes.dtype == np.int64
    assert codes.min() >= 0 and codes.max() < MODALITY.codebook


def test_only_the_first_five_seconds_count(codec: MusicCodec):
    long = sound(250 * HOP + 5000)
    assert np.array_equal(codec.encode(long), codec.encode(Audio(long.samples[: 250 * HOP], 32000)))


def test_another_rate_is_refused(codec: MusicCodec):
    with pytest.raises(ValueError, match="32000"):
        codec.encode(sound(16000, 16000))


def test_decoding_is_repeatable_and_in_range(codec: MusicCodec):
    audio = codec.decode(some_codes(30))
    assert audio.rate_hz == 32000 and audio.samples.shape == (30 * HOP,) and audio.samples.dtype == np.float32
    assert np.abs(audio.samples).max() <= 1 and audio.samples.std() > 1e-4
    assert np.array_equal(audio.samples, codec.decode(some_codes(30), seed=5).samples)


@pytest.mark.parametrize("frames", [1, 24, 25, 33, 58, 110])
def test_streamed_pieces_joined_equal_the_whole(codec: MusicCodec, frames: int):
    pieces = list(codec.stream(iter(some_codes(frames))))
    whole = codec.decode(some_codes(frames)).samples
    joined = np.concatenate([piece.samples for piece in pieces])
    assert joined.shape == whole.shape
    assert np.abs(joined - whole).max() < 1e-5 * max(1.0, float(np.abs(whole).max()))
    assert frames < 58 or len(pieces) >= 2


def test_streaming_starts_before_the_block_has_ended(codec: MusicCodec):
    seen = 0

    def arriving():
        nonlocal seen
        for frame in some_codes(100):
            seen += 1
            yield frame

    first = next(codec.stream(arriving()))
    assert first.seconds == 0.5 and seen < 40


def test_loading_from_a_family(codec: MusicCodec, tmp_path: Path):
    state = encodec.without_training_buffers(codec.model.state_dict())
    checkpoints.export(tmp_path, "music_codec", TINY, state, half=False)
    loaded = MusicCodec.load(checkpoints.Family.open(tmp_path))
    audio = sound(6400)
    assert np.array_equal(loaded.encode(audio), codec.encode(audio))
    assert np.array_equal(loaded.decode(some_codes(9)).samples, codec.decode(some_codes(9)).samples)
    checkpoints.export(tmp_path, "music_codec", {**TINY, "heard_s": 0.1}, state, half=False)
    family = checkpoints.Family.open(tmp_path)
    assert len(MusicCodec.load(family).encode(audio)) == 5
    assert len(MusicCodec.load(family, heard_s=5.0).encode(audio)) == 10
    shard = next((tmp_path / "music_codec").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(BadCheckpoint, match="damaged"):
        MusicCodec.load(checkpoints.Family.open(tmp_path))


@pytest.fixture(scope="module")
def tuned_model() -> EncodecModel:
    torch.manual_seed(0)
    model = encodec.build(encodec.SMALL)
    assert not oscillators.tuned(model)
    oscillators.tune(model)
    assert oscillators.tuned(model)
    return model


@pytest.mark.parametrize("number", [0, 24, 45, 57, 83])
def test_an_oscillator_sounds_its_note_whatever_else_is_heard(tuned_model: EncodecModel, number: int):
    lstm = copy.deepcopy(oscillators.part(tuned_model))
    lstm.load_state_dict({name: value.bfloat16().float() for name, value in lstm.state_dict().items()})  # as it is shipped
    with torch.inference_mode():
        played, other = (oscillators.first_layer(lstm, torch.randn(500, 1, lstm.hidden_size))[:, 0] for _ in range(2))
    assert torch.equal(played[:, : oscillators.UNITS], other[:, : oscillators.UNITS])
    pair = torch.view_as_complex(played[:, 2 * number : 2 * number + 2].contiguous())
    assert pair[:25].abs().max() > 0.3 and (pair[100:].abs() - 0.55).abs().max() < 0.2
    hz = oscillators.hertz()[number]
    turned = np.polyfit(np.arange(300), np.unwrap(np.angle(pair[200:].numpy())), 1)[0]
    apart = (turned * 50 / (2 * np.pi) - hz + 25) % 50 - 25  # 50 frames a second: known but for multiples of 50 Hz
    assert abs(1200 * np.log2(1 + apart / hz)) < 15


def test_the_first_layer_alone_is_that_of_the_whole(tuned_model: EncodecModel):
    lstm = oscillators.part(tuned_model)
    one = torch.nn.LSTM(lstm.input_size, lstm.hidden_size)
    one.load_state_dict({name: value for name, value in lstm.state_dict().items() if name.endswith("l0")})
    x = torch.randn(9, 2, lstm.input_size)
    assert torch.allclose(oscillators.first_layer(lstm, x), one(x)[0], atol=1e-6)


def test_what_is_set_is_not_trained(tuned_model: EncodecModel):
    model, units = copy.deepcopy(tuned_model), oscillators.UNITS
    oscillators.hold(model)
    model.decoder(torch.randn(1, 128, 20)).square().sum().backward()
    lstm, size = oscillators.part(model), oscillators.part(model).hidden_size
    for gate in range(4):
        rows = slice(gate * size, gate * size + units)
        assert not lstm.weight_hh_l0.grad[rows].any() and not lstm.bias_ih_l0.grad[rows].any() and not lstm.weight_ih_l0.grad[rows].any()
        assert not lstm.weight_hh_l1.grad[rows].any() and not lstm.weight_ih_l1.grad[rows, :units].any()
        assert bool(lstm.weight_ih_l1.grad[rows, units:].any()) == (gate == 3)  # output gates learn when to open
    assert lstm.weight_ih_l0.grad[units:size].any()


def test_shares_tell_which_notes_sound_and_how_loud(tuned_model: EncodecModel):
    tones = oscillators.Tones(tuned_model, 25)
    hz = oscillators.hertz()
    for number, size in ((20, 0.15), (40, 0.06), (70, 0.2)):
        wave = torch.from_numpy(size * np.sin(2 * np.pi * hz[number] * np.arange(25 * HOP) / 32000)).float()[None]
        share = tones.shares(wave)[0, :, 12]
        assert abs(float(share[number]) - size / oscillators.LOUDEST) < 0.1 * size / oscillators.LOUDEST
        assert float(share[: number - 5].max()) < 0.1 * float(share[number]) and int(share.argmax()) == number


def test_the_sound_of_open_gates_has_their_notes(tuned_model: EncodecModel):
    tones = oscillators.Tones(tuned_model, 75)
    shares = torch.full((1, oscillators.NOTES, 75), oscillators.FAINTEST)
    shares[:, 36], shares[:, 43] = 0.5, 0.25
    heard = tones.shares(tones.sound(shares))[0, :, 40:60].mean(-1)
    assert heard.topk(2).indices.tolist() == [36, 43]
    assert abs(float(heard[36]) - 0.5) < 0.05 and abs(float(heard[43]) - 0.25) < 0.03


def test_the_decoder_learns_what_its_oscillators_sound_like(tuned_model: EncodecModel):
    torch.manual_seed(1)
    model, tones = copy.deepcopy(tuned_model), oscillators.Tones(tuned_model, 25)
    oscillators.hold(model)
    optimizer = torch.optim.Adam(model.decoder.parameters(), 2e-3)
    hz, missed = oscillators.hertz(), []
    for step in range(60):
        chord = (10 + step % 7, 30 + step % 5, 45)
        wave = torch.from_numpy(sum(0.2 * np.sin(2 * np.pi * hz[note] * np.arange(25 * HOP) / 32000) for note in chord)).float()[None]
        loss = tones.missed(model, wave)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        missed.append(float(loss.detach()))
    assert np.mean(missed[-7:]) < 0.5 * np.mean(missed[:7])


def test_gates_learn_which_notes_codes_stand_for(tuned_model: EncodecModel):
    torch.manual_seed(1)
    model = copy.deepcopy(tuned_model)
    oscillators.hold(model)
    optimizer = torch.optim.Adam(model.decoder.layers[:2].parameters(), 1e-2)
    latents, shares = 5 * torch.randn(4, 128, 1).expand(-1, -1, 25), torch.full((4, oscillators.NOTES, 25), oscillators.FAINTEST)
    for row in range(4):
        shares[row, 10 + 7 * row] = 0.5
    for _ in range(100):
        loss = oscillators.gates_loss(model, latents, shares)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    opened = oscillators.openings(model, latents)[:, : 2 * oscillators.NOTES : 2, 10:].sigmoid().mean(-1)
    assert opened.argmax(1).tolist() == [10, 17, 24, 31] and float(opened[0, 10]) > 0.35


def test_the_listener_hears_no_difference_where_there_is_none():
    torch.manual_seed(0)
    listener = Listener().eval().requires_grad_(False)
    true = 0.1 * torch.randn(2, 50 * HOP)
    assert all(abs(float(term)) < 1e-5 for term in listener.heard(true.clone(), true).values())
    made = (0.5 * true.roll(1, 0)).requires_grad_()
    terms = listener.heard(made, true)
    assert all(float(term.detach()) > 0 for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert made.grad is not None and bool(made.grad.abs().amax(1).gt(0).all())


def test_a_semitone_band_hears_its_note_and_not_the_next():
    rows = semitone_filters()
    for number in (0, 12, 40, NOTES - 1):
        hz = 440 * 2 ** ((LOWEST_NOTE + number - 69) / 12)
        spectrum = np.abs(np.fft.rfft(np.sin(2 * np.pi * hz * np.arange(WINDOW) / 32000) * np.hanning(WINDOW))) ** 2
        heard = rows @ spectrum
        assert heard.argmax() == number


def test_listening_is_learnt(tmp_path: Path):
    home = tmp_path / "data" / "music"
    make(home / "train", 24, 1)
    make(home / "test", 6, 2)
    with ticking(1.0):
        train(Settings(50.0, tmp_path, None, tmp_path / "none", 0))
    assert load(tmp_path) is not None and load(tmp_path / "elsewhere") is None
    feeder = Feeder(MusicSet.open(home / "train"), 0)
    listener = load(tmp_path)
    wave, frames, clip = feeder.batch()
    with torch.inference_mode():
        found, told = listener.answers(listener.layers(wave))
    chance = np.log(13)
    assert float(torch.nn.functional.cross_entropy(found["lead"].flatten(0, 1), frames["lead"].flatten())) < 0.9 * chance
    assert set(told) == set(clip)


def test_codes_that_see_a_part_of_the_latent_lie_in_it_and_a_plain_codec_finds_them():
    torch.manual_seed(0)
    books = [layer.codebook for layer in encodec.build(TINY).quantizer.layers[:3]]
    axes = torch.linalg.qr(torch.randn(16, 16)).Q
    slow, fast = axes[:5], axes[5:]
    stack = CodebookStack(books, live=(128,), views=(fast.T @ fast, slow.T @ slow))
    stack.start(torch.randn(5000, 16), 600)
    latent = torch.randn(4, 16, 150).requires_grad_()
    made = stack(latent)
    assert (books[0].embed @ slow.T).abs().max() < 1e-4 and (books[1].embed @ fast.T).abs().max() < 1e-4
    residual = latent.detach().transpose(1, 2).reshape(-1, 16)
    made = stack(latent, learn=False)
    for book, codes in zip(books, made.codes, strict=True):  # as at inference: the nearest code of the whole table
        index = nearest(residual, book.embed)
        assert torch.equal(book.embed[index], book.embed[codes.flatten()])
        residual = residual - book.embed[index]
    made.parts[1].sum().backward()  # teaches what level 2 sees, and nothing else
    assert latent.grad is not None and torch.allclose(latent.grad[0, :, 0], slow.T @ slow @ torch.ones(16), atol=1e-5)
    assert torch.allclose(made.total, sum(part.detach() for part in made.parts), atol=1e-5)


def test_the_adversary_learns_to_tell_and_its_terms_lead_back():
    torch.manual_seed(0)
    adversary, times = Adversary(8), torch.arange(40 * HOP) / 32000
    latent = torch.randn(2, 8, 1).expand(-1, -1, 40)
    true = 0.3 * torch.sin(2 * torch.pi * torch.tensor([[440.0], [330.0]]) * times)
    made = true + 0.03 * torch.randn_like(true)
    told = [float(adversary.learn(made, true, latent)) for _ in range(25)]
    assert told[-1] < 0.5 * told[0]
    judged = adversary.judge(made, true, latent)
    assert float(adversary.judge(true, true, latent)["alike"]) == 0 and float(judged["alike"]) > 0.1
    assert float(adversary.judge(true, true, latent)["fooled"]) < float(judged["fooled"])
    own = made.clone().requires_grad_()
    before = [value.clone() for value in adversary.parameters()]
    torch.stack(list(adversary.judge(own, true, latent).values())).sum().backward()
    assert own.grad is not None and float(own.grad.abs().max()) > 0
    assert all(value.requires_grad and torch.equal(value, old) for value, old in zip(adversary.parameters(), before, strict=True))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A codec after one or two steps of each phase; steps are small while the fixture lives."""
    runs = tmp_path_factory.mktemp("runs")
    make(runs / "data" / "music" / "train", 12, 1)
    make(runs / "data" / "music" / "test", 4, 2)
    settings = Settings(30.0, runs, None, runs / "family", 0)
    with pytest.MonkeyPatch.context() as patch:
        for module in (music_codec, music_decoder):
            patch.setattr(module, "CROPS", 2)
        for name, value in (("LATE_CROPS", 4), ("WHOLE", 0.2), ("RATE", 1e-5), ("LATE_RATE", 1e-5)):
            patch.setattr(music_codec, name, value)  # what a few steps at full rate make of an untrained encoder hears nothing
        with ticking(1.0):
            music_codec.train(settings)
        yield settings


def heard(settings: Settings) -> tuple[EncodecModel, torch.Tensor]:
    model = MusicCodec.load(checkpoints.Family.open(settings.family)).model
    data = MusicSet.open(settings.runs / "data" / "music" / "test")
    with torch.inference_mode():
        return model, torch.stack([encodec.encode(model, torch.from_numpy(data.wave(row, 0, 75))[None, None])[0] for row in range(4)])


def test_the_stage_makes_codes_of_which_each_level_sees_its_part_alone(trained: Settings):
    model, codes = heard(trained)
    first, second, third = (model.quantizer.layers[level].codebook.embed for level in (0, 1, 2))
    assert torch.equal(first[: music_codec.LIVE], first[music_codec.LIVE : 2 * music_codec.LIVE]) and len(codes[..., 0].unique()) > 10
    assert torch.linalg.matrix_rank(second) <= music_codec.PART and torch.linalg.matrix_rank(third) <= music_codec.PART
    assert float((second @ third.T).abs().max()) < 0.02 * float(
        second.norm(dim=1).max() * third.norm(dim=1).max()
    )  # and none sees the other's


def test_a_round_that_keeps_level_1_holds_its_latents_and_not_the_rest(trained: Settings):
    runs = trained.runs / "again"
    (runs / "data").parent.mkdir()
    (runs / "data").symlink_to(trained.runs / "data")
    trainer = music_codec.Trainer(replace(trained, runs=runs, options={"from": str(trained.family), "keep": "1"}))
    batch = trainer.batch()
    before = float(trainer.losses(batch)["kept"].detach())  # not quite nothing: what was stored heard more of the piece
    last = trainer.codec.encoder.layers[-1].conv
    with torch.no_grad():
        last.bias += 0.5 * trainer.parts[0][0]  # what level 1 does not see may move
    assert abs(float(trainer.losses(batch)["kept"].detach()) - before) < 1e-4
    with torch.no_grad():
        last.bias += 2.0 * trainer.first_axes[0]
    assert float(trainer.losses(batch)["kept"].detach()) > before + 0.05
    table = trainer.books.books[0].embed.clone()
    trainer.phase = "quantized"
    trainer.step()
    assert torch.equal(trainer.books.books[0].embed, table)  # and its codes stay where they are


def test_the_decoder_is_taught_on_codes_that_stay(trained: Settings):
    before, codes = heard(trained)
    settings = replace(trained, budget_s=40.0)
    with ticking(1.0):
        music_decoder.train(settings)
    after, same = heard(settings)
    assert torch.equal(codes, same) and oscillators.tuned(after) and not oscillators.tuned(before)
    rows = json.loads((settings.runs / "music-decoder" / "log.json").read_text())
    assert any("tones" in row for row in rows) and all("chroma" in row or row["gates"] > 0 for row in rows)
    sounds = [model.decoder(torch.zeros(1, 128, 20)) for model in (before, after)]
    assert not torch.allclose(*sounds)
