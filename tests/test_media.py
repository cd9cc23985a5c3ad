"""The border for untrusted media: what is refused, what is repaired, and that nothing gets past it."""

from __future__ import annotations

import io
import random
import resource
import struct
import subprocess
import zlib

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anygpt_demo import media
from anygpt_demo.errors import BadAudio, BadPicture, MissingProgram, UserError

CORNERS = np.array([[[250, 10, 10], [10, 250, 10], [10, 10, 250]], [[240, 240, 20], [20, 20, 20], [20, 220, 220]]], np.uint8)


def picture_bytes(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def photo(width: int = 48, height: int = 32) -> Image.Image:
    return Image.fromarray(CORNERS).resize((width, height), Image.Resampling.NEAREST)


def tone(seconds: float, rate_hz: int, channels: int = 1, hz: float = 220.0) -> np.ndarray:
    wave = 0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate_hz)) / rate_hz)
    return np.repeat(wave[:, None], channels, axis=1).astype(np.float32)


def sound_bytes(samples: np.ndarray, rate_hz: int, form: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=form, subtype=subtype)
    return file.getvalue()


def speech(data: bytes) -> tuple[media.Audio, list[str]]:
    return media.read_audio(data, rate_hz=16_000, limit_s=30, crop=False)


def music(data: bytes) -> tuple[media.Audio, list[str]]:
    return media.read_audio(data, rate_hz=32_000, limit_s=5, crop=True)


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


# ---------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("form", media.PICTURE_FORMATS)
def test_allowed_formats_are_read(form: str) -> None:
    rgb = media.read_picture(picture_bytes(photo(), form)).rgb
    assert rgb.shape == (32, 48, 3) and rgb.dtype == np.uint8
    assert np.abs(rgb[4, 4].astype(int) - CORNERS[0, 0]).max() < 40


@pytest.mark.parametrize("form", ["TIFF", "PDF", "EPS", "ICO", "PPM", "TGA"])
def test_other_formats_are_refused(form: str) -> None:
    with pytest.raises(BadPicture):
        media.read_picture(picture_bytes(photo(), form))


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff"]
)
def test_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(BadPicture) as refusal:
        media.read_picture(data)
    assert refusal.value.problem and refusal.value.cause and refusal.value.remedy


