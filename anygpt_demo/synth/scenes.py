"""Scenes of the small world: what is in a picture and how people would describe or ask for it. Torch-free, no drawing."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from anygpt_demo.synth import holdout
from anygpt_demo.synth.world import COLOURS, NOUNS, PLACES, RELATION_PHRASES, RELATIONS, STYLES, TIMES, mention, natives, noun_index

COLOURLESS = frozenset({"pencil sketch", "black and white", "vintage photo"})  # styles that hide an object's colour
SLOTS = 3  # instances of an ordinary scene, in order of mention (copies: left to right)
NATIVE_SHARE = 0.3  # share of nouns drawn from those that live at the scene's place
STYLE_WEIGHTS = (3, 1, 1, 1, 1, 1, 1, 1)
CLASS_SCALE = {"small": 0.93, "medium": 1.0, "large": 1.08}


@dataclass(frozen=True)
class Box:
    """Where one instance stands, in shares of the picture's side."""

    x: float  # centre, 0 left .. 1 right
    y: float  # centre, 0 top .. 1 bottom
    size: float  # longer side of the glyph
    mirrored: bool = False


@dataclass(frozen=True)
class Thing:
    """A noun of the scene with its copies."""

    noun: str
    boxes: tuple[Box, ...]  # one per copy, left to right
    colour: str = ""
    size: str = ""

    @property
    def count(self) -> int:
        """Number of copies."""
        return len(self.boxes)

    @property
    def box(self) -> Box:
        """The first (or only) instance."""
        return self.boxes[0]

    def phrase(self) -> str:
        """'two red cars'."""
        return mention(NOUNS[noun_index(self.noun)], self.count, self.colour, self.size)


@dataclass(frozen=True)
class Scene:
    """Everything that a picture shows. Equal scenes are drawn as equal pictures."""

    things: tuple[Thing, ...]  # in order of mention
    relation: str  # of the first to the second thing, one of RELATIONS; "" for one thing or a crowd
    place: str
    time: str
    style: str
    horizon: float  # share of the side above the ground
    seed: int  # of clouds, grain and strokes
    crowded: bool = False

    def instances(self) -> list[tuple[Thing, Box]]:
        """All instances in order of mention."""
        return [(thing, box) for thing in self.things for box in thing.boxes]

    def slots(self) -> list[tuple[Thing, Box]]:
        """All instances in the order of the picture tokenizer's slots, which a picture alone must determine.

        It is the order of mention, except that two things side by side go from left to right (a caption may name the
        right one first). Above or behind: the upper one first; what is in the background comes last.
        """
        things = self.things
        if self.relation in ("left of", "right of", "next to"):
            things = (*sorted(things[:2], key=lambda thing: thing.box.x), *things[2:])
        return [(thing, box) for thing in things for box in thing.boxes]


def _inside(x: float, y: float, size: float, rng: random.Random) -> Box:
    """A box moved so that it lies inside the picture."""
    half = size / 2
    return Box(min(max(x, half), 1 - half), min(max(y, half), 1 - half), size, rng.random() < 0.5)


def _nouns(rng: random.Random, place: str, count: int) -> list[str]:
    """Different nouns that training may show at a place."""
    found: list[str] = []
    home = natives(place)
    while len(found) < count:
        number = rng.choice(home) if rng.random() < NATIVE_SHARE else rng.randrange(len(NOUNS))
        noun = NOUNS[number].name
        if noun not in found and holdout.picture_allowed(noun, place):
            found.append(noun)
    return found


def _colour(rng: random.Random, noun: str) -> str:
    """A colour for a noun that may have one, in 40 % of the cases."""
    return rng.choice(COLOURS) if NOUNS[noun_index(noun)].tintable and rng.random() < 0.4 else ""


def _scale(noun: str) -> float:
    """Drawn size of a noun relative to the average."""
    return CLASS_SCALE[NOUNS[noun_index(noun)].size]


def _one(rng: random.Random, noun: str, horizon: float) -> tuple[Thing, ...]:
    """One noun, one to three copies."""
    countable = NOUNS[noun_index(noun)].article != "some"
    count = rng.choice((1, 1, 1, 2, 3)) if countable else 1
    size = rng.choice(("", "", "small", "large")) if count == 1 else ""
    low, high = {"": (0.36, 0.46), "small": (0.23, 0.28), "large": (0.54, 0.62)}[size]
    side = {1: rng.uniform(low, high), 2: 0.34, 3: 0.27}[count]
    if not size:
        side *= _scale(noun)
    boxes = [
        _inside((k + 1) / (count + 1) + rng.uniform(-0.16, 0.16) / count**2, horizon + 0.07 + rng.uniform(-0.05, 0.08), side, rng)
        for k in range(count)
    ]
    return (Thing(noun, tuple(boxes), _colour(rng, noun), size),)


