"""The chat page. No model code: the Chatbot is a view, the conversation lives in the visitor's session.

Rules that keep it quick and safe: media are shown as file dicts; whatever people or models write enters the page as
character references, so neither HTML nor Markdown nor formulas in it come alive; stopping is a flag, never a cancelled
event; nothing is loaded from another host. Set GRADIO_ANALYTICS_ENABLED=False before importing this module.
"""

from __future__ import annotations

import logging
import re
import secrets
import shutil
import tempfile
import threading
import time
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_file_to_cache
from gradio.utils import get_upload_folder

from anygpt_demo import chat as dialogue
from anygpt_demo import media
from anygpt_demo.chat import Chat, Message
from anygpt_demo.codecs import speech
from anygpt_demo.conversation import Conversation, Journal, MediaPart, Part, TextPart, Turn
from anygpt_demo.enhance import best_prompt
from anygpt_demo.errors import BadText, UserError

HOME = Path(__file__).resolve().parent.parent
ASSETS = HOME / "assets"
SESSIONS = HOME / "sessions"
ITEMS = 8  # files in one message
FRAME_S = 0.1  # the page is redrawn at most ten times a second
QUEUE = 32
VOICE_LIMIT_S = 600.0  # of a voice prompt are read
NAMES = {"image": "Picture", "speech": "Speech", "music": "Music"}
DOING = {"image": "Drawing", "speech": "Speaking", "music": "Composing"}
EXAMPLES: tuple[tuple[str, str, str, str | None], ...] = (  # words on the card, message, modality of the file, file in assets/examples
    ("Draw a dog in a meadow.", "Draw a dog in a meadow.", "", None),
    ("Play some slow classical music.", "Play some slow classical music.", "", None),
    ("What is in this picture?", "What is in this picture?", "image", "picture.png"),
    ("A spoken request", "", "speech", "request.wav"),
)
IDLE = "() => { document.querySelector('.composer').api.idle(); }"
BUSY = "() => { document.querySelector('.composer').api.busy(); }"

View = list[dict[str, Any]]  # messages as the Chatbot takes them
log = logging.getLogger(__name__)


# --------------------------------------------------------------------------------------------- words to inert markup


def literal(text: str) -> str:
    """Text as character references: every sign that HTML, Markdown or TeX could read becomes &#N;. Controls are left out."""
    kept = (sign for sign in text if sign in "\n\t" or unicodedata.category(sign) not in ("Cc", "Cs", "Cn"))
    return "".join(sign if sign.isalnum() or sign == " " else f"&#{ord(sign)};" for sign in kept)


def words(text: str) -> str:
    """A stretch of text in a message."""
    return f'<span class="part">{literal(text.strip())}</span>'


def under(name: str, text: str) -> str:
    """A transcript or a remark below a medium, behind the medium's tag."""
    tag = f'<span class="tag tag-{name}">{NAMES.get(name, name.capitalize())}</span>'
    return f'<div class="under">{tag}<span>{literal(text.strip())}</span></div>'


def card(error: UserError) -> str:
    """An error: problem, cause, remedy."""
    sentences = f"<span>{literal(error.cause)} {literal(error.remedy)}</span>"
    return f'<div class="refusal"><strong>{literal(error.problem)}</strong> {sentences}</div>'


def remark(text: str) -> str:
    """A note to the person."""
    return f'<div class="notes">{literal(text)}</div>'


