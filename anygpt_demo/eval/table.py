"""The tables of figures in documents: all against their gates, and a short one.

`python -m anygpt_demo.eval.table docs/figures/mini.json docs/mini.md README.md` prints the first and puts each where a page has a
place for it: <!-- gates --> ... <!-- /gates --> and <!-- summary --> ... <!-- /summary -->.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# key -> (must, goal, whether more is better)
GATES: dict[str, tuple[float, float, bool]] = {
    "picture_recon.object": (0.80, 0.93, True), "picture_recon.place": (0.85, 0.97, True), "picture_recon.time": (0.90, 0.97, True),
    "picture_recon.style": (0.70, 0.92, True), "text_to_picture.object": (0.72, 0.90, True), "text_to_picture.place": (0.82, 0.96, True),
    "text_to_picture.time": (0.85, 0.96, True), "text_to_picture.count": (0.75, 0.92, True), "text_to_picture.relation": (0.70, 0.90, True),
    "text_to_picture.unseen_pairs_object": (0.62, 0.88, True), "picture_to_text.object_f1": (0.80, 0.90, True),
    "picture_to_text.place": (0.93, 0.97, True), "picture_to_text.cider": (1.075, 2.0, True),
    "speech_to_text.wer_seen_voices": (0.15, 0.05, False), "speech_to_text.wer_heldout_voice": (0.35, 0.15, False),
    "speech_to_text.cer_human": (0.45, 0.15, False), "speech_to_text.wer_human": (0.80, 0.30, False),
    "text_to_speech.wer_closed_delta": (0.15, 0.03, False), "text_to_speech.wer_open_delta": (0.20, 0.085, False),
    "voice_clone.cosine": (0.68, 0.80, True), "voice_clone.rank1": (0.60, 0.90, True), "speech_codec.stoi": (0.86, 0.93, True),
    "speech_codec.pesq_wb": (1.5, 2.3, True), "speech_codec.phone_accuracy": (0.68, 0.80, True),
    "speech_codec.reconstruction_cosine": (0.75, 0.87, True), "text_to_music.tempo": (0.90, 0.98, True),
    "text_to_music.drums": (0.95, 0.99, True), "text_to_music.instrument_family": (0.75, 0.92, True),
    "text_to_music.mode": (0.80, 0.95, True),
    "music_to_text.tempo": (0.90, 0.98, True), "music_to_text.drums": (0.95, 0.99, True),
    "music_to_text.instrument_family": (0.75, 0.92, True), "music_to_text.genre": (0.70, 0.92, True), "chat.modality": (0.98, 0.995, True),
    "chat.facts": (0.80, 0.92, True), "chat.follow_up": (0.70, 0.90, True), "chat.malformed": (0.0, 0.0, False),
    "matrix.min_cell": (0.60, 0.85, True),
}  # fmt: skip


SUMMARY: tuple[tuple[str, tuple[str, ...]], ...] = (  # what it is about, and its figures
    ("Picture → codes → picture: thing / place / style", ("picture_recon.object", "picture_recon.place", "picture_recon.style")),
    ("Request → picture: thing / place / relation", ("text_to_picture.object", "text_to_picture.place", "text_to_picture.relation")),
    ("The same for pairs of thing and place never seen together: thing", ("text_to_picture.unseen_pairs_object",)),
    ("Picture → caption: things (F1) / place", ("picture_to_text.object_f1", "picture_to_text.place")),
    ("Enhancement of true pictures, 256 → 512 px: share that comes nearer than bicubic", ("picture_enhance.nearer",)),
    ("Speech codec: STOI / word errors added", ("speech_codec.stoi", "speech_codec.wer_closed_delta")),
    ("Speech → text: word errors, seen voices / unseen voice", ("speech_to_text.wer_seen_voices", "speech_to_text.wer_heldout_voice")),
    ("Speech → text: letters wrong, a person reading", ("speech_to_text.cer_human",)),
    ("Text → speech: word errors added", ("text_to_speech.wer_closed_delta",)),
    ("Music codec: tempo / drums", ("music_recon.tempo", "music_recon.drums")),
    ("Request → music: tempo / drums / genre", ("text_to_music.tempo", "text_to_music.drums", "text_to_music.genre")),
    ("Music → caption: tempo / drums / genre", ("music_to_text.tempo", "music_to_text.drums", "music_to_text.genre")),
    ("Replies in the modality that was asked for / malformed blocks", ("chat.modality", "chat.malformed")),
    ("Facts that a request settles, named in the reply / the same late in a chat, after two others", ("chat.facts", "chat.late_facts")),
)


def row(key: str, found: Mapping[str, Any] | None) -> str:
    """One line of the table; what was not measured stays in it."""
    must, goal, more = GATES[key]
    if found is None:
        return f"| `{key}` | not measured | | | | {must:g} / {goal:g} | |"
    value = float(found["value"])
    state = "goal" if (value >= goal if more else value <= goal) else "must" if (value >= must if more else value <= must) else "short"
    low, high = found.get("ci95") or (float("nan"), float("nan"))
    ceiling, floor = (f"{found[name]:.2f}" if found.get(name) is not None else "" for name in ("ceiling", "floor"))
    return f"| `{key}` | {value:.2f} [{low:.2f}, {high:.2f}] | {ceiling} | {floor} | {found['n']} | {must:g} / {goal:g} | {state} |"


def table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown, one row per gate, in the order of GATES."""
    head = ["| figure | measured [95 %] | ceiling | floor | n | must / goal | reached |", "|---|---|---|---|---|---|---|"]
    return "\n".join([*head, *(row(key, figures.get(key)) for key in GATES)])


def summary(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown, one row per line of SUMMARY whose figures were measured."""
    lines = ["| what | measured [95 %] | n |", "|---|---|---|"]
    for label, keys in SUMMARY:
        found = [figures[key] for key in keys if key in figures]
        if len(found) < len(keys):
            continue
        values = ["{value:.2f} [{0:.2f}, {1:.2f}]".format(*item["ci95"], value=item["value"]) for item in found]
        numbers = list(dict.fromkeys(str(item["n"]) for item in found))
        lines.append(f"| {label} | {' / '.join(values)} | {' / '.join(numbers)} |")
    return "\n".join(lines)


def put_between(page: Path, mark: str, text: str) -> None:
    """Exchange what stands between <!-- mark --> and <!-- /mark --> in a Markdown page. Raises ValueError if it has no such place."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(f"<!-- {mark} -->")
    _, end, after = rest.partition(f"<!-- /{mark} -->")
    if not begin or not end:
        raise ValueError(f"{page.name} has no place for {mark}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    measured = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["figures"]
    for page in map(Path, sys.argv[2:]):
        for mark, text in (("gates", table(measured)), ("summary", summary(measured))):
            if f"<!-- {mark} -->" in page.read_text(encoding="utf-8"):
                put_between(page, mark, text)
    print(table(measured))
