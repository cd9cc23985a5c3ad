"""The empty page: examples from the gallery or of our own, and the check of the parts at the start."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from anygpt_demo.chat import Chat
from anygpt_demo.checkpoints import MINI, Family
from anygpt_demo.errors import BadCheckpoint
from anygpt_demo.media import Audio, Picture
from anygpt_demo.selftest import Cell, Health, memory_mb, table
from anygpt_demo.vocabulary import Vocabulary
from anygpt_demo.welcome import examples, header, model_facts, own_examples, welcome


def test_our_own_examples_are_there_and_answer_in_every_modality() -> None:
    found = own_examples()
    assert {made for item in found for made in item.made} == {"text", "image", "speech", "music"}
    assert all(path.is_file() for item in found for _, path in item.files)


def test_recorded_examples_are_read(tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), "orange").save(tmp_path / "dog-1.png")
    entry = {"name": "dog", "text": "Draw <b>a dog</b>.", "files": {}, "seed": 5}
    entry["parts"] = [{"type": "text", "text": "Here:", "file": None}, {"type": "image", "file": "dog-1.png", "text": None}]
    bad = [{}, 7, {**entry, "files": {"image": "absent.png"}}, {**entry, "parts": 3}, {**entry, "seed": "x"}]
    (tmp_path / "gallery.json").write_text(json.dumps([*bad, *[entry] * 4, {**entry, "figure": "9 and 11"}]))
    found = examples(tmp_path / "gallery.json")
    assert len(found) == 5 and found[0].seed == 5 and found[0].made == ("text", "image")
    page = welcome(found, "mini")
    assert page.count("data:image/webp;base64,") == 5 and page.count('name="example"') == 5 and "More examples" in page
    assert page.count("As in Figure") == 1 and "As in Figure 9 and 11 of the paper" in page
    assert "<b>" not in page and "no facts" in page and "no facts" not in welcome(found, "anygpt-chat")


@pytest.mark.parametrize("text", ["", "[", "{}", "[]", "7", '["x"]'])
def test_a_damaged_gallery_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "gallery.json").write_text(text)
    assert examples(tmp_path / "gallery.json") == own_examples() == examples(tmp_path / "absent.json")


def test_the_check_at_the_start_finds_what_does_not_work(vocabulary: Vocabulary) -> None:
    def load(name: str) -> object:
        if name == "music":
            raise BadCheckpoint("The music codec is damaged.", "x", "y")
        wrong = Audio(np.full(99, np.nan, np.float32), 16_000)
        return SimpleNamespace(decode=lambda codes: Picture(np.zeros((4, 4, 3), np.uint8)) if name == "image" else wrong)

    chat = Chat(vocabulary, None, load)  # type: ignore[arg-type]
    health = Health(chat.modalities)
    assert health.state == "busy" and not health.done.is_set() and "Parts are loading" in header("mini", health)
    health.check(chat)
    assert health.found == {"image": "", "speech": "gives what is not a number", "music": "The music codec is damaged."}
    assert health.state == "bad" and health.done.is_set() and "damaged" in header("mini", health)
    assert Health().state == "good" and Health().done.is_set()


def test_the_panel_of_the_model_says_sizes_peak_and_fingerprint(vocabulary: Vocabulary) -> None:
    """Bytes as they lie on disk, the most memory there was, the mark of the files, and which codecs are loaded."""
    home = Family.open(MINI)
    chat = Chat(vocabulary, None, lambda name: None, model=home.fingerprint)  # type: ignore[arg-type]
    before = memory_mb()
    shown = model_facts(chat, "mini", home, Health(["image"]))
    sizes = dict(re.findall(r'<th scope="row">([^<]+)</th><td>([\d.]+) MB</td>', shown))
    assert set(sizes) == {role.replace("_", " ").capitalize() for role in home.manifest["components"]}
    for role in home.manifest["components"]:
        lies = sum(path.stat().st_size for path in (MINI / role).iterdir() if path.name in home.component(role).files)
        assert sizes[role.replace("_", " ").capitalize()] == f"{lies / 1e6:.1f}", role
    assert home.fingerprint[:16] in shown and "In memory besides" not in shown and "is loading" in shown
    (peak,) = re.findall(r"held at most (\d+) MB", shown)
    assert round(before) <= int(peak) <= round(memory_mb())
    chat.codec("music")
    assert "<span>music</span>" in model_facts(chat, "mini", home, Health())
    bare = model_facts(Chat(vocabulary, None, lambda name: None), "some", None, Health())  # type: ignore[arg-type]
    assert "<table" not in bare and "Fingerprint" not in bare


def test_the_self_test_says_time_and_memory_of_each_cell(vocabulary: Vocabulary) -> None:
    chat = Chat(vocabulary, None, lambda name: None)  # type: ignore[arg-type]
    done = [Cell("text", "image", True, 1.23, "40 tokens", 512.4), Cell("image", "text", False, 0.5, "nothing <was> made", 600.0)]
    shown = table(chat, done)
    cells = re.findall(r'<td class="(\w+)" title="[^"]*">(\w+)<small>([^<]+)</small><small>([^<]+)</small></td>', shown)
    assert cells == [("good", "works", "1.2 s", "512 MB"), ("bad", "fails", "0.5 s", "600 MB")]
    assert "1 of 2 work" in shown and "<was>" not in shown and shown.count("&#8230;") == 14
