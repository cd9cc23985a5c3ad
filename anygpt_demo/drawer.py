"""The right drawer of the page: the voice of replies, and how they are made."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_file_to_cache
from gradio.utils import get_upload_folder

from anygpt_demo import media
from anygpt_demo.chat import PRESETS, Chat, Settings
from anygpt_demo.codecs import speech
from anygpt_demo.codecs.base import Rendering
from anygpt_demo.enhance import PROMPT_S, best_prompt, best_start, long_enough, prompt_at
from anygpt_demo.errors import BadText, UserError
from anygpt_demo.grammar import samplings
from anygpt_demo.view import NAMES, button, card, literal, remark, shown_media
from anygpt_demo.visitors import Session

SIZES = {"256 px": False, "512 px": True}  # of the small family's pictures; whether they are enhanced
VOICE_LIMIT_S = 600.0  # of a voice prompt are read
QUICK: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
KEPT = {  # what was chosen in this browser before, as assets/language.js and page.js keep it
    "speak": "() => (localStorage.getItem('anygpt-language') || navigator.language).startsWith('zh') ? '中文' : 'English'",
    "paint": "() => localStorage.getItem('anygpt-colours') || 'As the system'",
}
FETCH = "() => { setTimeout(() => document.querySelector('#zip a, a#zip, #zip')?.click(), 300); }"
DEAF = "This family has no voice model yet: all replies sound in the one voice of its codec. Choices here wait for a family that has one."
ROUGH = "A recording gives mini a voice of its own, which is not yet the person's. The standard voice is the clearest."
OPEN_VOICE, CONSENT, USE_VOICE = "voice-open", "voice-consent", "voice-use"  # what the buttons of cards press
FIELDS = ("temperature", "top_p", "top_k", "guidance")  # of Sampling that can be chosen
RESET = "sampling-reset"  # the button that takes the numbers of the preset
SAMPLING = (
    "<span>A preset fills these. Temperature 0 takes the likeliest, more is freer; top-p and top-k (0: all) leave out what is unlikely; "
    "guidance holds to what was asked.</span> <span>With the preset paper words are searched for, unless you change their numbers.</span>"
)
MICROPHONE = (
    '<div class="mic"><button type="button" name="check" value="microphone" class="do">Check the microphone</button>'
    '<meter class="mic-level" min="0" max="1" value="0" aria-label="Level"></meter><p class="mic-told" role="status"></p></div>'
)


# ------------------------------------------------------------------------------------------------------------- voices


def built_in_voices() -> dict[str, str]:
    """Names of the voices that come with the program, and where each is from."""
    sources: dict[str, str] = {}
    table = speech.VOICES / "SOURCES.md"
    for line in table.read_text(encoding="utf-8").splitlines() if table.is_file() else ():
        cells = [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0].endswith(".wav"):
            sources[cells[0].removesuffix(".wav")] = f"{cells[1]}. {cells[2]}, {cells[3]}."
    return {path.stem: sources.get(path.stem, "") for path in sorted(speech.VOICES.glob("*.wav"))}


def hear_voice(path: str | None, start_s: float | None = None) -> tuple[media.Audio, float, float]:
    """The 3 s of a recording that are used: they, where they begin, and how late they could. Raises UserError."""
    if path is None:
        raise BadText("There is no recording.", "Nothing was recorded or chosen.", "Record a sentence, or choose a file.")
    audio, _ = media.read_audio(Path(path).read_bytes(), rate_hz=16_000, limit_s=VOICE_LIMIT_S, crop=True)
    long_enough(audio)
    start = best_start(audio) if start_s is None else round(start_s * audio.rate_hz)
    return prompt_at(audio, start), start / audio.rate_hz, max(0.0, audio.seconds - PROMPT_S)


def voice_card(error: UserError) -> str:
    """What is wrong with a recording, and another one instead."""
    return card(error, button("press", OPEN_VOICE, "Choose another file"))


def record_voice(session: Session, path: str | None, consent: bool, start_s: float | None = None, name: str = "") -> str:
    """Speak with a recorded voice from now on. Returns what to tell the person."""
    if not consent:
        remedy = "Tick it if the voice is yours or its owner agrees."
        refusal = BadText("This voice is not used yet.", "The box about permission is not ticked.", remedy)
        return card(refusal, button("press", f"{CONSENT} {USE_VOICE}", "It is mine, or I may use it", "Tick the box and use this voice"))
    try:
        audio, _, _ = hear_voice(path, start_s)
    except UserError as error:
        return voice_card(error)
    label = " ".join(name.split())[:40] or f"my voice {len(session.voices) + 1}"
    session.voice = session.voices[label] = media.Voice(label, audio)
    return remark(f"Replies now speak with {label} ({session.voice.audio.seconds:.1f} s of it). It stays in this session only.")


def choose_voice(session: Session, name: str | None) -> str:
    """Speak with a built-in voice from now on, or with one of the visitor's own."""
    if name in session.voices:
        session.voice = session.voices[str(name)]
        return remark(f"Replies speak with {name}.")
    if name not in built_in_voices():
        session.voice = None
        return remark("Replies speak with the standard voice.")
    session.voice = speech.built_in_voice(str(name))
    return remark(f"Replies speak with the built-in voice {name}.")


