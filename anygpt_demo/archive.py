"""A chat as one zip, and back, and made again.

    chat.json    turns with their codes, ids, seeds and settings; family and fingerprint of the model
    media/...    the pictures and sounds
    index.html   the same to read and hear, in one file, without a network

A zip is untrusted: names, sizes, codes and media are checked before anything is written.
"""

from __future__ import annotations

import base64
import html
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anygpt_demo import __version__, protocol
from anygpt_demo.chat import Chat, Finished, Opening, Settings
from anygpt_demo.conversation import Conversation, Journal, MediaPart, TextPart, Turn, from_record, to_record
from anygpt_demo.errors import BadText, UserError
from anygpt_demo.media import Voice, read_picture
from anygpt_demo.vocabulary import Vocabulary

if TYPE_CHECKING:
    from anygpt_demo.codecs.base import Codec

FORMAT = 1
ZIP_BYTES = 200_000_000
ENTRIES = 2000
MEDIA_S = 300
STYLE = """body{font:15px/22px system-ui,sans-serif;max-width:720px;margin:24px auto;padding:0 16px;background:#faf9f6;color:#20242a}
.human{background:#eceff3;border-radius:16px;padding:8px 16px;margin:16px 0 16px 20%}.mmgpt{margin:16px 0}
img{max-width:384px;width:100%;border-radius:12px;display:block}audio{width:100%;max-width:480px;display:block}
p{white-space:pre-wrap;overflow-wrap:anywhere;margin:4px 0}small{color:#63656a}
@media(prefers-color-scheme:dark){body{background:#15171a;color:#e9e7e2}.human{background:#272c33}small{color:#a6a6a2}}"""


def pack(conversation: Conversation, title: str, family: str, model: str) -> bytes:
    """A chat as a zip."""
    folder = conversation.journal.folder if conversation.journal is not None else None
    media: dict[str, bytes] = {}
    for turn in conversation.turns:
        for part in turn.parts:
            if isinstance(part, MediaPart) and part.file and folder is not None and (folder / part.file).is_file():
                media[part.file] = (folder / part.file).read_bytes()
    record = {
        "format": FORMAT,
        "program": f"anygpt_demo {__version__}",
        "title": title,
        "family": family,
        "model": model,
        "turns": [to_record(turn) for turn in conversation.turns],
    }
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("chat.json", json.dumps(record, ensure_ascii=False, indent=1))
        file.writestr("index.html", as_page(conversation.turns, title, family, media))
        for name, content in media.items():
            file.writestr(f"media/{name}", content)
    return data.getvalue()


def as_page(turns: list[Turn], title: str, family: str, media: Mapping[str, bytes]) -> str:
    """The chat as one HTML file with its media inside."""
    body = []
    for turn in turns:
        pieces = "".join(_piece(part, turn, media) for part in turn.parts)
        heard = f"<p><small>Heard: {html.escape(turn.heard)}</small></p>" if turn.heard else ""
        body.append(f'<section class="{turn.role}">{heard}{pieces}</section>')
    made = f"<p><small>Made with anygpt_demo, family {html.escape(family)}. Replies are AI-generated.</small></p>"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    return f'<!doctype html><html lang="en">{head}<style>{STYLE}</style><h1>{html.escape(title)}</h1>{"".join(body)}{made}</html>'


def _piece(part: TextPart | MediaPart, turn: Turn, media: Mapping[str, bytes]) -> str:
    if isinstance(part, TextPart):
        return f"<p>{html.escape(part.text)}</p>"
    data = media.get(part.file or "")
    length = f"continued to {part.seconds:.1f} s, " if part.seconds else ""
    about = f"{part.modality}, {length}{part.codes.size} tokens" + (", AI-generated" if turn.role == "mmgpt" else "")
    if data is None:
        return f"<p><small>{about}, without a file</small></p>"
    kind = "image/png" if part.modality == "image" else "audio/wav"
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    label = html.escape(part.text or turn.text or about, quote=True)
    sound = f'<audio controls src="{source}" aria-label="{label}"></audio>'
    shown = f'<img src="{source}" alt="{label}">' if part.modality == "image" else sound
    words = f"<br>{html.escape(part.text)}" if part.text else ""
    return f"{shown}<p><small>{about}{words}</small></p>"


# ---------------------------------------------------------------------------------------------------- and back


def _bad(cause: str) -> BadText:
    return BadText("This is not a saved chat.", cause, "Choose a zip that this page has saved.")


@dataclass(frozen=True)
class Archive:
    """A saved chat, checked. media: content of the files that its turns name."""

    title: str
    family: str
    model: str
    turns: tuple[Turn, ...]
    media: Mapping[str, bytes]


