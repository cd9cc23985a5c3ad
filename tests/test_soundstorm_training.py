"""The voice model's training parts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from anygpt_demo.models.soundstorm import SoundStorm, expected
from anygpt_demo.models.speechtokenizer import SpeechTokenizer
from anygpt_demo.train.soundstorm import BEHIND, PROMPT, SHARES, Feeder, held_out, losses, measure, start_from_codebooks, stretch
from anygpt_demo.train.speech_data import HOP, SpeechSet
from anygpt_demo.train.speech_listener import Listener, voice_loss
from anygpt_demo.train.timbre import GAIN, Timbres, codes_of, mean_vector

TINY = {"codebook_size": 64, "num_quantizers": 7, "conformer": {"dim": 16, "depth": 1, "heads": 2, "dim_head": 8, "conv_kernel_size": 5}}
CODEC = {"n_filters": 2, "strides": [8, 5, 4, 2], "dimension": 16, "semantic_dimension": 16, "bidirectional": True, "dilation_base": 2}
CODEC |= {"residual_kernel_size": 3, "n_residual_layers": 1, "lstm_layers": 1, "activation": "ELU", "codebook_size": 64, "n_q": 8}


@pytest.fixture
def codec() -> SpeechTokenizer:
    torch.manual_seed(0)
    tokenizer = SpeechTokenizer(CODEC | {"sample_rate": 16000}).eval()
    for book in tokenizer.quantizer.codebooks:
        book.embed.copy_(torch.randn(64, 16))
    return tokenizer.requires_grad_(False)


def make_set(folder: Path, voices: dict[str, int], frames: int, source: str = "flite", split: str = "train") -> SpeechSet:
    """Clips of noise, of each voice so many; the acoustic codes of a clip are drawn from four that are its voice's own."""
    folder.mkdir(parents=True)
    rng, rows, codes = np.random.default_rng(0), [], []
    for number, (voice, clips) in enumerate(voices.items()):
        for _ in range(clips):
            place = {"start": len(rows) * frames * HOP, "samples": frames * HOP, "frames_start": len(rows) * frames, "frames": frames}
            rows.append({**place, "text": "a", "voice": voice, "source": source, "split": split})
            own = np.random.default_rng(number).integers(0, 64, (4, 8))
            codes.append(np.take_along_axis(own, rng.integers(0, 4, (frames, 8)), 0))
    (rng.normal(0, 3000, len(rows) * frames * HOP)).astype("<i2").tofile(folder / "audio.i16")
    np.zeros(len(rows) * frames, np.uint8).tofile(folder / "phones.u8")
    np.concatenate(codes).astype("<u2").tofile(folder / "codes.u16")
    (folder / "index.json").write_text(json.dumps(rows))
    return SpeechSet(folder)


def test_shares_add_up() -> None:
    assert abs(sum(SHARES.values()) - 1) < 1e-6
    assert sum(share for name, share in SHARES.items() if name != "synthetic") >= 0.5


def test_the_mean_of_loud_frames_is_the_timbre() -> None:
    books = np.random.default_rng(0).normal(size=(8, 64, 16)).astype(np.float32)
    codes = np.zeros((10, 8), np.int64)
    codes[5:] = 7
    wave = np.repeat([0.5, 0.001], 5 * HOP)  # the second half is silent
    np.testing.assert_allclose(mean_vector(codes, wave, books), books[1:, 0].sum(0), rtol=1e-5)


def test_a_timbre_is_coded_level_after_level(codec: SpeechTokenizer) -> None:
    vectors = torch.randn(3, 16)
    codes, total = codes_of(vectors, codec.quantizer)
    assert codes.shape == (3, 7)
    found = sum(book.embed[codes[:, level]] for level, book in enumerate(codec.quantizer.codebooks[1:]))
    torch.testing.assert_close(total, found)
    assert torch.equal(codes[:, 0], codec.quantizer.codebooks[1].nearest(GAIN * vectors))


def test_the_timbre_is_that_of_the_voice_whose_clip_it_is(tmp_path: Path, codec: SpeechTokenizer) -> None:
    home = make_set(tmp_path / "synth0", {"a": 3, "b": 2}, 80)
    books = torch.stack([book.embed for book in codec.quantizer.codebooks]).numpy()
    timbres = Timbres({"synth0": home}, codec.quantizer)
    truth = {voice: np.mean([vector for _, vector in clips], 0) for voice, clips in timbres.voices["synthetic"].items()}
    rng = np.random.default_rng(0)
    for _ in range(10):
        clip, vector = timbres.draw(rng, SHARES)
        np.testing.assert_allclose(vector, truth[clip.voice], rtol=1e-4, atol=1e-5)
    clip = home.clips[0]
    codes = np.asarray(home.codes[: clip.frames], np.int64)  # type: ignore[index]
    np.testing.assert_allclose(timbres.voices["synthetic"]["a"][0][1], mean_vector(codes, home.wave(clip), books))