Restoring = tuple[Callable[[Session], Any], list[Any]]  # what a reloaded page asks to look as it was left, and where that goes


def voice_tab(chat: Chat, session: gr.State, *, own: bool = True, rough: bool = False) -> Restoring:
    """The voice of replies: a built-in one, or a recording of which 3 s are used. own: recordings are taken; rough: and copied badly."""
    voices = built_in_voices()
    if not chat.clones:
        gr.HTML(remark(DEAF), apply_default_css=False)
    elif own and rough:
        gr.HTML(f'<p class="smallprint">{literal(ROUGH)}</p>', apply_default_css=False)
    built_in = gr.Dropdown(["standard", *voices], value="standard", label="Voices", visible=bool(voices))
    sources = "".join(f"<li><b>{literal(name)}</b>: {literal(told)}</li>" for name, told in voices.items())
    gr.HTML(f'<details class="sources"><summary>Where they are from</summary><ul>{sources}</ul></details>', apply_default_css=False)
    recording = gr.Audio(sources=["microphone", "upload"], type="filepath", label="Your own: a sentence or two", visible=own)
    begin = gr.Slider(0, 30, 0, step=0.1, label="The 3 s that are used begin at (s)", visible=False)
    heard = gr.Audio(label="What is used", interactive=False, visible=False)
    name = gr.Textbox(label="Its name", max_length=40, visible=own)
    consent = gr.Checkbox(label="This is my voice, or I have the permission of the person who speaks.", visible=own, elem_id=CONSENT)
    use = gr.Button("Use this voice", variant="primary", visible=own, elem_id=USE_VOICE)
    said = gr.HTML(apply_default_css=False)
    with gr.Row():
        keep = gr.Button("Save as .voice", elem_classes="quiet", visible=own)
        give = gr.UploadButton("Open a .voice", file_types=[".voice", "audio"], elem_classes="quiet", visible=own, elem_id=OPEN_VOICE)
        parcel = gr.DownloadButton("voice", elem_id="voicefile", visible="hidden")
    told = "The recording stays in the memory of this session. Speech made with it is AI-generated: say so where you use it."
    gr.HTML(f'<p class="smallprint">{told}</p>', apply_default_css=False, visible=own)

    def choices(session: Session) -> Any:
        return gr.Dropdown(["standard", *voices, *session.voices], value=session.voice.name if session.voice else "standard")

    def choose(session: Session, name: str | None) -> Any:
        told = choose_voice(session, name)
        if session.voice is None:
            return gr.Audio(visible=False), told
        return gr.Audio(shown_media(best_prompt(session.voice.audio), "", generated=False)["path"], visible=True), told

    def pick(path: str | None, start_s: float | None = None) -> Any:
        if path is None:
            return gr.Slider(visible=False), gr.Audio(visible=False), ""
        try:
            audio, start, most = hear_voice(path, start_s)
        except UserError as error:
            return gr.Slider(visible=False), gr.Audio(visible=False), voice_card(error)
        sound = shown_media(audio, "", generated=False)["path"]
        return gr.Slider(maximum=max(most, 0.1), value=start, visible=most > 0), gr.Audio(sound, visible=True), ""

    def take(session: Session, path: str | None, consent: bool, start_s: float, name: str) -> Any:
        if not own:
            return gr.skip(), gr.skip()
        told = record_voice(session, path, consent, start_s, name)
        return choices(session), told

    def give_back(session: Session) -> Any:
        voice = session.voice or speech.built_in_voice()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{''.join(sign for sign in voice.name if sign.isalnum() or sign in ' -_') or 'my'}.voice"
            path.write_bytes(media.write_wav(voice.audio, ai_generated=False))
            return gr.DownloadButton(value=save_file_to_cache(path, get_upload_folder()))

    recording.change(pick, [recording], [begin, heard, said], **QUICK)
    begin.release(pick, [recording, begin], [begin, heard, said], **QUICK)
    built_in.input(choose, [session, built_in], [heard, said], **QUICK)
    use.click(take, [session, recording, consent, begin, name], [built_in, said], **QUICK)
    keep.click(give_back, [session], parcel, **QUICK).then(None, js=FETCH.replace("zip", "voicefile"))
    give.upload(lambda path: (path, Path(path).stem), [give], [recording, name], **QUICK)
    return choices, [built_in]


