"""The real page over the real chat, with actors in the place of the models: an engine that writes set replies and codecs
that turn codes into plain media. So the tests of the page need no weights and know what must appear.

`python -m tests.browser.stage PORT` serves it by hand.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np

from anygpt_demo import codecs, ui
from anygpt_demo.chat import PRESETS, Chat
from anygpt_demo.errors import ModelFault
from anygpt_demo.loading import Loading
from anygpt_demo.media import Audio, Picture
from anygpt_demo.modality import Modality
from anygpt_demo.vocabulary import Vocabulary
from tests.tokens import write_tokenizer

TEXT_S = 0.03  # per id of text, and of a picture's codes
CODE_S = 0.002  # per code of a sound


class Actor:
    """An engine that understands a few words of the newest message and writes accordingly."""

    context = 8192

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.heard = 0  # prompts so far
        self.grammar: Any = None  # of the newest one
        self.forced: str | None = None
        self.message: list[int] = []  # the newest one of a person
        self.tame = False  # does not explode
        self.given = 0  # ids of the newest reply that stood before it began, or of its open block

    def generate(self, ids: Sequence[int], grammar: Any, *, seed: int, stop: threading.Event | None, max_new: int) -> Play:
        self.heard += 1
        self.grammar, self.forced = grammar, grammar.forced
        if ids[-1] in self.vocabulary.starts:  # one block anew
            name = self.vocabulary.starts[ids[-1]]
            return Play(self.vocabulary, self._block(name, 32 if name == "image" else 60)[1:], grammar, stop)
        self.given = list(ids)[::-1].index(self.vocabulary.mmgpt) - len(self.vocabulary.encode_text(":"))
        name = next((name for name, found in self.vocabulary.ranges.items() if found.first <= ids[-1] < found.stop), None)
        if name is not None:  # a block that goes on
            facts = self.vocabulary.ranges[name]
            self.given = list(ids)[::-1].index(facts.start) + 1
            known = self.given // facts.modality.layers
            return Play(self.vocabulary, self._block(name, grammar.limits[name] - known)[1:], grammar, stop)
        if self.forced in self.vocabulary.ranges and grammar.force_after == 0:  # words that stand already are said
            ends = [self.vocabulary.eos, self.vocabulary.stop]
            return Play(self.vocabulary, [*self._block(str(self.forced), 25), *ends], grammar, stop)
        newest = self.message = list(ids)[len(ids) - list(ids)[::-1].index(self.vocabulary.human) :]
        text = self.vocabulary.decode_text([number for number in newest if number < self.vocabulary.text_size])
        begun = [*self.vocabulary.encode_text(" Here:"), *self._block("image", 32)[:6]]
        if "unfinished" in text:
            return Play(self.vocabulary, begun, grammar, stop, free=True)
        if "damaged" in text:
            return Play(self.vocabulary, [*begun, self.vocabulary.human, self.vocabulary.eos], grammar, stop, free=True)
        if "too much" in text and grammar.budget > PRESETS["fast"].max_new:
            raise MemoryError
        return Play(self.vocabulary, self._lines(newest), grammar, stop)

    def _lines(self, message: list[int]) -> list[int]:
        tokens = self.vocabulary
        text = tokens.decode_text([number for number in message if number < tokens.text_size]).lower()
        sent = [name for name, found in tokens.ranges.items() if found.start in message]
        if "explode" in text and not self.tame:
            raise ModelFault("The language model stopped.", "It was told to.", "Say something else.")
        if self.grammar.transcribe:
            return [tokens.ins, *tokens.encode_text(" draw a boat and sing"), tokens.res, tokens.eos, tokens.stop]
        if self.forced in tokens.ranges:
            made = self._block(str(self.forced), 32 if self.forced == "image" else 150 if "slowly" in text else 25)
            return [*tokens.encode_text(" As you wish:"), *made, tokens.eos, tokens.stop]
        if not self.grammar.open_to:
            return [*tokens.encode_text(f" I see your {sent[0] if sent else 'words'}."), tokens.eos, tokens.stop]
        if "speech" in sent:
            heard = [tokens.ins, *tokens.encode_text(" draw a boat and sing\n"), tokens.res]
            said = tokens.encode_text(" Here you are.")
            return [
                *heard,
                *said,
                *self._block("speech", 60),
                *tokens.encode_text("A boat:"),
                *self._block("image", 32),
                tokens.eos,
                tokens.stop,
            ]
        if sent and not {"draw"} & set(text.replace(":", " ").split()):
            return [*tokens.encode_text(f" I see your {sent[0]}."), tokens.eos, tokens.stop]
        reply = tokens.encode_text(
            " You said: " + text.split("\n")[0].strip(": ") + " <img src=x onerror=alert(1)> ![x](http://evil.example/x.png) $$x$$"
        )
        if "draw" in text:
            reply += self._block("image", 32)
        if "speak" in text:
            reply += [*tokens.encode_text(" The boat goes over the lake, slowly."), *self._block("speech", 150)]
        if "play" in text:
            reply += self._block("music", 250)
        if "long" in text:
            reply += tokens.encode_text(" and on" * 400)
        return [*reply, tokens.eos, tokens.stop]

    def _block(self, name: str, frames: int) -> list[int]:
        facts = self.vocabulary.ranges[name].modality
        return self.vocabulary.block(name, np.arange(frames * facts.layers).reshape(frames, facts.layers) % facts.codebook)


class Play:
    """One reply being spoken. free: whatever the grammar says of it."""

    def __init__(self, vocabulary: Vocabulary, ids: list[int], grammar: Any, stop: threading.Event | None, free: bool = False) -> None:
        self.vocabulary, self.ids, self.grammar, self.stop, self.reason, self.free = vocabulary, ids, grammar, stop, None, free

    def __iter__(self) -> Iterator[int]:
        for number in self.ids:
            if self.stop is not None and self.stop.is_set():
                self.reason = "stop"
                return
            time.sleep(TEXT_S if number < self.vocabulary.ranges["image"].end + 1 else CODE_S)
            if not self.free:
                self.grammar.advance(number)
            yield number
        self.reason = "eos"


class Props:
    """A codec: pictures are colour ramps, sounds are tones."""

    def __init__(self, facts: Modality) -> None:
        self.modality = facts
        self.encoded: list[Any] = []
        self.broken = False
        self.voice: Any = None  # of the newest sound

    def encode(self, media: Any) -> np.ndarray:
        self.encoded.append(media)
        frames = 32 if isinstance(media, Picture) else max(1, min(250, int(media.seconds * 50)))
        return np.zeros((frames, self.modality.layers), dtype=np.int64)

    def decode(self, codes: np.ndarray, *, voice: Any = None, seed: int = 0) -> Any:
        self.voice = voice
        if self.broken:
            raise RuntimeError("told to")
        if self.modality.kind == "image":
            down, across = np.mgrid[:256, :256]
            return Picture(np.stack([across, 255 - down, down], axis=-1).astype(np.uint8))
        rate = self.modality.sample_rate_hz or 16_000
        seconds = np.arange(int(len(codes) / 50 * rate)) / rate
        return Audio((0.3 * np.sin(2 * np.pi * 220 * seconds) * np.abs(np.sin(3 * seconds))).astype(np.float32), rate)

    def stream(self, codes: Iterable[np.ndarray], **options: Any) -> Iterator[Any]:
        yield self.decode(np.stack(list(codes)), **options)


class Growing(Props):
    """A codec whose pictures form from grey in four steps, and whose sounds come in pieces of half a second."""

    def previews(self, codes: np.ndarray, seed: int = 0) -> Iterator[Picture]:
        sharp = self.decode(codes).rgb.astype(float)
        for step in range(4):
            if step:
                time.sleep(0.7)
            yield Picture((128 + (sharp - 128) * (step + 1) / 4).astype(np.uint8))

    def streamer(self, *, voice: Any = None, seed: int = 0) -> Pieces:
        return Pieces(self)


class Pieces:
    """One sound of Growing."""

    def __init__(self, codec: Growing) -> None:
        self.codec, self.frames, self.told = codec, 0, 0

    def feed(self, frame: np.ndarray) -> list[Audio]:
        self.frames += 1
        return self.finish() if self.frames % 25 == 0 else []

    def finish(self) -> list[Audio]:
        whole = self.codec.decode(np.zeros((self.frames, 1)))
        fresh, self.told = whole.samples[self.told :], len(whole.samples)
        return [Audio(fresh, whole.rate_hz)] if len(fresh) else []


class Stage:
    """A served page; `url`, the actors, and how to close it."""

    def __init__(
        self, folder: Path, port: int | None = None, public: bool = False, mcp: bool = False, loading: Loading | None = None
    ) -> None:
        self.cache = os.environ["GRADIO_TEMP_DIR"] = str(folder / "cache")  # where what is sent to it may lie
        vocabulary = Vocabulary(write_tokenizer(folder / "tokenizer", codecs.modalities()))
        self.props = {facts.name: Props(facts) for facts in codecs.modalities()}
        self.actor = Actor(vocabulary)
        self.chat = Chat(vocabulary, self.actor, self.props.__getitem__)
        self.page = ui.build(self.chat, "mini", root=folder / "sessions", public=public, loading=loading)
        self.page.queue(max_size=ui.QUEUE)
        options = ui.launch_options(public, mcp)
        _, self.url, _ = self.page.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, **options)

    def close(self) -> None:
        self.page.close(verbose=False)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        Stage(Path(scratch), int(sys.argv[1])).page.block_thread()
