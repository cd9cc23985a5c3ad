"""Builds small tokenizer folders in the published layout, for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from anygpt_demo.modality import Modality, Sampling

SENTENCES = [
    "a red boat on a lake at dusk",
    "please draw a picture of a small cat in the rain",
    "hello there how are you today",
    "compose a slow melody for the piano",
    "I am fine thank you and here is your music",
    "This is input: the quick brown fox jumps over the lazy dog.",
    "You are an AI assistant who can understand and generate multimodal content",
]

GESTURE = Modality(  # a modality that the package does not have
    name="gesture",
    kind="audio",
    symbol="👋",
    marks=("<soge>", "<eoge>"),
    codebook=16,
    layers=3,
    frames=range(2, 9),
    frame_rate_hz=10.0,
    sample_rate_hz=1000,
    sampling=Sampling(top_k=5),
)


def write_tokenizer(folder: Path, modalities: Sequence[Modality], pieces: int = 400) -> Path:
    """Train a tiny sentencepiece BPE with byte fallback and add the marks and codes in the published order."""
    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=pieces,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    size = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).get_piece_size()
    names = ["[Human]", "[MMGPT]", "<eoh>", "<eos>"]
    for facts in modalities:
        names += [f"<{facts.symbol}{number}>" for number in range(facts.codes)] + list(facts.marks)
    names += ["<eom>", "[AnyGPT]", "<-Res->", "<-Ins->"]
    table = {name: size + index for index, name in enumerate(names)}
    (folder / "added_tokens.json").write_text(json.dumps(table), encoding="utf-8")
    return folder
