"""What the official models weigh, what a card of a given size keeps, and the shelf that puts unused codecs away.

Nothing here loads weights: sizes come from the configs, on the meta device.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anygpt_demo.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from anygpt_demo.checkpoints import Family
    from anygpt_demo.codecs.base import Codec

GB = 1e9
BITS: Mapping[str, float] = {"none": 16.0, "8bit": 8.0, "4bit": 4.127}  # per weight of a block's layer; NF4 with double quantization
CONTEXT_BYTES = 0.4 * GB  # what the CUDA context and scratch buffers take
LLAMA: Mapping[str, Any] = {
    "vocab_size": 53520,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}
UNET: Mapping[str, Any] = {
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 2048,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
VAE: Mapping[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
WORDS: Mapping[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "projection_dim": 512,
}
SPEECH: Mapping[str, Any] = {
    "n_filters": 64,
    "strides": [8, 5, 4, 2],
    "dimension": 1024,
    "semantic_dimension": 768,
    "bidirectional": True,
    "dilation_base": 2,
    "residual_kernel_size": 3,
    "n_residual_layers": 1,
    "lstm_layers": 2,
    "activation": "Snake",
    "codebook_size": 1024,
    "n_q": 8,
    "sample_rate": 16000,
}


@dataclass(frozen=True)
class Preset:
    """How a card is used. quantize: of the language model; media: bytes that codecs may hold together."""

    quantize: str
    media: float


PRESETS: Mapping[int, Preset] = {  # GB of the card
    8: Preset("4bit", 2.2 * GB),
    12: Preset("4bit", 6.0 * GB),
    16: Preset("8bit", 6.4 * GB),
    24: Preset("none", 8.0 * GB),
}


def preset(vram: int | None, device: str) -> Preset | None:
    """The preset of a card size; without one, that of the card itself; on a CPU nothing is limited. Raises UserError."""
    if vram is None:
        if not device.startswith("cuda"):
            return None
        import torch

        total = torch.cuda.get_device_properties(device).total_memory / GB * 1.05  # a card of 8 GB shows a little less
        vram = max((size for size in PRESETS if size <= total), default=min(PRESETS))
    if vram not in PRESETS:
        sizes = ", ".join(map(str, PRESETS))
        raise UserError(f"There is no preset for {vram} GB.", "It is not known.", f"Use one of: {sizes}.")
    return PRESETS[vram]


def free_bytes(device: str) -> int | None:
    """Bytes that are free on a card, or in this machine with its swap; None where it is not known."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {name: int(words.split()[0]) * 1024 for name, _, words in (line.partition(":") for line in lines)}
        return sizes["MemAvailable"] + sizes["SwapFree"]
    except (OSError, ValueError, KeyError, IndexError):
        return None


def needed_bytes(family: Family, quantize: str, device: str, kv: str = "none") -> float:
    """Bytes of the language model with a full conversation, and of the largest codec beside it. kv: how its keys and values are kept."""
    import torch

    from anygpt_demo.models.llama import Llama, LlamaConfig, row_bytes

    config = LlamaConfig.from_json(family.component("llm").config)
    with torch.device("meta"):
        model = Llama(config)
    layers = _count(model.model.layers)
    wide = 4 if quantize == "none" and not device.startswith("cuda") else 2  # bytes of what is not quantized
    bits = 8 * wide if quantize == "none" else BITS[quantize]
    position = 2 * config.num_hidden_layers * config.num_key_value_heads * row_bytes(config.head_dim, wide, kv)
    cache = position * config.max_position_embeddings
    codec = max(estimate(family, name, purpose, device) for name in ROLES for purpose in ("encode", "decode"))
    return layers * bits / 8 + wide * (_count(model) - layers) + cache + CONTEXT_BYTES + codec


def require(family: Family, quantize: str, device: str, kv: str = "none") -> None:
    """Raise UserError if less memory is free than the language model and its largest single codec need."""
    free = free_bytes(device)
    needed = needed_bytes(family, quantize, device, kv)
    if free is None or free >= needed:
        return
    card = device.startswith("cuda")
    width = {"none": "16 bit" if card else "32 bit"}.get(quantize, quantize)
    raise UserError(
        f"{'The graphics card' if card else 'This machine'} has too little free memory for this model.",
        f"About {needed / GB:.1f} GB are needed ({width}), {free / GB:.1f} GB are free.",
        "Close other programs, or choose fewer bits (--quantize 4bit)" + (", or leave --device out." if card else "."),
    )


@dataclass(frozen=True)
class Size:
    """One component at full size. need: always, on use, or never (it is not loaded, or dropped after one answer)."""

    name: str
    need: str
    parameters: int
    width: float  # bytes of one parameter in memory; of the language model in 16 bit

    @property
    def bytes(self) -> float:
        """Bytes in memory."""
        return self.parameters * self.width


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def official() -> Iterator[Size]:
    """All components of the official stack, counted on modules without memory."""
    import torch

    from anygpt_demo.quantize import hush

    hush()
    with torch.device("meta"):
        yield from _language()
        yield from _pictures()
        yield from _sound()


def _language() -> Iterator[Size]:
    from anygpt_demo.models.llama import Llama, LlamaConfig

    model = Llama(LlamaConfig(**LLAMA))
    layers = _count(model.model.layers)
    yield Size("language model, layers", "always", layers, 2)
    yield Size("language model, embedding and head", "always", _count(model) - layers, 2)


