"""Official checkpoints with random numbers in them: the published file names, formats, keys, shapes and types, at any scale.

    mockup.write(folder, FULL)  ->  the layout that `fetch --from` reads, about 36 GB

Every tensor is a window on one file of random numbers, so that writing takes next to no memory. The picture encoder of
unCLIP is left out: `fetch` does not download it either.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anygpt_demo import codecs, memory
from anygpt_demo.checkpoints import write_json
from anygpt_demo.modality import Modality

if TYPE_CHECKING:
    import numpy as np
    import torch

Spec = Mapping[str, tuple[tuple[int, ...], str]]  # key -> shape, float32 or float16
SENTENCES = [
    "a red boat on a lake at dusk",
    "please draw a picture of a small cat in the rain",
    "hello there how are you today",
    "compose a slow melody for the piano",
    "I am fine thank you and here is your music",
    "This is input: the quick brown fox jumps over the lazy dog.",
    "You are an AI assistant who can understand and generate multimodal content",
]
RANDOM = 1 << 22  # different random numbers; they repeat at other scales
GAINS = ("weight_g", "gamma", "alpha", "inited", "cluster_size", "std")  # last parts of keys whose tensors are ones
PRIVATE = 0xF0000  # first of the characters that fill up the word pieces


@dataclass(frozen=True)
class Scale:
    """The configs of every component, and what the tokenizer holds. pieces: word pieces; audio: codes of the modality that is unused."""

    pieces: int
    audio: int
    codebooks: Mapping[str, int]
    llm: Mapping[str, Any]
    seed: Mapping[str, Any]
    speech: Mapping[str, Any]
    soundstorm: Mapping[str, Any]
    music: Mapping[str, Any]
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    words: Mapping[str, Any]  # unCLIP's text encoder
    embedding: int  # width of a picture's embedding
    shipped: tuple[str, ...] = field(default=())  # components that get a config.json although the published ones have none


def full() -> Scale:
    """The published sizes."""
    from anygpt_demo.convert import SOUNDSTORM
    from anygpt_demo.models.encodec import OFFICIAL

    return Scale(
        pieces=32000,
        audio=4096,
        codebooks={"image": 8192, "speech": 1024, "music": 2048},
        llm={**memory.LLAMA, "max_position_embeddings": 2048},
        seed={},
        speech=memory.SPEECH,
        soundstorm=SOUNDSTORM,
        music=OFFICIAL,
        unet={**memory.UNET, "block_out_channels": (320, 640, 1280, 1280), "upcast_attention": True},
        vae={**memory.VAE, "sample_size": 768},
        words=memory.WORDS,
        embedding=1024,
    )


def tiny() -> Scale:
    """Small enough for a test, and with every part that the published ones have."""
    return Scale(
        pieces=400,
        audio=8,
        codebooks={"image": 32, "speech": 16, "music": 512},
        llm={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
        },
        seed={
            "vit_width": 16,
            "vit_depth": 1,
            "vit_heads": 2,
            "width": 24,
            "layers": 2,
            "heads": 2,
            "intermediate": 24,
            "code_dim": 8,
            "codebook": 32,
            "decode_depth": 1,
            "decode_heads": 2,
            "image_down": [16, 8, 4],
            "embedding": 16,
        },
        speech={**memory.SPEECH, "n_filters": 2, "dimension": 16, "semantic_dimension": 12, "lstm_layers": 1, "codebook_size": 16},
        soundstorm={"codebook_size": 16, "num_quantizers": 7, "conformer": {"dim": 16, "depth": 1, "heads": 2, "dim_head": 8}},
        music={"codebook_dim": 8, "codebook_size": 512, "hidden_size": 8, "num_filters": 2, "num_lstm_layers": 1}
        | {"audio_channels": 1, "sampling_rate": 32000, "target_bandwidths": [2.2], "upsampling_ratios": [8, 5, 4, 4]}
        | {"use_causal_conv": False, "use_conv_shortcut": False},
        unet={
            "sample_size": 8,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 16,
            "attention_head_dim": 4,
            "class_embed_type": "projection",
            "projection_class_embeddings_input_dim": 32,
            "use_linear_projection": True,
        },
        vae={"block_out_channels": (8,), "norm_num_groups": 4, "sample_size": 8},
        words={"vocab_size": 8, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        | {"bos_token_id": 6, "eos_token_id": 7},
        embedding=16,
        shipped=("image_tokenizer", "soundstorm"),
    )


SCALES: Mapping[str, Callable[[], Scale]] = {"tiny": tiny, "full": full}


# ---------------------------------------------------------------- tokenizers


def write_tokenizer(folder: Path, modalities: Sequence[Modality], pieces: int = 400, audio: int = 0) -> Path:
    """Train a sentencepiece BPE with byte fallback on a few sentences, and add the marks and codes in the published order.

    More than 400 pieces are filled up with characters that nobody writes. audio: codes of a further, unused modality.
    """
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    learned = min(pieces, 400)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=pieces,
        user_defined_symbols=[chr(PRIVATE + number) for number in range(pieces - learned)],
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    size = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).get_piece_size()
    names = ["[Human]", "[MMGPT]", "<eoh>", "<eos>"]
    for facts in modalities:
        names += [f"<{facts.symbol}{number}>" for number in range(facts.codes)] + list(facts.marks)
    if audio:
        names += [f"<👂{number}>" for number in range(audio)] + ["<soau>", "<eoau>"]
    names += ["<eom>", "[AnyGPT]", "<-Res->", "<-Ins->"]
    write_json(folder / "added_tokens.json", {name: size + index for index, name in enumerate(names)})
    return folder


def _write_clip_tokenizer(folder: Path, size: int) -> None:
    """A CLIP tokenizer that knows the two marks; the other entries are never used, for the prompt is empty."""
    marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "!"}
    table = {"!": 0} | {f"w{number}": number for number in range(1, size - 2)}
    write_json(folder / "vocab.json", table | {"<|startoftext|>": size - 2, "<|endoftext|>": size - 1})
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    write_json(folder / "special_tokens_map.json", marks)
    write_json(folder / "tokenizer_config.json", {**marks, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"})


# ---------------------------------------------------------------- tensors


class Noise:
    """Random numbers in a file; tensors are windows on it, one after another, beginning anew at its end."""

    def __init__(self, path: Path, dtype: str, count: int) -> None:
        """dtype: float32 or float16; count: values of the largest tensor."""
        import numpy as np

        self.path, self.place = path, 0
        self.size = 2 * max(count, 1 << 16)
        values = np.random.default_rng(0).standard_normal(min(RANDOM, self.size), np.float32)
        with path.open("wb") as file:
            for number in range(math.ceil(self.size / len(values))):
                scale = 0.02 * (1 + number % 7 / 10)
                (scale * values).astype(dtype).tofile(file)
        self.values = np.memmap(path, dtype, "c")  # once: pages that are mapped again count again

    def array(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array of that shape, a window on the file."""
        count = math.prod(shape)
        if self.place + count > self.size:
            self.place = 0
        found = self.values[self.place : self.place + count]
        self.place += count
        return found.reshape(shape)


