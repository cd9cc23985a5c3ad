"""The one border for untrusted media: bytes in, a clean RGB picture or clean mono sound out, or a UserError.

Everything is decided by content, never by a file name. Headers are checked before anything is decoded, so neither a
144-megapixel PNG of 100 KB nor a two-hour FLAC of 1 MB can fill the memory. Torch-free.
"""

from __future__ import annotations

import io
import math
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from anygpt_demo.errors import BadAudio, BadPicture, MissingProgram

if TYPE_CHECKING:
    from PIL import Image

PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
PICTURE_BYTES = 20_000_000
PICTURE_PIXELS = 24_000_000
PICTURE_SIDE = 10_000
AUDIO_BYTES = 64_000_000  # four minutes of CD-quality WAV are 42 MB
AUDIO_CHANNELS = 16
AUDIO_RATES_HZ = (1_000, 384_000)
SHORTEST_S = 0.1
SILENCE_DBFS = -60.0  # of the loudest tenth of a second
FFMPEG_RATE_HZ = 48_000
FFMPEG_SECONDS = 10

# First bytes of every container that is read: (offset, bytes, name, ffmpeg demuxer, whether libsndfile is asked first).
CONTAINERS: tuple[tuple[int, bytes, str, str, bool], ...] = (
    (0, b"RIFF", "WAV", "wav", True),
    (0, b"RF64", "WAV", "wav", True),
    (0, b"fLaC", "FLAC", "flac", True),
    (0, b"OggS", "Ogg", "ogg", True),
    (0, b"FORM", "AIFF", "aiff", True),
    (0, b"caff", "CAF", "caf", True),
    (0, b".snd", "AU", "au", True),
    (0, b"ID3", "MP3", "mp3", True),
    (0, b"\x1a\x45\xdf\xa3", "WebM", "matroska", False),
    (4, b"ftyp", "M4A", "mov", False),
    (0, b"\xff\xf1", "AAC", "aac", False),
    (0, b"\xff\xf9", "AAC", "aac", False),
    (0, b"\xff\xfb", "MP3", "mp3", True),
    (0, b"\xff\xfa", "MP3", "mp3", True),
    (0, b"\xff\xf3", "MP3", "mp3", True),
    (0, b"\xff\xf2", "MP3", "mp3", True),
)


@dataclass(frozen=True)
class Picture:
    """An upright RGB picture. rgb: uint8 (height, width, 3)."""

    rgb: np.ndarray


@dataclass(frozen=True)
class Audio:
    """Mono sound. samples: float32 (n,) in [-1, 1]."""

    samples: np.ndarray
    rate_hz: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.rate_hz


@dataclass(frozen=True)
class Voice:
    """A named voice prompt: a few seconds of somebody speaking."""

    name: str
    audio: Audio


# ---------------------------------------------------------------------------------------------------------- pictures


