"""The repository is a Space and a container: their files agree with the pins and with each other."""

from __future__ import annotations

import re
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent


def pin(name: str) -> str:
    found = re.search(rf"^{name}==([\w.]+)", (HOME / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return found[1]


def test_the_front_matter_is_what_a_space_needs() -> None:
    _, head, _ = (HOME / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    facts = dict(line.split(": ", 1) for line in head.strip().splitlines())
    assert facts["sdk"] == "gradio" and facts["sdk_version"] == pin("gradio")
    assert (HOME / facts["app_file"]).is_file() and len(facts["short_description"]) <= 60
    assert facts["suggested_hardware"] == "cpu-basic" and facts["license"] == "apache-2.0"
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {facts["colorFrom"], facts["colorTo"]} <= colours


def test_system_packages_are_the_same_everywhere() -> None:
    packages = (HOME / "packages.txt").read_text(encoding="utf-8").split()
    docker = (HOME / "Dockerfile").read_text(encoding="utf-8")
    assert packages and all(name in docker for name in packages)
    assert f"torch=={pin('torch')}" in docker and "USER person" in docker
    left_out = (HOME / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv", "sessions", "checkpoints/*"} <= set(left_out) and "!checkpoints/mini" in left_out
