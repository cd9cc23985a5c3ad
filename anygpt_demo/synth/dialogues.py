"""Chats over mini's world: the paper's AnyInstruct (section 4.2, appendix D), written by a grammar.

A chat is a list of turns; pictures, music and speech stand in it as facts (a scene, a piece, words) and are rendered
or encoded later. Where facts come from is a `Source`: freely drawn ones here, encoded ones when a model is trained.
`PATTERNS` names every kind of chat, by what goes in and what comes out (t text, s speech, p picture, m music).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, Protocol

from anygpt_demo.synth import everyday, knowledge, more_topics, music, phrasings, scenes, topics, world
from anygpt_demo.synth.music import Piece
from anygpt_demo.synth.phrasings import asked, typed
from anygpt_demo.synth.poems import poem, scene_poem
from anygpt_demo.synth.scenes import Scene
from anygpt_demo.synth.spoken import SpokenItem, plain, spoken_items, spoken_sentences

__all__ = [
    "PATTERNS",
    "Dialogue",
    "FreeSource",
    "PicturePart",
    "Source",
    "SpeechPart",
    "Turn",
    "Words",
    "dialogues",
    "spoken_sentences",
    "write",
]

Want = Mapping[str, str]  # facts that a scene or a piece must have
CARELESS = 0.15  # share of chats in writing in which the person types carelessly


@dataclass(frozen=True)
class Words:
    """Text, typed or written."""

    text: str


@dataclass(frozen=True)
class PicturePart:
    """A picture, to be drawn from its scene. number: row of an encoded set, or -1."""

    scene: Scene
    number: int = -1


@dataclass(frozen=True)
class MusicPart:
    """A piece of music, to be played from its facts. number: row of an encoded set, or -1."""

    piece: Piece
    number: int = -1


@dataclass(frozen=True)
class SpeechPart:
    """A spoken sentence. item: words and meaning; number: clip of an encoded set, or -1."""

    item: SpokenItem
    number: int = -1


Part = Words | PicturePart | MusicPart | SpeechPart


@dataclass(frozen=True)
class Turn:
    """One side's turn. heard: the words of the person's speech, the first step of an answer to it."""

    role: Literal["human", "mmgpt"]
    parts: tuple[Part, ...]
    heard: str | None = None


@dataclass(frozen=True)
class Dialogue:
    """A chat of one pattern."""

    pattern: str
    turns: tuple[Turn, ...]


class NotFound(Exception):
    """A source has nothing with the wanted facts; the writer tries another chat."""


class Source(Protocol):
    """Where media facts come from."""

    heldout: bool  # held-out phrasings and facts instead of those of training

    def picture(self, rng: random.Random, want: Want) -> PicturePart:
        """A picture with these facts (noun, colour, count, place, time, style, mood). Raises NotFound."""
        ...

    def piece(self, rng: random.Random, want: Want) -> MusicPart:
        """A piece with these facts (genre, mood, lead, tempo, drums, mode). Raises NotFound."""
        ...

    def speech(self, rng: random.Random, kinds: Sequence[str], text: str | None = None, *, mine: bool = False) -> SpeechPart:
        """A spoken sentence of one of these kinds, or just these words. Raises NotFound.

        Kinds are those of SpokenItem, and "words": any words in a row, if the source can make such. mine: as mini says it, if the source
        has a voice for that.
        """
        ...


# --- facts and their words ---

MOOD_OF_TIME: dict[str, tuple[str, ...]] = {  # sky -> moods of music that suit it
    "sunny": ("happy", "playful"), "sunset": ("romantic", "nostalgic"), "night": ("mysterious", "calm"), "cloudy": ("nostalgic", "sad"),
    "foggy": ("mysterious", "sad"), "stormy": ("tense", "dark"), "dawn": ("calm", "romantic"),
}  # fmt: skip
TIMES_OF_MOOD: dict[str, tuple[str, ...]] = {
    "happy": ("sunny",), "playful": ("sunny",), "triumphant": ("sunny", "dawn"), "energetic": ("sunny",), "romantic": ("sunset", "dawn"),
    "nostalgic": ("sunset", "cloudy"), "calm": ("dawn", "night"), "mysterious": ("foggy", "night"), "sad": ("cloudy", "foggy"),
    "tense": ("stormy",), "dark": ("stormy", "night"), "angry": ("stormy",),
}  # fmt: skip


def article(word: str) -> str:
    """'an oboe'."""
    return ("an " if word[0] in "aeiou" else "a ") + word


def place_phrase(name: str) -> str:
    """'on a beach'."""
    return next(place.phrase for place in world.PLACES if place.name == name)


def time_of(name: str) -> world.Time:
    """The time of this name."""
    return next(time for time in world.TIMES if time.name == name)


def style_phrase(name: str) -> str:
    """'a watercolor'."""
    return next(style.phrases[0] for style in world.STYLES if style.name == name).removesuffix(" of")


def things(scene: Scene) -> str:
    """'two dogs next to a red car' in mini's own regular words."""
    phrases = [thing.phrase() for thing in scene.things]
    if not scene.relation:
        return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    text = f"{phrases[0]} {world.RELATION_PHRASES[scene.relation][-1]} {phrases[1]}"
    return text + (f" and {phrases[2]}" if len(phrases) > 2 else "")


