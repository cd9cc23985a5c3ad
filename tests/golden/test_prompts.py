"""Every recorded prompt of the official chat and base command lines, id for id."""

from __future__ import annotations

import re

import numpy as np
import pytest

from anygpt_demo import protocol
from anygpt_demo.conversation import MediaPart, TextPart, Turn
from tests.golden.tokens import open_vocabulary, prompt_files

TASKS = {  # wording of the official task menu; other tasks leave the text as it is
    "Text-to-Image Generation": " Please generation an image.",
    "Multimodal Prompt Image Generation": " Please generation an image.",
    "Image QA": " Please provide an accurate answer consisting of only one word or phrase.",
}


@pytest.fixture(scope="module")
def books(golden_dir, tmp_path_factory):
    """(recorded prompts, vocabulary) of every prompts*.json."""
    files = prompt_files(golden_dir)
    assert files, f"no prompts*.json in {golden_dir}"
    return [(book, open_vocabulary(golden_dir / book["tokenizer_dir"], tmp_path_factory.mktemp("prompts"))) for book in files]


def codes_of(book, name):
    codes = np.asarray(book["codes"][name])
    return codes.T if codes.ndim == 2 else codes[:, None]


def human_turn(book, line):
    """A recorded command line `task|text|modality|voice|images|speeches|musics` as a turn; None for |clear."""
    fields = [field.strip() for field in line.split("|")] + [""] * 6
    if fields[1] == "clear":
        return None
    parts = []
    for name, files in zip(("image", "speech", "music"), fields[4:7], strict=True):
        parts += [MediaPart(name, codes_of(book, file.strip())) for file in files.split(",") if file.strip()]
    text = fields[1]
    if fields[0] == "Text-to-Image Generation" and text[-1:] not in (".", "!", "?"):
        text += "."
    text += TASKS.get(fields[0], "")
    return Turn("human", (*parts, TextPart(text)) if text else tuple(parts))


def test_chat_prompts_with_the_official_history(books):
    for book, vocabulary in books:
        names = {number: mark for mark, number in vocabulary.marks.items()}
        compared = 0
        for case in book["chat"]:
            turns = []
            for record in case["turns"]:
                turn = human_turn(book, record["cli_line"])
                if turn is None:
                    turns = []
                    continue
                turns.append(turn)
                ids = protocol.encode(vocabulary, turns, history="official")
                assert ids == record["prompt_ids"], case["name"]
                assert ids == [vocabulary.bos, *vocabulary.split(record["prompt"])]
                reply = vocabulary.split(record["scripted_reply"])
                stored = protocol.official_message(vocabulary, reply)
                assert (stored is None) == (record["exception"] is not None), case["name"]
                if stored is not None:
                    text = "".join(part if isinstance(part, str) else "".join(names[number] for number in part) for part in stored)
                    assert text == record["history_after"][-1][1], case["name"]
                    turns.append(Turn("mmgpt", (), ids=tuple(reply)))
                compared += 1
        assert compared >= len(book["chat"])


def test_first_turns_are_the_same_with_the_clean_history(books):
    for book, vocabulary in books:
        for case in book["chat"]:
            record = case["turns"][0]
            turn = human_turn(book, record["cli_line"])
            if turn is not None:
                assert protocol.encode(vocabulary, [turn]) == record["prompt_ids"], case["name"]


def test_the_clean_history_is_the_training_layout(books):
    """No doubled colon and no inserted spaces: `[MMGPT]: reply<eos>` newline, next turn."""
    for book, vocabulary in books:
        layout = book["train_layouts"]["MMGPT_3msg"]
        reply = Turn("mmgpt", (TextPart("AA"), MediaPart("image", codes_of(book, image_name(book)))))
        turns = [Turn("human", (TextPart("U1"),)), reply, Turn("human", (TextPart("U2"),))]
        spelled = "".join(f"<👀{code}>" for code in reply.parts[1].codes[:, 0])
        text = layout.replace("<U1>", "U1").replace("<A1>", f"AA <soim>{spelled}<eoim>").replace("<U2>", "U2")
        assert protocol.encode(vocabulary, turns) == [vocabulary.bos, *vocabulary.split(text)]
        ids, _ = protocol.training_ids(vocabulary, turns[:2])
        text = book["train_layouts"]["MMGPT_2msg"].replace("<U1>", "U1").replace("<A1>", f"AA <soim>{spelled}<eoim>")
        assert ids.tolist() == [vocabulary.bos, *vocabulary.split(text), vocabulary.stop]


def image_name(book):
    return next(name for name, codes in book["codes"].items() if len(codes) == 32)


def test_speech_replies_are_laid_out_as_in_training(books):
    for book, vocabulary in books:
        answer = book["train_layouts"]["task_prompts"]["Speech-Response"].format(instruction="say hi", response="hi")
        segments = protocol.reply_message(vocabulary, Turn("mmgpt", (TextPart("hi"),), heard="say hi"))
        assert protocol.flatten(vocabulary, segments) == vocabulary.split(answer)


def test_base_prompts(books):
    for book, vocabulary in books:
        for case in book["base"]:
            fields = case["cli_line"].split("|")
            source = TextPart(fields[2].strip()) if fields[0] == "text" else MediaPart(fields[0], codes_of(book, fields[2].strip()))
            assert protocol.encode_base(vocabulary, case["instruction"], source) == case["prompt_ids"], case["cli_line"]


def test_recorded_replies_parse_into_the_codes_that_were_decoded(books):
    """Where the official command line decodes the last block of a modality, the parser has that block too."""
    for book, vocabulary in books:
        for case in book["chat"]:
            for record in case["turns"]:
                events = list(protocol.parse(vocabulary, vocabulary.split(record["scripted_reply"])))
                blocks = {event.modality: event.codes for event in events if isinstance(event, protocol.BlockClosed)}
                if any(isinstance(event, protocol.Malformed | protocol.BlockDropped) for event in events):
                    continue
                for name, codes, *_ in record["decoded_calls"]:
                    expected = np.asarray(codes).T if name == "music" else np.asarray(codes)[:, None]
                    assert np.array_equal(blocks[name], expected), case["name"]


def test_code_strings(books):
    for book, vocabulary in books:
        for row in book["modality_strings"]:
            codes = np.asarray(row["codes"])
            codes = codes.T if codes.ndim == 2 else codes[:, None]
            assert vocabulary.block(row["modality"], codes) == vocabulary.split(row["string"])
            assert len(re.findall(r"\d+", row["string"])) == codes.size
