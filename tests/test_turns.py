"""Turns of the page without a page: which button a card has, what an empty reply says, and the mark in sounds that are played."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from anygpt_demo import turns, watermark
from anygpt_demo.chat import PRESETS, Chat, Settings
from anygpt_demo.media import Audio, Picture, write_png
from anygpt_demo.turns import act, answer, claim, edited, new_message
from anygpt_demo.view import View
from anygpt_demo.visitors import Line, Session, Visitors
from anygpt_demo.vocabulary import Vocabulary
from tests.test_chat import Plain, Script, block, written

FAST = "Answer with the preset fast"


class Short(Plain):
    """A codec that has not enough memory at first. When it has, it can stream: a tone in pieces of 0.1 s."""

    def __init__(self, facts: Any, lacking: int = 0) -> None:
        super().__init__(facts)
        self.lacking = lacking

    def decode(self, codes: np.ndarray, *, voice: Any = None, seed: int = 0) -> Any:
        if self.lacking:
            self.lacking -= 1
            raise MemoryError
        return super().decode(codes, voice=voice, seed=seed)


class Unruly(Script):
    """An engine that does not keep to the grammar."""

    def generate(self, ids: Any, grammar: Any, *, seed: int, stop: Any, max_new: int) -> Freely:
        return Freely(self.replies.pop(0))


class Freely:
    def __init__(self, ids: list[int]) -> None:
        self.ids, self.reason = ids, "budget"  # but </s> ends a reply in any case

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids)


class Stage:
    """One visitor, a scripted engine, and the page's two halves of a turn."""

    def __init__(self, chat: Chat, root: Path) -> None:
        self.chat, self.session, self.line = chat, Visitors(root).find(None), Line(4)
        self.view: View = []
        self.sounds: list[dict[str, Any]] = []

    def _run(self, prepare: Callable[[], Any]) -> str:
        claim(self.session, prepare, "")
        for view, _, sounds in answer(self.chat, self.session, self.line):
            self.view = view
            known = {sound["id"] for sound in self.sounds}
            self.sounds += [sound for sound in sounds if sound["id"] not in known]
        return self.last

    @property
    def last(self) -> str:
        """The newest message."""
        return "".join(map(str, self.view[-1]["content"]))

    def say(self, text: str) -> str:
        return self._run(lambda: new_message(self.chat, self.session, text, []))

    def press(self, label: str) -> str:
        """A button of the newest message."""
        name, value = re.findall(rf'name="(\w+)" value="([\w.]+)" class="do "[^>]*>{label}<', self.last)[-1]
        return self._run(lambda: act(self.chat, self.session, name, value))


@pytest.fixture
def stage(vocabulary: Vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stage]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))

    def build(*replies: Any, codec: Callable[[Any], Any] = Plain, engine: type[Script] = Script) -> Stage:
        codecs = {name: codec(found.modality) for name, found in vocabulary.ranges.items()}
        return Stage(Chat(vocabulary, engine(*replies), codecs.__getitem__), tmp_path / "sessions")

    return build


def used(session: Session) -> dict[str, Any]:
    """The settings of the newest reply."""
    return dict(session.conversation.turns[-1].facts["settings"])


def test_too_little_memory_before_the_first_word(stage: Callable[..., Stage], vocabulary: Vocabulary) -> None:
    page = stage([MemoryError()], [MemoryError()], written(vocabulary, " a boat"))
    assert FAST in page.say("draw") and "There was not enough memory&#46;" in page.last
    assert page.session.conversation.turns == []
    page.press(FAST)
    assert FAST not in page.last, "it is the preset fast that needs too much"
    page.press("Try again")
    assert "a boat" in page.last and len(page.view) == 2, "cards go when the message is sent again"
    assert used(page.session)["limits"] == PRESETS["fast"].limits and used(page.session)["max_new"] == PRESETS["fast"].max_new
    assert [turn.text for turn in page.session.conversation.turns] == ["draw", "a boat"]


def test_too_little_memory_after_some_words(stage: Callable[..., Stage], vocabulary: Vocabulary) -> None:
    begun = [*vocabulary.encode_text(" some"), MemoryError()]
    page = stage(begun, begun, written(vocabulary, " a boat"))
    assert "some" in page.say("draw")
    card = page.last[page.last.index('<div class="refusal') :]
    assert FAST in card and "Retry" in card
    page.press("Retry")
    assert FAST in page.last, "a reply that is made anew offers it, too"
    page.press(FAST)
    assert "a boat" in page.last and FAST not in page.last and used(page.session)["limits"] == PRESETS["fast"].limits
    assert [turn.text for turn in page.session.conversation.turns] == ["draw", "a boat"]


