"""Files that are not what they should be: ten kinds of damage for every component, before conversion and after it."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from anygpt_demo import checkpoints, convert, unpickle
from anygpt_demo.checkpoints import Family
from anygpt_demo.codecs.image import ImageCodec
from anygpt_demo.codecs.music import MusicCodec
from anygpt_demo.codecs.speech import SpeechCodec
from anygpt_demo.engine import LocalEngine
from anygpt_demo.errors import BadCheckpoint
from anygpt_demo.quantize import load_llama
from anygpt_demo.vocabulary import Vocabulary

HTML = b"<!DOCTYPE html><html><body>404</body></html>"
Tensors = dict[str, Any]


def first(tensors: Tensors) -> str:
    return next(key for key in sorted(tensors) if tensors[key].ndim >= 1 and tensors[key].is_floating_point() and tensors[key].numel() > 1)


def without(tensors: Tensors) -> Tensors:
    return {key: tensor for key, tensor in tensors.items() if key != first(tensors)}


def renamed(tensors: Tensors) -> Tensors:
    return without(tensors) | {"another.weight": tensors[first(tensors)]}


def reshaped(tensors: Tensors) -> Tensors:
    return tensors | {first(tensors): tensors[first(tensors)][:-1].clone()}


def whole(tensors: Tensors) -> Tensors:
    return tensors | {first(tensors): tensors[first(tensors)].to(torch.int64)}


def endless(tensors: Tensors) -> Tensors:
    return tensors | {first(tensors): torch.full_like(tensors[first(tensors)], float("nan"))}


def emptied(tensors: Tensors) -> Tensors:
    return {}


# ---------------------------------------------------------------- before conversion

OFFICIAL = [
    ("llm", "weights", "anygpt/chat/pytorch_model-00001-of-00002.bin"),
    ("image_tokenizer", "weights", "seed-tokenizer-2/seed_quantizer.pt"),
    ("image_tokenizer", "vit", "seed-tokenizer-2/eva_vit_g.pth"),
    ("speech_tokenizer", "weights", "speechtokenizer/ckpt.dev"),
    ("soundstorm", "weights", "soundstorm/speechtokenizer_soundstorm_mls.pt"),
    ("music_codec", "weights", "encodec_32khz/pytorch_model.bin"),
    ("unclip", "unet", "stable-diffusion-2-1-unclip/unet/diffusion_pytorch_model.safetensors"),
    ("unclip", "vae", "stable-diffusion-2-1-unclip/vae/diffusion_pytorch_model.safetensors"),
    ("unclip", "image_normalizer", "stable-diffusion-2-1-unclip/image_normalizer/diffusion_pytorch_model.safetensors"),
    ("unclip", "text", "stable-diffusion-2-1-unclip/text_encoder/model.safetensors"),
]


class Harm:
    def __reduce__(self):
        return eval, ("1/0",)


def rewrite(path: Path, change: Callable[[Tensors], Any]) -> None:
    if path.suffix == ".safetensors":
        save_file(change(load_file(path)), path)
    else:
        torch.save(change(torch.load(path)), path)


def flip(path: Path) -> None:
    """One bit of a tensor of a zip file (its checksum tells), of the header of a safetensors file."""
    data = bytearray(path.read_bytes())
    place = 20
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entry = max(archive.infolist(), key=lambda item: item.file_size)
        place = entry.header_offset + entry.file_size // 2 + 200
    data[place] ^= 4
    path.write_bytes(bytes(data))


def bomb(path: Path) -> None:
    torch.save({"a": Harm()}, path)


OFFICIAL_KINDS: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped bit": flip,
    "a web page": lambda path: path.write_bytes(HTML),
    "a pickle that runs code": bomb,
    "missing key": lambda path: rewrite(path, without),
    "renamed key": lambda path: rewrite(path, renamed),
    "wrong shape": lambda path: rewrite(path, reshaped),
    "not numbers": lambda path: rewrite(path, endless),
    "integers": lambda path: rewrite(path, whole),
    "no table": lambda path: rewrite(path, emptied),
}


@pytest.mark.parametrize("kind", OFFICIAL_KINDS)
@pytest.mark.parametrize(("role", "group", "name"), OFFICIAL, ids=[f"{role}-{group}" for role, group, _ in OFFICIAL])
def test_damaged_official_files_are_refused_by_name(official: Path, tmp_path: Path, role: str, group: str, name: str, kind: str):
    files = convert.find(role, "anygpt-chat", official)
    home = Path(name).parts[0]
    shutil.copytree(official / home, tmp_path / home)
    files = convert.find(role, "anygpt-chat", tmp_path)
    OFFICIAL_KINDS[kind](tmp_path / name)
    out = tmp_path / "out"
    paths = {key: [str(path) for path in value] for key, value in files.items()}
    job = {"role": role, "files": paths, "config": convert.settings(role, "anygpt-chat", tmp_path), "out": str(out)}
    with pytest.raises(BadCheckpoint) as caught:
        unpickle.work(job)
    words = str(caught.value)
    assert Path(name).name in words or "tensor" in words
    assert not (out / "config.json").exists()


@pytest.mark.parametrize("name", sorted({name for _, _, name in OFFICIAL}))
def test_missing_official_files_are_named(official: Path, tmp_path: Path, name: str):
    shutil.copytree(official, tmp_path / "source", ignore=lambda _, names: [item for item in names if item == Path(name).name])
    if "-of-" in name:
        pytest.skip("one shard of several: its keys are missing, see above")
    with pytest.raises(BadCheckpoint, match=Path(name).name.replace(".dev", "").replace("pytorch_model.bin", "model")):
        convert.convert("anygpt-chat", tmp_path / "source", tmp_path / "out", lambda _: None)


def test_a_missing_shard_is_named_by_its_keys(official: Path, tmp_path: Path):
    home = tmp_path / "anygpt" / "chat"
    shutil.copytree(official / "anygpt" / "chat", home)
    (home / "pytorch_model-00002-of-00002.bin").unlink()
    paths = {"weights": [str(home / "pytorch_model-00001-of-00002.bin")]}
    config = convert.settings("llm", "anygpt-chat", tmp_path)
    with pytest.raises(BadCheckpoint, match="tensor .* is missing"):
        unpickle.work({"role": "llm", "files": paths, "config": config, "out": str(tmp_path / "out")})


# ---------------------------------------------------------------- after conversion


def trusted(change: Callable[[Tensors], Tensors]) -> Callable[[Family, str, Path], None]:
    """A change whose hash the manifest confirms: only the comparison with the module can find it."""

    def apply(family: Family, role: str, path: Path) -> None:
        save_file(change(load_file(path)), path)
        checkpoints.enter(family.folder, role, family.component(role).config)

    return apply


def replaced(data: bytes) -> Callable[[Family, str, Path], None]:
    def apply(family: Family, role: str, path: Path) -> None:
        path.write_bytes(data)
        checkpoints.enter(family.folder, role, family.component(role).config)

    return apply


def pickled() -> bytes:
    file = io.BytesIO()
    torch.save({"a": Harm()}, file)
    return file.getvalue()


def cut(family: Family, role: str, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def one_bit(family: Family, role: str, path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


KINDS: dict[str, Callable[[Family, str, Path], None]] = {
    "gone": lambda family, role, path: path.unlink(),
    "empty": lambda family, role, path: path.write_bytes(b"") and None,
    "truncated": cut,
    "flipped bit": one_bit,
    "missing key": trusted(without),
    "renamed key": trusted(renamed),
    "extra key": trusted(lambda tensors: tensors | {"another.weight": torch.ones(2)}),
    "wrong shape": trusted(reshaped),
    "integers": trusted(whole),
    "a web page": replaced(HTML),
    "a pickle": replaced(pickled()),
}
LOADERS: dict[str, Callable[[Family], Any]] = {
    "llm_4bit": lambda family: load_llama(family, kind="4bit"),
    "llm_8bit": lambda family: load_llama(family, kind="8bit"),
    "llm": LocalEngine.load,
    "image_tokenizer": ImageCodec.load,
    "unclip": ImageCodec.load,
    "speech_tokenizer": SpeechCodec.load,
    "soundstorm": SpeechCodec.load,
    "music_codec": MusicCodec.load,
}


@pytest.fixture(scope="module")
def quantized(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted family with its small copies."""
    home = tmp_path_factory.mktemp("quantized") / "anygpt-chat"
    shutil.copytree(converted, home)
    for kind in ("4bit", "8bit"):
        load_llama(Family.open(home), kind=kind)
    return home


