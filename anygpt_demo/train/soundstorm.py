"""Stage soundstorm: learn the voice. Semantic codes + a prompt of somebody's codes -> the acoustic codes of that voice.

Training follows the paper and the published trainer: a random prompt in front, one level drawn per example, a cosine share
of that level masked behind the prompt, all higher levels masked, loss on the masked codes of that level. The higher levels'
codes are predicted from the same pass as well, at a lower weight: it costs a fifth more and teaches the body far faster. Half of the
examples are human; in long runs resampled copies of the recordings add speakers. Clips of one voice are joined, so that the prompt is
often another sentence than the target, as it is in use.

Semantic codes betray who spoke them, and a network that never sees them in another voice learns to listen to them instead of the prompt.
So behind most prompts they are those of a disguised copy (higher or lower), and the acoustic codes say what these leave of the true wave.
Two heads that are not exported read the pitch of each frame and the mean code vector of the voice from the hidden states behind the
prompt: codes say little about either at a time, and the network would find the prompt late.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anygpt_demo.checkpoints import Family, export
from anygpt_demo.models.soundstorm import SoundStorm
from anygpt_demo.models.speechtokenizer import SpeechTokenizer, with_training_buffers
from anygpt_demo.train import speech_data
from anygpt_demo.train.loop import Run, Settings, cosine
from anygpt_demo.train.speech_data import RATE_HZ, SpeechSet
from anygpt_demo.train.team import Team

CONFIG: dict[str, Any] = {
    "codebook_size": 1024,
    "num_quantizers": 7,
    "clean": True,  # generate as it was trained
    "steps": 7,
    "conformer": {
        "dim": 256,
        "depth": 4,
        "heads": 4,
        "dim_head": 64,
        "ff_mult": 2,
        "conv_expansion_factor": 1,
        "conv_kernel_size": 15,
    },
}
FRAMES = 250  # of one example: 5 s
BATCH = 4
RATE = 1.5e-3
EXPECTED = 3.0  # weight of the distance between expected and true code vector, as a share of the vectors' power
ONWARD = 0.5  # share of the examples where what is masked is all that follows a moment: how the phase of a voice goes on
NEAR = 24  # frames after that moment that count
HIGHER = 0.5  # weight of the loss on the levels above the drawn one, which are wholly masked
LEVEL_SHARES = (0.40, 0.20, 0.13, 0.10, 0.07, 0.05, 0.05)  # the first acoustic levels carry most of the timbre
SOURCE_SHARES = {"librispeech_clean251": 0.30, "pico_intent": 0.16, "kathleen": 0.10, "pico_wake": 0.04, "synthetic": 0.40}
WARPS = (0.88, 1.13)  # playing speed of the human recordings: below 1 deeper and slower, above 1 higher and faster
WARP_FROM_S = 2400.0  # shorter runs see each recording once or twice anyway and do without the copies
WARPED = ("librispeech_clean251", "pico_intent")  # many speakers, one sentence or few of each
AIDS = (0.5, 0.3)  # weights of the heads for pitch and voice
PITCHES = 40  # classes of the fundamental from LOWEST_HZ to HIGHEST_HZ, equal steps of its logarithm; class 0 has none
LOWEST_HZ, HIGHEST_HZ = 65.0, 400.0
DISGUISED = 0.9  # share of the examples whose semantic codes behind the prompt come from another voice
DISGUISE = 0.3  # largest change of a disguised voice's pitch and formants, as a logarithm
EXPORT_AT = 0.25  # first export at this share of the budget


@dataclass(frozen=True)
class Clip:
    """Codes of one recording: int16 (frames, 8), and whose voice it is (empty: nobody knows)."""

    codes: np.ndarray
    voice: str
    disguised: np.ndarray | None = None  # the same recording, its semantic codes in another voice
    pitch: np.ndarray | None = None  # int8 (frames,): classes, -1 unknown


class Aids(nn.Module):
    """What only training needs: heads for the pitch of a frame and for the voice."""

    def __init__(self, width: int, vector: int) -> None:
        super().__init__()
        self.pitch = nn.Linear(width, 1 + PITCHES)
        self.voice = nn.Linear(width, vector)

    def losses(self, hidden: Tensor, pitch: Tensor, voice: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the pitch, squared error of the voice. hidden: (B, N, D), pitch: int64 (B, N), voice: (B, d)."""
        hidden = hidden.float()
        wrong = F.cross_entropy(self.pitch(hidden).flatten(0, 1), pitch.flatten(), ignore_index=-1, reduction="sum")
        return wrong / (pitch >= 0).sum().clamp(min=1), (self.voice(hidden) - voice[:, None]).square().mean()