def _pair(rng: random.Random, nouns: list[str], relation: str, horizon: float) -> tuple[Thing, ...]:
    """Two nouns in a relation; a third one may stand in the background."""

    def shake() -> float:
        return rng.uniform(-0.04, 0.04)

    sides = [0.34 * _scale(noun) for noun in nouns[:2]]
    level = horizon + 0.1
    if relation == "above":
        places = [(0.5 + shake() * 2, 0.24 + shake()), (0.5 + shake() * 2, 0.74 + shake())]
    elif relation == "behind":
        shift = rng.choice((-0.13, 0.13))
        places = [(0.5 + shift + shake(), level - 0.14), (0.5 - shift + shake(), level + 0.12 + shake())]
    else:
        left, right = (0.32, 0.68) if relation == "next to" else (0.26, 0.74)
        swapped = relation == "right of"
        places = [(left + shake(), level + shake()), (right + shake(), level + shake())]
        places = places[::-1] if swapped else places
    boxes = [_inside(x, y, side, rng) for (x, y), side in zip(places, sides, strict=True)]
    things = [Thing(noun, (box,), _colour(rng, noun)) for noun, box in zip(nouns, boxes, strict=False)]
    if len(nouns) == SLOTS:
        x = rng.choice((0.15, 0.85)) if relation != "above" else rng.choice((0.16, 0.84))
        things.append(Thing(nouns[2], (_inside(x + shake() / 2, 0.22 + shake(), 0.23, rng),), _colour(rng, nouns[2])))
    return tuple(things)


def _group(rng: random.Random, nouns: list[str], relation: str, horizon: float) -> tuple[Thing, ...]:
    """Two copies of the first noun beside one of the second."""
    xs = [0.5, 0.82, 0.18] if relation == "right of" else [0.18, 0.5, 0.82]
    boxes = [_inside(x + rng.uniform(-0.03, 0.03), horizon + 0.1 + rng.uniform(-0.04, 0.04), 0.28, rng) for x in xs]
    return (Thing(nouns[0], (boxes[0], boxes[1]), _colour(rng, nouns[0])), Thing(nouns[1], (boxes[2],), _colour(rng, nouns[1])))


def _arrange(rng: random.Random, nouns: list[str], horizon: float) -> tuple[tuple[Thing, ...], str]:
    """Ordinary scenes: the things and the relation of the first to the second."""
    if len(nouns) == 1:
        return _one(rng, nouns[0], horizon), ""
    relation = rng.choice(RELATIONS)
    countable = NOUNS[noun_index(nouns[0])].article != "some"
    if len(nouns) == 2 and countable and relation in ("left of", "right of", "next to") and rng.random() < 0.15:
        return _group(rng, nouns, relation, horizon), relation
    return _pair(rng, nouns, relation, horizon), relation


def _crowd(rng: random.Random, place: str) -> tuple[Thing, ...]:
    """Four to eight things scattered on a 3 x 3 grid: many labels per picture, for training the encoder only."""
    cells = [(column, row) for row in range(3) for column in range(3)]
    rng.shuffle(cells)
    nouns = _nouns(rng, place, rng.choice((4, 6, 8)))
    things = []
    for noun, (column, row) in zip(nouns, cells, strict=False):
        box = _inside(
            (column + 0.5) / 3 + rng.uniform(-0.06, 0.06), (row + 0.5) / 3 + rng.uniform(-0.06, 0.06), rng.uniform(0.21, 0.44), rng
        )
        things.append(Thing(noun, (box,), _colour(rng, noun)))
    return tuple(things)


def _backdrop(rng: random.Random, place: str | None, time: str | None, horizon: float | None) -> tuple[str, str, float]:
    """Place, time and horizon, drawn where they are not given."""
    return (
        place or rng.choice(PLACES).name,
        time or rng.choice(TIMES).name,
        rng.uniform(0.52, 0.64) if horizon is None else horizon,
    )


def sample_scene(
    rng: random.Random,
    crowded: bool = False,
    heldout: bool = False,
    *,
    place: str | None = None,
    time: str | None = None,
    horizon: float | None = None,
    kinds: tuple[float, float, float] = (0.45, 0.4, 0.15),
) -> Scene:
    """A random scene. heldout: its first thing and its place are a pair that training never shows.

    kinds: shares of scenes with one, two and three different nouns.
    """
    if heldout:
        noun, place = rng.choice(sorted(holdout.PICTURE_PAIRS))
    place, time, horizon = _backdrop(rng, place, time, horizon)
    styles = [(style.name, weight) for style, weight in zip(STYLES, STYLE_WEIGHTS, strict=True) if holdout.style_allowed(style.name, place)]
    style = rng.choices([name for name, _ in styles], [weight for _, weight in styles])[0]
    seed = rng.randrange(1 << 30)
    different = rng.choices((1, 2, 3), kinds)[0]
    nouns = _nouns(rng, place, different)
    if heldout and noun not in nouns:
        nouns[0] = noun
    things, relation = (_crowd(rng, place), "") if crowded else _arrange(rng, nouns, horizon)
    if style in COLOURLESS:
        things = tuple(replace(thing, colour="") for thing in things)
    return Scene(things, relation, place, time, style, horizon, seed, crowded)


