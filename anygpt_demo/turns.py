"""A turn of the page: what is sent or pressed becomes a job, the job waits in the line, its updates become messages.

claim() is the quick first half, answer() the second one, which waits for the model. Stopping is a flag, never a cancelled event.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gradio.utils import get_upload_folder

from anygpt_demo import chat as dialogue
from anygpt_demo import lens, longer
from anygpt_demo.chat import PRESETS, Chat, Message, Settings
from anygpt_demo.codecs.base import Rendering
from anygpt_demo.conversation import Conversation, MediaPart, Part, TextPart, Turn
from anygpt_demo.errors import BadText, UserError
from anygpt_demo.media import Audio
from anygpt_demo.view import (
    DOING,
    NAMES,
    SENT,
    View,
    button,
    card,
    closer,
    human_content,
    in_line,
    not_there,
    remark,
    reply_content,
    reply_end,
    ribbon,
    shown_file,
    shown_media,
    status_line,
    transcript,
    under,
    view_of,
    without_card,
    words,
)
from anygpt_demo.visitors import Job, Line, Session
from anygpt_demo.watermark import Marker, embed

ITEMS = 8  # files in one message
NONE: Mapping[str, MediaPart] = {}
FRAME_S = 0.1  # the page is redrawn at most ten times a second
PIECES = 4  # of sound are handed to the page at once: some redraws of it may be skipped
NOTHING = "Stopped before anything was made."
EMPTY = "The reply is empty."
LIGHTER = "Answer with the preset fast"
REPETITION = UserError("The reply goes in circles.", "The model repeats the same words.", "Retry draws other ones; so does another seed.")
CIRCLES = UserError(
    "This sound goes in circles.", "The model wrote the same tokens over and over.", "Another drawing mends it, or another seed."
)
OUTPUTS = ("image", "speech", "music", "text", "heard")  # what a chip may ask for
CHIPS: dict[str, tuple[str | None, tuple[str, ...]]] = {"spoken": ("speech", ("image", "music")), "silent": (None, ("speech", "music"))}
# chips that forbid as well: what they ask for, and what must not come


# ---------------------------------------------------------------------------------------------------------- receiving


def read_items(chat: Chat, items: object, kept: Mapping[str, MediaPart] = NONE) -> tuple[list[tuple[str, Any]], list[str]]:
    """The files of a message, as the composer names them, to clean media and notes. Raises UserError, which says of which file.

    kept: files of the message that is changed, by the number of their part; an item with that number as "keep" is one of them.
    """
    found: list[tuple[str, Any]] = []
    notes: list[str] = []
    if not isinstance(items, list) or len(items) > ITEMS:
        raise BadText("This message has too many files.", f"The limit is {ITEMS}.", "Send them in parts.")
    uploads = Path(get_upload_folder()).resolve()
    for number, item in enumerate(items):
        if "keep" in item:
            if (part := kept.get(str(item["keep"]))) is None:
                raise BadText("This part is gone.", "The chat has changed since.", "Look at the newest reply.")
            found.append((part.modality, part))
            continue
        path, kind = Path(str(item.get("path", ""))).resolve(), item.get("kind")
        try:
            if kind not in chat.modalities or not path.is_relative_to(uploads) or not path.is_file():
                raise BadText("A file did not arrive.", "The upload was not completed.", "Attach it again.")
            medium, more = dialogue.read_file(chat.vocabulary, kind, path.read_bytes())
        except UserError as error:
            error.file = (number, kind if kind in chat.modalities else "image")
            raise
        found.append((kind, medium))
        notes += more
    return found, notes


def preview(message: Message, folder: Path) -> list[Any]:
    """The person's message before the model has read it. folder: of the session, where files of earlier messages lie."""
    content: list[Any] = []
    for part in message.order or (*range(len(message.media)), *([message.text] if message.text else [])):
        if isinstance(part, str):
            content.append(words(part))
            continue
        name, medium = message.media[part]
        if not isinstance(medium, MediaPart):
            content += [shown_media(medium, SENT, generated=False), under(name, "from you")]
        elif medium.file is not None:
            content += [shown_file(folder / medium.file, medium.text or SENT), under(name, "from you")]
    return content


