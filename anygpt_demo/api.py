"""The page's named endpoints, for programs: gradio_client, curl, and MCP with `--mcp`.

Files go in and come out as Gradio file records ({"path", "meta"}); handle_file() of gradio_client makes them, and an MCP client
gives addresses. Every call waits in the same line as the page's visitors and answers alike: equal arguments and seed give an equal
reply. What a program is told about an endpoint is the docstring of its method.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict

import gradio as gr
import numpy as np
from gradio.processing_utils import save_file_to_cache
from gradio.utils import get_upload_folder

from anygpt_demo import __version__
from anygpt_demo import chat as dialogue
from anygpt_demo.chat import PRESETS, Card, Chat, Finished, Message
from anygpt_demo.conversation import Conversation, TextPart, Turn
from anygpt_demo.enhance import voice_prompt
from anygpt_demo.errors import BadText, UserError
from anygpt_demo.media import Audio, Picture, Voice, read_audio
from anygpt_demo.turns import OUTPUTS
from anygpt_demo.visitors import Line, Pace

FILE = {"_type": "gradio.FileData"}


class Meta(TypedDict):
    """What marks a record as a file."""

    _type: Literal["gradio.FileData"]


class File(TypedDict):
    """A file on this server, as Gradio's schema has it."""

    path: str
    meta: Meta


@contextmanager
def _plainly() -> Iterator[None]:
    """A refusal, as Gradio sends it to a program."""
    try:
        yield
    except UserError as error:
        raise gr.Error(str(error), print_exception=False) from error


def content(file: Mapping[str, Any] | None) -> bytes:
    """The bytes of a file that was uploaded to this server. Raises BadText for any other path."""
    path = Path(str((file or {}).get("path", ""))).resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()) or not path.is_file():
        raise BadText("A file did not arrive.", "It was not uploaded.", "Pass it through handle_file() of gradio_client.")
    return path.read_bytes()


