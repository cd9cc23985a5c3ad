"""Is this machine ready: versions, programs, the model family's files, and what each component weighs."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anygpt_demo.checkpoints import Component, Family
from anygpt_demo.errors import BadCheckpoint, UserError

PACKAGES = ("torch", "numpy", "safetensors", "sentencepiece", "transformers", "diffusers", "gradio", "pillow", "soundfile")
PROGRAMS = {  # program -> what is missing without it
    "ffmpeg": "browser recordings (webm, m4a) can be read",
    "cc": "the language model's own kernels can be compiled, several times faster than torch's",
    "flite": "synthetic speech can be made for training",
    "festival": "one more training voice",
    "espeak-ng": "phone sequences of new sentences",
}


@dataclass(frozen=True)
class Row:
    """One finding. state: ok, missing (needed) or absent (optional)."""

    what: str
    state: str
    detail: str


def machine() -> Iterator[Row]:
    """Python, packages and programs."""
    ok = sys.version_info >= (3, 10)
    yield Row("python", "ok" if ok else "missing", f"{platform.python_version()} ({'3.10 or newer' if ok else 'needs 3.10'})")
    for name in PACKAGES:
        try:
            yield Row(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Row(name, "missing", "pip install -r requirements.txt")
    for name, purpose in PROGRAMS.items():
        path = shutil.which(name)
        yield Row(name, "ok" if path else "absent", purpose if path else f"needed so that {purpose}")


def parameters(path: Path) -> int:
    """Number of values in a safetensors file, from its header alone."""
    import json
    import math

    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return sum(math.prod(item["shape"]) for name, item in header.items() if name != "__metadata__")


def weigh(component: Component) -> str:
    """Parameters and bytes of a component."""
    files = [component.folder / name for name in component.files]
    values = sum(parameters(path) for path in files if path.suffix == ".safetensors")
    size = sum(path.stat().st_size for path in files)
    return f"{values / 1e6:8.2f} M parameters  {size / 1e6:8.2f} MB" if values else f"{'':21}{size / 1e6:8.2f} MB"


def family_rows(folder: Path) -> Iterator[Row]:
    """Every component of a family, verified file by file."""
    try:
        family = Family.open(folder)
    except BadCheckpoint as error:
        yield Row(folder.name, "missing", str(error))
        return
    for role in sorted(family.manifest["components"]):
        component = family.component(role)
        try:
            component.verify()
            yield Row(f"{family.name}/{role}", "ok", weigh(component))
        except BadCheckpoint as error:
            yield Row(f"{family.name}/{role}", "missing", str(error))
    try:
        from anygpt_demo.vocabulary import Vocabulary

        vocabulary = Vocabulary.of(family)
        spans = ", ".join(f"{name} {item.first}..{item.stop - 1}" for name, item in vocabulary.ranges.items())
        yield Row(f"{family.name}/vocabulary", "ok", f"{vocabulary.size} ids: text 0..{vocabulary.text_size - 1}, {spans}")
    except UserError as error:
        yield Row(f"{family.name}/vocabulary", "missing", str(error))


def memory_lines(kv: str = "none") -> Iterator[str]:
    """What the official models weigh and what cards of several sizes keep of them, from the configs alone. kv: as memory.table()."""
    from anygpt_demo import memory

    yield from memory.table(kv)
