"""Question and answer pairs from public small talk (chatterbot, Topical-Chat), for general fluency. See the data's ATTRIBUTION."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

LONGEST_WORDS = 22
SKIPPED = ("politics", "ai.yml", "botprofile", "coding", "money", "tech_support", "trivia", "gossip", "history", "psychology")
UNWANTED = re.compile(r"http|\d|lol|trump|clinton|election|kill|sex|gay|god|drug|gun|hitler|porn|hell\b|damn|stupid", re.IGNORECASE)


def _usable(text: str) -> bool:
    return 2 <= len(text.split()) <= LONGEST_WORDS and re.fullmatch(r"[A-Za-z ,.?!'\-]+", text) is not None and not UNWANTED.search(text)


def _chatterbot(path: Path) -> Iterator[tuple[str, str]]:
    """Pairs of neighbouring lines of one conversation."""
    skipped, question = False, ""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in file:
            if row.startswith("#"):
                skipped = any(word in row for word in SKIPPED)
            match = re.match(r"(- |  )- (.+)", row.rstrip())
            if match is None or skipped:
                question = ""
                continue
            text = " ".join(match[2].strip("\"' ").split())
            if match[1] == "  " and question and _usable(question) and _usable(text):
                yield question, text
            question = text


def _topical(path: Path) -> Iterator[tuple[str, str]]:
    """Short neighbouring turns of open chats."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in file:
            turns = [" ".join(text.split()) for _, text in json.loads(row)["turns"]]
            for question, answer in zip(turns, turns[1:], strict=False):
                if question.endswith("?") and _usable(question) and _usable(answer):
                    yield question, answer


def pairs(data: Path | None) -> list[tuple[str, str]]:
    """(question, answer) in a fixed order; empty without the data."""
    if data is None:
        return []
    found: list[tuple[str, str]] = []
    for name, reader in (("chatterbot_english_yml.txt.gz", _chatterbot), ("topical_chat.jsonl.gz", _topical)):
        if (data / name).is_file():
            found += reader(data / name)
    return found
