"""Rules of the whole tree: start-up cost, what may be imported where, no machine paths, no pickle, no prints."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parent.parent
SOURCES = [HOME / "app.py", *sorted((HOME / "anygpt_demo").rglob("*.py"))]
TESTS = [path for path in sorted((HOME / "tests").rglob("*.py")) if path != Path(__file__)]
LIGHT = [
    "anygpt_demo",
    "anygpt_demo.media",
    "anygpt_demo.conversation",
    "anygpt_demo.protocol",
    "anygpt_demo.grammar",
    "anygpt_demo.codecs.image",
]
LIGHT += ["anygpt_demo.codecs.speech", "anygpt_demo.codecs.music", "anygpt_demo.checkpoints", "anygpt_demo.enhance", "anygpt_demo.cli"]
HEAVY = ("torch", "gradio", "transformers", "diffusers", "matplotlib")


def seconds(command: list[str], tries: int) -> float:
    """The best wall time of a few tries: other programs may be busy."""
    best = float("inf")
    for _ in range(tries):
        start = time.perf_counter()
        subprocess.run([sys.executable, *command], cwd=HOME, check=True, capture_output=True)
        best = min(best, time.perf_counter() - start)
    return best


def test_importing_the_package_is_cheap() -> None:
    assert seconds(["-c", "import anygpt_demo"], 5) - seconds(["-c", "pass"], 5) <= 0.3


def test_help_comes_at_once() -> None:
    assert seconds(["app.py", "--help"], 5) <= 1.0


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_load_no_framework(name: str) -> None:
    code = f"import sys, {name}; print([heavy for heavy in {HEAVY!r} if heavy in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=HOME, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(HOME)))
def test_sources(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    words = ("/" + "work/", "/" + "tmp/", "/" + "home/", "/" + "root/")
    assert not [word for word in words if word in text], "a path of somebody's machine"
    place = str(path.relative_to(HOME))
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Global), "module-level mutable state"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, "a bare except"
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if place != "anygpt_demo/unpickle.py":  # the converter's reader, which calls nothing that a file names
            assert not {"pickle", "dill", "joblib"} & set(names), "pickle runs what a file says"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called == "torch.load":
                options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                assert options.get("weights_only") == "True", "torch.load without weights_only"
                assert re.match(r"anygpt_demo/(train|eval)/|anygpt_demo/unpickle", place), "run time reads safetensors only"
            if called in ("eval", "exec", "os.system"):
                raise AssertionError(f"{called} in {place}")


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=lambda path: str(path.relative_to(HOME)))
def test_no_host_is_named(path: Path) -> None:
    """Nothing is fetched behind the person's back: hosts stand only where the official weights are named."""
    hosts = set(re.findall(r"https?://([\w.-]+)", path.read_text(encoding="utf-8")))
    allowed = {"127.0.0.1", "localhost", "evil.example", "arxiv.org", "huggingface.co", "github.com", "www.w3.org", "creativecommons.org"}
    if path.name == "fetch.py":  # the place of a published file, and only when a person asks to fetch it
        allowed.add("storage.googleapis.com")
    assert hosts <= allowed, hosts - allowed


def test_requirements_are_pinned_and_name_no_registry() -> None:
    for name in ("requirements.txt", "requirements-gpu.txt", "requirements-dev.txt", "requirements-train.txt"):
        for line in (HOME / name).read_text(encoding="utf-8").splitlines():
            assert "://" not in line and "--index" not in line
            if line and not line.startswith(("#", "-r ")) and "<" not in line.split("#")[0].split(";")[0]:
                assert "==" in line, line
    runtime = (HOME / "requirements.txt").read_text(encoding="utf-8")
    assert "torch==2.13.0" in runtime and "torchaudio" not in runtime
