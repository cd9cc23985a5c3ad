"""The chat page. No model code: the Chatbot is a view, the conversation lives in the visitor's session.

Rules that keep it quick and safe: media are shown as file dicts; what people or models write is inert (view.py); stopping
is a flag, never a cancelled event; nothing is loaded from another host. Set GRADIO_ANALYTICS_ENABLED=False before
importing this module.
"""

from __future__ import annotations

import logging
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_file_to_cache
from gradio.utils import get_upload_folder

from anygpt_demo import archive, lens, media
from anygpt_demo.api import Endpoints
from anygpt_demo.chat import PRESETS, Chat
from anygpt_demo.codecs import speech
from anygpt_demo.enhance import PROMPT_S, best_start, prompt_at
from anygpt_demo.errors import BadText, UserError
from anygpt_demo.turns import act, answer, claim, edited, new_message
from anygpt_demo.view import NAMES, View, button, card, literal, remark, shown_media, status_line, view_of
from anygpt_demo.visitors import Line, Pace, Session, Visitors, prune

HOME = Path(__file__).resolve().parent.parent
ASSETS = HOME / "assets"
SESSIONS = HOME / "sessions"
QUEUE = 32  # people who may wait for the model
PUBLIC_PACE = 6  # messages a minute of one person on a public page
VOICE_LIMIT_S = 600.0  # of a voice prompt are read
EXAMPLES: tuple[tuple[str, str, str, str | None], ...] = (  # words on the card, message, modality of the file, file in assets/examples
    ("Draw a dog in a meadow.", "Draw a dog in a meadow.", "", None),
    ("Play some slow classical music.", "Play some slow classical music.", "", None),
    ("What is in this picture?", "What is in this picture?", "image", "picture.png"),
    ("A spoken request", "", "speech", "request.wav"),
)
HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
QUICK: dict[str, Any] = HIDDEN | {"queue": False}
IDLE = "() => { document.querySelector('.composer').api.idle(); }"
BUSY = "() => { document.querySelector('.composer').api.busy(); }"
FETCH = "() => { setTimeout(() => document.querySelector('#zip a, a#zip, #zip')?.click(), 300); }"

log = logging.getLogger(__name__)


# ------------------------------------------------------------------------------------------------------------- voices


def built_in_voices() -> list[str]:
    """Names of the voices that come with the program."""
    return sorted(path.stem for path in speech.VOICES.glob("*.wav"))


def hear_voice(path: str | None, start_s: float | None = None) -> tuple[media.Audio, float, float]:
    """The 3 s of a recording that are used: they, where they begin, and how late they could. Raises UserError."""
    if path is None:
        raise BadText("There is no recording.", "Nothing was recorded or chosen.", "Record a sentence, or choose a file.")
    audio, _ = media.read_audio(Path(path).read_bytes(), rate_hz=16_000, limit_s=VOICE_LIMIT_S, crop=True)
    start = best_start(audio) if start_s is None else round(start_s * audio.rate_hz)
    return prompt_at(audio, start), start / audio.rate_hz, max(0.0, audio.seconds - PROMPT_S)


def record_voice(session: Session, path: str | None, consent: bool, start_s: float | None = None, name: str = "") -> str:
    """Speak with a recorded voice from now on. Returns what to tell the person."""
    try:
        if not consent:
            raise BadText(
                "This voice is not used yet.",
                "The box about permission is not ticked.",
                "Tick it if the voice is yours or its owner agrees.",
            )
        audio, _, _ = hear_voice(path, start_s)
        label = " ".join(name.split())[:40] or f"my voice {len(session.voices) + 1}"
        session.voice = session.voices[label] = media.Voice(label, audio)
    except UserError as error:
        return card(error)
    return remark(f"Replies now speak with {label} ({session.voice.audio.seconds:.1f} s of it). It stays in this session only.")


def choose_voice(session: Session, name: str | None) -> str:
    """Speak with a built-in voice from now on."""
    if name in session.voices:
        session.voice = session.voices[str(name)]
        return remark(f"Replies speak with {name}.")
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


