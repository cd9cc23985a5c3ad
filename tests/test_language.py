"""Whether the Chinese interface knows every sentence that a refusal or a remark may hold."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parent.parent
ZH: dict[str, str] = json.loads((HOME / "assets" / "zh.json").read_text(encoding="utf-8"))
PAGES = (
    "chat",
    "conversation",
    "drawer",
    "enhance",
    "lens",
    "loading",
    "longer",
    "media",
    "selftest",
    "turns",
    "ui",
    "view",
    "visitors",
    "welcome",
)
ERRORS = ("UserError", "BadPicture", "BadAudio", "BadText", "ModelFault", "MissingProgram")
SAID = {"remark": 1, "Note": 1, "closer": 0, "fault": 1}  # other functions whose first words the person reads
# what the terminal alone shows
TERMINAL = ("Port ", "Another program listens", "Choose another one with --port", "The endpoints cannot", "The package mcp")


def forms(node: ast.expr) -> list[str]:
    """The ways in which a sentence may be listed: what is put in stands as a number (#) or as words (*)."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if not isinstance(node, ast.JoinedStr):
        return []
    pieces = [[piece.value] if isinstance(piece, ast.Constant) else ["#", "*", ""] for piece in node.values]
    return ["".join(made) for made in product(*pieces)]


def sentences(path: Path) -> Iterator[list[str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
        if isinstance(node, ast.Call) and (name in ERRORS or name in SAID):
            yield from filter(None, map(forms, node.args[: 3 if name in ERRORS else SAID[name]]))
        elif name == "button" and isinstance(node, ast.Call):
            yield from filter(None, map(forms, node.args[2:4]))


@pytest.mark.parametrize("name", PAGES)
def test_every_sentence_has_a_translation(name: str) -> None:
    missing = []
    for found in sentences(HOME / "anygpt_demo" / f"{name}.py"):
        plain = [re.sub(r"\d+(\.\d+)?", "#", form) for form in found]
        if not any(form in ZH for form in (*found, *plain)) and not found[0].startswith(TERMINAL):
            missing.append(found[0])
    assert not missing
