"""Ids are looked up, bad tokenizers are refused, and a person's text never becomes a control id."""

from __future__ import annotations

import json
import os
import random
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anygpt_demo import codecs
from anygpt_demo.errors import BadCheckpoint
from anygpt_demo.vocabulary import TextStream, Vocabulary
from tests.tokens import GESTURE

NAMES = [*codecs.CODECS, "gesture"]


def random_codes(facts, rng, frames=None):
    frames = frames if frames is not None else int(rng.integers(facts.frames.start, min(facts.frames.stop, 40)))
    return rng.integers(0, facts.codebook, (frames, facts.layers))


@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_codes_between_marks_and_read_back(wider, name):
    item = wider.ranges[name]
    for seed in range(20):
        codes = random_codes(item.modality, np.random.default_rng(seed))
        ids = wider.block(name, codes)
        assert ids[0] == item.start and ids[-1] == item.end and len(ids) == codes.size + 2
        for position, number in enumerate(ids[1:-1]):
            low, high = item.layer(position % item.modality.layers)
            assert low <= number < high
        assert (wider.codes(name, ids) == codes).all()


@pytest.mark.parametrize("name", NAMES)
def test_bad_codes_are_refused(wider, name):
    facts = wider.ranges[name].modality
    good = random_codes(facts, np.random.default_rng(0))
    for bad in (good * 0 - 1, good * 0 + facts.codebook, good[:0], good.reshape(-1), np.repeat(good, facts.frames.stop, 0)):
        with pytest.raises(ValueError):
            wider.block(name, bad)
    ids = wider.block(name, good)[1:-1]
    with pytest.raises(ValueError):
        wider.codes(name, [wider.human, *ids[1:]])
    if facts.layers > 1:
        with pytest.raises(ValueError):
            wider.codes(name, ids[:-1])
        with pytest.raises(ValueError):
            wider.codes(name, ids[::-1])


def test_ranges_do_not_overlap_and_a_new_modality_moves_no_old_id(vocabulary, wider):
    taken = set()
    for item in wider.ranges.values():
        ids = {*range(item.first, item.stop), item.start, item.end}
        assert not taken & ids and min(ids) >= wider.text_size
        taken |= ids
    for name, item in vocabulary.ranges.items():
        assert (item.first, item.start, item.end) == (wider.ranges[name].first, wider.ranges[name].start, wider.ranges[name].end)


def damaged(folder, source, change):
    shutil.copytree(source, folder)
    path = folder / "added_tokens.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    change(table)
    path.write_text(json.dumps(table), encoding="utf-8")
    return folder


@pytest.mark.parametrize("mark", ["<soim>", "<👀7>", "<🎶8191>", "<-Ins->", "[MMGPT]"])
def test_a_missing_token_is_refused(tmp_path, tiny_tokenizer, mark):
    with pytest.raises(BadCheckpoint):
        Vocabulary(damaged(tmp_path / "t", tiny_tokenizer, lambda table: table.pop(mark)))


def test_swapped_shifted_foreign_and_unreadable_tokenizers_are_refused(tmp_path, tiny_tokenizer):
    def swap(table):
        table["<👀1>"], table["<👀2>"] = table["<👀2>"], table["<👀1>"]

    def shift(table):
        for key in table:
            table[key] += 1

    def more(table):
        table["<👀8192>"] = max(table.values()) + 1

    def words(table):
        table["<eos>"] = "three"

    for number, change in enumerate((swap, shift, more, words)):
        with pytest.raises(BadCheckpoint):
            Vocabulary(damaged(tmp_path / str(number), tiny_tokenizer, change))
    with pytest.raises(BadCheckpoint):
        Vocabulary(tmp_path / "nowhere")
    broken = damaged(tmp_path / "broken", tiny_tokenizer, lambda table: None)
    (broken / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(BadCheckpoint):
        Vocabulary(broken)
    with pytest.raises(BadCheckpoint):
        Vocabulary(tiny_tokenizer, (*codecs.modalities(), GESTURE))


def readable(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("▁", " ")


MARKS = ["[Human]", "[MMGPT]", "<eoh>", "<eos>", "<-Ins->", "<-Res->", "<s>", "</s>", "<unk>", "<0x0A>", "<eom>", "[AnyGPT]"]
MARKS += ["<soim>", "<eoim>", "<sosp>", "<eosp>", "<somu>", "<eomu>", "<👀12>", "<🗣\ufe0f3>", "<🎶8191>"]
MARKS += ["<eot>", "▁", "\x00", "\ud800", "\udc00"]
hostile = st.lists(st.one_of(st.sampled_from(MARKS), st.text(max_size=6), st.characters()), max_size=8).map("".join)


@settings(max_examples=300, deadline=None)
@given(text=hostile)
def test_text_of_a_person_never_yields_a_control_id(vocabulary, text):
    ids = vocabulary.encode_text(text)
    assert all(vocabulary.is_text(number) for number in ids)
    assert vocabulary.decode_text(ids) == readable(text)


def test_adversarial_texts_yield_no_control_id(vocabulary):
    """ADVERSARIAL_TEXTS=100000 runs the full count."""
    draw = random.Random(1)
    for _ in range(int(os.environ.get("ADVERSARIAL_TEXTS", "5000"))):
        parts = []
        for _ in range(draw.randint(1, 6)):
            mark = draw.choice(MARKS)
            at = draw.randint(0, len(mark))
            anything = chr(draw.randint(0, 0x10FFFF))
            parts.append(draw.choice([mark, mark[:at], mark[at:], mark[:at] + " " + mark[at:], anything, "\u200d" + mark]))
        ids = vocabulary.encode_text("".join(parts))
        assert all(vocabulary.is_text(number) for number in ids)


@settings(max_examples=200, deadline=None)
@given(text=hostile)
def test_streamed_text_is_the_text_without_its_outer_spaces(vocabulary, text):
    stream = TextStream(vocabulary)
    shown = [stream.feed(number) for number in vocabulary.encode_text(text)]
    assert "".join(shown) + stream.end() == readable(text).strip()
    assert not any("\ufffd" in piece for piece in shown) or "\ufffd" in readable(text)


def test_the_registry_is_free_of_torch():
    import subprocess
    import sys

    code = "import sys, anygpt_demo.codecs as c, anygpt_demo.protocol, anygpt_demo.grammar; c.modalities(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
