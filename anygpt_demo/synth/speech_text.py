"""General sentences for the speech codec and the phone teacher: short requests, small talk, and a small grammar.

The dialogue world has its own sentences (dialogues.py); these only have to cover sounds and words widely.
"""

from __future__ import annotations

import gzip
import itertools
import json
import logging
import random
import re
from collections.abc import Iterator
from pathlib import Path

_LISTS: dict[str, list[str]] = {
    "colour": "red blue green yellow orange purple pink brown black white grey golden silver".split(),
    "thing": """cat dog horse bird fish rabbit bear lion tiger elephant monkey penguin whale turtle frog snake spider bee butterfly duck owl
        eagle cow pig sheep goat mouse fox wolf dragon robot rocket car truck bus train bicycle boat ship airplane helicopter balloon kite
        guitar piano violin trumpet drum lamp clock phone camera book chair table window key umbrella hat shoe crown bottle spoon apple banana
        cherry lemon strawberry carrot mushroom bread cheese pizza cake cookie candle flower rose sunflower tree mountain volcano castle tower
        bridge tent house church rainbow snowman wizard princess king queen pirate astronaut doctor farmer""".split(),
    "size": "small big tiny giant little old new shiny sleepy happy".split(),
    "place": ["on the beach", "in the forest", "in the city", "on a hill", "under the sea", "in space", "in the desert", "in the snow"]
    + ["in a garden", "by the lake", "near the river", "on the farm", "in the kitchen", "on the street", "at the park", "on an island"],
    "time": [
        "at night",
        "at sunset",
        "in the morning",
        "at noon",
        "in winter",
        "in spring",
        "on a rainy day",
        "on a foggy day",
        "in a storm",
    ],
    "style": ["watercolor", "oil painting", "pencil sketch", "cartoon", "pixel art picture", "poster", "photo", "vintage picture"],
    "mood": "happy sad calm dark romantic dreamy epic funny peaceful energetic mysterious gentle exciting warm hopeful lazy".split(),
    "genre": "jazz rock pop classical folk blues techno ambient reggae country funk metal waltz march lullaby disco".split(),
    "instrument": "piano guitar violin flute trumpet drums cello harp saxophone organ bass marimba clarinet accordion banjo strings".split(),
    "tempo": ["slow", "fast", "medium", "very slow", "very fast", "lively"],
    "number": "two three four five six seven eight nine ten".split(),
    "relation": ["left of", "right of", "above", "next to", "behind", "in front of"],
    "topic": ["the weather", "your day", "the ocean", "old castles", "the stars", "cooking", "the future", "travel", "animals", "school"]
    + ["sports", "a good book", "the holidays", "friendship", "dreams", "robots", "science", "history", "football", "chocolate"],
    "scene": [
        "a {colour} {thing} {place}",
        "a {size} {thing} {place} {time}",
        "{number} {colour} {thing}s",
        "the {thing} {relation} a {colour} {thing}",
    ]
    + ["a {size} {colour} {thing}", "a {thing} and a {thing} {place}", "a {thing} {place} {time}"],
    "tune": ["a {mood} {genre} song with {instrument}", "some {tempo} {genre} music", "a {tempo} {mood} melody on the {instrument}"]
    + ["a {genre} piece with {instrument} and {instrument}", "{mood} {genre} music without {instrument}"],
    "sentence": [
        "please draw {scene}",
        "can you paint {scene}",
        "show me {scene}",
        "make a {style} of {scene}",
        "I would like to see {scene}",
    ]
    + [
        "create a picture of {scene}",
        "here is {scene}",
        "please play {tune}",
        "compose {tune}",
        "I want to hear {tune}",
        "can you make {tune}",
    ]
    + [
        "play me {tune}",
        "what color is the {thing}",
        "is there a {thing} in the picture",
        "how many {thing}s are there",
        "where is the {thing}",
    ]
    + ["does this sound like {genre}", "can you hear the {instrument}", "tell me about {topic}", "what do you think of {topic}"]
    + ["the {thing} is {relation} the {thing} {place}", "this is {tune}", "the music is {tempo} and {mood}", "I feel {mood} today"],
}


def fill(template: str, rng: random.Random) -> str:
    """Replace every {list} by one of its entries, again and again until none is left."""
    while match := re.search(r"\{(\w+)\}", template):
        template = template[: match.start()] + rng.choice(_LISTS[match[1]]) + template[match.end() :]
    return template


def public_sentences(data: Path | None) -> list[str]:
    """Short requests (clinc) and small talk (chatterbot) of 3 to 14 words, in a fixed order; empty without the data."""
    lines: list[str] = []
    if data is None or not (data / "clinc.jsonl.gz").is_file():
        logging.getLogger(__name__).warning("No public text: sentences come from a small grammar only, so fewer words are covered.")
        return lines
    with gzip.open(data / "clinc.jsonl.gz", "rt", encoding="utf-8") as file:
        lines += [json.loads(row)["text"] for row in file]
    with gzip.open(data / "chatterbot_english_yml.txt.gz", "rt", encoding="utf-8") as file:
        lines += [match[1].strip().strip("\"'") for row in file if (match := re.match(r"\s*(?:- )?- (.+)", row))]
    plain = (line for line in lines if re.fullmatch(r"[A-Za-z0-9 ,.?!'\-]+", line) and 3 <= len(line.split()) <= 14)
    return sorted(set(plain))


def sentences(seed: int, data: Path | None) -> Iterator[str]:
    """An endless stream: half public sentences (each once), half from the grammar, none twice in a row of the stream."""
    rng = random.Random(seed)
    public = public_sentences(data)
    rng.shuffle(public)
    seen: set[str] = set()
    while True:
        if public and rng.random() < 0.5:
            yield public.pop()
            continue
        text = fill("{sentence}", rng)
        if text not in seen:
            seen.add(text)
            yield text


def own_sentences(seed: int, data: Path | None) -> Iterator[str]:
    """An endless stream of what mini says aloud, each once: first all answers of small talk, then from the dialogue world and others."""
    from anygpt_demo.synth import topics

    tables = (*topics.TOPICS.values(), *(answers for _, answers in topics.MANNERS), *topics.FEELINGS.values(), topics.SORRY)
    world, general = dialogue_sentences(seed + 1), sentences(seed, data)
    others = (next(stream) for stream in itertools.cycle((world, world, world, general)))
    seen: set[str] = set()
    for text in itertools.chain((text for table in tables for text in table), others):
        if text not in seen:
            seen.add(text)
            yield text


def dialogue_sentences(seed: int) -> Iterator[str]:
    """What people and the model say aloud in the dialogue world, 2 to 16 words, each sentence at most twice."""
    from anygpt_demo.synth.spoken import spoken_sentences

    times: dict[str, int] = {}
    for text in spoken_sentences(seed):
        text = " ".join(text.split())
        if 2 <= len(text.split()) <= 16 and times.get(text, 0) < 2:
            times[text] = times.get(text, 0) + 1
            yield text
