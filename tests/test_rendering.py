"""Steps, guidance, noise level and seed of pictures and voices: they have an effect, and equal numbers give equal media."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anygpt_demo import cli, codecs, tasks
from anygpt_demo.chat import Chat, Made, Message, Settings
from anygpt_demo.codecs.base import Rendering
from anygpt_demo.conversation import Conversation
from anygpt_demo.enhance import best_prompt
from anygpt_demo.errors import UserError
from anygpt_demo.media import Audio

CODES = np.arange(32)[:, None]
DRAWN = Rendering(picture_steps=2, picture_guidance=3.0, picture_noise=100, seed=5)


@pytest.fixture(scope="module")
def chat(converted: Path) -> Chat:
    return Chat.open(converted)


def draw(chat: Chat, rendering: Rendering, seed: int = 5) -> np.ndarray:
    return codecs.tune(chat.codec("image"), rendering).decode(CODES, seed=seed).rgb


def test_pictures_are_reproducible_and_every_number_counts(chat: Chat):
    base = draw(chat, DRAWN)
    assert np.array_equal(base, draw(chat, DRAWN))
    others = [
        draw(chat, Rendering(picture_steps=3, picture_guidance=3.0, picture_noise=100)),
        draw(chat, Rendering(picture_steps=2, picture_guidance=9.0, picture_noise=100)),
        draw(chat, Rendering(picture_steps=2, picture_guidance=3.0, picture_noise=900)),
        draw(chat, DRAWN, seed=6),
    ]
    assert not any(np.array_equal(base, other) for other in others)
    assert np.array_equal(chat.codec("image").decode(CODES, seed=1).rgb, draw(chat, Rendering(picture_steps=20, picture_guidance=10.0), 1))


def test_voices_take_other_steps(chat: Chat):
    codec = chat.codec("speech")
    assert codec.steps == 3
    assert codecs.tune(codec, Rendering(voice_steps=7)).steps == 7 and codecs.tune(codec, Rendering()).steps == 3
    codes = np.arange(12)[:, None] % 16
    first, again = (codecs.tune(codec, Rendering(voice_steps=5)).decode(codes, seed=2).samples for _ in range(2))
    assert np.array_equal(first, again)
    assert codecs.tune(chat.codec("music"), Rendering(voice_steps=7)) is chat.codec("music")


def test_a_reply_and_a_task_draw_with_the_same_numbers(chat: Chat):
    settings = Settings(output="image", max_new=60, lead=0, rendering=DRAWN)
    assert Settings.of(settings.record()) == settings
    (made,) = [update for update in chat.reply(Conversation(), Message("a boat"), settings=settings) if isinstance(update, Made)]
    assert np.array_equal(made.media.rgb, codecs.tune(chat.codec("image"), DRAWN).decode(made.part.codes, seed=5).rgb)
    answer = tasks.run(chat, "text-to-image", "a boat", seed=9, rendering=DRAWN)
    assert np.array_equal(answer.media.rgb, codecs.tune(chat.codec("image"), DRAWN).decode(answer.codes, seed=5).rgb)


@pytest.mark.parametrize(
    ("name", "value"), [("picture_steps", 0), ("picture_guidance", 0.5), ("picture_noise", 1000), ("voice_steps", 99), ("seed", -1)]
)
def test_numbers_out_of_range_are_refused(name: str, value: float):
    with pytest.raises(UserError, match=name.replace("_", " ")):
        Rendering(**{name: value})


def test_the_command_line_has_them(converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--family", str(converted), "--picture-steps", "2", "--picture-guidance", "4", "--picture-noise", "9", "--media-seed", "3"]
    for number in range(2):
        assert cli.main(["task", "text-to-image", "--text", "a boat", "--out", str(tmp_path / str(number)), *words]) == 0
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()
    assert cli.main(["task", "text-to-image", "--text", "a boat", *words, "--voice-steps", "0"]) == 2
    assert "voice steps" in capsys.readouterr().err


def test_the_best_seconds_of_a_long_recording_are_found():
    rate = 16_000
    time = np.arange(3 * rate) / rate
    voice = (0.3 * sum(np.sin(2 * np.pi * 140 * n * time) / n for n in range(1, 6))).astype(np.float32)
    whole = np.concatenate([np.zeros(100 * rate, np.float32), voice, np.zeros(20 * rate, np.float32)])
    found = best_prompt(Audio(whole, rate))
    assert found.seconds == 3.0 and np.sqrt(np.mean(found.samples**2)) > 0.2