def arrays(spec: Spec, noise: Mapping[str, Noise]) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of a file: gains are ones, the rest is random."""
    import numpy as np

    for key, (shape, dtype) in spec.items():
        last = key.rpartition(".")[2]
        if last in GAINS or (last == "weight" and len(shape) == 1) or not shape:
            yield key, np.ones(shape, dtype)
        else:
            yield key, noise[dtype].array(shape)


def write_safetensors(path: Path, spec: Spec, noise: Mapping[str, Noise]) -> None:
    """A safetensors file, tensor by tensor: the length of the header, the header, the bytes."""
    header, place = {}, 0
    for key, (shape, dtype) in spec.items():
        size = math.prod(shape) * (4 if dtype == "float32" else 2)
        header[key] = {"dtype": "F32" if dtype == "float32" else "F16", "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, array in arrays(spec, noise):
            array.tofile(file)


def write_pickle(path: Path, spec: Spec, noise: Mapping[str, Noise]) -> None:
    """A file of torch.save, as the published ones are."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({key: torch.from_numpy(array) for key, array in arrays(spec, noise)}, path)


def spec_of(build: Callable[[], torch.nn.Module], dtype: str = "float32") -> dict[str, tuple[tuple[int, ...], str]]:
    """Keys and shapes of a module, built without memory."""
    from anygpt_demo.checkpoints import shapes_of

    return {key: (shape, dtype) for key, shape in shapes_of(build).items()}


