"""The official weights: where they are published, and how they come here.

python -m anygpt_demo fetch anygpt-chat                    from the internet, resumed where it stopped
python -m anygpt_demo fetch anygpt-chat --from models      from a folder laid out as below

models/anygpt/chat (or base)          config.json, pytorch_model*.bin or *.safetensors, tokenizer.model, added_tokens.json
models/speechtokenizer                config.json, ckpt.dev
models/soundstorm                     speechtokenizer_soundstorm_mls.pt
models/seed-tokenizer-2               seed_quantizer.pt, eva_vit_g.pth
models/encodec_32khz                  config.json, model.safetensors or pytorch_model.bin
models/stable-diffusion-2-1-unclip    the diffusers folder
"""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anygpt_demo.checkpoints import write_json
from anygpt_demo.convert import HASHES
from anygpt_demo.errors import MissingProgram, UserError

Say = Callable[[str], None]
PIECE = 1 << 20


@dataclass(frozen=True)
class Source:
    """One official repository, or one file behind an address. folder: where it lies in the local layout."""

    folder: str
    licence: str
    repo: str = ""
    revision: str = "main"  # where to begin; the commit that was read is kept, and read again later
    files: tuple[str, ...] = ()
    url: str = ""


LLAMA_LICENCE = "LLaMA 2 Community License (made from LLaMA 2 7B)"
_LLM_FILES = ("*.json", "*.bin", "*.safetensors", "tokenizer.model")
_SPEECH = "Apache-2.0 (licence of the code; the weights name none)"

FAMILIES: Mapping[str, Source] = {
    "anygpt-chat": Source("anygpt/chat", LLAMA_LICENCE, "fnlp/AnyGPT-chat", files=_LLM_FILES),
    "anygpt-base": Source("anygpt/base", LLAMA_LICENCE, "fnlp/AnyGPT-base", files=_LLM_FILES),
}
SHARED: tuple[Source, ...] = (
    Source("", _SPEECH, "fnlp/AnyGPT-speech-modules", files=("speechtokenizer/*", "soundstorm/*")),
    Source("seed-tokenizer-2", "Apache-2.0", "AILab-CVC/seed-tokenizer-2", files=("seed_quantizer.pt",)),
    Source(
        "seed-tokenizer-2",
        "BSD-3-Clause (LAVIS), MIT (EVA)",
        url="https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/eva_vit_g.pth",
    ),
    Source("encodec_32khz", "CC-BY-NC-4.0", "facebook/encodec_32khz", files=("config.json", "model.safetensors")),
    Source(
        "stable-diffusion-2-1-unclip",
        "CreativeML Open RAIL++-M",
        "stabilityai/stable-diffusion-2-1-unclip",
        files=(
            "model_index.json",
            "*/*.json",
            "tokenizer/*",
            "unet/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
            "text_encoder/model.safetensors",
            "image_normalizer/*",
        ),
    ),
)


def sources(name: str) -> tuple[Source, ...]:
    """Everything that a family needs. Raises UserError for an unknown name."""
    if name not in FAMILIES:
        raise UserError(f"There is no family called {name}.", "It is not published.", f"Use one of: {', '.join(FAMILIES)}.")
    return (FAMILIES[name], *SHARED)


def licences(name: str) -> dict[str, str]:
    """Licence of every source, by repository or address."""
    return {item.repo or item.url: item.licence for item in sources(name)}


def _refused(what: str, error: Exception) -> UserError:
    return UserError(
        f"{what} could not be downloaded.",
        f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else 'no connection'}",
        "Run the same command again: it goes on where it stopped.",
    )


def from_hub(source: Source, home: Path, commit: str | None = None) -> tuple[str, dict[str, str]]:
    """Download a repository's files below home, resuming. commit: the one to take, if it is known.

    Returns the commit, and the SHA-256 that the publisher gives of every large file, by its path below home. Raises UserError.
    """
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise MissingProgram("Nothing can be downloaded.", "huggingface_hub is not installed.", "Run: make setup") from error
    import httpx

    try:
        facts = HfApi().model_info(source.repo, revision=commit or source.revision, files_metadata=True)
        commit = commit or facts.sha or source.revision
        snapshot_download(source.repo, revision=commit, local_dir=home / source.folder, allow_patterns=list(source.files))
    except (OSError, HfHubHTTPError, httpx.HTTPError, ValueError) as error:
        raise _refused(source.repo, error) from error
    large = [(Path(source.folder, item.rfilename), item.lfs.sha256) for item in facts.siblings or () if item.lfs is not None]
    return commit, {path.as_posix(): digest for path, digest in large if (home / path).is_file()}


