"""Turns as messages of the page. Whatever people or models write becomes character references: nothing in it comes alive.

Buttons in a message are `<button name="WHAT" value="TURN.PART">`; assets/page.js hands their clicks to the server.
"""

from __future__ import annotations

import secrets
import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gradio.processing_utils import save_file_to_cache
from gradio.utils import get_upload_folder

from anygpt_demo import chat as dialogue
from anygpt_demo import protocol
from anygpt_demo.chat import Chat
from anygpt_demo.conversation import Conversation, MediaPart, Part, TextPart, Turn
from anygpt_demo.errors import UserError
from anygpt_demo.loading import Loading
from anygpt_demo.vocabulary import Vocabulary

NAMES = {"image": "Picture", "speech": "Speech", "music": "Music"}
LENGTHS_S = (10, 20, 30)  # to which music can be continued
DOING = {"image": "Drawing", "speech": "Speaking", "music": "Composing"}
View = list[dict[str, Any]]  # messages as the Chatbot takes them
SAVE = {"image": "Save this picture", "speech": "Save this speech", "music": "Save this music"}
SENT = "What you sent"  # until there are words for it
REMADE = '<div class="remade">Being made anew</div>'  # in the place of a sound
OPENED: View = [{"role": "assistant", "content": ['<div class="remade">Opening</div>']}]  # between two chats, for the same reason


# --------------------------------------------------------------------------------------------- words to inert markup


def literal(text: str) -> str:
    """Text as character references: every sign that HTML, Markdown or TeX could read becomes &#N;. Controls are left out."""
    kept = (sign for sign in text if sign in "\n\t" or unicodedata.category(sign) not in ("Cc", "Cs", "Cn"))
    return "".join(sign if sign.isalnum() or sign == " " else f"&#{ord(sign)};" for sign in kept)


def words(text: str) -> str:
    """A stretch of text in a message."""
    return f'<span class="part">{literal(text.strip())}</span>'


def button(name: str, value: object, label: str, about: str = "", kind: str = "") -> str:
    """A button whose click the page hands to the server. label and about: words of ours."""
    title = f' title="{literal(about)}"' if about else ""
    return f'<button type="button" name="{name}" value="{value}" class="do {kind}"{title}>{literal(label)}</button>'


def folded(markup: str) -> str:
    """Words that are seen when they are asked for."""
    return f'<details class="fold"><summary>Words</summary>{markup}</details>'


def under(name: str, text: str, buttons: str = "", said: str = "", fold: bool = False, own: str = "", caption: str = "") -> str:
    """A transcript or a remark below a medium, behind the medium's tag. said: the words of speech, whose player marks them.

    fold: they are folded away. own: what stands behind the remark and is never translated. caption: the words of a picture.
    """
    tag = f'<span class="tag tag-{name}">{NAMES.get(name, name.capitalize())}</span>'
    acts = f'<span class="acts">{buttons}</span>' if buttons else ""
    told = f'<span class="said">{literal(said.strip())}</span>' if said else ""
    more = f' <span class="own">{literal(own.strip())}</span>' if own else ""
    told = told or (f'<span class="own caption">{literal(caption.strip().rstrip(":"))}</span>' if caption else "")
    return f'<div class="under">{tag}{folded(told) if fold and told else told}<span>{literal(text.strip())}</span>{more}{acts}</div>'


def card(error: UserError, buttons: str = "", kind: str = "") -> str:
    """An error: problem, cause, remedy, and what can be pressed. kind: "waiting" for what is none."""
    sentences = f"<span>{literal(error.cause)}</span> <span>{literal(error.remedy)}</span>"
    return f'<div class="refusal {kind}"><strong>{literal(error.problem)}</strong> {sentences}{buttons}</div>'


def closer() -> str:
    """The button of a card that can only be put away."""
    return button("close", secrets.token_hex(8), "Close")


def without_card(view: View, value: str) -> View:
    """A view without the card that holds this close button."""
    mark = f'name="close" value="{value}"'
    kept = [{**item, "content": [part for part in item["content"] if mark not in str(part)]} for item in view]
    return [item for item in kept if item["content"]]


