"""A turn of the page: what is sent or pressed becomes a job, the job waits in the line, its updates become messages.

claim() is the quick first half, answer() the second one, which waits for the model. Stopping is a flag, never a cancelled event.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder

from anygpt_demo import chat as dialogue
from anygpt_demo import lens
from anygpt_demo.chat import Chat, Message, Settings
from anygpt_demo.conversation import Conversation, MediaPart, Part, TextPart, Turn
from anygpt_demo.errors import BadText, UserError
from anygpt_demo.view import (
    DOING,
    NAMES,
    View,
    card,
    human_content,
    remark,
    reply_content,
    reply_end,
    shown_media,
    status_line,
    under,
    view_of,
    words,
)
from anygpt_demo.visitors import Job, Line, Session

ITEMS = 8  # files in one message
FRAME_S = 0.1  # the page is redrawn at most ten times a second
OUTPUTS = ("image", "speech", "music", "text", "heard")  # what a chip may ask for


# ---------------------------------------------------------------------------------------------------------- receiving


def read_items(chat: Chat, items: object) -> tuple[list[tuple[str, Any]], list[str]]:
    """The files of a message, as the composer names them, to clean media and notes. Raises UserError."""
    found: list[tuple[str, Any]] = []
    notes: list[str] = []
    if not isinstance(items, list) or len(items) > ITEMS:
        raise BadText("This message has too many files.", f"The limit is {ITEMS}.", "Send them in parts.")
    uploads = Path(get_upload_folder()).resolve()
    for item in items:
        path = Path(str(item.get("path", ""))).resolve()
        if item.get("kind") not in chat.modalities or not path.is_relative_to(uploads) or not path.is_file():
            raise BadText("A file did not arrive.", "The upload was not completed.", "Attach it again.")
        medium, more = dialogue.read_file(chat.vocabulary, item["kind"], path.read_bytes())
        found.append((item["kind"], medium))
        notes += more
    return found, notes


def preview(found: Sequence[tuple[str, Any]], text: str) -> list[Any]:
    """The person's message before the model has read it."""
    content: list[Any] = []
    for name, medium in found:
        content += [shown_media(medium, "What you sent", generated=False), under(name, "from you")]
    return [*content, words(text)] if text else content


def claim(session: Session, prepare: Callable[[], Job | None]) -> tuple[View, str]:
    """First half of a turn: read and show the message. The second half, answer(), waits for the model."""
    if not session.turn.acquire(blocking=False):
        return session.view, status_line("One reply at a time: please wait for this one, or stop it.")
    session.stop.clear()
    session.pending = None
    try:
        session.pending = prepare()
        return session.view, status_line("Waiting for the model" if session.pending is not None else "")
    except UserError as error:
        session.view.append({"role": "assistant", "content": [card(error)]})
        return session.view, status_line("")
    finally:
        if session.pending is None:
            session.turn.release()


def _options(session: Session, settings: Settings) -> dict[str, Any]:
    return {"voice": session.voice, "settings": settings, "stop": session.stop}


def _wished(session: Session, output: object) -> Settings:
    """The visitor's settings with what a chip asks for."""
    wish = str(output) if output in OUTPUTS else None
    return replace(session.settings, output=wish, forbid=tuple(name for name in session.settings.forbid if name != wish))


def new_message(chat: Chat, session: Session, text: str, items: object, output: object = None) -> Job:
    """A message from the composer."""
    try:
        found, notes = read_items(chat, items)
    except UserError:
        session.view.append({"role": "user", "content": [words(text)] if text else [remark("(a file)")]})
        raise
    session.view.append({"role": "user", "content": preview(found, text)})
    if notes:
        session.view.append({"role": "assistant", "content": [remark(note) for note in notes]})
    message, options = Message(text, tuple(found)), _options(session, _wished(session, output))
    return Job(lambda seed: chat.reply(session.conversation, message, seed=seed, **options))


def answered_anew(
    chat: Chat, session: Session, index: int, human: Turn, output: object = None, keep: dialogue.Opening | None = None
) -> Job:
    """Go back to the message `index`, which may have been changed, and answer it again."""
    conversation = session.conversation
    session.view = view_of(chat, Conversation(conversation.turns[:index]), session.folder)
    session.view.append({"role": "user", "content": human_content(human.parts, session.folder, None)})
    options = _options(session, _wished(session, output))

    def start(seed: int) -> Iterator[dialogue.Update]:
        conversation.undo(len(conversation.turns) - index)
        yield from chat.reply(conversation, human, seed=seed, opening=keep, **options)

    return Job(start)


def edited(chat: Chat, session: Session, place: str, text: str, items: object, output: object = None) -> Job:
    """A message with other words; its files stay."""
    index, _, turn = lens.find(session.conversation, place)
    if isinstance(items, list) and items:
        raise BadText("Files cannot be added to an old message.", "Only its words can be changed.", "Send them in a new message.")
    files = tuple(part for part in turn.parts if isinstance(part, MediaPart))
    if not text.strip() and not files:
        raise BadText("This message is empty.", "It has neither words nor a file.", "Write something, or press Undo.")
    return answered_anew(chat, session, index, Turn("human", (*files, TextPart(text.strip())) if text.strip() else files), output)


