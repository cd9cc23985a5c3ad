"""What the language model says, draws, plays and speaks in held-out chats, judged by the facts behind them.

`figures` yields captions, transcripts, modality of replies and malformed blocks; `produce` writes the codes of pictures,
music and speech that the model made, for the judges of eval/pictures.py, eval/music.py and eval/judges.py.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from anygpt_demo import protocol
from anygpt_demo.checkpoints import Family
from anygpt_demo.conversation import MediaPart, Part, TextPart, Turn
from anygpt_demo.engine import LocalEngine
from anygpt_demo.eval.metrics import character_error_rates, cider, figure, word_error_rates
from anygpt_demo.grammar import Grammar
from anygpt_demo.models.llama import Llama
from anygpt_demo.synth import dialogues as chats
from anygpt_demo.synth import music, scenes, spoken, world
from anygpt_demo.train.llm_data import ClipSet, Library, without_repeats
from anygpt_demo.vocabulary import Vocabulary

MODALITY_OF = {chats.PicturePart: "image", chats.MusicPart: "music", chats.SpeechPart: "speech"}
MUSIC_FRAMES = 125  # of pieces that are asked for in evaluation: 2.5 s
SPEECH_FRAMES = 350
FOLLOW_UPS = ("t-p now", "t-m now", "t-p then t", "t-m then t", "t-p then m", "t-m then p")  # chats whose last request refers back
OPEN = ("t-t", "t-t everyday", "t-t fun", "t-t poem")  # chats in which many replies are right: no facts of the written one are asked for
LATE_ROOM = 700  # ids that the reply in a long chat finds free
MUSIC_FACTS = ("lead", "genre", "mood", "tempo", "mode", "drums")  # names of facts as facts_in() gives them
TRIES = 20  # chats that are tried for each that is counted, at most


@dataclass
class Reply:
    """One parsed reply."""

    text: str = ""
    heard: str = ""
    blocks: list[tuple[str, np.ndarray]] = field(default_factory=list)  # (modality, int64 (frames, layers)) in order
    malformed: int = 0

    @property
    def modalities(self) -> set[str]:
        """What it contains besides words."""
        return {name for name, _ in self.blocks}

    @property
    def turn(self) -> Turn:
        """It as a turn of a longer chat."""
        words = (TextPart(self.text),) if self.text else ()
        return Turn("mmgpt", (*words, *(MediaPart(name, codes) for name, codes in self.blocks)), self.heard)


class Speaker:
    """A language model that answers chats."""

    def __init__(self, engine: LocalEngine, vocabulary: Vocabulary, preset: str = "greedy") -> None:
        self.engine, self.vocabulary, self.preset = engine, vocabulary, preset

    @classmethod
    def load(cls, family: Family) -> Speaker:
        """The model of a family."""
        return cls(LocalEngine.load(family), Vocabulary.of(family))

    @property
    def reading(self) -> Speaker:
        """The same model, whose words are searched for with beams."""
        return Speaker(self.engine, self.vocabulary, "paper")

    def room(self, turns: Sequence[Turn]) -> int:
        """Ids that a reply to these turns may have."""
        return self.engine.context - len(protocol.encode(self.vocabulary, turns))

    def answer(self, turns: Sequence[Turn], seed: int = 0, force: str | None = None, longest: int = 1200) -> Reply:
        """Reply to a conversation that ends with a person's turn."""
        ids = protocol.encode(self.vocabulary, turns)
        budget = min(longest, self.room(turns))
        limits = {"music": MUSIC_FRAMES, "speech": SPEECH_FRAMES}
        heard_s = protocol.spoken_s(self.vocabulary, turns[-1])
        grammar = Grammar(self.vocabulary, budget=budget, preset=self.preset, limits=limits, force=force, heard_s=heard_s)
        reply = Reply()
        for event in protocol.parse(self.vocabulary, self.engine.generate(ids, grammar, seed=seed, stop=None, max_new=budget)):
            if isinstance(event, protocol.TextDelta):
                if event.heard:
                    reply.heard += event.text
                else:
                    reply.text += event.text
            elif isinstance(event, protocol.BlockClosed):
                reply.blocks.append((event.modality, event.codes))
            elif isinstance(event, (protocol.Malformed, protocol.BlockDropped)):
                reply.malformed += 1
        return reply