def test_too_little_memory_for_a_picture(stage: Callable[..., Stage], vocabulary: Vocabulary) -> None:
    drawn = written(vocabulary, " here ", block(vocabulary, "image"))
    page = stage(drawn, drawn, codec=lambda facts: Short(facts, lacking=1 if facts.name == "image" else 0))
    page.say("draw")
    assert FAST in page.last and "Make it anew" in page.last and "could not be made" in page.last
    page.press(FAST)
    assert "refusal" not in page.last and "AI&#45;generated" in page.last
    assert len(page.session.conversation.turns) == 2 and not used(page.session)["rendering"]["enhance"]


def test_a_block_with_a_foreign_token_and_one_without_an_end(stage: Callable[..., Stage], vocabulary: Vocabulary) -> None:
    codes = vocabulary.block("image", np.full((32, 1), 3))
    odd = [*codes[:9], vocabulary.ranges["music"].layer(0)[0], *codes[9:]]
    page = stage(
        [*vocabulary.encode_text(" one"), *odd, *vocabulary.encode_text(" two"), vocabulary.eos, vocabulary.stop],
        [*vocabulary.encode_text(" one"), *codes[:-1], vocabulary.eos, vocabulary.stop],
        [*codes[:9]],
        written(vocabulary, " fine"),
        engine=Unruly,
    )
    page.say("draw")
    assert "The picture is damaged and was left out&#46;" in page.last and "does not belong there" in page.last
    assert "one" in page.last and "two" in page.last and 'class="do ">Retry' in page.last
    assert "was not finished" not in page.last
    page.say("again")
    assert "The picture was not finished&#46;" in page.last and "before it was whole" in page.last and "damaged" not in page.last
    page.say("once more")  # the length limit, and nothing else was written
    assert "The picture was not finished&#46;" in page.last
    page.press("Try again")
    assert "fine" in page.last


@pytest.mark.parametrize("reply", ["nothing", "spaces", "heard", "stray"])
def test_no_reply_is_a_silent_bubble(stage: Callable[..., Stage], vocabulary: Vocabulary, reply: str) -> None:
    ids = {
        "nothing": written(vocabulary),
        "spaces": written(vocabulary, "   "),
        "heard": written(vocabulary, " ", [vocabulary.ins], " hello\n", [vocabulary.res]),
        "stray": [vocabulary.ranges["image"].end] * 3,  # and then the length limit
    }[reply]
    page = stage(ids, written(vocabulary, " there"), engine=Unruly if reply == "stray" else Script)
    told = page.say("hi")
    assert page.view[-1]["role"] == "assistant"
    assert ("Heard&#46; There is nothing more to say" if reply == "heard" else "The reply is empty") in told
    page.press("Retry")
    assert "there" in page.last and len(page.view) == 2
    assert [turn.text for turn in page.session.conversation.turns] == ["hi", "there"]


class Pieces:
    """Noise in uneven pieces."""

    def __init__(self, samples: np.ndarray, rate_hz: int) -> None:
        self.samples, self.rate_hz, self.cuts = samples, rate_hz, iter([10, 4000, 4100, 30_000, 30_001, 70_000])

    def feed(self, frame: np.ndarray) -> list[Audio]:
        return self._next(next(self.cuts, None))

    def finish(self) -> list[Audio]:
        return self._next(len(self.samples))

    def _next(self, count: int | None) -> list[Audio]:
        if not count:
            return []
        piece, self.samples = self.samples[:count], self.samples[count:]
        return [Audio(piece, self.rate_hz)]


class Streaming(Plain):
    """A codec whose sounds come in pieces."""

    def streamer(self, *, voice: Any = None, seed: int = 0) -> Pieces:
        noise = np.random.default_rng(3).standard_normal(160_123).astype(np.float32) * 0.1
        return Pieces(noise, self.modality.sample_rate_hz or 0)