def rail(visitors: Visitors, session: Session, search: str = "") -> str:
    """The visitor's chats as a list; search: only those that contain all its words."""
    wanted = search.casefold().split()
    rows = []
    for item in visitors.chats(session.key):
        if all(word in f"{item.title} {item.text}".casefold() for word in wanted):
            here = ' aria-current="true"' if item.chat == session.chat else ""
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(item.when))
            label = f"{literal(item.title)}<small>{when}</small>"
            opener = f'<button type="button" name="open" value="{item.chat}" class="do chat-title">{label}</button>'
            gone = button("delete", item.chat, "Delete", "Delete this chat and its files", "sure")
            rows.append(f"<li{here}>{opener}{gone}</li>")
    told = "No chat contains that." if wanted else "Chats appear here once you have sent something."
    empty = f'<li class="smallprint">{told}</li>'
    box = f'<input type="search" name="search" value="{literal(search)}" placeholder="Search your chats" aria-label="Search your chats">'
    title = f'<label>Name of this chat<input type="text" name="rename" maxlength="60" value="{literal(session.title)}"></label>'
    return f'<div class="rail">{title if session.conversation.turns else ""}{box}<ul>{"".join(rows) or empty}</ul></div>'


def build(chat: Chat, family: str, *, root: Path = SESSIONS, public: bool = False, line: Line | None = None) -> gr.Blocks:
    """The page over a loaded family."""
    visitors = Visitors(root)
    line = line or Line(QUEUE)
    pace = Pace(PUBLIC_PACE if public else 600)
    cards = examples()

    def shown(session: Session) -> tuple[Session, list[str], View, str, str]:
        if not session.view:
            session.view = view_of(chat, session.conversation, session.folder)
        return session, [session.key, session.chat], session.view, status_line(""), rail(visitors, session)

    def arrive(key: object) -> Any:
        place = key if isinstance(key, list) and len(key) == 2 else [None, None]
        return shown(visitors.find(*place))

    def start_anew(session: Session) -> Any:
        session.stop.set()
        fresh = visitors.find(session.key, "")
        fresh.voice, fresh.voices, fresh.settings, fresh.seed = session.voice, session.voices, session.settings, session.seed
        return shown(fresh)

    def send(session: Session, event: gr.EventData, request: gr.Request) -> tuple[View, str]:
        data = event._data
        text, items, output = str(data.get("text", "")), data.get("items", []), data.get("output")

        def prepare() -> Any:
            pace.step(request.client.host if request.client else session.key)
            if data.get("edit") not in (None, ""):
                return edited(chat, session, str(data["edit"]), text, items, output)
            return new_message(chat, session, text, items, output)

        return claim(session, prepare)

    def press(session: Session, event: gr.EventData, request: gr.Request) -> tuple[View, str]:
        def prepare() -> Any:
            pace.step(request.client.host if request.client else session.key)
            return act(chat, session, str(event._data.get("name")), str(event._data.get("value")))

        return claim(session, prepare)

    def send_example(session: Session, event: gr.SelectData) -> tuple[View, str]:
        _, text, kind, path = cards[event.index if isinstance(event.index, int) else event.index[0]]
        items = [{"kind": kind, "path": save_file_to_cache(path, get_upload_folder())}] if path else []
        return claim(session, lambda: new_message(chat, session, text, items))

    def reply(session: Session) -> Iterator[Any]:
        if session.pending is None:  # refused: leave the page as it is (a generator that yields nothing would empty it)
            yield gr.skip(), gr.skip()
        yield from answer(chat, session, line)

    def halt(session: Session) -> None:
        session.stop.set()

    def look(session: Session, event: gr.EventData) -> Any:
        place, amount = str(event._data.get("value")), event._data.get("amount")
        try:
            with line.turn(session.key):
                made = lens.panel(chat, session.conversation, session.folder, place, int(amount) if amount else None)
        except UserError as error:
            made = card(error)
        return made, gr.Sidebar(open=True), gr.Tabs(selected="tokens")

    def chats(session: Session, event: gr.EventData) -> Any:
        name, value = event._data.get("name"), str(event._data.get("value", ""))
        if name == "open":
            session.stop.set()
            other = visitors.find(session.key, value)
            other.voice, other.voices, other.settings, other.seed = session.voice, session.voices, session.settings, session.seed
            return shown(other)
        if name == "rename":
            session.rename(value)
        elif name == "delete":
            visitors.delete(session.key, value)
            if value == session.chat:
                return start_anew(session)
        return session, gr.skip(), gr.skip(), gr.skip(), rail(visitors, session, value if name == "search" else "")

    def save(session: Session) -> Any:
        data = archive.pack(session.conversation, session.title, family, chat.model)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "chat.zip"
            path.write_bytes(data)
            return gr.DownloadButton(value=save_file_to_cache(path, get_upload_folder()))

    def load(session: Session, path: str) -> Any:
        try:
            found = archive.unpack(Path(path).read_bytes(), chat.vocabulary)
            other = visitors.find(session.key, "")
            assert other.conversation.journal is not None
            other.conversation = archive.restore(found, other.conversation.journal)
            other.rename(found.title)
            return shown(other)
        except UserError as error:
            session.view.append({"role": "assistant", "content": [card(error)]})
            return session, gr.skip(), session.view, gr.skip(), gr.skip()

    with gr.Blocks(title="AnyGPT demo", fill_height=True, analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        session = gr.State(time_to_live=24 * 3600, delete_callback=lambda gone: visitors.leave(gone, erase=public))
        key = gr.BrowserState(None, storage_key="anygpt-demo-session", secret="anygpt-demo")  # noqa: S106 - the key itself is the secret
        with gr.Row(elem_id="bar"):
            chats_button = gr.Button("Chats", elem_classes="quiet")
            gr.HTML(f'<header class="top"><h1>AnyGPT demo</h1>{badge(family)}</header>')
            voice_button = gr.Button("Voice", elem_classes="quiet", visible=not public)
            settings_button = gr.Button("Settings", elem_classes="quiet")
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
            js_on_load=script("composer.js", "page.js"),
            elem_id="composer",
            apply_default_css=False,
        )
        with gr.Sidebar(open=False, position="left", width=300, elem_id="rail") as left:
            listing = gr.HTML("", apply_default_css=False)
            save_button = gr.Button("Save this chat", elem_classes="quiet")
            open_button = gr.UploadButton("Open a saved chat", file_types=[".zip"], elem_classes="quiet")
            parcel = gr.DownloadButton("chat.zip", elem_id="zip", visible="hidden")
        with gr.Sidebar(open=False, position="right", width=360, elem_id="drawer") as right, gr.Tabs() as tabs:
            if not public:
                with gr.Tab("Voice", id="voice"):
                    _voice_tab(session)
            with gr.Tab("Settings", id="settings"):
                _settings_tab(chat, session)
            with gr.Tab("Tokens", id="tokens"):
                tokens = gr.HTML(lens.EMPTY, elem_id="tokens", apply_default_css=False)
        here = [session, key, messages, status, listing]
        page.load(arrive, [key], here, **QUICK).then(None, js=IDLE)
        new_button.click(start_anew, [session], here, **QUICK)
        for opener, tab in ((voice_button, "voice"), (settings_button, "settings")):
            opener.click(lambda tab=tab: (gr.Sidebar(open=True), gr.Tabs(selected=tab)), None, [right, tabs], **QUICK)
        chats_button.click(lambda session: (gr.Sidebar(open=True), rail(visitors, session)), [session], [left, listing], **QUICK)
        messages.example_select(None, js=BUSY)
        for event in (
            composer.submit(send, [session], [messages, status], **QUICK),
            composer.retry(press, [session], [messages, status], **QUICK),
            messages.example_select(send_example, [session], [messages, status], **QUICK),
        ):
            answered = event.then(reply, [session], [messages, status], concurrency_limit=QUEUE, **HIDDEN)
            answered.then(None, js=IDLE)
        composer.stop(halt, [session], None, **QUICK)
        composer.select(look, [session], [tokens, right, tabs], concurrency_limit=QUEUE, **HIDDEN)
        composer.edit(chats, [session], here, **QUICK)
        save_button.click(save, [session], parcel, **QUICK).then(None, js=FETCH)
        open_button.upload(load, [session, open_button], here, **QUICK)
        Endpoints(chat, family, line, pace, public=public).publish()
    return page