def load_tokenizer(family: Family) -> SpeechTokenizer:
    """The family's speech codec, frozen."""
    component = family.component("speech_tokenizer")
    config = {key: value for key, value in component.config.items() if key != "codebook"}
    model = SpeechTokenizer(config)
    model.load_state_dict(with_training_buffers(component.state()))
    return model.eval().requires_grad_(False)


def coded(folder: Path) -> Iterator[tuple[speech_data.Clip, np.ndarray]]:
    """(clip, int16 codes (frames, 8)) of the clips of a set that are coded by now, finished or not."""
    there = [path for path in (folder / "codes.u16", folder / "codes.u16.part") if path.is_file()]
    ready = max(there, key=lambda path: path.stat().st_size, default=None)
    if ready is None or not (folder / "index.json").is_file():
        return
    raw = np.fromfile(ready, "<u2")
    table = raw[: len(raw) // 8 * 8].reshape(-1, 8).astype(np.int16)
    for clip in SpeechSet(folder).clips:
        end = clip.frames_start + clip.frames
        if end <= len(table):
            yield clip, table[clip.frames_start : end]


@torch.inference_mode()
def warped(source: SpeechSet, speed: float, tokenizer: SpeechTokenizer, cache: Path) -> Iterator[tuple[speech_data.Clip, np.ndarray]]:
    """(clip, int16 codes (frames, 8)) of training clips of WARPED sources played at another speed; cached as one npz file."""
    clips = [clip for clip in source.split("train") if clip.source in WARPED]
    if not cache.is_file():
        found = []
        for clip in clips:
            wave = source.wave(clip)
            length = int(len(wave) / speed) // 320 * 320
            wave = np.interp(np.arange(length) * speed, np.arange(len(wave)), wave).astype(np.float32)
            found.append(tokenizer.encode(torch.from_numpy(wave)[None, None])[:, 0].T.numpy().astype(np.int16))
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, codes=np.concatenate(found), frames=np.array([len(codes) for codes in found]))
    stored = np.load(cache)
    yield from zip(clips, np.split(stored["codes"], np.cumsum(stored["frames"])[:-1]), strict=True)


@torch.inference_mode()
def disguise(wave: np.ndarray, speed: float, tokenizer: SpeechTokenizer) -> np.ndarray:
    """Codes of a wave whose semantic codes are those of a copy played at another speed; the other levels code what is left.

    wave: float32 (n,) at 16 kHz, a multiple of 320 samples. Returns int16 (n / 320, 8).
    """
    frames = len(wave) // tokenizer.hop
    copied = np.interp(np.arange(int(len(wave) / speed)) * speed, np.arange(len(wave)), wave).astype(np.float32)
    first = tokenizer.encode(torch.from_numpy(copied)[None, None], 1)[0, 0]
    first = first[((torch.arange(frames) + 0.5) / speed).long().clamp(max=len(first) - 1)]
    latent = tokenizer.encoder(torch.from_numpy(wave)[None, None])[..., :frames]
    rest = tokenizer.quantizer.quantize(latent - tokenizer.quantizer.decode(first[None, None]), tokenizer.n_q, 1)[0]
    return torch.cat([first[None], rest[:, 0]]).T.numpy().astype(np.int16)