def claim(session: Session, prepare: Callable[[], Job | None], pressed: str | None = None) -> tuple[View, str]:
    """First half of a turn: read and show the message. The second half, answer(), waits for the model.

    pressed: the button that asks for it; None: a message of the composer, which gets it back if it is refused.
    """
    if not session.turn.acquire(blocking=False):
        return session.view, status_line("One reply at a time: please wait for this one, or stop it.", back="")
    session.stop.clear()
    session.pending = None
    try:
        session.pending = prepare()
        return session.view, status_line("Waiting for the model" if session.pending is not None else "")
    except UserError as error:
        way = way_out(session, error) if pressed is None else pressed if pressed and not isinstance(error, BadText) else closer()
        session.view.append({"role": "assistant", "content": [card(error, way)]})
        kept = pressed is not None or session.last is not None  # the card itself can send it again
        return session.view, status_line("", back=None if kept else str(error.file[0]) if error.file is not None else "")
    finally:
        if session.pending is None:
            session.turn.release()


def way_out(session: Session, error: UserError) -> str:
    """The button below a refusal: another file for one that cannot be read, else the same message once more, else away with it."""
    if error.file is not None:
        return button("attach", error.file[1], "Choose another file")
    if session.last is None or isinstance(error, BadText):
        return closer()
    if error.remedy == dialogue.OUT_OF_MEMORY and session.last.lighter is not None:
        return button("lighter", "0", LIGHTER)
    return button("resend", "0", "Try again")


def lightened(wish: Settings) -> Settings:
    """The same wish with the limits of the preset fast, in less memory."""
    fast = PRESETS["fast"]
    return replace(wish, limits=fast.limits, max_new=fast.max_new, rendering=replace(wish.rendering, enhance=False))


def _options(session: Session, settings: Settings) -> dict[str, Any]:
    return {"voice": session.voice, "settings": settings, "stop": session.stop}


def repeats(text: str, span: int = 24, times: int = 3) -> bool:
    """Whether a text ends in the same few words, said over and over: at most `span` of them, `times` times or more."""
    said = text.split()
    return any(
        len(said) >= count * times and all(said[-count:] == said[-count * (turn + 1) : -count * turn] for turn in range(1, times))
        for count in range(3, span + 1)
    )


def circles(codes: np.ndarray, span: int = 40, least: int = 75) -> bool:
    """Whether a sound repeats itself, frame by frame, for `least` frames (1.5 s) with a period up to `span`. codes: int (frames, layers).

    True music and speech never do for more than 24 frames (300 pieces and 120 sentences, all periods).
    """
    for period in range(1, min(span, len(codes) - least) + 1):
        changes = np.flatnonzero((codes[period:] != codes[:-period]).any(1))
        if np.diff(changes, prepend=-1, append=len(codes) - period).max() > least:
            return True
    return False


def _wished(session: Session, output: object) -> Settings:
    """The visitor's settings with what a chip asks for."""
    wish, never = CHIPS.get(str(output), (str(output) if output in OUTPUTS else None, ()))
    kept = [name for name in session.settings.forbid if name != wish]
    preset = "paper" if wish == "text" and session.settings.preset == "chat" else session.settings.preset  # to describe is to find words
    return replace(session.settings, output=wish, preset=preset, forbid=tuple(dict.fromkeys((*kept, *never))))


def chip_of(turn: Turn) -> str | None:
    """The chip with which a reply was asked for."""
    made = turn.facts.get("settings") or {}
    if made.get("lead") == 0:  # its words were read aloud, which nobody asked of the reply itself
        return None
    wish = made.get("output")
    return next((name for name, (one, never) in CHIPS.items() if one == wish and set(never) <= set(made.get("forbid", ()))), wish)


def new_message(chat: Chat, session: Session, text: str, items: object, output: object = None, aloud: bool = False) -> Job:
    """A message from the composer. aloud: the reply is to be heard, whatever it holds."""
    session.last = None
    found, notes = read_items(chat, items)
    message, wish = Message.written(text, found), _wished(session, output)
    session.view.append({"role": "user", "content": preview(message, session.folder)})
    if notes:
        session.view.append({"role": "assistant", "content": [remark(note) for note in notes]})

    def start(seed: int, light: bool = False) -> Iterator[dialogue.Update]:
        used = lightened(wish) if light else wish
        updates = chat.reply(session.conversation, message, seed=seed, **_options(session, used))
        return read_aloud(chat, session, updates, used, seed) if aloud else updates

    lighter = None if wish == lightened(wish) else partial(start, light=True)
    session.last = Job(start, lighter=lighter, fold=output == "spoken", aloud=aloud)
    return session.last


