"""Push-to-talk in the terminal: Enter starts, Enter sends, the reply is played. Needs sounddevice and PortAudio."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from anygpt_demo.chat import Made, Message
from anygpt_demo.conversation import Journal
from anygpt_demo.errors import BadAudio, MissingProgram, UserError
from anygpt_demo.media import Audio, from_samples
from anygpt_demo.terminal import HOME, Screen, open_chat, read_voice, refusal, say, stoppable
from anygpt_demo.watermark import embed

RATE_HZ = 16_000
LONGEST_S = 30.0


def sound_device() -> ModuleType:
    """The sounddevice package. Raises MissingProgram if it or PortAudio is absent."""
    remedy = "Install libportaudio2 (apt install libportaudio2) and sounddevice, or talk on the page: python app.py"
    try:
        import sounddevice

        module: ModuleType = sounddevice
        return module
    except ImportError as error:
        raise MissingProgram("The microphone cannot be used here.", "The package sounddevice is not installed.", remedy) from error
    except OSError as error:
        raise MissingProgram("The microphone cannot be used here.", "The library PortAudio is not installed.", remedy) from error


def listen(device: Any, number: int | None = None) -> Audio:
    """Record from Enter to Enter, at most LONGEST_S. Raises BadAudio if nothing was heard."""
    blocks: list[np.ndarray] = []

    def take(block: np.ndarray, *_: object) -> None:
        if len(blocks) * len(block) < LONGEST_S * RATE_HZ:
            blocks.append(block[:, 0].copy())

    with device.InputStream(samplerate=RATE_HZ, channels=1, dtype="float32", device=number, callback=take):
        input("Listening. Enter to send. ")
    if not blocks:
        raise BadAudio("I heard nothing.", "The microphone gave no sound.", "Choose another one: talk --devices shows them.")
    return from_samples(np.concatenate(blocks), RATE_HZ, rate_hz=RATE_HZ)


def run(options: argparse.Namespace) -> int:
    """Until the person leaves with q or Ctrl-D."""
    device = sound_device()
    if options.devices:
        say(str(device.query_devices()))
        return 0
    chat = open_chat(options)
    voice = read_voice(chat, options.voice)
    folder: Path | None = options.out
    conversation = (Journal(folder) if folder is not None else Journal.create(HOME / "sessions")).conversation()
    say("Enter to talk, q to leave.")
    while True:
        try:
            if input("> ").strip().lower() in ("q", "quit", "/quit"):
                return 0
            message = Message("", (("speech", listen(device, options.device_in)),))
            screen = Screen()
            with stoppable() as stop:
                for update in chat.reply(conversation, message, voice=voice, seed=options.seed, stop=stop):
                    screen.show(update)
                    if isinstance(update, Made) and isinstance(update.media, Audio):
                        device.wait()  # for the sound before: play() would cut it off
                        device.play(embed(update.media).samples, update.media.rate_hz, device=options.device_out)
                device.wait()
            options.seed += 1
        except UserError as error:
            say(refusal(error))
        except (EOFError, KeyboardInterrupt):
            return 0