def disguises(source: SpeechSet, tokenizer: SpeechTokenizer, cache: Path) -> dict[int, np.ndarray]:
    """Disguised codes of a set's training clips by the clips' first frame, int16 (frames, 8) each; cached as one npz file."""
    clips = source.split("train")
    if not cache.is_file():
        rng, found = np.random.default_rng(0), []
        for clip in clips:
            wave = source.wave(clip)[: clip.frames * tokenizer.hop]
            wave = np.pad(wave, (0, clip.frames * tokenizer.hop - len(wave)))
            found.append(disguise(wave, math.exp(rng.uniform(-DISGUISE, DISGUISE)), tokenizer))
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, codes=np.concatenate(found))
    codes = np.split(np.load(cache)["codes"], np.cumsum([clip.frames for clip in clips])[:-1])
    return {clip.frames_start: rows for clip, rows in zip(clips, codes, strict=True)}


def pitch_classes(wave: np.ndarray, frames: int) -> np.ndarray:
    """Class of the fundamental of each frame of 320 samples by autocorrelation over 50 ms. wave: float (n,) at 16 kHz. int8 (frames,)."""
    padded = np.pad(wave, (240, max(0, frames * 320 + 240 - len(wave))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 800)[::320][:frames] * np.hanning(800).astype(np.float32)
    echo = np.fft.irfft(np.abs(np.fft.rfft(windows, 2048)) ** 2)[:, :260].astype(np.float32)
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(800), 2048)) ** 2)[:260]
    level, echo = np.sqrt(echo[:, 0] / 300), echo / (echo[:, :1] + 1e-6) / (window / window[0])
    first = int(RATE_HZ / HIGHEST_HZ)
    lags = echo[:, first : int(RATE_HZ / LOWEST_HZ) + 1]
    best = lags.max(1)
    lag = first + (lags > 0.9 * best[:, None]).argmax(1)  # the first of several good ones: later ones are its multiples
    place = np.log(RATE_HZ / lag / LOWEST_HZ) / np.log(HIGHEST_HZ / LOWEST_HZ)
    return np.where((best > 0.5) & (level > 0.01), 1 + (place * PITCHES).clip(0, PITCHES - 1), 0).astype(np.int8)


def pitches(source: SpeechSet, cache: Path) -> np.ndarray:
    """Pitch classes of all frames of a set, int8 (frames,), training clips only, else -1; cached as one npy file."""
    if not cache.is_file():
        found = np.full(max(clip.frames_start + clip.frames for clip in source.clips), -1, np.int8)
        for clip in source.split("train"):
            found[clip.frames_start : clip.frames_start + clip.frames] = pitch_classes(source.wave(clip), clip.frames)
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.save(cache, found)
    classes: np.ndarray = np.load(cache)
    return classes


class Feeder:
    """Draws examples by source; clips of one voice are joined to FRAMES frames."""

    def __init__(self, sources: dict[str, list[Clip]], seed: list[int]) -> None:
        self.sources = {name: clips for name, clips in sources.items() if clips}
        shares = np.array([SOURCE_SHARES[name] for name in self.sources])
        self.shares = shares / shares.sum()
        self.rng = np.random.default_rng(seed)
        self.voices: dict[str, dict[str, list[int]]] = {}
        for name, clips in self.sources.items():
            groups: dict[str, list[int]] = {}
            for number, clip in enumerate(clips):
                groups.setdefault(clip.voice, []).append(number)
            self.voices[name] = groups

    def example(self, prompt: int = FRAMES) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int64 (FRAMES, 8): one clip, or several of one voice; never two clips of unknown voices. Behind the prompt often disguised.

        Besides the same without disguise, and the pitch, int64 (FRAMES,).
        """
        name = str(self.rng.choice(list(self.sources), p=self.shares))
        clips = self.sources[name]
        first = clips[int(self.rng.integers(len(clips)))]
        parts = [first]
        same = self.voices[name][first.voice] if first.voice else []
        while (length := sum(len(part.codes) for part in parts)) < FRAMES:
            parts.append(clips[same[int(self.rng.integers(len(same)))]] if len(same) > 1 else first)
        start = int(self.rng.integers(0, length - FRAMES + 1))
        cut = slice(start, start + FRAMES)
        plain = np.concatenate([part.codes for part in parts])[cut].astype(np.int64)
        pitch = np.concatenate([np.full(len(part.codes), -1) if part.pitch is None else part.pitch for part in parts])[cut].astype(np.int64)
        joined = plain.copy()
        if self.rng.random() < DISGUISED:
            other = np.concatenate([part.codes if part.disguised is None else part.disguised for part in parts])[cut]
            joined[prompt:] = other[prompt:]
        return joined, plain, pitch

    def batch(self, prompt: int = FRAMES) -> tuple[Tensor, Tensor, Tensor]:
        """int64 (BATCH, FRAMES, 8) twice and int64 (BATCH, FRAMES), see example()."""
        codes, plain, pitch = zip(*(self.example(prompt) for _ in range(BATCH)), strict=True)
        return torch.from_numpy(np.stack(codes)), torch.from_numpy(np.stack(plain)), torch.from_numpy(np.stack(pitch))


def code_loss(logits: Tensor, truth: Tensor, table: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cross-entropy, and what is trained on: with the code vectors (V, d) also the error of the expected vector.

    Codes of speech are close to a tie between many neighbours; the expected vector says how far off the guess sounds.
    logits: (M, V), truth: int64 (M,).
    """
    logits = logits.float()
    entropy = F.cross_entropy(logits, truth)
    if table is None:
        return entropy, entropy
    goal = table[truth]
    error = (logits.softmax(-1) @ table - goal).square().mean() / goal.square().mean().clamp(min=1e-8)
    return entropy, entropy + EXPECTED * error