def with_changes(scene: Scene, **changes: str) -> Scene:
    """The same scene with another place, time or style (for 'now at night')."""
    return replace(scene, **changes)  # type: ignore[arg-type]


# --- words ---

CAPTIONS: tuple[str, ...] = (
    "{style} {core} {place} {time}",
    "{core} {place} {time}",
    "{core} {time} {place}",
    "{time}, {core} {place}",
    "{place} there {is} {core}, {time}",
    "this picture shows {core} {place} {time}",
    "you can see {core} {place} {time}",
    "{core}, {place}, {time}",
    "here is {style} {core} {place} {time}",
    "the picture shows {style} {core} {place}, {time}",
    "there {is} {core} {place} {time}",
    "I see {core} {place}, {time}",
    "it is {style} {core} {place} {time}",
    "we look at {core} {place} {time}",
)
REQUESTS: tuple[str, ...] = (
    "draw {scene}",
    "draw me {scene}",
    "please draw {scene}",
    "paint {scene}",
    "paint me {scene}",
    "can you draw {scene}?",
    "could you paint {scene} for me?",
    "show me {scene}",
    "make a picture of {bare}",
    "I would like a picture of {bare}",
    "create an image of {bare}",
    "generate an image of {bare}",
    "please make me an image of {bare}",
    "I want to see {scene}",
    "give me a picture of {bare}",
    "let me see {scene}",
    "imagine {scene} and draw it",
    "what would {scene} look like?",
)


def core(scene: Scene, rng: random.Random) -> str:
    """The things of a scene in order of mention: 'two dogs next to a red car, with a bird in the background'."""
    phrases = [thing.phrase() for thing in scene.things]
    if not scene.relation:
        return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    text = f"{phrases[0]} {rng.choice(RELATION_PHRASES[scene.relation])} {phrases[1]}"
    if len(phrases) > 2:
        text += rng.choice((f", with {phrases[2]} in the background", f" and {phrases[2]} in the background"))
    return text


def _style(scene: Scene, rng: random.Random) -> str:
    """'a watercolor of'."""
    return rng.choice(next(style for style in STYLES if style.name == scene.style).phrases)


def _parts(scene: Scene, rng: random.Random) -> dict[str, str]:
    """The phrases that templates are filled with."""
    several = scene.things[0].count > 1 or scene.things[0].phrase().startswith("some ") and scene.things[0].noun.endswith("s")
    return {
        "core": core(scene, rng),
        "place": next(place for place in PLACES if place.name == scene.place).phrase,
        "time": next(time for time in TIMES if time.name == scene.time).phrase,
        "style": _style(scene, rng),
        "is": "are" if several else "is",
    }


def describe(scene: Scene, rng: random.Random, detail: str | None = None) -> str:
    """A caption. Things are mentioned in the scene's order.

    detail: "short" (things only), "medium" (things and place or time), "full" (all attributes) or "long" (all, with
    sentences about place and sky); None draws one.
    """
    detail = detail or rng.choices(("short", "medium", "full", "long"), (0.12, 0.18, 0.5, 0.2))[0]
    parts = _parts(scene, rng)
    styled = scene.style != "plain"
    if detail == "short":
        return parts["core"]
    if detail == "medium":
        text = f"{parts['core']} {parts[rng.choice(('place', 'time'))]}"
        return f"{parts['style']} {text}" if styled and rng.random() < 0.5 else text
    choices = [text for text in CAPTIONS if "{style}" in text] if styled else list(CAPTIONS)
    text = rng.choice(choices).format(**parts)
    if detail == "long":
        place = next(place for place in PLACES if place.name == scene.place).words
        time = next(time for time in TIMES if time.name == scene.time).words
        sentences = [place, time] if rng.random() < 0.5 else [time, place]
        return f"{text[0].upper()}{text[1:]}. {' '.join(sentences)}"
    return text


def request(scene: Scene, rng: random.Random, detail: str | None = None) -> str:
    """A person's wish for this picture: 'paint me a watercolor of two dogs at night'. detail: as in describe, without "long"."""
    detail = detail or rng.choices(("short", "medium", "full"), (0.2, 0.3, 0.5))[0]
    parts = _parts(scene, rng)
    bare = parts["core"]
    if detail == "medium":
        bare += " " + parts[rng.choice(("place", "time"))]
    elif detail == "full":
        bare += f" {parts['place']} {parts['time']}"
    styled = scene.style != "plain" and (detail == "full" or rng.random() < 0.5)
    if styled:
        sentence = rng.choice([text for text in REQUESTS if "{scene}" in text])
        return sentence.format(scene=f"{parts['style']} {bare}")
    return rng.choice(REQUESTS).format(scene=bare, bare=bare)
