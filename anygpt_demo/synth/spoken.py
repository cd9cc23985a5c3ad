"""Sentences that people and mini speak aloud in their chats: lower-case words without digits or punctuation.

`spoken_items` yields them with their meaning, so that a spoken chat can be built around a clip whose words are known.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache

from anygpt_demo.synth import music, phrasings, topics, world
from anygpt_demo.synth.holdout import picture_allowed
from anygpt_demo.synth.phrasings import asked

LONGEST_WORDS = 14


@dataclass(frozen=True)
class SpokenItem:
    """One spoken sentence. kind: what it does; facts: what it names (noun, colour, place, time, or facts of a piece)."""

    text: str  # "please draw a red car at night"
    kind: str  # "draw", "play", "say", "topic", "manners", "feeling", "ask picture", "ask music", "cross", "reply"
    facts: dict[str, str] = field(default_factory=dict)
    written: str = ""  # the same sentence as it is typed, with capitals and stops


def plain(text: str) -> str:
    """Typed text to spoken words: lower case, letters and apostrophes only."""
    return " ".join(re.sub(r"[^a-z' ]+", " ", text.lower().replace("-", " ")).split())


def _scene(rng: random.Random) -> tuple[str, dict[str, str]]:
    """Words for a simple scene and its facts: a noun, for most a place, a time or a colour."""
    noun = rng.choice(world.NOUNS)
    facts = {"noun": noun.name}
    colour = rng.choice(world.COLOURS) if noun.tintable and rng.random() < 0.4 else ""
    count = rng.choice((2, 3)) if not colour and noun.article != "some" and rng.random() < 0.12 else 1
    words = world.mention(noun, count, colour)
    if colour:
        facts["colour"] = colour
    if count > 1:
        facts["count"] = str(count)
    if rng.random() < 0.75:
        place = rng.choice([place for place in world.PLACES if picture_allowed(noun.name, place.name)])
        facts["place"] = place.name
        words += " " + place.phrase
    if rng.random() < 0.4:
        time = rng.choice(world.TIMES)
        facts["time"] = time.name
        words += " " + time.phrase
    return words, facts


def _article(word: str) -> str:
    return ("an " if word[0] in "aeiou" else "a ") + word


def _music(rng: random.Random) -> tuple[str, dict[str, str]]:
    """Words for a piece of music and its facts."""
    piece = music.sample_piece(rng)
    drums = "with drums" if piece.drums else "without drums"
    forms: tuple[tuple[str, tuple[str, ...]], ...] = (
        (f"{_article(piece.tempo)} {piece.genre} tune {drums}", ("tempo", "genre", "drums")),
        (f"some {piece.mood} {piece.genre} music", ("mood", "genre")),
        (f"{_article(piece.mood)} {piece.genre} piece with {_article(piece.lead)}", ("mood", "genre", "lead")),
        (f"{_article(piece.tempo)} {piece.mood} melody on the {piece.lead}", ("tempo", "mood", "lead")),
        (f"some {piece.tempo} {piece.genre} music {drums}", ("tempo", "genre", "drums")),
        (f"something {piece.mood} on the {piece.lead}", ("mood", "lead")),
        (f"some {piece.tempo} music {drums}", ("tempo", "drums")),
    )
    words, names = rng.choice(forms)
    values = {"tempo": piece.tempo, "genre": piece.genre, "mood": piece.mood, "lead": piece.lead, "drums": "yes" if piece.drums else "no"}
    return words, {name: values[name] for name in names}


def _draw(rng: random.Random) -> SpokenItem:
    words, facts = _scene(rng)
    return _item(rng.choice(asked(phrasings.ASK_PICTURE)).format(scene=words), "draw", facts)


def _play(rng: random.Random) -> SpokenItem:
    words, facts = _music(rng)
    return _item(rng.choice(asked(phrasings.ASK_MUSIC)).format(music=words), "play", facts)


def _say(rng: random.Random) -> SpokenItem:
    quote = topic_sentence(rng) if rng.random() < 0.5 else f"I see {_scene(rng)[0]}."
    return _item(rng.choice(asked(phrasings.ASK_SAY)).format(quote=quote[0].lower() + quote[1:]), "say", {"quote": quote})


def _topic(rng: random.Random) -> SpokenItem:
    topic = rng.choice(tuple(topics.TOPICS))
    if rng.random() < 0.2:
        return _item(rng.choice(asked(phrasings.ASK_POEM)).format(topic=topic), "poem", {"topic": topic})
    return _item(rng.choice(asked(topics.ASK_TOPIC)).format(topic), "topic", {"topic": topic})


def _manners(rng: random.Random) -> SpokenItem:
    number = rng.randrange(len(topics.MANNERS))
    return _item(rng.choice(topics.MANNERS[number][0]), "manners", {"row": str(number)})


def _feeling(rng: random.Random) -> SpokenItem:
    feeling = rng.choice(tuple(topics.FEELINGS))
    return _item(rng.choice(asked(phrasings.FEEL)).format(feeling=feeling), "feeling", {"feeling": feeling})


def _refuse(rng: random.Random) -> SpokenItem:
    return _item(rng.choice(phrasings.REFUSE).format(task=rng.choice(topics.REFUSALS)), "refuse", {})


def _ask_picture(rng: random.Random) -> SpokenItem:
    noun = rng.choice(world.NOUNS)
    kind, table = rng.choice(
        (
            ("caption", phrasings.ASK_CAPTION),
            ("caption", phrasings.ASK_CAPTION),
            ("object", phrasings.ASK_OBJECT),
            ("place", phrasings.ASK_PLACE),
            ("time", phrasings.ASK_TIME),
        )
    )
    text = (
        rng.choice([form for form in asked(table) if "{" not in form])
        if rng.random() < 0.8 or "{noun}" not in "".join(table)
        else f"Where is the {noun.name}?"
    )
    return _item(text, "ask picture", {"about": kind})


def _ask_music(rng: random.Random) -> SpokenItem:
    tables = {
        "caption": phrasings.ASK_MUSIC_CAPTION, "lead": phrasings.ASK_INSTRUMENT, "tempo": phrasings.ASK_TEMPO, "drums": phrasings.ASK_DRUMS,
        "genre": phrasings.ASK_GENRE, "mood": phrasings.ASK_MOOD, "similar": phrasings.ASK_SIMILAR,
    }  # fmt: skip
    about = rng.choice(tuple(tables))
    return _item(rng.choice(asked(tables[about])), "ask music", {"about": about})


def _cross(rng: random.Random) -> SpokenItem:
    if rng.random() < 0.5:
        return _item(rng.choice(asked(phrasings.PICTURE_TO_MUSIC)), "picture to music", {})
    return _item(rng.choice(asked(phrasings.MUSIC_TO_PICTURE)), "music to picture", {})


def topic_sentence(rng: random.Random) -> str:
    """One written sentence about some topic."""
    return rng.choice(rng.choice(tuple(topics.TOPICS.values())))


def _reply(rng: random.Random) -> SpokenItem:
    """A sentence that mini speaks."""
    share = rng.random()
    if share < 0.3:
        words, facts = _scene(rng)
        lead = rng.choice(("Here is {}.", "I see {}."))
        return _item(lead.format(words), "reply", {"says": "scene", **facts})
    if share < 0.5:
        words, facts = _music(rng)
        return _item(rng.choice(("Here is {}.", "I hear {}.")).format(words), "reply", {"says": "music", **facts})
    if share < 0.8:
        return _item(topic_sentence(rng), "reply", {"says": "topic"})
    table = rng.choice((*(answers for _, answers in topics.MANNERS), *topics.FEELINGS.values(), topics.SORRY))
    return _item(rng.choice(table), "reply", {"says": "manners"})


def _item(written: str, kind: str, facts: dict[str, str]) -> SpokenItem:
    return SpokenItem(plain(written), kind, facts, written)


# (weight, maker): the mixture of what is spoken
KINDS: tuple[tuple[float, Callable[[random.Random], SpokenItem]], ...] = (
    (0.22, _draw), (0.14, _play), (0.05, _say), (0.10, _topic), (0.05, _manners), (0.03, _feeling), (0.03, _refuse), (0.06, _ask_picture),
    (0.06, _ask_music), (0.04, _cross), (0.22, _reply),
)  # fmt: skip


PREFIXES = ("mini", "hey mini", "okay", "so", "now", "well", "please", "tell me", "and")
SUFFIXES = ("please", "mini", "now", "my friend", "then")


def _varied(item: SpokenItem, rng: random.Random) -> SpokenItem:
    """Small words before or after, as people speak: the short fixed questions are heard in many forms."""
    if item.kind in ("draw", "play", "reply", "say", "poem") or rng.random() < 0.25:
        return item
    text = item.text
    if rng.random() < 0.6:
        text = f"{rng.choice(PREFIXES)} {text}"
    if rng.random() < 0.5:
        text = f"{text} {rng.choice(SUFFIXES)}"
    return replace(item, text=text)


def spoken_items(seed: int) -> Iterator[SpokenItem]:
    """Endless spoken sentences with their meaning; equal seeds give equal streams. No sentence comes twice in a stream."""
    rng = random.Random(f"spoken {seed}")
    weights = [weight for weight, _ in KINDS]
    seen: set[str] = set()
    while True:
        item = _varied(rng.choices(KINDS, weights)[0][1](rng), rng)
        if item.text in seen or len(item.text.split()) > LONGEST_WORDS:
            continue
        seen.add(item.text)
        yield item


def spoken_sentences(seed: int) -> Iterator[str]:
    """The words of spoken_items(seed): what a speech synthesizer reads."""
    for item in spoken_items(seed):
        yield item.text


# --- from words back to meaning ---


def _pattern(form: str) -> re.Pattern[str]:
    """A phrasing as a pattern over plain words; its slots become named groups."""
    words = re.sub(r"\{(\w*)\}", lambda match: f"slot{match[1]}slot", form)
    return re.compile("^" + re.sub(r"slot(\w*?)slot", lambda match: f"(?P<{match[1] or 'slot'}>.+)", plain(words)) + "$")


@cache
def _readers() -> tuple[tuple[re.Pattern[str], str, dict[str, str]], ...]:
    """(pattern, kind, fixed facts), the most specific first."""
    found: list[tuple[re.Pattern[str], str, dict[str, str]]] = []
    for table, kind in (
        (phrasings.ASK_SAY, "say"),
        (phrasings.ASK_POEM, "poem"),
        (topics.ASK_TOPIC, "topic"),
        (phrasings.FEEL, "feeling"),
        (phrasings.REFUSE, "refuse"),
    ):
        found += [(_pattern(form), kind, {}) for form in table]
    for number, (questions, _) in enumerate(topics.MANNERS):
        found += [(_pattern(form), "manners", {"row": str(number)}) for form in questions]
    about = {
        "caption": phrasings.ASK_CAPTION, "object": phrasings.ASK_OBJECT, "place": phrasings.ASK_PLACE, "time": phrasings.ASK_TIME,
    }  # fmt: skip
    found += [(_pattern(form), "ask picture", {"about": key}) for key, table in about.items() for form in table if "{" not in form]
    about = {
        "caption": phrasings.ASK_MUSIC_CAPTION, "lead": phrasings.ASK_INSTRUMENT, "tempo": phrasings.ASK_TEMPO, "drums": phrasings.ASK_DRUMS,
        "genre": phrasings.ASK_GENRE, "mood": phrasings.ASK_MOOD, "similar": phrasings.ASK_SIMILAR,
    }  # fmt: skip
    found += [(_pattern(form), "ask music", {"about": key}) for key, table in about.items() for form in table]
    found += [(_pattern(form), "picture to music", {}) for form in phrasings.PICTURE_TO_MUSIC]
    found += [(_pattern(form), "music to picture", {}) for form in phrasings.MUSIC_TO_PICTURE]
    found += [(_pattern(form), "draw", {}) for form in phrasings.ASK_PICTURE] + [
        (_pattern(form), "play", {}) for form in phrasings.ASK_MUSIC
    ]
    found += [(_pattern(form), "reply", {}) for form in ("Here is {scene}.", "I see {scene}.", "I hear {scene}.")]
    return tuple(found)


@cache
def noun_patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Every way to name a noun, long names first."""
    pairs = [(name, noun.name) for noun in world.NOUNS for name in (noun.name, noun.plural)]
    return tuple((re.compile(rf"\b{name}\b"), noun) for name, noun in sorted(set(pairs), key=lambda pair: -len(pair[0])))