def in_line(ahead: int) -> str:
    """The card of somebody who waits."""
    told = UserError(f"Waiting for the model: {ahead} before you", "It answers one person at a time.", "Your turn comes by itself.")
    return card(told, button("leave", "0", "Leave the line", "Your message stays here"), "waiting")


def not_there() -> str:
    """The card of somebody who has written before the models were read."""
    told = UserError("The models are being read.", "Your message is kept.", "It is answered as soon as the language model is there.")
    return card(told, button("leave", "0", "Leave the line", "Your message stays here"), "waiting")


def remark(text: str, buttons: str = "") -> str:
    """A note to the person, and what can be pressed."""
    return f'<div class="notes">{literal(text)}{buttons}</div>'


def status_line(text: str, name: str = "", done: int = 0, total: int | None = None, back: str | None = None) -> str:
    """What is going on, below the conversation. back: the message goes back to the composer, without the file of this number."""
    meter = f'<progress max="{total}" value="{done}" aria-hidden="true"></progress>' if total else ""
    facts = (' role="status"' if text else "") + (f' data-refused="{back}"' if back is not None else "")
    return f'<div class="status"{facts}>{f"""<b class="of-{name}">{literal(text)}</b>{meter}""" if text else ""}</div>'


def loading_strip(loading: Loading, retry: bool = True) -> tuple[str, str]:
    """How far the reading of the models has come, and the same for screen readers, which changes once a file. Nothing when it is over.

    retry: whoever looks may have it begun anew after a failure.
    """
    if loading.error is not None:
        again = button("read", "0", "Read them again", "Begin anew with the files of the models") if retry else ""
        return f'<div class="loading failed" role="alert">{card(loading.error, again)}</div>', ""
    moment = loading.moment
    if loading.done.is_set():
        return "", ""
    if moment is None:
        return '<div class="loading"><b>Reading the models</b></div>', "Reading the models"
    verb = "Reading" if moment.checked else "Checking"
    unit, name = (1e9, "GB") if moment.total >= 1e9 else (1e6, "MB")
    told = f"{verb} file {moment.number} of {moment.files}"
    amount = f"{moment.done / unit:.1f} of {moment.total / unit:.1f} {name}"
    meter = f'<progress max="100" value="{100 * moment.share:.0f}" aria-label="Reading the models"></progress>'
    kind = " parts" if loading.there.is_set() else ""
    return (
        f'<div class="loading{kind}"><b>{told}</b>{meter}<span>{amount}</span><small class="own">{literal(moment.name)}</small></div>',
        told,
    )


def words_of(tokens: Vocabulary, turn: Turn, number: int) -> Sequence[int]:
    """The ids of a part that is words: those that the model wrote, or reads."""
    part = turn.parts[number]
    assert isinstance(part, TextPart)
    try:
        return turn.ids[slice(*protocol.places(tokens, turn)[number])] if turn.ids else tokens.encode_text(part.text)
    except ValueError:  # it was not written by this model
        return tokens.encode_text(part.text)


def ribbon(chat: Chat, turn: Turn, index: int) -> str:
    """The tokens of a turn as a strip, coloured by modality, widths in proportion; a click opens a stretch."""
    heard = protocol.heard_ids(chat.vocabulary, turn.ids)
    stretches = [("heard", "heard", heard)] if heard else []
    for number, part in enumerate(turn.parts):
        count = len(words_of(chat.vocabulary, turn, number)) if isinstance(part, TextPart) else part.codes.size
        stretches.append((str(number), "text" if isinstance(part, TextPart) else part.modality, count))
    pieces = [
        f'<button type="button" name="tokens" value="{index}.{number}" class="r-{name}" style="flex-grow:{count}" '
        f'title="{name}, {count} tokens"></button>'
        for number, name, count in stretches
    ]
    return f'<div class="ribbon">{"".join(pieces)}</div>' if pieces else ""


# -------------------------------------------------------------------------------------------------- turns to messages