def read_aloud(chat: Chat, session: Session, updates: Iterator[dialogue.Update], wish: Settings, seed: int) -> Iterator[dialogue.Update]:
    """A reply; if it has words but nothing that sounds, it goes on with speech: to draw what was asked for comes first."""
    for update in updates:
        turn = update.turn if isinstance(update, dialogue.Finished) and update.reason == "eos" else None
        if turn is None or not isinstance(update, dialogue.Finished) or not _speakable(chat, turn, wish) or update.human is None:
            yield update
            continue
        session.conversation.undo(2)
        options = _options(session, replace(wish, output="speech", lead=0))
        opening, known = chat.opening(turn, len(turn.parts)), False
        for more in chat.reply(session.conversation, update.human, seed=seed, opening=opening, **options):
            known = known or more == dialogue.Stage("thinking")  # before it come the words and pictures that are already there
            if isinstance(more, dialogue.Finished):
                if more.turn is None:  # the speech did not fit: the reply stays as it was
                    session.conversation.add(update.human)
                    session.conversation.add(turn)
                    more = replace(more, reason="eos", turn=turn, human=update.human)
                total = update.times["total"] + more.times["total"]
                yield replace(more, tokens=update.tokens + more.tokens, times={**more.times, "total": total})
            elif known:
                yield more


def _speakable(chat: Chat, turn: Turn, wish: Settings) -> bool:
    """Whether the words of a reply can still be said in it."""
    kinds = {part.modality: chat.vocabulary.ranges[part.modality].modality.kind for part in turn.parts if isinstance(part, MediaPart)}
    return bool(turn.text.strip()) and "audio" not in kinds.values() and "speech" not in wish.forbid and wish.output is None


def answered_anew(
    chat: Chat,
    session: Session,
    index: int,
    human: Turn | Message,
    output: object = None,
    keep: dialogue.Opening | None = None,
    light: bool = False,
) -> Job:
    """Go back to the message `index`, which may have been changed, and answer it again. light: in less memory."""
    conversation = session.conversation
    session.view = view_of(chat, Conversation(conversation.turns[:index]), session.folder)
    asked = preview(human, session.folder) if isinstance(human, Message) else human_content(human.parts, session.folder, None)
    session.view.append({"role": "user", "content": asked})
    wish = lightened(_wished(session, output)) if light else _wished(session, output)

    def start(seed: int, light: bool = False) -> Iterator[dialogue.Update]:
        taken = conversation.undo(max(0, len(conversation.turns) - index))
        options = _options(session, lightened(wish) if light else wish)
        for update in chat.reply(conversation, human, seed=seed, opening=keep, **options):
            if isinstance(update, dialogue.Finished) and update.reason == "refused":  # nothing is lost
                conversation.add(*taken)
                session.view = view_of(chat, conversation, session.folder)
            yield update

    lighter = None if wish == lightened(wish) else partial(start, light=True)
    session.last = Job(start, lighter=lighter, fold=output == "spoken", back=True)
    return session.last


def edited(chat: Chat, session: Session, place: str, text: str, items: object, output: object = None) -> Job:
    """A message with other words or other files. items: files of it that stay, by the number of their part ("keep"), and new ones.

    What a mark in the words means is a number among `items`, as in a new message.
    """
    index, _, turn = lens.find(session.conversation, place)
    kept = {str(number): part for number, part in enumerate(turn.parts) if isinstance(part, MediaPart)}
    media, notes = read_items(chat, items, kept)
    if not text.strip() and not media:
        raise BadText("This message is empty.", "It has neither words nor a file.", "Write something, or press Undo.")
    message = Message.written(text.strip(), media)
    job = answered_anew(chat, session, index, message, output)
    if notes:
        session.view.append({"role": "assistant", "content": [remark(note) for note in notes]})
    return job


