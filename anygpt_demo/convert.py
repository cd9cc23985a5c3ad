"""Official files to a family folder: every component verified, written as safetensors, and entered in the manifest.

The work is done in `OUT.part`, component by component; what an interrupted run completed is kept if neither its source
nor its result has changed. Only when everything is there is the folder renamed to `OUT`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anygpt_demo.checkpoints import Family, enter, sha256, write_json
from anygpt_demo.errors import BadCheckpoint, UserError

HOME = Path(__file__).resolve().parent.parent
FAMILY = "anygpt"
Say = Callable[[str], None]
SOUNDSTORM: Mapping[str, Any] = {  # as AnyGPT's voice_clone builds it; the file itself has no config
    "codebook_size": 1024,
    "num_quantizers": 7,
    "conformer": {"dim": 1024, "depth": 12, "heads": 8, "dim_head": 128},
}
HASHES = "hashes.json"  # beside downloaded files: what the publisher says of them
STEPS = 3  # vc_steps of the published generate_config.json
NEEDED = ("tokenizer", "llm")  # components without which there is no family
TOKENIZER = ("tokenizer.model", "added_tokens.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Plan:
    """Where a component's official files are: kind -> names in order of preference (a * takes all that match)."""

    folder: str
    files: Mapping[str, tuple[str, ...]]
    config: str | None = "config.json"  # None: the published files have none
    required: bool = True  # whether the config must be there


PLANS: Mapping[str, Plan] = {
    "tokenizer": Plan("{llm}", {"model": ("tokenizer.model",), "added": ("added_tokens.json",)}, None),
    "llm": Plan("{llm}", {"weights": ("model*.safetensors", "pytorch_model*.bin")}),
    "image_tokenizer": Plan("seed-tokenizer-2", {"weights": ("seed_quantizer.pt",), "vit": ("eva_vit_g.pth",)}, required=False),
    "speech_tokenizer": Plan("speechtokenizer", {"weights": ("ckpt.dev", "*.dev", "*.pt")}),
    "soundstorm": Plan("soundstorm", {"weights": ("speechtokenizer_soundstorm_mls.pt", "*.pt")}, required=False),
    "music_codec": Plan("encodec_32khz", {"weights": ("model.safetensors", "pytorch_model.bin")}),
    "unclip": Plan(
        "stable-diffusion-2-1-unclip",
        {"index": ("model_index.json",)}
        | {
            part: tuple(f"{part}/diffusion_pytorch_model{end}" for end in (".safetensors", ".bin"))
            for part in ("unet", "vae", "image_normalizer")
        }
        | {"text": ("text_encoder/model.safetensors", "text_encoder/pytorch_model.bin")},
        None,
    ),
}


def _home(role: str, name: str, source: Path) -> Path:
    return source / PLANS[role].folder.format(llm=f"anygpt/{name.removeprefix('anygpt-')}")


def find(role: str, name: str, source: Path) -> dict[str, list[Path]]:
    """The official files of a component. Raises BadCheckpoint naming the first that is not there."""
    home, found = _home(role, name, source), {}
    for kind, patterns in PLANS[role].files.items():
        hits = next((hits for pattern in patterns if (hits := sorted(home.glob(pattern)))), [])
        if not hits:
            where = home.relative_to(source).as_posix()
            raise BadCheckpoint(
                f"{role}: the file {where}/{patterns[0]} is missing.",
                "The official files are incomplete.",
                "Put it there." if role in NEEDED else f"Put it there, or leave the component out with --skip {role}.",
            )
        found[kind] = hits if "*" in patterns[0] else hits[:1]
    return found


def settings(role: str, name: str, source: Path) -> dict[str, Any]:
    """The config a component is built from: its config.json, else the published constants. Raises BadCheckpoint."""
    plan = PLANS[role]
    config: dict[str, Any] = dict(SOUNDSTORM) | {"steps": STEPS} if role == "soundstorm" else {}
    path = _home(role, name, source) / (plan.config or "")
    if plan.config is not None and (path.is_file() or plan.required):
        try:
            config |= json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError) as error:
            raise BadCheckpoint(
                f"{role}: config.json is missing or damaged.", "It lies beside the weights.", "Download it again."
            ) from error
    return config


def digests(files: Mapping[str, list[Path]], home: Path) -> dict[str, dict[str, Any]]:
    """Bytes and hash of the source files, by their path below `home`."""
    every = [path for paths in files.values() for path in paths]
    return {path.relative_to(home).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in every}


