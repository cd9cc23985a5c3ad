"""A model family on disk: one folder with a manifest, verified file by file before anything is loaded.

    checkpoints/mini/manifest.json   family, licences, components: {role: {config, files: {name: {sha256, bytes}}}}
    checkpoints/mini/<role>/...      config.json and safetensors shards of at most 16 MB (or tokenizer files)

Run time reads safetensors only. Roles: tokenizer, llm, image_tokenizer, image_decoder, image_enhancer, speech_tokenizer,
soundstorm, music_codec.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from anygpt_demo.errors import BadCheckpoint

if TYPE_CHECKING:
    import torch

Module = TypeVar("Module", bound="torch.nn.Module")
SHARD_BYTES = 15_000_000  # below the 16 MB that code hosts show and diff comfortably
MINI = Path(__file__).resolve().parent.parent / "checkpoints" / "mini"


class Watch(Protocol):
    """Is told how far the reading of a family has come."""

    def __call__(self, role: str, name: str, checked: bool, count: int) -> None:
        """Of this file `count` bytes have been compared with its hash or, once it is checked, taken into memory."""
        ...


def sha256(path: Path, tick: Callable[[int], None] | None = None) -> str:
    """Hex SHA-256 of a file. tick: is told the bytes read so far."""
    digest = hashlib.sha256()  # in pieces: hashlib.file_digest needs Python 3.11
    done = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            done += len(piece)
            if tick is not None:
                tick(done)
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
    """One role of a family: its folder, its config and the hashes of its files. watch: is told when they are read."""

    role: str
    folder: Path
    config: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    watch: Watch | None = None

    def verify(self) -> None:
        """Raise BadCheckpoint naming the first file that is missing, cut or changed."""
        for name, facts in self.files.items():
            path = self.folder / name
            if not path.is_file():
                raise BadCheckpoint(f"{self.role}: the file {name} is missing.", "The family is incomplete.", "Fetch or unpack it again.")
            tick = None if self.watch is None else partial(self.watch, self.role, name, False)
            if path.stat().st_size != facts["bytes"] or sha256(path, tick) != facts["sha256"]:
                raise BadCheckpoint(
                    f"{self.role}: the file {name} is damaged.", "Its SHA-256 differs from the manifest.", "Fetch or unpack it again."
                )

    def state(
        self, device: str = "cpu", dtype: torch.dtype | None = None, keep: Callable[[str], bool] = lambda key: True
    ) -> dict[str, torch.Tensor]:
        """The tensors of the component whose keys are to be kept, verified; floating ones in `dtype`.

        Without a dtype, bfloat16 and float16 are widened to float32 on the CPU. File by file, so that no more than one
        file is in memory beside the result. Use load_strict() or assemble() to put them into a module.
        """
        import torch
        from safetensors.torch import load_file

        self.verify()
        self.shapes()
        tensors: dict[str, torch.Tensor] = {}
        for name in self._told():
            for key, tensor in load_file(self.folder / name, device=device).items():
                if keep(key):
                    widen = dtype is None and device == "cpu" and tensor.dtype in (torch.bfloat16, torch.float16)
                    wanted = torch.float32 if widen else dtype
                    tensors[key] = tensor if wanted is None or not tensor.is_floating_point() else tensor.to(wanted)
        return tensors

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors, from the headers alone. Raises BadCheckpoint for a file that is no safetensors file."""
        from safetensors import SafetensorError, safe_open

        found: dict[str, tuple[int, ...]] = {}
        for name in self.shards():
            try:
                with safe_open(self.folder / name, framework="pt") as file:
                    found |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - not a dict
            except (OSError, SafetensorError) as error:
                raise BadCheckpoint(f"{self.role}: the file {name} cannot be read.", "It is damaged.", "Fetch it again.") from error
        return found

    def shards(self) -> list[str]:
        """Names of the safetensors files."""
        return [name for name in sorted(self.files) if name.endswith(".safetensors")]

    def stream(self) -> Iterator[dict[str, torch.Tensor]]:
        """The tensors of one file after another, as they are stored and on the CPU. Call verify() before."""
        from safetensors.torch import load_file

        for name in self._told():
            yield load_file(self.folder / name)

    def _told(self) -> Iterator[str]:
        """shards(), telling whoever watches when one is begun and when whoever iterates is done with it."""
        for name in self.shards():
            for count in (0, int(self.files[name]["bytes"])):
                if self.watch is not None:
                    self.watch(self.role, name, True, count)
                if not count:
                    yield name


@dataclass(frozen=True)
class Family:
    """A folder of components under one manifest: `mini` or a converted `anygpt`. watch: is told when files are read."""

    name: str
    folder: Path
    manifest: Mapping[str, Any]
    watch: Watch | None = None

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

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of all files' hashes: equal for equal families, whatever their folder is called."""
        files = {role: {name: item["sha256"] for name, item in part["files"].items()} for role, part in self.manifest["components"].items()}
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()

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
        return Component(role, self.folder / role, facts["config"], facts["files"], self.watch)


