"""The music codec: shapes, the 5 s limit, streaming, loading from a family."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from anygpt_demo import checkpoints
from anygpt_demo.codecs.music import HOP, MODALITY, MusicCodec
from anygpt_demo.errors import BadCheckpoint
from anygpt_demo.media import Audio
from anygpt_demo.models import encodec
from anygpt_demo.train.music_codec import FRAMES, Batch, Student, Trainer

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


def test_the_decoder_alone_learns_what_the_encoder_hears():
    torch.manual_seed(0)
    trainer = Trainer.__new__(Trainer)
    trainer.student, trainer.phase = Student(), "decoder"
    trainer.codec = trainer.student.codec
    trainer.new_optimizer()
    frames, clip = (2, FRAMES), {"family": torch.zeros(2).long(), "tempo": torch.zeros(2).long(), "genre": torch.zeros(2).long()}
    batch = Batch(
        wav=0.1 * torch.randn(2, 1, FRAMES * 640),
        bits=torch.zeros(*frames, 5),
        chords=torch.zeros(*frames, 12),
        lead=torch.zeros(frames).long(),
        bass=torch.zeros(frames).long(),
        clip=clip | {"drums": torch.ones(2)},
    )
    assert trainer.heard_losses(batch.wav, batch)["heard"] < 1e-5
    made = trainer.codec.decoder(torch.randn(2, 128, FRAMES))
    terms = trainer.heard_losses(made, batch)
    assert terms["heard"] > 0
    (terms["heard"] + terms["score"]).backward()
    learns = {name.split(".")[0] for name, value in trainer.student.named_parameters() if value.grad is not None and value.grad.any()}
    assert learns == {"codec"}
    assert all(name.startswith("codec.decoder") for name, value in trainer.student.named_parameters() if value.grad is not None)
