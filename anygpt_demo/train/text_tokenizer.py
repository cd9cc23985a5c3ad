"""Stage text-tokenizer: a sentencepiece BPE with byte fallback and the added tokens, in the published file layout."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from anygpt_demo import checkpoints, codecs
from anygpt_demo.modality import Modality
from anygpt_demo.protocol import SYSTEM, VOICE_COMMAND
from anygpt_demo.synth.dialogues import FreeSource, Words, dialogues
from anygpt_demo.synth.public_text import pairs
from anygpt_demo.synth.spoken import spoken_sentences
from anygpt_demo.train.loop import Settings
from anygpt_demo.vocabulary import TURN_MARKS

PIECES = 3072
IMAGE_CODEBOOK = 2048  # of the mini picture tokenizer; the other codebooks are the official ones
TEXT_CHATS = 30_000
SPOKEN = 20_000


def mini_modalities() -> tuple[Modality, ...]:
    """The registered modalities with mini's codebook sizes."""
    import dataclasses

    return tuple(dataclasses.replace(item, codebook=IMAGE_CODEBOOK) if item.name == "image" else item for item in codecs.modalities())


def corpus(seed: int, data: Path | None) -> Iterator[str]:
    """Lines of training text: chats, spoken sentences, public small talk and the fixed sentences of the templates."""
    source = FreeSource(seed)
    for dialogue in islice(dialogues(seed, source), TEXT_CHATS):
        for turn in dialogue.turns:
            yield from (": " + part.text for part in turn.parts if isinstance(part, Words))  # a colon follows every turn mark
    yield from islice(spoken_sentences(seed), SPOKEN)
    for question, answer in pairs(data):
        yield question
        yield answer
    for _ in range(3000):
        yield SYSTEM
        yield f" {VOICE_COMMAND}"


def added_tokens(first: int, modalities: Sequence[Modality]) -> dict[str, int]:
    """Marks and codes in the official order: turns, then per modality its codes and its marks, then the chain marks."""
    names = [TURN_MARKS[key] for key in ("human", "mmgpt", "eoh", "eos")]
    for item in modalities:
        names += [f"<{item.symbol}{number}>" for number in range(item.codes)]
        names += item.marks
    names += [TURN_MARKS["res"], TURN_MARKS["ins"]]
    return {name: first + number for number, name in enumerate(names)}


def train_pieces(lines: Iterator[str], pieces: int, path: Path) -> None:
    """Train the BPE with LLaMA's flags. path: the tokenizer.model to write."""
    import sentencepiece

    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "tokenizer"
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines, model_prefix=str(prefix), vocab_size=pieces, model_type="bpe", byte_fallback=True,
            character_coverage=1.0,
            normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True,
            split_digits=True,
            allow_whitespace_only_pieces=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=1, minloglevel=2,
            max_sentence_length=4192, shuffle_input_sentence=False,
        )  # fmt: skip
        path.write_bytes(prefix.with_suffix(".model").read_bytes())


def _plain_token(text: str, **flags: bool) -> dict[str, Any]:
    return {"content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False} | flags


def write_settings(home: Path, added: dict[str, int]) -> None:
    """added_tokens.json, special_tokens_map.json and tokenizer_config.json as published; no added token is special."""
    control = {"0": "<unk>", "1": "<s>", "2": "</s>"}
    decoder = {number: _plain_token(name, special=True) for number, name in control.items()}
    decoder |= {str(number): _plain_token(name, normalized=True, special=False) for name, number in added.items()}
    special = {"bos_token": _plain_token("<s>"), "eos_token": _plain_token("</s>")}
    special |= {"pad_token": "<unk>", "unk_token": _plain_token("<unk>")}
    config = {
        "add_bos_token": True, "add_eos_token": False, "added_tokens_decoder": decoder, "bos_token": "<s>", "eos_token": "</s>",
        "pad_token": "<unk>", "unk_token": "<unk>", "legacy": True, "model_max_length": 2048, "padding_side": "right",
        "sp_model_kwargs": {}, "tokenizer_class": "LlamaTokenizer",
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    for name, value in (("added_tokens", added), ("special_tokens_map", special), ("tokenizer_config", config)):
        (home / f"{name}.json").write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def train(settings: Settings) -> None:
    """Write the tokenizer into the family and enter it in the manifest."""
    home = settings.family / "tokenizer"
    home.mkdir(parents=True, exist_ok=True)
    pieces = int(settings.options.get("pieces", PIECES))
    train_pieces(corpus(settings.seed, settings.data), pieces, home / "tokenizer.model")
    added = added_tokens(pieces, mini_modalities())
    write_settings(home, added)
    checkpoints.enter(settings.family, "tokenizer", {"pieces": pieces, "size": pieces + len(added)})