def shown_file(path: Path, alt: str) -> dict[str, str]:
    """A media file for the Chatbot. It is copied into the page's cache: session folders themselves are never served."""
    return {"path": save_file_to_cache(path, get_upload_folder()), "alt_text": alt}


def shown_media(media: dialogue.Media, alt: str, *, generated: bool = True) -> dict[str, str]:
    """Media that have no file yet, for the Chatbot."""
    data, suffix = dialogue.write_file(media, generated=generated)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"sent{suffix}"
        path.write_bytes(data)
        return shown_file(path, alt)


def address(shown: dict[str, str]) -> str:
    """Where the page finds a shown file."""
    return f"gradio_api/file={quote(shown['path'])}"


def seconds_of(vocabulary: Any, part: MediaPart) -> str:
    """The length of a sound in words, or nothing for a picture."""
    rate = vocabulary.ranges[part.modality].modality.frame_rate_hz
    return f"{part.seconds or len(part.codes) / rate:.1f} s, " if rate else ""


def lengths(place: str, part: MediaPart) -> str:
    """To what length a piece of music can go on, and back to the length in which it was written."""
    longer = [
        button("longer", f"{place}.{seconds}", f"{seconds} s", f"Go on with this music until it lasts {seconds} s")
        for seconds in LENGTHS_S
        if seconds > (part.seconds or 0)
    ]
    back = button("render", place, "As written", "Back to the length in which the model wrote it") if part.seconds else ""
    return f'<span class="lengths" role="group" aria-label="Longer"><span>Longer:</span>{"".join(longer)}</span>{back}' if longer else back


def in_words(place: str, part: MediaPart) -> str:
    """The button of a medium that nobody has put into words yet."""
    told = ("Transcribe", "Write down what is said in it") if part.modality == "speech" else ("Describe", "Put it into words")
    return button("words", place, *told)


def part_buttons(place: str, part: MediaPart, clones: bool = True) -> str:
    """What can be done with one picture or sound of a reply. clones: speech can be rendered in another voice."""
    name = part.modality
    again = button("again", place, "Another", "Write its tokens anew; the rest of the reply stays")
    other = {"image": ("Redraw", "The same tokens from other noise"), "speech": ("Other voice", "The same words in the chosen voice")}
    render = button("render", place, *other[name]) if name in other and (clones or name != "speech") else ""
    more = lengths(place, part) if name == "music" and part.file is not None else ""
    return again + render + more + button("branch", place, "From here", "Keep the reply up to here and continue it anew")


def transcript(parts: Sequence[Part], number: int) -> str:
    """The words of the sound that is part `number`: those before it, also if pictures stand between."""
    for part in reversed(parts[:number]):
        if isinstance(part, TextPart):
            return part.text
        if part.modality != "image":
            break
    return ""


def described(parts: Sequence[Part], number: int) -> tuple[str, bool]:
    """The words of the picture that is part `number`, and whether they stand right above or below it.

    They are the nearest before it, of which speech may stand between, else those that follow at once.
    """
    between: list[str] = []
    for part in reversed(parts[:number]):
        if isinstance(part, TextPart):
            return part.text, set(between) <= {"speech"}
        between.append(part.modality)
    following = parts[number + 1] if number + 1 < len(parts) else None
    return (following.text, True) if isinstance(following, TextPart) else ("", True)


def is_folded(turn: Turn) -> bool:
    """Whether a reply was to be heard and not read."""
    made = turn.facts.get("settings") or {}
    return made.get("output") == "speech" and {"image", "music"} <= set(made.get("forbid", ()))


