"""The base model's tasks on a tiny random family: the right prompt, the right kind of answer, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anygpt_demo import protocol, tasks
from anygpt_demo.chat import Chat
from anygpt_demo.errors import BadText, UserError
from anygpt_demo.media import Audio, Picture


@pytest.fixture(scope="module")
def chat(converted: Path) -> Chat:
    return Chat.open(converted)


GIVEN = {
    "text": "a quiet lake",
    "image": Picture(np.zeros((20, 20, 3), np.uint8)),
    "speech": Audio(np.zeros(1600, np.float32), 16_000),
    "music": Audio(np.zeros(3200, np.float32), 32_000),
}


@pytest.mark.parametrize("name", tasks.TASKS)
def test_every_task_gives_its_kind_of_answer(chat: Chat, name: str):
    task = tasks.TASKS[name]
    answer = tasks.run(chat, name, GIVEN[task.source], seed=3, max_new=60)
    assert answer.instruction in task.instructions
    if task.target == "text":
        assert answer.media is None and answer.codes is None
    else:
        assert answer.codes is not None and answer.text == ""
        assert isinstance(answer.media, Picture if task.target == "image" else Audio)
    again = tasks.run(chat, name, GIVEN[task.source], seed=3, max_new=60)
    assert again.text == answer.text and np.array_equal(again.codes, answer.codes)


def test_the_prompt_is_the_base_template(chat: Chat, monkeypatch: pytest.MonkeyPatch):
    prompts = []
    generate = chat.engine.generate
    monkeypatch.setattr(chat.engine, "generate", lambda ids, *rest, **more: prompts.append(ids) or generate(ids, *rest, **more))
    tasks.run(chat, "text-to-image", "a boat", instruction="Draw this.", max_new=60)
    vocabulary = chat.vocabulary
    text = "[Human]: Draw this. This is input: a boat<eoh> [MMGPT]:"
    assert prompts == [[vocabulary.bos, *vocabulary.split(text)]]
    assert prompts[0] == protocol.encode_base(vocabulary, "Draw this.", protocol.TextPart("a boat"))


def test_wrong_inputs_are_refused(chat: Chat):
    with pytest.raises(UserError, match="no task called"):
        tasks.run(chat, "text-to-smell", "x")
    with pytest.raises(BadText, match="needs words"):
        tasks.run(chat, "tts", "  ")
    with pytest.raises(BadText, match="needs speech"):
        tasks.run(chat, "asr", "hello")


def test_pools_are_pools():
    for task in tasks.TASKS.values():
        assert len(set(task.instructions)) == len(task.instructions) >= 8
