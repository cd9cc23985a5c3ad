"""What a visitor sees first: which family answers and whether it works, and examples that run when they are clicked.

The examples are those of assets/gallery/gallery.json (made by tools/gallery.py with the shipped weights), else four of ours.
A click sends the example's message with its seed: the same weights make again what the card shows.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from anygpt_demo.chat import Chat
from anygpt_demo.loading import Loading
from anygpt_demo.selftest import Health, memory_mb
from anygpt_demo.view import NAMES, literal

if TYPE_CHECKING:
    from anygpt_demo.checkpoints import Family

HOME = Path(__file__).resolve().parent.parent
GALLERY = HOME / "assets" / "gallery" / "gallery.json"
FIRST = 4  # cards that are shown at once
THUMBNAIL = 96  # pixels
HERE = "They run on this computer; nothing leaves it."
AWAY = "What you send goes to the server of this page, where the models run, and to nobody else."
TOY = "mini is a toy: simple scenes, short English sentences and tunes, no facts."


@dataclass(frozen=True)
class Example:
    """A message to try. files: (modality, file); made: what the recorded reply holds; picture: one of it, or one that is sent.

    figure: of the paper, which shows the same.
    """

    text: str
    files: tuple[tuple[str, Path], ...] = ()
    made: tuple[str, ...] = ()
    picture: Path | None = None
    seed: int | None = None
    figure: str = ""


def own_examples() -> list[Example]:
    """One for each modality, of files that lie in assets/examples."""
    folder = HOME / "assets" / "examples"
    found = [
        Example("Draw a dog in a meadow.", made=("image",)),
        Example("Play some slow classical music.", made=("music",)),
        Example("What is in this picture?", (("image", folder / "picture.png"),), ("text",), folder / "picture.png"),
        Example("", (("speech", folder / "request.wav"),), ("speech",)),
    ]
    return [item for item in found if all(path.is_file() for _, path in item.files)]


def examples(path: Path = GALLERY) -> list[Example]:
    """The recorded ones, else our own. Entries that are not what tools/gallery.py writes are left out."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        found = [item for item in map(_recorded, entries, [path.parent] * len(entries)) if item is not None]
    except (OSError, ValueError, TypeError):
        found = []
    return found or own_examples()


def _recorded(entry: dict, folder: Path) -> Example | None:
    try:
        files = tuple((str(kind), HOME / str(name)) for kind, name in entry["files"].items())
        made = tuple(dict.fromkeys(str(part["type"]) for part in entry["parts"]))
        shown = [folder / part["file"] for part in entry["parts"] if part["type"] == "image" and part.get("file")]
        shown += [path for kind, path in files if kind == "image"]
        example = Example(str(entry["text"]), files, made, shown[0] if shown else None, int(entry["seed"]), str(entry.get("figure", "")))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return example if all(path.is_file() for _, path in files) else None


def thumbnail(path: Path) -> str:
    """A picture, small, as a data URL; nothing if it cannot be read."""
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            data = io.BytesIO()
            small.save(data, "WEBP", quality=80)
    except (OSError, ValueError):
        return ""
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"


def welcome(cards: Sequence[Example], family: str) -> str:
    """The empty page: what it can do, examples, and what the family is not."""
    shown = [_card(number, card) for number, card in enumerate(cards)]
    more = f'<details class="more"><summary>More examples</summary><div class="cards">{"".join(shown[FIRST:])}</div></details>'
    note = f'<p class="smallprint">{TOY}</p>' if family == "mini" else ""
    return (
        '<div class="welcome"><h2>Text, pictures, speech and music, in and out</h2>'
        "<p>One small language model reads and writes them all as tokens. Type, hold the button and speak, or attach a file.</p>"
        f'<div class="cards">{"".join(shown[:FIRST])}</div>{more if len(shown) > FIRST else ""}{note}</div>'
    )


