"""The chat page. No model code: the Chatbot is a view, the conversation lives in the visitor's session.

Rules that keep it quick and safe: media are shown as file dicts; what people or models write is inert (view.py); stopping
is a flag, never a cancelled event; nothing is loaded from another host. Set GRADIO_ANALYTICS_ENABLED=False before
importing this module.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.processing_utils import save_file_to_cache
from gradio.utils import get_upload_folder

from anygpt_demo import archive, lens, selftest
from anygpt_demo.api import Endpoints
from anygpt_demo.chat import Chat, fault
from anygpt_demo.drawer import FETCH, QUICK, Restoring, settings_tab, voice_tab
from anygpt_demo.errors import BadText, MissingProgram, UserError
from anygpt_demo.loading import Loading
from anygpt_demo.selftest import Health
from anygpt_demo.turns import act, answer, claim, edited, new_message
from anygpt_demo.view import OPENED, View, button, card, literal, loading_strip, status_line, view_of
from anygpt_demo.visitors import Line, Pace, Session, Visitors, prune
from anygpt_demo.welcome import examples, header, model_facts, welcome

if TYPE_CHECKING:
    from anygpt_demo.checkpoints import Family

HOME = Path(__file__).resolve().parent.parent
ASSETS = HOME / "assets"
SESSIONS = HOME / "sessions"
QUEUE = 32  # people who may wait for the model
LOOK_S = 0.25  # after which the page looks again how far the models are
UPLOAD_MB = 64  # of one file
PUBLIC_UPLOAD_MB = 20
PUBLIC_PACE = 6  # messages a minute of one person on a public page
AGAIN = ("example", "retry", "branch", "again", "render", "longer", "words", "resend", "lighter", "undo")  # offered by a refusal once more
SELF_TEST = "self-test"  # what the button of its card presses
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
IDLE = "() => { document.querySelector('.composer').api.idle(); }"
ARRIVED = "() => { window.arrived = true; document.querySelector('.composer')?.api?.idle(); }"

log = logging.getLogger(__name__)


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


def build(
    chat: Chat,
    family: str,
    *,
    root: Path = SESSIONS,
    public: bool = False,
    home: Family | None = None,
    health: Health | None = None,
    here: bool = True,
    loading: Loading | None = None,
) -> gr.Blocks:
    """The page over a family. home: where it lies, for the facts about it; health: what is found of it at the start.

    here: nobody sees the page but on the computer that serves it. loading: how far its models are; None: they are there.
    """
    here = here and not public
    health = health or Health()
    loading = loading or Loading.over()
    visitors = Visitors(root)
    line = Line(QUEUE, ready=loading.ready)
    pace = Pace(PUBLIC_PACE if public else 600)
    cards = examples()
    speaks = chat.clones or not public  # strangers choose among the built-in voices, if the family can speak in them

    def shown(session: Session) -> tuple[Session, list[str], View, str, str]:
        if not session.view:
            session.view = view_of(chat, session.conversation, session.folder)
        return session, [session.key, session.chat], session.view, status_line(""), rail(visitors, session)

    def covered(session: Session) -> Any:
        session.hidden = True
        session, place, _, *rest = shown(session)
        return session, place, OPENED, *rest

    def uncover(session: Session) -> Any:
        if not session.hidden:
            return gr.skip()
        session.hidden = False
        return session.view

    def arrive(key: object) -> Any:
        place = key if isinstance(key, list) and len(key) == 2 else [None, None]
        return shown(visitors.find(*place))

    def start_anew(session: Session) -> Any:
        session.stop.set()
        fresh = visitors.find(session.key, "")
        fresh.like(session)
        return shown(fresh)

    def send(session: Session, event: gr.EventData, request: gr.Request) -> tuple[View, str]:
        data = event._data
        text, items, output = str(data.get("text", "")), data.get("items", []), data.get("output")

        def prepare() -> Any:
            if data.get("edit") not in (None, ""):
                session.last = None
                pace.step(who(session, request))
                return edited(chat, session, str(data["edit"]), text, items, output)
            job = new_message(chat, session, text, items, output, bool(data.get("aloud")))  # it is kept if it comes too soon
            pace.step(who(session, request))
            return job

        return claim(session, prepare)

    def press(session: Session, event: gr.EventData, request: gr.Request) -> tuple[View, str]:
        name, value = str(event._data.get("name")), str(event._data.get("value"))

        def prepare() -> Any:
            if name != "close":
                pace.step(who(session, request))
            return send_example(session, value) if name == "example" else act(chat, session, name, value)

        known = name in AGAIN and re.fullmatch(r"[0-9.]{1,40}", value) is not None
        return claim(session, prepare, button(name, value, "Try again") if known else "")

    def send_example(session: Session, value: str) -> Any:
        if not value.isdecimal() or int(value) >= len(cards):
            raise BadText("This example is gone.", "The page has changed since.", "Reload it.")
        example = cards[int(value)]
        items = [{"kind": kind, "path": save_file_to_cache(path, get_upload_folder())} for kind, path in example.files]
        return replace(new_message(chat, session, example.text, items), seed=example.seed)

    def reply(session: Session) -> Iterator[Any]:
        if session.pending is None:  # refused: leave the page as it is (a generator that yields nothing would empty it)
            yield gr.skip(), gr.skip(), gr.skip()
        aloud = session.pending is not None and session.pending.aloud
        told: list[dict[str, Any]] = []
        for view, state, sounds in answer(chat, session, line):
            fresh = bool(sounds) and sounds != told
            told = list(sounds)
            yield view, state, pieces(sounds) if fresh and (aloud or session.aloud) else gr.skip()

    def halt(session: Session) -> None:
        session.stop.set()

    def look(session: Session, event: gr.EventData) -> Any:
        place, amount = str(event._data.get("value")), event._data.get("amount")
        try:
            with line.turn(session.key):
                made = lens.panel(chat, session.conversation, session.folder, place, int(amount) if str(amount).isdecimal() else None)
        except UserError as error:
            made = card(error, again(session, place, error))
        except Exception as error:  # the border to the codecs
            log.exception("a part cannot be looked at")
            failure = fault("This could not be shown.", error)
            made = card(failure, again(session, place, failure))
        return made, *opened("tokens")

    def again(session: Session, place: str, error: UserError) -> str:
        turns = session.conversation.turns
        newest = next((index for index in reversed(range(len(turns))) if turns[index].role == "mmgpt"), None)
        if isinstance(error, BadText):
            return button("tokens", f"{newest}.0", "Show the newest reply") if newest is not None else ""
        return button("tokens", place, "Try again") if re.fullmatch(r"[0-9.]{1,40}(heard)?", place) else ""

    def chats(session: Session, event: gr.EventData) -> Any:
        name, value = event._data.get("name"), str(event._data.get("value", ""))
        if name == "read" and not public:
            loading.again()
            return [gr.skip()] * 5
        if name == "open":
            session.stop.set()
            other = visitors.find(session.key, value)
            other.like(session)
            return covered(other)
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
            session.stop.set()
            other = visitors.find(session.key, "")
            other.like(session)
            assert other.conversation.journal is not None
            other.conversation = archive.restore(found, other.conversation.journal)
            other.rename(found.title)
            return covered(other)
        except UserError as error:
            session.view.append({"role": "assistant", "content": [card(error, button("zip", "0", "Choose another file"))]})
            return session, gr.skip(), session.view, gr.skip(), gr.skip()

    def watched() -> Iterator[Any]:
        shown: tuple[str, str] = "", ""
        while not loading.done.wait(LOOK_S) or loading.error is not None:
            now = loading_strip(loading, not public)
            if now != shown:
                yield gr.skip(), now[0], now[1] if now[1] != shown[1] else gr.skip()
            shown = now
            if loading.error is not None:  # until somebody has them read again; whoever has left is noticed at a yield
                time.sleep(4 * LOOK_S)
                yield gr.skip(), gr.skip(), gr.skip()
        yield header(family, health, here), "", ""

    def run_tests(session: Session, request: gr.Request) -> Iterator[str]:
        done: list[selftest.Cell] = []
        try:
            pace.step(who(session, request))
            yield selftest.table(chat, done)
            for source, target in selftest.pairs(chat):
                with line.turn(session.key):  # one cell at a time: others have their turn in between
                    done.append(selftest.cell(chat, source, target))
                yield selftest.table(chat, done)
        except UserError as error:
            yield card(error, button("press", SELF_TEST, "Run it again")) + selftest.table(chat, done)

    with gr.Blocks(title="AnyGPT demo", fill_height=True, analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        session = gr.State(time_to_live=24 * 3600, delete_callback=lambda gone: visitors.leave(gone, erase=public))
        key = gr.BrowserState(None, storage_key="anygpt-demo-session", secret="anygpt-demo")  # noqa: S106 - the key itself is the secret
        with gr.Row(elem_id="bar"):
            chats_button = gr.Button("Chats", elem_classes="quiet")
            top = gr.HTML(header(family, health, here, loading), elem_id="top", apply_default_css=False)
            model_button = gr.Button("Model", elem_classes="quiet wide")
            voice_button = gr.Button("Voice", elem_classes="quiet wide", visible=speaks)
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
            placeholder=welcome(cards, family),
        )
        loaded = gr.HTML("", elem_id="loading", apply_default_css=False)
        told = gr.HTML("", elem_id="told", apply_default_css=False)
        status = gr.HTML(status_line(""), elem_id="status")
        played = gr.HTML("", elem_id="pieces", apply_default_css=False)
        composer = gr.HTML(
            html_template=(ASSETS / "composer.html").read_text(encoding="utf-8"),
            js_on_load=f"const ZH = {(ASSETS / 'zh.json').read_text(encoding='utf-8')};\n"
            + f"const LIMIT_MB = {PUBLIC_UPLOAD_MB if public else UPLOAD_MB};\n"
            + script("composer.js", "page.js", "live.js", "language.js"),
            elem_id="composer",
            apply_default_css=False,
        )
        with gr.Sidebar(open=False, position="left", width=300, elem_id="rail") as left:
            listing = gr.HTML("", apply_default_css=False)
            save_button = gr.Button("Save this chat", elem_classes="quiet")
            open_button = gr.UploadButton("Open a saved chat", file_types=[".zip"], elem_classes="quiet")
            parcel = gr.DownloadButton("chat.zip", elem_id="zip", visible="hidden")
        with gr.Sidebar(open=False, position="right", width=360, elem_id="drawer") as right, gr.Tabs() as tabs:
            voices: Restoring | None = None
            if speaks:
                with gr.Tab("Voice", id="voice"):
                    voices = voice_tab(chat, session, own=not public, rough=family == "mini")
            with gr.Tab("Settings", id="settings"):
                settings = settings_tab(chat, session, unclip=home is not None and home.has("unclip"))
            with gr.Tab("Tokens", id="tokens"):
                tokens = gr.HTML(lens.EMPTY, elem_id="tokens", apply_default_css=False)
            with gr.Tab("Model", id="model"):
                facts = gr.HTML(model_facts(chat, family, home, health, here), apply_default_css=False)
                gr.HTML("<h2>Any to any</h2>", apply_default_css=False)
                test_button = gr.Button("Run the self-test", elem_classes="quiet", elem_id=SELF_TEST)
                grid = gr.HTML(selftest.table(chat, []), apply_default_css=False)
        whole = [session, key, messages, status, listing]
        arrived = page.load(arrive, [key], whole, **QUICK)
        arrived.then(None, js=ARRIVED)
        for restore, places in filter(None, (voices, settings)):
            arrived.then(restore, [session], places, **QUICK)
        page.load(watched, None, [top, loaded, told], concurrency_limit=QUEUE, **HIDDEN)
        new_button.click(start_anew, [session], whole, **QUICK)
        for opener, tab in ((voice_button, "voice"), (settings_button, "settings")):
            opener.click(lambda tab=tab: opened(tab), None, [right, tabs], **QUICK)
        chats_button.click(lambda session: (gr.Sidebar(open=True), rail(visitors, session)), [session], [left, listing], **QUICK)
        for event in (
            composer.submit(send, [session], [messages, status], **QUICK),
            composer.retry(press, [session], [messages, status], **QUICK),
        ):
            answered = event.then(reply, [session], [messages, status, played], concurrency_limit=QUEUE, **HIDDEN)
            answered.then(None, js=IDLE)
        model_button.click(lambda: (*opened("model"), model_facts(chat, family, home, health, here)), None, [right, tabs, facts], **QUICK)
        test_button.click(run_tests, [session], grid, concurrency_limit=QUEUE, **HIDDEN)
        composer.stop(halt, [session], None, **QUICK)
        composer.select(look, [session], [tokens, right, tabs], concurrency_limit=QUEUE, **HIDDEN)
        composer.edit(chats, [session], whole, **QUICK).then(uncover, [session], messages, **QUICK)
        save_button.click(save, [session], parcel, **QUICK).then(None, js=FETCH)
        open_button.upload(load, [session, open_button], whole, **QUICK).then(uncover, [session], messages, **QUICK)
        Endpoints(chat, family, line, pace, public=public).publish()
    return page


def who(session: Session, request: gr.Request) -> str:
    """Whose pace is counted: an address, on a Space the one that its proxies name first (the line protects the model in any case)."""
    if "SPACE_ID" in os.environ and request.headers.get("x-forwarded-for"):
        return str(request.headers["x-forwarded-for"]).partition(",")[0].strip()
    return request.client.host if request.client else session.key


def opened(tab: str) -> tuple[Any, Any]:
    """The right drawer, open on one of its tabs."""
    return gr.Sidebar(open=True), gr.Tabs(selected=tab)


def pieces(sounds: list[dict[str, Any]]) -> str:
    """Pieces of sound for live.js: nothing but letters, digits and JSON."""
    return f'<span class="pieces-data" hidden>{json.dumps(sounds)}</span>'


def script(*names: str) -> str:
    """The page's own JavaScript."""
    return "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in names)


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


