"""Stage speech-codec: trains the small SpeechTokenizer. Level 1 learns phones, all levels together the wave.

Phases, as shares of the budget:
  1. the encoder alone on phone labels (nothing else teaches it so fast what matters);
  2. encoder and decoder without quantizer;
  3. codebooks by k-means on a buffer of latents, then everything together: 4-scale mel, wave, commitment, phones on latent and level 1;
  4. encoder and codebooks frozen (their codes are training data of other models from here on), the decoder alone goes on.
Phone labels (of the synthesizers, or aligned) stand in the place of HuBERT features. While the encoder learns,
latents of one phone are also drawn together, and level 1 uses LIVE of its codes: a code then stands for a sound and lasts
as long as it does, which is what a language model can read.

Pitch is what a mel loss alone teaches last: a decoder that is not told the phase of the voice buzzes at a multiple of the frame rate,
whoever speaks. So a head reads the samples below BAND_HZ from the latent, and the decoder is judged on that band by itself.

In phase 4 a frozen network that hears phones and voices (speech_listener.py) says how the decoder's sound differs from the original, if it
has been trained. Level 1 alone, which is what a family without SoundStorm speaks, is learnt in one voice from codes of disguised copies
of it: of many voices at once the decoder would learn the mean, which is nobody's and hard to understand.

Stage speech-decoder is phase 4 once more, from the family's weights, when there are codes of all speech: the decoder also learns to speak
in the voices whose timbre (timbre.py) stands in the place of the acoustic codes, which is what SoundStorm gives it.

Options: from=DIR begins with the exported weights of a family instead of scaled random ones; keep=1 besides holds its level 1, so that
language models that read it stay as they are, and learns all else anew (codes above level 1 change). team, rank as in llm.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anygpt_demo import checkpoints
from anygpt_demo.errors import ModelFault
from anygpt_demo.models.speechtokenizer import (
    NormedConv1d,
    NormedConvTranspose1d,
    SpeechTokenizer,
    with_training_buffers,
    without_training_buffers,
)
from anygpt_demo.train import speech_listener
from anygpt_demo.train.loop import Run, Settings, cosine
from anygpt_demo.train.quantizer import CodebookStack, Kept, lsuv
from anygpt_demo.train.spectra import LogMel, MelLoss
from anygpt_demo.train.speech_data import HOP, PHONES, RATE_HZ, Clip, SpeechSet, disturb, open_sets
from anygpt_demo.train.team import Team
from anygpt_demo.train.timbre import OWN_VOICE, Timbres, codes_of

CONFIG = {
    "n_filters": 16,
    "strides": [8, 5, 4, 2],
    "dimension": 128,
    "semantic_dimension": 128,
    "bidirectional": True,
    "dilation_base": 2,
    "residual_kernel_size": 3,
    "n_residual_layers": 1,
    "lstm_layers": 1,
    "activation": "ELU",
    "codebook_size": 1024,
    "n_q": 8,
    "sample_rate": RATE_HZ,
    "stay": 46.0,  # about half a frame's squared distance to its code: .46 of frames change their code, without it .64
}
PHASES = ("phones", "joint", "quantized", "decoder")
ENDS = (0.36, 0.42, 0.62, 1.0)  # of the phases, as shares of the budget
ENDS_KEPT = (0.12, 0.35, 0.62, 1.0)  # the same where level 1 is kept: phones need no learning any more
LIVE = 256  # codes of level 1 in use
GATHER = 0.15  # weight of the spread of latents within a phone
FRAMES = 50  # per training crop: one second
SPOKEN = 25  # of them that the decoder says while the encoder learns too: the encoder needs the longer exposure
ALONE = 0.15  # share of the steps of phase 4 in which the decoder hears level 1 alone
CLONED = 0.45  # share in which it hears level 1 and a timbre, once there are any
FEWER = 0.15  # share of the others in which it hears two to seven levels, not all
CLONES = {"librispeech_clean251": 0.25, "pico_intent": 0.2, "kathleen": 0.05, "synthetic": 0.2, "standard": 0.3}  # whose timbre
DISGUISE = 0.3  # largest change of its pitch and formants in the copies that give the codes, as a logarithm
PEOPLE = 0.55  # share of human recordings where the decoder learns from voices
SIZES = {"phones": 8, "joint": 6, "quantized": 6, "decoder": 5}  # crops in a batch
RATE = 8e-4
BAND_HZ = 400.0  # the fundamental of all voices and little more
BAND = 16  # samples of that band in a frame: 800 a second
PITCH = 3.0  # weight of the band, on the latent and on the decoded wave
VOICED_FROM = 4  # levels that a wave is judged on sample by sample: fewer do not know the phase, and would learn silence
KEPT = 32  # dimensions that hold .999 of the variance of the first codebook


@dataclass(frozen=True)
class Batch:
    """Crops of FRAMES frames."""

    heard: Tensor  # float (B, 1, n): equalised, with noise
    clean: Tensor  # float (B, 1, n): what the decoder should say
    phones: Tensor  # int64 (B, FRAMES), -1 unknown


class Feeder:
    """Draws training crops: a fixed share from recorded people, the rest from synthesizers."""

    def __init__(self, sets: dict[str, SpeechSet], seed: int, human_share: float = 0.35, labelled: bool = False) -> None:
        """labelled: leave out clips without any known phone."""
        self.sets, self.rng, self.share = sets, np.random.default_rng(seed), human_share
        clips = [clip for item in sets.values() for clip in item.clips if clip.split == "train" and clip.frames > 10]
        if labelled:
            clips = [clip for clip in clips if (sets[clip.set].labels(clip) >= 0).any()]
        self.pools = [[clip for clip in clips if clip.set.startswith("human") == flag] for flag in (False, True)]
        if not clips:
            raise ModelFault("There is no speech to train on.", "No finished set lies in runs/data/speech.", "Make the speech data first.")
        weights = [np.sqrt([clip.frames for clip in pool]) for pool in self.pools]
        self.weights = [np.cumsum(weight / weight.sum()) if len(weight) else weight for weight in weights]
        self.by_voice: dict[str, list[Clip]] = {}

    def clip(self) -> Clip:
        """One training clip."""
        human = bool(self.pools[1]) and (not self.pools[0] or self.rng.random() < self.share)
        pool, weights = self.pools[human], self.weights[human]
        return pool[min(int(np.searchsorted(weights, self.rng.random())), len(pool) - 1)]

    def batch(self, size: int) -> Batch:
        """`size` disturbed crops."""
        rows = []
        for _ in range(size):
            clip = self.clip()
            first = int(self.rng.integers(0, max(1, clip.frames - FRAMES)))
            home, span = self.sets[clip.set], math.ceil(FRAMES * 1.2) + 1
            rows.append(disturb(home.wave(clip, first, span), home.labels(clip, first, span), self.rng, FRAMES))
        heard, clean, phones = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
        return Batch(heard[:, None], clean[:, None], phones)

    def of_voice(self, voice: str) -> list[Clip]:
        """Training clips of a synthetic voice that are long enough for a crop."""
        clips = self.by_voice.setdefault(voice, [clip for clip in self.pools[0] if clip.voice == voice and clip.frames > FRAMES])
        if not clips:
            raise ModelFault(f"No clip is spoken by {voice}.", "The speech data is not that of this project.", "Make the speech data.")
        return clips

    def disguised(self, clips: Sequence[Clip]) -> tuple[Tensor, Tensor, Tensor]:
        """A crop of each clip and the same played at another speed, one for all: float (B, 1, n) each, and the frames of the latter
        that stand for those of the former, int64 (FRAMES,).
        """
        speed = math.exp(self.rng.uniform(-DISGUISE, DISGUISE))
        waves, copies = [], []
        for clip in clips:
            wave = self.sets[clip.set].wave(clip, int(self.rng.integers(0, clip.frames - FRAMES)), FRAMES)
            wave = wave * self.rng.uniform(0.25, 0.9) / max(0.02, float(np.abs(wave).max()))
            waves.append(wave)
            copies.append(np.interp(np.arange(int(len(wave) / speed)) * speed, np.arange(len(wave)), wave))
        frames = ((torch.arange(FRAMES) + 0.5) / speed).long().clamp(max=math.ceil(len(copies[0]) / HOP) - 1)
        true, copied = (torch.from_numpy(np.stack(part).astype(np.float32))[:, None] for part in (waves, copies))
        return true, copied + 2e-4 * torch.randn_like(copied), frames


def low_band(wave: Tensor) -> Tensor:
    """The part of a wave below BAND_HZ. wave: (B, n), the same shape back."""
    spectrum = torch.fft.rfft(wave)
    kept = torch.arange(spectrum.shape[-1], device=wave.device) < BAND_HZ * wave.shape[-1] / RATE_HZ
    return torch.fft.irfft(spectrum * kept, wave.shape[-1])


def band_loss(wave: Tensor, target: Tensor) -> Tensor:
    """Error of the low band over its size (1: silence), nearly nothing counted where the target is silent. wave, target: (B, n)."""
    truth = low_band(target)
    return ((low_band(wave) - truth).norm(dim=-1) / (truth.norm(dim=-1) + 0.05)).mean()


class Student(nn.Module):
    """The codec with what only training needs: phone heads on the latent and on level 1, and a head for the low band."""

    def __init__(self) -> None:
        super().__init__()
        self.codec = SpeechTokenizer(CONFIG)
        self.on_latent = nn.Linear(int(CONFIG["dimension"]), PHONES)  # type: ignore[call-overload]
        self.on_first = nn.Linear(int(CONFIG["dimension"]), PHONES)  # type: ignore[call-overload]
        self.on_band = nn.Linear(int(CONFIG["dimension"]), BAND)  # type: ignore[call-overload]
        nn.init.zeros_(self.on_band.weight)
        nn.init.zeros_(self.on_band.bias)


def phone_loss(head: nn.Module, latent: Tensor, phones: Tensor) -> Tensor:
    """Cross entropy over the known frames. latent: (B, D, T), phones: (B, T)."""
    known = phones.reshape(-1) >= 0
    if not bool(known.any()):
        return latent.new_zeros(())
    logits = head(latent.transpose(1, 2)).reshape(-1, PHONES)
    return F.cross_entropy(logits[known], phones.reshape(-1)[known], label_smoothing=0.02)


def pitch_loss(head: nn.Module, latent: Tensor, clean: Tensor) -> Tensor:
    """Squared error of the low band's samples read from each frame, over their power. latent: (B, D, T), clean: (B, 1, T * HOP)."""
    truth = low_band(clean[:, 0])[:, :: HOP // BAND].reshape(len(latent), -1, BAND)
    power = truth.pow(2).mean((1, 2), keepdim=True) + 1e-4
    return ((head(latent.transpose(1, 2)) - truth).pow(2) / power).mean()


def spread_loss(latent: Tensor, phones: Tensor) -> Tensor:
    """Spread of the latents within a phone over the spread of the phones' means (Fisher's criterion). latent: (B, D, T), phones: (B, T)."""
    known = phones.reshape(-1) >= 0
    labels, vectors = phones.reshape(-1)[known], latent.transpose(1, 2).reshape(-1, latent.shape[1])[known]
    if len(labels) < 2:
        return latent.new_zeros(())
    counts = torch.bincount(labels, minlength=PHONES).clamp(min=1)[:, None]
    means = (latent.new_zeros(PHONES, vectors.shape[1]).index_add(0, labels, vectors) / counts)[labels]
    return (vectors - means).pow(2).mean() / (means - vectors.mean(0)).pow(2).mean().clamp(min=1e-6)


class Trainer:
    """One run of the stage: the student, its optimizer, its phase."""

    def __init__(self, settings: Settings, team: Team | None = None, stage: str = "speech-codec") -> None:
        """stage: speech-decoder to go on with the decoder of the family."""
        self.team = team or Team()
        torch.manual_seed(settings.seed)
        torch.set_flush_denormal(True)
        self.settings = settings
        self.keep = settings.options.get("keep") == "1"
        self.ends = ENDS_KEPT if self.keep else ENDS
        ready = stage == "speech-decoder"
        if ready:
            self.ends = (0.0, 0.0, 0.0, 1.0)
        self.listener = speech_listener.load(settings.runs)
        self.run = Run(stage, settings)
        self.student = Student()
        self.codec = self.student.codec
        stay = float(CONFIG["stay"]) if self.keep or ready else 0.0  # type: ignore[arg-type]
        self.books = CodebookStack(self.codec.quantizer.codebooks, live=(LIVE,), fixed=int(self.keep), stay=stay)
        self.mel = MelLoss(RATE_HZ)
        self.phase, self.steps = "start", 0
        self.kept: Kept | None = None
        if ready or "from" in settings.options:
            part = checkpoints.Family.open(Path(settings.options.get("from", settings.family))).component("speech_tokenizer")
            checkpoints.load_strict(self.codec, with_training_buffers(part.state()), part.role)
            self.kept = Kept(self.codec.encoder, self.codec.quantizer.codebooks[0].embed[:LIVE], KEPT) if self.keep else None
        state = self.run.resume()
        self.progress, self.going = self.run.progress, self.run.going
        self.feeder = self.new_feeder()
        self.timbres = Timbres(self.feeder.sets, self.codec.quantizer) if ready else None
        if state is None:
            self.initialise()
            self.feeder = self.new_feeder()
        else:
            self.student.load_state_dict(state["student"])
            self.phase = str(state["phase"])
        torch.manual_seed(1000 * settings.seed + self.team.rank)
        self.optimizer = self.new_optimizer()
        if state is not None and state["optimizer"] is not None:
            self.optimizer.load_state_dict(state["optimizer"])

    def new_feeder(self) -> Feeder:
        """The sets that are there now; also called while they still grow."""
        sets = open_sets(self.settings.runs / "data" / "speech")
        seed = self.settings.seed + len(self.run.rows) + 100_000 * self.team.rank
        if self.phase == "decoder":
            return Feeder(sets, seed, PEOPLE)
        return Feeder(sets, seed, labelled=self.phase in ("start", "phones"))

    def new_optimizer(self) -> torch.optim.AdamW:
        """AdamW over what the phase trains."""
        part: nn.Module = self.codec.decoder if self.phase == "decoder" else self.student
        return torch.optim.AdamW(part.parameters(), RATE, betas=(0.8, 0.99), weight_decay=1e-4)

    def initialise(self) -> None:
        """Scale untrained weights so that a signal passes; refuse to start if none does."""
        wave = self.feeder.batch(6).heard
        if "from" not in self.settings.options and self.ends[0]:
            kinds = (NormedConv1d, NormedConvTranspose1d)
            latent = lsuv(self.codec.encoder, wave, kinds)
            lsuv(self.codec.decoder, latent, kinds, last=float(wave.std()))
        self.check_signal(wave)
        self.phase = "phones" if self.ends[0] else "decoder"

    @torch.no_grad()
    def check_signal(self, wave: Tensor) -> None:
        """Two different inputs must give different latents and different outputs (swap test)."""
        latent = self.codec.encoder(wave)
        out = self.codec.decoder(latent)
        moved = float((latent - latent.mean((0, 2), keepdim=True)).std() / (latent.std() + 1e-9))
        swapped = float((out - out.roll(1, 0)).std() / (out.std() + 1e-9))
        if moved < 0.1 or swapped < 0.1:
            raise ModelFault("The codec passes no signal.", f"Latent {moved:.3f}, output {swapped:.3f} of 1.", "Check the data.")

    def state(self) -> dict[str, Any]:
        """What resume needs."""
        return {"student": self.student.state_dict(), "optimizer": self.optimizer.state_dict(), "phase": self.phase}

    def rate(self) -> float:
        """Learning rate: one cosine until the freeze, a second one for the decoder alone."""
        if self.phase == "decoder":
            share = (self.progress - self.ends[2]) / (1 - self.ends[2])  # negative if the budget has grown: then at the full rate
            return 0.75 * RATE * cosine(max(0.02, share))
        return RATE * cosine(self.progress / self.ends[2])

    def decoder_losses(self) -> dict[str, Tensor]:
        """Frozen codes to waves: the first level alone in a voice of its own or in that of a timbre; all levels, or fewer of them."""
        draw, size, rng = float(torch.rand(1)), SIZES["decoder"], self.feeder.rng
        with torch.no_grad():
            if draw < ALONE:
                levels, clips = 1, self.feeder.of_voice(OWN_VOICE)
                clean, copied, frames = self.feeder.disguised([clips[int(number)] for number in rng.integers(len(clips), size=size)])
                total = self.books(self.codec.encoder(copied), 1, learn=False).total[..., frames]
            elif self.timbres is not None and draw < ALONE + CLONED:
                levels = 1
                drawn, vectors = zip(*(self.timbres.draw(rng, CLONES) for _ in range(size)), strict=True)
                clean, copied, frames = self.feeder.disguised(drawn)
                total = self.books(self.codec.encoder(copied), 1, learn=False).total[..., frames]
                total = total + codes_of(torch.from_numpy(np.stack(vectors)), self.codec.quantizer)[1][..., None]
            else:
                levels = int(torch.randint(2, 8, (1,))) if torch.rand(1) < FEWER else 8
                batch = self.feeder.batch(size)
                total, clean = self.books(self.codec.encoder(batch.heard), levels, learn=False).total, batch.clean
        made = self.codec.decoder(total)
        heard = {} if self.listener is None else self.listener.heard(made[:, 0], clean[:, 0])
        return self.wave_losses(made, clean, levels) | heard

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss while the encoder learns, already weighted."""
        latent = self.codec.encoder(batch.heard)
        terms = {"phones": 0.5 * phone_loss(self.student.on_latent, latent, batch.phones)}
        terms["pitch"] = PITCH * pitch_loss(self.student.on_band, latent if self.kept is None else self.kept.free(latent), batch.clean)
        if self.kept is None:
            terms["spread"] = GATHER * spread_loss(latent, batch.phones)
        else:
            terms["kept"] = 0.1 * self.kept.loss(latent, batch.heard)
        first = int(torch.randint(0, FRAMES - SPOKEN + 1, (1,)))
        spoken, clean = slice(first, first + SPOKEN), batch.clean[..., first * HOP : (first + SPOKEN) * HOP]
        if self.phase == "joint":
            terms |= self.wave_losses(self.codec.decoder(latent[..., spoken]), clean)
        elif self.phase == "quantized":
            quantized = self.books(latent)
            terms["first"] = phone_loss(self.student.on_first, quantized.first, batch.phones)
            terms["commit"] = 2 * quantized.commitment
            levels = 1 if torch.rand(1) < 0.15 else 8
            heard = quantized.first if levels == 1 else quantized.total
            terms |= self.wave_losses(self.codec.decoder(heard[..., spoken]), clean, levels)
        return terms

    def wave_losses(self, wave: Tensor, target: Tensor, levels: int = 8) -> dict[str, Tensor]:
        """Spectral and, where the levels can know it, sample-wise distance."""
        terms = {"mel": self.mel(wave[:, 0], target[:, 0])}
        if levels >= VOICED_FROM:
            terms |= {"wave": 10 * F.l1_loss(wave, target), "band": PITCH * band_loss(wave[:, 0], target[:, 0])}
        return terms

    def step(self) -> dict[str, float]:
        """One update. Returns the terms."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        terms = self.decoder_losses() if self.phase == "decoder" else self.losses(self.feeder.batch(SIZES[self.phase]))
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.progress, self.going = self.team.average(parameters, self.run.progress, self.run.going)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimizer.step()
        self.steps += 1
        self.team.share(self.steps, [*parameters, *self.codec.quantizer.buffers()])
        return {key: float(value.detach()) for key, value in terms.items()}

    def advance(self) -> None:
        """Enter the phase that the clock asks for."""
        due = next(name for name, end in zip(PHASES, self.ends, strict=True) if self.progress <= end)
        if PHASES.index(due) <= PHASES.index(self.phase):  # a larger budget never thaws the encoder: codes are in use elsewhere
            return
        if PHASES.index(self.phase) < 2 <= PHASES.index(due):
            self.start_codebooks()
        self.phase = due
        self.team.copy([*self.student.parameters(), *self.student.buffers()])
        if due == "decoder":
            self.freeze()
            self.optimizer = self.new_optimizer()
            if self.team.leads:
                self.run.save(self.state())  # a resumed run must not freeze another encoder

    @torch.no_grad()
    def start_codebooks(self) -> None:
        """K-means on a buffer of ~17k latent frames; the head of level 1 starts from that of the latent."""
        latents = [self.codec.encoder(self.feeder.batch(8).heard).transpose(1, 2).reshape(-1, int(CONFIG["dimension"])) for _ in range(43)]  # type: ignore[call-overload]
        self.books.start(torch.cat(latents), SIZES["quantized"] * FRAMES)
        self.student.on_first.load_state_dict(self.student.on_latent.state_dict())

    @torch.no_grad()
    def freeze(self) -> None:
        """Round the encoder side to what is exported (bfloat16), export, and say that its codes are final."""
        for tensor in [*self.codec.encoder.parameters(), *(book.embed for book in self.codec.quantizer.codebooks)]:
            tensor.copy_(tensor.bfloat16().float())
        if self.team.leads:
            self.export()

    def export(self) -> None:
        """Write the role speech_tokenizer of the family."""
        checkpoints.export(self.settings.family, "speech_tokenizer", CONFIG, without_training_buffers(self.codec.state_dict()))

    @torch.inference_mode()
    def evaluate(self, per_source: int = 8) -> dict[str, float]:
        """Phone accuracy of latent and level 1 and log-mel distance on held-out clips, per set, and codes in use of level 1."""
        scale, figures = LogMel(RATE_HZ, 1024, 80), {}
        for name, home in self.feeder.sets.items():
            clips = [clip for clip in home.clips if clip.split == "test" and clip.frames > 10][:per_source]
            hits: list[np.ndarray] = []
            distance = []
            for clip in clips:
                wave = torch.from_numpy(home.wave(clip))[None, None] + 2e-4 * torch.randn(1, 1, clip.samples)
                latent = self.codec.encoder(wave)
                made = self.books(latent, learn=False) if self.phase in ("quantized", "decoder") else None
                first = latent if made is None else made.first
                head = self.student.on_latent if made is None else self.student.on_first
                guess, truth = head(first.transpose(1, 2)).argmax(-1)[0].numpy(), home.labels(clip)
                hits.append((guess == truth)[truth >= 0])
                if self.phase != "phones":
                    out = self.codec.decoder(latent if made is None else made.total)[..., : clip.samples]
                    distance.append(float(F.l1_loss(scale(out[:, 0]), scale(wave[:, 0]))))
            if clips and sum(map(len, hits)):
                figures[f"{name} acc"] = float(np.concatenate(hits).mean())
            if distance:
                figures[f"{name} mel"] = float(np.mean(distance))
        return figures


def train_decoder(settings: Settings) -> None:
    """Stage speech-decoder."""
    train(settings, "speech-decoder")


def train(settings: Settings, stage: str = "speech-codec") -> None:
    """Train, resume or finish the speech codec within the budget and export it."""
    options = settings.options
    team = Team(int(options.get("rank", 0)), int(options.get("team", 1)), int(options.get("port", 29512)))
    trainer = Trainer(settings, team, stage)
    run, measured = trainer.run, trainer.run.used_s
    while trainer.going:
        trainer.advance()
        terms = trainer.step()
        if not trainer.team.leads:
            continue
        if trainer.steps % 50 == 0:
            run.log(phase=PHASES.index(trainer.phase), **terms)
        if run.used_s - measured > settings.budget_s / 15:
            measured = run.used_s
            run.log(**trainer.evaluate())
        if run.due():
            run.save(trainer.state())
            trainer.feeder = trainer.new_feeder()
    if not trainer.team.leads:
        return
    run.save(trainer.state())
    if trainer.phase in ("quantized", "decoder") and not run.stopping:
        run.log(**trainer.evaluate(24))
        trainer.export()
    run.plot()