def image_turn(codes: np.ndarray, text: str) -> Turn:
    """A person's turn with a picture. codes: int (32,)."""
    return Turn("human", (MediaPart("image", codes.astype(np.int64).reshape(32, 1)), TextPart(text)))


# --- facts in words ---


def nouns_in(text: str) -> set[str]:
    """The world's nouns that a text names; long names hide the short ones within them."""
    rest, found = spoken.plain(text), set()
    for pattern, noun in spoken.noun_patterns():
        if pattern.search(rest):
            found.add(noun)
            rest = pattern.sub(" ", rest)
    return found


def place_in(text: str) -> str | None:
    """The place that a text names."""
    words = spoken.plain(text)
    return next((place.name for place in world.PLACES if place.phrase in words), None)


def time_in(text: str) -> str | None:
    """The time that a text names."""
    words = spoken.plain(text)
    return next((time.name for time in world.TIMES if time.phrase in words), None)


def without_backdrop(text: str) -> str:
    """A caption without its place and time, so that 'on a city street' names no thing."""
    words = spoken.plain(text)
    for phrase in (*(place.phrase for place in world.PLACES), *(time.phrase for time in world.TIMES)):
        words = words.replace(phrase, "")
    return words


def f1(found: set[str], truth: set[str]) -> float:
    """Harmonic mean of precision and recall of two sets."""
    return 2 * len(found & truth) / max(1, len(found) + len(truth))


# --- the checks ---


def captions(speaker: Speaker, codes: np.ndarray, truths: Sequence[scenes.Scene], question: str = "What is in this picture?") -> list[str]:
    """Captions of pictures. codes: (n, 32)."""
    return [speaker.answer([image_turn(row, question)], longest=80).text for row, _ in zip(codes, truths, strict=True)]


def caption_scores(said: Sequence[str], truths: Sequence[scenes.Scene]) -> dict[str, list[float]]:
    """Per picture: F1 of the things, place right, time right."""
    pairs = list(zip(said, truths, strict=True))
    return {
        "object_f1": [f1(nouns_in(without_backdrop(text)), {thing.noun for thing in scene.things}) for text, scene in pairs],
        "place": [float(place_in(text) == scene.place) for text, scene in pairs],
        "time": [float(time_in(text) == scene.time) for text, scene in pairs],
    }


def transcripts(speaker: Speaker, clips: ClipSet, rows: Sequence[int], repeats: bool = True, asked: bool = True) -> list[str]:
    """What the model heard in clips. asked: it is asked what was said; else it is only spoken to, and made to write down what it heard."""
    said = []
    for row in rows:
        codes = clips.codes(row)
        part = MediaPart("speech", (codes if repeats else without_repeats(codes))[:, None])
        if asked:
            said.append(speaker.answer([Turn("human", (part, TextPart("What did I say?")))], longest=40).text)
        else:
            said.append(speaker.answer([Turn("human", (part,))], longest=60, force="heard").heard)
    return said


def word_errors_of(said: Sequence[str], clips: ClipSet, rows: Sequence[int]) -> tuple[list[float], list[float]]:
    """Word error rates and word counts of transcripts."""
    return word_error_rates([clips.clips[row].item.text for row in rows], [spoken.plain(text) for text in said])


def expected(turn: chats.Turn) -> set[str]:
    """Modalities of a written reply."""
    return {MODALITY_OF[type(part)] for part in turn.parts if type(part) in MODALITY_OF}


