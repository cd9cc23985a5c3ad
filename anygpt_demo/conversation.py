"""A conversation: turns of ordered parts that keep their codes, fitted to the context by whole turns, and its journal.

One Conversation per session, passed around; nothing here is shared between sessions.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anygpt_demo.errors import UserError

if TYPE_CHECKING:
    import numpy as np

SLACK = 0.2  # of the room for a prompt, freed at once where older turns no longer fit


@dataclass(frozen=True)
class TextPart:
    """Words of a person or of the model."""

    text: str


@dataclass(frozen=True, eq=False)
class MediaPart:
    """A picture or a sound, as the codes the language model reads.

    codes: int64 (frames, layers); file: name of the media file in the session folder, None if there is none;
    text: transcript or caption when one is known; seconds: how long the file is, where it goes on after the codes.
    """

    modality: str
    codes: np.ndarray
    file: str | None = None
    text: str = ""
    seconds: float | None = None


Part = TextPart | MediaPart


@dataclass(frozen=True, eq=False)
class Turn:
    """What one side said. `heard`: the model's transcript of the person's speech (the first step of a speech reply).

    placed: a person has said where the files stand among the words, and they are read there.
    ids: what the model wrote, word for word, so that it is read again and never re-tokenized; empty for a
    person's turn and for turns made by hand. facts: how it was made (seed, settings, model), so that it can be made again.
    """

    role: Literal["human", "mmgpt"]
    parts: tuple[Part, ...]
    heard: str | None = None
    ids: tuple[int, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    placed: bool = False

    @property
    def text(self) -> str:
        """All its words."""
        return " ".join(part.text for part in self.parts if isinstance(part, TextPart))


def to_record(turn: Turn) -> dict[str, Any]:
    """A turn as plain JSON values."""
    parts: list[dict[str, Any]] = []
    for part in turn.parts:
        if isinstance(part, TextPart):
            parts.append({"type": "text", "text": part.text})
        else:
            more = {} if part.seconds is None else {"seconds": part.seconds}
            parts.append({"type": part.modality, "codes": part.codes.tolist(), "file": part.file, "text": part.text, **more})
    placed = {"placed": True} if turn.placed else {}
    return {"role": turn.role, "parts": parts, "heard": turn.heard, "ids": list(turn.ids), "facts": dict(turn.facts), **placed}


def from_record(record: dict[str, Any]) -> Turn:
    """Inverse of to_record. Raises KeyError, TypeError or ValueError on anything else."""
    import numpy as np

    parts: list[Part] = []
    for item in record["parts"]:
        if item["type"] == "text":
            parts.append(TextPart(str(item["text"])))
        else:
            codes = np.asarray(item["codes"], dtype=np.int64)
            if codes.ndim != 2:
                raise ValueError("codes are not (frames, layers)")
            seconds = None if item.get("seconds") is None else float(item["seconds"])
            parts.append(MediaPart(item["type"], codes, item["file"], item["text"], seconds))
    if record["role"] not in ("human", "mmgpt"):
        raise ValueError(f"no role {record['role']}")
    ids = tuple(int(number) for number in record["ids"])
    return Turn(record["role"], tuple(parts), record["heard"], ids, dict(record.get("facts", {})), record.get("placed") is True)


@dataclass
class Conversation:
    """The turns of one session, oldest first. With a journal, a turn is on disk before it is in memory.

    cache: whatever the engine wants to keep between two replies of this conversation.
    """

    turns: list[Turn] = field(default_factory=list)
    journal: Journal | None = None
    cache: Any = None

    def add(self, *turns: Turn) -> None:
        """Append turns; they are acknowledged once this returns."""
        for turn in turns:
            if self.journal is not None:
                self.journal.append(turn)
            self.turns.append(turn)

    def undo(self, count: int = 1) -> list[Turn]:
        """Take back the last turns and return them."""
        count = min(count, len(self.turns))
        if count == 0:
            return []
        if self.journal is not None:
            self.journal.mark("undo", count)
        taken = self.turns[-count:]
        del self.turns[-count:]
        return taken

    def replace(self, index: int, turn: Turn) -> None:
        """Put another turn in the place of one. Raises IndexError if there is none."""
        old = self.turns[index]
        if self.journal is not None:
            self.journal.exchange(self.turns.index(old), turn)
        self.turns[index] = turn

    def clear(self) -> None:
        """Forget all turns; the journal keeps them but starts anew."""
        if self.journal is not None and self.turns:
            self.journal.mark("clear", 0)
        self.turns.clear()

    def fit(self, count: Callable[[Sequence[Turn]], int], room: int, most: int | None = None) -> tuple[list[Turn], int]:
        """The newest turns that fit, and how many older ones were left out. Turns are never cut.

        count: turns -> ids of the prompt. room: ids wanted for the prompt. The newest turn alone may take up to
        `most` (default: room); beyond that a UserError is raised. What is kept begins with a person's turn.

        Where turns have to go, as many go as leave SLACK of the room free, so that the prompts of the next turns begin as this one
        does and nothing of them is read twice. Which ones go follows from the turns alone: what was left out stays left out.
        """
        empty = count([])
        sizes, first, total = [count([turn]) - empty for turn in self.turns], 0, empty
        starts = [number for number, turn in enumerate(self.turns) if turn.role == "human"]
        for number, size in enumerate(sizes):
            total += size
            if number in starts and total > room:
                later = (start for start in starts if first < start <= number)
                free = next((start for start in later if total - sum(sizes[first:start]) <= (1 - SLACK) * room), number)
                total -= sum(sizes[first:free])
                first = free
        for start in starts:  # the sizes of turns may differ a little from that of all together
            if start >= first and count(self.turns[start:]) <= room:
                return self.turns[start:], start
        last = max((number for number, turn in enumerate(self.turns) if turn.role == "human"), default=None)
        if last is None:
            raise UserError("There is nothing to answer.", "The conversation has no message of yours.", "Write or say something first.")
        needed = count(self.turns[last:])
        most = room if most is None else most
        if needed > most:
            cause = f"It takes {needed:,} tokens, and the model reads at most {most:,}."
            raise UserError("This message is too long.", cause, "Shorten the text, or send fewer files at once.")
        return self.turns[last:], last


class Journal:
    """An append-only record of one session: turns.jsonl and the media files beside it.

    Every line is synced to disk before append() returns; media files are written under another name, synced and
    renamed, so a name in the journal is always a whole file. A torn last line is cut off on reopening.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "turns.jsonl"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for draft in folder.glob("*.part"):
            draft.unlink()
        self.turns = self._recover()  # as found on opening
        self._files = sum(1 for _ in folder.iterdir())

    @classmethod
    def create(cls, root: Path) -> Journal:
        """A journal in a new folder with a random 128-bit name."""
        return cls(root / secrets.token_hex(16))

    def conversation(self) -> Conversation:
        """The conversation as it was left."""
        return Conversation(list(self.turns), self)

    def append(self, turn: Turn) -> None:
        """Write one turn; it survives any crash after this returns."""
        self._write({"turn": to_record(turn)})

    def mark(self, event: str, count: int) -> None:
        """Write that turns were taken back (`undo`, count of them) or forgotten (`clear`)."""
        self._write({"event": event, "count": count})

    def exchange(self, index: int, turn: Turn) -> None:
        """Write that another turn takes the place of turn `index`."""
        self._write({"event": "exchange", "count": index, "with": to_record(turn)})

    def save(self, label: str, suffix: str, data: bytes) -> str:
        """Write a media file whole and return its name, which holds nothing of what a person typed."""
        self._files += 1
        name = f"{self._files:04d}-{label}-{secrets.token_hex(4)}{suffix}"
        draft = self.folder / (name + ".part")
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.folder / name)
        self._sync_folder()
        return name

    def _write(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"
        fresh = not self.path.exists()
        with self.path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if fresh:
            self._sync_folder()

    def _sync_folder(self) -> None:
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _recover(self) -> list[Turn]:
        """Read all turns. A torn last line is cut off; damaged lines before it are left out."""
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            with self.path.open("r+b") as file:
                file.truncate(whole)
                os.fsync(file.fileno())
        turns: list[Turn] = []
        for line in data[:whole].splitlines():
            try:
                record = json.loads(line)
                if "turn" in record:
                    turns.append(from_record(record["turn"]))
                elif record["event"] == "clear":
                    turns.clear()
                elif record["event"] == "undo":
                    del turns[len(turns) - min(len(turns), int(record["count"])) :]
                elif record["event"] == "exchange":
                    turns[int(record["count"])] = from_record(record["with"])
            except (ValueError, KeyError, TypeError, IndexError):
                continue
        return turns
