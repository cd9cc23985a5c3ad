"""The one place that opens published weight files. It runs as a process of its own, with limits and without network.

    {"role", "files", "config", "out"} on standard input  ->  safetensors under `out`, {"config"} or {"error"} on standard output

Pickles are read by torch's weights-only reader, their numbers through a read-only mapping; every key and shape is compared with
the module built on the meta device from the config before anything is copied; tensors are written one file at a time.
"""

from __future__ import annotations

import json
import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anygpt_demo.checkpoints import refuse_misfit, shapes_of, write_json, write_shards
from anygpt_demo.errors import BadCheckpoint

if TYPE_CHECKING:
    from torch import Tensor

FILE_BYTES = 1_000_000_000
HEADROOM = 16 << 30  # bytes of address space beyond three times the files
REMEDY = "Download it again from the official source."


def _bad(path: Path, cause: str) -> BadCheckpoint:
    return BadCheckpoint(f"The file {path.name} cannot be used.", cause, REMEDY)


def _load(path: Path, checked: bool = False) -> Any:
    """What a file holds; tensors stay on disk until they are used. checked: its checksums were compared before."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        zipped = zipfile.is_zipfile(path)
        if zipped and not checked:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise _bad(path, f"Its part {damaged} is damaged.")
        place = "meta" if zipped else "cpu"  # meta: tensors without numbers, which know where in the file theirs are
        return torch.load(str(path), map_location=place, weights_only=True)
    except (pickle.UnpicklingError, AttributeError) as error:
        raise _bad(path, "It holds something other than weights, or it is not a weight file.") from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, IndexError, zipfile.BadZipFile, SafetensorError) as error:
        raise _bad(path, "It is cut off, damaged or not a weight file.") from error


def _windows(path: Path, table: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a table of _load(), as windows on the file. Raises BadCheckpoint.

    The file is mapped for reading only, unlike torch's own mapping, which a system refuses for a file larger than its memory.
    """
    import numpy as np
    import torch

    if all(tensor.device.type != "meta" for tensor in table.values()):
        return dict(table)
    data = np.memmap(path, np.uint8, "r")
    found = {}
    for key, tensor in table.items():
        storage = tensor.untyped_storage()
        numbers = data[storage._checkpoint_offset :][: storage.nbytes()]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that they must not be written to
                found[key] = torch.from_numpy(numbers).view(tensor.dtype).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        except RuntimeError as error:
            raise _bad(path, f"Its tensor {key} is cut off.") from error
    return found


def read(path: Path, checked: bool = False) -> dict[str, Tensor]:
    """A flat table of tensors. The trainer's {"model": table, ...} is unwrapped. Raises BadCheckpoint."""
    import torch

    table = _load(path, checked)
    if isinstance(table, Mapping) and isinstance(table.get("model"), Mapping):
        table = table["model"]
    if not isinstance(table, Mapping) or not table:
        raise _bad(path, "It is not a table of tensors.")
    for key, tensor in table.items():
        if not isinstance(key, str) or not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            raise _bad(path, f"Its entry {str(key)[:80]} is not a tensor.")
    return _windows(path, table)


def sound(path: Path, key: str, tensor: Tensor, dtype: Any = None) -> Tensor:
    """The tensor in a storable dtype. Raises BadCheckpoint if it is not made of finite numbers."""
    import torch

    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        if tensor.dtype in (torch.bool, torch.uint8, torch.int32, torch.int64) and tensor.numel() == 1:
            return tensor.float()  # flags
        raise _bad(path, f"Its tensor {key} is of type {str(tensor.dtype).removeprefix('torch.')}.")
    if tensor.numel() and not all(bool(torch.isfinite(edge)) for edge in torch.aminmax(tensor)):  # a value that is no number is either
        raise _bad(path, f"Its tensor {key} holds values that are not numbers.")
    if dtype is not None:
        return tensor.to(dtype)
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _write(role: str, out: Path, path: Path, own: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]) -> None:
    """Compare with the module and write. path: the file to name in a refusal."""
    refuse_misfit(role, own, {key: tuple(tensor.shape) for key, tensor in state.items()}, path.name)
    write_shards(out, ({key: sound(path, key, state[key])} for key in sorted(state)), FILE_BYTES)