def script(*names: str) -> str:
    """The page's own JavaScript."""
    return "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in names)


def _voice_tab(session: gr.State) -> None:
    """The voice of replies: a built-in one, or a recording of which 3 s are used."""
    voices = built_in_voices()
    built_in = gr.Dropdown(["standard", *voices], value="standard", label="Voices", visible=bool(voices))
    recording = gr.Audio(sources=["microphone", "upload"], type="filepath", label="Or a voice of your own: a sentence or two")
    begin = gr.Slider(0, 30, 0, step=0.1, label="The 3 s that are used begin at (s)", visible=False)
    heard = gr.Audio(label="What is used", interactive=False, visible=False)
    name = gr.Textbox(label="Its name", max_length=40)
    consent = gr.Checkbox(label="This is my voice, or I have the permission of the person who speaks.")
    use = gr.Button("Use this voice", variant="primary")
    said = gr.HTML()
    with gr.Row():
        keep = gr.Button("Save as .voice", elem_classes="quiet")
        give = gr.UploadButton("Open a .voice", file_types=[".voice", ".wav"], elem_classes="quiet")
        parcel = gr.DownloadButton("voice", elem_id="voicefile", visible="hidden")
    told = "The recording stays in the memory of this session. Speech made with it is AI-generated: say so where you use it."
    gr.HTML(f'<p class="smallprint">{told}</p>')

    def pick(path: str | None, start_s: float | None = None) -> Any:
        if path is None:
            return gr.Slider(visible=False), gr.Audio(visible=False), ""
        try:
            audio, start, most = hear_voice(path, start_s)
        except UserError as error:
            return gr.Slider(visible=False), gr.Audio(visible=False), card(error)
        sound = shown_media(audio, "", generated=False)["path"]
        return gr.Slider(maximum=max(most, 0.1), value=start, visible=most > 0), gr.Audio(sound, visible=True), ""

    def listed(session: Session, text: str) -> Any:
        return gr.Dropdown(["standard", *voices, *session.voices], value=session.voice.name if session.voice else "standard"), text

    def take(session: Session, path: str | None, consent: bool, start_s: float, name: str) -> Any:
        return listed(session, record_voice(session, path, consent, start_s or None, name))

    def give_back(session: Session) -> Any:
        voice = session.voice or speech.built_in_voice()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{''.join(sign for sign in voice.name if sign.isalnum() or sign in ' -_') or 'my'}.voice"
            path.write_bytes(media.write_wav(voice.audio, ai_generated=False))
            return gr.DownloadButton(value=save_file_to_cache(path, get_upload_folder()))

    recording.change(pick, [recording], [begin, heard, said], **QUICK)
    begin.release(pick, [recording, begin], [begin, heard, said], **QUICK)
    built_in.input(choose_voice, [session, built_in], said, **QUICK)
    use.click(take, [session, recording, consent, begin, name], [built_in, said], **QUICK)
    keep.click(give_back, [session], parcel, **QUICK).then(None, js=FETCH.replace("zip", "voicefile"))
    give.upload(lambda path: path, [give], recording, **QUICK)