def from_url(url: str, home: Path, say: Say) -> str:
    """Download one file into home, resuming a .part file. Returns the server's tag of it. Raises UserError."""
    path = home / url.rpartition("/")[2]
    home.mkdir(parents=True, exist_ok=True)
    tag_path, draft = path.with_name(path.name + ".etag"), path.with_name(path.name + ".part")
    if path.is_file() and tag_path.is_file():
        return tag_path.read_text(encoding="utf-8")
    have = draft.stat().st_size if draft.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310 - a constant https address
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            if "html" in (answer.headers.get("Content-Type") or ""):
                raise UserError(f"{path.name} could not be downloaded.", "The server sent a page instead of the file.", "Try again later.")
            resumed = answer.status == 206
            total = int(answer.headers.get("Content-Length") or 0) + (have if resumed else 0)
            done, shown = have if resumed else 0, -1
            with draft.open("ab" if resumed else "wb") as file:
                while piece := answer.read(PIECE):
                    file.write(piece)
                    done += len(piece)
                    if total and done * 20 // total > shown:
                        shown = done * 20 // total
                        say(f"{path.name}: {done * 100 // total}% of {total / 1e6:.0f} MB")
            tag = answer.headers.get("ETag") or ""
    except (urllib.error.URLError, OSError) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == 416:  # the part is longer than the file: begin again
            draft.unlink(missing_ok=True)
        raise _refused(path.name, error) from error
    if total and done != total:
        raise _refused(path.name, OSError(f"{done} of {total} bytes came"))
    tag_path.write_text(tag, encoding="utf-8")
    draft.replace(path)
    return tag


def _recorded(path: Path, key: str | None = None) -> dict[str, str]:
    """Revisions in a JSON file, under a key if one is given; none if there is no such file."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found = record[key] if key is not None else record
        return {str(name): str(commit) for name, commit in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def download(name: str, home: Path, say: Say, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Everything a family needs into a local layout. Returns the revision of every source. Raises UserError.

    known: commits to take; those of an interrupted download go before them, so that no repository is read at two commits.
    """
    revisions = {**(known or {}), **_recorded(home / "revisions.json")}
    hashes: dict[str, str] = {}
    for item in sources(name):
        place = item.repo or item.url
        say(f"{place}  (licence: {item.licence})")
        if item.repo:
            revisions[place], found = from_hub(item, home, revisions.get(place))
            hashes |= found
        else:
            revisions[place] = from_url(item.url, home / item.folder, say)
        write_json(home / "revisions.json", revisions)
    write_json(home / HASHES, hashes)
    return {item.repo or item.url: revisions[item.repo or item.url] for item in sources(name)}


def fetch(
    name: str,
    out: Path,
    say: Say,
    *,
    source: Path | None = None,
    keep: bool = False,
    skip: tuple[str, ...] = (),
    latest: bool = False,
    read: Callable[..., dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Download (or take `source`), convert, verify. Returns the new manifest. Raises UserError; `out` is complete or untouched.

    keep: leave the downloaded files where they are (out.download). latest: take the newest commits and not those that an earlier
    fetch into `out` has recorded. read: what converts one component, if not a process of its own.
    """
    from anygpt_demo.convert import convert, in_child

    cache = out.with_name(out.name + ".download")
    if source is None:
        revisions = download(name, cache, say, {} if latest else _recorded(out / "manifest.json", "revisions"))
    else:
        if not source.is_dir():
            raise UserError(f"There is no folder {source.name}.", "--from needs the folder with the official files.", "Check the path.")
        revisions = _recorded(source / "revisions.json")
        for item in sources(name):
            say(f"{item.repo or item.url}  (licence: {item.licence})")
    about = {"licences": licences(name), "revisions": revisions}
    manifest = convert(name, source or cache, out, say, skip=skip, about=about, read=read or in_child)
    if source is None and not keep:
        shutil.rmtree(cache, ignore_errors=True)
    return manifest
