"""Where the reference files of the official code lie: $GOLDEN_DIR, else ../shared/golden beside the repository, else the subset.

The subset in tests/golden/data keeps weights as *.packed: most of them rounded to 17 significant bits (all recorded outputs are
still met within their tolerances), sorted by significance and compressed. home() unpacks them into the published formats first.

    python -m tests.golden.places FILE OUT [BITS]       packs any file; the last BITS (7) of every weight are rounded off
"""

from __future__ import annotations

import functools
import json
import lzma
import math
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
SUBSET = HERE / "data"
SUFFIX = ".packed"


def full() -> Path | None:
    """The folder with all reference files, if it is at hand. A folder that $GOLDEN_DIR names has to be there."""
    named = os.environ.get("GOLDEN_DIR")
    if named:
        assert Path(named).is_dir(), f"GOLDEN_DIR names {named}, which is no folder"
        return Path(named)
    beside = HERE.parent.parent.parent / "shared" / "golden"
    return beside if beside.is_dir() else None


@functools.cache
def home() -> Path:
    """All reference files, or the subset unpacked into a folder that goes when the interpreter ends."""
    return full() or unpacked()


@functools.cache
def unpacked() -> Path:
    """The subset in the published formats."""
    scratch = tempfile.TemporaryDirectory(prefix="golden-")
    home.scratch = scratch  # type: ignore[attr-defined]  # as long as the interpreter lives
    out = Path(scratch.name)
    for path in SUBSET.rglob("*"):
        target = out / path.relative_to(SUBSET)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif path.suffix == SUFFIX:
            target.parent.mkdir(parents=True, exist_ok=True)
            unpack(path, target.with_suffix(""))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return out


def part(name: str) -> Path:
    """A folder of the reference files; what a full folder lacks altogether (manifests, say) comes from the subset."""
    return home() / name if (home() / name).is_dir() else unpacked() / name


def manifest(name: str) -> Any:
    """The contents of manifests/NAME.json."""
    path = part("manifests") / f"{name}.json"
    return json.loads((path if path.is_file() else unpacked() / "manifests" / path.name).read_text(encoding="utf-8"))


def pack(path: Path, out: Path, dropped: int = 7) -> None:
    """Weights rounded and compressed, any other file compressed. dropped: bits of a float32's 23."""
    if path.suffix in (".safetensors", ".pt", ".pth", ".bin", ".dev"):
        pickled = path.suffix != ".safetensors"
        tensors = torch.load(path, weights_only=True) if pickled else load_file(path)
        head = [[key, list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for key, tensor in tensors.items()]
        floats = [tensor.numpy().reshape(-1) for tensor in tensors.values() if tensor.dtype == torch.float32]
        others = b"".join(tensor.numpy().tobytes() for tensor in tensors.values() if tensor.dtype != torch.float32)
        bits = np.concatenate(floats).view(np.uint32).astype(np.uint64) + ((1 << dropped) >> 1)
        planes = (bits >> dropped << dropped).astype("<u4").view(np.uint8).reshape(-1, 4).T
        body = json.dumps(head).encode() + b"\n" + planes.tobytes() + others
    else:
        body = path.read_bytes()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(lzma.compress(body, preset=9 | lzma.PRESET_EXTREME))


def unpack(path: Path, out: Path) -> None:
    """The inverse of pack(), but for the rounding."""
    body = lzma.decompress(path.read_bytes())
    if out.suffix not in (".safetensors", ".pt", ".pth", ".bin", ".dev"):
        out.write_bytes(body)
        return
    line, _, rest = body.partition(b"\n")
    head = json.loads(line)
    count = sum(math.prod(shape) for _, shape, dtype in head if dtype == "float32")
    floats = np.frombuffer(rest[: 4 * count], np.uint8).reshape(4, -1).T.copy().view("<f4").reshape(-1)
    others = rest[4 * count :]
    tensors: dict[str, torch.Tensor] = {}
    for key, shape, dtype in head:
        size = math.prod(shape)
        if dtype == "float32":
            values, floats = floats[:size], floats[size:]
        else:
            width = np.dtype(dtype).itemsize * size
            values, others = np.frombuffer(others[:width], dtype), others[width:]
        tensors[key] = torch.from_numpy(values.reshape(shape).copy())
    if out.suffix == ".safetensors":
        save_file(tensors, out, {"format": "pt"})
    else:
        torch.save(tensors, out)


if __name__ == "__main__":
    pack(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