def read_scene(words: str) -> dict[str, str] | None:
    """Facts of a simple scene in plain words ('two red cars on a beach at night'); None if a word remains that says something else."""
    facts: dict[str, str] = {}
    for place in world.PLACES:
        if f" {place.phrase}" in words:
            facts["place"] = place.name
            words = words.replace(f" {place.phrase}", "")
    for time in world.TIMES:
        if f" {time.phrase}" in words:
            facts["time"] = time.name
            words = words.replace(f" {time.phrase}", "")
    found = [(match.end(), match.end() - match.start(), noun) for pattern, noun in noun_patterns() for match in pattern.finditer(words)]
    if found:  # the last noun is the head: an orange apple
        end, length, facts["noun"] = max(found)
        words = words[: end - length] + words[end:]
    rest = words.split()
    counts = {word: str(number) for number, word in world.COUNT_WORDS.items() if number > 1}
    for word in rest:
        if word in world.COLOURS:
            facts["colour"] = word
        elif word in counts:
            facts["count"] = counts[word]
        elif word not in ("a", "an", "some"):
            return None
    return facts if "noun" in facts else None


@cache
def _sentences() -> dict[str, str]:
    """Fixed sentences of mini: plain words -> written."""
    tables = (*topics.TOPICS.values(), *topics.FEELINGS.values(), *(answers for _, answers in topics.MANNERS), topics.SORRY)
    return {plain(text): text for table in tables for text in table}