def _card(number: int, card: Example) -> str:
    picture = thumbnail(card.picture) if card.picture is not None else ""
    image = f'<img src="{picture}" alt="" width="48" height="48">' if picture else ""
    given = [NAMES.get(kind, kind) for kind, _ in card.files] + (["Text"] if card.text else [])
    made = [NAMES.get(kind, "Text") for kind in card.made]
    kinds = f"<small>{literal(' + '.join(given))} &#8594; {literal(', '.join(made))}</small>"
    if card.figure:
        kinds += f"<small>As in Figure {literal(card.figure)} of the paper</small>"
    words = f'<span class="words">{literal(card.text)}</span>' if card.text else "<span>A spoken request</span>"
    return f'<button type="button" name="example" value="{number}" class="example">{image}<span>{words}{kinds}</span></button>'


# ---------------------------------------------------------------------------------------------------------- the family

DOTS = {"good": "All parts work", "bad": "A part does not work", "busy": "Parts are loading"}


def header(family: str, health: Health, here: bool = True, loading: Loading | None = None) -> str:
    """Name of the page, which models answer, and whether they work. here: on the computer of whoever looks at it."""
    state = health.state if loading is None or loading.there.is_set() else "busy"
    dot = f'<i class="dot {state}" role="img" aria-label="{DOTS[state]}"></i>'
    about = f"{dot}{literal(family)}<span>{', on this computer' if here else ', on a server'}</span>"
    more = f"<div>{about_family(family, here)}{told(health)}</div>"
    badge = f'<details class="badge"><summary title="What it is">{about}</summary>{more}</details>'
    return f'<header class="top"><h1>AnyGPT demo</h1>{badge}</header>'


def told(health: Health) -> str:
    """What was found at the start, part by part."""
    words = {"": "works", Health.LOADING: "is loading"}
    rows = [
        f'<li><span class="of-{name}">{NAMES.get(name, name)}</span> <span>{literal(words.get(state, state))}</span></li>'
        for name, state in health.found.items()
    ]
    return f'<ul class="health">{"".join(rows)}</ul>' if rows else ""


def about_family(family: str, here: bool = True) -> str:
    """What a family is, where what is sent to it goes, and what not to expect of it."""
    if family != "mini":
        about = "<p>Converted from the official weights. It can be wrong, and it repeats what its training data held.</p>"
        return about if here else f"{about}<p>{AWAY}</p>"
    return (
        "<p><b>mini</b> <span>is a family of very small models, trained from nothing for this demo.</span> "
        f"<span>{HERE if here else AWAY}</span></p>"
        "<p>It knows a small world: simple scenes of things and places, short spoken sentences, short tunes. English only.</p>"
        "<p>It is not an assistant: it does not know facts, and it will be wrong about anything outside its world.</p>"
    )


def model_facts(chat: Chat, family: str, home: Family | None, health: Health, here: bool = True) -> str:
    """Which files are loaded, how large they are, and what of them is in memory."""
    rows = []
    for role in sorted(home.manifest["components"]) if home is not None else ():
        size = sum(int(facts["bytes"]) for facts in home.component(role).files.values()) if home is not None else 0
        rows.append(f'<tr><th scope="row">{literal(role.replace("_", " ").capitalize())}</th><td>{size / 1e6:.1f} MB</td></tr>')
    loaded = ", ".join(f"<span>{literal(name)}</span>" for name in chat.loaded)
    memory = f"<p>The process has held at most {memory_mb():.0f} MB.</p>"
    held = f"<p><span>In memory besides the language model:</span> {loaded}</p>" if loaded else ""
    mark = f'<p class="smallprint"><span>Fingerprint</span> {literal(chat.model[:16])}</p>' if chat.model else ""
    parts = f'<table class="facts">{"".join(rows)}</table>' if rows else ""
    return f"<h2>{literal(family)}</h2>{about_family(family, here)}{told(health)}{parts}{held}{memory}{mark}"
