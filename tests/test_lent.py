"""A card that is lent for each call: another process has the models, the page only asks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import app
from anygpt_demo import lent
from anygpt_demo.chat import Card, Chat, Finished, Made, Message, Piece, Progress, Settings
from anygpt_demo.checkpoints import MINI, Family
from anygpt_demo.codecs.base import Rendering
from anygpt_demo.conversation import Conversation
from anygpt_demo.errors import BadPicture, MissingProgram, ModelFault
from anygpt_demo.media import Audio, Picture
from anygpt_demo.selftest import sample

IDLE_S = 0.3


class Lender:
    """Lends as ZeroGPU does: each time a process is forked, and what the function yields comes back through a pipe."""

    def __init__(self) -> None:
        self.processes: list[Any] = []
        self.refuse = False

    def __call__(self, work: lent.Work) -> lent.Work:
        context = multiprocessing.get_context("fork")

        def run(pipe: Any, *arguments: Any) -> None:
            torch.set_num_threads(1)  # threads of the parent are not there
            for item in work(*arguments):
                pipe.send(item)
            pipe.send(None)

        def lend(*arguments: Any) -> Iterator[str]:
            if self.refuse:
                raise RuntimeError("GPU quota exceeded")
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=run, args=(there, *arguments), daemon=True)
            process.start()
            self.processes.append(process)
            there.close()
            while (item := here.recv()) is not None:
                yield item
            process.join()

        return lend

    @property
    def living(self) -> int:
        return sum(process.is_alive() for process in self.processes)


def wait(what: Callable[[], bool], most_s: float = 20.0) -> None:
    end = time.monotonic() + most_s
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def local() -> Chat:
    return Chat.open(MINI, quantize="none")


@pytest.fixture
def lender() -> Iterator[Lender]:
    made = Lender()
    yield made
    wait(lambda: not made.living)  # nobody keeps a card


@pytest.fixture
def chat(lender: Lender) -> Chat:
    return lent.open_lent(Family.open(MINI), lender, "none", "cpu", IDLE_S)


def reply(chat: Chat, text: str, **options: Any) -> list[Any]:
    return list(chat.reply(Conversation(), Message(text), seed=3, **options))


def test_a_reply_is_what_it_is_here(chat: Chat, local: Chat, lender: Lender) -> None:
    wishes = (("Draw a dog.", "image", 90), ("Say good morning.", "speech", 200), ("Hello!", "text", 30))
    asked = [(text, Settings(output=output, max_new=most)) for text, output, most in wishes]
    replies = [[reply(one, text, settings=settings) for text, settings in asked] for one in (chat, local)]
    for there, here in zip(*replies, strict=True):
        assert not [item for item in (*there, *here) if isinstance(item, Card)]
        ends = [[item for item in items if isinstance(item, Finished)] for items in (there, here)]
        assert ends[0][0].turn.ids == ends[1][0].turn.ids and len(ends[0][0].turn.ids) > 5
        assert ends[0][0].turn.facts["shares"] == ends[1][0].turn.facts["shares"]
        assert sum(isinstance(item, Piece) for item in there) == sum(isinstance(item, Piece) for item in here)
        for one, other in zip(*([item.media for item in items if isinstance(item, Made)] for items in (there, here)), strict=True):
            if isinstance(one, Picture):
                assert np.abs(one.rgb.astype(int) - other.rgb).max() <= 1
            else:
                assert np.allclose(one.samples, other.samples, atol=1e-3)
    assert len(lender.processes) == 1  # all of it in one: the models are opened once


def test_media_are_read_and_tuned_there(chat: Chat, local: Chat) -> None:
    for name in chat.modalities:
        media = sample(local, name)
        assert np.array_equal(chat.codec(name).encode(media), local.codec(name).encode(media))
    codes = local.codec("image").encode(sample(local, "image"))
    large = chat.codec("image").tuned(Rendering(enhance=True)).decode(codes, seed=1)  # type: ignore[attr-defined]
    assert large.rgb.shape == (512, 512, 3)
    assert not hasattr(chat.codec("image"), "streamer") and not hasattr(chat.codec("music"), "previews")
    assert isinstance(chat.codec("music").layers(np.zeros((10, 4), np.int64), 2), Audio)  # type: ignore[attr-defined]


def test_the_card_goes_back_and_another_is_asked_for(chat: Chat, lender: Lender) -> None:
    codes = np.zeros((10, 4), np.int64)
    chat.codec("music").decode(codes)
    stream = chat.codec("music").streamer(seed=0)  # type: ignore[attr-defined]
    time.sleep(3 * IDLE_S)
    assert lender.living == 1  # somebody may still say something
    stream.feed(codes[0])
    stream.finish()
    wait(lambda: not lender.living)
    chat.codec("music").decode(codes)
    assert len(lender.processes) == 2
    del stream
    unfinished = chat.codec("music").streamer(seed=0)  # type: ignore[attr-defined]
    unfinished.feed(codes[0])
    del unfinished  # a reply was stopped
    wait(lambda: not lender.living)


def test_a_stopped_reply_keeps_what_there_is(chat: Chat) -> None:
    stop = threading.Event()
    updates = []
    for update in chat.reply(Conversation(), Message("Play some music."), seed=1, stop=stop, settings=Settings(output="music")):
        updates.append(update)
        if isinstance(update, Progress) and update.codes > 40:
            stop.set()
    assert isinstance(updates[-1], Finished) and updates[-1].turn is not None
    assert 40 < len(updates[-1].turn.ids) < 400


def test_what_goes_wrong_there_is_told_here(chat: Chat, lender: Lender, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise BadPicture("This is no picture.", "It is a poem.", "Send a picture.")

    from anygpt_demo.codecs.music import MusicCodec

    monkeypatch.setattr(MusicCodec, "encode", refused)
    with pytest.raises(BadPicture, match="It is a poem") as told:
        chat.codec("music").encode(Audio(np.zeros(3200, np.float32), 32000))
    assert told.value.remedy == "Send a picture."
    with pytest.raises(RuntimeError, match="ValueError: a picture is 32 codes"):
        chat.codec("image").decode(np.zeros((3, 1), np.int64))
    stream = chat.codec("speech").streamer(seed=0)  # type: ignore[attr-defined]
    os.kill(lender.processes[-1].pid, signal.SIGKILL)
    with pytest.raises(ModelFault, match="taken back"):
        stream.finish()
    wait(lambda: not lender.living)
    assert len(chat.codec("music").decode(np.zeros((10, 4), np.int64)).samples) == 6400  # type: ignore[union-attr]


def test_a_card_that_went_unnoticed_is_asked_for_anew(chat: Chat, lender: Lender, tmp_path: Path) -> None:
    codec = chat.codec("music")
    codec.decode(np.zeros((10, 4), np.int64))  # type: ignore[union-attr]
    os.kill(lender.processes[-1].pid, signal.SIGKILL)
    wait(lambda: not lender.living)
    codec._card._place = (str(tmp_path / "calls"), b"key")  # type: ignore[attr-defined]  # as before its death was noticed
    assert len(codec.decode(np.zeros((10, 4), np.int64)).samples) == 6400  # type: ignore[union-attr]
    assert len(lender.processes) == 2


def test_no_card_is_a_card_that_says_so(chat: Chat, lender: Lender) -> None:
    lender.refuse = True
    (told,) = [update.error for update in reply(chat, "Hello") if isinstance(update, Card)]
    assert told.problem == "No graphics card is free." and not lender.processes


def test_a_space_lends_its_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spaces", None)
    with pytest.raises(MissingProgram, match="no Space"):
        lent.zero_gpu()
    asked: list[dict[str, int]] = []
    package = types.ModuleType("spaces")
    package.GPU = lambda **facts: asked.append(facts) or (lambda work: work)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "spaces", package)
    assert callable(lent.zero_gpu()) and asked == [{"duration": lent.LENT_S}]
    monkeypatch.delenv("ANYGPT_DEVICE", raising=False)
    assert app.arguments([]).device == "cpu"
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert app.arguments([]).device == "zero"