# ---------------------------------------------------------------- components


def files(scale: Scale, kind: str = "chat") -> dict[str, tuple[str, Spec]]:
    """Every weight file of the official layout: path -> pickle or safetensors, and what is in it."""
    from anygpt_demo.quantize import hush

    hush()
    from anygpt_demo.models import encodec
    from anygpt_demo.models.llama import Llama, LlamaConfig
    from anygpt_demo.models.seed import SeedConfig, SeedTokenizer
    from anygpt_demo.models.soundstorm import SoundStorm
    from anygpt_demo.models.speechtokenizer import SpeechTokenizer

    llm = LlamaConfig(**{**scale.llm, "vocab_size": vocabulary_size(scale)})
    buffer = ((llm.head_dim // 2,), "float32")  # which older files hold and nobody reads
    old = {f"model.layers.{number}.self_attn.rotary_emb.inv_freq": buffer for number in range(llm.num_hidden_layers)}
    seed = spec_of(lambda: SeedTokenizer(SeedConfig.from_json(scale.seed)))
    head = "visual_encoder."
    vit = {key.removeprefix(head): (shape, "float16") for key, (shape, _) in seed.items() if key.startswith(head)}
    seed = {key: value for key, value in seed.items() if not key.startswith(head)}
    foreign = {"text_proj.weight": ((16, 16), "float32"), "itm_head.bias": ((2,), "float32")}  # run time has no use for them
    music = {}
    for key, value in spec_of(lambda: encodec.build(scale.music)).items():
        for published, today in encodec.OLD_NAMES:
            key = key.replace(today, published)
        music[key] = value
    found: dict[str, tuple[str, Spec]] = {
        f"anygpt/{kind}/pytorch_model.bin": ("pickle", spec_of(lambda: Llama(llm)) | old),
        "seed-tokenizer-2/seed_quantizer.pt": ("pickle", seed | foreign),
        "seed-tokenizer-2/eva_vit_g.pth": ("pickle", vit),
        "speechtokenizer/ckpt.dev": ("pickle", spec_of(lambda: SpeechTokenizer(scale.speech))),
        "soundstorm/speechtokenizer_soundstorm_mls.pt": ("pickle", spec_of(lambda: SoundStorm(scale.soundstorm))),
        "encodec_32khz/model.safetensors": ("safetensors", music),
    }
    home = "stable-diffusion-2-1-unclip"
    for part, (name, module) in _unclip(scale).items():
        head = "text_model." if part == "text_encoder" else ""  # today's class has dropped it
        found[f"{home}/{part}/{name}"] = ("safetensors", {head + key: value for key, value in spec_of(module).items()})
    return found


def _unclip(scale: Scale) -> dict[str, tuple[str, Callable[[], torch.nn.Module]]]:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
    from transformers import CLIPTextConfig, CLIPTextModel

    name = "diffusion_pytorch_model.safetensors"
    return {
        "unet": (name, lambda: UNet2DConditionModel(**scale.unet)),
        "vae": (name, lambda: AutoencoderKL(**scale.vae)),
        "image_normalizer": (name, lambda: StableUnCLIPImageNormalizer(scale.embedding)),
        "text_encoder": ("model.safetensors", lambda: CLIPTextModel(CLIPTextConfig(**scale.words))),
    }


def facts(scale: Scale) -> list[Modality]:
    """The modalities with the codebooks of a scale."""
    return [dataclasses.replace(item, codebook=scale.codebooks[item.name]) for item in codecs.modalities()]


def vocabulary_size(scale: Scale) -> int:
    """Word pieces, four turn marks, codes and marks of every modality, four more marks."""
    found = scale.pieces + 8 + sum(item.codes + 2 for item in facts(scale))
    return found + (scale.audio + 2 if scale.audio else 0)


UNCLIP_INDEX = {  # model_index.json of the published pipeline
    "_class_name": "StableUnCLIPImg2ImgPipeline",
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "image_noising_scheduler": ["diffusers", "DDPMScheduler"],
    "image_normalizer": ["stable_diffusion", "StableUnCLIPImageNormalizer"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def _write_unclip_configs(home: Path, scale: Scale) -> None:
    import torch
    from diffusers import DDPMScheduler, PNDMScheduler

    parts = _unclip(scale)
    for part, (_, build) in parts.items():
        with torch.device("meta"):
            module: Any = build()
        if part == "text_encoder":
            module.config.save_pretrained(home / part)
        else:
            module.save_config(home / part)
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    PNDMScheduler(**betas, skip_prk_steps=True, steps_offset=1, prediction_type="v_prediction").save_config(home / "scheduler")
    DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_config(home / "image_noising_scheduler")
    _write_clip_tokenizer(home / "tokenizer", scale.words["vocab_size"])
    write_json(home / "model_index.json", UNCLIP_INDEX)


def size_of(spec: Spec) -> int:
    """Bytes of the tensors of a file."""
    return sum(math.prod(shape) * (4 if dtype == "float32" else 2) for shape, dtype in spec.values())


LAST = "stable-diffusion-2-1-unclip/model_index.json"  # what write() ends with


def written(home: Path, scale: Scale, kind: str = "chat") -> bool:
    """Whether write() came to its end here."""
    if not (home / LAST).is_file():
        return False
    every = {home / path: size_of(spec) for path, (_, spec) in files(scale, kind).items()}
    return all(path.is_file() and path.stat().st_size >= size for path, size in every.items())


def write(home: Path, scale: Scale, kind: str = "chat") -> Path:
    """Everything, in the layout that `fetch --from` takes. kind: chat or base."""
    from anygpt_demo.models.llama import LlamaConfig

    every = files(scale, kind)
    home.mkdir(parents=True, exist_ok=True)
    noise = {}
    for dtype in ("float32", "float16"):
        largest = max((math.prod(shape) for _, spec in every.values() for shape, own in spec.values() if own == dtype), default=0)
        noise[dtype] = Noise(home / f"{dtype}.part", dtype, largest)
    for path, (form, spec) in every.items():
        (write_pickle if form == "pickle" else write_safetensors)(home / path, spec, noise)
    for item in noise.values():
        item.path.unlink()
    llm = home / "anygpt" / kind
    write_tokenizer(llm, facts(scale), scale.pieces, scale.audio)
    config = LlamaConfig(**{**scale.llm, "vocab_size": vocabulary_size(scale)}).to_json()
    write_json(llm / "config.json", config | {"torch_dtype": "float32"})
    write_json(home / "speechtokenizer" / "config.json", scale.speech)
    write_json(home / "encodec_32khz" / "config.json", {**scale.music, "model_type": "encodec"})
    for role, folder, own in (("image_tokenizer", "seed-tokenizer-2", scale.seed), ("soundstorm", "soundstorm", scale.soundstorm)):
        if role in scale.shipped:
            write_json(home / folder / "config.json", own)
    _write_unclip_configs(home / "stable-diffusion-2-1-unclip", scale)
    return home