def unpack(data: bytes, vocabulary: Vocabulary) -> Archive:
    """Read a zip. Every code, id and medium is checked. Raises BadText, BadPicture or BadAudio."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            entries = file.infolist()
            if len(entries) > ENTRIES or sum(entry.file_size for entry in entries) > ZIP_BYTES:
                raise _bad("It is too large.")
            record = json.loads(file.read("chat.json"))
            if record["format"] != FORMAT:
                raise _bad("It was saved by another version.")
            turns = tuple(from_record(item) for item in record["turns"])
            _check(turns, vocabulary)
            wanted = {part.file for turn in turns for part in turn.parts if isinstance(part, MediaPart) and part.file}
            media = {name: file.read(f"media/{name}") for name in wanted}
            title, family, model = str(record["title"]), str(record["family"]), str(record["model"])
    except BadText:
        raise
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, AttributeError, OverflowError, RuntimeError, NotImplementedError) as error:
        raise _bad("It is damaged, or it is something else.") from error
    for turn in turns:
        for part in turn.parts:
            if isinstance(part, MediaPart) and part.file:
                _check_media(part.modality, media[part.file])
    return Archive(title, family, model, turns, media)


def _check(turns: tuple[Turn, ...], vocabulary: Vocabulary) -> None:
    """Refuse codes and ids that this vocabulary cannot have. Raises ValueError, KeyError."""
    for turn in turns:
        if any(not 0 <= number < vocabulary.size for number in turn.ids):
            raise ValueError("an id outside the vocabulary")
        for part in turn.parts:
            if isinstance(part, MediaPart):
                vocabulary.block(part.modality, part.codes)
                if part.file is not None and (not isinstance(part.file, str) or Path(part.file).name != part.file):
                    raise ValueError("a file with a path")


def _check_media(modality: str, data: bytes) -> None:
    if modality == "image":
        read_picture(data)
        return
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if file.format != "WAV" or file.frames > MEDIA_S * file.samplerate:
                raise _bad("One of its sounds is not what the page writes.")
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise _bad("One of its sounds is damaged.") from error


def restore(archive: Archive, journal: Journal) -> Conversation:
    """Write a saved chat into an empty journal: the same turns, the media byte for byte."""
    conversation = journal.conversation()
    for turn in archive.turns:
        parts = []
        for part in turn.parts:
            if isinstance(part, MediaPart) and part.file:
                suffix = ".png" if part.modality == "image" else ".wav"
                part = replace(part, file=journal.save(part.modality, suffix, archive.media[part.file]))
            parts.append(part)
        conversation.add(replace(turn, parts=tuple(parts)))
    return conversation


# ---------------------------------------------------------------------------------------------------- made again


@dataclass(frozen=True)
class Again:
    """One reply made again. state: same, different, or skipped (with the cause); ids: how many were compared."""

    turn: int
    state: str
    ids: int = 0
    cause: str = ""


def replay(archive: Archive, chat: Chat) -> Iterator[Again]:
    """Make every reply of a saved chat again, and what was made anew in it, and compare ids. Nothing is decoded to media."""
    again = _Replay(archive, chat)
    for index, turn in enumerate(archive.turns):
        if turn.role == "mmgpt":
            try:
                yield again.make(index)
            except (KeyError, TypeError, ValueError, AttributeError, IndexError):
                yield Again(index, "skipped", cause="It does not say how it was made.")


class _Replay:
    """Makes the replies of one chat again, each after what the turns before it were when it was written."""

    def __init__(self, archive: Archive, chat: Chat) -> None:
        self.turns = archive.turns
        self.chat = Chat(chat.vocabulary, chat.engine, _silent, model=chat.model)
        self.chat.letters = chat.letters
        self.cache: Any = None

    def make(self, index: int) -> Again:
        """One reply. Raises KeyError, TypeError, ValueError, AttributeError or IndexError if its facts are not what a reply has."""
        turn = self.turns[index]
        if not index or self.turns[index - 1].role != "human":
            return Again(index, "skipped", cause="It follows no message.")
        if not turn.ids or "seed" not in turn.facts:
            return Again(index, "skipped", cause="It does not say how it was made.")
        states = self._states(index)
        if states[0] is None:
            return Again(index, "skipped", cause="Parts of it were written anew by an older version, which did not keep what was there.")
        same, known = self._reply(index, states[0])
        compared = len(states[0].ids)
        for edit, old, new in zip(turn.facts.get("edits", ()), states, states[1:], strict=False):
            if "seconds" not in edit and old is not None and new is not None:  # music that was continued keeps its ids
                same_again, known_again = self._edit(index, edit, old, new)
                same, known, compared = same and same_again, known and known_again, compared + len(edit["was"])
        if not same and not known:
            return Again(
                index, "skipped", cause="Parts before it were written anew by an older version, which did not keep what was there."
            )
        return Again(index, "same" if same else "different", compared)

    def _reply(self, index: int, turn: Turn) -> tuple[bool, bool]:
        """Whether a reply comes again as it was written, and whether the file says what stood before it."""
        before, known = self._before(index, turn.facts.get("seen", ()))
        given = turn.ids[: int(turn.facts.get("opening", 0))]
        opening = Opening(given, tuple(part for part in turn.parts if isinstance(part, MediaPart)))
        conversation = Conversation(before[:-1], cache=self.cache)
        made: tuple[int, ...] = ()
        settings = Settings.of(turn.facts["settings"])
        for update in self.chat.reply(conversation, before[-1], seed=int(turn.facts["seed"]), settings=settings, opening=opening):
            if isinstance(update, Finished) and update.turn is not None:
                made = update.turn.ids
        self.cache = conversation.cache
        whole = turn.facts.get("reason") == "eos"
        length = len(turn.ids) if whole else max(0, len(turn.ids) - 1)  # where it was stopped, an open block was closed
        return made[:length] == turn.ids[:length] and (not whole or len(made) == length), known

    def _edit(self, index: int, edit: Mapping[str, Any], old: Turn, new: Turn) -> tuple[bool, bool]:
        """The same of one part that was written anew."""
        before, known = self._before(index, edit.get("seen", ()))
        conversation = Conversation([*before, old], cache=self.cache)
        settings, number = Settings.of(edit["settings"]), int(edit["part"])
        for _ in self.chat.again(conversation, index, number, seed=int(edit["seed"]), settings=settings):
            pass
        self.cache, made = conversation.cache, conversation.turns[index].ids
        if edit.get("reason") == "eos":
            return made == new.ids, known
        end = protocol.places(self.chat.vocabulary, new)[number][1] - 1  # where it was stopped, it was closed
        return made[:end] == new.ids[:end], known

    def _before(self, index: int, seen: Sequence[Sequence[int]]) -> tuple[list[Turn], bool]:
        """The turns before one as they were when it was written, and whether the file says so. seen: how often each had changed."""
        counts = {int(place): int(count) for place, count in seen}
        states = [self._states(place)[counts.get(place, 0)] for place in range(index)]
        return [state or self.turns[place] for place, state in enumerate(states)], None not in states

    def _states(self, index: int) -> list[Turn | None]:
        """A turn as it was written, and after each change of a part; None where the file does not keep what was there."""
        turn = self.turns[index]
        found: list[Turn | None] = [turn]
        for edit in reversed(turn.facts.get("edits", ())):
            newer = found[-1]
            found.append(newer if newer is None or "seconds" in edit else self._without(edit, newer))
        return found[::-1]

    def _without(self, edit: Mapping[str, Any], turn: Turn) -> Turn | None:
        """A reply before one of its parts was written anew."""
        if "was" not in edit:
            return None
        was, number, tokens = tuple(map(int, edit["was"])), int(edit["part"]), self.chat.vocabulary
        (block,) = [event for event in protocol.parse(tokens, was) if isinstance(event, protocol.BlockClosed)]
        if was != tuple(tokens.block(block.modality, block.codes)):
            raise ValueError("more than a block")
        first, last = protocol.places(tokens, turn)[number]
        newer = turn.parts[number]
        part = MediaPart(
            block.modality, block.codes, seconds=newer.seconds if isinstance(newer, MediaPart) else None
        )  # it goes on as it did
        return replace(turn, parts=(*turn.parts[:number], part, *turn.parts[number + 1 :]), ids=(*turn.ids[:first], *was, *turn.ids[last:]))


def _silent(name: str) -> Codec:
    return _Silent()


class _Silent:
    """A codec that makes nothing: only ids are compared."""

    modality: Any = None

    def encode(self, media: Any) -> Any:
        """Never asked: turns come with their codes."""
        raise UserError("Nothing is encoded here.", "Codes are in the file.", "Report this.")

    def decode(self, codes: Any, *, voice: Voice | None = None, seed: int = 0) -> Any:
        """Nothing."""
        raise UserError("Nothing is decoded here.", "Only ids are compared.", "Open the chat on the page.")

    def stream(self, codes: Any, *, voice: Voice | None = None, seed: int = 0) -> Iterator[Any]:
        """Nothing."""
        return iter(())