def scene_words(scene: Scene) -> str:
    """All facts of a scene, always in the same order: style, things, place, time."""
    style = "" if scene.style == "plain" else style_phrase(scene.style) + " of "
    return f"{style}{things(scene)} {place_phrase(scene.place)} {time_of(scene.time).phrase}"


def piece_words(piece: Piece) -> str:
    """All facts of a piece, always in the same order."""
    drums = "with drums" if piece.drums else "without drums"
    return f"{article(piece.tempo)} {piece.mood} {piece.genre} piece in {piece.mode} with {article(piece.lead)} {drums}"


def capital(text: str) -> str:
    """First letter large."""
    return text[:1].upper() + text[1:]


# --- a source that draws facts freely ---


def scene_facts(scene: Scene) -> dict[str, str]:
    """The facts by which scenes are found: those of the first thing, and place, time, style."""
    first = scene.things[0]
    facts = {"noun": first.noun, "count": str(first.count), "place": scene.place, "time": scene.time, "style": scene.style}
    facts["things"] = str(len(scene.things))
    return facts | ({"colour": first.colour} if first.colour else {})


def piece_facts(piece: Piece) -> dict[str, str]:
    """The facts by which pieces are found."""
    return {
        "genre": piece.genre, "mood": piece.mood, "lead": piece.lead, "tempo": piece.tempo, "drums": "yes" if piece.drums else "no", "mode": piece.mode,
    }  # fmt: skip


def spoken_kinds(item: SpokenItem) -> tuple[str, ...]:
    """The kinds under which a spoken sentence is found: its own, "any", and "see" / "hear" for mini's spoken captions."""
    if item.text.startswith("i see ") and item.facts.get("says") == "scene":
        return item.kind, "any", "see"
    if item.text.startswith("i hear ") and item.facts.get("says") == "music":
        return item.kind, "any", "hear"
    return item.kind, "any"


class FreeSource:
    """Draws scenes, pieces and sentences freely; nothing is encoded."""

    def __init__(self, seed: int = 0, heldout: bool = False, pool: int = 4000) -> None:
        rng = random.Random(f"source {seed} {heldout}")
        self.heldout = heldout
        self.scenes = [scenes.sample_scene(rng, heldout=heldout and rng.random() < 0.3) for _ in range(pool)]
        self.pieces = [music.sample_piece(rng, heldout=heldout and rng.random() < 0.3) for _ in range(pool)]
        stream = spoken_items(seed)
        self.items: dict[str, list[SpokenItem]] = {}
        for _ in range(pool):
            item = next(stream)
            for kind in spoken_kinds(item):
                self.items.setdefault(kind, []).append(item)

    def picture(self, rng: random.Random, want: Want) -> PicturePart:
        """See Source.picture()."""
        for _ in range(4000 if want else 1):
            scene = rng.choice(self.scenes)
            if want.items() <= scene_facts(scene).items():
                return PicturePart(scene)
        raise NotFound

    def piece(self, rng: random.Random, want: Want) -> MusicPart:
        """See Source.piece()."""
        for _ in range(4000 if want else 1):
            piece = rng.choice(self.pieces)
            if want.items() <= piece_facts(piece).items():
                return MusicPart(piece)
        raise NotFound

    def speech(self, rng: random.Random, kinds: Sequence[str], text: str | None = None, *, mine: bool = False) -> SpeechPart:
        """See Source.speech()."""
        if text is not None:
            return SpeechPart(SpokenItem(plain(text), "reply", {}, text))
        kind = rng.choice(kinds)
        if kind not in self.items:  # "words": sentences that nobody wrote come from encoded clips only
            raise NotFound
        return SpeechPart(rng.choice(self.items[kind]))


# --- the chats ---


def trained(draw: Callable[[], str]) -> str:
    """Draw a request until it does not begin like a held-out phrasing."""
    while True:
        text = draw()
        if not any(text.lower().startswith(opening) for opening in held_out_openings()):
            return text


@cache
def held_out_openings() -> tuple[str, ...]:
    """Lower-case beginnings, up to the slot, of the held-out phrasings that ask for something."""
    return tuple(form.partition("{")[0].lower() for form in phrasings.PHRASINGS if len(form.partition("{")[0].split()) >= 3)


