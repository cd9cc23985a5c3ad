"""Stage soundstorm: learn the voice. Semantic codes + a prompt of somebody's codes -> the acoustic codes of that voice.

The published trainer asks for the true code behind every mask. Codes of a small codec tell the phase of a voice before its timbre, and
no network can know the phase: after hours it had learnt how likely codes are, and of the voice little. So what is to be found behind
the prompt here is the timbre (timbre.py), which a prompt of three seconds does tell. Everything behind it is masked or, as in use, already
has that timbre; semantic codes come from anybody, so they tell nothing of the voice.

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
from anygpt_demo.train.loop import Averaged, Run, Settings, cosine
from anygpt_demo.train.speech_data import Clip, SpeechSet, open_sets
from anygpt_demo.train.timbre import GAIN, Timbres, codes_of, mean_vector

CONFIG: dict[str, Any] = {
    "codebook_size": 1024,
    "num_quantizers": 7,
    "clean": True,  # generate as it was trained
    "steps": 1,
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
PROMPT, BEHIND = 150, 100  # frames of an example: the voice, and what is said in it
BATCH = 6
RATE = 1e-3
SHARES = {"librispeech_clean251": 0.4, "pico_intent": 0.3, "kathleen": 0.05, "synthetic": 0.2, "standard": 0.05}
LATENT = 1.0  # weight of the squared distance between expected and true vector, as a share of the true power
ENTROPY = 0.1  # of the cross-entropy of the codes, mean over levels
SURE = 3.0  # deviation of the logits at the start: the expected vector of codes that are all alike likely is nothing, and learns nothing
HELD = 19  # speakers


@dataclass(frozen=True)
class Batch:
    """Voices and what is said in them."""

    codes: Tensor  # int64 (B, PROMPT + BEHIND, 8): behind the prompt anybody's semantic codes, and acoustic ones of the voice's timbre
    known: Tensor  # int64 (B,): frames behind the prompt that are given
    timbre: Tensor  # float (B, d): what the acoustic codes stand for, GAIN times the mean


def load_tokenizer(family: Family) -> SpeechTokenizer:
    """The family's speech codec, frozen."""
    component = family.component("speech_tokenizer")
    model = SpeechTokenizer(component.config)
    model.load_state_dict(with_training_buffers(component.state()))
    return model.eval().requires_grad_(False).fold()


def stretch(home: SpeechSet, clip: Clip, frames: int, rng: np.random.Generator) -> np.ndarray:
    """So many consecutive frames of a clip's codes, int64 (frames, 8), from anywhere; repeated if it is shorter."""
    assert home.codes is not None
    first = clip.frames_start + int(rng.integers(0, max(1, clip.frames - frames + 1)))
    codes = np.asarray(home.codes[first : min(first + frames, clip.frames_start + clip.frames)], np.int64)
    return np.resize(codes, (frames, codes.shape[1]))


class Feeder:
    """Draws voices, and what others say."""

    def __init__(self, timbres: Timbres, tokenizer: SpeechTokenizer, seed: list[int]) -> None:
        if not timbres.voices:
            cause = "No set in runs/data/speech has codes."
            raise ModelFault("There is no speech to train on.", cause, "Make the speech data and run the stage `codes`.")
        self.timbres, self.tokenizer, self.rng = timbres, tokenizer, np.random.default_rng(seed)
        self.speakers = [(home, clip) for home in timbres.sets.values() for clip in home.split("train") if home.coded(clip)]

    def batch(self, size: int = BATCH) -> Batch:
        """`size` voices."""
        prompts, vectors, said = [], [], []
        for _ in range(size):
            clip, vector = self.timbres.draw(self.rng, SHARES)
            prompts.append(stretch(self.timbres.sets[clip.set], clip, PROMPT, self.rng))
            vectors.append(vector)
            home, other = self.speakers[int(self.rng.integers(len(self.speakers)))]
            said.append(stretch(home, other, BEHIND, self.rng)[:, :1])
        return joined(prompts, said, vectors, self.rng.integers(0, 2, size) * self.rng.integers(0, BEHIND - 20, size), self.tokenizer)


def joined(
    prompts: list[np.ndarray], said: list[np.ndarray], vectors: list[np.ndarray], known: np.ndarray, codec: SpeechTokenizer
) -> Batch:
    """A batch of prompts (PROMPT, 8), semantic codes (BEHIND, 1) and mean vectors (d,)."""
    timbre = torch.from_numpy(np.stack(vectors).astype(np.float32))
    acoustic = codes_of(timbre, codec.quantizer)[0][:, None].expand(-1, BEHIND, -1)
    behind = torch.cat([torch.from_numpy(np.stack(said)), acoustic], -1)
    return Batch(torch.cat([torch.from_numpy(np.stack(prompts)), behind], 1), torch.from_numpy(known), GAIN * timbre)