@pytest.mark.parametrize("form", media.PICTURE_FORMATS)
def test_truncated_pictures_are_refused(form: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    whole = picture_bytes(noise, form)
    with pytest.raises(BadPicture):
        media.read_picture(whole[: len(whole) // 2])


@pytest.mark.parametrize(("width", "height"), [(12_000, 12_000), (5_000, 5_000), (10_001, 10), (2_000_000, 1), (60_000, 60_000)])
def test_bombs_are_refused_from_the_header(width: int, height: int) -> None:
    before = peak_memory()
    with pytest.raises(BadPicture):
        media.read_picture(png_header(width, height))
    assert peak_memory() - before < 50_000_000


def test_a_real_bomb_in_webp_and_gif_costs_no_memory() -> None:
    gif = picture_bytes(Image.new("P", (8, 8)), "GIF")
    gif = gif[:6] + struct.pack("<HH", 30_000, 30_000) + gif[10:]
    before = peak_memory()
    with pytest.raises(BadPicture):
        media.read_picture(gif)
    assert peak_memory() - before < 50_000_000


def test_too_many_bytes_are_refused() -> None:
    with pytest.raises(BadPicture, match="MB"):
        media.read_picture(bytes(media.PICTURE_BYTES + 1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    way = Image.Transpose
    turn = {
        2: way.FLIP_LEFT_RIGHT,
        3: way.ROTATE_180,
        4: way.FLIP_TOP_BOTTOM,
        5: way.TRANSPOSE,
        6: way.ROTATE_90,
        7: way.TRANSVERSE,
        8: way.ROTATE_270,
    }
    stored = photo().transpose(turn[orientation]) if orientation in turn else photo()
    exif = Image.Exif()
    exif[0x0112] = orientation
    rgb = media.read_picture(picture_bytes(stored, "PNG", exif=exif)).rgb
    np.testing.assert_array_equal(rgb, np.asarray(photo()))


def test_damaged_exif_is_ignored() -> None:
    data = picture_bytes(photo(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f garbage")
    assert media.read_picture(data).rgb.shape == (32, 48, 3)


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "P", "RGB", "RGBA", "LA", "La", "PA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16", "I;16B", "I;16L"],
)
def test_every_mode(mode: str) -> None:
    image = photo().convert("L").convert("I").point(lambda value: value * 257).convert("I;16") if mode.startswith("I;16") else None
    if image is None:
        between = {"La": "LA", "RGBa": "RGBA", "PA": "LA", "HSV": "RGB", "LAB": "RGB"}.get(mode)
        image = photo().convert(between) if between else photo()
        if mode == "PA":
            image = Image.new("PA", (48, 32))
        elif mode == "LAB":
            image = Image.new("LAB", (48, 32), (200, 0, 0))
        else:
            image = image.convert(mode)
    rgb = media.to_rgb(image)
    assert rgb.shape == (32, 48, 3) and rgb.dtype == np.uint8


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65_535, 64, dtype=np.uint16).reshape(8, 8)
    rgb = media.read_picture(picture_bytes(Image.fromarray(ramp), "PNG")).rgb
    np.testing.assert_allclose(rgb[..., 0], ramp / 257, atol=1)


def test_float_pictures_survive_what_is_no_number() -> None:
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    values[0, 0], values[0, 1], values[0, 2] = np.nan, np.inf, -np.inf
    rgb = media.to_rgb(Image.fromarray(values))
    assert rgb[0, 0, 0] < 20
    assert rgb[7, 7, 0] == 255
    assert media.to_rgb(Image.fromarray(np.full((4, 4), np.nan, np.float32))).max() == 0


def test_transparency_lies_on_white() -> None:
    layer = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (media.read_picture(picture_bytes(layer, "PNG")).rgb == 255).all()
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    np.testing.assert_allclose(media.read_picture(picture_bytes(half, "WEBP", lossless=True)).rgb[0, 0], [255, 127, 127], atol=1)


@pytest.mark.parametrize("form", ["GIF", "WEBP"])
def test_first_frame_of_an_animation(form: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    rgb = media.read_picture(picture_bytes(frames[0], form, save_all=True, append_images=frames[1:])).rgb
    assert rgb[8, 8, 0] > 200 and rgb[8, 8, 2] < 60


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1)])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    assert media.read_picture(picture_bytes(Image.new("RGB", size, "red"), "PNG")).rgb.shape == (size[1], size[0], 3)


def test_written_pictures_say_what_they_are_and_nothing_else() -> None:
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    picture = media.read_picture(picture_bytes(photo(), "JPEG", exif=exif))
    made = media.write_png(picture)
    with Image.open(io.BytesIO(made)) as image:
        assert image.text["ai_generated"] == "true"
    kept = media.write_png(picture, ai_generated=False)
    assert b"home" not in kept and b"ai_generated" not in kept
    np.testing.assert_array_equal(media.read_picture(made).rgb, picture.rgb)


# ------------------------------------------------------------------------------------------------------------- sound


@pytest.mark.parametrize(
    ("form", "subtype"),
    [
        ("WAV", "PCM_U8"),
        ("WAV", "PCM_16"),
        ("WAV", "PCM_24"),
        ("WAV", "FLOAT"),
        ("FLAC", None),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", None),
        ("AIFF", None),
    ],
)
def test_sound_formats(form: str, subtype: str | None) -> None:
    audio, notes = speech(sound_bytes(tone(1, 24_000), 24_000, form, subtype))
    assert audio.rate_hz == 16_000 and audio.samples.dtype == np.float32 and not notes
    assert abs(audio.seconds - 1) < 0.06
    spectrum = np.abs(np.fft.rfft(audio.samples[2_000:14_000]))
    assert abs(np.argmax(spectrum) * 16_000 / 12_000 - 220) < 3


@pytest.mark.parametrize(
    ("ending", "codec"), [("webm", "libopus"), ("m4a", "aac"), ("mp3", "libmp3lame"), ("aac", "aac"), ("ogg", "libopus")]
)
def test_browser_formats_are_decoded_by_content(tmp_path: object, ending: str, codec: str) -> None:
    path = f"{tmp_path}/made.{ending}"
    command = ["ffmpeg", "-loglevel", "error", "-f", "lavfi", "-i", "sine=frequency=220:duration=1.5", "-c:a", codec, path]
    subprocess.run(command, check=True, timeout=30)
    with open(path, "rb") as file:
        audio, _ = speech(file.read())
    assert abs(audio.seconds - 1.5) < 0.1
    assert 0.02 < np.abs(audio.samples).max() <= 1


def test_without_ffmpeg_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media.shutil, "which", lambda name: None)
    with pytest.raises(MissingProgram, match="ffmpeg"):
        speech(b"\x1a\x45\xdf\xa3" + bytes(100))


def test_a_decoder_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    slow = f"{tmp_path}/slow"
    with open(slow, "w", encoding="utf-8") as file:
        file.write("#!/bin/sh\nexec sleep 60\n")
    subprocess.run(["chmod", "+x", slow], check=True)
    monkeypatch.setattr(media.shutil, "which", lambda name: slow)
    monkeypatch.setattr(media, "FFMPEG_SECONDS", 0.2)
    with pytest.raises(BadAudio, match="too long to open"):
        speech(b"\x1a\x45\xdf\xa3" + bytes(100))


def test_ffmpeg_may_not_follow_references() -> None:
    playlist = b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/evil.wav\n"
    for head in (b"", b"\x1a\x45\xdf\xa3", b"\0\0\0\x20ftypM4A "):
        with pytest.raises(BadAudio):
            speech(head + playlist)


@pytest.mark.parametrize(
    "data", [b"", b"hello, I am text", b"RIFF\0\0\0\0WAVE", b"fLaC", b"OggS" + bytes(40), b"ID3" + bytes(20), b"\xff\xfb" + bytes(50)]
)
def test_no_sound_is_refused(data: bytes) -> None:
    with pytest.raises(BadAudio):
        speech(data)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(bad: float) -> None:
    samples = tone(1, 16_000)
    samples[500] = bad
    with pytest.raises(BadAudio, match="damaged"):
        speech(sound_bytes(samples, 16_000, "WAV", "FLOAT"))


def test_loud_and_shifted_sound_is_repaired() -> None:
    audio, _ = speech(sound_bytes(tone(1, 16_000) * 150 + 20, 16_000, "WAV", "FLOAT"))
    assert np.abs(audio.samples).max() <= 1 and abs(audio.samples.mean()) < 1e-3
    assert np.abs(audio.samples).max() > 0.95


def test_quiet_speech_keeps_its_level_and_silence_is_refused() -> None:
    audio, _ = speech(sound_bytes(tone(1, 16_000) * 0.1, 16_000))
    assert abs(np.abs(audio.samples).max() - 0.03) < 1e-3
    for silence in (np.zeros(16_000), np.full(16_000, 0.5), tone(1, 16_000) * 1e-3):
        with pytest.raises(BadAudio, match="heard nothing"):
            speech(sound_bytes(silence, 16_000, "WAV", "FLOAT"))


def test_too_short_is_refused() -> None:
    for samples in (np.zeros((0, 1)), tone(0.05, 16_000)):
        with pytest.raises(BadAudio, match="short"):
            speech(sound_bytes(samples, 16_000))


def test_speech_limit_and_music_crop() -> None:
    assert speech(sound_bytes(tone(30, 16_000), 16_000))[0].seconds == 30
    with pytest.raises(BadAudio, match="0 min 31 s"):
        speech(sound_bytes(tone(31, 16_000), 16_000))
    audio, notes = music(sound_bytes(tone(12, 44_100, 2), 44_100))
    assert len(audio.samples) == 160_000 and notes == ["Only the first 5 seconds are used."]
    audio, notes = music(sound_bytes(tone(5, 44_100), 44_100))
    assert len(audio.samples) == 160_000 and not notes


def test_a_two_hour_flac_costs_no_memory() -> None:
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 48_000, 1, format="FLAC") as flac:
        flac.write(tone(6, 48_000))
        for _ in range(30):
            flac.write(np.zeros(48_000 * 60, np.float32))
    before = peak_memory()
    with pytest.raises(BadAudio, match="30 min 6 s"):
        speech(file.getvalue())
    audio, notes = music(file.getvalue())
    assert len(audio.samples) == 160_000 and notes
    assert peak_memory() - before < 60_000_000