HEAD = """<style>
@media (prefers-reduced-motion: reduce) {
  html *, html *::before, html *::after { animation: none !important; transition: none !important; }
}
@media (max-width: 520px) { body .gradio-container main.fillable, body .gradio-container .main { padding: 0 12px !important; } }
@media (max-width: 1100px) {
  body .sidebar-parent, body .sidebar-parent:has(.sidebar.open) { padding-left: 0 !important; padding-right: 0 !important; }
  body .sidebar.open { z-index: 1001; }
}
@media (min-width: 2200px) {
  body .gradio-container.gradio-container { zoom: 1.25; height: 80dvh; }
  body .sidebar { height: 80vh !important; }
}
@media (min-width: 3200px) {
  body .gradio-container.gradio-container { zoom: 1.4; height: calc(100dvh / 1.4); }
  body #drawer .tab-container button { padding: 0 4px !important; }
  body .sidebar { height: calc(100vh / 1.4) !important; }
}
</style>"""  # Gradio narrows the selectors of @media rules in css_paths to a part of the page


def launch_options(public: bool, mcp: bool = False) -> dict[str, Any]:
    """How the page is served, apart from its address. mcp: the endpoints are tools as well. Raises MissingProgram."""
    if mcp and find_spec("mcp") is None:
        remedy = f'Run: pip install "gradio[mcp]=={gr.__version__}"'
        raise MissingProgram("The endpoints cannot be offered as MCP tools.", "The package mcp is not installed.", remedy)
    return {
        "theme": theme(),
        "css_paths": [ASSETS / "theme.css"],
        "head": HEAD,
        "favicon_path": ASSETS / "icon.svg",
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
        "show_error": False,
        "max_file_size": f"{PUBLIC_UPLOAD_MB if public else UPLOAD_MB}mb",
        "quiet": True,
        "mcp_server": mcp,
        "max_threads": 4 * QUEUE,  # everybody in the line holds one
    }