# ----------------------------------------------------------------------------------------------------------- settings


def settings_tab(chat: Chat, session: gr.State, *, unclip: bool = False) -> Restoring:
    """How replies are made. unclip: the family's pictures have a guidance scale and a noise level."""
    about = (
        "<b>chat</b>: as it should be. <b>paper</b>: as the paper draws its words. "
        "<b>fast</b>: shorter sounds. <b>best</b>: the likeliest words."
    )
    if chat.enhances:
        about += "<br>Pictures have 512 px, those of fast 256."
    preset = gr.Radio(list(PRESETS), value="chat", label="Preset")
    gr.HTML(f'<p class="smallprint">{about}</p>', apply_default_css=False)
    seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1)
    lock = gr.Checkbox(label="Use this seed for every reply")
    forbid = gr.CheckboxGroup([(NAMES.get(name, name), name) for name in chat.modalities], label="Never make")
    sliders = {}
    with gr.Accordion("More", open=False):
        for name, item in chat.vocabulary.ranges.items():
            rate = item.modality.frame_rate_hz
            if rate:
                most = (item.modality.frames.stop - 1) / rate
                sliders[name] = gr.Slider(0.5, most, most, step=0.5, label=f"Longest {name} (s)")
        size = gr.Radio(["as the preset says", *SIZES], value="as the preset says", label="Size of a picture", visible=chat.enhances)
        steps = gr.Slider(0, 50, 0, step=1, label="Steps of a picture (0: as many as it needs)")
        voice_steps = gr.Slider(0, 32, 0, step=1, label="Steps of a voice (0: as many as it needs)", visible=chat.clones)
        guidance = gr.Slider(0, 30, 0, step=0.5, label="Guidance of a picture (0: as published)", visible=unclip)
        noise = gr.Slider(-1, 999, -1, step=1, label="Noise level of a picture (-1: as published)", visible=unclip)
    numbers, drawn_told, reset = _sampling(chat)
    gr.HTML("<h2>This device</h2>", apply_default_css=False)
    gr.HTML(MICROPHONE, apply_default_css=False)
    _device(
        ("The round button records", [("Speech", "speech"), ("Music or humming", "music")], "speech", "record"),
        ("Language", ["English", "中文"], None, "speak"),
        ("Colours", ["As the system", "Light", "Dark"], None, "paint"),
    )
    aloud = gr.Checkbox(True, label="Play sounds while they are made")

    def change(session: Session, *given: Any) -> None:
        preset, forbid, seed, lock, aloud, size, steps, voice_steps, guidance, noise, *longest = given
        base = PRESETS[preset if preset in PRESETS else "chat"]
        limits = dict(base.limits)
        for name, seconds in zip(sliders, longest, strict=True):
            frames = round(seconds * (chat.vocabulary.ranges[name].modality.frame_rate_hz or 0))
            limits[name] = max(1, min(frames, limits.get(name, frames)))
        rendering = Rendering(
            picture_steps=int(steps) or None,
            picture_guidance=max(1.0, float(guidance)) if guidance else None,
            picture_noise=int(noise) if noise >= 0 else None,
            voice_steps=int(voice_steps) or None,
            enhance=SIZES.get(size, base.rendering.enhance),
        )
        forbidden = tuple(name for name in forbid if name in chat.modalities)
        own = session.settings.sampling
        session.settings = replace(base, forbid=forbidden, limits=limits, rendering=rendering, sampling=own)
        session.seed = int(seed or 0) % 2**31 if lock else None
        session.aloud = bool(aloud)

    def fill(session: Session, *given: Any) -> list[Any]:
        session.settings = replace(session.settings, sampling={})
        change(session, *given)
        return [*shown_numbers(chat, session.settings, numbers), ""]

    def take_numbers(session: Session, *given: float | None) -> str:
        usual = samplings(chat.vocabulary, session.settings.preset)
        own: dict[str, dict[str, float]] = {}
        for (name, field), value in zip(numbers, given, strict=True):
            if value is not None and not math.isclose(value, getattr(usual[name], field), abs_tol=1e-6):
                own.setdefault(name, {})[field] = int(value) if field == "top_k" and math.isfinite(value) else value
        try:
            session.settings = replace(session.settings, sampling=own)
        except UserError as error:
            return card(error, button("press", RESET, "Back to the preset"))
        return ""

    inputs = [session, preset, forbid, seed, lock, aloud, size, steps, voice_steps, guidance, noise, *sliders.values()]
    for item in (forbid, seed, lock, aloud, size):
        item.input(change, inputs, None, **QUICK)
    preset.input(fill, inputs, [*numbers.values(), drawn_told], **QUICK)
    reset.click(fill, inputs, [*numbers.values(), drawn_told], **QUICK)
    for item in numbers.values():
        for done in (item.blur, item.submit):
            done(take_numbers, [session, *numbers.values()], drawn_told, **QUICK)
    for item in (steps, voice_steps, guidance, noise, *sliders.values()):
        item.release(change, inputs, None, **QUICK)

    def kept(session: Session) -> list[Any]:
        wish, made = session.settings, session.settings.rendering
        base = next((name for name, one in PRESETS.items() if (one.preset, one.max_new) == (wish.preset, wish.max_new)), "chat")
        noise = -1 if made.picture_noise is None else made.picture_noise
        drawn = [made.picture_steps or 0, made.voice_steps or 0, made.picture_guidance or 0, noise]
        rates = {name: chat.vocabulary.ranges[name].modality.frame_rate_hz or 1 for name in sliders}
        own = {name: frames for name, frames in wish.limits.items() if frames != PRESETS[base].limits.get(name)}
        longest = [own[name] / rates[name] if name in own else slider.maximum for name, slider in sliders.items()]
        own_numbers = shown_numbers(chat, wish, numbers)
        large = next((name for name, on in SIZES.items() if on == made.enhance), None)
        size = "as the preset says" if made.enhance == PRESETS[base].rendering.enhance else large
        shown = [size, *drawn, *longest, *own_numbers]
        return [base, list(wish.forbid), session.seed or 0, session.seed is not None, session.aloud, *shown]

    return kept, [*inputs[1:], *numbers.values()]