def masked_loss(
    model: SoundStorm,
    codes: Tensor,
    prompt: int,
    level: int,
    shares: Tensor,
    *,
    onward: Tensor | None = None,
    higher: float = 0.0,
    vectors: Tensor | None = None,
    seen: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Total loss, and the cross-entropy and accuracy on the masked codes of the drawn level.

    codes: int64 (B, N, 1 + Q), semantic first. prompt: frames left as they are. shares: (B,) in (0, 1], masked behind it.
    onward: bool (B,): here the masked frames are the last ones instead of scattered ones, and the first NEAR of them count.
    higher: weight of the mean loss of the levels above. vectors: the codec's acoustic code vectors (Q, V, d), or None.
    seen: takes the hidden states behind the prompt, (B, N - prompt, D).
    """
    acoustic = codes[..., 1:].clone()
    frames = acoustic.shape[1] - prompt
    ranks = torch.rand(codes.shape[0], frames).argsort(dim=-1).argsort(dim=-1)
    counts = (shares[:, None] * frames).ceil().clamp(min=1)
    masked = torch.zeros(acoustic.shape[:2], dtype=torch.bool)
    counted = masked.clone()
    if onward is not None:
        ranks[onward] = torch.arange(frames - 1, -1, -1)
    masked[:, prompt:] = ranks < counts
    counted[:, prompt:] = ranks < counts
    if onward is not None:
        counted[onward, prompt:] &= (ranks >= counts - NEAR)[onward]
    acoustic[..., level][masked] = model.mask_id
    acoustic[:, prompt:, level + 1 :] = model.mask_id
    truth = codes[..., 1:]
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.net.hidden(acoustic, model.condition(codes[..., 0]))[:, prompt:]
        if seen is not None:
            seen.append(hidden)
        drawn = model.net.level_logits(hidden[counted[:, prompt:]], level)
        above = [model.net.level_logits(hidden.flatten(0, 1), other) for other in range(level + 1, model.levels) if higher]
    tables: list[Tensor | None] = [None] * model.levels if vectors is None else list(vectors)
    entropy, total = code_loss(drawn, truth[..., level][counted], tables[level])
    if above:
        rest = [code_loss(logits, truth[:, prompt:, other].flatten(), tables[other])[1] for other, logits in enumerate(above, level + 1)]
        total = total + higher * torch.stack(rest).mean()
    return total, entropy.detach(), (drawn.argmax(-1) == truth[..., level][counted]).float().mean()


@torch.no_grad()
def start_from_codebooks(model: SoundStorm, tokenizer: SpeechTokenizer, clips: list[Clip], seed: int) -> None:
    """Embeddings and output layers start as random projections of the codec's vectors, so that similar codes start similar.

    The output biases start at the frequencies of the codes.
    """
    books = torch.stack([book.embed for book in tokenizer.quantizer.codebooks])  # (8, V, d)
    width = model.semantic_token_emb.embedding_dim
    generator = torch.Generator().manual_seed(seed)
    projection = torch.randn(books.shape[2], width, generator=generator) / math.sqrt(books.shape[2])
    vectors = (books / books.std(dim=(1, 2), keepdim=True)) @ projection
    model.semantic_token_emb.weight.copy_(0.5 * vectors[0])
    table = model.net.code_embeds.weight.view(model.levels, -1, width)
    table[:, : vectors.shape[1]] = 0.5 * vectors[1:]
    table[:, vectors.shape[1] :] = 0.0
    model.net.to_logits[2].weight.copy_(vectors[1:].transpose(1, 2) / width)
    joined = np.concatenate([clip.codes for clip in clips])
    for level in range(model.levels):
        counts = torch.from_numpy(np.bincount(joined[:, level + 1], minlength=model.mask_id)).float() + 1.0
        model.net.to_logits[2].bias[0, 0, level] = (counts / counts.sum()).log()


def gather(settings: Settings, tokenizer: SpeechTokenizer, cache: Path) -> tuple[dict[str, list[Clip]], list[Clip]]:
    """Training clips by source, and held-out clips of people; whatever is coded by now."""
    folder = settings.runs / "data" / "speech"
    sources: dict[str, list[Clip]] = {name: [] for name in SOURCE_SHARES}
    held: list[Clip] = []
    for name in ("synth0", "human"):
        if not (folder / name / "index.json").is_file():
            continue
        others = disguises(SpeechSet(folder / name), tokenizer, cache / f"disguised_{name}.npz")
        tones = pitches(SpeechSet(folder / name), cache / f"pitch_{name}.npy")
        for clip, codes in coded(folder / name):
            known = name == "synth0" or clip.source in ("kathleen", "librispeech_clean251")
            tone = tones[clip.frames_start : clip.frames_start + clip.frames]
            if clip.split == "train":
                kind = "synthetic" if name == "synth0" else clip.source
                sources[kind].append(Clip(codes, clip.voice if known else "", others[clip.frames_start], tone))
    for clip, codes in coded(folder / "human"):
        if clip.split != "train" and clip.source == "librispeech_clean251" and len(codes) >= FRAMES:
            held.append(Clip(codes, ""))
    if settings.budget_s >= WARP_FROM_S and (folder / "human" / "index.json").is_file():
        for speed in WARPS:
            for clip, codes in warped(SpeechSet(folder / "human"), speed, tokenizer, cache / f"human_{speed}.npz"):
                known = clip.source == "librispeech_clean251"
                sources[clip.source].append(Clip(codes, f"{clip.voice}@{speed}" if known else ""))
    return sources, held


def code_sets(settings: Settings) -> None:
    """Code the sets that nobody has begun to code."""
    from anygpt_demo.codecs.speech import SpeechCodec
    from anygpt_demo.train.speech_codes import encode_set

    folder = settings.runs / "data" / "speech"
    if not (folder / "human" / "index.json").is_file():
        logging.getLogger(__name__).warning("No human recordings: the voices that can be cloned are those of the synthesizers.")
    for name in ("human", "synth0"):
        begun = any((folder / name / file).is_file() for file in ("codes.u16", "codes.u16.part"))
        if (folder / name / "index.json").is_file() and not begun:
            encode_set(folder / name, SpeechCodec.load(Family.open(settings.family)))


@torch.no_grad()
def measure(model: SoundStorm, held: list[Clip]) -> dict[str, float]:
    """Loss on unseen speakers with a 3 s prompt and everything behind it masked, for the first, second and fourth level."""
    model.eval()
    codes = torch.from_numpy(np.stack([clip.codes[:FRAMES].astype(np.int64) for clip in held[:12]]))
    figures: dict[str, float] = {}
    for level in (0, 1, 3):
        _, loss, accuracy = masked_loss(model, codes, 150, level, torch.ones(len(codes)))
        figures[f"held_out_{level + 2}"] = float(loss)
        figures[f"accuracy_{level + 2}"] = float(accuracy)
    _, loss, _ = masked_loss(model, codes, 150, 0, torch.ones(len(codes)), onward=torch.ones(len(codes), dtype=torch.bool))
    figures["near_2"] = float(loss)
    model.train()
    return figures


def train(settings: Settings) -> None:
    """Run the stage; exports the role soundstorm at a quarter of the budget, with every save after it, and at the end.

    Options: team, rank and port as in llm.py.
    """
    options = settings.options
    team = Team(int(options.get("rank", 0)), int(options.get("team", 1)), int(options.get("port", 29513)))
    run = Run("soundstorm", settings)
    tokenizer = load_tokenizer(Family.open(settings.family))
    if options.get("code", "yes") == "yes":
        code_sets(settings)
    sources, held = gather(settings, tokenizer, run.folder)
    run.before_s -= run.used_s  # coding the recordings is not training
    torch.manual_seed(settings.seed)
    model = SoundStorm(CONFIG)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    books = torch.stack([book.embed for book in tokenizer.quantizer.codebooks])
    aids = Aids(int(CONFIG["conformer"]["dim"]), books.shape[-1])
    aided = torch.optim.AdamW(aids.parameters(), lr=RATE)
    state = run.resume()
    steps = 0
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if "aids" in state:
            aids.load_state_dict(state["aids"])
            aided.load_state_dict(state["aided"])
        steps = int(state["steps"])
    else:
        start_from_codebooks(model, tokenizer, [clip for clips in sources.values() for clip in clips], settings.seed)
    feeder = Feeder(sources, [settings.seed, steps, team.rank])
    torch.manual_seed(settings.seed + steps + 100_000 * team.rank)
    parameters = [*model.parameters(), *aids.parameters()]
    team.copy(parameters)
    progress, going = run.progress, run.going
    scale = books.square().sum(0).mean(0).sqrt()  # about the deviation of each dimension
    model.train()
    recent: list[tuple[float, float, float]] = []

    def keep() -> None:
        states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "aids": aids.state_dict(), "aided": aided.state_dict()}
        run.save({**states, "steps": steps})
        if run.progress >= EXPORT_AT:
            export(settings.family, "soundstorm", CONFIG, model.state_dict())

    while going:
        for group in optimizer.param_groups:
            group["lr"] = RATE * cosine(progress)
        level = int(feeder.rng.choice(len(LEVEL_SHARES), p=LEVEL_SHARES))
        prompt = 0 if feeder.rng.random() < 0.05 else int(feeder.rng.integers(40, FRAMES - 60))
        shares = torch.cos(torch.rand(BATCH) * math.pi / 2)
        onward = torch.rand(BATCH) < ONWARD
        seen: list[Tensor] = []
        codes, plain, pitch = feeder.batch(prompt)
        loss, drawn, _ = masked_loss(model, codes, prompt, level, shares, onward=onward, higher=HIGHER, vectors=books[1:], seen=seen)
        voice = tokenizer.quantizer.decode(plain.permute(2, 0, 1)).mean(-1) / scale
        aid = aids.losses(seen[0], pitch[:, prompt:], voice)
        optimizer.zero_grad(set_to_none=True)
        aided.zero_grad(set_to_none=True)
        (loss + AIDS[0] * aid[0] + AIDS[1] * aid[1]).backward()
        progress, going = team.average(parameters, run.progress, run.going)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        aided.step()
        steps += 1
        team.share(steps, parameters)
        if not team.leads:
            continue
        recent.append((float(drawn), float(aid[0].detach()), float(aid[1].detach())))
        if steps % 200 == 0:
            means = dict(zip(("loss", "pitch", "voice"), np.mean(recent, 0).tolist(), strict=True))
            run.log(**means, **(measure(model, held) if held else {}))
            recent.clear()
        if run.due():
            keep()
            sources, held = gather(settings, tokenizer, run.folder)  # the sets may have grown
            feeder = Feeder(sources, [settings.seed, steps])
    if not team.leads:
        return
    keep()
    if held:
        run.log(**measure(model, held))
    run.plot()