def test_recordings_of_unnamed_people_are_voices_of_their_own(tmp_path: Path, codec: SpeechTokenizer) -> None:
    home = make_set(tmp_path / "human", {"pico": 3}, 80, "pico_intent")
    assert len(Timbres({"human": home}, codec.quantizer).voices["pico_intent"]) == 3


def test_the_network_sees_a_prompt_and_never_the_timbre_that_it_must_find(tmp_path: Path, codec: SpeechTokenizer) -> None:
    timbres = Timbres({"synth0": make_set(tmp_path / "synth0", {"a": 2, "b": 2}, 200)}, codec.quantizer)
    batch = Feeder(timbres, codec, [0]).batch(4)
    model, books = SoundStorm(TINY), torch.stack([book.embed for book in codec.quantizer.codebooks])[1:]
    start_from_codebooks(model, codec, 0)
    seen: list[torch.Tensor] = []
    hidden = model.net.hidden
    model.net.hidden = lambda acoustic, condition: (seen.append(acoustic.clone()), hidden(acoustic, condition))[1]  # type: ignore[method-assign]
    terms, found = losses(model, batch, books)
    assert batch.codes.shape == (4, PROMPT + BEHIND, 8) and found.shape == batch.timbre.shape
    for row, known in enumerate(batch.known.tolist()):
        assert torch.equal(seen[0][row, : PROMPT + known], batch.codes[row, : PROMPT + known, 1:])
        assert (seen[0][row, PROMPT + known :] == model.mask_id).all()
    assert (batch.codes[:, PROMPT:, 1:] == batch.codes[:, PROMPT : PROMPT + 1, 1:]).all()  # it stands still
    torch.stack(list(terms.values())).sum().backward()
    gradient = model.net.to_logits[2].weight.grad
    assert gradient is not None and bool(gradient.abs().sum() > 0)


def test_a_short_clip_is_repeated(tmp_path: Path) -> None:
    home = make_set(tmp_path / "synth0", {"a": 1}, 70)
    codes = stretch(home, home.clips[0], 150, np.random.default_rng(0))
    assert codes.shape == (150, 8) and np.array_equal(codes[:70], codes[70:140])


def test_unknown_speakers_are_told_apart_by_a_network_that_knows(tmp_path: Path, codec: SpeechTokenizer) -> None:
    home = make_set(tmp_path / "human", {f"libri-{number}": 1 for number in range(5)}, 2 * PROMPT, "librispeech_clean251", "test")
    held = held_out(home, codec)
    assert held is not None
    model, books = SoundStorm(TINY), torch.stack([book.embed for book in codec.quantizer.codebooks])[1:]
    batch = held[0]
    sure = torch.full((len(batch.codes), PROMPT + BEHIND, 7, 64), -40.0).scatter_(-1, batch.codes[..., 1:, None], 40.0)
    masked = torch.zeros(len(batch.codes), PROMPT + BEHIND, dtype=torch.bool)
    masked[:, PROMPT:] = True
    model.net.hidden = lambda acoustic, condition: torch.zeros(*acoustic.shape[:2], 16)  # type: ignore[method-assign]
    model.net.level_logits = lambda hidden, level: sure[masked][None, :, level]  # type: ignore[method-assign]
    assert measure(model, held, books)["rank1"] == 1.0


def test_what_is_expected_is_the_sum_of_sure_codes() -> None:
    vectors = torch.randn(2, 5, 3)
    sure = torch.full((1, 4, 5), -50.0)
    sure[..., 2] = 50.0
    assert torch.allclose(expected([sure, sure], vectors)[0, 0], vectors[0, 2] + vectors[1, 2], atol=1e-5)
    even = torch.zeros(1, 4, 5)
    assert torch.allclose(expected([even, sure], vectors)[0, 0], vectors[0].mean(0) + vectors[1, 2], atol=1e-5)


def test_the_listener_hears_who_and_what() -> None:
    torch.manual_seed(0)
    listener = Listener(4).eval().requires_grad_(False)
    wave = torch.randn(2, 50 * HOP) * 0.1
    assert listener.phone_logits(listener.layers(wave)).shape[:2] == (2, 50)
    same, other = listener.heard(wave, wave), listener.heard(wave * 0.2, wave)
    assert all(float(value) < 1e-4 for value in same.values()) and all(float(other[key]) > float(same[key]) for key in same)
    vectors = torch.nn.functional.normalize(listener.voices[[2, 0, 1]], dim=-1)
    loss, right = voice_loss(listener, vectors, torch.tensor([2, 0, -1]))
    assert float(right) == 1 and float(loss) < float(voice_loss(listener, vectors, torch.tensor([1, 3, -1]))[0])
