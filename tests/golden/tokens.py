"""Finds tokenizers and prompt files of a reference folder by pattern; the compact subset keeps them gzipped."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from anygpt_demo.vocabulary import Vocabulary


def read(path: Path) -> bytes:
    """A file, or its gzipped twin."""
    return path.read_bytes() if path.is_file() else gzip.decompress(path.with_name(path.name + ".gz").read_bytes())


def tokenizers(golden: Path) -> list[Path]:
    """All tokenizer folders."""
    return sorted(path for path in golden.glob("tokenizer_*") if path.is_dir())


def open_vocabulary(folder: Path, scratch: Path) -> Vocabulary:
    """The vocabulary of a tokenizer folder, unpacked first where it is gzipped."""
    home = scratch / folder.name
    home.mkdir(exist_ok=True)
    for name in ("tokenizer.model", "added_tokens.json"):
        (home / name).write_bytes(read(folder / name))
    return Vocabulary(home)


def prompt_files(golden: Path) -> list[dict[str, Any]]:
    """The contents of all prompt files."""
    names = {path.name.removesuffix(".gz") for path in golden.glob("prompts*.json*")}
    return [json.loads(read(golden / name)) for name in sorted(names)]
