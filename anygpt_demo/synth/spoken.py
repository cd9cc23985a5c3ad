"""Sentences that people and mini speak aloud in their chats: lower-case words without digits or punctuation.

`spoken_items` yields them with their meaning, so that a spoken chat can be built around a clip whose words are known.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

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
    kind, table = rng.choice((("caption", phrasings.ASK_CAPTION), ("caption", phrasings.ASK_CAPTION), ("object", phrasings.ASK_OBJECT), ("place", phrasings.ASK_PLACE), ("time", phrasings.ASK_TIME)))
    text = rng.choice([form for form in asked(table) if "{" not in form]) if rng.random() < 0.8 or "{noun}" not in "".join(table) else f"Where is the {noun.name}?"
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
