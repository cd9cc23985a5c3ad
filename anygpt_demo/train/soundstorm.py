"""Stage soundstorm: learn the voice. Semantic codes + a prompt of somebody's codes -> the acoustic codes of that voice.

The published trainer asks for the true code behind every mask. Codes of a small codec tell the phase of a voice before its timbre, and
no network can know the phase: after hours it had learnt how likely codes are, and of the voice little. So what counts here is the
sound. Everything behind the prompt is masked; the expected code vectors of all levels, coded again (straight through), are decoded, and
spectra and a listener (speech_listener.py) compare with what the person really said. Cross-entropy stays as a small term, so the
logits remain distributions over codes.

Semantic codes betray who spoke them, and a network that never sees them in another voice learns to listen to them instead of the
prompt. So behind most prompts they are those of a disguised copy (higher or lower), and the acoustic codes say what these leave of the
true wave. Everything is coded as it is drawn: each recording is heard at many playing speeds, each of them another voice.

Options: from=DIR begins with the exported weights of a family.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anygpt_demo.checkpoints import Family, export, load_strict
from anygpt_demo.errors import ModelFault
from anygpt_demo.models.soundstorm import SoundStorm, expected
from anygpt_demo.models.speechtokenizer import SpeechTokenizer, with_training_buffers
from anygpt_demo.train import speech_listener
from anygpt_demo.train.loop import Averaged, Run, Settings, cosine
from anygpt_demo.train.spectra import MelLoss
from anygpt_demo.train.speech_data import HOP, RATE_HZ, Clip, SpeechSet, open_sets

CONFIG: dict[str, Any] = {
    "codebook_size": 1024,
    "num_quantizers": 7,
    "clean": True,  # generate as it was trained
    "steps": 2,
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
PROMPT, BEFORE, TARGET = 150, 50, 50  # frames: the voice, what was said just before (in half of them), what is to be said
JOINT = 12  # frames before the target that are decoded with it, so that it has to go on from them
BATCH = 4  # speakers
SENTENCES = 3  # steps with the same speakers: their prompts are coded once
RATE = 8e-4
SOURCE_SHARES = {"librispeech_clean251": 0.34, "pico_intent": 0.2, "kathleen": 0.06, "synthetic": 0.4}
VOICES_OF_ONE = ("pico_intent", "librispeech_clean251")  # one recording, one speaker
SPEEDS = 0.16  # largest change of playing speed that makes another voice of a recording, as a logarithm
DISGUISED = 0.9  # share of the examples whose semantic codes behind the prompt come from another voice
DISGUISE = 0.3  # largest change of a disguised voice's pitch and formants, as a logarithm
LATENT = 1.0  # weight of the squared distance between expected and true code vectors, as a share of the true power
ENTROPY = 0.03  # weight of the cross-entropy of the codes, mean over levels
BY_EAR_FROM = 0.08  # share of the budget before which nothing is decoded: the latents alone find the way fast


@dataclass(frozen=True)
class Speaker:
    """Somebody in training: recordings at one playing speed and level."""

    prompt: np.ndarray  # float (PROMPT * HOP,)
    recordings: list[np.ndarray]  # float (n,) each, as recorded; without what the prompt was taken from, where there is but one
    speed: float
    level: float


@dataclass(frozen=True)
class Said:
    """What speakers say: N frames, the last TARGET of which are to be found."""

    wave: Tensor  # float (B, 1, N * HOP)
    copied: Tensor  # float (B, 1, m): the same in another voice
    frames: Tensor  # int64 (N,): frames of the copy that stand for those of the wave


def load_tokenizer(family: Family) -> SpeechTokenizer:
    """The family's speech codec, frozen."""
    component = family.component("speech_tokenizer")
    model = SpeechTokenizer(component.config)
    model.load_state_dict(with_training_buffers(component.state()))
    return model.eval().requires_grad_(False).fold()


def played(wave: np.ndarray, speed: float, samples: int) -> np.ndarray:
    """A wave (n,) at another speed, cut or filled up with silence: (samples,)."""
    made = np.interp(np.arange(min(samples, int(len(wave) / speed))) * speed, np.arange(len(wave)), wave)
    return np.pad(made, (0, samples - len(made)))