def act(chat: Chat, session: Session, name: str, place: str) -> Job | None:
    """A button of a message: resend, lighter, close, words, retry, undo, branch, again, render or longer. Raises UserError."""
    if name == "close":
        session.view = without_card(session.view, place)
        return None
    if (name == "resend" or (name, place) == ("lighter", "0")) and session.last is not None:
        if session.view and any(f'name="{one}" value="0"' in str(session.view[-1]["content"]) for one in ("resend", "lighter")):
            session.view.pop()
        if name == "lighter":
            session.last = replace(session.last, start=session.last.lighter or session.last.start, lighter=None)
        return session.last
    place, _, seconds = place.rpartition(".") if name == "longer" else (place, "", "")
    place, _, within = place.rpartition(".") if name == "branch" and place.count(".") == 2 else (place, "", "")
    index, number, turn = lens.find(session.conversation, place)
    if name == "words" and number < len(turn.parts) and isinstance(turn.parts[number], MediaPart):
        write = partial(chat.put_into_words, session.conversation, index, number, stop=session.stop)
        return Job(lambda seed: write(), index, button=button(name, f"{index}.{number}", "Try again"))
    if turn.role != "mmgpt" or index == 0:
        raise BadText("This cannot be done here.", "It is not a reply.", "Use the buttons below a reply.")
    human = session.conversation.turns[index - 1]
    if name == "undo":
        session.conversation.undo(len(session.conversation.turns) - index + 1)
        session.view = view_of(chat, session.conversation, session.folder)
        return None
    if name == "branch":
        keep = chat.opening(turn, number, int(within[:6])) if within.isdecimal() else chat.opening(turn, number + 1)
        return answered_anew(chat, session, index - 1, human, keep=keep)
    part = turn.parts[number] if number < len(turn.parts) else None
    if name in ("again", "render", "longer") and isinstance(part, MediaPart) and part.modality != "image":
        session.view = view_of(chat, session.conversation, session.folder, (index, number))
    if name == "longer":
        conversation, wanted, stop = session.conversation, float(seconds) if seconds.isdecimal() else 0.0, session.stop
        anew, drawn = button("longer", f"{index}.{number}.{wanted:.0f}", "Try again"), session.settings.sampling
        go_on = partial(longer.lengthen, chat, conversation, index, number, wanted, stop=stop, sampling=drawn)
        return Job(lambda seed: go_on(seed=seed), index, button=anew)
    if name in ("again", "render") and isinstance(part, MediaPart):
        conversation, options = session.conversation, _options(session, session.settings)
        anew = button(name, f"{index}.{number}", "Try again")
        if name == "again":
            return Job(lambda seed: chat.again(conversation, index, number, seed=seed, **options), index, button=anew)
        size = Rendering(enhance=session.settings.rendering.enhance)
        return Job(
            lambda seed: chat.render(conversation, index, number, seed=seed, voice=session.voice, rendering=size), index, button=anew
        )
    return answered_anew(chat, session, index - 1, human, chip_of(turn), light=name == "lighter")


# ---------------------------------------------------------------------------------------------------------- answering