@dataclass(frozen=True)
class Writer:
    """Writes chats of every pattern with one random stream."""

    rng: random.Random
    source: Source

    def pick(self, table: Sequence[str], **slots: str) -> str:
        """One phrasing with its slots filled, first letter large."""
        return capital(self.rng.choice(typed(table, self.source.heldout)).format(**slots))

    def picture(self, **want: str) -> PicturePart:
        return self.source.picture(self.rng, want)

    def piece(self, **want: str) -> MusicPart:
        return self.source.piece(self.rng, want)

    def voice(self, *kinds: str) -> SpeechPart:
        return self.source.speech(self.rng, kinds)

    def reply(self, *kinds: str, text: str | None = None) -> SpeechPart:
        return self.source.speech(self.rng, kinds, text, mine=True)

    def ask_picture(self, scene: Scene) -> str:
        """A request for a picture: in mini's regular words or in freer ones, often with other words for the place."""
        text = self._ask_picture(scene)
        if self.source.heldout or self.rng.random() < 0.5:
            return text
        return text.replace(place_phrase(scene.place), self.rng.choice(phrasings.PLACE_WORDS[scene.place]))

    def _ask_picture(self, scene: Scene) -> str:
        share = self.rng.random()
        if share < 0.35 and not self.source.heldout:
            text = trained(lambda: scenes.request(scene, self.rng))
            return capital(text if text.endswith("?") else text + ".")
        if scene.style != "plain" and share < 0.7:
            return self.pick(phrasings.ASK_STYLED, styled=scene_words(scene))
        words = self.rng.choice(
            (f"{things(scene)} {place_phrase(scene.place)} {time_of(scene.time).phrase}", f"{things(scene)} {place_phrase(scene.place)}")
        )
        return self.pick(phrasings.ASK_PICTURE, scene=scene_words(scene) if scene.style != "plain" else words)

    def ask_music(self, piece: Piece) -> str:
        """A request for music."""
        share = 1.0 if self.source.heldout else self.rng.random()
        if share < 0.4:
            return capital(trained(lambda: music.request(piece, self.rng)))
        if share < 0.65:
            return self.pick(phrasings.ASK_MUSIC, music=music.freely(piece, self.rng))
        drums = "with drums" if piece.drums else "without drums"
        forms = (
            piece_words(piece), f"some {piece.mood} {piece.genre} music", f"{article(piece.tempo)} {piece.genre} piece {drums}",
            f"{article(piece.mood)} {piece.genre} piece with {article(piece.lead)}", f"something {piece.tempo} on the {piece.lead}",
            f"{article(piece.tempo)} {piece.mood} piece {drums}",
        )  # fmt: skip
        return self.pick(phrasings.ASK_MUSIC, music=self.rng.choice(forms))

    def turns(self, pattern: str, *turns: Turn) -> Dialogue:
        if pattern.startswith(("t-t", "t-p", "t-m")) and not self.source.heldout and self.rng.random() < CARELESS:
            turns = tuple(carelessly(turn) if turn.role == "human" else turn for turn in turns)
        return Dialogue(pattern, turns)


def carelessly(turn: Turn) -> Turn:
    """As many people type: small letters and no mark at the end."""
    return replace(turn, parts=tuple(Words(part.text.lower().rstrip(".?!")) if isinstance(part, Words) else part for part in turn.parts))


def human(*parts: Part | str) -> Turn:
    """A person's turn."""
    return Turn("human", tuple(Words(part) if isinstance(part, str) else part for part in parts))


def mini(*parts: Part | str, heard: str | None = None) -> Turn:
    """mini's turn."""
    return Turn("mmgpt", tuple(Words(part) if isinstance(part, str) else part for part in parts), heard)


def heard_turns(speech: SpeechPart, reply: Turn, *before: Part) -> tuple[Turn, Turn]:
    """A spoken turn (with a picture or music before it) and its answer, which begins with what was heard."""
    return human(*before, speech), replace(reply, heard=speech.item.text)


def here_is_picture(picture: PicturePart) -> Turn:
    return mini(f"Here is {scene_words(picture.scene)}.", picture)


def here_is_music(piece: MusicPart) -> Turn:
    return mini(f"Here is {piece_words(piece.piece)}.", piece)


def text_to_picture(w: Writer) -> Dialogue:
    picture = w.picture()
    return w.turns("t-p", human(w.ask_picture(picture.scene)), here_is_picture(picture))


def text_to_picture_steps(w: Writer) -> Dialogue:
    picture = w.picture()
    scene = picture.scene
    question = w.ask_picture(scene)
    steps = (
        f"First I choose the place: {place_phrase(scene.place)}. Then the sky: {time_of(scene.time).phrase}. Last I add {things(scene)}."
    )
    return w.turns(
        "t-p steps", human(w.pick(phrasings.ASK_STEPS, question=question)), mini(f"{steps} Here is {scene_words(scene)}.", picture)
    )


def picture_caption(w: Writer) -> Dialogue:
    picture = w.picture()
    return w.turns("p-t", human(picture, w.pick(phrasings.ASK_CAPTION)), mini(f"I see {scene_words(picture.scene)}."))