class Encoder:
    """Turns the specifications in a chat into coded parts, from a library."""

    def __init__(self, library: Library) -> None:
        self.library = library

    def part(self, part: chats.Part) -> Part:
        """One part."""
        if isinstance(part, chats.Words):
            return TextPart(part.text)
        if isinstance(part, chats.SpeechPart):
            return MediaPart("speech", self.library.clips.codes(part.number)[:, None])
        if isinstance(part, chats.PicturePart):
            assert self.library.pictures is not None
            return MediaPart("image", self.library.pictures.codes[part.number].astype(np.int64)[:, None])
        assert self.library.music is not None
        return MediaPart("music", self.library.music.codes[part.number][:MUSIC_FRAMES].astype(np.int64))

    def turns(self, turns: Sequence[chats.Turn]) -> list[Turn]:
        """A history."""
        return [Turn(turn.role, tuple(self.part(part) for part in turn.parts), turn.heard) for turn in turns]


class HeldOut(Library):
    """Held-out phrasings over the pictures, pieces and clips that only evaluation uses."""

    heldout = True
    prefix = "test_"

    @cached_property
    def people(self) -> ClipSet:
        """Sentences read by a person, of which training heard others."""
        return ClipSet(self.runs / "data" / "speech", ("human",), split="test")

    def _clips(self, folder: Path) -> ClipSet:
        return ClipSet(folder, ("synth_test",), split="test")

    def speech(self, rng: random.Random, kinds: Sequence[str], text: str | None = None, *, mine: bool = False) -> chats.SpeechPart:
        """Test clips; a sentence that has no clip is only expected, never heard."""
        if text is not None:
            return chats.SpeechPart(spoken.SpokenItem(spoken.plain(text), "reply", {}, text))
        return super().speech(rng, kinds)


@dataclass(frozen=True)
class Trial:
    """One held-out chat. right: the last reply has exactly the modalities asked for; facts: F1 of the facts that its words name, of those
    that the request settles, None if it settles none (see settled_f1); all_facts: the same of all facts that the written reply names."""

    pattern: str
    right: bool
    malformed: int
    facts: float | None
    all_facts: float | None


def facts_in(text: str) -> set[str]:
    """Whatever a text says of a picture or a piece: things, place, time, tempo, drums, genre, mood, mode, instrument."""
    heard = music.facts(text)
    heard.pop("family", None)  # follows from the instrument
    backdrop = {fact for fact in (place_in(text), time_in(text)) if fact}
    seen = text.lower()
    for instrument in (heard.get("lead"), "drum" if "drums" in heard else None):
        seen = seen.replace(instrument or "\n", "")  # what plays is not seen
    return nouns_in(without_backdrop(seen)) | backdrop | {f"{name} {value}" for name, value in heard.items()}


def kind_of(fact: str) -> str:
    """What a fact of facts_in() is about: thing, place, time, or the name of a fact of music."""
    if fact in {place.name for place in world.PLACES}:
        return "place"
    if fact in {time.name for time in world.TIMES}:
        return "time"
    return fact.partition(" ")[0] if fact.partition(" ")[0] in MUSIC_FACTS else "thing"


def given_facts(turns: Sequence[chats.Turn]) -> set[str]:
    """Whatever is said, heard or seen in turns: facts of their words, pictures and pieces."""
    found: set[str] = set()
    for part in (part for turn in turns for part in turn.parts):
        if isinstance(part, chats.Words):
            found |= facts_in(re.sub(r"\b(slow|fast)er\b", r"\1", part.text))
        elif isinstance(part, chats.SpeechPart):
            found |= facts_in(part.item.text)
        elif isinstance(part, chats.PicturePart):
            found |= facts_in(chats.scene_words(part.scene))
        else:
            found |= facts_in(chats.piece_words(part.piece))
    return found