def read_picture(data: bytes) -> Picture:
    """Untrusted bytes to an upright RGB picture on white (the first frame of an animation). Raises BadPicture."""
    from PIL import Image

    if not data:
        raise BadPicture("This picture is empty.", "The file has no content.", "Choose another file.")
    if len(data) > PICTURE_BYTES:
        raise BadPicture(f"This picture has {len(data) / 1e6:.0f} MB.", "The limit is 20 MB.", "Save it smaller, for instance as JPEG.")
    try:
        image = Image.open(io.BytesIO(data), formats=PICTURE_FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large_picture("far too many pixels") from error
    except Exception as error:  # a damaged header raises nearly anything: OSError, SyntaxError, ValueError, struct.error ...
        raise _unreadable_picture() from error
    width, height = image.size
    if width * height > PICTURE_PIXELS or max(width, height) > PICTURE_SIDE:
        raise _too_large_picture(f"{width} x {height} pixels")
    try:
        image.load()
    except Exception as error:  # the decoders as well
        raise _unreadable_picture() from error
    return Picture(to_rgb(_upright(image)))


def _too_large_picture(size: str) -> BadPicture:
    cause = f"The limit is {PICTURE_PIXELS // 1_000_000} megapixels and {PICTURE_SIDE:,} pixels on a side."
    return BadPicture(f"This picture has {size}.", cause, "Scale it down first.")


def _unreadable_picture() -> BadPicture:
    formats = ", ".join(PICTURE_FORMATS[:-1]) + " or " + PICTURE_FORMATS[-1]
    return BadPicture(
        "This file cannot be read as a picture.",
        f"It is damaged, or it is not a {formats} file.",
        "Open it in a picture program and save it as PNG.",
    )


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; a damaged EXIF block is ignored."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image) or image
    except Exception:  # EXIF is untrusted as well, and a sideways picture is better than none
        return image


def to_rgb(image: Image.Image) -> np.ndarray:
    """A Pillow image of any mode to uint8 (height, width, 3): deep modes are scaled, transparency lies on white."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image).astype(np.float64) / 257.0)
    if image.mode in ("I", "F"):
        return _grey(_eight_bit(np.asarray(image).astype(np.float64)))
    if image.mode in ("La", "RGBa"):  # premultiplied alpha
        image = image.convert(image.mode.upper())
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer)
    if image.mode == "LAB":  # Pillow has no direct conversion; lightness alone is an honest picture
        image = image.getchannel(0)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _eight_bit(values: np.ndarray) -> np.ndarray:
    """Pixels of unknown scale to 0..255: fractions, bytes and 16-bit values keep their scale, others are stretched."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return np.zeros_like(values)
    low, high = float(finite.min()), float(finite.max())
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    if low < 0 or high > 65_535:
        return (values / 2 - low / 2) / max(high / 2 - low / 2, 1e-300) * 255.0
    scale = 255.0 if high <= 1.0 else 1.0 if high <= 255.0 else 1 / 257.0
    return values * scale


def _grey(values: np.ndarray) -> np.ndarray:
    bytes_ = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return np.repeat(bytes_[:, :, None], 3, axis=2)


def write_png(picture: Picture, *, ai_generated: bool = True) -> bytes:
    """A picture as PNG. Nothing of an upload's metadata survives; generated pictures say so in theirs."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    facts = PngInfo()
    if ai_generated:
        facts.add_text("ai_generated", "true")
        facts.add_text("Software", "anygpt_demo")
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture.rgb)).save(file, "PNG", pnginfo=facts)
    return file.getvalue()


# ------------------------------------------------------------------------------------------------------------- sound


def read_audio(data: bytes, *, rate_hz: int, limit_s: float, crop: bool) -> tuple[Audio, list[str]]:
    """Untrusted bytes to mono sound at rate_hz, without DC, in [-1, 1], and notes for the person. Raises BadAudio.

    crop: use the first limit_s seconds of a longer file (and say so) instead of refusing it.
    """
    if not data:
        raise BadAudio("This recording is empty.", "The file has no content.", "Record it again, or choose another file.")
    if len(data) > AUDIO_BYTES:
        raise BadAudio(
            f"This sound file has {len(data) / 1e6:.0f} MB.",
            f"The limit is {AUDIO_BYTES // 1_000_000} MB.",
            "Cut it, or save it as FLAC or MP3.",
        )
    name, demuxer, libsndfile = _container(data)
    read = _read_libsndfile(data, limit_s, crop) if libsndfile else None
    if read is None and libsndfile and shutil.which("ffmpeg") is None:
        raise _unreadable_audio()  # libsndfile knows this container, so the file is to blame and not a missing program
    samples, source_hz, seconds = read or _read_ffmpeg(data, name, demuxer, limit_s)
    if seconds > limit_s and not crop:
        raise _too_long(seconds, limit_s)
    notes = [f"Only the first {limit_s:g} seconds are used."] if seconds > limit_s else []
    samples = _clean(samples[: math.ceil(limit_s * source_hz)], source_hz)
    samples = resample(samples, source_hz, rate_hz)[: math.ceil(limit_s * rate_hz)]
    return Audio(np.clip(samples, -1.0, 1.0), rate_hz), notes


def from_samples(samples: np.ndarray, source_hz: int, *, rate_hz: int) -> Audio:
    """Samples that are already in memory, float (n,), with the same checks and cleaning as a file. Raises BadAudio."""
    clean = _clean(np.asarray(samples, dtype=np.float32).reshape(-1), source_hz)
    return Audio(np.clip(resample(clean, source_hz, rate_hz), -1.0, 1.0), rate_hz)


def _container(data: bytes) -> tuple[str, str, bool]:
    for offset, magic, name, demuxer, libsndfile in CONTAINERS:
        if data[offset : offset + len(magic)] == magic:
            return name, demuxer, libsndfile
    raise _unreadable_audio()


def _unreadable_audio() -> BadAudio:
    return BadAudio(
        "This file cannot be read as sound.",
        "It is damaged, or it is not WAV, FLAC, MP3, Ogg, WebM or M4A.",
        "Save it as WAV and try again.",
    )


def _too_long(seconds: float, limit_s: float) -> BadAudio:
    length = f"{int(seconds // 60)} min {int(seconds % 60)} s" if math.isfinite(seconds) else f"more than {limit_s:g} s"
    return BadAudio(f"This recording is {length} long.", f"The limit is {limit_s:g} seconds.", "Cut it, or split it into parts.")


class _Bytes(io.BytesIO):
    """Bytes that ignore a seek before their start, which damaged files ask for, in the place of raising inside the library."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        base = (0, self.tell(), len(self.getbuffer()))[whence]
        return super().seek(offset, whence) if base + offset >= 0 else self.tell()


def _read_libsndfile(data: bytes, limit_s: float, crop: bool) -> tuple[np.ndarray, int, float] | None:
    """(mono float32 (n,), rate, length in seconds) or None if libsndfile cannot open it. Reads at most limit_s seconds."""
    import soundfile

    try:
        file = soundfile.SoundFile(_Bytes(data))
    except (soundfile.SoundFileError, OSError, ValueError):
        return None
    with file:
        if not AUDIO_RATES_HZ[0] <= file.samplerate <= AUDIO_RATES_HZ[1]:
            raise BadAudio(
                f"This recording has {file.samplerate:,} samples per second.", "Rates from 1 to 384 kHz are read.", "Save it at 44,100 Hz."
            )
        if file.channels > AUDIO_CHANNELS:
            raise BadAudio(
                f"This recording has {file.channels} channels.", f"Up to {AUDIO_CHANNELS} are read.", "Mix it down to one or two channels."
            )
        seconds = file.frames / file.samplerate
        if seconds > limit_s and not crop:  # a stream of unknown length claims about 2**63 frames
            raise _too_long(seconds if seconds < 1e6 else math.inf, limit_s)
        wanted = math.ceil(limit_s * file.samplerate) + 1
        blocks: list[np.ndarray] = []
        have = 0
        try:
            while have < wanted:
                block = file.read(min(file.samplerate, wanted - have), dtype="float32", always_2d=True)
                if not len(block):
                    break
                blocks.append(_mono(block))
                have += len(block)
        except (soundfile.SoundFileError, OSError, ValueError) as error:
            raise _unreadable_audio() from error
        samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
        return samples, file.samplerate, max(have / file.samplerate, seconds if seconds < 1e6 and have >= wanted - 1 else 0.0)


def _mono(block: np.ndarray) -> np.ndarray:
    """The mean of all channels. block: float32 (n, channels)."""
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused as not finite
        return block.mean(axis=1, dtype=np.float32) if block.shape[1] > 1 else block[:, 0]


def _read_ffmpeg(data: bytes, name: str, demuxer: str, limit_s: float) -> tuple[np.ndarray, int, float]:
    """Decode with the ffmpeg program: no shell, no network protocol, one demuxer, a time limit, limited output."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise MissingProgram(
            f"This {name} file cannot be opened here.",
            "The program ffmpeg, which decodes it, is not installed.",
            "Install ffmpeg, or save the file as WAV, FLAC or MP3.",
        )
    with tempfile.NamedTemporaryFile(prefix="anygpt-", suffix=".bin") as file:  # M4A needs seeking, so not through a pipe
        file.write(data)
        file.flush()
        head = [program, "-nostdin", "-hide_banner", "-loglevel", "error", "-threads", "1", "-protocol_whitelist", "file"]
        body = ["-f", demuxer, "-i", f"file:{file.name}", "-map", "0:a:0", "-vn", "-sn", "-dn", "-t", f"{limit_s + 1:g}"]
        tail = ["-ac", "1", "-ar", str(FFMPEG_RATE_HZ), "-f", "f32le", "pipe:1"]
        try:
            done = subprocess.run(head + body + tail, capture_output=True, timeout=FFMPEG_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise BadAudio(
                f"This {name} file takes too long to open.",
                f"Decoding was stopped after {FFMPEG_SECONDS} s.",
                "Save it as WAV and try again.",
            ) from error
    samples = np.frombuffer(done.stdout[: len(done.stdout) // 4 * 4], dtype="<f4").astype(np.float32)
    if not samples.size:
        raise _unreadable_audio()
    seconds = len(samples) / FFMPEG_RATE_HZ
    return samples, FFMPEG_RATE_HZ, math.inf if seconds >= limit_s + 1 else seconds


def _clean(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Refuse what is not sound; remove DC; scale down what exceeds 1. samples: float32 (n,)."""
    if len(samples) < SHORTEST_S * rate_hz:
        raise BadAudio(
            "This recording is too short.",
            f"It has {len(samples) / rate_hz:.2f} s; at least {SHORTEST_S:g} s are needed.",
            "Hold the button while you speak.",
        )
    if not np.isfinite(samples).all():
        raise BadAudio(
            "This recording is damaged.", "It holds values that are not numbers.", "Export it again from the program that made it."
        )
    centred = samples.astype(np.float64)
    centred -= centred.mean()
    window = max(1, rate_hz // 10)
    whole = centred[: len(centred) // window * window].reshape(-1, window)
    loudest = math.sqrt(float((whole**2).mean(axis=1).max()))
    if 20 * math.log10(loudest + 1e-12) < SILENCE_DBFS:
        raise BadAudio("I heard nothing.", "The recording is silent.", "Check the microphone, or choose another file.")
    return (centred / max(1.0, float(np.abs(centred).max()))).astype(np.float32)


def write_wav(audio: Audio, *, ai_generated: bool = True) -> bytes:
    """Sound as 16-bit WAV; generated sound says so in its metadata."""
    import soundfile

    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", samplerate=audio.rate_hz, channels=1, format="WAV", subtype="PCM_16") as file:
        if ai_generated:
            file.comment = "ai_generated=true"
            file.software = "anygpt_demo"
        file.write(np.clip(audio.samples, -1.0, 1.0))
    return buffer.getvalue()


# -------------------------------------------------------------------------------------------------------- resampling

LOWPASS_WIDTH = 6  # zero crossings on each side; with ROLLOFF the defaults of torchaudio.functional.resample
ROLLOFF = 0.99
CHUNK = 16_384  # output samples computed at once


@lru_cache(maxsize=16)
def _kernel(source: int, target: int) -> tuple[np.ndarray, int]:
    """Sinc-Hann filter of each output phase for a reduced ratio: float32 (target, taps), and the taps left of the centre."""
    cutoff = min(source, target) * ROLLOFF
    width = math.ceil(LOWPASS_WIDTH * source / cutoff)
    phase = np.arange(target, dtype=np.int64)
    tap = (phase * source // target)[:, None] + np.arange(-width, width + 2)[None, :]  # input sample, counted from the period's first
    # float32 throughout, in this order: torchaudio rounds the filter's time axis there, and so must whoever wants its figures
    time = -phase.astype(np.float32)[:, None] / np.float32(target) + tap.astype(np.float32) / np.float32(source)
    time = np.clip(time * np.float32(cutoff), -LOWPASS_WIDTH, LOWPASS_WIDTH)
    window = np.cos(time * np.float32(math.pi / LOWPASS_WIDTH / 2)) ** 2
    time *= np.float32(math.pi)
    sinc = np.divide(np.sin(time), time, out=np.ones_like(time), where=time != 0)
    return sinc * window * np.float32(cutoff / source), width


def resample(samples: np.ndarray, source_hz: int, target_hz: int) -> np.ndarray:
    """Band-limited resampling along the last axis, equal to torchaudio's default windowed sinc. float32 (..., n) in and out.

    torchaudio convolves with every phase's filter padded to a whole period; here only the taps that are not zero are
    computed, so that odd rates (7,999 to 16,000 Hz) stay small.
    """
    samples = np.asarray(samples, dtype=np.float32)
    if source_hz == target_hz:
        return samples
    divisor = math.gcd(source_hz, target_hz)
    source, target = source_hz // divisor, target_hz // divisor
    if samples.ndim > 1:
        return np.stack([resample(row, source_hz, target_hz) for row in samples])
    kernel, width = _kernel(source, target)
    count = -(-len(samples) * target // source)
    padded = np.pad(samples, (width, width + 2 + source // target))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[1])
    result = np.empty(count, dtype=np.float32)
    for start in range(0, count, CHUNK):
        position = np.arange(start, min(start + CHUNK, count), dtype=np.int64)
        result[start : start + CHUNK] = np.einsum("ij,ij->i", windows[position * source // target], kernel[position % target])
    return result