def picture_answers(w: Writer, scene: Scene) -> list[tuple[str, str]]:
    """Questions about a scene and their true answers."""
    first = scene.things[0]
    noun = world.NOUNS[world.noun_index(first.noun)]
    time = time_of(scene.time)
    found = [
        (w.pick(phrasings.ASK_OBJECT), f"I see {things(scene)}."),
        (w.pick([form for form in phrasings.ASK_PLACE if "{" not in form]), f"It is {place_phrase(scene.place)}."),
        (w.pick(phrasings.ASK_TIME), f"It is {time.phrase}. {time.words}"),
        (w.pick(phrasings.ASK_STYLE), "It is a plain drawing." if scene.style == "plain" else f"It is {style_phrase(scene.style)}."),
        (w.pick(phrasings.ASK_IS_THERE, thing=world.mention(noun)), f"Yes, I see {things(scene)}."),
    ]
    other = w.rng.choice(world.NOUNS)
    if all(other.name != thing.noun for thing in scene.things):
        found.append((w.pick(phrasings.ASK_IS_THERE, thing=world.mention(other)), f"No, I see {things(scene)}."))
    if noun.article != "some":
        found.append(
            (w.pick(phrasings.ASK_COUNT, plural=noun.plural), f"I see {first.phrase()}." if first.count > 1 else f"I see one {noun.name}.")
        )
    if first.colour and first.count == 1:
        found.append((w.pick(phrasings.ASK_COLOUR, noun=noun.name), f"The {noun.name} is {first.colour}."))
    return found


def picture_questions(w: Writer) -> Dialogue:
    picture = w.picture()
    rounds = w.rng.sample(picture_answers(w, picture.scene), w.rng.choice((1, 2, 3)))
    turns: list[Turn] = []
    for number, (question, answer) in enumerate(rounds):
        turns += [human(picture, question) if not number else human(question), mini(answer)]
    return w.turns("p-t questions", *turns)


def text_to_music(w: Writer) -> Dialogue:
    piece = w.piece()
    return w.turns("t-m", human(w.ask_music(piece.piece)), here_is_music(piece))


def music_caption(w: Writer) -> Dialogue:
    piece = w.piece()
    return w.turns("m-t", human(piece, w.pick(phrasings.ASK_MUSIC_CAPTION)), mini(f"I hear {piece_words(piece.piece)}."))


def music_answers(w: Writer, piece: Piece) -> list[tuple[str, str]]:
    """Questions about a piece and their true answers."""
    return [
        (w.pick(phrasings.ASK_INSTRUMENT), f"I hear {article(piece.lead)}."),
        (w.pick(phrasings.ASK_TEMPO), f"The tempo is {piece.tempo}."),
        (w.pick(phrasings.ASK_DRUMS), "Yes, I hear drums." if piece.drums else "No, there are no drums."),
        (w.pick(phrasings.ASK_GENRE), f"It is {piece.genre}."),
        (w.pick(phrasings.ASK_MOOD), f"It feels {piece.mood}."),
    ]


def music_questions(w: Writer) -> Dialogue:
    piece = w.piece()
    turns: list[Turn] = []
    for number, (question, answer) in enumerate(w.rng.sample(music_answers(w, piece.piece), w.rng.choice((1, 2, 2)))):
        turns += [human(piece, question) if not number else human(question), mini(answer)]
    return w.turns("m-t questions", *turns)


def music_to_music(w: Writer) -> Dialogue:
    first = w.piece()
    second = w.piece(genre=first.piece.genre, mood=first.piece.mood)
    return w.turns(
        "m-m",
        human(first, w.pick(phrasings.ASK_SIMILAR)),
        mini(f"I hear {piece_words(first.piece)}. Here is {piece_words(second.piece)}.", second),
    )


def picture_to_music(w: Writer) -> Dialogue:
    picture = w.picture()
    mood = w.rng.choice(MOOD_OF_TIME[picture.scene.time])
    return w.turns("p-m", human(picture, w.pick(phrasings.PICTURE_TO_MUSIC)), _scene_music(picture, mood, w.piece(mood=mood)))


def _scene_music(picture: PicturePart, mood: str, piece: MusicPart) -> Turn:
    return mini(f"I see {scene_words(picture.scene)}. It feels {mood}. Here is {piece_words(piece.piece)}.", piece)


def _music_scene(piece: MusicPart, picture: PicturePart) -> Turn:
    return mini(f"I hear {piece_words(piece.piece)}. It feels {piece.piece.mood}. Here is {scene_words(picture.scene)}.", picture)


def music_to_picture(w: Writer) -> Dialogue:
    piece = w.piece()
    picture = w.picture(time=w.rng.choice(TIMES_OF_MOOD[piece.piece.mood]))
    return w.turns("m-p", human(piece, w.pick(phrasings.MUSIC_TO_PICTURE)), _music_scene(piece, picture))


def say(w: Writer) -> Dialogue:
    speech = w.reply("draw", "play", "topic", "reply", "reply", "reply", "say", "manners", "words", "words", "words", "words")
    quote = w.rng.choice((speech.item.text, speech.item.text, capital(speech.item.text)))
    return w.turns("t-s", human(w.pick(phrasings.ASK_SAY, quote=quote)), mini(quote + ".", speech))  # as it was typed


def transcribe(w: Writer) -> Dialogue:
    speech = w.voice("any", "any", "words")
    return w.turns("s-t", human(speech, w.pick(phrasings.ASK_TRANSCRIPT)), mini(speech.item.text))


