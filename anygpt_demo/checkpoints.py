"""A model family on disk: one folder with a manifest, verified file by file before anything is loaded.

    checkpoints/mini/manifest.json   family, licences, components: {role: {config, files: {name: {sha256, bytes}}}}
    checkpoints/mini/<role>/...      config.json and safetensors shards of at most 16 MB (or tokenizer files)

Run time reads safetensors only. Roles: tokenizer, llm, image_tokenizer, image_decoder, speech_tokenizer, soundstorm,
music_codec.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anygpt_demo.errors import BadCheckpoint

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 15_000_000  # below the 16 MB that code hosts show and diff comfortably
MINI = Path(__file__).resolve().parent.parent / "checkpoints" / "mini"


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    digest = hashlib.sha256()  # in pieces: hashlib.file_digest needs Python 3.11
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


@dataclass(frozen=True)
class Component:
    """One role of a family: its folder, its config and the hashes of its files."""

    role: str
    folder: Path
    config: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]

    def verify(self) -> None:
        """Raise BadCheckpoint naming the first file that is missing, cut or changed."""
        for name, facts in self.files.items():
            path = self.folder / name
            if not path.is_file():
                raise BadCheckpoint(f"{self.role}: the file {name} is missing.", "The family is incomplete.", "Fetch or unpack it again.")
            if path.stat().st_size != facts["bytes"] or sha256(path) != facts["sha256"]:
                raise BadCheckpoint(
                    f"{self.role}: the file {name} is damaged.", "Its SHA-256 differs from the manifest.", "Fetch or unpack it again."
                )

    def state(self, device: str = "cpu") -> dict[str, torch.Tensor]:
        """All tensors of the component, verified; bfloat16 and float16 are widened to float32 on the CPU.

        Use load_strict() to put them into a module.
        """
        import torch
        from safetensors.torch import load_file

        self.verify()
        tensors: dict[str, torch.Tensor] = {}
        for name in sorted(self.files):
            if name.endswith(".safetensors"):
                tensors.update(load_file(self.folder / name, device=device))
        half = (torch.bfloat16, torch.float16)
        return {key: tensor.float() if device == "cpu" and tensor.dtype in half else tensor for key, tensor in tensors.items()}


@dataclass(frozen=True)
class Family:
    """A folder of components under one manifest: `mini` or a converted `anygpt`."""

    name: str
    folder: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path | str = MINI) -> Family:
        """Read a family's manifest. Raises BadCheckpoint if there is none."""
        folder = Path(folder)
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            if not isinstance(manifest["components"], dict):
                raise TypeError("components")
            return cls(manifest["family"], folder, manifest)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadCheckpoint(
                f"There is no model family in {folder.name}.",
                "Its manifest.json is missing or damaged.",
                "Check out the repository again, or fetch the family.",
            ) from error

    def has(self, role: str) -> bool:
        """Whether this family has a component of that role."""
        return role in self.manifest["components"]

    def component(self, role: str) -> Component:
        """The component of one role. Raises BadCheckpoint if the family has none."""
        facts = self.manifest["components"].get(role)
        if facts is None:
            raise BadCheckpoint(
                f"The family {self.name} has no {role}.", "Its manifest does not list one.", "Train or fetch this component first."
            )
        return Component(role, self.folder / role, facts["config"], facts["files"])


def load_strict(module: torch.nn.Module, state: Mapping[str, torch.Tensor], role: str) -> torch.nn.Module:
    """Load tensors into a module and switch it to evaluation. Raises BadCheckpoint naming the first key that does not fit."""
    own = module.state_dict()
    for key in own.keys() | state.keys():
        if key not in state:
            raise BadCheckpoint(f"{role}: the tensor {key} is missing.", "The file does not fit this model.", "Fetch the family again.")
        if key not in own:
            raise BadCheckpoint(f"{role}: the tensor {key} is unknown.", "The file does not fit this model.", "Fetch the family again.")
        if own[key].shape != state[key].shape:
            raise BadCheckpoint(
                f"{role}: the tensor {key} is {tuple(state[key].shape)}, not {tuple(own[key].shape)}.",
                "The file does not fit this model.",
                "Fetch the family again.",
            )
    module.load_state_dict(dict(state))
    return module.eval()


def export(folder: Path, role: str, config: Mapping[str, Any], state: Mapping[str, torch.Tensor], *, half: bool = True) -> None:
    """Write one component into a family folder and enter it in the manifest (created if absent).

    Floats are stored as bfloat16 when `half`; shards stay below SHARD_BYTES. Old files of the role are removed.
    """
    import torch
    from safetensors.torch import save_file

    home = folder / role
    home.mkdir(parents=True, exist_ok=True)
    for old in home.glob("*.safetensors"):
        old.unlink()
    write_json(home / "config.json", dict(config))
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for key, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous().clone()
        if half and tensor.is_floating_point():
            tensor = tensor.to(torch.bfloat16)
        if shards[-1] and size + tensor.nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][key] = tensor
        size += tensor.nbytes
    for number, shard in enumerate(shards, 1):
        save_file(shard, home / f"model-{number:05d}-of-{len(shards):05d}.safetensors")
    enter(folder, role, config)


def enter(folder: Path, role: str, config: Mapping[str, Any], family: str = "mini") -> None:
    """(Re)write a role's manifest entry from the files that lie in its folder."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"family": family, "components": {}}
    files = sorted(item for item in (folder / role).iterdir() if item.is_file() and not item.name.endswith(".part"))
    manifest["components"][role] = {
        "config": dict(config),
        "files": {item.name: {"sha256": sha256(item), "bytes": item.stat().st_size} for item in files},
    }
    write_json(path, manifest)