class Answer:
    """One reply as it grows on the page."""

    def __init__(self, chat: Chat, session: Session, job: Job) -> None:
        self.chat, self.session, self.job = chat, session, job
        self.parts: list[Part] = []
        self.extra: list[str] = []  # cards and notes
        self.failed: list[tuple[int, dialogue.Card]] = []  # where the cards are among them
        self.began: dict[str, tuple[float, int]] = {}  # when codes of the block that is being written came first, and how many
        self.text = ""
        self.heard = ""
        self.rough: dict[str, str] | None = None  # the picture that forms
        self.sounds: list[dict[str, Any]] = []  # newest pieces of sound, to be played at once
        self.marker: Marker | None = None  # of the sound that is being made, if pieces of it were played
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
        elif isinstance(update, dialogue.Piece):
            if self.marker is None or not update.start_s:
                self.marker = Marker(update.media.rate_hz)
            self._sound(update.modality, self.marker.feed(update.media), self.marker.told)
            return True
        elif isinstance(update, dialogue.Made | dialogue.Kept):
            if isinstance(update, dialogue.Made) and isinstance(update.media, Audio):
                rest = embed(update.media) if self.marker is None else self.marker.finish()
                self._sound(update.part.modality, rest, len(rest.samples) if self.marker is None else self.marker.told)
            self.marker = None
            self._close_words()
            self.rough = None
            self.parts.append(update.part)
            return True
        elif isinstance(update, dialogue.Card):
            self.failed.append((len(self.extra), update))
            self.extra.append(card(update.error))
            return True
        elif isinstance(update, dialogue.Note):
            self.extra.append(remark(update.text))
        elif isinstance(update, dialogue.Finished):
            self._finish(update)
            return True
        return False

    def _sound(self, name: str, audio: Audio, told: int) -> None:
        """Have the page play a piece of a marked sound. told: how many of its samples there were, this piece included."""
        if not len(audio.samples):
            return
        start_s = (told - len(audio.samples)) / audio.rate_hz
        data = (np.clip(audio.samples, -1.0, 1.0) * 32767).astype("<i2").tobytes()
        parts = [*self.parts, TextPart(self.text)] if self.text.strip() else self.parts
        said = base64.b64encode(transcript(parts, len(parts)).encode() if name == "speech" else b"").decode()
        piece = {"id": secrets.token_hex(8), "rate": audio.rate_hz, "pcm": base64.b64encode(data).decode(), "said": said, "start": start_s}
        self.sounds.append(piece)
        del self.sounds[:-PIECES]

    def _close_words(self) -> None:
        if self.text.strip():
            self.parts.append(TextPart(self.text))
        self.text = ""

    def _progress(self, update: dialogue.Progress) -> str:
        facts = self.chat.vocabulary.ranges[update.modality].modality
        rate = facts.frame_rate_hz
        frames = self.session.settings.limits.get(update.modality, facts.frames.stop - 1)
        total = update.total or frames * facts.layers  # a sound may end earlier
        count = f"{update.codes} of {'' if update.total else 'at most '}{total} tokens"
        length = f", {update.codes / facts.layers / rate:.1f} s" if rate else ""
        left = self._left(update, total)
        ends = f", {'' if update.total else 'at most '}{left:.0f} s left" if left is not None and left >= 1 else ""
        return status_line(f"{DOING.get(update.modality, 'Making')}: {count}{length}{ends}", update.modality, update.codes, total)

    def _left(self, update: dialogue.Progress, total: int) -> float | None:
        """Seconds until `total` codes are there, at the pace so far."""
        now = time.monotonic()
        if not update.codes or update.modality not in self.began:
            self.began = {update.modality: (now, update.codes)}
            return None
        since, known = self.began[update.modality]
        spent = now - since
        return spent / (update.codes - known) * (total - update.codes) if spent > FRAME_S and update.codes > known else None

    def _finish(self, update: dialogue.Finished) -> None:
        self._close_words()
        if update.turn is not None:
            self.parts = list(update.turn.parts)
        if update.human is not None and update.turn is not None:
            index = len(self.session.conversation.turns) - 2
            strip = ribbon(self.chat, update.human, index)
            self.asked["content"] = human_content(update.human.parts, self.session.folder, update.turn.heard, index, strip)
        ends = {"stop": "Stopped", "budget": "Cut at the length limit", "eos": "Done", "refused": "", "fault": "Ended early"}
        end = ends.get(update.reason, "Done")
        self.rough = None
        done = f"{end} after {update.times['total']:.1f} s, {update.tokens} tokens" if end else ""
        self.status = status_line(done, back="" if update.reason == "refused" and self.job.index is None else None)
        self.turn = update.turn
        if update.turn is None and self.job.index is None and not self.failed:
            self.empty(NOTHING if update.reason == "stop" else EMPTY)
        if update.turn is not None:
            index = len(self.session.conversation.turns) - 1 if self.job.index is None else self.job.index
            if update.reason == "budget":
                self.extra.append(f'<div class="acts turn">{button("branch", f"{index}.{len(self.parts) - 1}", "Continue")}</div>')
            if repeats(update.turn.text):
                self.extra.append(card(REPETITION, button("retry", index, "Retry")))
            for number, part in enumerate(update.turn.parts):
                if isinstance(part, MediaPart) and part.modality != "image" and circles(part.codes):
                    self.extra.append(card(CIRCLES, button("again", f"{index}.{number}", "Make it anew")))
        for place, failed in self.failed:
            self.extra[place] = card(failed.error, self._way_out(failed, update.turn))

    def _way_out(self, failed: dialogue.Card, turn: Turn | None) -> str:
        """The button of a card: the part that failed made anew, else the whole reply."""
        if turn is None or self.job.index is not None:
            return self.way_out(failed.error)
        index = len(self.session.conversation.turns) - 1
        scarce = failed.error.remedy == dialogue.OUT_OF_MEMORY and self.job.lighter is not None
        fast = button("lighter", index, LIGHTER) if scarce else ""
        for number, part in enumerate(turn.parts):
            if isinstance(part, MediaPart) and part.file is None and part.modality == failed.modality:
                return fast + button("again", f"{index}.{number}", "Make it anew")
        return fast + button("retry", index, "Retry")

    turn: Turn | None = None

    def way_out(self, error: UserError) -> str:
        """The button of a card that stands for the whole job."""
        if self.job.index is None:
            return way_out(self.session, error)
        return self.job.button if self.job.button and not isinstance(error, BadText) else closer()

    def empty(self, told: str = NOTHING) -> None:
        """There is nothing, which is `told`: the message can be sent again, or changed."""
        self.extra.append(remark(told, button("resend", "0", "Retry", "Send this message once more")))
        change = button("edit", "", "Edit", "Take this message back to the composer")
        self.asked.setdefault("content", []).append(f'<div class="acts turn">{change}</div>')

    def draw(self) -> tuple[View, str]:
        """The conversation with this reply at its end."""
        parts = [*self.parts, TextPart(self.text)] if self.text.strip() else self.parts
        index = len(self.session.conversation.turns) - 1 if self.turn is not None else None
        content = reply_content(self.chat, parts, self.session.folder, index, fold=self.job.fold)
        if self.rough is not None:
            content.append(self.rough)
        if self.turn is not None and index is not None:
            content += reply_end(self.chat, self.turn, index)
        self.message["content"] = [*content, *self.extra]
        return [*self.session.view, self.message] if self.message["content"] else self.session.view, self.status