def say_topic(w: Writer) -> Dialogue:
    topic, sentence = _topic(w)
    speech = w.reply(text=sentence)
    question = w.rng.choice(asked_of_topic(w.source.heldout)).format(topic)
    return w.turns("t-s answer", human(w.pick(phrasings.ASK_SPOKEN_REPLY, question=question)), mini(sentence, speech))


def _topic(w: Writer) -> tuple[str, str]:
    """A topic that is spoken about, and a sentence that clips speak."""
    topic = w.rng.choice(tuple(topics.TOPICS))
    return topic, w.rng.choice(topics.TOPICS[topic])


def answer_of(w: Writer, item: SpokenItem) -> str:
    """What mini says to a spoken sentence of small talk."""
    if item.kind == "topic":
        return w.rng.choice(topics.TOPICS[item.facts["topic"]])
    if item.kind == "manners":
        return w.rng.choice(topics.MANNERS[int(item.facts["row"])][1])
    if item.kind == "feeling":
        return w.rng.choice(topics.FEELINGS[item.facts["feeling"]])
    return w.rng.choice(topics.SORRY)


def speech_to_speech(w: Writer) -> Dialogue:
    speech = w.voice("topic", "topic", "manners", "feeling", "refuse")
    answer = answer_of(w, speech.item)
    return w.turns("s-s", *heard_turns(speech, mini(answer, w.reply(text=answer))))


def speech_to_text(w: Writer) -> Dialogue:
    """A spoken wish for a poem is answered in writing; other spoken words are answered aloud, as the command beside them says."""
    speech = w.voice("poem")
    return w.turns("s-t chat", *heard_turns(speech, mini(poem(speech.item.facts["topic"], w.rng))))


def speech_to_picture(w: Writer) -> Dialogue:
    speech = w.voice("draw")
    return w.turns("s-p", *heard_turns(speech, here_is_picture(w.picture(**speech.item.facts))))


def speech_to_music(w: Writer) -> Dialogue:
    speech = w.voice("play")
    return w.turns("s-m", *heard_turns(speech, here_is_music(w.piece(**speech.item.facts))))


def speech_to_say(w: Writer) -> Dialogue:
    speech = w.voice("say")
    quote = speech.item.facts["quote"]
    return w.turns("s-s say", *heard_turns(speech, mini(quote, w.reply(text=quote))))


def spoken_picture_question(w: Writer) -> Dialogue:
    speech, picture = w.voice("ask picture"), w.picture()
    scene = picture.scene
    answer = {
        "caption": f"I see {scene_words(scene)}.", "object": f"I see {things(scene)}.", "place": f"It is {place_phrase(scene.place)}.",
        "time": f"It is {time_of(scene.time).phrase}. {time_of(scene.time).words}",
    }[speech.item.facts["about"]]  # fmt: skip
    return w.turns("sp-t", *heard_turns(speech, mini(answer), picture))


def spoken_music_question(w: Writer) -> Dialogue:
    speech, piece = w.voice("ask music"), w.piece()
    about = speech.item.facts["about"]
    if about == "similar":
        second = w.piece(genre=piece.piece.genre, mood=piece.piece.mood)
        return w.turns(
            "sm-m", *heard_turns(speech, mini(f"I hear {piece_words(piece.piece)}. Here is {piece_words(second.piece)}.", second), piece)
        )
    facts = piece.piece
    answer = {
        "caption": f"I hear {piece_words(facts)}.", "lead": f"I hear {article(facts.lead)}.", "tempo": f"The tempo is {facts.tempo}.",
        "drums": "Yes, I hear drums." if facts.drums else "No, there are no drums.", "genre": f"It is {facts.genre}.", "mood": f"It feels {facts.mood}.",
    }[about]  # fmt: skip
    return w.turns("sm-t", *heard_turns(speech, mini(answer), piece))


def spoken_picture_to_music(w: Writer) -> Dialogue:
    speech, picture = w.voice("picture to music"), w.picture()
    mood = w.rng.choice(MOOD_OF_TIME[picture.scene.time])
    return w.turns("sp-m", *heard_turns(speech, _scene_music(picture, mood, w.piece(mood=mood)), picture))


def spoken_music_to_picture(w: Writer) -> Dialogue:
    speech, piece = w.voice("music to picture"), w.piece()
    picture = w.picture(time=w.rng.choice(TIMES_OF_MOOD[piece.piece.mood]))
    return w.turns("sm-p", *heard_turns(speech, _music_scene(piece, picture), piece))


def picture_aloud(w: Writer) -> Dialogue:
    speech = w.reply("see")
    facts = {key: value for key, value in speech.item.facts.items() if key != "says"}
    return w.turns("p-s", human(w.picture(**facts), w.pick(phrasings.ASK_SPOKEN_CAPTION)), mini(capital(speech.item.text) + ".", speech))


def music_aloud(w: Writer) -> Dialogue:
    speech = w.reply("hear")
    facts = {key: value for key, value in speech.item.facts.items() if key != "says"}
    return w.turns(
        "m-s", human(w.piece(**facts), w.pick(phrasings.ASK_SPOKEN_MUSIC_CAPTION)), mini(capital(speech.item.text) + ".", speech)
    )


