"""Stage speech-teacher: a phone classifier on log-mel frames that labels human recordings at 50 Hz.

It stands in for HuBERT as the semantic teacher of the speech codec's first codebook and is not shipped. Synthetic speech
has exact labels; transcribed human speech is aligned by the young classifier itself (forced alignment, twice), then trained
on; what has no transcript gets the classifier's confident decisions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from anygpt_demo.synth.speech import PHONES, RATE_HZ, UNKNOWN, phone_sequence, replace_phones
from anygpt_demo.train.loop import Run, Settings, cosine
from anygpt_demo.train.speech_data import Clip, SpeechSet

MELS = 64
CROP = 100  # frames per training example: 2 s
BATCH = 16
ALIGN_AT_S = (120.0, 300.0)  # CPU seconds of an 8-minute run; scaled with the budget
CONFIDENCE = 0.5  # least probability of a label on speech without transcript


def mel_filters(bands: int = MELS, size: int = 512, low_hz: float = 40.0, high_hz: float = 7800.0) -> torch.Tensor:
    """Triangular filters, centres equally far apart on the HTK mel scale: float32 (bands, size // 2 + 1)."""

    def mel(hertz: float | np.ndarray) -> np.ndarray:
        return 2595.0 * np.log10(1.0 + np.asarray(hertz) / 700.0)

    edges = 700.0 * (10.0 ** (np.linspace(mel(low_hz), mel(high_hz), bands + 2) / 2595.0) - 1.0)
    bins = np.linspace(0, RATE_HZ / 2, size // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return torch.from_numpy(np.clip(np.minimum(rising, falling), 0, None)).float()


def log_mel(samples: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """float32 (n * 320,) at 16 kHz -> natural log of mel energies, float32 (2n, MELS): 100 Hz, two rows per codec frame."""
    padded = F.pad(samples, (176, 176))
    spectrum = torch.stft(padded, 512, 160, 512, torch.hann_window(512), center=False, return_complex=True)
    return torch.log((filters @ spectrum.abs().square()).T + 1e-5)


class Block(nn.Module):
    """ConvNeXt block over time: depthwise convolution, norm, two pointwise layers, residual."""

    def __init__(self, width: int, kernel: int = 9, dropout: float = 0.1) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.mix = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, frames, width) -> the same shape."""
        return x + self.mix(self.depthwise(x.transpose(1, 2)).transpose(1, 2))


class PhoneNet(nn.Module):
    """Phone logits from log-mel, 1.4M parameters, +-24 frames of context; each clip's mean spectrum is removed first."""

    def __init__(self, width: int = 192, depth: int = 6) -> None:
        super().__init__()
        self.enter = nn.Linear(2 * MELS, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(PHONES)))

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """mel: (batch, 2n, MELS) -> logits (batch, n, phones)."""
        centred = (mel - mel.mean(1, keepdim=True)) / 3.0
        return self.leave(self.blocks(self.enter(centred.reshape(mel.shape[0], mel.shape[1] // 2, 2 * MELS))))


def augment(mel: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Another speaker, room and tempo: (2n, MELS) -> (2m, MELS).

    Warp of the mel axis (vocal tract about +-12 %), tempo +-20 %, equaliser, noise floor, band limit, masks.
    """
    rows = int(len(mel) * np.exp(rng.uniform(-0.2, 0.2))) // 2 * 2
    band = torch.linspace(-1, 1, MELS)
    warped = band + (2 * rng.uniform(-3, 3) / MELS) * torch.linspace(0.3, 1, MELS)
    grid = torch.stack([warped.expand(rows, -1), torch.linspace(-1, 1, rows)[:, None].expand(-1, MELS)], -1)
    out = F.grid_sample(mel[None, None], grid[None], align_corners=True, padding_mode="border")[0, 0]
    knots = torch.from_numpy(rng.normal(0, 1.2, 6).astype(np.float32))
    out = out + F.interpolate(knots[None, None], MELS, mode="linear", align_corners=True)[0, 0]
    if rng.random() < 0.6:
        noise = torch.from_numpy(rng.normal(0, 0.6, out.shape).astype(np.float32))
        floor = out.mean() + float(rng.uniform(-5, 0)) + torch.linspace(0, float(rng.uniform(-3, 2)), MELS)
        out = torch.logaddexp(out, floor + noise)
    if rng.random() < 0.15:
        out[:, MELS * 3 // 4 :] = out.mean() - 4
    quiet = out.mean()
    for _ in range(2):
        wide = int(rng.integers(0, 9))
        first = int(rng.integers(0, MELS - wide))
        out[:, first : first + wide] = quiet
    wide = int(rng.integers(0, 16))
    first = int(rng.integers(0, max(1, rows - wide)))
    out[first : first + wide] = quiet
    return out


def align(log_probs: np.ndarray, phones: list[int]) -> np.ndarray | None:
    """Forced alignment: the best path through phones with optional silence around each.

    log_probs: float32 (frames, classes). Returns uint8 (frames,), or None if there are too few frames.
    """
    states = [0]
    for phone in phones:
        states += [phone, 0]
    frames, count = len(log_probs), len(states)
    if not phones or frames < 1.5 * len(phones):
        return None
    emit = log_probs[:, states]
    silent = np.array(states) == 0
    score = np.full(count, -1e9)
    score[:2] = emit[0, :2]
    back = np.zeros((frames, count), np.int8)
    columns = np.arange(count)
    for frame in range(1, frames):
        one = np.concatenate([[-1e9], score[:-1]])
        two = np.where(silent, -1e9, np.concatenate([[-1e9, -1e9], score[:-2]]))
        options = np.stack([score, one, two])
        back[frame] = options.argmax(0)
        score = options[back[frame], columns] + emit[frame]
    state = count - 1 if score[-1] > score[-2] else count - 2
    path = np.zeros(frames, np.uint8)
    for frame in range(frames - 1, -1, -1):
        path[frame] = states[state]
        state -= int(back[frame, state])
    return path


def edit_distance(left: list[int], right: list[int]) -> int:
    """Fewest insertions, deletions and replacements that turn one sequence into the other."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def collapse(labels: np.ndarray) -> list[int]:
    """Frame labels -> phone sequence: repeats merged, silence dropped."""
    kept = np.concatenate([[True], labels[1:] != labels[:-1]]) & (labels != 0)
    return [int(label) for label in labels[kept]]


class Clips:
    """Mel spectrograms (float16, all in memory) and labels of one set's clips."""

    def __init__(self, source: SpeechSet, clips: list[Clip], filters: torch.Tensor) -> None:
        self.clips = clips
        self.mels: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        generator = torch.Generator().manual_seed(0)
        for clip in clips:
            samples = torch.from_numpy(source.wave(clip))
            dither = 3e-4 * torch.randn(len(samples), generator=generator)
            self.mels.append(log_mel(samples + dither, filters).half().numpy())
            self.labels.append(source.labels(clip).astype(np.uint8))  # -1 becomes UNKNOWN

    def draw(self, usable: Sequence[int], rng: np.random.Generator) -> tuple[torch.Tensor, np.ndarray]:
        """An augmented crop: mel (2 * CROP, MELS) and labels (CROP,) with -1 where there is nothing to learn."""
        item = usable[int(rng.integers(len(usable)))]
        labels = self.labels[item]
        first = int(rng.integers(0, max(1, len(labels) - CROP)))
        labels = labels[first : first + CROP + 30].astype(np.int64)
        mel = augment(torch.from_numpy(self.mels[item][2 * first : 2 * (first + len(labels))].astype(np.float32)), rng)
        frames = len(mel) // 2
        labels = labels[np.minimum(((np.arange(frames) + 0.5) * len(labels) / frames).astype(int), len(labels) - 1)][:CROP]
        labels = np.where(labels == UNKNOWN, -1, labels)
        mel = mel[: 2 * len(labels)]
        gap = CROP - len(labels)
        return F.pad(mel, (0, 0, 0, 2 * gap), value=float(mel.min())), np.pad(labels, (0, gap), constant_values=-1)


@torch.no_grad()
def log_probs(net: PhoneNet, mel: np.ndarray) -> np.ndarray:
    """One clip's (2n, MELS) -> float32 (n, phones)."""
    return net(torch.from_numpy(mel.astype(np.float32))[None])[0].log_softmax(-1).numpy()


class Teacher:
    """The stage: its data, network and the labels it has given so far."""

    def __init__(self, settings: Settings, run: Run) -> None:
        self.settings, self.run = settings, run
        folder = settings.runs / "data" / "speech"
        filters = mel_filters()
        synthetic = SpeechSet(folder / "synth0")
        self.synthetic = Clips(synthetic, synthetic.split("train"), filters)
        self.unseen = Clips(synthetic, synthetic.split("test")[:60], filters)
        self.human = SpeechSet(folder / "human") if (folder / "human" / "index.json").is_file() else None
        self.spoken = [clip for clip in self.human.clips if clip.text] if self.human else []
        self.texted = Clips(self.human, self.spoken, filters) if self.human else None
        self.sequences = self._sequences()
        self.filters = filters
        self.aligned: list[int] = []  # places in self.texted that have labels and are for training
        self.net = PhoneNet()
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1.5e-3, betas=(0.9, 0.98), weight_decay=0.02)

    def _sequences(self) -> list[list[int]]:
        """Phone sequence of every transcribed recording, from the synthesizer's lexicon; cached."""
        cache = self.run.folder / "lexicon.json"
        known: dict[str, list[int]] = json.loads(cache.read_text()) if cache.is_file() else {}
        texts = [clip.text for clip in self.spoken]
        for text in texts:
            if text not in known:
                known[text] = phone_sequence(text)
        cache.write_text(json.dumps(known))
        return [known[text] for text in texts]

    def realign(self) -> float:
        """Align all transcribed recordings with the network as it is; returns the mean log-probability of the paths."""
        if self.human is None or self.texted is None:
            return 0.0
        self.net.eval()
        self.aligned, scores = [], []
        for place, clip in enumerate(self.spoken):
            table = log_probs(self.net, self.texted.mels[place])
            path = align(table, self.sequences[place])
            if path is None:
                continue
            self.texted.labels[place] = path
            scores.append(float(table[np.arange(len(path)), path].mean()))
            if clip.split == "train":
                self.aligned.append(place)
        self.net.train()
        return float(np.mean(scores))

    def step(self, rng: np.random.Generator) -> float:
        """One update on BATCH crops, a quarter of them human once there are alignments; returns the loss."""
        crops = []
        for item in range(BATCH):
            if item % 4 == 0 and self.aligned and self.texted is not None:
                crops.append(self.texted.draw(self.aligned, rng))
            else:
                crops.append(self.synthetic.draw(range(len(self.synthetic.mels)), rng))
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.net(torch.stack([mel for mel, _ in crops]))
        labels = torch.from_numpy(np.stack([label for _, label in crops]))
        loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-1, label_smoothing=0.05)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def measure(self) -> dict[str, float]:
        """Frame accuracy and phone error rate on unseen synthetic sentences, phone error rate on unseen human prompts."""
        self.net.eval()
        right = frames = wrong = phones = 0
        for mel, labels in zip(self.unseen.mels, self.unseen.labels, strict=True):
            guess = log_probs(self.net, mel).argmax(-1)
            right += int((guess == labels).sum())
            frames += len(labels)
            wrong += edit_distance(collapse(guess), collapse(labels))
            phones += len(collapse(labels))
        figures = {"accuracy": right / max(1, frames), "phone_errors": wrong / max(1, phones)}
        if self.texted is not None:
            held = [place for place, clip in enumerate(self.spoken) if clip.split == "test"][:40]
            pairs = [(collapse(log_probs(self.net, self.texted.mels[p]).argmax(-1)), self.sequences[p]) for p in held]
            figures["phone_errors_human"] = sum(edit_distance(*pair) for pair in pairs) / max(1, sum(len(truth) for _, truth in pairs))
        self.net.train()
        return figures

    def label(self, *, untexted: bool = True) -> None:
        """Write labels beside the human set: aligned where there is a transcript, else confident decisions, else 255.

        untexted: whether recordings without a transcript are labelled at all; a young network is too often wrong there.
        """
        if self.human is None or self.texted is None:
            return
        self.net.eval()
        labels = np.full(len(self.human.phones), UNKNOWN, np.uint8)
        places = {clip: place for place, clip in enumerate(self.spoken)}
        for clip in self.human.clips:
            if clip in places:
                found = self.texted.labels[places[clip]]
            elif untexted:
                table = log_probs(self.net, log_mel(torch.from_numpy(self.human.wave(clip)), self.filters).numpy())
                found = np.where(table.max(-1) > np.log(CONFIDENCE), table.argmax(-1), UNKNOWN)
            else:
                continue
            labels[clip.frames_start : clip.frames_start + clip.frames] = found
        replace_phones(self.human.folder, labels)
        self.net.train()

    def state(self, rounds: int, steps: int) -> dict[str, object]:
        """What resuming needs."""
        labels = torch.zeros(0, dtype=torch.uint8)
        if self.aligned and self.texted is not None:
            labels = torch.from_numpy(np.concatenate(self.texted.labels))
        nets = {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {**nets, "labels": labels, "aligned": self.aligned, "rounds": rounds, "steps": steps}

    def restore(self, state: dict[str, object]) -> tuple[int, int]:
        """Continue from a saved state; returns (alignment rounds, steps) done."""
        self.net.load_state_dict(state["net"])  # type: ignore[arg-type]
        self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
        self.aligned = list(state["aligned"])  # type: ignore[call-overload]
        labels = state["labels"].numpy()  # type: ignore[attr-defined]
        if self.aligned and self.texted is not None:
            cuts = np.cumsum([len(item) for item in self.texted.labels])[:-1]
            self.texted.labels = np.split(labels, cuts)
        return int(state["rounds"]), int(state["steps"])  # type: ignore[call-overload]


def train(settings: Settings) -> None:
    """Run the stage: train, align twice on the way, label the human set after the second alignment and at the end."""
    run = Run("speech-teacher", settings)
    torch.manual_seed(settings.seed)
    teacher = Teacher(settings, run)
    run.before_s -= run.used_s  # reading the data is not training
    state = run.resume()
    rounds, steps = teacher.restore(state) if state else (0, 0)
    rng = np.random.default_rng([settings.seed, steps])
    scale = settings.budget_s / 480.0
    while run.going:
        for group in teacher.optimizer.param_groups:
            group["lr"] = 1.5e-3 * cosine(run.progress)
        loss = teacher.step(rng)
        steps += 1
        if rounds < len(ALIGN_AT_S) and run.used_s > ALIGN_AT_S[rounds] * scale:
            rounds += 1
            run.log(alignment=teacher.realign())
            teacher.label(untexted=rounds == len(ALIGN_AT_S))
        if steps % 400 == 0:
            run.log(loss=loss, **teacher.measure())
        if run.due():
            run.save(teacher.state(rounds, steps))
    run.save(teacher.state(rounds, steps))
    if not run.stopping:
        run.log(alignment=teacher.realign(), **teacher.measure())
        teacher.label()
        run.save(teacher.state(rounds, steps))
    run.plot()
