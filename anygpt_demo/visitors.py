"""Who is here: each visitor's chats, each in a folder with a journal, and the line before the model.

    sessions/<visitor>/<chat>/turns.jsonl, media files, title.json

Both names are 128-bit keys. A visitor's key is known to their own browser alone.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anygpt_demo.chat import PRESETS, Settings, Update
from anygpt_demo.checkpoints import write_json
from anygpt_demo.conversation import Conversation, Journal, TextPart
from anygpt_demo.errors import UserError
from anygpt_demo.media import Voice

KEEP_DAYS = 90  # chats that nobody opened for longer are deleted when the server starts
KEEP_BYTES = 4_000_000_000  # of all chats together; the oldest go first
CHATS = 500  # of one visitor are listed
TITLE = 60  # characters


@dataclass(frozen=True)
class Job:
    """What the model shall do. start: seed -> updates. index: the turn that is changed in its place, None for a new reply.

    lighter: the same in less memory, if that can be had. seed: the one to use instead of the visitor's.
    fold: the words of the reply are folded away, for it is to be heard. aloud: its sounds are played whatever the settings say.
    back: it goes back to an earlier message. button: what was pressed for it, to be pressed once more if it fails.
    """

    start: Callable[[int], Iterator[Update]]
    index: int | None = None
    lighter: Callable[[int], Iterator[Update]] | None = None
    seed: int | None = None
    fold: bool = False
    aloud: bool = False
    back: bool = False
    button: str = ""


@dataclass
class Session:
    """One open chat of one visitor, and everything that belongs to nobody else."""

    key: str
    chat: str
    conversation: Conversation
    folder: Path
    view: list[dict[str, Any]] = field(default_factory=list)
    hidden: bool = False  # the page shows something else for a moment
    stop: threading.Event = field(default_factory=threading.Event)
    turn: threading.Lock = field(default_factory=threading.Lock)  # held from sending to the end of the reply
    pending: Job | None = None
    last: Job | None = None  # the newest message, to be sent again if it failed
    voice: Voice | None = None
    voices: dict[str, Voice] = field(default_factory=dict)  # the visitor's own, by name
    settings: Settings = PRESETS["chat"]
    seed: int | None = None  # the locked one
    aloud: bool = True  # sounds are played while they are made

    def next_seed(self) -> int:
        """The locked seed, or a new one."""
        return self.seed if self.seed is not None else secrets.randbelow(2**31)

    def like(self, other: Session) -> None:
        """Take over another chat's voice and settings."""
        self.voice, self.voices, self.settings, self.seed, self.aloud = other.voice, other.voices, other.settings, other.seed, other.aloud

    @property
    def title(self) -> str:
        """The name that was given to this chat, else its first words."""
        return title_of(self.folder, self.conversation)

    def rename(self, title: str) -> None:
        """Give this chat a name; an empty one takes it back."""
        write_json(self.folder / "title.json", {"title": " ".join(title.split())[:TITLE]})


def title_of(folder: Path, conversation: Conversation) -> str:
    """The given name of a chat, else its first words."""
    try:
        given = str(json.loads((folder / "title.json").read_text(encoding="utf-8"))["title"])
        if given:
            return given[:TITLE]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    texts = (part.text for turn in conversation.turns for part in turn.parts if isinstance(part, TextPart))
    return next((text[:TITLE] for text in texts if text.strip()), "Chat without words" if conversation.turns else "New chat")


@dataclass(frozen=True)
class Listed:
    """One chat in the list. when: seconds since 1970 of its last change; text: all its words, for searching."""

    chat: str
    title: str
    when: float
    text: str


class Visitors:
    """All open chats of this server."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._sessions: dict[tuple[str, str], Session] = {}
        self._lock = threading.Lock()

    def find(self, key: object, chat: object = None) -> Session:
        """A chat of a visitor: as it is, as its journal left it, or a new one. chat: None opens the newest, "" a new one."""
        with self._lock:
            visitor = str(key) if _is_key(key) else secrets.token_hex(16)
            if chat is None:
                chat = next(iter(self._newest(visitor)), "")
            if not _is_key(chat) or ((visitor, chat) not in self._sessions and not (self.root / visitor / str(chat)).is_dir()):
                chat = secrets.token_hex(16)
            place = (visitor, str(chat))
            if place not in self._sessions:
                journal = Journal(self.root / visitor / str(chat))
                self._sessions[place] = Session(visitor, str(chat), journal.conversation(), journal.folder)
            return self._sessions[place]

    def _newest(self, visitor: str) -> list[str]:
        """Chats of a visitor that have turns, newest first."""
        found = [path for path in (self.root / visitor).glob("*/turns.jsonl") if _is_key(path.parent.name)]
        return [path.parent.name for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]

    def chats(self, visitor: str) -> list[Listed]:
        """The visitor's chats, newest first."""
        listed = []
        for chat in self._newest(visitor)[:CHATS]:
            folder = self.root / visitor / chat
            session = self._sessions.get((visitor, chat))
            conversation = session.conversation if session is not None else Journal(folder).conversation()
            text = " ".join(turn.text + " " + (turn.heard or "") for turn in conversation.turns)
            if conversation.turns:
                listed.append(Listed(chat, title_of(folder, conversation), (folder / "turns.jsonl").stat().st_mtime, text))
        return listed

    def delete(self, visitor: str, chat: str) -> None:
        """Delete a chat of a visitor with its files."""
        if not (_is_key(visitor) and _is_key(chat)):
            return
        with self._lock:
            session = self._sessions.pop((visitor, chat), None)
        if session is not None:
            session.stop.set()
        shutil.rmtree(self.root / visitor / chat, ignore_errors=True)

    def leave(self, session: Session | None, *, erase: bool) -> None:
        """Forget a visitor who has gone; erase: their files as well."""
        if session is None:
            return
        session.stop.set()
        with self._lock:
            self._sessions.pop((session.key, session.chat), None)
        if erase or not session.conversation.turns:
            shutil.rmtree(session.folder, ignore_errors=True)
        if erase:  # what this visitor left in chats that are not open elsewhere
            for chat in self._newest(session.key):
                if (session.key, chat) not in self._sessions:
                    shutil.rmtree(self.root / session.key / chat, ignore_errors=True)