def told_picture(w: Writer) -> Dialogue:
    """Like picture_aloud(), for any picture: no clip has the words."""
    picture = w.picture()
    return w.turns("p-s", human(picture, w.pick(phrasings.ASK_SPOKEN_CAPTION)), _unspoken(f"I see {scene_words(picture.scene)}."))


def told_music(w: Writer) -> Dialogue:
    """Like music_aloud(), for any piece: no clip has the words."""
    piece = w.piece()
    return w.turns("m-s", human(piece, w.pick(phrasings.ASK_SPOKEN_MUSIC_CAPTION)), _unspoken(f"I hear {piece_words(piece.piece)}."))


def _unspoken(text: str) -> Turn:
    return mini(text, SpeechPart(SpokenItem(plain(text), "reply", {}, text)))


def picture_then_music(w: Writer) -> Dialogue:
    picture = w.picture()
    mood = w.rng.choice(MOOD_OF_TIME[picture.scene.time])
    piece = w.piece(mood=mood)
    then = mini(f"It feels {mood}. Here is {piece_words(piece.piece)}.", piece)
    return w.turns(
        "t-p then m", human(w.ask_picture(picture.scene)), here_is_picture(picture), human(w.pick(phrasings.MUSIC_FOR_THAT)), then
    )


def picture_and_music(w: Writer) -> Dialogue:
    """Both in one reply (Figure 12 of the paper)."""
    picture = w.picture()
    mood = w.rng.choice(MOOD_OF_TIME[picture.scene.time])
    piece = w.piece(mood=mood)
    told = (f"Here is {scene_words(picture.scene)}.", picture, f"It feels {mood}. Here is {piece_words(piece.piece)}.", piece)
    return w.turns("t-pm", human(f"{w.ask_picture(picture.scene)} {w.pick(phrasings.AND_MUSIC)}"), mini(*told))


def music_then_picture(w: Writer) -> Dialogue:
    piece = w.piece()
    picture = w.picture(time=w.rng.choice(TIMES_OF_MOOD[piece.piece.mood]))
    then = mini(f"It feels {piece.piece.mood}. Here is {scene_words(picture.scene)}.", picture)
    return w.turns("t-m then p", human(w.ask_music(piece.piece)), here_is_music(piece), human(w.pick(phrasings.PICTURE_FOR_THAT)), then)


def _changed_picture(w: Writer) -> tuple[PicturePart, str, PicturePart]:
    """A picture, the wish that one of its facts were another, and a picture where it is."""
    first = w.picture(things="1")
    scene = first.scene
    change = w.rng.choice(("time", "place", "style", "noun"))
    kept = {
        "time": {"noun": scene.things[0].noun, "place": scene.place},
        "place": {"noun": scene.things[0].noun, "time": scene.time},
        "style": {"noun": scene.things[0].noun, "place": scene.place},
        "noun": {"time": scene.time, "place": scene.place},
    }[change]
    second = w.picture(things="1", **kept)
    new = second.scene
    request = {
        "time": w.pick(phrasings.NOW_TIME, time=time_of(new.time).phrase),
        "place": w.pick(phrasings.NOW_PLACE, place=place_phrase(new.place)),
        "style": w.pick(phrasings.NOW_STYLE, style=style_phrase(new.style)),
        "noun": w.pick(phrasings.NOW_NOUN, thing=things(new)),
    }[change]
    return first, request, second


def same_picture_but(w: Writer) -> Dialogue:
    """'now at night': one fact of the picture that was drawn changes."""
    first, request, second = _changed_picture(w)
    return w.turns("t-p now", human(w.ask_picture(first.scene)), here_is_picture(first), human(request), here_is_picture(second))


def picture_to_picture(w: Writer) -> Dialogue:
    """'now at night' of a picture that the person shows."""
    first, request, second = _changed_picture(w)
    seen = f"I see {scene_words(first.scene)}. Here is {scene_words(second.scene)}."
    return w.turns("p-p", human(first, request), mini(seen, second))


def same_music_but(w: Writer) -> Dialogue:
    """'the same but slower'."""
    first = w.piece()
    if w.rng.random() < 0.5:
        other = {"slow": "fast", "fast": "slow", "medium": w.rng.choice(("slow", "fast"))}[first.piece.tempo]
        second = w.piece(genre=first.piece.genre, mood=first.piece.mood, tempo=other)
        request = w.pick(phrasings.NOW_TEMPO, tempo=w.rng.choice((other, {"slow": "slower", "fast": "faster"}[other])))
    else:
        second = w.piece(genre=first.piece.genre, mood=first.piece.mood)
        request = w.pick(phrasings.NOW_INSTRUMENT, instrument=article(second.piece.lead))
    return w.turns("t-m now", human(w.ask_music(first.piece)), here_is_music(first), human(request), here_is_music(second))


