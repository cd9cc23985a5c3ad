"""The table of figures against their gates, for documents.

python -m anygpt_demo.eval.table docs/figures/mini.json                   # prints it
python -m anygpt_demo.eval.table docs/figures/mini.json docs/mini.md      # puts it between <!-- gates --> and <!-- /gates -->
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


def put_between(page: Path, mark: str, text: str) -> None:
    """Exchange what stands between <!-- mark --> and <!-- /mark --> in a Markdown page. Raises ValueError if it has no such place."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(f"<!-- {mark} -->")
    _, end, after = rest.partition(f"<!-- /{mark} -->")
    if not begin or not end:
        raise ValueError(f"{page.name} has no place for {mark}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    written = table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["figures"])
    for name in sys.argv[2:]:
        put_between(Path(name), "gates", written)
    print(written)