@settings(max_examples=60, deadline=None)
@given(
    rate_hz=st.sampled_from([7_999, 8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000]) | st.integers(1_000, 200_000),
    channels=st.integers(1, 8),
    target=st.sampled_from([16_000, 32_000]),
)
def test_any_rate_and_channel_count(rate_hz: int, channels: int, target: int) -> None:
    audio, _ = media.read_audio(sound_bytes(tone(0.5, rate_hz, channels), rate_hz), rate_hz=target, limit_s=30, crop=False)
    assert abs(len(audio.samples) - target * 0.5) <= target / 50
    assert audio.samples.ndim == 1 and 0.25 < np.abs(audio.samples).max() < 0.35


@settings(max_examples=50, deadline=None)
@given(source=st.integers(1_000, 50_000), target=st.sampled_from([16_000, 32_000]), count=st.integers(1, 3_000))
def test_resampled_length(source: int, target: int, count: int) -> None:
    result = media.resample(np.ones(count, np.float32), source, target)
    assert len(result) == -(-count * target // source) and np.isfinite(result).all()


def test_resampling_suppresses_what_cannot_be_kept() -> None:
    high = np.sin(2 * np.pi * 15_000 * np.arange(48_000) / 48_000).astype(np.float32)
    assert np.abs(media.resample(high, 48_000, 16_000)[1_000:-1_000]).max() < 0.01


def test_written_sound_says_what_it_is() -> None:
    audio = media.Audio(tone(1, 16_000)[:, 0], 16_000)
    made = media.write_wav(audio)
    assert b"ai_generated" in made and b"ai_generated" not in media.write_wav(audio, ai_generated=False)
    again, _ = speech(made)
    np.testing.assert_allclose(again.samples, audio.samples, atol=1e-3)


# -------------------------------------------------------------------------------------------------------------- fuzz


def mutate(data: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, or a piece cut, doubled or lost."""
    body = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        kind, at = chance.random(), chance.randrange(len(body))
        if kind < 0.7:
            body[at if chance.random() < 0.5 else at % 64] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
        elif kind < 0.8:
            del body[at : at + chance.randint(1, 40)]
        elif kind < 0.9:
            body[at:at] = body[at : at + chance.randint(1, 40)]
        else:
            del body[at:]
        if not body:
            return b""
    return bytes(body)


def test_mutated_pictures_are_read_or_refused() -> None:
    chance = random.Random(1)
    seeds = [picture_bytes(photo(24, 16), form) for form in media.PICTURE_FORMATS]
    for _ in range(2_000):
        try:
            picture = media.read_picture(mutate(chance.choice(seeds), chance))
        except BadPicture:
            continue
        assert picture.rgb.dtype == np.uint8 and picture.rgb.ndim == 3 and picture.rgb.shape[2] == 3


def test_mutated_sound_is_read_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media.shutil, "which", lambda name: None)  # ffmpeg is a process of its own; here libsndfile is meant
    chance = random.Random(2)
    wave = tone(0.3, 8_000, 2)
    seeds = [sound_bytes(wave, 8_000, form) for form in ("WAV", "FLAC", "OGG", "MP3", "AIFF")]
    for _ in range(2_000):
        try:
            audio, _ = speech(mutate(chance.choice(seeds), chance))
        except UserError:
            continue
        assert np.isfinite(audio.samples).all() and np.abs(audio.samples).max() <= 1 and audio.seconds <= 30