def answer(chat: Chat, session: Session, line: Line) -> Iterator[tuple[View, str, list[dict[str, Any]]]]:
    """Second half of a turn: wait for the model, then the reply, redrawn at most ten times a second.

    Yields the messages, the status line and the newest pieces of sound.
    """
    job, session.pending = session.pending, None
    if job is None:
        return
    page = Answer(chat, session, job)
    ticket: object | None = None
    begun = False
    try:
        ticket = line.enter(session.key)
        while not line.wait(ticket, 0.5) and not session.stop.is_set():
            ahead = line.ahead(ticket)
            told = not_there() if not line.ready() else in_line(ahead) if ahead else ""
            card_of_line = [{"role": "assistant", "content": [told]}] if told else []
            waits = f"Waiting for the model: {ahead} before you" if ahead else "Waiting for the model"
            yield [*session.view, *card_of_line], status_line(waits), []
        if session.stop.is_set():
            page.status = status_line("Stopped")
            _unserved(page, job)
        else:
            begun = True
            yield from _follow(page, job)
    except GeneratorExit:  # the visitor has closed the page
        if not begun:
            _unserved(page, job)
        raise
    except UserError as error:
        page.status = status_line("")
        page.extra.append(card(error, page.way_out(error)))
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
    yield session.view, page.status, page.sounds


def _unserved(page: Answer, job: Job) -> None:
    """The line was left before the model began: a message can be sent again, or changed; what it goes back to stays."""
    if job.back:  # nothing was taken back yet
        page.session.view = view_of(page.chat, page.session.conversation, page.session.folder)
    elif job.index is None:
        page.empty()


def _follow(page: Answer, job: Job) -> Iterator[tuple[View, str, list[dict[str, Any]]]]:
    shown = 0.0
    for update in job.start(page.session.next_seed() if job.seed is None else job.seed):
        if page.take(update) or time.monotonic() - shown > FRAME_S:
            shown = time.monotonic()
            view, status = page.draw() if job.index is None else (page.session.view, page.status)
            yield view, status, page.sounds
