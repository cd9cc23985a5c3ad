"""Voices on the page: picked, heard, agreed to, named, kept; and what a family with and without a voice model shows of them."""

from __future__ import annotations

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from anygpt_demo import ui
from anygpt_demo.api import Endpoints
from anygpt_demo.chat import Chat
from anygpt_demo.codecs.speech import built_in_voice
from anygpt_demo.conversation import MediaPart, TextPart, Turn
from anygpt_demo.drawer import DEAF, ROUGH, built_in_voices, choose_voice, hear_voice, record_voice
from anygpt_demo.errors import BadAudio, BadText
from anygpt_demo.media import Audio, write_wav
from anygpt_demo.turns import act
from anygpt_demo.view import literal, part_buttons
from anygpt_demo.visitors import Line, Pace, Session, Visitors


class Singer:
    """A speech codec that notes the voice it is asked for."""

    def __init__(self, modality: Any) -> None:
        self.modality, self.asked = modality, []

    def decode(self, codes: np.ndarray, *, voice: Any = None, seed: int = 0) -> Audio:
        self.asked.append(voice)
        return Audio(np.full(320 * len(codes), 0.1, np.float32), 16_000)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Visitors(tmp_path / "sessions").find(None)


@pytest.fixture
def recording(tmp_path: Path) -> str:
    """Two seconds of hiss, then three of a voice, then two of hiss."""
    hiss = 0.002 * np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    path = tmp_path / "voice.wav"
    path.write_bytes(write_wav(Audio(np.concatenate([hiss, built_in_voice("slt").audio.samples[:48_000], hiss]), 16_000)))
    return str(path)


def test_the_best_three_seconds_are_found_and_can_be_moved(recording: str) -> None:
    audio, start, most = hear_voice(recording)
    assert audio.seconds == 3.0 and 1.0 < start < 3.0 and most == pytest.approx(4.0, abs=0.01)
    moved, start, _ = hear_voice(recording, 0.0)
    assert start == 0.0 and np.abs(moved.samples - audio.samples).max() > 0.1


def test_a_voice_needs_consent_a_length_and_gets_a_name(session: Session, recording: str, tmp_path: Path) -> None:
    refused = record_voice(session, recording, False)
    assert literal("not ticked") in refused and 'value="voice-consent voice-use"' in refused and session.voice is None
    nothing = record_voice(session, None, True)
    assert literal("no recording") in nothing and 'value="voice-open"' in nothing
    short = tmp_path / "short.wav"
    short.write_bytes(write_wav(Audio(np.sin(np.arange(8_000) / 20).astype(np.float32) * 0.3, 16_000)))
    with pytest.raises(BadAudio, match="too short for a voice"):
        hear_voice(str(short))
    assert literal("too short for a voice") in record_voice(session, str(short), True)
    for name in ("  Aunt   Mary ", ""):
        record_voice(session, recording, True, 1.0, name)
    assert list(session.voices) == ["Aunt Mary", "my voice 2"] and session.voice.name == "my voice 2"
    choose_voice(session, "Aunt Mary")
    assert session.voice is session.voices["Aunt Mary"] and session.voice.audio.seconds == 3.0
    choose_voice(session, "standard")
    assert session.voice is None


def test_built_in_voices_say_where_they_are_from(session: Session) -> None:
    voices = built_in_voices()
    assert {"slt", "kathleen"} <= set(voices) and all(len(told) > 20 for told in voices.values())
    choose_voice(session, "kathleen")
    assert session.voice.name == "kathleen" and session.voice.audio.rate_hz == 16_000


def test_the_same_words_in_another_voice_without_the_language_model(vocabulary: Any, session: Session, recording: str) -> None:
    singer = Singer(vocabulary.ranges["speech"].modality)
    chat = Chat(vocabulary, None, lambda name: singer)  # type: ignore[arg-type]
    part = MediaPart("speech", np.zeros((50, 1), np.int64), session.conversation.journal.save("speech", ".wav", b""))
    session.conversation.add(Turn("human", (TextPart("hi"),)), Turn("mmgpt", (TextPart("Hello."), part), None, (1,), {"seed": 1}))
    record_voice(session, recording, True, None, "Mary")
    *_, last = act(chat, session, "render", "1.1").start(0)
    assert singer.asked == [session.voice] and last.turn.parts[1].file != part.file and last.turn.ids == (1,)


@pytest.mark.parametrize(("clones", "public"), [(False, False), (True, False), (True, True), (False, True)])
def test_a_family_with_a_voice_model_needs_nothing_else(vocabulary: Any, tmp_path: Path, clones: bool, public: bool) -> None:
    chat = Chat(vocabulary, None, lambda name: None)  # type: ignore[arg-type]
    chat.clones = clones
    page = ui.build(chat, "some", root=tmp_path, public=public)
    props = [(block.get_block_name(), block.get_config()) for block in page.blocks.values()]
    shown = [str(config.get(key)) for _, config in props for key in ("label", "value") if config.get("visible") is True]
    assert (str(f'<div class="notes">{literal(DEAF)}</div>') in shown) == (not clones and not public)
    assert not any(literal(ROUGH) in value for value in shown)
    assert ("Voice" in shown) == (clones or not public) and ("Steps of a voice (0: as many as it needs)" in shown) == clones
    own = ("Use this voice", "Its name", "Save as .voice", "Your own: a sentence or two")
    assert [("Voices" in shown, *(name in shown for name in own))] == [(clones or not public, *[not public] * 4)]
    part = MediaPart("speech", np.zeros((5, 1), np.int64), "x.wav")
    assert ("Other voice" in part_buttons("1.1", part, chat.clones)) == clones


def test_mini_says_that_its_voices_are_only_roughly_alike(vocabulary: Any, tmp_path: Path) -> None:
    chat = Chat(vocabulary, None, lambda name: None)  # type: ignore[arg-type]
    page = ui.build(chat, "mini", root=tmp_path)
    assert any(literal(ROUGH) in str(block.get_config().get("value")) for block in page.blocks.values())


def test_official_weights_have_a_voice_model(converted: Path) -> None:
    from anygpt_demo.checkpoints import Family

    assert Family.open(converted).has("soundstorm")


def test_a_program_is_told_that_there_is_no_voice_model() -> None:
    chat: Any = SimpleNamespace(clones=False)
    with pytest.raises(BadText, match="no voice model"):
        Endpoints(chat, "mini", Line(), Pace(9))._voice({"path": "x"})