def media_threads(small: bool, processors: int) -> int:
    """How many threads torch has for one computation, so that what is computed at the same time fits the processors.

    small: the family's language model writes in a thread of its own, outside torch's, and the other processors are for pictures and
    sounds. A large model computes with torch's threads too: half of the processors are for it, half for them.
    """
    return max(1, processors - 1 if small else processors // 2)


def share_processors(small: bool) -> None:
    """Set torch's threads on a CPU to media_threads(), or fewer if the environment says so, for all threads that begin to compute."""
    import torch

    from anygpt_demo.models.compiled import cores

    torch.set_num_threads(min(torch.get_num_threads(), media_threads(small, cores())))


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
    kv: str = "none",
    mcp: bool = False,
) -> None:
    """Serve the page until the process is stopped, and read a family meanwhile. Raises UserError."""
    from anygpt_demo.checkpoints import Family

    options = launch_options(public, mcp)
    home = Family.open(family)
    if not public:
        prune(SESSIONS)
    if device == "zero":
        from anygpt_demo.lent import open_lent, zero_gpu

        # models are read by whoever gets a card, and codecs tried when they are needed
        chat, loading, health = open_lent(home, zero_gpu(), quantize), Loading.over(), Health(())
    else:
        chat, loading, health = _opened(home, device, quantize, vram, kv)
    with tempfile.TemporaryDirectory(prefix="anygpt-") as scratch:
        root, here = Path(scratch) if public else SESSIONS, host in LOOPBACK and not share
        page = build(chat, home.name, root=root, public=public, home=home, health=health, here=here, loading=loading)
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
                **options,
            )
        except OSError as error:
            raise UserError(
                f"Port {port or 7860} cannot be used.", "Another program listens there.", "Choose another one with --port."
            ) from error
        log.warning("AnyGPT demo (%s) at %s", home.name, url)
        page.block_thread()
        page.close(verbose=False)