def settled_f1(said: set[str], truth: set[str], given: set[str]) -> float | None:
    """F1 of what a reply names and what it has to name: the facts of the written reply that were given before. None if there are none.

    A request for "some sad jazz" leaves tempo, drums and instrument open, and music that is turned into a picture leaves the thing open:
    what the written reply chose there is no more right than anything else, so facts of such a kind are not counted against a reply.
    """
    settled = truth & given
    if not settled:
        return None
    open_kinds = {kind_of(fact) for fact in truth - given}
    return f1({fact for fact in said if fact in settled or kind_of(fact) not in open_kinds}, settled)


def trials(
    speaker: Speaker, source: HeldOut, n: int, seed: int = 0, patterns: Sequence[str] | None = None, before: int = 0
) -> Iterator[Trial]:
    """n held-out chats of these patterns (all that the material allows), in turn.

    before: each goes on from so many chats before it, with the model's own last replies, as one long chat.
    """
    have = ("s" if source.clips.clips else "") + ("p" if source.pictures else "") + ("m" if source.music else "")
    encoder = Encoder(source)
    names = [name for name, (_, needs, _) in chats.PATTERNS.items() if set(needs) <= set(have) and (patterns is None or name in patterns)]
    rng, found = random.Random(f"trials {seed}"), 0
    past: list[list[Turn]] = []
    for number in range(TRIES * n if names else 0):
        if found == n + before:
            return
        try:
            dialogue = chats.write(names[number % len(names)], rng, source, spoken=False)  # held-out clips say one caption or two
            history = encoder.turns(dialogue.turns[:-1])
        except (chats.NotFound, IndexError):  # no held-out material fits: another chat
            continue
        found += 1
        while past and speaker.room([*chain(*past), *history]) < LATE_ROOM:  # as the page forgets
            past = past[1:]
        reply = speaker.answer([*chain(*past), *history], seed=number)
        past = [*past, [*history, reply.turn]][-before:] if before else []
        if found <= before:
            continue
        last = dialogue.turns[-1]
        truth = facts_in(" ".join(part.text for part in last.parts if isinstance(part, chats.Words)))
        said, counts = facts_in(reply.text), bool(truth) and dialogue.pattern not in OPEN
        settled = settled_f1(said, truth, given_facts(dialogue.turns[:-1])) if counts else None
        yield Trial(dialogue.pattern, reply.modalities == expected(last), reply.malformed, settled, f1(said, truth) if counts else None)


def quick_figures(model: Llama, vocabulary: Vocabulary, runs: Path, n: int = 30) -> dict[str, float]:
    """A few figures while training: WER (without and with repeats), caption F1 and place, modality of typed requests."""
    speaker = Speaker(LocalEngine(model), vocabulary)
    found: dict[str, float] = {}
    held = HeldOut(runs)
    clips = held.clips
    if clips.clips:
        rows = [row for row, clip in enumerate(clips.clips) if not clip.voice.startswith("awb")][:n]
        for name, repeats in (("wer_dedup", False), ("wer", True)):
            rates, counts = word_errors_of(transcripts(speaker, clips, rows, repeats), clips, rows)
            found[name] = float(np.average(rates, weights=counts))
    if held.pictures is not None:
        truths = held.pictures.scenes[:n]
        scores = caption_scores(captions(speaker, held.pictures.codes[:n], truths), truths)
        found |= {f"caption_{key}": float(np.mean(values)) for key, values in scores.items()}
    source = chats.FreeSource(5, heldout=True, pool=300)
    rng, right = random.Random(3), []
    for pattern, force in (("t-p", {"image"}), ("t-m", {"music"}), ("t-t", set())):
        if (pattern == "t-p" and held.pictures is None) or (pattern == "t-m" and held.music is None):
            continue
        for dialogue in islice((chats.write(pattern, rng, source) for _ in range(8)), 8):
            turn = Turn("human", tuple(TextPart(part.text) for part in dialogue.turns[0].parts if isinstance(part, chats.Words)))
            right.append(float(speaker.answer([turn], longest=160).modalities == force))
    return found | {"modality": float(np.mean(right))}