def act(chat: Chat, session: Session, name: str, place: str) -> Job | None:
    """A button of a message: retry, undo, branch, again or render. Raises UserError."""
    index, number, turn = lens.find(session.conversation, place)
    if turn.role != "mmgpt" or index == 0:
        raise BadText("This cannot be done here.", "It is not a reply.", "Use the buttons below a reply.")
    human = session.conversation.turns[index - 1]
    if name == "undo":
        session.conversation.undo(len(session.conversation.turns) - index + 1)
        session.view = view_of(chat, session.conversation, session.folder)
        return None
    if name == "branch":
        return answered_anew(chat, session, index - 1, human, keep=chat.opening(turn, number + 1))
    if name in ("again", "render") and number < len(turn.parts) and isinstance(turn.parts[number], MediaPart):
        conversation, options = session.conversation, _options(session, session.settings)
        if name == "again":
            return Job(lambda seed: chat.again(conversation, index, number, seed=seed, **options), index)
        return Job(lambda seed: chat.render(conversation, index, number, seed=seed, voice=session.voice), index)
    return answered_anew(chat, session, index - 1, human, (turn.facts.get("settings") or {}).get("output"))


# ---------------------------------------------------------------------------------------------------------- answering


class Answer:
    """One reply as it grows on the page."""

    def __init__(self, chat: Chat, session: Session) -> None:
        self.chat, self.session = chat, session
        self.parts: list[Part] = []
        self.extra: list[str] = []  # cards and notes
        self.text = ""
        self.heard = ""
        self.rough: dict[str, str] | None = None  # the picture that forms
        self.status = status_line("Thinking")
        self.message: dict[str, Any] = {"role": "assistant", "content": []}
        self.asked: dict[str, Any] = next((message for message in reversed(session.view) if message["role"] == "user"), {})

    def take(self, update: dialogue.Update) -> bool:
        """Enter one update. Returns whether it must be seen at once."""
        if isinstance(update, dialogue.Words):
            if update.heard:
                self.heard += update.text
            else:
                self.text += update.text
            self.status = status_line("Listening" if update.heard else "Writing")
        elif isinstance(update, dialogue.Progress):
            self.status = self._progress(update)
        elif isinstance(update, dialogue.Stage):
            verbs = {"listening": "Reading your", "drawing": "Finishing the"}
            noun = NAMES.get(update.modality or "", "").lower()
            self.status = status_line(f"{verbs[update.name]} {noun}" if update.name in verbs else "Thinking", update.modality or "")
        elif isinstance(update, dialogue.Preview):
            self._close_words()
            self.rough = shown_media(update.media, "A picture that forms")
            return True
        elif isinstance(update, dialogue.Made | dialogue.Kept):
            self._close_words()
            self.rough = None
            self.parts.append(update.part)
            return True
        elif isinstance(update, dialogue.Card):
            self.extra.append(card(update.error))
            return True
        elif isinstance(update, dialogue.Note):
            self.extra.append(remark(update.text))
        elif isinstance(update, dialogue.Finished):
            self._finish(update)
            return True
        return False

    def _close_words(self) -> None:
        if self.text.strip():
            self.parts.append(TextPart(self.text))
        self.text = ""

    def _progress(self, update: dialogue.Progress) -> str:
        facts = self.chat.vocabulary.ranges[update.modality].modality
        count = f"{update.codes} of {update.total} tokens" if update.total else f"{update.codes} tokens"
        rate = facts.frame_rate_hz
        length = f", {update.codes / facts.layers / rate:.1f} s" if rate else ""
        return status_line(f"{DOING.get(update.modality, 'Making')}: {count}{length}", update.modality, update.codes, update.total)

    def _finish(self, update: dialogue.Finished) -> None:
        self._close_words()
        if update.turn is not None:
            self.parts = list(update.turn.parts)
        if update.human is not None and update.turn is not None:
            index = len(self.session.conversation.turns) - 2
            self.asked["content"] = human_content(update.human.parts, self.session.folder, update.turn.heard, index)
        ends = {"stop": "Stopped", "budget": "Cut at the length limit", "eos": "Done", "refused": "", "fault": "Ended early"}
        end = ends.get(update.reason, "Done")
        self.rough = None
        self.status = status_line(f"{end} after {update.times['total']:.1f} s, {update.tokens} tokens" if end else "")
        self.turn = update.turn

    turn: Turn | None = None

    def draw(self) -> tuple[View, str]:
        """The conversation with this reply at its end."""
        parts = [*self.parts, TextPart(self.text)] if self.text.strip() else self.parts
        index = len(self.session.conversation.turns) - 1 if self.turn is not None else None
        content = reply_content(self.chat, parts, self.session.folder, index)
        if self.rough is not None:
            content.append(self.rough)
        if self.turn is not None and index is not None:
            content += reply_end(self.turn, index)
        self.message["content"] = [*content, *self.extra]
        return [*self.session.view, self.message] if self.message["content"] else self.session.view, self.status


def answer(chat: Chat, session: Session, line: Line) -> Iterator[tuple[View, str]]:
    """Second half of a turn: wait for the model, then the reply, redrawn at most ten times a second."""
    job, session.pending = session.pending, None
    if job is None:
        return
    page = Answer(chat, session)
    ticket: object | None = None
    try:
        ticket = line.enter(session.key)
        while not line.wait(ticket, 0.5) and not session.stop.is_set():
            yield session.view, status_line(f"Waiting for the model: {line.ahead(ticket)} before you")
        if session.stop.is_set():
            yield session.view, status_line("Stopped")
            return
        yield from _follow(page, job)
    except UserError as error:
        page.extra.append(card(error))
    finally:  # also when the visitor has closed the page
        if ticket is not None:
            line.leave(ticket)
        if job.index is None:
            page.draw()
        else:
            session.view = view_of(chat, session.conversation, session.folder)
            page.message["content"] = page.extra
        if page.message["content"]:
            session.view.append(page.message)
        session.turn.release()
    yield session.view, page.status


def _follow(page: Answer, job: Job) -> Iterator[tuple[View, str]]:
    shown = 0.0
    for update in job.start(page.session.next_seed()):
        if page.take(update) or time.monotonic() - shown > FRAME_S:
            shown = time.monotonic()
            yield page.draw() if job.index is None else (page.session.view, page.status)
