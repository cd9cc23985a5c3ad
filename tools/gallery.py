"""Make assets/gallery anew with the shipped weights: one command an entry, its media and its words, nothing selected.

    python tools/gallery.py

Each entry is one turn of `python -m anygpt_demo chat --once`; README.md in the gallery shows the command above what it made.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GALLERY = ROOT / "assets" / "gallery"
ENTRIES: dict[str, list[str]] = {  # name -> arguments after `chat --once`
    "picture": ["--text", "Draw a dog on the beach."],
    "picture-two": ["--text", "Please paint a cat and a tree in the park at night."],
    "caption": ["--text", "What is in this picture?", "--image", "assets/examples/picture.png"],
    "music": ["--text", "Compose a fast rock tune with drums."],
    "speech": ["--text", "Say: the dog is on the beach."],
    "transcript": ["--text", "Write down what I say.", "--speech", "assets/examples/request.wav"],
    "spoken-request": ["--speech", "assets/examples/request.wav"],
    "picture-to-music": ["--text", "Make music that fits this picture.", "--image", "assets/examples/picture.png"],
}


def make(name: str, words: list[str]) -> str:
    """Run one entry, copy its media, return its part of the page."""
    command = ["chat", "--once", *words, "--seed", "1"]
    with tempfile.TemporaryDirectory() as folder:
        whole = [sys.executable, "-m", "anygpt_demo", *command, "--out", folder, "--json"]
        subprocess.run(whole, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        reply = json.loads((Path(folder) / "reply.json").read_text(encoding="utf-8"))
        lines = [f"## {name}", "", "```", f"python -m anygpt_demo {shlex.join(command)} --out out --json", "```", ""]
        for number, part in enumerate(reply["parts"]):
            if part.get("file"):
                source = Path(folder) / part["file"]
                target = f"{name}-{number}{source.suffix}"
                shutil.copyfile(source, GALLERY / target)
                shown = f"![{name}]({target})" if source.suffix in (".png", ".jpg", ".webp") else f"[{target}]({target})"
                lines += [shown, ""]
            if words_said := part.get("text") or part.get("transcript"):
                lines += [f"> {words_said.strip()}", ""]
    return "\n".join(lines)


def main() -> None:
    """All entries; old media go first."""
    for old in GALLERY.iterdir():
        if old.name != "page.png":
            old.unlink()
    head = "# Gallery\n\nEvery entry is the first answer of the shipped weights with seed 1; made by `python tools/gallery.py`.\n"
    entries = [make(name, words) for name, words in ENTRIES.items()]
    (GALLERY / "README.md").write_text("\n".join([head, *entries]), encoding="utf-8")


if __name__ == "__main__":
    main()
