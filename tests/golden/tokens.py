"""Finds tokenizers and prompt files of a reference folder by pattern."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from anygpt_demo.vocabulary import Vocabulary


def tokenizers(golden: Path) -> list[Path]:
    """All tokenizer folders."""
    return sorted(path for path in golden.glob("tokenizer_*") if path.is_dir())


def open_vocabulary(folder: Path, scratch: Path) -> Vocabulary:
    """The vocabulary of a tokenizer folder, from the two files that a family keeps."""
    home = scratch / folder.name
    home.mkdir(exist_ok=True)
    for name in ("tokenizer.model", "added_tokens.json"):
        shutil.copyfile(folder / name, home / name)
    return Vocabulary(home)


def prompt_files(golden: Path) -> list[dict[str, Any]]:
    """The contents of all prompt files."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(golden.glob("prompts*.json"))]
