"""Figures of pictures: what a judge sees in copies and in drawings, and what captions say of true ones.

    python -m anygpt_demo.eval.pictures --family runs/family/mini --n 200

Figures of drawings are shares: the judge's hit rate on the pictures under test divided by its hit rate on the true
drawings of the same scenes (`ceiling`), with the raw rate as `raw` and the rate against another scene, divided alike,
as `floor`. Scenes are held out by their seed; `unseen_pairs` holds nouns at places where training never shows them.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anygpt_demo.checkpoints import Family
from anygpt_demo.codecs.image import ImageCodec
from anygpt_demo.eval.judges_pictures import PATH, Judge, Verdict, load, look
from anygpt_demo.eval.metrics import figure, words
from anygpt_demo.media import Picture
from anygpt_demo.synth.pictures import PLACE_INDEX, SMALL, STYLE_INDEX, TIME_INDEX, Scene, evaluation_scenes, render
from anygpt_demo.synth.world import NOUNS, PLACES, noun_index

ATTRIBUTES = ("object", "place", "time", "style", "count", "relation")
Marks = dict[str, list[tuple[float, float]]]  # attribute -> (hit rate, weight) of every scene


def small(pictures: Sequence[Picture]) -> np.ndarray:
    """Pictures of any size as the judge sees them: uint8 (n, 128, 128, 3)."""
    sized = []
    for picture in pictures:
        image = Image.fromarray(picture.rgb)
        larger = image.width > SMALL
        sized.append(np.asarray(image.resize((SMALL, SMALL), Image.Resampling.BOX if larger else Image.Resampling.BICUBIC)))
    return np.stack(sized)


def _related(verdict: Verdict, row: int, scene: Scene) -> bool:
    """Whether the first two things stand as the scene says, by the centres of where the judge sees them."""
    first, second = (verdict.centres[row, noun_index(thing.noun)] for thing in scene.things[:2])
    across, down = second - first
    level = abs(down) < 0.2 and abs(across) > 0.12
    holds = {
        "left of": level and across > 0,
        "right of": level and across < 0,
        "next to": level,
        "above": down > 0.33,
        "behind": 0.06 < down < 0.42,
    }
    return bool(holds[scene.relation])


def marks(verdict: Verdict, scenes: Sequence[Scene]) -> Marks:
    """Hits per scene. object: recall among the k most certain nouns, k = number of different nouns."""
    found: Marks = {name: [] for name in ATTRIBUTES}
    for row, scene in enumerate(scenes):
        nouns = {noun_index(thing.noun) for thing in scene.things}
        best = set(np.argsort(-verdict.nouns[row])[: len(nouns)].tolist())
        found["object"].append((len(nouns & best) / len(nouns), float(len(nouns))))
        found["place"].append((float(verdict.place[row] == PLACE_INDEX[scene.place]), 1.0))
        found["time"].append((float(verdict.time[row] == TIME_INDEX[scene.time]), 1.0))
        found["style"].append((float(verdict.style[row] == STYLE_INDEX[scene.style]), 1.0))
        found["count"].append((float(verdict.count[row] == len(scene.instances())), 1.0))
        found["relation"].append((float(_related(verdict, row, scene)), 1.0) if scene.relation else (0.0, 0.0))
    return found


def _mean(items: Sequence[tuple[float, float]]) -> float:
    """Weighted mean."""
    return sum(value * weight for value, weight in items) / max(1e-9, sum(weight for _, weight in items))


def shares(made: Sequence[Picture], scenes: Sequence[Scene], judge: Judge) -> dict[str, dict[str, Any]]:
    """Figures of pictures that should show these scenes, by attribute."""
    verdict = look(judge, small(made))
    hits, shuffled = marks(verdict, scenes), marks(verdict, [*scenes[1:], scenes[0]])
    real = marks(look(judge, small([render(scene) for scene in scenes])), scenes)
    found = {}
    for name in ATTRIBUTES:
        kept = [item for item in hits[name] if item[1] > 0]
        if not kept:
            continue
        top = max(1e-3, _mean(real[name]))
        result = figure([value / top for value, _ in kept], [weight for _, weight in kept], ceiling=top, floor=_mean(shuffled[name]) / top)
        found[name] = result | {"raw": round(_mean(kept), 4)}
    return found


def picture_recon(codec: ImageCodec, judge: Judge, scenes: Sequence[Scene]) -> dict[str, dict[str, Any]]:
    """Picture -> 32 codes -> picture."""
    made = [codec.decode(codec.encode(render(scene)), seed=number) for number, scene in enumerate(scenes)]
    return shares(made, scenes, judge)


def text_to_picture(draw: Callable[[Scene, int], Picture], judge: Judge, scenes: Sequence[Scene]) -> dict[str, dict[str, Any]]:
    """draw(scene, number) makes a picture from a description of the scene that names everything judged."""
    return shares([draw(scene, number) for number, scene in enumerate(scenes)], scenes, judge)


# --- captions ---

_NAMES = {name: noun.name for noun in NOUNS for name in (noun.plural, noun.name)}
_NOUN = re.compile(r"\b(" + "|".join(sorted(map(re.escape, _NAMES), key=len, reverse=True)) + r")\b")


def nouns_in(caption: str) -> set[str]:
    """Singular names of the nouns that a caption mentions; colours and phrases for places do not count."""
    text = caption.lower()
    for phrase in (place.phrase for place in PLACES):
        text = text.replace(phrase, " ")
    text = re.sub(r"\b(oil|watercolor) painting\b|\bpencil (sketch|drawing)\b", " ", text)
    text = re.sub(r"\borange (?=" + _NOUN.pattern + ")", " ", text)
    return {_NAMES[match[1]] for match in _NOUN.finditer(text)}


def _f1(found: set[str], truth: set[str]) -> float:
    return 2 * len(found & truth) / max(1, len(found) + len(truth))


def picture_to_text(captions: Sequence[str], scenes: Sequence[Scene], references: Sequence[Sequence[str]]) -> dict[str, dict[str, Any]]:
    """Captions of pictures against their scenes, and CIDEr-D against several true captions of each."""
    turned = [*scenes[1:], scenes[0]]
    objects = [_f1(nouns_in(caption), {thing.noun for thing in scene.things}) for caption, scene in zip(captions, scenes, strict=True)]
    wrong = [_f1(nouns_in(caption), {thing.noun for thing in scene.things}) for caption, scene in zip(captions, turned, strict=True)]
    phrases = {place.name: place.phrase for place in PLACES}
    places = [float(phrases[scene.place] in caption.lower()) for caption, scene in zip(captions, scenes, strict=True)]
    chance = [float(phrases[scene.place] in caption.lower()) for caption, scene in zip(captions, turned, strict=True)]
    return {
        "object_f1": figure(objects, ceiling=1.0, floor=float(np.mean(wrong))),
        "place": figure(places, ceiling=1.0, floor=float(np.mean(chance))),
        "cider": figure(cider(captions, references), floor=float(np.mean(cider(captions, [*references[1:], references[0]])))),
    }


def _grams(text: str, length: int) -> Counter[tuple[str, ...]]:
    """n-grams of one length."""
    tokens = words(text)
    return Counter(tuple(tokens[k : k + length]) for k in range(len(tokens) - length + 1))


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of every caption (Vedantam et al. 2015): clipped tf-idf cosine of 1- to 4-grams, length penalty, times 10."""
    scores = np.zeros(len(captions))
    total = math.log(max(2, len(references)))
    for length in range(1, 5):
        seen = Counter(gram for group in references for gram in set().union(*(_grams(text, length) for text in group)))

        def weigh(grams: Counter[tuple[str, ...]], seen: Counter[tuple[str, ...]] = seen) -> dict[tuple[str, ...], float]:
            return {gram: count * (total - math.log(max(1, seen[gram]))) for gram, count in grams.items()}

        for row, (caption, group) in enumerate(zip(captions, references, strict=True)):
            mine = weigh(_grams(caption, length))
            for text in group:
                other = weigh(_grams(text, length))
                product = sum(min(value, other[gram]) * other[gram] for gram, value in mine.items() if gram in other)
                norm = math.sqrt(sum(v * v for v in mine.values()) * sum(v * v for v in other.values()))
                difference = len(words(caption)) - len(words(text))
                scores[row] += 10 / 4 / len(group) * (product / norm if norm else 0.0) * math.exp(-(difference**2) / 72)
    return scores.tolist()


def evaluate(family: Family, judge_path: Path, n: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("picture_recon.object", figure), ... for ordinary scenes and for pairs that training never shows."""
    codec, judge = ImageCodec.load(family), load(judge_path)
    for prefix, heldout in (("picture_recon", False), ("picture_recon_unseen_pairs", True)):
        scenes = evaluation_scenes(n if not heldout else max(1, n // 2), heldout=heldout)
        for name, value in picture_recon(codec, judge, scenes).items():
            yield f"{prefix}.{name}", value


def main() -> None:
    """Command line: prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", type=Path, default=Path("checkpoints/mini"))
    parser.add_argument("--judge", type=Path, default=PATH)
    parser.add_argument("--n", type=int, default=200)
    given = parser.parse_args()
    json.dump({"figures": dict(evaluate(Family.open(given.family), given.judge, given.n))}, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
