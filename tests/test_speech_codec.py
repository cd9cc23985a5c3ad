"""The speech codec, its quantizer training and its data, with tiny untrained models: shapes, limits and repeatability only."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from anygpt_demo.codecs.speech import LATER, OPENING, SpeechCodec, built_in_voice
from anygpt_demo.errors import ModelFault
from anygpt_demo.eval.metrics import figure, word_error_rates, word_errors
from anygpt_demo.media import Audio, Voice
from anygpt_demo.models.speechtokenizer import NormedConv1d, ResidualQuantizer, SpeechTokenizer, steady
from anygpt_demo.train.quantizer import CodebookStack, Kept, kmeans, lsuv, nearest
from anygpt_demo.train.spectra import LogMel, MelLoss, mel_filters
from anygpt_demo.train.speech_codec import BAND, Feeder, band_loss, low_band, pitch_loss
from anygpt_demo.train.speech_codes import disturbed, disturbed_codes, encode_set
from anygpt_demo.train.speech_data import SpeechSet

TINY = {
    "n_filters": 2, "strides": [8, 5, 4, 2], "dimension": 16, "semantic_dimension": 16, "bidirectional": True, "dilation_base": 2,
    "residual_kernel_size": 3, "n_residual_layers": 1, "lstm_layers": 1, "activation": "ELU", "codebook_size": 32, "n_q": 8,
    "sample_rate": 16000,
}  # fmt: skip


@pytest.fixture(scope="module")
def codec() -> SpeechCodec:
    torch.manual_seed(0)
    return SpeechCodec(SpeechTokenizer(TINY).eval(), None)


def voiced() -> SpeechCodec:
    """A codec with a random SoundStorm."""
    from anygpt_demo.models.soundstorm import SoundStorm

    torch.manual_seed(0)
    small = {"codebook_size": 32, "num_quantizers": 7, "conformer": {"dim": 16, "depth": 1, "heads": 2, "dim_head": 8}}
    return SpeechCodec(SpeechTokenizer(TINY).eval(), SoundStorm(small).eval(), steps=2)


def sound(samples: int) -> Audio:
    rng = np.random.default_rng(samples)
    return Audio(rng.normal(0, 0.1, samples).astype(np.float32), 16_000)


@pytest.mark.parametrize("samples", [1, 319, 320, 321, 5000])
def test_a_frame_per_320_samples(codec: SpeechCodec, samples: int) -> None:
    codes = codec.encode(sound(samples))
    assert codes.shape == (-(-samples // 320), 1)
    assert codes.dtype == np.int64
    np.testing.assert_array_equal(codes[:, 0], codec.encode_all(sound(samples))[0])
    assert len(codec.decode(codes).samples) == 320 * len(codes)


@pytest.mark.parametrize("frames", [1, 20, 33, 34, 120])
def test_streamed_pieces_joined_equal_the_whole(codec: SpeechCodec, frames: int) -> None:
    codes = np.random.default_rng(frames).integers(0, 32, (frames, 1))
    pieces = [piece.samples for piece in codec.stream(iter(codes))]
    whole = codec.decode(codes).samples
    assert len(np.concatenate(pieces)) == len(whole) and np.abs(np.concatenate(pieces) - whole).max() < 1e-5
    assert frames < 34 or len(pieces) >= 2
    assert not list(codec.stream(iter([])))


def test_a_streamed_voice_is_one_line_of_codes_and_repeatable() -> None:
    codec = voiced()
    codes = np.random.default_rng(1).integers(0, 32, (90, 1))
    streamer, fed, pieces = codec.streamer(seed=3), [], []
    inner = streamer.wave.feed
    streamer.wave.feed = lambda frame: fed.append(frame) or inner(frame)
    for frame in codes:
        pieces += streamer.feed(frame)
    assert pieces, "the beginning is heard before the end is known"
    pieces += streamer.finish()
    levels = torch.from_numpy(np.stack(fed).T[:, None])
    with torch.inference_mode():
        whole = codec.tokenizer.decode(levels)[0, 0].clip(-1, 1).numpy()
    joined = np.concatenate([piece.samples for piece in pieces])
    assert np.array_equal(np.stack(fed)[:, 0], codes[:, 0]) and np.abs(joined - whole).max() < 1e-5
    again = np.concatenate([piece.samples for piece in codec.stream(iter(codes), seed=3)])
    assert np.array_equal(joined, again)
    assert np.abs(codec.decode(codes, seed=3).samples - joined).max() < 1e-5  # a sentence at once is the same line of codes


def test_a_voice_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from anygpt_demo.codecs import speech
    from anygpt_demo.codecs.base import Rendering

    made, heard = voiced(), []
    encode = SpeechTokenizer.encode
    monkeypatch.setattr(SpeechTokenizer, "encode", lambda self, wav: heard.append(wav.shape[-1]) or encode(self, wav))
    monkeypatch.setattr(speech, "VOICES_KEPT", 2)
    codes = np.random.default_rng(1).integers(0, 32, (40, 1))
    voices = [Voice("a", sound(4000)), Voice("b", sound(4001)), Voice("a", Audio(sound(4000).samples * 0.5, 16_000))]
    first = [made.decode(codes, voice=voice, seed=3).samples for voice in voices[:2]]
    again = [made.decode(codes, voice=Voice("c", Audio(voice.audio.samples.copy(), 16_000)), seed=3).samples for voice in voices[:2]]
    list(made.tuned(Rendering(voice_steps=1)).stream(iter(codes), voice=voices[1]))
    assert heard == [4000, 4001] and all(map(np.array_equal, first, again))
    fresh = voiced()
    assert all(np.array_equal(fresh.decode(codes, voice=voice, seed=3).samples, was) for voice, was in zip(voices, first, strict=False))
    heard.clear()
    made.decode(codes, voice=voices[2])  # the same name, another sound: the voice used longest ago goes
    made.decode(codes, voice=voices[1])
    assert heard == [4000]
    made.decode(codes, voice=voices[0])
    assert heard == [4000, 4000]


def level_change(samples: np.ndarray, place: int, width: int) -> float:
    """By how many dB the `width` samples from a place on are louder than those before it."""
    before, after = (np.sqrt(np.mean(part.astype(float) ** 2)) for part in (samples[place - width : place], samples[place : place + width]))
    return float(20 * np.log10(after / before))


@pytest.mark.parametrize("clean", [True, False])
def test_a_streamed_voice_has_no_audible_seams(clean: bool) -> None:
    """Where one window of SoundStorm ends and the next begins, against the sentence filled at once and against all other frames."""
    made, bend, jump = replace(voiced(), clean=clean), {"seam": [], "else": []}, {"seam": [], "else": []}
    seams = range(OPENING, 240, LATER)
    for seed in range(8):
        codes = np.random.default_rng(seed).integers(0, 32, (240, 1))
        whole = made.decode(codes, seed=seed).samples
        joined = np.concatenate([piece.samples for piece in made.stream(iter(codes), seed=seed)])
        assert len(whole) == len(joined) == 320 * 240
        if clean:
            assert np.abs(whole - joined).max() < 1e-4
        for frame in range(20, 220):
            kind, place = "seam" if frame in seams else "else", 320 * frame
            bend[kind].append([level_change(joined, place, width) - level_change(whole, place, width) for width in (80, 1600)])
            jump[kind].append(abs(joined[place] - joined[place - 1]))
    assert np.abs(np.mean(bend["seam"], 0)).max() < 1  # dB
    spread = {kind: np.sqrt(np.mean(np.square(found), 0)) for kind, found in bend.items()}
    assert (spread["seam"] <= 1.3 * spread["else"] + 1e-3).all()  # other codes are as loud as they are wherever they stand
    assert max(jump["seam"]) <= max(jump["else"]) and np.mean(jump["seam"]) <= 1.3 * np.mean(jump["else"])


def test_halves_are_of_the_kind_that_the_card_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    from anygpt_demo.codecs.speech import precision

    assert precision("cpu") is torch.float32
    for native, kind in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, native=native: native or including_emulation)
        assert precision("cuda") is precision("cuda:1") is kind and precision("mps") is torch.float16


@pytest.mark.parametrize("clean", [True, False])
def test_a_voice_is_spoken_in_either_half(clean: bool) -> None:
    made = replace(voiced(), clean=clean)
    assert made.soundstorm is not None
    made.soundstorm.bfloat16()
    codes = np.random.default_rng(2).integers(0, 32, (60, 1))
    samples = made.decode(codes, seed=3).samples
    assert samples.dtype == np.float32 and len(samples) == 60 * 320 and np.isfinite(samples).all()


def test_a_voice_goes_on_from_what_is_before_it() -> None:
    from anygpt_demo.models.soundstorm import SPAN, SoundStorm, expected

    torch.manual_seed(0)
    small = {"codebook_size": 32, "num_quantizers": 7, "conformer": {"dim": 16, "depth": 1, "heads": 2, "dim_head": 8}}
    model, vectors = SoundStorm(small).eval(), torch.randn(7, 32, 4) * 0.6 ** torch.arange(7.0)[:, None, None]
    semantic, prompt = torch.randint(0, 32, (1, SPAN)), torch.randint(0, 32, (1, 20, 8))
    seen: list[torch.Tensor] = []
    hidden = model.net.hidden
    model.net.hidden = lambda codes, condition: (seen.append(codes.clone()), hidden(codes, condition))[1]  # type: ignore[method-assign]
    made = model.generate_clean(semantic, prompt, vectors, 5)
    assert len(seen) == 5
    assert all(torch.equal(codes[:, :20], prompt[..., 1:]) for codes in seen)
    known = [int((codes[0, 20:, 0] != model.mask_id).sum()) for codes in seen]
    assert known == [0, 10, 20, 30, 40]
    assert all((codes[0, 20 : 20 + n] == made[0, :n, 1:]).all() for n, codes in zip(known, seen, strict=True))  # onward, never changed
    assert all((codes[0, 20 + n :] == model.mask_id).all() for n, codes in zip(known, seen, strict=True))
    with torch.inference_mode():
        last = hidden(seen[-1], model.condition(torch.cat([prompt[..., 0], semantic], 1)))[:, -10:]
        wanted = expected([model.net.level_logits(last, level) for level in range(7)], vectors)
    found = sum(vectors[level][made[:, -10:, 1 + level]] for level in range(7))
    assert bool(((found - wanted).norm(dim=-1) < wanted.norm(dim=-1)).all())  # its codes add up to about what was expected
    assert torch.equal(made[..., 0], semantic) and int(made.max()) < model.mask_id


def test_another_rate_is_refused(codec: SpeechCodec) -> None:
    with pytest.raises(ValueError, match="16000"):
        codec.encode(Audio(np.zeros(100, np.float32), 8000))


@pytest.mark.parametrize("name", ["slt", "kathleen"])
def test_built_in_voices_are_three_seconds_of_speech(name: str) -> None:
    voice = built_in_voice(name)
    assert voice.audio.rate_hz == 16_000
    assert len(voice.audio.samples) >= 3 * 16_000
    assert 0.05 < np.abs(voice.audio.samples).max() <= 1


def test_kmeans_finds_well_separated_centres() -> None:
    torch.manual_seed(0)
    centres = torch.randn(6, 4) * 20
    vectors = (centres[:, None] + 0.1 * torch.randn(6, 50, 4)).reshape(-1, 4)
    found, counts = kmeans(vectors, 12, rounds=10)
    assert float((vectors - found[nearest(vectors, found)]).norm(dim=1).mean()) < 1
    assert int(counts.sum()) == len(vectors)


def test_residual_stack_learns_and_passes_the_gradient() -> None:
    torch.manual_seed(0)
    model = SpeechTokenizer(TINY)
    books = CodebookStack(model.quantizer.codebooks)
    books.start(torch.randn(2000, 16), 100)
    latent = torch.randn(2, 16, 50, requires_grad=True)
    before = [book.embed.clone() for book in model.quantizer.codebooks]
    out = books(latent)
    assert out.codes.shape == (8, 2, 50)
    out.total.sum().backward()
    assert latent.grad is not None
    torch.testing.assert_close(latent.grad, torch.ones_like(latent))
    assert all(not torch.equal(a, book.embed) for a, book in zip(before, model.quantizer.codebooks, strict=True))
    still = books(latent, learn=False)
    np.testing.assert_array_equal(still.codes.numpy(), model.quantizer.quantize(latent, 8)[0].numpy())
    exact = latent.detach()
    assert float((still.total.detach() - exact).pow(2).mean()) < float((still.first.detach() - exact).pow(2).mean())


def test_dead_codes_move_to_live_data() -> None:
    torch.manual_seed(0)
    model = SpeechTokenizer(TINY)
    book = model.quantizer.codebooks[0]
    books = CodebookStack([book])
    books.start(torch.randn(500, 16), 50)
    book.embed[3] = 1e3
    book.cluster_size[3] = 0
    books(torch.randn(1, 16, 50))
    assert float(book.embed[3].abs().max()) < 10


def test_lsuv_lets_the_signal_pass() -> None:
    torch.manual_seed(0)
    model = SpeechTokenizer(TINY)
    latent = lsuv(model.encoder, torch.randn(3, 1, 4800) * 0.1, (NormedConv1d,))
    assert 0.5 < float((latent - latent.mean((0, 2), keepdim=True)).std()) < 2


def test_mel_of_a_tone_peaks_at_its_band() -> None:
    filters = mel_filters(16_000, 1024, 80)
    assert filters.shape == (80, 513)
    tone = torch.sin(torch.arange(16_000) * 2 * torch.pi * 2000 / 16_000)[None]
    band = int(LogMel(16_000, 1024, 80)(tone).mean(-1).argmax())
    assert filters[band].argmax() == pytest.approx(128, abs=4)
    assert float(MelLoss(16_000)(tone, tone)) == 0


def test_a_growing_set_shows_only_finished_clips(tmp_path: Path) -> None:
    np.arange(640, dtype=np.int16).tofile(tmp_path / "audio.i16")
    np.array([3, 255], np.uint8).tofile(tmp_path / "phones.u8")
    row = {"samples": 320, "frames": 1, "text": "", "voice": "v", "source": "s", "split": "train"}
    rows = [{**row, "start": 320 * n, "frames_start": n} for n in range(3)]
    (tmp_path / "index.json").write_text(json.dumps(rows))
    home = SpeechSet(tmp_path)
    assert len(home.clips) == 2
    np.testing.assert_array_equal(home.labels(home.clips[1]), [-1])
    np.testing.assert_allclose(home.wave(home.clips[1])[:2], [320 / 32768, 321 / 32768])


def make_set(folder: Path, clips: int = 5) -> SpeechSet:
    """A set of noise clips of 60 to 64 frames, two of one length."""
    rng = np.random.default_rng(1)
    frames = [60 + max(0, number - 1) for number in range(clips)]
    folder.mkdir(parents=True)
    (rng.normal(0, 3000, sum(frames) * 320)).astype(np.int16).tofile(folder / "audio.i16")
    rng.integers(0, 41, sum(frames)).astype(np.uint8).tofile(folder / "phones.u8")
    starts = np.concatenate([[0], np.cumsum(frames)[:-1]]).tolist()
    rows = [
        {"start": s * 320, "samples": n * 320, "frames_start": s, "frames": n, "text": "a", "voice": "v", "source": "s", "split": "train"}
        for s, n in zip(starts, frames, strict=True)
    ]
    (folder / "index.json").write_text(json.dumps(rows))
    return SpeechSet(folder)


def test_codes_of_a_set_are_those_of_its_clips_and_a_cut_file_is_completed(codec: SpeechCodec, tmp_path: Path) -> None:
    home = make_set(tmp_path / "set")
    assert encode_set(home.folder, codec) == sum(clip.frames for clip in home.clips)
    whole = (home.folder / "codes.u16").read_bytes()
    for clip in SpeechSet(home.folder).clips:
        codes = np.frombuffer(whole, "<u2").reshape(-1, 8)[clip.frames_start : clip.frames_start + clip.frames]
        np.testing.assert_array_equal(codes.T, codec.encode_all(Audio(home.wave(clip), 16_000)))
    (home.folder / "codes.u16").rename(home.folder / "codes.u16.part")
    (home.folder / "codes.u16.part").write_bytes(whole[:2000])
    encode_set(home.folder, codec)
    assert (home.folder / "codes.u16").read_bytes() == whole
    encode_set(home.folder, codec, augmented=1)
    assert (home.folder / "codes_aug1.u16").stat().st_size == len(whole) // 8


def test_training_crops(tmp_path: Path) -> None:
    feeder = Feeder({"set": make_set(tmp_path / "set")}, seed=0)
    batch = feeder.batch(3)
    assert batch.heard.shape == batch.clean.shape == (3, 1, 16_000)
    assert batch.phones.shape == (3, 50)
    assert not torch.equal(batch.heard, batch.clean)
    with pytest.raises(ModelFault):
        Feeder({}, seed=0)


def test_a_voice_and_a_disguised_copy_tell_the_same_at_the_same_frames(tmp_path: Path) -> None:
    home = make_set(tmp_path / "set")
    second = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000) * np.repeat([1, 0.01, 1, 0.01, 1], 3200)  # loud and quiet by turns
    np.tile(8000 * second, 20)[: len(home.audio)].astype(np.int16).tofile(home.folder / "audio.i16")
    feeder = Feeder({"set": SpeechSet(home.folder)}, seed=0)
    true, copied, frames = feeder.disguised(feeder.of_voice("v")[:2])
    assert true.shape == (2, 1, 16_000) and copied.shape[-1] != 16_000 and frames.shape == (50,)
    loud = [
        part.reshape(-1)[: len(part.reshape(-1)) // 320 * 320].reshape(-1, 320).square().mean(1) > 0.005 for part in (true[0], copied[0])
    ]
    rows = frames.clamp(max=len(loud[1]) - 1)
    assert float((loud[0] == loud[1][rows]).float().mean()) > 0.85
    with pytest.raises(ModelFault):
        feeder.of_voice("nobody")


def test_a_disturbed_copy_is_coded_in_the_time_of_the_original(codec: SpeechCodec) -> None:
    wave = sound(320 * 70).samples
    speeds = [disturbed(wave, np.random.default_rng(seed))[1] for seed in range(20)]
    assert 1.0 in speeds and min(speeds) < 0.95 and max(speeds) > 1.05
    for seed in range(4):
        copied, speed = disturbed(wave, np.random.default_rng(seed))
        codes = codec.encode(Audio(copied, 16_000))
        found = disturbed_codes(codec, wave, 70, np.random.default_rng(seed))
        assert found.shape == (70, 1) and found[0, 0] == codes[0, 0]
        assert found[35, 0] == codes[int(35.5 / speed), 0]


def test_folded_weights_change_nothing() -> None:
    torch.manual_seed(0)
    model = SpeechTokenizer(TINY).eval()
    wav = torch.randn(1, 1, 1600)
    with torch.inference_mode():
        plain = model.decode(model.encode(wav))
        torch.testing.assert_close(model.fold().decode(model.encode(wav)), plain, rtol=0, atol=0)


def test_word_errors_and_figures() -> None:
    assert word_errors("Draw a red car.", "draw the red car now") == (2, 4)
    rates, weights = word_error_rates(["a b c d", "x"], ["a b c", "x"])
    report = figure(rates, weights, ceiling=0, floor=1)
    assert report["value"] == pytest.approx(0.2)
    assert report["ci95"][0] <= 0.2 <= report["ci95"][1]
    assert report["n"] == 2


def test_steady_codes_are_the_cheapest_way() -> None:
    rng = np.random.default_rng(4)
    for stay in (0.0, 0.3, 1.0, 50.0):
        distances = rng.random((6, 4))
        ways = itertools.product(range(4), repeat=6)

        def price(way: tuple[int, ...], distances: np.ndarray = distances, stay: float = stay) -> float:
            changes = sum(a != b for a, b in itertools.pairwise(way))
            return float(distances[np.arange(6), list(way)].sum()) + stay * changes

        found = tuple(steady(distances, stay).tolist())
        assert price(found) == pytest.approx(min(map(price, ways)))
    assert steady(distances, 0.0).tolist() == distances.argmin(1).tolist()
    assert len(set(steady(distances, 50.0).tolist())) == 1


def test_a_steady_quantizer_changes_less_and_later_levels_make_up_for_it() -> None:
    torch.manual_seed(3)
    plain, calm = ResidualQuantizer(4, 32, 8), ResidualQuantizer(4, 32, 8, stay=2.0)
    calm.load_state_dict(plain.state_dict())
    latent = torch.randn(2, 8, 60).cumsum(2) * 0.3
    (one, _), (two, parts) = plain.quantize(latent, 4), calm.quantize(latent, 4)
    assert int((two[0][:, 1:] != two[0][:, :-1]).sum()) < int((one[0][:, 1:] != one[0][:, :-1]).sum())
    first, whole = (latent - parts[0]).pow(2).mean(), (latent - sum(parts)).pow(2).mean()
    assert float(whole) < float(first)
    assert torch.equal(calm.quantize(latent[1:], 4)[0], two[:, 1:])  # each clip by itself


def test_the_low_band_is_what_lies_below_its_limit() -> None:
    time = torch.arange(16_000) / 16_000
    low, high = torch.sin(2 * torch.pi * 200 * time)[None], torch.sin(2 * torch.pi * 800 * time)[None]
    torch.testing.assert_close(low_band(low + high), low, atol=1e-3, rtol=0)
    assert float(band_loss(low + high, low)) < 1e-3
    assert float(band_loss(torch.zeros_like(low), low)) == pytest.approx(1, abs=0.01)
    assert float(band_loss(torch.roll(low, 40), low)) > 1.9  # half a period late


def test_a_frame_that_holds_its_low_band_has_no_pitch_loss() -> None:
    wave = torch.sin(2 * torch.pi * 170 * torch.arange(3200) / 16_000)[None, None]
    truth = low_band(wave[:, 0])[:, :: 320 // BAND].reshape(1, -1, BAND).transpose(1, 2)
    assert float(pitch_loss(torch.nn.Identity(), truth, wave)) < 1e-9
    assert float(pitch_loss(torch.nn.Identity(), truth.flip(2), wave)) > 0.1


def test_what_level_1_does_not_see_is_free() -> None:
    torch.manual_seed(0)
    model = SpeechTokenizer(TINY | {"dimension": 64, "semantic_dimension": 64})
    book = model.quantizer.codebooks[0]
    book.embed.copy_(torch.randn(32, 8) @ torch.randn(8, 64))  # spans 8 of 64 dimensions
    kept = Kept(model.encoder, book.embed, 32)
    wave = torch.randn(1, 1, 3200)
    latent = model.encoder(wave).detach()
    moved = latent + kept.free(torch.randn_like(latent) * 5)
    assert float(kept.loss(latent, wave)) < 1e-9 > float(kept.loss(moved, wave)) - 1e-6
    flat = [value.transpose(1, 2).reshape(-1, 64) for value in (latent, moved)]
    assert torch.equal(book.nearest(flat[0]), book.nearest(flat[1]))
    assert float(kept.loss(latent + kept.basis[0][None, :, None], wave)) == pytest.approx(1, rel=1e-3)


def test_a_fixed_level_stays_while_the_others_learn() -> None:
    torch.manual_seed(0)
    model = SpeechTokenizer(TINY)
    before = [book.embed.clone() for book in model.quantizer.codebooks]
    books = CodebookStack(model.quantizer.codebooks, fixed=1, stay=0.5)
    books.start(torch.randn(2000, 16), 100)
    books(torch.randn(2, 16, 50))
    changed = [not torch.equal(a, book.embed) for a, book in zip(before, model.quantizer.codebooks, strict=True)]
    assert changed == [False] + [True] * 7


def test_a_steady_stack_chooses_what_the_steady_quantizer_does() -> None:
    torch.manual_seed(0)
    model = SpeechTokenizer(TINY | {"stay": 0.5})
    latent = torch.randn(2, 16, 50)
    made = CodebookStack(model.quantizer.codebooks, fixed=1, stay=0.5)(latent, learn=False)
    assert torch.equal(made.codes, model.quantizer.quantize(latent, 8)[0])