def _pictures() -> Iterator[Size]:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

    from anygpt_demo.models.seed import SeedConfig, SeedTokenizer

    seed = SeedTokenizer(SeedConfig(text_decoder=False))
    reading = _count(seed.visual_encoder) + _count(seed.ln_vision) + _count(seed.Qformer)
    yield Size("SEED-2, reading pictures", "on use", reading, 2)
    yield Size("SEED-2, drawing pictures", "on use", _count(seed) - reading, 2)
    yield Size("unCLIP UNet", "on use", _count(UNet2DConditionModel(block_out_channels=(320, 640, 1280, 1280), **UNET)), 2)
    yield Size("unCLIP VAE", "on use", _count(AutoencoderKL(**VAE)), 2)
    yield Size("unCLIP text encoder", "never", _count(CLIPTextModel(CLIPTextConfig(**WORDS))), 2)
    sight = CLIPVisionConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, patch_size=14, projection_dim=1024
    )
    yield Size("unCLIP picture encoder", "never", _count(CLIPVisionModelWithProjection(sight)), 2)


def _sound() -> Iterator[Size]:
    from transformers import EncodecConfig, EncodecModel

    from anygpt_demo.convert import SOUNDSTORM
    from anygpt_demo.models import encodec
    from anygpt_demo.models.soundstorm import SoundStorm
    from anygpt_demo.models.speechtokenizer import SpeechTokenizer

    yield Size("SpeechTokenizer", "on use", _count(SpeechTokenizer(SPEECH)), 4)
    yield Size("SoundStorm", "on use", _count(SoundStorm(SOUNDSTORM)), 2)
    yield Size("EnCodec 32 kHz", "on use", _count(encodec.build(encodec.OFFICIAL)), 4)
    yield Size("EnCodec 24 kHz", "never", _count(EncodecModel(EncodecConfig())), 4)


def key_value_bytes(context: int = 2048, kv: str = "none") -> float:
    """Bytes of the key-value cache: 16 bit, or 8 bit with scales (kv: int8)."""
    from anygpt_demo.models.llama import row_bytes

    heads = LLAMA["num_key_value_heads"]
    return 2 * LLAMA["num_hidden_layers"] * heads * row_bytes(LLAMA["hidden_size"] // LLAMA["num_attention_heads"], 2, kv) * context


def table(kv: str = "none") -> Iterator[str]:
    """The memory table of the official models, as lines of text: components, then what each card size keeps. kv: as key_value_bytes()."""
    sizes = list(official())
    yield f"{'official component':36} {'parameters':>12} {'GB':>7}  loaded"
    for item in sizes:
        yield f"{item.name:36} {item.parameters / 1e6:10.1f} M {item.bytes / GB:7.2f}  {item.need}"
    media = sum(item.bytes for item in sizes if item.need == "on use")
    layers, rest = sizes[0].parameters, sizes[1].bytes
    yield f"{'card':36} {'model':>12} {'GB':>7}  with the conversation's memory; codecs together; peak"
    for card, choice in PRESETS.items():
        model = layers * BITS[choice.quantize] / 8 + rest
        fixed = model + key_value_bytes(kv=kv) + CONTEXT_BYTES
        kept = min(media, choice.media)
        parts = f"{fixed / GB:5.2f}; {kept / GB:4.2f} of {media / GB:4.2f}; {(fixed + kept) / GB:5.2f}"
        yield f"{f'--vram {card}':36} {choice.quantize:>12} {model / GB:7.2f}  {parts}"


# ---------------------------------------------------------------- the shelf

ROLES: Mapping[str, tuple[str, ...]] = {  # which components a codec holds
    "image": ("image_tokenizer", "unclip", "image_decoder", "image_enhancer"),
    "speech": ("speech_tokenizer", "soundstorm"),
    "music": ("music_codec",),
}

SPLIT = ("image",)  # codecs that can be loaded for one direction alone


READING = ("visual_encoder.", "Qformer.")  # parts of the picture tokenizer that drawing does without
HALVED = ("image_tokenizer", "unclip", "soundstorm")  # what the official family holds in half precision on a card


def estimate(family: Family, name: str, purpose: str, device: str = "cpu") -> int:
    """Bytes that a codec will take, from the headers of its files."""
    total = 0
    for role in ROLES.get(name, (name,)):
        if not family.has(role) or (name == "image" and purpose == "encode" and role != "image_tokenizer"):
            continue
        drawing = role == "image_tokenizer" and purpose == "decode"
        sizes = [math.prod(shape) for key, shape in family.component(role).shapes().items() if not (drawing and key.startswith(READING))]
        total += sum(sizes) * (2 if device != "cpu" and role in HALVED and family.name != "mini" else 4)
    return total


class Shelf:
    """Loaded codecs within a budget of bytes; the one used longest ago goes first. Safe for several threads.

    load(name, purpose) makes a codec, weigh(name, purpose) tells its bytes beforehand. purpose: encode or decode.
    """

    def __init__(self, load: Callable[[str, str], Codec], weigh: Callable[[str, str], int], budget: float) -> None:
        self._load, self._weigh, self.budget = load, weigh, budget
        self._items: OrderedDict[tuple[str, str], tuple[Codec, int]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def held(self) -> tuple[tuple[str, str], ...]:
        """What is loaded, used longest ago first."""
        return tuple(self._items)

    def get(self, name: str, purpose: str) -> Codec:
        """The codec, loaded if need be after others were put away."""
        key = (name, purpose)
        with self._lock:
            if key not in self._items:
                weight = self._weigh(name, purpose)
                while self._items and sum(item[1] for item in self._items.values()) + weight > self.budget:
                    self._items.popitem(last=False)
                    _release()
                self._items[key] = (self._load(name, purpose), weight)
            self._items.move_to_end(key)
            return self._items[key][0]


def _release() -> None:
    """Give freed memory back to the card."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