def reply_content(
    chat: Chat,
    parts: Sequence[Part],
    folder: Path,
    index: int | None = None,
    without: tuple[int, int] | None = None,
    fold: bool = False,
) -> list[Any]:
    """The parts of a reply in the model's order. The words right before speech are its transcript and stand below it.

    index: of the turn, if it is finished and its parts can be worked on. without: turn and part whose file is not shown.
    fold: words are folded away.
    """
    content: list[Any] = []
    for number, part in enumerate(parts):
        following = parts[number + 1] if number + 1 < len(parts) else None
        if isinstance(part, TextPart):
            if not (isinstance(following, MediaPart) and following.modality == "speech" and following.file):
                content.append(folded(words(part.text)) if fold else words(part.text))
            continue
        buttons = part_buttons(f"{index}.{number}", part, chat.clones) if index is not None else ""
        if part.file is None:
            content.append(under(part.modality, "could not be made", buttons))
            continue
        said, beside = described(parts, number) if part.modality == "image" else (transcript(parts, number), True)
        if not said.strip():
            said, beside = part.text, False
            buttons += in_words(f"{index}.{number}", part) if index is not None and not said else ""
        hidden = without is not None and without == (index, number)
        shown = shown_file(folder / part.file, said or NAMES.get(part.modality, part.modality))
        content.append(REMADE if hidden else shown)
        if index is not None and not hidden:
            buttons += button("save", address(shown), "Save", SAVE.get(part.modality, "Save this file"))
        facts = f"AI-generated, {seconds_of(chat.vocabulary, part)}{part.codes.size} tokens"
        spoken = said if part.modality == "speech" else ""
        content.append(under(part.modality, facts, buttons, spoken, fold, caption="" if beside else said))
    return content


def reply_end(chat: Chat, turn: Turn, index: int) -> list[Any]:
    """What stands below a finished reply: its tokens, and what can be done with it."""
    acts = button("retry", index, "Retry", "Answer again with another seed") + button("undo", index, "Undo", "Take back this exchange")
    acts += button("copy", index, "Copy", "Copy the words of this reply") if turn.text else ""
    if turn.facts.get("seed") is not None:
        acts += f'<span class="seed" title="Equal seeds give equal replies">seed {int(turn.facts["seed"])}</span>'
    ended = [] if turn.parts else [remark("Heard. There is nothing more to say.") if turn.heard else remark("The reply is empty.")]
    strip = ribbon(chat, turn, index)
    return [*ended, *([strip] if strip else []), f'<div class="acts turn">{acts}</div>']


def human_content(parts: Sequence[Part], folder: Path, heard: str | None, index: int | None = None, strip: str = "") -> list[Any]:
    """A person's message: files, what was heard in the last speech among them, words. strip: its tokens."""
    content: list[Any] = []
    spoken = max((number for number, part in enumerate(parts) if isinstance(part, MediaPart) and part.modality == "speech"), default=None)
    for number, part in enumerate(parts):
        if isinstance(part, TextPart):
            content.append(words(part.text))
        else:
            own = (heard or part.text) if number == spoken else part.text
            content += [shown_file(folder / part.file, own or SENT)] if part.file is not None else []
            look = "What the model sees" if part.modality == "image" else "What the model hears"
            buttons = button("tokens", f"{index}.{number}", look) if index is not None else ""
            buttons += in_words(f"{index}.{number}", part) if index is not None and not own else ""
            told = "from you" if not own else "heard:" if part.modality == "speech" else "in the model's words:"
            content.append(under(part.modality, told, buttons, own=own))
    if index is not None:
        content += [strip] if strip else []
        content.append(f'<div class="acts turn">{button("edit", index, "Edit", "Change this message and answer it anew")}</div>')
    return content


def view_of(chat: Chat, conversation: Conversation, folder: Path, without: tuple[int, int] | None = None) -> View:
    """A whole conversation. without: turn and part of a sound that is made anew.

    A player of the Chatbot reads its file once. Where another file comes into the place of one, it is taken away in between.
    """
    view: View = []
    turns = conversation.turns
    for index, turn in enumerate(turns):
        if turn.role == "human":
            heard = turns[index + 1].heard if index + 1 < len(turns) else None
            view.append({"role": "user", "content": human_content(turn.parts, folder, heard, index, ribbon(chat, turn, index))})
        else:
            content = [*reply_content(chat, turn.parts, folder, index, without, is_folded(turn)), *reply_end(chat, turn, index)]
            view.append({"role": "assistant", "content": content})
    return view