def record(data: bytes, suffix: str) -> dict[str, Any]:
    """Bytes as a file record."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"made{suffix}"
        path.write_bytes(data)
        return {"path": save_file_to_cache(path, get_upload_folder()), "orig_name": f"made{suffix}", "meta": FILE}


class Endpoints:
    """What programs can call. Each public method is one endpoint of the same name."""

    def __init__(self, chat: Chat, family: str, line: Line, pace: Pace, *, public: bool = False) -> None:
        self._chat, self._family, self._line, self._pace, self._public = chat, family, line, pace, public

    @contextmanager
    def _turn(self, request: gr.Request | None) -> Iterator[None]:
        who = request.client.host if request is not None and request.client else "program"
        place = who if self._public or request is None else f"{who} {request.session_hash}"  # strangers share their address's place
        with _plainly():
            self._pace.step(who)
            with self._line.turn(f"program at {place}"):
                yield

    def _reply(
        self,
        message: Message,
        output: str,
        preset: str,
        seed: int,
        voice: Mapping[str, Any] | None = None,
        sampling: Mapping[str, Any] | None = None,
    ) -> tuple[Finished, list]:
        wish = output or None
        if wish is not None and wish not in OUTPUTS:
            raise BadText(f"There is no output {wish}.", "It is not known.", f"Use one of: {', '.join(OUTPUTS)}.")
        if preset not in PRESETS:
            raise BadText(f"There is no preset {preset}.", "It is not known.", f"Use one of: {', '.join(PRESETS)}.")
        made: list[Any] = []
        last = None
        settings = replace(PRESETS[preset], output=wish, sampling=self._sampling(sampling or {}))
        for update in self._chat.reply(Conversation(), message, voice=self._voice(voice), seed=seed, settings=settings):
            if isinstance(update, dialogue.Made):
                made.append(update.media)
            elif isinstance(update, Card):
                if update.modality is None:
                    raise update.error
                made.append(None)
            elif isinstance(update, Finished):
                last = update
        assert last is not None
        return last, made

    def _sampling(self, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Settings.sampling, which itself knows what each number may be. Raises BadText for other shapes."""
        known = ("text", *self._chat.modalities)
        if any(name not in known or not isinstance(numbers, Mapping) for name, numbers in given.items()):
            raise BadText("These are no numbers for drawing.", "Their names are not known.", f"Use one of: {', '.join(known)}.")
        return {name: dict(numbers) for name, numbers in given.items()}

    def _voice(self, file: Mapping[str, Any] | None) -> Voice | None:
        if file is None:
            return None
        if not self._chat.clones:
            raise BadText("This voice cannot be used.", "This family has no voice model.", "Leave the voice out, or load another family.")
        if self._public:
            raise BadText("Voices cannot be given here.", "This page is open to strangers.", "Run it on your own computer.")
        audio, _ = read_audio(content(file), rate_hz=16_000, limit_s=30.0, crop=True)
        return Voice("given", voice_prompt(audio))

    def _media(self, **files: Mapping[str, Any] | None) -> tuple[tuple[str, Any], ...]:
        given = [(name, file) for name, file in files.items() if file is not None]
        return tuple((name, dialogue.read_file(self._chat.vocabulary, name, content(file))[0]) for name, file in given)

    def _one(self, text: str, output: str, seed: int, voice: Mapping[str, Any] | None = None) -> dict:
        """One medium of a reply that has to contain it."""
        _, made = self._reply(Message(text), output, "chat", seed, voice)
        kind = Picture if output == "image" else Audio
        found = next((media for media in made if isinstance(media, kind)), None)
        if found is None:
            raise BadText("Nothing was made.", "The model did not finish it.", "Try another seed.")
        return record(*dialogue.write_file(found))

    def chat(
        self,
        text: str = "",
        image: File = None,  # type: ignore[assignment]  # noqa: RUF013 - the schema has no union
        speech: File = None,  # type: ignore[assignment]  # noqa: RUF013
        music: File = None,  # type: ignore[assignment]  # noqa: RUF013
        output: str = "",
        preset: str = "chat",
        seed: int = 0,
        sampling: dict = {},  # noqa: B006 - only read; the schema has no union
        request: gr.Request = None,  # type: ignore[assignment]
    ) -> dict:
        """Answer one message of words, pictures, speech and music with words, pictures, speech and music.

        Args:
            text: What is said to the model, in English. Where "[image]", "[speech]" or "[music]" stands in it, that file is read.
            image: A picture that belongs to the message.
            speech: A recording of speech that belongs to the message, 30 s at most.
            music: A piece of music that belongs to the message; its first seconds are used.
            output: What the reply must contain: image, speech, music, text (words only) or heard (a transcript); empty: the model's choice.
            preset: How words are chosen: chat, paper, fast or best.
            seed: Equal seeds give equal replies.
            sampling: Numbers for drawing words ("text") and codes in the place of the family's, as
                {"image": {"temperature": 0.5}}.

        Returns:
            {"parts": [{"type", "text" | "file" and "codes"}], "heard", "ids", "seed", "reason", "model"}.
        """
        with self._turn(request):
            media = self._media(image=image, speech=speech, music=music)
            message = Message.written(text, media, [f"[{name}]" for name, _ in media])
            last, made = self._reply(message, output, preset, seed, sampling=sampling)
            turn = last.turn or Turn("mmgpt", ())
            files = iter(made)
            parts: list[dict[str, Any]] = []
            for part in turn.parts:
                if isinstance(part, TextPart):
                    parts.append({"type": "text", "text": part.text})
                    continue
                medium = next(files, None)
                file = record(*dialogue.write_file(medium)) if medium is not None else None
                parts.append({"type": part.modality, "codes": part.codes.tolist(), "file": file})
            facts = {"seed": seed, "reason": last.reason, "model": self._chat.model}
            return {"parts": parts, "heard": turn.heard, "ids": list(turn.ids), **facts}

    def draw(self, text: str, seed: int = 0, request: gr.Request = None) -> dict:  # type: ignore[assignment]
        """Draw a picture of what a text says.

        Args:
            text: What to draw, for instance "Draw a dog on the beach."
            seed: Another seed gives another picture.

        Returns:
            A PNG file.
        """
        with self._turn(request):
            return self._one(text, "image", seed)

    def speak(self, text: str, voice: File = None, seed: int = 0, request: gr.Request = None) -> dict:  # type: ignore[assignment]  # noqa: RUF013
        """Answer a message aloud.

        Args:
            text: What is said to the model. After "Say:" or "Read this aloud:" a text of any length, which is said by the sentence.
            voice: A recording of the voice to answer in, with its owner's consent. Without one: the standard voice.
            seed: Another seed gives another answer.

        Returns:
            A WAV file.
        """
        with self._turn(request):
            return self._one(text, "speech", seed, voice)

    def compose(self, text: str, seed: int = 0, request: gr.Request = None) -> dict:  # type: ignore[assignment]
        """Compose a short piece of music that fits a text.

        Args:
            text: What to play, for instance "Play a slow waltz."
            seed: Another seed gives another piece.

        Returns:
            A WAV file.
        """
        with self._turn(request):
            return self._one(text, "music", seed)

    def caption(self, image: File, question: str = dialogue.QUESTIONS["image"], seed: int = 0, request: gr.Request = None) -> str:  # type: ignore[assignment]
        """Say in words what a picture shows.

        Args:
            image: The picture.
            question: What to say about it.
            seed: Of no effect: the words are searched for, not drawn.

        Returns:
            The words.
        """
        with self._turn(request):
            last, _ = self._reply(Message(question, self._media(image=image)), "text", "paper", seed)
            return last.turn.text if last.turn is not None else ""

    def transcribe(self, speech: File, seed: int = 0, request: gr.Request = None) -> str:  # type: ignore[assignment]
        """Write down what is said in a recording.

        Args:
            speech: The recording, English, 30 s at most.
            seed: Of no effect: the words are searched for, not drawn.

        Returns:
            The words.
        """
        with self._turn(request):
            last, _ = self._reply(Message("", self._media(speech=speech)), "heard", "chat", seed)
            return (last.turn.heard or "") if last.turn is not None else ""

    def clone_voice(self, recording: File, speech: File, consent: bool = False, request: gr.Request = None) -> dict:  # type: ignore[assignment]
        """Say the words of one recording in the voice of another.

        Args:
            recording: The voice: a sentence or two, of which the best 3 s are used.
            speech: The words, 30 s at most.
            consent: True says that the voice is yours or that its owner agrees. Without it nothing is made.

        Returns:
            A WAV file.
        """
        with self._turn(request):
            if not consent:
                raise BadText("This voice is not used.", "There is no consent of its owner.", "Pass consent=True if there is.")
            voice = self._voice(recording)
            ((_, media),) = self._media(speech=speech)
            codec = self._chat.codec("speech")
            return record(*dialogue.write_file(codec.decode(codec.encode(media), voice=voice)))

    def tokenize(self, kind: str, text: str = "", file: File = None, request: gr.Request = None) -> dict:  # type: ignore[assignment]  # noqa: RUF013
        """Turn words or a file into the ids that the language model reads.

        Args:
            kind: text, image, speech or music.
            text: The words, for kind text.
            file: The file, for the other kinds.

        Returns:
            {"modality", "ids", "codes"}.
        """
        with self._turn(request):
            if kind == "text":
                return {"modality": "text", "ids": self._chat.vocabulary.encode_text(text), "codes": None}
            self._known(kind)
            ((_, media),) = self._media(**{kind: file or {}})
            codes = self._chat.codec(kind).encode(media)[: self._chat.vocabulary.ranges[kind].modality.frames.stop - 1]
            return {"modality": kind, "ids": self._chat.vocabulary.block(kind, codes), "codes": codes.tolist()}

    def detokenize(self, kind: str, ids: list[int], seed: int = 0, request: gr.Request = None) -> dict:  # type: ignore[assignment]
        """Turn ids of the language model back into words or a file.

        Args:
            kind: text, image, speech or music.
            ids: The ids of one text or one block, as tokenize returns them.
            seed: Noise that a picture begins with.

        Returns:
            {"text", "file"}.
        """
        with self._turn(request):
            if kind == "text":
                return {"text": self._chat.vocabulary.decode_text([int(number) for number in ids]), "file": None}
            self._known(kind)
            try:
                codes = self._chat.vocabulary.codes(kind, [int(number) for number in ids])
                self._chat.vocabulary.block(kind, codes)
            except (ValueError, TypeError, OverflowError) as error:
                raise BadText(f"These are not {kind} ids.", "Their number or range is wrong.", "Give what /tokenize returned.") from error
            media = self._chat.codec(kind).decode(np.asarray(codes), seed=seed)
            return {"text": "", "file": record(*dialogue.write_file(media))}

    def status(self) -> dict:
        """Say what is loaded and whether it is read, what it can read and write, and how many wait for it."""
        return {
            "family": self._family,
            "model": self._chat.model,
            "version": __version__,
            "modalities": ["text", *self._chat.modalities],
            "waiting": len(self._line),
            "ready": self._ready(),
            "public": self._public,
        }

    def _ready(self) -> bool:
        """Whether the language model can answer."""
        with _plainly():
            return self._line.ready()

    def _known(self, kind: str) -> None:
        if kind not in self._chat.modalities:
            raise BadText(f"There is no modality {kind}.", "The family lacks it.", f"Use one of: {', '.join(self._chat.modalities)}, text.")

    def publish(self) -> None:
        """Enter all endpoints into the Blocks that are being built."""
        named = [self.chat, self.draw, self.speak, self.compose, self.caption, self.transcribe, self.tokenize, self.detokenize]
        for function in [*named, *([] if self._public else [self.clone_voice])]:
            gr.api(function, api_name=function.__name__, concurrency_limit=self._line.limit)
        gr.api(self.status, api_name="status", queue=False)
