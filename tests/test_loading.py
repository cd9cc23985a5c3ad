"""How far the models are: per file, in order, and what waits meanwhile."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import pytest
import torch

from anygpt_demo.checkpoints import BadCheckpoint, Family, export
from anygpt_demo.errors import UserError
from anygpt_demo.loading import Loading, Moment
from anygpt_demo.view import loading_strip
from anygpt_demo.visitors import Line
from anygpt_demo.vocabulary import Vocabulary


def family(folder: Path) -> Family:
    for role in ("llm", "music_codec"):
        export(folder, role, {}, {name: torch.ones(2_000_000) for name in ("a", "b", "c", "d")}, half=False)
    return Family.open(folder)


def wait(event: threading.Event) -> None:
    assert event.wait(60)


def test_every_file_is_told_and_bytes_only_grow(tmp_path: Path) -> None:
    loading, seen = Loading(), list[Moment]()

    def watch(role: str, name: str, checked: bool, count: int) -> None:
        loading.watch(role, name, checked, count)
        if loading.moment is not None:  # a config is checked as well
            seen.append(loading.moment)

    home = replace(family(tmp_path), watch=watch)
    loading.plan(home, "4bit", parts=True)
    files, total = len(loading.files), loading.total
    assert files == 8 and total == sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    home.component("llm").state()
    home.component("music_codec").verify()
    assert sum(len(tensors) for tensors in home.component("music_codec").stream()) == 4
    assert list(dict.fromkeys(moment.number for moment in seen if moment.checked)) == list(range(1, 9))
    assert [moment.share for moment in seen] == sorted(moment.share for moment in seen) and seen[-1].share == 1.0
    for checked in (False, True):
        done = [moment.done for moment in seen if moment.checked is checked]
        assert done == sorted(done) and done[-1] == total
    assert seen[-1].name == "music_codec/model-00004-of-00004.safetensors"


def test_without_a_copy_in_fewer_bits_and_with_one(tmp_path: Path) -> None:
    home, loading = family(tmp_path), Loading()
    loading.plan(home, "8bit", parts=False)
    assert {role for role, _ in loading.files} == {"llm"}
    export(tmp_path, "llm_8bit", {}, {"a": torch.ones(4)})
    loading.plan(Family.open(tmp_path), "8bit", parts=True)
    assert {role for role, _ in loading.files} == {"llm_8bit", "music_codec"}


def test_the_line_opens_when_the_model_is_there() -> None:
    loading, gate, parts = Loading(), threading.Event(), threading.Event()
    line = Line(ready=loading.ready)
    loading.expect([("llm", "one", 2_000_000), ("music_codec", "two", 1_000_000)])
    loading.begin(lambda: wait(gate), lambda: wait(parts))
    ticket = line.enter("somebody")
    assert not line.wait(ticket, 0.05)
    assert loading_strip(loading) == ('<div class="loading"><b>Reading the models</b></div>', "Reading the models")
    loading.watch("llm", "one", True, 1_500_000)
    loading.watch("llm", "unheard of", True, 7)
    shown, told = loading_strip(loading)
    assert "1.5 of 3.0 MB" in shown and 'value="25"' in shown and told == "Reading file 1 of 2"
    gate.set()
    wait(loading.there)
    assert line.wait(ticket, 5) and not loading.done.is_set()
    assert 'class="loading parts"' in loading_strip(loading)[0]
    parts.set()
    wait(loading.done)
    assert loading_strip(loading) == ("", "")


@pytest.mark.parametrize("fault", [BadCheckpoint("It is damaged.", "It was cut.", "Fetch it."), RuntimeError("odd"), MemoryError()])
def test_a_failure_reaches_all_who_wait_and_is_tried_again(fault: Exception) -> None:
    loading, faults = Loading(), [fault]
    line = Line(ready=loading.ready)

    def read() -> Any:
        if faults:
            raise faults.pop()

    loading.begin(read, lambda: None)
    wait(loading.done)
    ticket = line.enter("somebody")
    with pytest.raises(UserError):
        line.wait(ticket, 5)
    shown, _ = loading_strip(loading)
    assert 'name="read"' in shown and 'name="read"' not in loading_strip(loading, retry=False)[0]
    assert str(loading.error).split(".")[0] in ("It is damaged", "The language model could not be read")
    loading.again()
    wait(loading.there)
    assert line.wait(ticket, 5)
    loading.again()
    assert loading.error is None


def test_a_chat_that_is_not_read_says_so() -> None:
    from anygpt_demo.chat import Unread

    with pytest.raises(UserError, match="not there yet"):
        _ = Unread().context


def test_a_message_of_somebody_who_closed_the_page_can_be_sent_again(vocabulary: Vocabulary, tmp_path: Path) -> None:
    from anygpt_demo.chat import Chat, Unread
    from anygpt_demo.turns import answer, claim, new_message
    from anygpt_demo.visitors import Visitors

    chat, session = Chat(vocabulary, Unread(), lambda name: None), Visitors(tmp_path).find(None)  # type: ignore[arg-type, return-value]
    claim(session, lambda: new_message(chat, session, "hello", []))
    line = Line(ready=Loading().ready)
    waiting = answer(chat, session, line)
    view, status, _ = next(waiting)
    assert "Your message is kept" in str(view[-1]) and "Waiting for the model" in status
    waiting.close()  # type: ignore[attr-defined]
    assert len(line) == 0 and not session.turn.locked()
    assert [item["role"] for item in session.view] == ["user", "assistant"] and 'name="resend"' in str(session.view[-1])