Numbers = dict[tuple[str, str], gr.Number]  # by "text" or modality, and field of Sampling


def shown_numbers(chat: Chat, settings: Settings, numbers: Numbers) -> list[float]:
    """How replies are drawn with some settings, as the fields of the drawer show it."""
    found = samplings(chat.vocabulary, settings.preset, settings.sampling)
    return [float(getattr(found[name], field)) for name, field in numbers]


def _sampling(chat: Chat) -> tuple[Numbers, gr.HTML, gr.Button]:
    """Fields for how words and the codes of each modality are drawn, what is wrong with them, and the way back."""
    numbers: Numbers = {}
    with gr.Accordion("Sampling per modality", open=False):
        gr.HTML(f'<p class="smallprint">{SAMPLING}</p>', apply_default_css=False)
        told = gr.HTML(apply_default_css=False)
        for name, usual in samplings(chat.vocabulary).items():
            fields = [field for field in FIELDS if field != "guidance" or usual.guidance != 1.0]
            with gr.Row(elem_classes="numbers"):
                for field in fields:
                    label = f"{'Words' if name == 'text' else NAMES.get(name, name.capitalize())}: {field.replace('_', '-')}"
                    step = 1 if field == "top_k" else 0.05
                    numbers[name, field] = gr.Number(float(getattr(usual, field)), label=label, step=step, min_width=120)
        reset = gr.Button("Back to the preset", elem_classes="quiet", elem_id=RESET)
    return numbers, told, reset


def _device(*choices: tuple[str, list, str | None, str]) -> None:
    """Choices that the browser keeps and the server never hears of. The last word of each: its function in the page's script.

    Without a value it is what the browser has kept.
    """
    listen: Callable[[str], str] = lambda name: f"(choice) => {{ document.querySelector('.composer').api.{name}(choice); }}"  # noqa: E731
    for label, options, value, name in choices:
        item = gr.Radio(options, value=value, label=label)
        item.input(None, [item], None, js=listen(name))
        if value is None:
            gr.on(None, None, None, [item], js=KEPT[name], **QUICK)
