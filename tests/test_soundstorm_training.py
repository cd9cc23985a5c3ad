"""The voice model's training parts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from anygpt_demo.models.soundstorm import SoundStorm, expected
from anygpt_demo.models.speechtokenizer import SpeechTokenizer
from anygpt_demo.train.soundstorm import BEFORE, PROMPT, SOURCE_SHARES, TARGET, Ear, Feeder, played, start_from_codebooks
from anygpt_demo.train.speech_data import HOP, SpeechSet
from anygpt_demo.train.speech_listener import Listener, voice_loss

TINY = {"codebook_size": 64, "num_quantizers": 7, "conformer": {"dim": 16, "depth": 1, "heads": 2, "dim_head": 8, "conv_kernel_size": 5}}
CODEC = {"n_filters": 4, "strides": [8, 5, 4, 2], "dimension": 16, "semantic_dimension": 16, "bidirectional": True, "dilation_base": 2}
CODEC |= {"residual_kernel_size": 3, "n_residual_layers": 1, "lstm_layers": 1, "activation": "ELU", "codebook_size": 64, "n_q": 8}


def make_set(folder: Path, voices: dict[str, list[float]], seconds: float, source: str = "flite") -> SpeechSet:
    """Clips of `seconds`, each a tone of its own: voice -> tones in Hz."""
    folder.mkdir(parents=True)
    frames, rows, waves = int(seconds * 50), [], []
    for voice, tones in voices.items():
        for hertz in tones:
            place = {"start": len(waves) * frames * HOP, "samples": frames * HOP, "frames_start": len(waves) * frames, "frames": frames}
            rows.append({**place, "text": "a", "voice": voice, "source": source, "split": "train"})
            waves.append((8000 * np.sin(2 * np.pi * hertz * np.arange(frames * HOP) / 16000)).astype("<i2"))
    np.concatenate(waves).tofile(folder / "audio.i16")
    np.zeros(len(waves) * frames, np.uint8).tofile(folder / "phones.u8")
    (folder / "index.json").write_text(json.dumps(rows))
    return SpeechSet(folder)


def tone(wave: np.ndarray) -> float:
    """The strongest frequency of a wave in Hz."""
    return float(np.abs(np.fft.rfft(wave * np.hanning(len(wave)))).argmax() * 16000 / len(wave))


@pytest.fixture
def ear() -> Ear:
    torch.manual_seed(0)
    tokenizer = SpeechTokenizer(CODEC | {"sample_rate": 16000}).eval()
    latent = tokenizer.encoder(torch.randn(1, 1, 16000)).detach()
    for book in tokenizer.quantizer.codebooks:
        book.embed.copy_(torch.randn(64, 16) * latent.std() * 0.5)
    return Ear(tokenizer.requires_grad_(False), Listener(3).eval().requires_grad_(False))


def test_shares_add_up() -> None:
    assert abs(sum(SOURCE_SHARES.values()) - 1) < 1e-6
    assert sum(share for name, share in SOURCE_SHARES.items() if name != "synthetic") >= 0.5


def test_a_speaker_says_something_else_than_the_prompt_in_the_same_voice(tmp_path: Path) -> None:
    home = make_set(tmp_path / "synth0", {"a": [200.0, 240.0], "b": [2000.0, 2400.0]}, 4.0)
    feeder = Feeder({"synth0": home}, [0])
    for _ in range(20):
        speaker = feeder.speaker()
        assert len(speaker.prompt) == PROMPT * HOP
        prompt, said = tone(speaker.prompt), tone(feeder.said([speaker]).wave[0, 0].numpy())
        assert 1.15 < max(prompt, said) / min(prompt, said) < 1.25  # the other clip of the voice, at the same speed


def test_of_a_single_recording_prompt_and_target_are_different_places(tmp_path: Path) -> None:
    home = make_set(tmp_path / "human", {"": [300.0]}, 10.0, "pico_intent")
    clip = home.clips[0]
    rising = np.linspace(100, 7000, clip.samples)  # the frequency tells the place
    wave = (8000 * np.sin(2 * np.pi * np.cumsum(rising) / 16000)).astype("<i2")
    wave.tofile(tmp_path / "human" / "audio.i16")
    feeder = Feeder({"human": SpeechSet(tmp_path / "human")}, [1])
    for _ in range(10):
        speaker = feeder.speaker()
        prompt = [tone(part) for part in np.split(speaker.prompt, 30)]
        said = [tone(part) for part in np.split(feeder.said([speaker]).wave[0, 0].numpy(), 10)]
        assert max(prompt) < min(said) + 60 or max(said) < min(prompt) + 60


def test_a_disguise_changes_the_semantic_codes_alone(tmp_path: Path, ear: Ear) -> None:
    feeder = Feeder({"synth0": make_set(tmp_path / "synth0", {"a": [150.0, 300.0]}, 4.0)}, [0])
    speakers = [feeder.speaker() for _ in range(2)]
    plain = feeder.said(speakers, 0.0)
    codes, left = ear.code(plain)
    assert codes.shape == (2, len(plain.frames), 8) and torch.equal(codes, ear.tokenizer.encode(plain.wave).permute(1, 2, 0))
    other = feeder.said(speakers, 1.0)
    assert other.copied.shape != other.wave.shape
    codes, left = ear.code(other)
    truth = ear.tokenizer.encoder(other.wave)
    assert torch.allclose(left.transpose(1, 2), truth - ear.tokenizer.quantizer.decode(codes[..., :1].permute(2, 0, 1)), atol=1e-5)
    assert torch.equal(codes[0, :, 1], ear.tokenizer.quantizer.codebooks[1].nearest(left[0]))


def test_the_network_sees_the_prompt_and_what_was_said_and_not_the_target(tmp_path: Path, ear: Ear) -> None:
    feeder = Feeder({"synth0": make_set(tmp_path / "synth0", {"a": [150.0, 300.0]}, 4.0)}, [0])
    model = SoundStorm(TINY)
    start_from_codebooks(model, ear.tokenizer, 0)
    seen: list[torch.Tensor] = []
    hidden = model.net.hidden
    model.net.hidden = lambda acoustic, condition: (seen.append(acoustic.clone()), hidden(acoustic, condition))[1]  # type: ignore[method-assign]
    speakers = feeder.speakers(2)
    prompt = ear.prompts(speakers)
    said = next(said for said in (feeder.said(speakers) for _ in range(50)) if len(said.frames) == BEFORE + TARGET)
    terms = ear.losses(model, prompt, said, True)
    assert torch.equal(seen[0][:, :PROMPT], prompt[..., 1:])
    assert torch.equal(seen[0][:, PROMPT:-TARGET], ear.code(said)[0][:, :-TARGET, 1:])
    assert (seen[0][:, -TARGET:] == model.mask_id).all() and (seen[0][:, :-TARGET] != model.mask_id).all()
    assert {"latent", "entropy", "mel", "heard_voice"} <= set(terms)
    torch.stack(list(terms.values())).sum().backward()
    gradient = model.net.to_logits[2].weight.grad
    assert gradient is not None and bool(gradient.abs().sum() > 0)


def test_what_is_expected_is_the_sum_of_sure_codes() -> None:
    vectors = torch.randn(2, 5, 3)
    sure = torch.full((1, 4, 5), -50.0)
    sure[..., 2] = 50.0
    assert torch.allclose(expected([sure, sure], vectors)[0, 0], vectors[0, 2] + vectors[1, 2], atol=1e-5)
    even = torch.zeros(1, 4, 5)
    assert torch.allclose(expected([even, sure], vectors)[0, 0], vectors[0].mean(0) + vectors[1, 2], atol=1e-5)


def test_speed_is_pitch_and_length() -> None:
    wave = np.sin(2 * np.pi * 400 * np.arange(16000) / 16000)
    assert abs(tone(played(wave, 1.25, 12800)) - 500) < 3
    assert not played(wave, 2.0, 16000)[8001:].any()


def test_the_listener_hears_who_and_what() -> None:
    torch.manual_seed(0)
    listener = Listener(4).eval()
    wave = torch.randn(2, 50 * HOP) * 0.1
    assert listener.phone_logits(listener.layers(wave)).shape[:2] == (2, 50)
    same, other = listener.heard(wave, wave), listener.heard(wave * 0.2, wave)
    assert all(float(value) < 1e-4 for value in same.values()) and all(float(other[key]) > float(same[key]) for key in same)
    vectors = torch.nn.functional.normalize(listener.voices.detach()[[2, 0, 1]], dim=-1)
    loss, right = voice_loss(listener, vectors, torch.tensor([2, 0, -1]))
    assert float(right) == 1 and float(loss) < float(voice_loss(listener, vectors, torch.tensor([1, 3, -1]))[0])