class Feeder:
    """Draws speakers by source, and what they say: other recordings than the prompt's, or another place of the only one."""

    def __init__(self, sets: dict[str, SpeechSet], seed: list[int], split: str = "train") -> None:
        self.sets, self.rng = sets, np.random.default_rng(seed)
        self.voices: dict[str, dict[str, list[Clip]]] = {name: {} for name in SOURCE_SHARES}
        for home in sets.values():
            for number, clip in enumerate(home.split(split)):
                kind = clip.source if clip.set == "human" else "synthetic"
                voice = f"{number}" if kind in VOICES_OF_ONE else clip.voice
                least = (PROMPT + 2 * (BEFORE + TARGET)) * 1.18 if kind in VOICES_OF_ONE else BEFORE + TARGET
                if kind in self.voices and clip.frames >= least:
                    self.voices[kind].setdefault(voice, []).append(clip)
        self.voices = {kind: groups for kind, groups in self.voices.items() if groups}
        if not self.voices:
            raise ModelFault("There is no speech to train on.", "No finished set lies in runs/data/speech.", "Make the speech data first.")
        shares = np.array([SOURCE_SHARES[kind] for kind in self.voices])
        self.shares = shares / shares.sum()
        self.names = {kind: sorted(groups) for kind, groups in self.voices.items()}

    def speaker(self) -> Speaker:
        """Somebody at random, with a prompt."""
        kind = str(self.rng.choice(list(self.voices), p=self.shares))
        clips = self.voices[kind][self.names[kind][int(self.rng.integers(len(self.names[kind])))]]
        speed = math.exp(self.rng.uniform(-SPEEDS, SPEEDS)) if self.rng.random() < 0.6 else 1.0
        few = self.rng.permutation(len(clips))[:6]
        waves = [self.sets[clips[number].set].wave(clips[number]) for number in few]
        need = int(PROMPT * HOP * speed) + 2
        if len(waves) == 1:
            first = int(self.rng.integers(0, len(waves[0]) - need + 1))
            prompt, sides = waves[0][first : first + need], [waves[0][:first], waves[0][first + need :]]
            waves = [max(sides, key=len)]
        else:
            prompt = np.concatenate(waves[: len(waves) // 2])[:need]
            waves = waves[len(waves) // 2 :]
        loudest = max(0.02, float(np.abs(prompt).max()))
        return Speaker(played(prompt, speed, PROMPT * HOP), waves, speed, self.rng.uniform(0.25, 0.9) / loudest)

    def speakers(self, size: int = BATCH) -> list[Speaker]:
        """Several of them."""
        return [self.speaker() for _ in range(size)]

    def said(self, speakers: list[Speaker], disguised: float = DISGUISED) -> Said:
        """What they say; half of the time with what was said before the target."""
        frames = TARGET + (BEFORE if self.rng.random() < 0.5 else 0)
        waves = []
        for speaker in speakers:
            wave = speaker.recordings[int(self.rng.integers(len(speaker.recordings)))]
            need = int(frames * HOP * speaker.speed) + 2
            first = int(self.rng.integers(0, max(1, len(wave) - need)))
            waves.append((speaker.level * played(wave[first : first + need], speaker.speed, frames * HOP)).clip(-1, 1))
        speed = math.exp(self.rng.uniform(-DISGUISE, DISGUISE)) if self.rng.random() < disguised else 1.0
        copies = [played(wave, speed, int(len(wave) / speed)) for wave in waves]
        spoken, copied = (quiet_noise(part) for part in (waves, copies))
        places = ((torch.arange(frames) + 0.5) / speed).long().clamp(max=math.ceil(copied.shape[-1] / HOP) - 1)
        return Said(spoken, copied, places)


def quiet_noise(waves: list[np.ndarray]) -> Tensor:
    """Waves of one length as a batch, float32 (B, 1, n), never exactly silent."""
    batch = torch.from_numpy(np.stack(waves).astype(np.float32))[:, None]
    return batch + 2e-4 * torch.randn_like(batch)


class Ear:
    """What the losses need besides the model: the frozen codec, spectra, a listener."""

    def __init__(self, tokenizer: SpeechTokenizer, listener: speech_listener.Listener | None) -> None:
        self.tokenizer, self.listener, self.mel = tokenizer, listener, MelLoss(RATE_HZ)
        self.books = torch.stack([book.embed for book in tokenizer.quantizer.codebooks])  # (8, V, d)

    @torch.no_grad()
    def prompts(self, speakers: list[Speaker]) -> Tensor:
        """Codes of their prompts, int64 (B, PROMPT, 8)."""
        return self.tokenizer.encode(quiet_noise([speaker.level * speaker.prompt for speaker in speakers])).permute(1, 2, 0)

    @torch.no_grad()
    def code(self, said: Said) -> tuple[Tensor, Tensor]:
        """Codes int64 (B, N, 8): semantic ones of the copy, acoustic ones of what these leave of the wave; and that, float (B, N, d)."""
        first = self.tokenizer.encode(said.copied, 1)[..., said.frames]
        left = self.tokenizer.encoder(said.wave)[..., : len(said.frames)] - self.tokenizer.quantizer.decode(first)
        rest = self.tokenizer.quantizer.quantize(left, self.tokenizer.n_q, 1)[0]
        return torch.cat([first, rest]).permute(1, 2, 0), left.transpose(1, 2)

    def losses(self, model: SoundStorm, prompt: Tensor, said: Said, by_ear: bool) -> dict[str, Tensor]:
        """The weighted terms. prompt: int64 (B, PROMPT, 8)."""
        behind, left = self.code(said)
        codes = torch.cat([prompt, behind], 1)
        acoustic = codes[..., 1:].clone()
        acoustic[:, -TARGET:] = model.mask_id
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.net.hidden(acoustic, model.condition(codes[..., 0]))[:, -TARGET:]
            logits = [model.net.level_logits(hidden, level) for level in range(model.levels)]
        truth, goal = codes[:, -TARGET:, 1:], left[:, -TARGET:]
        found = expected(logits, self.books[1:])
        entropies = [F.cross_entropy(rows.float().flatten(0, 1), truth[..., level].flatten()) for level, rows in enumerate(logits)]
        terms = {
            "latent": LATENT * (found - goal).square().mean() / goal.square().mean(),
            "entropy": ENTROPY * torch.stack(entropies).mean(),
        }
        if not by_ear:
            return terms
        with torch.no_grad():
            coded = torch.stack(self.tokenizer.quantizer.quantize(found.transpose(1, 2), self.tokenizer.n_q, 1)[1]).sum(0)
        voice = found.transpose(1, 2) + (coded - found.transpose(1, 2)).detach()
        behind = behind.permute(2, 0, 1)
        latent = self.tokenizer.quantizer.decode(behind[:1, :, -TARGET:]) + voice
        if len(said.frames) > TARGET:
            latent = torch.cat([self.tokenizer.quantizer.decode(behind[..., :-TARGET])[..., -JOINT:], latent], -1)
        made = self.tokenizer.decoder(latent)[:, 0, -TARGET * HOP :]
        true = said.wave[:, 0, -TARGET * HOP :]
        terms["mel"] = self.mel(made, true)
        if self.listener is not None:
            terms |= self.listener.heard(made, true)
        return terms


@torch.no_grad()
def start_from_codebooks(model: SoundStorm, tokenizer: SpeechTokenizer, seed: int) -> None:
    """Embeddings and output layers start as random projections of the codec's vectors, so that similar codes start similar."""
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
    model.net.to_logits[2].bias.zero_()


@torch.no_grad()
def measure(model: SoundStorm, ear: Ear, held: Feeder) -> dict[str, float]:
    """The terms on speakers that are not trained on, in voices that the semantic codes do not have."""
    model.eval()
    held.rng = np.random.default_rng(0)
    rows = []
    for _ in range(6):
        speakers = held.speakers()
        rows.append(ear.losses(model, ear.prompts(speakers), held.said(speakers, 1.0), True))
    model.train()
    return {f"held_{key}": float(np.mean([float(row[key]) for row in rows])) for key in rows[0]}


def train(settings: Settings) -> None:
    """Run the stage; exports the role soundstorm with every save and at the end."""
    run = Run("soundstorm", settings)
    tokenizer = load_tokenizer(Family.open(settings.family))
    sets = {name: home for name, home in open_sets(settings.runs / "data" / "speech").items() if name in ("synth0", "synth1", "human")}
    ear = Ear(tokenizer, speech_listener.load(settings.runs))
    torch.manual_seed(settings.seed)
    model = SoundStorm(CONFIG)
    if "from" in settings.options:
        part = Family.open(Path(settings.options["from"])).component("soundstorm")
        load_strict(model, part.state(), part.role)
    else:
        start_from_codebooks(model, tokenizer, settings.seed)
    trainer = Averaged(model, torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True), 0.998)
    if (state := run.resume()) is not None:
        trainer.restore(state)
    feeder = Feeder(sets, [settings.seed, trainer.steps])
    held = Feeder({"human": sets["human"]}, [0], "test") if "human" in sets else None
    torch.manual_seed(settings.seed + trainer.steps)
    shipped = SoundStorm(CONFIG)

    def keep() -> None:
        run.save(trainer.state())
        shipped.load_state_dict(trainer.average)
        export(settings.family, "soundstorm", CONFIG, shipped.state_dict())

    model.train()
    means: list[dict[str, float]] = []
    speakers: list[Speaker] = []
    prompt = torch.empty(0)
    while run.going:
        by_ear = run.progress > BY_EAR_FROM or "from" in settings.options
        if trainer.steps % SENTENCES == 0 or not speakers:
            speakers = feeder.speakers()
            prompt = ear.prompts(speakers)
        terms = ear.losses(model, prompt, feeder.said(speakers), by_ear)
        trainer.update(torch.stack(list(terms.values())).sum(), RATE * cosine(run.progress), 1.0)
        means.append({key: float(value.detach()) for key, value in terms.items()})
        if trainer.steps % 100 == 0:
            figures = {key: float(np.mean([row[key] for row in means if key in row])) for key in means[-1]}
            means.clear()
            if trainer.steps % 500 == 0 and held is not None:
                shipped.load_state_dict(trainer.average)
                figures |= measure(shipped, ear, held)
            run.log(**figures)
        if run.due():
            keep()
    keep()
    run.plot()