def shapes_of(build: Callable[[], torch.nn.Module]) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a module, built on the meta device: no memory is used."""
    import torch

    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in build().state_dict().items()}


def refuse_misfit(role: str, own: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[int]], file: str = "") -> None:
    """Raise BadCheckpoint naming the first key that is missing, unknown or of another shape. file: where it was found, if known."""
    place = f"{role}, {file}" if file else role
    cause, remedy = "The file does not fit this model.", "Fetch the family again."
    for key in sorted(own.keys() | found.keys()):
        if key not in found:
            raise BadCheckpoint(f"{place}: the tensor {key} is missing.", cause, remedy)
        if key not in own:
            raise BadCheckpoint(f"{place}: the tensor {key} is unknown.", cause, remedy)
        if tuple(own[key]) != tuple(found[key]):
            raise BadCheckpoint(f"{place}: the tensor {key} is {tuple(found[key])}, not {tuple(own[key])}.", cause, remedy)


def load_strict(module: torch.nn.Module, state: Mapping[str, torch.Tensor], role: str) -> torch.nn.Module:
    """Load tensors into a module and switch it to evaluation. Raises BadCheckpoint naming the first key that does not fit."""
    _refuse_unfit(role, module.state_dict(), state)
    module.load_state_dict(dict(state))
    return module.eval()


def assemble(
    build: Callable[[], Module], state: Mapping[str, torch.Tensor], role: str, absent: Callable[[str], bool] = lambda key: False
) -> Module:
    """A module in evaluation mode that consists of these very tensors: nothing is initialised, nothing is twice in memory.

    build: makes the module, called on the meta device. absent: keys that are left empty on purpose, for parts that the
    caller removes. Raises BadCheckpoint naming the first key that does not fit.
    """
    import torch

    with torch.device("meta"):
        module = build()
    own = {key: tensor for key, tensor in module.state_dict().items() if not absent(key)}
    _refuse_unfit(role, own, state)
    module.load_state_dict(dict(state), strict=False, assign=True)
    return module.eval().requires_grad_(False)


def _refuse_unfit(role: str, own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> None:
    """Raise BadCheckpoint naming the first key whose shape, or kind of number, is another one."""
    refuse_misfit(role, {key: tuple(tensor.shape) for key, tensor in own.items()}, {key: tuple(t.shape) for key, t in state.items()})
    for key, tensor in own.items():
        if tensor.is_floating_point() != state[key].is_floating_point():
            kind = str(state[key].dtype).removeprefix("torch.")
            problem = f"{role}: the tensor {key} is of type {kind}."
            raise BadCheckpoint(problem, "The file does not fit this model.", "Fetch the family again.")


def export(folder: Path, role: str, config: Mapping[str, Any], state: Mapping[str, torch.Tensor], *, half: bool = True) -> None:
    """Write one component into a family folder and enter it in the manifest (created if absent).

    Floats are stored as bfloat16 when `half`; shards stay below SHARD_BYTES. All files are written beside the old ones and
    then take their places, so that an interrupted export leaves the old component whole.
    """
    import torch
    from safetensors.torch import save_file

    home, draft = folder / role, folder / f".{role}.part"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    home.mkdir(exist_ok=True)
    write_json(draft / "config.json", dict(config))
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
        save_file(shard, draft / f"model-{number:05d}-of-{len(shards):05d}.safetensors")
    fresh = [path.name for path in draft.iterdir()]
    for name in fresh:
        os.replace(draft / name, home / name)
    for old in home.glob("*.safetensors"):
        if old.name not in fresh:
            old.unlink()
    draft.rmdir()
    enter(folder, role, config)


def write_shards(home: Path, groups: Iterable[Mapping[str, torch.Tensor]], limit: int) -> None:
    """Write groups of tensors one after another into model-NNNNN.safetensors files of about `limit` bytes.

    Only one file's tensors are held at a time; a group is never split.
    """
    from safetensors.torch import save_file

    home.mkdir(parents=True, exist_ok=True)
    shard: dict[str, torch.Tensor] = {}
    number = size = 0
    for group in groups:
        weight = sum(tensor.nbytes for tensor in group.values())
        if shard and size + weight > limit:
            number, size = number + 1, 0
            save_file(shard, home / f"model-{number:05d}.safetensors")
            shard = {}
        shard |= {key: tensor.detach().cpu().contiguous().clone() for key, tensor in group.items()}
        size += weight
    if shard:
        save_file(shard, home / f"model-{number + 1:05d}.safetensors")


def enter(folder: Path, role: str, config: Mapping[str, Any], family: str = "mini", source: Mapping[str, Any] | None = None) -> None:
    """(Re)write a role's manifest entry from the files that lie in its folder. source: what it was made from, if that is kept."""
    path = folder / "manifest.json"
    manifest: dict[str, Any] = {"family": family, "components": {}}
    if path.is_file():
        manifest = json.loads(path.read_text(encoding="utf-8"))
    home = folder / role
    files = sorted(item for item in home.rglob("*") if item.is_file() and not item.name.endswith(".part"))
    manifest["components"][role] = {
        "config": dict(config),
        "files": {item.relative_to(home).as_posix(): {"sha256": sha256(item), "bytes": item.stat().st_size} for item in files},
    }
    if source is not None:
        manifest["components"][role]["source"] = dict(source)
    write_json(path, manifest)
