"""Judges of speech that have nothing to do with the models under test (development extras: pocketsphinx, pystoi, pesq)."""

from __future__ import annotations

import math
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from anygpt_demo.errors import MissingProgram
from anygpt_demo.eval.metrics import words

RATE_HZ = 16_000
DITHER = 1e-3  # exact zeros of synthetic speech break pocketsphinx: .34 word errors on clean originals without it, .006 with it


def bigram_model(sentences: Iterable[str]) -> str:
    """An ARPA bigram model (Witten-Bell backing-off) of the words of some sentences."""
    single: Counter[str] = Counter()
    double: dict[str, Counter[str]] = defaultdict(Counter)
    for sentence in sentences:
        chain = ["<s>", *words(sentence), "</s>"]
        single.update(chain[1:])
        for first, second in zip(chain, chain[1:], strict=False):
            double[first][second] += 1
    total = sum(single.values())
    share = {word: (count + 0.5) / (total + 0.5 * len(single)) for word, count in single.items()}
    back = {word: len(after) / (len(after) + sum(after.values())) for word, after in double.items()}

    def log(value: float) -> str:
        return f"{math.log10(max(value, 1e-9)):.4f}"

    lines = ["\\data\\", f"ngram 1={len(share) + 1}", f"ngram 2={sum(map(len, double.values()))}", "", "\\1-grams:"]
    lines.append(f"-99 <s> {log(back['<s>'])}")
    lines += [f"{log(value)} {word} {log(back.get(word, 1))}" for word, value in share.items()]
    lines += ["", "\\2-grams:"]
    for first, after in double.items():
        mass = sum(after.values()) + len(after)
        lines += [f"{log(count / mass + back[first] * share[second])} {first} {second}" for second, count in after.items()]
    return "\n".join([*lines, "", "\\end\\", ""])


class Listener:
    """pocketsphinx with a closed vocabulary: the words, and pairs of words, of the sentences it is told; None: its own model of English."""

    def __init__(self, sentences: Iterable[str] | None) -> None:
        try:
            from pocketsphinx import Config, Decoder
        except ImportError as error:
            raise MissingProgram("The speech judge is missing.", "pocketsphinx is not installed.", "pip install pocketsphinx") from error
        with tempfile.TemporaryDirectory() as folder:
            config = Config(samprate=RATE_HZ, loglevel="FATAL")
            if sentences is not None:
                path = Path(folder) / "closed.arpa"
                path.write_text(bigram_model(sentences))
                config["lm"] = str(path)
            self._decoder = Decoder(config)
        self._rng = np.random.default_rng(0)

    def knows(self, sentence: str) -> bool:
        """Whether every word of a sentence is in the pronunciation dictionary."""
        return all(self._decoder.lookup_word(word) for word in words(sentence))

    def hear(self, samples: np.ndarray) -> str:
        """Words heard in float samples (n,) at 16 kHz."""
        level = samples / (np.abs(samples).max() + 1e-6) * 0.6 + self._rng.normal(0, DITHER, len(samples))
        self._decoder.start_utt()
        self._decoder.process_raw((np.clip(level, -1, 1) * 32767).astype(np.int16).tobytes(), full_utt=True)
        self._decoder.end_utt()
        guess = self._decoder.hyp()
        return guess.hypstr if guess else ""


def intelligibility(original: np.ndarray, copy: np.ndarray) -> float:
    """STOI in about [0, 1] of two float arrays of one length at 16 kHz."""
    from pystoi import stoi

    return float(stoi(original, copy, RATE_HZ))


def quality(original: np.ndarray, copy: np.ndarray) -> float:
    """Wide-band PESQ, 1.0 to 4.6; 1.0 where the program finds no speech."""
    from pesq import NoUtterancesError, pesq

    try:
        return float(pesq(RATE_HZ, original, copy, "wb"))
    except NoUtterancesError:
        return 1.0