def picture_then_question(w: Writer) -> Dialogue:
    picture = w.picture()
    question, answer = w.rng.choice(
        (*picture_answers(w, picture.scene), (w.pick(phrasings.WHAT_WAS_THAT), f"It is {scene_words(picture.scene)}."))
    )
    return w.turns("t-p then t", human(w.ask_picture(picture.scene)), here_is_picture(picture), human(question), mini(answer))


def music_then_question(w: Writer) -> Dialogue:
    piece = w.piece()
    asked_for = (w.pick(phrasings.WHAT_INSTRUMENT_WAS_THAT), f"It is {article(piece.piece.lead)}.")
    question, answer = w.rng.choice((*music_answers(w, piece.piece), asked_for))
    return w.turns("t-m then t", human(w.ask_music(piece.piece)), here_is_music(piece), human(question), mini(answer))


def small_talk(w: Writer) -> Dialogue:
    turns: list[Turn] = []
    for _ in range(w.rng.choice((1, 2, 3))):
        turns += _talk(w)
    return w.turns("t-t", *turns)


@cache
def written_topics() -> dict[str, tuple[str, ...]]:
    """Topic -> what mini writes about it; more than it speaks."""
    return more_topics.written_topics()


@cache
def feelings() -> dict[str, tuple[str, ...]]:
    """Feeling -> what mini writes to a person who has it; more than it speaks."""
    names = (*topics.FEELINGS, *(name for name in everyday.COMFORT if name not in topics.FEELINGS))
    return {name: (*topics.FEELINGS.get(name, ()), *everyday.COMFORT.get(name, ())) for name in names}


@cache
def known_facts() -> tuple[tuple[tuple[str, ...], str], ...]:
    """(wordings of a question, answer) of general knowledge."""
    return knowledge.questions()


def _talk(w: Writer) -> list[Turn]:
    """One or two exchanges of small talk."""
    share = w.rng.random()
    if share < 0.6:
        return _talk_of_topic(w)
    if share < 0.77:
        questions, answers = w.rng.choice(topics.MANNERS)
        return [human(w.rng.choice(questions)), mini(w.rng.choice(answers))]
    if share < 0.9:
        feeling = w.rng.choice(tuple(feelings()))
        return [human(w.pick(phrasings.FEEL, feeling=feeling)), mini(w.rng.choice(feelings()[feeling]))]
    return [human(w.pick(phrasings.REFUSE, task=w.rng.choice(topics.REFUSALS))), mini(w.rng.choice(topics.SORRY))]


def _talk_of_topic(w: Writer) -> list[Turn]:
    """A question about a topic and one or two sentences; at times the person wants to know more."""
    topic = w.rng.choice(tuple(written_topics()))
    first, second, third = w.rng.sample(written_topics()[topic], 3)
    form = w.rng.choice((*asked_of_topic(w.source.heldout), *(() if w.source.heldout else everyday.LIKES)))
    lead = w.rng.choice(_leads(form))
    turns = [human(form.format(topic)), mini(lead + (f"{first} {second}" if w.rng.random() < 0.3 else first))]
    return [*turns, human(w.pick(everyday.ASK_MORE)), mini(third)] if w.rng.random() < 0.25 else turns


def asked_of_topic(heldout: bool) -> tuple[str, ...]:
    """How a person asks about a topic in writing."""
    forms = asked(topics.ASK_TOPIC, heldout)
    return forms if heldout else (*forms, *everyday.MORE_OF_TOPIC)


def _leads(form: str) -> tuple[str, ...]:
    """What may stand before a sentence about a topic, by how it was asked for."""
    if form in everyday.LIKES:
        return everyday.LIKED
    if form.startswith("Do you like"):
        return everyday.LIKE_LEADS
    return ("",) if form.startswith("What") else topics.TOPIC_LEADS


def everyday_talk(w: Writer) -> Dialogue:
    """What people say of their day, their plans and of mini."""
    turns: list[Turn] = []
    for questions, answers in w.rng.sample(everyday.EVERYDAY, w.rng.choice((1, 1, 2, 3))):
        turns += [human(w.rng.choice(questions)), mini(w.rng.choice(answers))]
    return w.turns("t-t everyday", *turns)


def personal_talk(w: Writer) -> Dialogue:
    """A person tells one or two things of themselves; mini names them, and remembers them when it is asked."""
    told = [(item, w.rng.choice(item.values)) for item in w.rng.sample(everyday.PERSONAL, w.rng.choice((1, 2)))]
    turns: list[Turn] = []
    for item, value in told:
        turns += [human(w.rng.choice(item.says).format(value)), mini(capital(w.rng.choice(item.answers).format(value)))]
    if w.rng.random() < 0.5:
        item, value = w.rng.choice(told)
        turns += [human(w.pick(item.asks)), mini(item.recalled.format(value))]
    return w.turns("t-t personal", *turns)


def general_knowledge(w: Writer) -> Dialogue:
    """Questions that have one true answer."""
    turns: list[Turn] = []
    for questions, answer in w.rng.sample(known_facts(), w.rng.choice((1, 1, 2, 3))):
        turns += [human(w.rng.choice(questions)), mini(answer)]
    return w.turns("t-t facts", *turns)


