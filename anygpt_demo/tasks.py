"""What the base model was trained for: one instruction, one input, one output.

    text-to-image  image-to-text  asr  tts  text-to-music  music-to-text

The instruction is drawn by the seed from a small pool, as in training; the templates are the base model's own
(protocol.encode_base). tts speaks in the voice that it is given, or in the built-in one.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from anygpt_demo import codecs, longer, protocol
from anygpt_demo.codecs.base import Rendering
from anygpt_demo.conversation import MediaPart, TextPart
from anygpt_demo.errors import BadText, ModelFault, UserError
from anygpt_demo.grammar import Grammar
from anygpt_demo.media import Audio

if TYPE_CHECKING:
    from anygpt_demo.chat import Chat, Media
    from anygpt_demo.conversation import Part
    from anygpt_demo.media import Voice

LEAD = 2  # word pieces that may stand before a forced block: the template's space


@dataclass(frozen=True)
class Task:
    """source and target: a modality, or text. limit: most ids of the answer, as the official configs have it."""

    source: str
    target: str
    limit: int
    instructions: tuple[str, ...]


TASKS: Mapping[str, Task] = {
    "text-to-image": Task(
        "text",
        "image",
        200,
        (
            "Draw a picture of what is described.",
            "Make an image that shows this.",
            "Turn the following words into a picture.",
            "Please paint the scene in the text.",
            "Show me how this would look.",
            "Create an illustration for this description.",
            "Generate an image that matches the text.",
            "Picture this for me.",
        ),
    ),
    "image-to-text": Task(
        "image",
        "text",
        100,
        (
            "Describe this picture.",
            "What can be seen in the image?",
            "Write a caption for this picture.",
            "Tell me what the image shows.",
            "Please put this picture into words.",
            "Give a short description of the image.",
            "Say in one sentence what is shown here.",
            "What is going on in this picture?",
        ),
    ),
    "asr": Task(
        "speech",
        "text",
        100,
        (
            "Write down what is said.",
            "Transcribe this recording.",
            "Turn the speech into text.",
            "What does the speaker say?",
            "Please type out the spoken words.",
            "Note the words of this recording.",
            "Give me the text of what you hear.",
            "Put this speech in writing.",
        ),
    ),
    "tts": Task(
        "text",
        "speech",
        1500,
        (
            "Read this aloud.",
            "Say the following words.",
            "Turn the text into speech.",
            "Please speak this sentence.",
            "Let me hear how this sounds.",
            "Speak the text below.",
            "Make a recording of these words.",
            "Give the text a voice.",
        ),
    ),
    "text-to-music": Task(
        "text",
        "music",
        2000,
        (
            "Compose music that fits this description.",
            "Play something like this.",
            "Turn the text into a piece of music.",
            "Please write music for these words.",
            "Make a tune that matches the description.",
            "Create a piece of music in this manner.",
            "Let me hear music of this kind.",
            "Generate the music that is described.",
        ),
    ),
    "music-to-text": Task(
        "music",
        "text",
        100,
        (
            "Describe this music.",
            "What kind of music is this?",
            "Tell me what you hear in this piece.",
            "Put the character of this music into words.",
            "Write a short description of the tune.",
            "Which instruments and which mood does it have?",
            "Please say what this piece is like.",
            "Give a caption for this music.",
        ),
    ),
}


@dataclass(frozen=True, eq=False)
class Answer:
    """What a task gave. text: for text targets; media and codes: for the others."""

    instruction: str
    text: str = ""
    media: Media | None = None
    codes: np.ndarray | None = None


def _source(chat: Chat, task: Task, given: str | Media) -> Part:
    """The input as a part: words, or codes. Raises BadText if it is of the wrong kind or empty."""
    if task.source == "text":
        if not isinstance(given, str) or not given.strip():
            raise BadText("This task needs words.", "None were given.", "Give --text.")
        return TextPart(given.strip())
    if isinstance(given, str):
        raise BadText(f"This task needs {task.source}.", "Words were given.", f"Give --{task.source} FILE.")
    codes = chat.codec(task.source, "encode").encode(given)
    return MediaPart(task.source, codes[: chat.vocabulary.ranges[task.source].modality.frames.stop - 1])


def run(
    chat: Chat,
    name: str,
    given: str | Media,
    *,
    voice: Voice | None = None,
    seed: int = 0,
    instruction: str | None = None,
    preset: str = "chat",
    max_new: int | None = None,
    rendering: Rendering = Rendering(),  # noqa: B008 - frozen
    stop: threading.Event | None = None,
) -> Answer:
    """Do one task. given: words or clean media; voice: for tts; instruction: instead of one from the pool; rendering:
    how codes become a picture or a voice. A text too long for one block of speech is spoken by the sentence.

    Equal arguments give an equal answer. Raises UserError.
    """
    if name not in TASKS:
        raise UserError(f"There is no task called {name}.", "It is not known.", f"Use one of: {', '.join(TASKS)}.")
    task = TASKS[name]
    needed = [item for item in (task.source, task.target) if item != "text" and item not in chat.modalities]
    if needed:
        raise UserError(f"This family cannot do {name}.", f"It has no {needed[0]}.", "Use another family.")
    words = instruction or random.Random(seed).choice(task.instructions)
    if name == "tts" and isinstance(given, str) and len(pieces := longer.blocks_of(given, chat.letters)) > 1:
        options: dict[str, Any] = {"voice": voice, "instruction": words, "preset": preset, "max_new": max_new}
        answers = [run(chat, name, piece, seed=seed, rendering=rendering, stop=stop, **options) for piece in pieces]
        return Answer(words, media=longer.joined([answer.media for answer in answers if isinstance(answer.media, Audio)]))
    prompt = protocol.encode_base(chat.vocabulary, words, _source(chat, task, given))
    budget = min(max_new or task.limit, chat.engine.context - len(prompt))
    others = tuple(item for item in chat.modalities if item != task.target)
    grammar = Grammar(chat.vocabulary, budget=budget, preset=preset, force=task.target, force_after=LEAD, forbid=others, chain=False)
    parser = protocol.Parser(chat.vocabulary)
    text: list[str] = []
    generation = chat.engine.generate(prompt, grammar, seed=seed, stop=stop, max_new=budget)
    for number in generation:
        for event in parser.feed(number):
            if isinstance(event, protocol.TextDelta):
                text.append(event.text)
            elif isinstance(event, protocol.BlockClosed):
                return _finish(chat, task, words, event.codes, voice, seed, rendering)
    for event in parser.finish(str(generation.reason or "budget")):
        if isinstance(event, protocol.TextDelta):
            text.append(event.text)
        elif isinstance(event, protocol.BlockClosed):
            return _finish(chat, task, words, event.codes, voice, seed, rendering)
    if task.target != "text":
        raise ModelFault(f"No {task.target} was made.", "The model ended too early.", "Try another seed.")
    return Answer(words, "".join(text).strip())


def _finish(chat: Chat, task: Task, words: str, codes: np.ndarray, voice: Voice | None, seed: int, rendering: Rendering) -> Answer:
    codec = codecs.tune(chat.codec(task.target, "decode"), rendering)
    media = codec.decode(codes, voice=voice, seed=seed if rendering.seed is None else rendering.seed)
    return Answer(words, media=media, codes=codes)
