"""How well a voice is cloned, for speakers that no training has heard.

Each held-out LibriSpeech speaker gives the best 3 s of the first half of one recording as the prompt; the second half is the
truth. The prompt's voice then speaks level-1 codes of somebody else's sentence, and a speaker encoder (Resemblyzer, trained
on other people and never used in training here) compares. Ceiling: the same person's two halves. Floor: different people.

    python -m anygpt_demo.eval.voice --family checkpoints/mini
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from anygpt_demo.checkpoints import Family
from anygpt_demo.codecs.speech import SpeechCodec
from anygpt_demo.enhance import best_prompt
from anygpt_demo.errors import MissingProgram
from anygpt_demo.eval.metrics import figure
from anygpt_demo.media import Audio, Voice
from anygpt_demo.train.speech_data import RATE_HZ, SpeechSet

CROWD = 20  # the rank is among so many people
SENTENCES = 2  # spoken in each voice
Embed = Callable[[np.ndarray], np.ndarray]


def speaker_encoder() -> Embed:
    """Samples at 16 kHz -> unit vector (256,). Raises MissingProgram without Resemblyzer."""
    try:
        from resemblyzer import VoiceEncoder, preprocess_wav
    except ImportError as error:
        raise MissingProgram(
            "Resemblyzer is not installed.", "It judges how alike two voices are.", "pip install --no-deps Resemblyzer webrtcvad-wheels"
        ) from error
    encoder = VoiceEncoder("cpu", verbose=False)

    def embed(samples: np.ndarray) -> np.ndarray:
        level = samples / (np.abs(samples).max() + 1e-6) * 0.7
        vector: np.ndarray = encoder.embed_utterance(preprocess_wav(level.astype(np.float32), RATE_HZ))
        return vector

    return embed


def halves(sets: Path) -> list[tuple[Audio, np.ndarray]]:
    """(prompt of 3 s, other half) of each held-out speaker with at least 8 s."""
    people = SpeechSet(sets / "human")
    found = []
    for clip in people.split("test"):
        if clip.source == "librispeech_clean251" and clip.samples >= 8 * RATE_HZ:
            samples = people.wave(clip)
            middle = len(samples) // 2
            found.append((best_prompt(Audio(samples[:middle], RATE_HZ)), samples[middle:]))
    return found[:CROWD]


def sentences(sets: Path) -> list[np.ndarray]:
    """Waves of unseen sentences in synthetic voices, 2 to 5 s; their level-1 codes are what the cloned voices say."""
    tests = SpeechSet(sets / "synth_test")
    chosen = [clip for clip in tests.clips if 2 * RATE_HZ <= clip.samples <= 5 * RATE_HZ]
    return [tests.wave(clip) for clip in chosen[: CROWD * SENTENCES]]


def evaluate(family: Family, sets: Path) -> dict[str, Any]:
    """voice_clone.cosine and .rank1, speech_codec.reconstruction_cosine; all on people that nothing was trained on."""
    codec, embed = SpeechCodec.load(family), speaker_encoder()
    people, spoken = halves(sets), sentences(sets)
    truth = [embed(other) for _, other in people]
    same = [float(embed(prompt.samples) @ own) for (prompt, _), own in zip(people, truth, strict=True)]
    strangers = [float(a @ b) for i, a in enumerate(truth) for b in truth[:i]]
    cosine, content, first, copied = [], [], [], []
    for number, (prompt, other) in enumerate(people):
        copied.append(float(embed(_copy(codec, other)) @ truth[number]))
        for turn in range(SENTENCES):
            wave = spoken[(number * SENTENCES + turn) % len(spoken)]
            codes = codec.encode(Audio(wave, RATE_HZ))
            made = embed(codec.decode(codes, voice=Voice("prompt", prompt), seed=turn).samples)
            near = [float(made @ person) for person in truth]
            cosine.append(near[number])
            first.append(float(near[number] >= max(near)))
            content.append(float(made @ embed(wave)))
    ceiling, floor = float(np.mean(same)), float(np.mean(strangers))
    return {
        "voice_clone.cosine": figure(cosine, ceiling=ceiling, floor=floor),
        "voice_clone.rank1": figure(first, ceiling=_rank1(people, truth, embed), floor=1 / max(1, len(people))),
        "voice_clone.cosine_to_content_voice": figure(content, floor=floor),
        "speech_codec.reconstruction_cosine": figure(copied, ceiling=1.0, floor=floor),
    }


def _copy(codec: SpeechCodec, samples: np.ndarray) -> np.ndarray:
    """Through all levels of the codec and back."""
    import torch

    levels = torch.from_numpy(codec.encode_all(Audio(samples, RATE_HZ)))[:, None]
    with torch.inference_mode():
        wave: np.ndarray = codec.tokenizer.decode(levels)[0, 0].float().numpy()
    return wave


def _rank1(people: list[tuple[Audio, np.ndarray]], truth: list[np.ndarray], embed: Embed) -> float:
    """How often the judge finds a person among all from the real prompt."""
    hits = [float(np.argmax([embed(prompt.samples) @ person for person in truth]) == number) for number, (prompt, _) in enumerate(people)]
    return float(np.mean(hits))


def main() -> None:
    """Command line: prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", type=Path, default=Path("checkpoints/mini"))
    parser.add_argument("--sets", type=Path, default=Path("runs/data/speech"))
    arguments = parser.parse_args()
    json.dump(evaluate(Family.open(arguments.family), arguments.sets), sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