def losses(model: SoundStorm, batch: Batch, books: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The weighted terms, and the vectors found, mean over masked frames, (B, d). books: (Q, V, d), of the acoustic levels."""
    acoustic = batch.codes[..., 1:].clone()
    places = torch.arange(acoustic.shape[1]) - PROMPT
    masked = places >= batch.known[:, None]
    masked &= places >= 0
    acoustic[masked] = model.mask_id
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.net.hidden(acoustic, model.condition(batch.codes[..., 0]))[masked][None]
        logits = [model.net.level_logits(hidden, level) for level in range(model.levels)]
    truth, whose = batch.codes[..., 1:][masked], masked.nonzero()[:, 0]
    found = expected(logits, books)[0]
    goal = batch.timbre[whose]
    entropies = [F.cross_entropy(rows[0].float(), truth[:, level]) for level, rows in enumerate(logits)]
    means = torch.zeros_like(batch.timbre).index_add(0, whose, found) / torch.bincount(whose, minlength=len(batch.timbre))[:, None]
    power = batch.timbre.square().mean()
    return {
        "latent": LATENT * (found - goal).square().mean() / power,
        "entropy": ENTROPY * torch.stack(entropies).mean(),
    }, means.detach()


@torch.no_grad()
def start_from_codebooks(model: SoundStorm, tokenizer: SpeechTokenizer, seed: int) -> None:
    """Embeddings and output layers start as random projections of the codec's vectors, so that similar codes start similar."""
    books = torch.stack([book.embed for book in tokenizer.quantizer.codebooks])  # (8, V, d)
    width = model.semantic_token_emb.embedding_dim
    generator = torch.Generator().manual_seed(seed)
    projection = torch.randn(books.shape[2], width, generator=generator) / math.sqrt(books.shape[2])
    plain = books @ projection / books[1:].std()  # of one measure, so that a sum of embeddings is the embedding of a sum
    model.semantic_token_emb.weight.copy_(0.2 * plain[0])
    table = model.net.code_embeds.weight.view(model.levels, -1, width)
    table[:, : plain.shape[1]] = 0.5 * plain[1:]
    table[:, plain.shape[1] :] = 0.0
    vectors = books[1:] / books[1:].std(dim=(1, 2), keepdim=True) @ projection
    model.net.to_logits[2].weight.copy_(SURE * vectors.transpose(1, 2) / math.sqrt(width))
    model.net.to_logits[2].bias.zero_()


def held_out(home: SpeechSet, tokenizer: SpeechTokenizer) -> tuple[Batch, Tensor] | None:
    """Unknown speakers: a prompt from the first half of a recording, the timbre of the second half; and the true means (B, d)."""
    books = torch.stack([book.embed for book in tokenizer.quantizer.codebooks]).numpy()
    clips = [clip for clip in home.split("test") if clip.source == "librispeech_clean251" and clip.frames >= 2 * PROMPT][:HELD]
    if home.codes is None or len(clips) < 2:
        return None
    prompts, vectors = [], []
    for clip in clips:
        codes = np.asarray(home.codes[clip.frames_start : clip.frames_start + clip.frames], np.int64)
        prompts.append(codes[:PROMPT])
        vectors.append(mean_vector(codes[clip.frames // 2 :], home.wave(clip, clip.frames // 2), books))
    said = [np.roll(prompts, 1, 0)[number][:BEHIND, :1] for number in range(len(prompts))]
    return joined(prompts, said, vectors, np.zeros(len(prompts), np.int64), tokenizer), torch.from_numpy(np.stack(vectors))


@torch.no_grad()
def measure(model: SoundStorm, held: tuple[Batch, Tensor], books: Tensor) -> dict[str, float]:
    """On unknown speakers: the terms, and how often the timbre found is nearest to that of the same person."""
    model.eval()
    terms, found = losses(model, held[0], books)
    model.train()
    centre = held[1].mean(0)
    likeness = F.normalize(found / GAIN - centre, dim=-1) @ F.normalize(held[1] - centre, dim=-1).T
    hits = likeness.argmax(1) == torch.arange(len(likeness))
    return {f"held_{key}": float(value) for key, value in terms.items()} | {"rank1": float(hits.float().mean())}


def train(settings: Settings) -> None:
    """Run the stage; exports the role soundstorm with every save and at the end."""
    run = Run("soundstorm", settings)
    tokenizer = load_tokenizer(Family.open(settings.family))
    sets = open_sets(settings.runs / "data" / "speech")
    books = torch.stack([book.embed for book in tokenizer.quantizer.codebooks])[1:]
    torch.manual_seed(settings.seed)
    model = SoundStorm(CONFIG)
    if "from" in settings.options:
        part = Family.open(Path(settings.options["from"])).component("soundstorm")
        load_strict(model, part.state(), part.role)
    else:
        start_from_codebooks(model, tokenizer, settings.seed)
    trainer = Averaged(model, torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.05, fused=True), 0.998)
    if (state := run.resume()) is not None:
        trainer.restore(state)
    feeder = Feeder(Timbres(sets, tokenizer.quantizer), tokenizer, [settings.seed, trainer.steps])
    held = held_out(sets["human"], tokenizer) if "human" in sets else None
    shipped = SoundStorm(CONFIG)

    def keep() -> None:
        run.save(trainer.state())
        shipped.load_state_dict(trainer.average)
        export(settings.family, "soundstorm", CONFIG, shipped.state_dict())

    model.train()
    means: list[list[float]] = []
    while run.going:
        terms, _ = losses(model, feeder.batch(), books)
        trainer.update(torch.stack(list(terms.values())).sum(), RATE * cosine(run.progress), 1.0)
        means.append([float(value.detach()) for value in terms.values()])
        if trainer.steps % 100 == 0:
            figures = dict(zip(terms, np.mean(means, 0).tolist(), strict=True))
            means.clear()
            if held is not None:
                shipped.load_state_dict(trainer.average)
                figures |= measure(shipped, held, books)
            run.log(**figures)
        if run.due():
            keep()
    keep()
    run.plot()