# --- command line ---


def listening(said: Sequence[str], clips: ClipSet, rows: Sequence[int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures of transcripts: word errors and character errors."""
    letters = character_error_rates([clips.clips[row].item.text for row in rows], said)
    return figure(*word_errors_of(said, clips, rows), ceiling=0.0), figure(*letters, ceiling=0.0)


def heard_figures(
    speaker: Speaker, clips: ClipSet, rows: Sequence[int], words: str, letters: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Transcripts by beams and by the likeliest piece each time, of which the better counts; and without a question, as the page has them.

    words, letters: names of the figures of word and of character errors.
    """
    found = {
        "greedy": listening(transcripts(speaker, clips, rows), clips, rows),
        "beams": listening(transcripts(speaker.reading, clips, rows), clips, rows),
        "unasked": listening(transcripts(speaker, clips, rows, asked=False), clips, rows),
    }
    for place, name in enumerate((words, letters)):
        if name:
            yield f"speech_to_text.{name}", min((found[way][place] for way in ("beams", "greedy")), key=lambda one: one["value"])
            yield from ((f"speech_to_text.{name}_{way}", both[place]) for way, both in found.items())


def figures(speaker: Speaker, source: HeldOut, n: int, seed: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (key, figure) for everything that facts alone can judge. seed: of the chats.

    Captions are searched for with the paper's five beams (its Table 9), as the page does when it is asked to describe.
    """
    if source.pictures is not None:
        truths = source.pictures.scenes[:n]
        for mode, reader in (("", speaker.reading), ("_greedy", speaker)):
            said = captions(reader, source.pictures.codes[:n], truths)
            shuffled = caption_scores(said, truths[1:] + truths[:1])
            for key, values in caption_scores(said, truths).items():
                yield f"picture_to_text.{key}{mode}", figure(values, ceiling=1.0, floor=float(np.mean(shuffled[key])))
            rng = random.Random("captions")
            written = [[chats.scene_words(scene), *(scenes.describe(scene, rng, "full") for _ in range(4))] for scene in truths]
            floor = float(np.mean(cider(said[1:] + said[:1], written)))
            yield f"picture_to_text.cider{mode}", figure(cider(said, written), floor=floor)
    if source.clips.clips:
        for key, heldout in (("wer_seen_voices", False), ("wer_heldout_voice", True)):
            rows = [row for row, clip in enumerate(source.clips.clips) if clip.voice.startswith("awb") == heldout][:n]
            yield from heard_figures(speaker, source.clips, rows, key)
    if source.people.clips:
        yield from heard_figures(speaker, source.people, list(range(min(n, len(source.people.clips)))), "wer_human", "cer_human")
    if source.music is not None:
        from anygpt_demo.eval.music import music_to_text

        rows = list(range(min(n, len(source.music.pieces))))
        parts = [MediaPart("music", source.music.codes[row][:MUSIC_FRAMES].astype(np.int64)) for row in rows]
        asked = [Turn("human", (part, TextPart("What music is this?"))) for part in parts]
        for mode, reader in (("", speaker.reading), ("_greedy", speaker)):
            heard = [reader.answer([turn], longest=80).text for turn in asked]
            for key, value in music_to_text(heard, [source.music.pieces[row] for row in rows]).items():
                yield f"music_to_text.{key}{mode}", value
    found = list(trials(speaker, source, 2 * n, seed))
    yield "chat.modality", figure([float(trial.right) for trial in found], ceiling=1.0)
    yield "chat.malformed", figure([float(trial.malformed) for trial in found])
    for key, chosen in (("facts", found), ("follow_up", [trial for trial in found if trial.pattern in FOLLOW_UPS])):
        named = [trial.facts for trial in chosen if trial.facts is not None]
        if named:
            yield f"chat.{key}", figure(named, ceiling=1.0)
        named = [trial.all_facts for trial in chosen if trial.all_facts is not None]
        if named:
            yield f"chat.{key}_open_too", figure(named)
    late = list(trials(speaker, source, n, seed, before=2))
    yield "chat.late_modality", figure([float(trial.right) for trial in late], ceiling=1.0)
    yield "chat.late_facts", figure([trial.facts for trial in late if trial.facts is not None], ceiling=1.0)
    for name in sorted({trial.pattern for trial in found}):
        yield f"chat.modality.{name}", figure([float(trial.right) for trial in found if trial.pattern == name])


def matrix(speaker: Speaker, source: HeldOut, n: int, seed: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("matrix.t-p", figure), ... for every input and output, n chats each, and "matrix.min_cell", the worst of them.

    A chat counts by how well its reply names the facts, and not at all if it has other modalities than asked for.
    """
    cells = {}
    for cell in (f"{entering}-{leaving}" for entering in "tspm" for leaving in "tspm"):
        found = list(trials(speaker, source, n, seed, (cell,)))
        if found:
            cells[cell] = figure([float(trial.right) * (1.0 if trial.facts is None else trial.facts) for trial in found], ceiling=1.0)
            yield f"matrix.{cell}", cells[cell]
            every = [float(trial.right) * (1.0 if trial.all_facts is None else trial.all_facts) for trial in found]
            yield f"matrix_open_too.{cell}", figure(every)
    if cells:
        yield "matrix.min_cell", min(cells.values(), key=lambda cell: float(cell["value"]))


def produce(speaker: Speaker, source: HeldOut, n: int, out: Path) -> None:
    """Write what the model makes for held-out requests: pictures.npz / music.npz / speech.npz (codes) with .jsonl (what was asked)."""
    out.mkdir(parents=True, exist_ok=True)
    writer = chats.Writer(random.Random("produce"), source)
    if source.pictures is not None:
        truths = source.pictures.scenes[:n]
        forms = ("Draw {scene}.", "Please draw {scene}.", "Show me {scene}.")
        asked = [writer.pick(forms, scene=chats.scene_words(scene)) for scene in truths]
        _write(out, "image", speaker, asked, [asdict(scene) for scene in truths])
    if source.music is not None:
        pieces = source.music.pieces[:n]
        forms = ("Play {music}.", "Compose {music}.", "Please play {music}.")
        asked = [writer.pick(forms, music=chats.piece_words(piece)) for piece in pieces]
        _write(out, "music", speaker, asked, [asdict(piece) for piece in pieces])
    texts = [clip.item.text for clip in source.clips.clips][:n]
    _write(out, "speech", speaker, [f"Please say {text}" for text in texts], [{"text": text} for text in texts])


def _write(out: Path, modality: str, speaker: Speaker, asked: Sequence[str], truths: Sequence[dict[str, Any]]) -> None:
    codes, rows = {}, []
    for number, (text, truth) in enumerate(zip(asked, truths, strict=True)):
        reply = speaker.answer([Turn("human", (TextPart(text),))], seed=number, force=modality)
        made = [block for name, block in reply.blocks if name == modality]
        if made:
            codes[str(number)] = made[0]
        rows.append({"number": number, "asked": text, "said": reply.text, "truth": truth, "made": bool(made)})
    np.savez_compressed(out / f"{modality}.npz", **codes)
    (out / f"{modality}.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures as JSON; with --out also write generated codes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", type=Path, default=Path("checkpoints/mini"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--out", type=Path, help="folder for generated codes")
    options = parser.parse_args(arguments)
    speaker, source = Speaker.load(Family.open(options.family)), HeldOut(options.runs)
    if options.out is not None:
        produce(speaker, source, options.n, options.out)
    found = dict(figures(speaker, source, options.n))
    json.dump({"figures": found}, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
