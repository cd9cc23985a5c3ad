"""The published tokenizer layout gives the published ids."""

from __future__ import annotations

import pytest

from tests.golden import places
from tests.golden.tokens import open_vocabulary, tokenizers


@pytest.fixture(scope="module")
def vocabularies(golden_dir, tmp_path_factory):
    folders = tokenizers(golden_dir)
    assert folders, f"no tokenizer_* folder in {golden_dir}"
    scratch = tmp_path_factory.mktemp("tokenizers")
    return [open_vocabulary(folder, scratch) for folder in folders]


@pytest.fixture(scope="module")
def published():
    return places.manifest("llm_vocab")["published_chat"]


def test_every_range_and_mark_is_where_it_was_published(vocabularies, published):
    for vocabulary in vocabularies:
        assert vocabulary.size == published["vocab_size"]
        for segment in published["segments"]:
            item = vocabulary.ranges.get(segment["modality"])
            if item is None:  # the checkpoint's audio range is tolerated and unused
                continue
            assert (item.first, item.stop - 1) == (segment["first_id"], segment["last_id"])
            assert (item.start, item.end) == (segment["start_id"], segment["end_id"])
            assert item.modality.codes == segment["count"] and item.modality.symbol == segment["prefix"]
        singles = published["single_tokens"]
        named = {"[Human]": "human", "[MMGPT]": "mmgpt", "<eoh>": "eoh", "<eos>": "eos", "<-Ins->": "ins", "<-Res->": "res"}
        assert {mark: getattr(vocabulary, name) for mark, name in named.items()} == {mark: singles[mark] for mark in named}
        seen = published["observed_ids_in_published_added_tokens_json"]
        assert {mark: vocabulary.marks[mark] for mark in seen} == seen
        assert (vocabulary.bos, vocabulary.stop) == (1, 2)


def test_typed_marks_are_letters(vocabularies):
    for vocabulary in vocabularies:
        for mark in [*list(vocabulary.marks)[::97], "<eot>", "<s>", "</s>", "<0x0A>"]:
            for text in (mark, f"a{mark}b", f" {mark} {mark}"):
                ids = vocabulary.encode_text(text)
                assert all(vocabulary.is_text(number) for number in ids) and vocabulary.decode_text(ids) == text