@pytest.mark.parametrize("part", ["unet", "vae", "image_normalizer"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_network_of_the_picture_decoder_is_checked(converted: Path, tmp_path: Path, part: str, kind: str):
    for name in ("unclip", "image_tokenizer"):
        shutil.copytree(converted / name, tmp_path / name)
    manifest = json.loads((converted / "manifest.json").read_text(encoding="utf-8"))
    manifest["components"] = {name: manifest["components"][name] for name in ("unclip", "image_tokenizer")}
    checkpoints.write_json(tmp_path / "manifest.json", manifest)
    KINDS[kind](Family.open(tmp_path), "unclip", tmp_path / "unclip" / part / "diffusion_pytorch_model.safetensors")
    with pytest.raises(BadCheckpoint, match=f"unclip.*{part}"):
        ImageCodec.load(Family.open(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", LOADERS)
def test_damaged_components_are_refused(quantized: Path, tmp_path: Path, role: str, kind: str):
    beside = {"unclip": "image_tokenizer", "soundstorm": "speech_tokenizer", "llm_4bit": "llm", "llm_8bit": "llm"}.get(role, role)
    for name in {role, beside}:
        shutil.copytree(quantized / name, tmp_path / name)
    manifest = json.loads((quantized / "manifest.json").read_text(encoding="utf-8"))
    manifest["components"] = {name: manifest["components"][name] for name in {role, beside}}
    checkpoints.write_json(tmp_path / "manifest.json", manifest)
    family = Family.open(tmp_path)
    path = tmp_path / role / family.component(role).shards()[-1]
    KINDS[kind](family, role, path)
    with pytest.raises(BadCheckpoint) as caught:
        LOADERS[role](Family.open(tmp_path))
    assert role in str(caught.value)


TOKENIZER_KINDS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "words gone": ("tokenizer.model", lambda data: b""),
    "words cut": ("tokenizer.model", lambda data: data[: len(data) // 2]),
    "words replaced": ("tokenizer.model", lambda data: HTML),
    "marks gone": ("added_tokens.json", lambda data: b""),
    "marks cut": ("added_tokens.json", lambda data: data[:-20]),
    "marks replaced": ("added_tokens.json", lambda data: HTML),
    "a mark less": ("added_tokens.json", lambda data: data.replace(b'"<eoh>"', b'"<eox>"')),
    "a number twice": ("added_tokens.json", lambda data: data.replace(b'"[MMGPT]": 4', b'"[MMGPT]": 5')),
    "no table": ("added_tokens.json", lambda data: b"[1, 2]"),
    "no numbers": ("added_tokens.json", lambda data: data.replace(b'"<eoh>": ', b'"<eoh>": -')),
}


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_damaged_tokenizers_are_refused(converted: Path, tmp_path: Path, kind: str):
    shutil.copytree(converted / "tokenizer", tmp_path / "tokenizer")
    name, change = TOKENIZER_KINDS[kind]
    path = tmp_path / "tokenizer" / name
    before = path.read_bytes()
    path.write_bytes(change(before))
    assert path.read_bytes() != before
    checkpoints.enter(tmp_path, "tokenizer", {}, "anygpt")
    with pytest.raises(BadCheckpoint, match="tokenizer"):
        Vocabulary.of(Family.open(tmp_path))