@pytest.mark.parametrize("codec", [Plain, Streaming])
def test_sounds_that_are_played_while_they_are_made_carry_the_mark(
    stage: Callable[..., Stage], vocabulary: Vocabulary, codec: type[Plain]
) -> None:
    page = stage(written(vocabulary, " listen ", block(vocabulary, "music", frames=8)), codec=codec)
    page.say("play")
    played = np.concatenate([np.frombuffer(base64.b64decode(sound["pcm"]), "<i2") for sound in page.sounds]) / 32767
    starts = [round(sound["start"] * sound["rate"]) for sound in page.sounds]
    lengths = [len(base64.b64decode(sound["pcm"])) // 2 for sound in page.sounds]
    assert starts == [sum(lengths[:number]) for number in range(len(lengths))]
    if codec is Plain:
        assert len(played) == 8 * 320
        return
    assert len(page.sounds) > 3 and len(played) == 160_123
    whole = next(Streaming(vocabulary.ranges["music"].modality).streamer()._next(160_123).__iter__())
    assert np.abs(played - watermark.embed(whole).samples).max() < 1e-4, "in pieces as in the file"
    assert watermark.score(whole) < 5 < watermark.FOUND < watermark.score(Audio(played.astype(np.float32), 32_000))


def test_who_asks_for_a_description_gets_words_that_were_searched_for() -> None:
    session = SimpleNamespace(settings=Settings())
    assert turns._wished(session, "text").preset == "paper"  # type: ignore[arg-type]
    assert turns._wished(session, None).preset == turns._wished(session, "silent").preset == "chat"  # type: ignore[arg-type]
    session.settings = Settings(preset="greedy")
    assert turns._wished(session, "text").preset == "greedy"  # type: ignore[arg-type]


def test_a_changed_message_that_cannot_be_read_leaves_the_old_one(
    stage: Callable[..., Stage], vocabulary: Vocabulary, tmp_path: Path
) -> None:
    page = stage(written(vocabulary, " one"), written(vocabulary, " two"))
    (tmp_path / "cache").mkdir(exist_ok=True)
    session, upload = page.session, Path(turns.get_upload_folder()) / "dot.png"
    upload.parent.mkdir(parents=True, exist_ok=True)
    upload.write_bytes(write_png(Picture(np.zeros((8, 8, 3), np.uint8))))
    sent = {"kind": "image", "path": str(upload)}
    page._run(lambda: new_message(page.chat, session, "look", [sent]))
    first = session.conversation.turns[0]
    codec = page.chat.codec("image")
    codec.encode = None  # type: ignore[method-assign,assignment]
    page._run(lambda: edited(page.chat, session, "0", "see", [{"keep": 0}, sent]))
    assert "could not be read" in page.last and session.conversation.turns[0] is first and len(session.conversation.turns) == 2
    assert "look" in "".join(map(str, page.view[0]["content"])), "the old message is seen again"
    page._run(lambda: edited(page.chat, session, "0", "see", [{"keep": 0}]))
    assert session.conversation.turns[0].parts[0] is first.parts[0] and session.conversation.turns[0].text == "see"
    page._run(lambda: edited(page.chat, session, "0", "see", [{"keep": 7}]))
    assert "This part is gone&#46;" in page.last


def test_a_sound_that_goes_in_circles_is_named_and_made_anew(stage: Callable[..., Stage], vocabulary: Vocabulary) -> None:
    held = block(vocabulary, "music", value=5, frames=100)
    lively = [vocabulary.ranges["music"].start, *vocabulary.block("music", np.arange(400).reshape(100, 4))[1:]]
    page = stage([*held, vocabulary.eos, vocabulary.stop], lively[1:])
    assert "This sound goes in circles&#46;" in page.say("play")
    page.press("Make it anew")
    assert "circles" not in str(page.view) and not turns.circles(page.session.conversation.turns[-1].parts[0].codes)


def test_what_goes_in_circles() -> None:
    rng = np.random.default_rng(0)
    free, bar = rng.integers(0, 50, (250, 4)), rng.integers(0, 50, (30, 4))
    assert not turns.circles(free) and not turns.circles(free[:3])
    assert turns.circles(np.concatenate([free[:60], np.tile(bar, (4, 1)), free[:40]])), "in the middle, too"
    assert not turns.circles(np.concatenate([free[:60], np.tile(bar, (3, 1))[:80], free[:40]])), "a bar may come again"
    nearly = np.tile(bar, (8, 1))
    nearly[::60, 3] += 1
    assert not turns.circles(nearly)