def _opened(home: Family, device: str, quantize: str | None, vram: int | None, kv: str) -> tuple[Chat, Loading, Health]:
    """A chat of a family that is being read in a thread of its own."""
    loading, ticks = Loading(), Ticks()
    home = replace(home, watch=loading.watch)
    chat = Chat.unread(home, device, quantize, vram, kv=kv)
    loading.plan(home, chat.quantize, parts=not chat.budgeted)  # with a budget of memory parts come when they are needed
    health = Health(() if chat.budgeted else chat.modalities)

    def read() -> None:
        if device == "cpu":
            share_processors(home.name == "mini")
        chat.read(ticks)

    loading.begin(read, lambda: health.check(chat))
    return chat, loading, health


class Ticks:
    """Says on the terminal how much of a large language model has been read, every tenth."""

    def __init__(self) -> None:
        self.told = 0

    def __call__(self, done: int, total: int) -> None:
        """Bytes read, and all there are."""
        tenth = 10 * done // max(1, total)
        if tenth > self.told:
            self.told = tenth
            log.warning("Loading the language model: %.1f of %.1f GB", done / 1e9, total / 1e9)


def _leave() -> None:
    """End as if Ctrl-C had been pressed: block_thread() returns, and the scratch folder goes."""
    raise KeyboardInterrupt