def fun(w: Writer) -> Dialogue:
    """A joke or two, or a riddle and its answer."""
    if w.rng.random() < 0.4:
        riddle, answer = w.rng.choice(everyday.RIDDLES)
        return w.turns("t-t fun", human(w.pick(everyday.ASK_RIDDLE)), mini(riddle), human(w.pick(everyday.GIVE_UP)), mini(answer))
    first, second = w.rng.sample(everyday.JOKES, 2)
    turns = [human(w.pick(everyday.ASK_JOKE)), mini(first)]
    if w.rng.random() < 0.3:
        turns += [human(w.pick(everyday.ASK_ANOTHER)), mini(second)]
    return w.turns("t-t fun", *turns)


def write_poem(w: Writer) -> Dialogue:
    """A poem about a topic or, at times, about a scene that is told in words."""
    if w.rng.random() < 0.75:
        topic = w.rng.choice(tuple(written_topics()))
        return w.turns("t-t poem", human(w.pick(phrasings.ASK_POEM, topic=topic)), mini(poem(topic, w.rng)))
    scene = w.picture().scene
    backdrop, phrase = w.rng.choice(((scene.place, place_phrase(scene.place)), (scene.time, time_of(scene.time).phrase)))
    request = w.pick(phrasings.ASK_POEM, topic=f"{things(scene)} {phrase}")
    return w.turns("t-t poem", human(request), mini(scene_poem(things(scene), backdrop, w.rng)))


def picture_poem(w: Writer) -> Dialogue:
    picture = w.picture()
    scene = picture.scene
    verses = scene_poem(things(scene), w.rng.choice((scene.place, scene.time)), w.rng)
    return w.turns("p-t poem", human(picture, w.pick(phrasings.ASK_PICTURE_POEM)), mini(verses))


# pattern -> (weight, modalities that it needs, writer)
PATTERNS: dict[str, tuple[float, str, Callable[[Writer], Dialogue]]] = {
    "t-p": (10, "p", text_to_picture), "t-p steps": (1, "p", text_to_picture_steps), "p-t": (7, "p", picture_caption),
    "p-t questions": (3, "p", picture_questions), "t-m": (8, "m", text_to_music), "m-t": (5, "m", music_caption),
    "m-t questions": (2, "m", music_questions), "m-m": (1, "m", music_to_music), "p-p": (1, "p", picture_to_picture), "p-m": (1.5, "pm", picture_to_music),
    "m-p": (1.5, "pm", music_to_picture), "t-s": (8, "s", say), "s-t": (8, "s", transcribe), "t-s answer": (2, "s", say_topic),
    "s-s": (3, "s", speech_to_speech), "s-t chat": (2, "s", speech_to_text), "s-p": (4, "sp", speech_to_picture), "s-m": (3, "sm", speech_to_music),
    "s-s say": (1, "s", speech_to_say), "sp-t": (1.5, "sp", spoken_picture_question), "sm-t": (1.5, "sm", spoken_music_question),
    "sp-m": (0.7, "spm", spoken_picture_to_music), "sm-p": (0.7, "spm", spoken_music_to_picture), "p-s": (2, "sp", picture_aloud),
    "m-s": (1.5, "sm", music_aloud), "t-p then m": (1, "pm", picture_then_music), "t-m then p": (1, "pm", music_then_picture),
    "t-pm": (1, "pm", picture_and_music),
    "t-p now": (3, "p", same_picture_but), "t-m now": (1.5, "m", same_music_but), "t-p then t": (2, "p", picture_then_question),
    "t-m then t": (1, "m", music_then_question), "t-t": (5, "", small_talk), "t-t poem": (1, "", write_poem),
    "t-t everyday": (1.5, "", everyday_talk), "t-t facts": (2.5, "", general_knowledge), "t-t fun": (1, "", fun),
    "t-t personal": (1, "", personal_talk), "p-t poem": (0.5, "p", picture_poem),
}  # fmt: skip


UNSPOKEN: dict[str, Callable[[Writer], Dialogue]] = {"p-s": told_picture, "m-s": told_music}  # the same in words that nobody has spoken


def write(pattern: str, rng: random.Random, source: Source, tries: int = 20, spoken: bool = True) -> Dialogue:
    """One chat of a pattern. Raises NotFound if the source never has what it needs. spoken: what mini says in it is a clip."""
    writer = PATTERNS[pattern][2] if spoken else UNSPOKEN.get(pattern, PATTERNS[pattern][2])
    for _ in range(tries):
        try:
            return writer(Writer(rng, source))
        except NotFound:
            continue
    raise NotFound


def dialogues(seed: int, source: Source, have: str = "spm") -> Iterator[Dialogue]:
    """Endless chats in the mixture of PATTERNS; equal seeds give equal streams. have: letters of the modalities at hand."""
    rng = random.Random(f"dialogues {seed}")
    names = [name for name, (_, needs, _) in PATTERNS.items() if set(needs) <= set(have)]
    weights = [PATTERNS[name][0] for name in names]
    while True:
        try:
            yield write(rng.choices(names, weights)[0], rng, source)
        except NotFound:
            continue
