"""Official files to a working family: conversion, resuming, the restricted reader, downloads, one turn per modality."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anygpt_demo import convert, fetch, unpickle
from anygpt_demo.chat import Card, Chat, Finished, Made, Message, Settings
from anygpt_demo.checkpoints import Family, sha256
from anygpt_demo.conversation import Conversation
from anygpt_demo.errors import BadCheckpoint, UserError
from anygpt_demo.media import Audio, Picture


def here(job: dict, say: convert.Say) -> dict:
    return unpickle.work(job)


def quiet(text: str) -> None:
    pass


def test_the_manifest_tells_what_was_read(converted: Path):
    manifest = Family.open(converted).manifest
    assert manifest["family"] == "anygpt" and manifest["kind"] == "chat"
    assert set(manifest["components"]) == set(convert.PLANS)
    assert set(manifest["vocabulary"]["ranges"]) == {"image", "speech", "music"}
    assert len(manifest["licences"]) == 6
    source = manifest["components"]["soundstorm"]["source"]["files"]
    assert set(source) == {"speechtokenizer_soundstorm_mls.pt"}
    assert not list(converted.rglob("*.bin")) and not list(converted.rglob("*.pt"))


def test_weights_are_the_same_numbers(converted: Path, official: Path):
    state = Family.open(converted).component("llm").state()
    for path in (official / "anygpt" / "chat").glob("*.bin"):
        for key, tensor in torch.load(path).items():
            if "inv_freq" not in key:
                torch.testing.assert_close(state[key], tensor.bfloat16().float(), rtol=0, atol=0)
    state = Family.open(converted).component("speech_tokenizer").state()
    for key, tensor in torch.load(official / "speechtokenizer" / "ckpt.dev").items():
        assert torch.equal(state[key], tensor)


@pytest.fixture(scope="module")
def chat(converted: Path) -> Chat:
    return Chat.open(converted)


@pytest.mark.parametrize("name", ["image", "speech", "music"])
def test_one_turn_in_and_out(chat: Chat, name: str):
    rate = {"speech": 16_000, "music": 32_000}
    noise = np.random.default_rng(0)
    media = Picture(noise.integers(0, 256, (40, 30, 3), np.uint8)) if name == "image" else Audio(np.zeros(3200, np.float32), rate[name])
    settings = Settings(output=name, max_new=400, limits={"speech": 10, "music": 5})
    updates = list(chat.reply(Conversation(), Message("hello", ((name, media),)), settings=settings))
    assert not [update for update in updates if isinstance(update, Card)]
    assert [update for update in updates if isinstance(update, Made)]
    last = updates[-1]
    assert isinstance(last, Finished) and last.turn is not None


def test_an_interrupted_conversion_goes_on_and_leaves_nothing_half_done(official: Path, tmp_path: Path):
    source, out, said = tmp_path / "source", tmp_path / "family", []
    shutil.copytree(official, source)
    file = source / "soundstorm" / "speechtokenizer_soundstorm_mls.pt"
    good = file.read_bytes()
    file.write_bytes(good[:1000])
    skip = ("unclip",)
    with pytest.raises(BadCheckpoint, match="speechtokenizer_soundstorm_mls"):
        fetch.fetch("anygpt-chat", out, quiet, source=source, skip=skip, read=here)
    assert not out.exists()
    file.write_bytes(good)
    fetch.fetch("anygpt-chat", out, said.append, source=source, skip=skip, read=here)
    assert [line for line in said if line.endswith("kept")] == [f"{role}: kept" for role in list(convert.PLANS)[:4]]
    assert Family.open(out).has("soundstorm") and not Family.open(out).has("unclip")
    assert not out.with_name("family.part").exists()


def test_a_foreign_vocabulary_is_refused(official: Path, tmp_path: Path):
    source = tmp_path / "source"
    shutil.copytree(official, source)
    file = source / "anygpt" / "chat" / "added_tokens.json"
    table = json.loads(file.read_text(encoding="utf-8"))
    table["<one more>"] = max(table.values()) + 1
    file.write_text(json.dumps(table), encoding="utf-8")
    skip = ("unclip", "soundstorm", "music_codec")
    with pytest.raises(BadCheckpoint, match="does not belong"):
        fetch.fetch("anygpt-chat", tmp_path / "family", quiet, source=source, skip=skip, read=here)
    assert not (tmp_path / "family").exists()


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_the_reader_is_a_process_of_its_own_and_runs_nothing(official: Path, tmp_path: Path):
    files = {"weights": [str(official / "soundstorm" / "speechtokenizer_soundstorm_mls.pt")]}
    config = convert.settings("soundstorm", "anygpt-chat", official)
    job = {"role": "soundstorm", "files": files, "config": config, "out": str(tmp_path / "out")}
    assert convert.in_child(job, quiet)["steps"] == 3
    assert list((tmp_path / "out").glob("*.safetensors"))
    bad = tmp_path / "bad.pt"
    torch.save({"a": Bomb(tmp_path / "harm")}, bad)
    with pytest.raises(BadCheckpoint, match=r"bad\.pt"):
        convert.in_child({**job, "files": {"weights": [str(bad)]}}, quiet)
    assert not (tmp_path / "harm").exists()


def test_what_is_missing_is_named(tmp_path: Path):
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.model"):
        convert.convert("anygpt-chat", tmp_path, tmp_path / "out", quiet)
    with pytest.raises(UserError, match="anygpt-huge"):
        fetch.fetch("anygpt-huge", tmp_path / "out", quiet)
    with pytest.raises(UserError, match="llm"):
        convert.convert("anygpt-chat", tmp_path, tmp_path / "out", quiet, skip=("llm",))


class Server(BaseHTTPRequestHandler):
    data = bytes(range(256)) * 5000
    cut = 0  # bytes after which the connection ends; 0: never
    page = False

    def do_GET(self) -> None:
        begin = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        self.send_response(206 if begin else 200)
        self.send_header("Content-Type", "text/html" if self.page else "application/octet-stream")
        self.send_header("Content-Length", str(len(self.data) - begin))
        self.send_header("ETag", '"x"')
        self.end_headers()
        self.wfile.write(self.data[begin : begin + self.cut if self.cut else None])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    Server.cut, Server.page = 0, False
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/file.pth"
        server.shutdown()


def test_a_cut_download_is_resumed(address: str, tmp_path: Path):
    Server.cut = 100_000
    for _ in range(3):
        with pytest.raises(UserError, match="goes on where it stopped"):
            fetch.from_url(address, tmp_path, quiet)
    assert (tmp_path / "file.pth.part").stat().st_size == 300_000 and not (tmp_path / "file.pth").exists()
    Server.cut = 0
    assert fetch.from_url(address, tmp_path, quiet) == '"x"'
    assert (tmp_path / "file.pth").read_bytes() == Server.data


def test_a_page_instead_of_the_file_is_refused(address: str, tmp_path: Path):
    Server.page = True
    with pytest.raises(UserError, match="page"):
        fetch.from_url(address, tmp_path, quiet)
    assert not list(tmp_path.iterdir())


def facts_of(commit: str, *names: str) -> SimpleNamespace:
    """What a hub says of a repository with these large files and a small one."""
    files = [SimpleNamespace(rfilename=name, lfs=SimpleNamespace(sha256=f"hash of {name}")) for name in names]
    return SimpleNamespace(sha=commit, siblings=[*files, SimpleNamespace(rfilename="config.json", lfs=None)])


def test_a_file_that_is_not_the_published_one_is_refused(official: Path, tmp_path: Path):
    source = tmp_path / "source"
    shutil.copytree(official, source)
    name = "stable-diffusion-2-1-unclip/vae/diffusion_pytorch_model.safetensors"
    (source / convert.HASHES).write_text(json.dumps({name: sha256(source / name)}), encoding="utf-8")
    convert.convert("anygpt-chat", source, tmp_path / "out", quiet, read=here)
    data = bytearray((source / name).read_bytes())
    data[-3] ^= 1  # of a number: neither its key nor its shape tells
    (source / name).write_bytes(bytes(data))
    with pytest.raises(BadCheckpoint, match="unclip.*vae.*not the file that was published"):
        convert.convert("anygpt-chat", source, tmp_path / "other", quiet, read=here)
    assert not (tmp_path / "other").exists()


def test_the_commit_that_was_read_is_asked_for_and_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(
        huggingface_hub.HfApi, "model_info", lambda self, repo, revision, files_metadata: facts_of("c0ffee", "model.safetensors")
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **options: asked.append((repo, options)))
    monkeypatch.setattr(fetch, "from_url", lambda url, home, say: "tag")
    said: list[str] = []
    (tmp_path / "encodec_32khz").mkdir()
    (tmp_path / "encodec_32khz" / "model.safetensors").write_bytes(b"x")
    revisions = fetch.download("anygpt-base", tmp_path, said.append)
    assert convert.published(tmp_path) == {"encodec_32khz/model.safetensors": "hash of model.safetensors"}
    assert revisions["fnlp/AnyGPT-base"] == "c0ffee" and len(revisions) == 6
    assert {options["revision"] for _, options in asked} == {"c0ffee"}
    folders = {repo: options["local_dir"].relative_to(tmp_path).as_posix() for repo, options in asked}
    assert folders["fnlp/AnyGPT-base"] == "anygpt/base" and folders["fnlp/AnyGPT-speech-modules"] == "."
    assert all("licence" in line for line in said)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **options: (_ for _ in ()).throw(OSError("no route")))
    with pytest.raises(UserError, match="goes on where it stopped"):
        fetch.download("anygpt-base", tmp_path, quiet)


def test_recorded_commits_are_used_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, repo, revision, files_metadata: facts_of("new"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **options: asked.append((repo, options["revision"])))
    monkeypatch.setattr(fetch, "from_url", lambda url, home, say: "tag")
    monkeypatch.setattr(convert, "convert", lambda *rest, about, **more: about)
    out = tmp_path / "anygpt-chat"
    (tmp_path / "anygpt-chat").mkdir()
    (out / "manifest.json").write_text(json.dumps({"revisions": {"fnlp/AnyGPT-chat": "recorded"}}), encoding="utf-8")
    found = fetch.fetch("anygpt-chat", out, quiet)["revisions"]
    assert found["fnlp/AnyGPT-chat"] == "recorded" and found["facebook/encodec_32khz"] == "new"
    assert ("fnlp/AnyGPT-chat", "recorded") in asked
    assert fetch.fetch("anygpt-chat", out, quiet, latest=True)["revisions"]["fnlp/AnyGPT-chat"] == "new"
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "revisions.json").write_text(json.dumps({"fnlp/AnyGPT-base": "begun"}), encoding="utf-8")
    assert fetch.download("anygpt-base", tmp_path / "half", quiet, {"fnlp/AnyGPT-base": "older"})["fnlp/AnyGPT-base"] == "begun"


def test_a_base_family_is_converted_too(official: Path, tmp_path: Path):
    source = tmp_path / "source"
    shutil.copytree(official, source)
    (source / "anygpt" / "chat").rename(source / "anygpt" / "base")
    skip = ("unclip", "soundstorm", "music_codec", "image_tokenizer")
    manifest = fetch.fetch("anygpt-base", tmp_path / "base", quiet, source=source, skip=skip, read=here)
    assert manifest["kind"] == "base" and set(manifest["components"]) == {"tokenizer", "llm", "speech_tokenizer"}


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_of_every_kind_are_read_as_they_were_saved(tmp_path: Path, zipped: bool):
    large = torch.arange(20.0).reshape(4, 5)
    saved = {
        "plain": torch.randn(3, 4),
        "bfloat16": torch.randn(7).bfloat16(),
        "float16": torch.randn(5).half(),
        "transposed": large.T,
        "window": large[1:3, 2:],
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "flag": torch.tensor(True),
        "number": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
    }
    path = tmp_path / "weights.pt"
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    found = unpickle.read(path)
    assert found.keys() == saved.keys()
    for key, tensor in saved.items():
        assert found[key].dtype == tensor.dtype and torch.equal(found[key], tensor), key
    maps = Path("/proc/self/maps")
    if zipped and maps.exists():
        (line,) = [line for line in maps.read_text(encoding="utf-8").splitlines() if line.endswith(str(path))]
        assert line.split()[1].startswith("r--"), "a mapping that could be written to counts as memory, and is refused for large files"
