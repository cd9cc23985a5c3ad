"""The language model in fewer bits: NF4 with double quantization (arXiv 2305.14314) or LLM.int8 (arXiv 2208.07339).

    llm (16 bit, on disk) --one file at a time--> bitsandbytes layers --once--> llm_4bit or llm_8bit (on disk)

Only the linear layers inside the transformer blocks are replaced; embedding, head and norms stay in bfloat16. The small
copy is written before the first pass, because a pass on the CPU repacks 4-bit weights in place; the next start reads
the copy alone. bitsandbytes never reaches for the network: the package it would use for that is hidden from it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType

import torch
from torch import Tensor, nn

from anygpt_demo.checkpoints import Component, Family, enter, refuse_misfit, write_json, write_shards
from anygpt_demo.errors import BadCheckpoint, MissingProgram, UserError
from anygpt_demo.models.llama import Llama, LlamaConfig

KINDS = ("none", "4bit", "8bit")
BLOCK = 64  # weights that share a scale; layer widths must be multiples of it
OUTLIERS = 6.0  # LLM.int8: activations above it are computed in 16 bit
FILE_BYTES = 1_000_000_000
WIDE_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
SMALL_DTYPES: Mapping[str, tuple[torch.dtype, ...]] = {  # of the parts of a replaced layer that are not fractions
    "weight": (torch.uint8, torch.int8),
    "weight_format": (torch.uint8,),
    "weight.absmax": (torch.uint8,),
    "weight.quant_state.bitsandbytes__nf4": (torch.uint8,),
}
Tick = Callable[[int, int], None]
log = logging.getLogger(__name__)


def hush() -> None:
    """Keep bitsandbytes from asking a hub for a kernel and from warning that it got none, whoever imports it later.

    diffusers imports it if it is installed. The package that would do the asking is made impossible to import.
    """
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    if "bitsandbytes" not in sys.modules and "kernels" not in sys.modules:
        sys.modules["kernels"] = None  # type: ignore[assignment]


def backend() -> ModuleType:
    """bitsandbytes, imported quietly. Raises MissingProgram if it is not installed."""
    hush()
    try:
        import bitsandbytes
    except ImportError as error:
        raise MissingProgram(
            "The model cannot be loaded in fewer bits.",
            "The package bitsandbytes is not installed.",
            "Run: pip install -r requirements-gpu.txt, or leave --quantize out.",
        ) from error
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # LLM.int8 warns once per layer and pass
    warnings.filterwarnings("ignore", module=r"bitsandbytes")
    found: ModuleType = bitsandbytes
    return found


def linears(model: Llama) -> dict[str, nn.Linear]:
    """The layers that are replaced, by name: all linear layers of the blocks, not the head."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and name.startswith("model.layers.")}


def check_widths(model: Llama) -> None:
    """Raise UserError naming the first layer whose widths are not multiples of 64."""
    for name, layer in linears(model).items():
        if layer.in_features % BLOCK or layer.out_features % BLOCK:
            raise UserError(
                f"This model cannot be loaded in fewer bits: {name} is {layer.out_features} x {layer.in_features}.",
                f"Both widths of a layer must be multiples of {BLOCK}.",
                "Use --quantize none.",
            )


def _hollow(layer: nn.Linear, kind: str) -> nn.Linear:
    """A bitsandbytes layer of the same widths, without weights."""
    bnb = backend()
    sizes = (layer.in_features, layer.out_features)
    if kind == "4bit":
        found: nn.Linear = bnb.nn.Linear4bit(*sizes, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4", device="meta")
    else:
        found = bnb.nn.Linear8bitLt(*sizes, bias=False, has_fp16_weights=False, threshold=OUTLIERS, device="meta")
    return found


def _quantized(layer: nn.Linear, weight: Tensor, kind: str, device: str) -> nn.Parameter:
    """Quantize a weight (out, in) for a layer of _hollow()."""
    bnb = backend()
    weight = weight.to(torch.bfloat16)
    if kind == "4bit":
        four = bnb.nn.Params4bit(weight, requires_grad=False, compress_statistics=True, quant_type="nf4", blocksize=BLOCK, module=layer)
        result: nn.Parameter = four.to(device)
    else:
        result = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False).to(device)
    return result