def _settings_tab(chat: Chat, session: gr.State) -> None:
    """How replies are made."""
    about = (
        "<b>chat</b>: as it should be. <b>paper</b>: as the paper draws its words. "
        "<b>fast</b>: shorter sounds. <b>best</b>: the likeliest words."
    )
    preset = gr.Radio(list(PRESETS), value="chat", label="Preset")
    gr.HTML(f'<p class="smallprint">{about}</p>')
    forbid = gr.CheckboxGroup([(NAMES.get(name, name), name) for name in chat.modalities], label="Never make")
    sliders = {}
    for name, item in chat.vocabulary.ranges.items():
        rate = item.modality.frame_rate_hz
        if rate:
            most = (item.modality.frames.stop - 1) / rate
            sliders[name] = gr.Slider(0.5, most, most, step=0.5, label=f"Longest {name} (s)")
    seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1)
    lock = gr.Checkbox(label="Use this seed for every reply")

    def change(session: Session, preset: str, forbid: list[str], seed: float, lock: bool, *longest: float) -> None:
        base = PRESETS[preset if preset in PRESETS else "chat"]
        limits = dict(base.limits)
        for name, seconds in zip(sliders, longest, strict=True):
            frames = round(seconds * (chat.vocabulary.ranges[name].modality.frame_rate_hz or 0))
            limits[name] = max(1, min(frames, limits.get(name, frames)))
        session.settings = replace(base, forbid=tuple(name for name in forbid if name in chat.modalities), limits=limits)
        session.seed = int(seed) % 2**31 if lock else None

    inputs = [session, preset, forbid, seed, lock, *sliders.values()]
    for item in (preset, forbid, seed, lock):
        item.input(change, inputs, None, **QUICK)
    for item in sliders.values():
        item.release(change, inputs, None, **QUICK)


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
        "mcp_server": find_spec("mcp") is not None,  # the endpoints as tools, with gradio[mcp]
        "max_threads": 4 * QUEUE,  # everybody in the line holds one
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
    if not public:
        prune(SESSIONS)
    chat = Chat.open(home, device, quantize, vram)
    threading.Thread(target=_warm, args=(chat,), daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="anygpt-") as scratch:
        page = build(chat, home.name, root=Path(scratch) if public else SESSIONS, public=public)
        name, _, password = (auth or "").partition(":")
        page.queue(max_size=4 * QUEUE)
        signal.signal(signal.SIGTERM, lambda *_: _leave())
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
        page.close(verbose=False)


def _leave() -> None:
    """End as if Ctrl-C had been pressed: block_thread() returns, and the scratch folder goes."""
    raise KeyboardInterrupt


def _warm(chat: Chat) -> None:
    """Load the codecs while the visitor reads the page, unless they share a budget."""
    for name in () if chat.budgeted else chat.modalities:
        try:
            chat.codec(name)
        except UserError as error:
            log.warning("%s: %s", name, error)