def ribbon(turn: Turn) -> str:
    """The tokens of a reply as a strip, coloured by modality, widths in proportion."""
    counts = [
        ("text", max(1, len(part.text) // 4)) if isinstance(part, TextPart) else (part.modality, part.codes.size) for part in turn.parts
    ]
    pieces = "".join(f'<i class="r-{name}" style="flex-grow:{count}" title="{name}, {count} tokens"></i>' for name, count in counts)
    return f'<div class="ribbon">{pieces}</div>'


def status_line(text: str, name: str = "", done: int = 0, total: int | None = None) -> str:
    """What is going on, below the conversation."""
    meter = f'<progress max="{total}" value="{done}" aria-hidden="true"></progress>' if total else ""
    return (
        f'<div class="status" role="status"><b class="of-{name}">{literal(text)}</b>{meter}</div>' if text else '<div class="status"></div>'
    )


# -------------------------------------------------------------------------------------------------- turns to messages


def shown_file(path: Path, alt: str) -> dict[str, str]:
    """A media file for the Chatbot. It is copied into the page's cache: session folders themselves are never served."""
    return {"path": save_file_to_cache(path, get_upload_folder()), "alt_text": alt}


def seconds_of(vocabulary: Any, part: MediaPart) -> str:
    """The length of a sound in words, or nothing for a picture."""
    rate = vocabulary.ranges[part.modality].modality.frame_rate_hz
    return f"{len(part.codes) / rate:.1f} s, " if rate else ""


def reply_content(chat: Chat, parts: Sequence[Part], folder: Path) -> list[Any]:
    """The parts of a reply in the model's order. The words right before speech are its transcript and stand below it."""
    content: list[Any] = []
    for number, part in enumerate(parts):
        following = parts[number + 1] if number + 1 < len(parts) else None
        if isinstance(part, TextPart):
            if not (isinstance(following, MediaPart) and following.modality == "speech" and following.file):
                content.append(words(part.text))
            continue
        if part.file is None:
            content.append(under(part.modality, "could not be made"))
            continue
        before = parts[number - 1] if number else None
        said = before.text if isinstance(before, TextPart) else ""
        content.append(shown_file(folder / part.file, said or NAMES.get(part.modality, part.modality)))
        facts = f"AI-generated, {seconds_of(chat.vocabulary, part)}{part.codes.size} tokens"
        content.append(under(part.modality, f"{said.strip()} ({facts})" if part.modality == "speech" and said else facts))
    return content


def human_content(parts: Sequence[Part], folder: Path, heard: str | None) -> list[Any]:
    """A person's message: files, what was heard in them, words."""
    content: list[Any] = []
    for part in parts:
        if isinstance(part, TextPart):
            content.append(words(part.text))
        elif part.file is not None:
            content.append(shown_file(folder / part.file, "What you sent"))
            content.append(under(part.modality, f"heard: {heard}" if part.modality == "speech" and heard else "from you"))
    return content


def view_of(chat: Chat, conversation: Conversation, folder: Path) -> View:
    """A whole conversation, for a page that is loaded again."""
    view: View = []
    turns = conversation.turns
    for number, turn in enumerate(turns):
        if turn.role == "human":
            heard = turns[number + 1].heard if number + 1 < len(turns) else None
            view.append({"role": "user", "content": human_content(turn.parts, folder, heard)})
        else:
            view.append({"role": "assistant", "content": [*reply_content(chat, turn.parts, folder), ribbon(turn)]})
    return view


# ------------------------------------------------------------------------------------------------------- one visitor


@dataclass
class Session:
    """Everything that belongs to one visitor and to nobody else."""

    key: str
    conversation: Conversation
    folder: Path
    view: View = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    turn: threading.Lock = field(default_factory=threading.Lock)  # held from sending to the end of the reply
    pending: Message | None = None
    voice: media.Voice | None = None
    seed: int = field(default_factory=lambda: secrets.randbelow(2**31))


class Visitors:
    """All sessions of this server by their 128-bit keys, which only the visitor's own browser knows."""

    def __init__(self, chat: Chat, root: Path) -> None:
        self.chat = chat
        self.root = root
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def find(self, key: object) -> Session:
        """The session of that key: as it is, as its journal left it, or a new one."""
        with self._lock:
            if not isinstance(key, str) or not re.fullmatch(r"[0-9a-f]{32}", key):
                key = secrets.token_hex(16)
            if key not in self._sessions:
                known = (self.root / key).is_dir()
                journal = Journal(self.root / key)
                session = Session(key, journal.conversation(), journal.folder)
                if known:
                    session.view = view_of(self.chat, session.conversation, session.folder)
                self._sessions[key] = session
            return self._sessions[key]

    def leave(self, session: Session | None, *, erase: bool) -> None:
        """Forget a visitor who has gone; erase: their files as well."""
        if session is None:
            return
        session.stop.set()
        with self._lock:
            self._sessions.pop(session.key, None)
        if erase or not session.conversation.turns:
            shutil.rmtree(session.folder, ignore_errors=True)


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
        data, suffix = dialogue.write_file(medium, generated=False)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"sent{suffix}"
            path.write_bytes(data)
            content += [shown_file(path, "What you sent"), under(name, "from you")]
    return [*content, words(text)] if text else content


def receive(chat: Chat, session: Session, text: str, items: object) -> tuple[View, str]:
    """First half of a turn: read and show the message. The second half, answer(), waits for the model."""
    if not session.turn.acquire(blocking=False):
        return session.view, status_line("One reply at a time: please wait for this one, or stop it.")
    session.stop.clear()
    session.pending = None
    try:
        found, notes = read_items(chat, items)
        session.view.append({"role": "user", "content": preview(found, text)})
        if notes:
            session.view.append({"role": "assistant", "content": [remark(note) for note in notes]})
        session.pending = Message(text, tuple(found))
        return session.view, status_line("Waiting for the model")
    except UserError as error:
        shown = [words(text)] if text else [remark("(a file)")]
        session.view += [{"role": "user", "content": shown}, {"role": "assistant", "content": [card(error)]}]
        return session.view, status_line("")
    finally:
        if session.pending is None:
            session.turn.release()


# ---------------------------------------------------------------------------------------------------------- answering


class Answer:
    """One reply as it grows on the page."""

    def __init__(self, chat: Chat, session: Session) -> None:
        self.chat, self.session = chat, session
        self.parts: list[Part] = []
        self.extra: list[str] = []  # cards and notes
        self.text = ""
        self.heard = ""
        self.status = status_line("Thinking")
        self.message: dict[str, Any] = {"role": "assistant", "content": []}
        self.asked = session.view[-1] if session.view[-1]["role"] == "user" else session.view[-2]

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
        elif isinstance(update, dialogue.Made):
            self._close_words()
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
            self.asked["content"] = human_content(update.human.parts, self.session.folder, update.turn.heard)
        ends = {"stop": "Stopped", "budget": "Cut at the length limit", "eos": "Done", "refused": "", "fault": "Ended early"}
        end = ends.get(update.reason, "Done")
        self.status = status_line(f"{end} after {update.times['total']:.1f} s, {update.tokens} tokens" if end else "")
        self.turn = update.turn

    turn: Turn | None = None

    def draw(self) -> tuple[View, str]:
        """The conversation with this reply at its end."""
        parts = [*self.parts, TextPart(self.text)] if self.text.strip() else self.parts
        content = reply_content(self.chat, parts, self.session.folder)
        if self.turn is not None and self.turn.parts:
            content.append(ribbon(self.turn))
        self.message["content"] = [*content, *self.extra]
        return [*self.session.view, self.message] if self.message["content"] else self.session.view, self.status


def answer(chat: Chat, session: Session) -> Iterator[tuple[View, str]]:
    """Second half of a turn: the reply, redrawn at most ten times a second."""
    message, session.pending = session.pending, None
    if message is None:
        return
    page = Answer(chat, session)
    shown = 0.0
    try:
        seed = (session.seed + len(session.conversation.turns)) % 2**31
        updates = chat.reply(session.conversation, message, voice=session.voice, seed=seed, stop=session.stop)
        for update in updates:
            if page.take(update) or time.monotonic() - shown > FRAME_S:
                shown = time.monotonic()
                yield page.draw()
    finally:  # also when the visitor has closed the page
        page.draw()
        if page.message["content"]:
            session.view.append(page.message)
        session.turn.release()
    yield session.view, page.status


# ------------------------------------------------------------------------------------------------------------- voices


def built_in_voices() -> list[str]:
    """Names of the voices that come with the program."""
    return sorted(path.stem for path in speech.VOICES.glob("*.wav"))


def record_voice(session: Session, path: str | None, consent: bool) -> str:
    """Speak with a recorded voice from now on. Returns what to tell the person."""
    try:
        if not consent:
            raise BadText(
                "This voice is not used yet.",
                "The box about permission is not ticked.",
                "Tick it if the voice is yours or its owner agrees.",
            )
        if path is None:
            raise BadText("There is no recording.", "Nothing was recorded or chosen.", "Record a sentence, or choose a file.")
        audio, _ = media.read_audio(Path(path).read_bytes(), rate_hz=16_000, limit_s=VOICE_LIMIT_S, crop=True)
        session.voice = media.Voice("recorded", best_prompt(audio))
    except UserError as error:
        return card(error)
    return remark(f"Replies now speak with your recording ({session.voice.audio.seconds:.1f} s of it). It stays in this session only.")


def choose_voice(session: Session, name: str | None) -> str:
    """Speak with a built-in voice from now on."""
    if name not in built_in_voices():
        session.voice = None
        return remark("Replies speak with the standard voice.")
    session.voice = speech.built_in_voice(str(name))
    return remark(f"Replies speak with the built-in voice {name}.")


# --------------------------------------------------------------------------------------------------------------- page


def badge(family: str) -> str:
    """Which models answer, and what not to expect of them."""
    if family != "mini":
        return (
            f'<details class="badge"><summary>{literal(family)}</summary><div><p>Converted from the official weights.</p></div></details>'
        )
    limits = (
        "<p><strong>mini</strong> is a family of very small models, trained from nothing for this demo. "
        "They run on this computer; nothing leaves it.</p>"
        "<p>It knows a small world: simple scenes of things and places, short spoken sentences, five-second tunes. English only.</p>"
        "<p>It is not an assistant: it does not know facts, and it will be wrong about anything outside its world.</p>"
    )
    return (
        f'<details class="badge"><summary title="What mini is">mini<span>, on this computer</span></summary><div>{limits}</div></details>'
    )


WELCOME = (
    '<div class="welcome"><h2>Text, pictures, speech and music, in and out</h2>'
    "<p>One small language model reads and writes them all as tokens. Type, hold the button and speak, or attach a file.</p></div>"
)


def examples() -> list[tuple[str, str, str, Path | None]]:
    """The examples whose files are there."""
    found = [(label, text, kind, ASSETS / "examples" / name if name else None) for label, text, kind, name in EXAMPLES]
    return [item for item in found if item[3] is None or item[3].is_file()]


def build(chat: Chat, family: str, *, root: Path = SESSIONS, public: bool = False) -> gr.Blocks:
    """The page over a loaded family."""
    visitors = Visitors(chat, root)
    cards = examples()

    def arrive(key: object) -> tuple[Session, str, View]:
        session = visitors.find(key)
        return session, session.key, session.view

    def start_anew(session: Session) -> tuple[Session, str, View, str]:
        session.stop.set()
        fresh = visitors.find(None)
        fresh.voice = session.voice
        return fresh, fresh.key, [], status_line("")

    def send(session: Session, event: gr.EventData) -> tuple[View, str]:
        return receive(chat, session, str(event._data.get("text", "")), event._data.get("items", []))

    def send_example(session: Session, event: gr.SelectData) -> tuple[View, str]:
        _, text, kind, path = cards[event.index if isinstance(event.index, int) else event.index[0]]
        items = [{"kind": kind, "path": save_file_to_cache(path, get_upload_folder())}] if path else []
        return receive(chat, session, text, items)

    def reply(session: Session) -> Iterator[Any]:
        if session.pending is None:  # refused: leave the page as it is (a generator that yields nothing would empty it)
            yield gr.skip(), gr.skip()
        yield from answer(chat, session)

    def halt(session: Session) -> None:
        session.stop.set()

    with gr.Blocks(title="AnyGPT demo", fill_height=True, analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        session = gr.State(time_to_live=24 * 3600, delete_callback=lambda gone: visitors.leave(gone, erase=public))
        key = gr.BrowserState(None, storage_key="anygpt-demo-session", secret="anygpt-demo")  # noqa: S106 - the key itself is the secret
        with gr.Row(elem_id="bar"):
            gr.HTML(f'<header class="top"><h1>AnyGPT demo</h1>{badge(family)}</header>')
            voice_button = gr.Button("Voice", elem_classes="quiet", visible=not public)
            new_button = gr.Button("New chat", elem_classes="quiet")
        messages = gr.Chatbot(
            elem_id="chat",
            show_label=False,
            container=False,
            height=None,
            layout="bubble",
            allow_tags=False,
            latex_delimiters=[],
            line_breaks=False,
            buttons=[],
            feedback_options=None,
            allow_file_downloads=False,
            placeholder=WELCOME,
            examples=[{"text": label, **({"icon": str(file)} if kind == "image" else {})} for label, _, kind, file in cards],
        )
        status = gr.HTML(status_line(""), elem_id="status")
        composer = gr.HTML(
            html_template=(ASSETS / "composer.html").read_text(encoding="utf-8"),
            js_on_load=(ASSETS / "composer.js").read_text(encoding="utf-8"),
            elem_id="composer",
            apply_default_css=False,
        )
        if not public:
            _voice_drawer(session, voice_button)
        hidden: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        page.load(arrive, [key], [session, key, messages], queue=False, **hidden).then(None, js=IDLE)
        new_button.click(start_anew, [session], [session, key, messages, status], queue=False, **hidden)
        messages.example_select(None, js=BUSY)
        for event in (
            composer.submit(send, [session], [messages, status], queue=False, **hidden),
            messages.example_select(send_example, [session], [messages, status], queue=False, **hidden),
        ):
            answered = event.then(reply, [session], [messages, status], concurrency_limit=1, concurrency_id="model", **hidden)
            answered.then(None, js=IDLE)
        composer.stop(halt, [session], None, queue=False, **hidden)
    return page


def _voice_drawer(session: gr.State, opener: gr.Button) -> None:
    """The drawer in which the voice of replies is chosen."""
    hidden: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
    with gr.Sidebar(open=False, position="right", width=360, elem_id="drawer") as drawer:
        gr.HTML("<h2>Voice of the replies</h2>")
        voices = built_in_voices()
        built_in = gr.Dropdown(["standard", *voices], value="standard", label="Built-in voices", visible=bool(voices))
        recording = gr.Audio(
            sources=["microphone", "upload"], type="filepath", label="Or a voice of your own: a sentence or two, 3 s are used"
        )
        consent = gr.Checkbox(label="This is my voice, or I have the permission of the person who speaks.")
        use = gr.Button("Use this voice", variant="primary")
        said = gr.HTML()
        told = "The recording stays in the memory of this session. Speech made with it is AI-generated: say so where you use it."
        gr.HTML(f'<p class="smallprint">{told}</p>')
    opener.click(lambda: gr.Sidebar(open=True), None, drawer, **hidden)
    built_in.input(choose_voice, [session, built_in], said, **hidden)
    use.click(record_voice, [session, recording, consent], said, **hidden)


def theme() -> gr.themes.Base:
    """Bundled fonts only. (The bundled semi-bold is a subset without most letters: 400 and 700 are whole.)"""
    sans = gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700))
    mono = gr.themes.LocalFont("IBM Plex Mono", weights=(400, 700))
    base = gr.themes.Base(font=(sans, "system-ui", "sans-serif"), font_mono=(mono, "ui-monospace", "monospace"), radius_size="lg")
    paint = {"button_primary_background_fill": "var(--accent)", "button_primary_text_color": "var(--on-accent)"}
    paint |= {"button_primary_background_fill_hover": "var(--accent)", "color_accent": "var(--accent)", "slider_color": "var(--accent)"}
    paint |= {"body_text_color": "var(--ink)", "block_background_fill": "var(--card)", "border_color_primary": "var(--line)"}
    both = paint | {f"{name}_dark": colour for name, colour in paint.items() if name != "color_accent"}
    return base.set(**both)


def launch_options(public: bool) -> dict[str, Any]:
    """How the page is served, apart from its address."""
    return {
        "theme": theme(),
        "css_paths": [ASSETS / "theme.css"],
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
        "show_error": False,
        "max_file_size": "20mb" if public else "64mb",
        "quiet": True,
    }


def serve(
    family: Path,
    *,
    host: str,
    port: int | None,
    share: bool,
    auth: str | None,
    public: bool,
    device: str = "cpu",
    quantize: str | None = None,
    vram: int | None = None,
) -> None:
    """Load a family and serve the page until the process is stopped. Raises UserError."""
    from anygpt_demo.checkpoints import Family

    home = Family.open(family)
    chat = Chat.open(home, device, quantize, vram)
    threading.Thread(target=_warm, args=(chat,), daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="anygpt-") as scratch:
        page = build(chat, home.name, root=Path(scratch) if public else SESSIONS, public=public)
        name, _, password = (auth or "").partition(":")
        page.queue(max_size=QUEUE)
        try:
            _, url, _ = page.launch(
                server_name=host,
                server_port=port,
                share=share,
                auth=(name, password) if auth else None,
                prevent_thread_lock=True,
                **launch_options(public),
            )
        except OSError as error:
            raise UserError(
                f"Port {port or 7860} cannot be used.", "Another program listens there.", "Choose another one with --port."
            ) from error
        log.warning("AnyGPT demo (%s) at %s", home.name, url)
        page.block_thread()


def _warm(chat: Chat) -> None:
    """Load the codecs while the visitor reads the page, unless they share a budget."""
    for name in () if chat.budgeted else chat.modalities:
        try:
            chat.codec(name)
        except UserError as error:
            log.warning("%s: %s", name, error)