def _runs(table: Mapping[str, Tensor]) -> list[list[str]]:
    """The keys of a table in its order, in runs of about FILE_BYTES."""
    runs: list[list[str]] = []
    size = FILE_BYTES
    for key, tensor in table.items():
        if size >= FILE_BYTES:
            runs.append([])
            size = 0
        runs[-1].append(key)
        size += tensor.nbytes
    return runs


def llm(files: Mapping[str, list[Path]], config: dict[str, Any], out: Path) -> dict[str, Any]:
    """The language model, in one file or several, to bfloat16."""
    import torch

    from anygpt_demo.models.llama import Llama, LlamaConfig

    facts = LlamaConfig.from_json(config)
    own = shapes_of(lambda: Llama(facts))
    found: dict[str, tuple[int, ...]] = {}

    def useful(table: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {key: tensor for key, tensor in table.items() if not key.endswith("rotary_emb.inv_freq")}

    for path in files["weights"]:
        found |= {key: tuple(tensor.shape) for key, tensor in useful(read(path)).items()}
    refuse_misfit("llm", own, found, files["weights"][0].name if len(files["weights"]) == 1 else "")

    def groups() -> Iterator[dict[str, Tensor]]:
        for path in files["weights"]:
            for keys in _runs(useful(read(path, checked=True))):
                table = read(path, checked=True)  # opened anew: what was read of the file before leaves the memory
                for key in keys:
                    yield {key: sound(path, key, table[key], torch.bfloat16)}

    write_shards(out, groups(), FILE_BYTES)
    return config


def image_tokenizer(files: Mapping[str, list[Path]], config: dict[str, Any], out: Path) -> dict[str, Any]:
    """seed_quantizer.pt and eva_vit_g.pth joined; what run time does not use is left out."""
    from anygpt_demo.models.seed import SeedConfig, SeedTokenizer, resize_positions

    facts = SeedConfig.from_json({**config, "text_decoder": False})
    own = shapes_of(lambda: SeedTokenizer(facts))
    (first,), (second,) = files["weights"], files["vit"]
    quantizer = read(first)
    vit = {f"visual_encoder.{key}": tensor for key, tensor in read(second).items()}
    key = "visual_encoder.pos_embed"
    if key in vit and vit[key].ndim == 3 and vit[key].shape[1] != facts.grid**2 + 1:
        vit[key] = resize_positions(vit[key].float(), facts.grid)
    half = {name: shape for name, shape in own.items() if name.startswith("visual_encoder.")}
    rest = {name: shape for name, shape in own.items() if name not in half}
    state: dict[str, Tensor] = {}
    for path, wanted, table in ((first, rest, quantizer), (second, half, vit)):
        known = {name: table[name] for name in wanted if name in table}
        refuse_misfit("image_tokenizer", wanted, {name: tuple(tensor.shape) for name, tensor in known.items()}, path.name)
        state |= known
    _write("image_tokenizer", out, first, own, state)
    return facts.to_json()


def speech_tokenizer(files: Mapping[str, list[Path]], config: dict[str, Any], out: Path) -> dict[str, Any]:
    """SpeechTokenizer, ELU or Snake as its config says."""
    from anygpt_demo.models.speechtokenizer import SpeechTokenizer

    (path,) = files["weights"]
    _write("speech_tokenizer", out, path, shapes_of(lambda: SpeechTokenizer(config)), read(path))
    return config


def soundstorm(files: Mapping[str, list[Path]], config: dict[str, Any], out: Path) -> dict[str, Any]:
    """SoundStorm, in either spelling of its keys."""
    from anygpt_demo.models.soundstorm import SoundStorm, adapt

    (path,) = files["weights"]
    _write("soundstorm", out, path, shapes_of(lambda: SoundStorm(config)), adapt(read(path)))
    return config


def music_codec(files: Mapping[str, list[Path]], config: dict[str, Any], out: Path) -> dict[str, Any]:
    """EnCodec 32 kHz under today's key names."""
    from anygpt_demo.models import encodec

    (path,) = files["weights"]
    _write("music_codec", out, path, shapes_of(lambda: encodec.build(config)), encodec.with_training_buffers(read(path)))
    return config


def unclip(files: Mapping[str, list[Path]], config: dict[str, Any], out: Path) -> dict[str, Any]:
    """The diffusers folder without the picture encoder and with the text encoder's one answer in its place."""
    from safetensors.torch import save_file

    from anygpt_demo.models.unclip import EMPTY_PROMPT, PARTS, modern, part_shapes

    for part in PARTS:
        (path,) = files[part]
        settings = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
        state = {modern(key): tensor for key, tensor in read(path).items()}
        shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
        refuse_misfit(f"unclip {part}", part_shapes(part, settings), shapes, path.name)
        home = out / part
        home.mkdir(parents=True)
        write_json(home / "config.json", settings)
        save_file(
            {key: sound(path, key, tensor).contiguous() for key, tensor in state.items()}, home / "diffusion_pytorch_model.safetensors"
        )
    (index,) = files["index"]
    for name in ("model_index.json", "scheduler/scheduler_config.json", "image_noising_scheduler/scheduler_config.json"):
        write_json(out / name, json.loads((index.parent / name).read_text(encoding="utf-8")))
    (words,) = files["text"]
    save_file({"prompt": _empty_prompt(words)}, out / EMPTY_PROMPT)
    return config


def _empty_prompt(path: Path) -> Tensor:
    """What the text encoder, whose weights are the file, says to an empty prompt: float (1, tokens, width)."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = path.parent

    tokenizer = CLIPTokenizer.from_pretrained(str(folder.parent / "tokenizer"), local_files_only=True)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    table = {key.removeprefix("text_model."): tensor for key, tensor in read(path).items() if not key.endswith("position_ids")}
    state = {key: sound(path, key, tensor, torch.float32) for key, tensor in table.items()}
    with torch.device("meta"):
        own = {key: tuple(tensor.shape) for key, tensor in CLIPTextModel(CLIPTextConfig(**settings)).state_dict().items()}
    own = {key.removeprefix("text_model."): shape for key, shape in own.items()}
    refuse_misfit("unclip text_encoder", own, {key: tuple(tensor.shape) for key, tensor in state.items()}, path.name)
    model = CLIPTextModel(CLIPTextConfig(**settings))
    head = "text_model." if any(key.startswith("text_model.") for key in model.state_dict()) else ""
    model.load_state_dict({head + key: tensor for key, tensor in state.items()})
    ids = tokenizer("", padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt").input_ids
    with torch.inference_mode():
        answer: Tensor = model.eval()(ids)[0]
    return answer.float().contiguous().clone()


ROLES: Mapping[str, Callable[[Mapping[str, list[Path]], dict[str, Any], Path], dict[str, Any]]] = {
    "llm": llm,
    "image_tokenizer": image_tokenizer,
    "speech_tokenizer": speech_tokenizer,
    "soundstorm": soundstorm,
    "music_codec": music_codec,
    "unclip": unclip,
}


def work(job: Mapping[str, Any]) -> dict[str, Any]:
    """Convert one component. job: role, files {kind: [path]}, config, out. Returns the config to keep. Raises BadCheckpoint."""
    files = {kind: [Path(item) for item in paths] for kind, paths in job["files"].items()}
    out = Path(job["out"])
    try:
        config = ROLES[job["role"]](files, dict(job["config"]), out)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadCheckpoint(f"{job['role']}: its config.json does not fit.", f"{type(error).__name__}: {error}"[:200], REMEDY) from error
    write_json(out / "config.json", config)
    return config


def limit(size: int) -> None:
    """Bound this process: address space, files, no core dump. size: bytes of the files to read."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    for name, most in (("RLIMIT_AS", 3 * size + HEADROOM), ("RLIMIT_NOFILE", 512), ("RLIMIT_CORE", 0), ("RLIMIT_CPU", 4 * 3600)):
        kind = getattr(resource, name)
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def main() -> int:
    """One job from standard input."""
    job = json.load(sys.stdin)
    limit(sum(Path(item).stat().st_size for paths in job["files"].values() for item in paths))
    try:
        answer: dict[str, Any] = {"config": work(job)}
    except BadCheckpoint as error:
        answer = {"error": [error.problem, error.cause, error.remedy]}
    except MemoryError:
        answer = {"error": [f"{job['role']} is too large for the memory of this machine.", "It was refused.", "Close other programs."]}
    sys.stdout.write("\n" + json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
