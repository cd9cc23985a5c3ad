"""Make assets/gallery anew with the shipped weights: one command an entry, its media and its words, nothing selected.

    python tools/gallery.py

Each entry is one turn of `python -m anygpt_demo chat --once`; README.md in the gallery shows the command above what it made,
and gallery.json is what the empty page shows as examples: a click there makes the same reply again.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GALLERY = ROOT / "assets" / "gallery"
INPUTS = "assets/examples/"
PICTURE, TUNE, REQUEST = f"{INPUTS}picture.png", f"{INPUTS}tune.wav", f"{INPUTS}request.wav"
SEED = 1
ENTRIES: dict[str, dict[str, str]] = {  # name -> message; the page shows the first four at once
    "picture": {"text": "Draw a dog on the beach."},
    "music": {"text": "Compose a fast rock tune with drums."},
    "caption": {"text": "What is in this picture?", "image": PICTURE},
    "spoken-request": {"text": "", "speech": REQUEST},
    "spoken-answer": {"text": "", "speech": f"{INPUTS}question.wav"},
    "speech": {"text": "Say: the dog is on the beach."},
    "picture-two": {"text": "Please paint a cat and a tree in the park at night."},
    "transcript": {"text": "Write down what I say.", "speech": REQUEST},
    "spoken-poem": {"text": "", "speech": f"{INPUTS}poem.wav"},
    "picture-and-speech-to-music": {"text": "", "image": PICTURE, "speech": f"{INPUTS}fits.wav"},
    "music-and-speech-to-picture": {"text": "", "music": TUNE, "speech": f"{INPUTS}scene.wav"},
    "picture-to-music": {"text": "Make music that fits this picture.", "image": PICTURE},
    "music-to-picture": {"text": "Draw a picture that fits this music.", "music": TUNE},
    "music-to-music": {"text": "Play more music like this.", "music": TUNE},
    "picture-and-music": {"text": "Draw a boat on the lake at sunset. Add music that fits."},
}
FIGURES = {  # demonstrations of the paper (arXiv 2402.12226) that an entry repeats in the small world of mini
    "spoken-poem": "8", "picture-and-speech-to-music": "9 and 11", "music-and-speech-to-picture": "10", "picture-to-music": "13 and 14",
    "music-to-picture": "15", "music-to-music": "16", "picture-and-music": "12",
}  # fmt: skip


def make(name: str, message: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """Run one entry and copy its media. Returns its part of README.md and of gallery.json."""
    words = [word for key, value in message.items() if value for word in (f"--{key}", value)]
    command = ["chat", "--once", *words, "--seed", str(SEED)]
    parts: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        whole = [sys.executable, "-m", "anygpt_demo", *command, "--out", folder, "--json"]
        subprocess.run(whole, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        reply = json.loads((Path(folder) / "reply.json").read_text(encoding="utf-8"))
        paper = [f"As in Figure {FIGURES[name]} of the paper.", ""] if name in FIGURES else []
        lines = [f"## {name}", "", *paper, "```", f"python -m anygpt_demo {shlex.join(command)} --out out --json", "```", ""]
        for number, part in enumerate(reply["parts"]):
            target = None
            if part.get("file"):
                source = Path(folder) / part["file"]
                target = f"{name}-{number}{source.suffix}"
                shutil.copyfile(source, GALLERY / target)
                shown = f"![{name}]({target})" if source.suffix in (".png", ".jpg", ".webp") else f"[{target}]({target})"
                lines += [shown, ""]
            if words_said := part.get("text") or part.get("transcript"):
                lines += [f"> {words_said.strip()}", ""]
            parts.append({"type": part["type"], "file": target, "text": part.get("text")})
    files = {key: value for key, value in message.items() if key != "text"}
    entry = {"name": name, "text": message["text"], "files": files, "seed": SEED, "figure": FIGURES.get(name, ""), "parts": parts}
    return "\n".join(lines), entry


def main() -> None:
    """All entries; old media go first."""
    GALLERY.mkdir(exist_ok=True)
    for old in GALLERY.iterdir():
        old.unlink()
    head = f"# Gallery\n\nEvery entry is the first answer of the shipped weights with seed {SEED}; made by `python tools/gallery.py`.\n"
    made = [make(name, message) for name, message in ENTRIES.items()]
    (GALLERY / "README.md").write_text("\n".join([head, *(text for text, _ in made)]), encoding="utf-8")
    entries = json.dumps([entry for _, entry in made], ensure_ascii=False, indent=1)
    (GALLERY / "gallery.json").write_text(entries + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