def _restored(layer: nn.Linear, parts: Mapping[str, Tensor], kind: str, device: str) -> nn.Parameter:
    """The parameter that _quantized() made, from the tensors of a copy. parts: names behind the layer's name."""
    bnb = backend()
    if kind == "4bit":
        rest = {name: tensor for name, tensor in parts.items() if name != "weight"}
        rest = {name: tensor.clone() for name, tensor in rest.items()}
        four: nn.Parameter = bnb.nn.Params4bit.from_prequantized(parts["weight"].clone(), rest, device=device, module=layer)
        return four
    codes, scales = parts["weight"].to(device, copy=True), parts["SCB"].to(device, copy=True)
    eight: nn.Parameter = bnb.nn.Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scales)
    return eight


def _put(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Set a parameter by its full name."""
    home, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(home), leaf, parameter)


def _plain(tensor: Tensor, dtype: torch.dtype, device: str) -> nn.Parameter:
    """A parameter of its own memory: one that lies in a mapped file would keep the whole file in memory."""
    return nn.Parameter(tensor.to(device=device, dtype=dtype, copy=True), requires_grad=False)


def _empty(component: Component, kind: str) -> tuple[Llama, dict[str, nn.Linear], dict[str, tuple[int, ...]]]:
    """A model on the meta device, its replaced layers, and the shapes of the unquantized checkpoint."""
    with torch.device("meta"):
        model = Llama(LlamaConfig.from_json(component.config))
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    replaced: dict[str, nn.Linear] = {}
    if kind != "none":
        check_widths(model)
        for name, layer in linears(model).items():
            replaced[name] = _hollow(layer, kind)
            home, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(home), leaf, replaced[name])
    return model, replaced, shapes


def _watched(component: Component, tick: Tick | None) -> Iterator[dict[str, Tensor]]:
    """component.stream(), telling tick the bytes of the files that are done."""
    total = sum(int(component.files[name]["bytes"]) for name in component.shards())
    done = 0
    for name, tensors in zip(component.shards(), component.stream(), strict=True):
        yield tensors
        done += int(component.files[name]["bytes"])
        if tick is not None:
            tick(done, total)


def from_full(component: Component, device: str, kind: str, tick: Tick | None = None) -> Llama:
    """Read a 16-bit checkpoint one file at a time, quantizing as it comes. Only one file is in memory beside the result."""
    model, replaced, shapes = _empty(component, kind)
    component.verify()
    refuse_misfit(component.role, shapes, component.shapes())
    dtype = torch.float32 if kind == "none" and device == "cpu" else torch.bfloat16
    for tensors in _watched(component, tick):
        for key, tensor in tensors.items():
            if not tensor.is_floating_point():
                problem = f"{component.role}: the tensor {key} is of type {str(tensor.dtype).removeprefix('torch.')}."
                raise BadCheckpoint(problem, "The file does not fit this model.", "Fetch the family again.")
            layer = replaced.get(key.removesuffix(".weight"))
            _put(model, key, _plain(tensor, dtype, device) if layer is None else _quantized(layer, tensor, kind, device))
    return model.eval()


def _tail(key: str) -> str:
    """What a part of a replaced layer is: the key behind the layer's name."""
    return key.partition("_proj.")[2]


def _small_shapes(replaced: Mapping[str, nn.Linear], kind: str) -> dict[str, tuple[int, ...] | None]:
    """Keys and shapes of the parts of all replaced layers; None where the length is the package's own affair."""
    found: dict[str, tuple[int, ...] | None] = {}
    for name, layer in replaced.items():
        size = layer.in_features * layer.out_features
        if kind == "8bit":
            parts: dict[str, tuple[int, ...] | None] = {"weight": (layer.out_features, layer.in_features), "SCB": (layer.out_features,)}
            parts["weight_format"] = ()
        else:
            scales = size // BLOCK
            parts = {"weight": (size // 2, 1), "weight.absmax": (scales,), "weight.quant_map": (16,)}
            parts |= {"weight.nested_absmax": (-(-scales // 256),), "weight.nested_quant_map": (256,)}
            parts["weight.quant_state.bitsandbytes__nf4"] = None
        found |= {f"{name}.{part}": shape for part, shape in parts.items()}
    return found


def from_copy(component: Component, device: str, kind: str, tick: Tick | None = None) -> Llama:
    """Read a copy that save() wrote. Raises BadCheckpoint if it is damaged or incomplete."""
    model, replaced, shapes = _empty(component, kind)
    component.verify()
    plain = {key: shape for key, shape in shapes.items() if key.removesuffix(".weight") not in replaced}
    found = component.shapes()
    small = {key: (found.get(key, shape) if shape is None else shape) for key, shape in _small_shapes(replaced, kind).items()}
    refuse_misfit(component.role, {**plain, **{key: shape or () for key, shape in small.items()}}, found)
    for tensors in _watched(component, tick):
        for key, tensor in tensors.items():
            if tensor.dtype not in SMALL_DTYPES.get(_tail(key) if key not in plain else "", WIDE_DTYPES):
                problem = f"{component.role}: the tensor {key} is of type {str(tensor.dtype).removeprefix('torch.')}."
                raise BadCheckpoint(problem, "The file does not fit this model.", "Fetch the family again.")
        for key in plain.keys() & tensors.keys():
            _put(model, key, _plain(tensors[key], torch.bfloat16, device))
        for name, layer in replaced.items():
            if f"{name}.weight" in tensors:
                parts = {key[len(name) + 1 :]: tensor for key, tensor in tensors.items() if key.startswith(name + ".")}
                layer.weight = _restored(layer, parts, kind, device)
    return model.eval()


def _groups(model: Llama) -> Iterator[dict[str, Tensor]]:
    """The tensors of a quantized model, those of one layer together."""
    group: dict[str, Tensor] = {}
    before = None
    for key, tensor in model.state_dict().items():
        head, _, tail = key.partition("_proj.")
        layer = head if tail else key
        if group and layer != before:
            yield group
            group = {}
        group[key], before = tensor, layer
    yield group


def role_of(kind: str) -> str:
    """Where the copy of a kind lies in a family."""
    return f"llm_{kind}"


def _origin(family: Family) -> str:
    """A digest of the checkpoint that a copy is made from."""
    files = family.component("llm").files
    return hashlib.sha256(json.dumps(dict(files), sort_keys=True).encode()).hexdigest()


def save(model: Llama, family: Family, kind: str) -> None:
    """Write the small copy beside the family's `llm`. Call it before the model's first pass."""
    role = role_of(kind)
    home, draft = family.folder / role, family.folder / f"{role}.part"
    shutil.rmtree(draft, ignore_errors=True)
    config = {**family.component("llm").config, "quantize": kind, "origin": _origin(family)}
    write_shards(draft, _groups(model), FILE_BYTES)
    write_json(draft / "config.json", config)
    shutil.rmtree(home, ignore_errors=True)
    draft.replace(home)
    enter(family.folder, role, config)


def _has_copy(family: Family, kind: str) -> bool:
    role = role_of(kind)
    return family.has(role) and family.component(role).config.get("origin") == _origin(family)


def load_llama(family: Family, device: str = "cpu", kind: str = "none", tick: Tick | None = None) -> Llama:
    """The language model of a family in 16, 8 or 4 bit; the small copy is read if there is one, else made and kept.

    tick(done, total) is told the bytes read. Raises UserError for an unknown kind or unfit widths, BadCheckpoint for bad files.
    """
    if kind not in KINDS:
        raise UserError(f"There is no quantization called {kind}.", "It is not known.", f"Use one of: {', '.join(KINDS)}.")
    if kind == "none":
        return from_full(family.component("llm"), device, kind, tick)
    backend()
    if _has_copy(family, kind):
        return from_copy(family.component(role_of(kind)), device, kind, tick)
    model = from_full(family.component("llm"), device, kind, tick)
    try:
        save(model, family, kind)
    except OSError as error:
        log.warning("the %s copy of the model could not be kept: %s", kind, error.strerror)
    return model