@cache
def _refusals() -> frozenset[str]:
    """What mini cannot do, in plain words."""
    return frozenset(plain(task) for task in topics.REFUSALS)


def _facts(kind: str, words: str, fixed: dict[str, str]) -> dict[str, str] | None:
    """Facts of a matched phrasing; None if its slot makes no sense."""
    if kind == "draw":
        return read_scene(words)
    if kind == "play":
        return {name: value for name, value in music.facts(words).items() if name in ("genre", "mood", "lead", "tempo", "drums")} or None
    if kind in ("topic", "poem"):
        return {"topic": words} if words in topics.TOPICS else None
    if kind == "feeling":
        return {"feeling": words} if words in topics.FEELINGS else None
    if kind == "refuse":
        return {} if words in _refusals() else None
    if kind == "say":
        return {"quote": _sentences().get(words, words[:1].upper() + words[1:] + ".")}
    return dict(fixed)


def _bare(text: str) -> Iterator[str]:
    """The sentence, then the sentence without the small words that _varied() adds."""
    yield text
    starts = [prefix + " " for prefix in PREFIXES if text.startswith(prefix + " ")] + [""]
    ends = [" " + suffix for suffix in SUFFIXES if text.endswith(" " + suffix)] + [""]
    for start in starts:
        for end in ends:
            yield text[len(start) : len(text) - len(end)]


def understand(text: str) -> SpokenItem:
    """The meaning of plain words: the inverse of the writers above; kind "other" for anything else."""
    if text in _sentences():
        return SpokenItem(text, "reply", {"says": "topic"}, _sentences()[text])
    for words in _bare(text):
        for pattern, kind, fixed in _readers():
            match = pattern.match(words)
            if match is None:
                continue
            slot = next(iter(match.groupdict().values()), "")
            if kind == "reply":
                says = "music" if words.startswith("i hear") or music.facts(slot).get("mood") or music.facts(slot).get("tempo") else "scene"
                facts = _facts("play" if says == "music" else "draw", slot, fixed)
                facts = None if facts is None else {"says": says, **facts}
            else:
                facts = _facts(kind, slot, fixed)
            if facts is not None:
                return SpokenItem(text, kind, facts, words[:1].upper() + words[1:] + ".")
    return SpokenItem(text, "other", {}, text[:1].upper() + text[1:] + ".")