def published(source: Path) -> dict[str, str]:
    """The hashes that the publisher gave, by path below the folder, if the files were downloaded."""
    path = source / HASHES
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _refuse_others(role: str, source: Path, home: Path, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise BadCheckpoint naming the first file that is not the published one."""
    hashes = published(source)
    for name, facts in found.items():
        place = (home / name).relative_to(source).as_posix()
        if hashes.get(place, facts["sha256"]) != facts["sha256"]:
            raise BadCheckpoint(
                f"{role}: {place} is not the file that was published.",
                "Its SHA-256 is another one.",
                "Delete it and run the same command again.",
            )


def _alone() -> list[str]:
    """The command prefix that takes the network away, where the system permits it."""
    program = shutil.which("unshare")
    if program is None or subprocess.run([program, "-n", "-r", "true"], capture_output=True, check=False).returncode:
        return []
    return [program, "-n", "-r"]


def _written(folder: Path) -> int:
    return sum(item.stat().st_size for item in folder.rglob("*") if item.is_file())


def in_child(job: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """Run unpickle.work() in a restricted process of its own; report what it has written. Raises BadCheckpoint."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    environment |= {"PYTHONPATH": str(HOME), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*_alone(), sys.executable, "-m", "anygpt_demo.unpickle"]
    with subprocess.Popen(
        command, env=environment, cwd=HOME, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        try:
            text, shown, before = json.dumps(dict(job)), time.monotonic(), 0
            while True:
                try:
                    output, _ = child.communicate(text, timeout=1)
                    break
                except subprocess.TimeoutExpired:
                    text = None  # type: ignore[assignment]  # it was sent
                if time.monotonic() - shown > 10 and (now := _written(Path(job["out"]))) > before:
                    shown, before = time.monotonic(), now
                    say(f"{job['role']}: {now / 1e6:.1f} MB written")
        except BaseException:
            child.kill()
            raise
    try:
        answer = json.loads(output.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise BadCheckpoint(
            f"{job['role']}: its files could not be read.", f"The reader ended with status {child.returncode}.", "Download them again."
        ) from error
    if "error" in answer:
        raise BadCheckpoint(*answer["error"])
    config: dict[str, Any] = answer["config"]
    return config


def _copy_tokenizer(files: Mapping[str, list[Path]], out: Path) -> dict[str, Any]:
    home = files["model"][0].parent
    out.mkdir(parents=True)
    for name in TOKENIZER:
        if (home / name).is_file():
            shutil.copyfile(home / name, out / name)
    return {}


def _component(role: str, name: str, source: Path, draft: Path, say: Say, read: Callable[..., dict[str, Any]]) -> None:
    """One component into the draft, unless it is there already and nothing has changed."""
    files, config = find(role, name, source), settings(role, name, source)
    home = _home(role, name, source)
    if _kept(role, draft, {"config": config, "files": files}, home):
        say(f"{role}: kept")
        return
    start = time.monotonic()
    size = sum(path.stat().st_size for paths in files.values() for path in paths)
    say(f"{role}: {size / 1e6:.1f} MB to check and read")
    shutil.rmtree(draft / role, ignore_errors=True)
    with ThreadPoolExecutor(1) as beside:  # the reader goes through the same pages at the same time
        hashes = beside.submit(digests, files, home)
        if role == "tokenizer":
            kept = _copy_tokenizer(files, draft / role)
        else:
            paths = {kind: [str(path.resolve()) for path in paths] for kind, paths in files.items()}
            kept = read({"role": role, "files": paths, "config": config, "out": str((draft / role).resolve())}, say)
        _refuse_others(role, source, home, hashes.result())
        enter(draft, role, kept, FAMILY, source={"config": config, "files": hashes.result()})
    say(f"{role}: {_written(draft / role) / 1e6:.1f} MB in {time.monotonic() - start:.0f} s")


def _kept(role: str, draft: Path, origin: Mapping[str, Any], home: Path) -> bool:
    """Whether an earlier run has made this component from these very files, and nothing has happened to it since."""
    if not (draft / "manifest.json").is_file() or not Family.open(draft).has(role):
        return False
    family = Family.open(draft)
    if family.manifest["components"][role].get("source") != {**origin, "files": digests(origin["files"], home)}:
        return False
    try:
        family.component(role).verify()
    except BadCheckpoint:
        return False
    return True


def check_vocabulary(family: Family, exact: bool) -> dict[str, Any]:
    """The ranges of the tokenizer, for the manifest. Raises BadCheckpoint if it does not belong to the language model.

    exact: the model has no row without a token; else it may be padded to a multiple of 64.
    """
    from anygpt_demo.vocabulary import Vocabulary

    vocabulary = Vocabulary.of(family)
    rows = int(family.component("llm").config["vocab_size"])
    if not vocabulary.size <= rows < vocabulary.size + (1 if exact else 64):
        raise BadCheckpoint(
            "The tokenizer does not belong to this language model.",
            f"It has {vocabulary.size} tokens, the model {rows}.",
            "Take added_tokens.json and the weights from the same place.",
        )
    ranges = {name: {"first": item.first, "start": item.start, "end": item.end} for name, item in vocabulary.ranges.items()}
    return {"size": vocabulary.size, "text_size": vocabulary.text_size, "ranges": ranges}


def convert(
    name: str,
    source: Path,
    out: Path,
    say: Say,
    *,
    skip: tuple[str, ...] = (),
    about: Mapping[str, Any] | None = None,
    read: Callable[..., dict[str, Any]] = in_child,
) -> dict[str, Any]:
    """Make the family folder `out` from official files. Returns its manifest. Raises UserError; `out` is complete or untouched.

    skip: roles to leave out. about: further facts for the manifest. read: what converts one component.
    """
    unknown = [role for role in skip if role not in PLANS or role in NEEDED]
    if unknown:
        raise UserError(f"{unknown[0]} cannot be left out.", "It is needed, or there is no such component.", "Check --skip.")
    draft = out.with_name(out.name + ".part")
    draft.mkdir(parents=True, exist_ok=True)
    roles = [role for role in PLANS if role not in skip]
    for role in roles:
        find(role, name, source)  # refuse early what is not there
    for role in roles:
        _component(role, name, source, draft, say, read)
    manifest = json.loads((draft / "manifest.json").read_text(encoding="utf-8"))
    manifest["components"] = {role: manifest["components"][role] for role in roles}
    manifest |= {"kind": name.removeprefix("anygpt-"), **(about or {})}
    manifest["vocabulary"] = check_vocabulary(Family.open(draft), exact=name == "anygpt-chat")
    write_json(draft / "manifest.json", manifest)
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.replace(old)
    draft.replace(out)
    shutil.rmtree(old, ignore_errors=True)
    return dict(manifest)