def _is_key(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32}", value) is not None


def prune(root: Path, days: float = KEEP_DAYS, limit: float = KEEP_BYTES) -> int:
    """Delete chats that are old, empty or too many for the disk, oldest first. Returns how many went."""
    found = []
    for folder in root.glob("*/*/") if root.is_dir() else ():
        if _is_key(folder.name) and _is_key(folder.parent.name):
            files = [path for path in folder.iterdir() if path.is_file()]
            when = max((path.stat().st_mtime for path in files), default=0.0)
            found.append((when, sum(path.stat().st_size for path in files), folder, (folder / "turns.jsonl").is_file()))
    kept, gone = 0.0, 0
    for when, size, folder, used in sorted(found, key=lambda item: item[0], reverse=True):
        if not used or when < time.time() - days * 86400 or kept + size > limit:
            shutil.rmtree(folder, ignore_errors=True)
            gone += 1
            if not any(folder.parent.iterdir()):
                folder.parent.rmdir()
        else:
            kept += size
    return gone


# ------------------------------------------------------------------------------------------------- the line


class Line:
    """A fair queue before the model: one at a time; nobody is served twice in a row while others wait.

    each: most that one person may have in it; limit: most of all together. ready: whether there is a model to wait for; until
    then nobody is served. It raises the UserError that all who wait are told if there never will be one.
    """

    def __init__(self, limit: int = 32, each: int = 2, ready: Callable[[], bool] = lambda: True) -> None:
        self.limit, self.each, self.ready = limit, each, ready
        self._waiting: list[tuple[object, str]] = []  # (ticket, who), the first is being served if _busy
        self._busy: object | None = None
        self._served: dict[str, int] = {}  # when those who are in the line were served last: the least recently served comes first
        self._turn = 0
        self._change = threading.Condition()

    def enter(self, who: str) -> object:
        """Take a ticket. Raises UserError if there is no room."""
        with self._change:
            if len(self._waiting) >= self.limit:
                raise UserError("Too many people are here.", f"{self.limit} wait for the model.", "Try again in a minute.")
            if sum(name == who for _, name in self._waiting) >= self.each:
                raise UserError("One reply at a time.", "Another one of yours is being made.", "Wait for it, or stop it.")
            ticket = object()
            self._waiting.append((ticket, who))
            return ticket

    def __len__(self) -> int:
        """How many are in it, whoever is being served included."""
        return len(self._waiting)

    def ahead(self, ticket: object) -> int:
        """How many come before this ticket, whoever is being served included."""
        with self._change:
            return next((place for place, other in enumerate(self._order()) if other is ticket), 0)

    def _order(self) -> list[object]:
        """The tickets as they will be served if nobody else comes."""
        waiting = [item for item in self._waiting if item[0] is not self._busy]
        served, turn = dict(self._served), self._turn
        found = [self._busy] if self._busy is not None else []
        while waiting:
            item = min(waiting, key=lambda one: served.get(one[1], 0))
            waiting.remove(item)
            turn += 1
            served[item[1]] = turn
            found.append(item[0])
        return found

    def wait(self, ticket: object, seconds: float) -> bool:
        """Whether it is this ticket's turn, after waiting for at most so long. Raises UserError if it will never be."""
        with self._change:
            return self._change.wait_for(lambda: self.ready() and self._serve(ticket), seconds)

    def _serve(self, ticket: object) -> bool:
        if self._busy is not None:
            return self._busy is ticket
        following = min(self._waiting, key=lambda item: self._served.get(item[1], 0), default=None)
        if following is None or following[0] is not ticket:
            return False
        self._turn += 1
        self._busy, self._served[following[1]] = ticket, self._turn
        return True

    def leave(self, ticket: object) -> None:
        """Give the ticket back, served or not."""
        with self._change:
            self._waiting = [item for item in self._waiting if item[0] is not ticket]
            here = {who for _, who in self._waiting}
            self._served = {who: turn for who, turn in self._served.items() if who in here}
            if self._busy is ticket:
                self._busy = None
            self._change.notify_all()

    @contextmanager
    def turn(self, who: str) -> Iterator[None]:
        """Wait for the model, however long it takes, and have it."""
        ticket = self.enter(who)
        try:
            while not self.wait(ticket, 1.0):
                pass
            yield
        finally:
            self.leave(ticket)


class Pace:
    """At most `count` messages of one person in `seconds`."""

    def __init__(self, count: int, seconds: float = 60.0) -> None:
        self.count, self.seconds = count, seconds
        self._times: dict[str, list[float]] = {}
        self._lock = threading.Lock()

    def step(self, who: str) -> None:
        """Count one message. Raises UserError if there were too many."""
        now = time.monotonic()
        with self._lock:
            for name in [name for name, times in self._times.items() if times[-1] < now - self.seconds]:
                del self._times[name]
            recent = [moment for moment in self._times.get(who, ()) if moment > now - self.seconds]
            if len(recent) >= self.count:
                wait = f"Wait {self.seconds - (now - recent[0]):.0f} s."
                raise UserError("That was quick.", f"This public page answers {self.count} messages a minute.", wait)
            self._times[who] = [*recent, now]
