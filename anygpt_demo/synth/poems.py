"""Short rhymed poems: two couplets about a topic, chosen from hand-written ones."""

from __future__ import annotations

import random

# theme -> couplets; lines are joined with commas and stops as written
COUPLETS: dict[str, tuple[tuple[str, str], ...]] = {
    "sky": (
        ("The moon climbs up without a sound", "and lays its silver on the ground."),
        ("A thousand stars, a quiet light,", "keep watch above the sleeping night."),
        ("The morning paints the window gold,", "a story that is always told."),
        ("A cloud sails by, so white, so slow,", "and wonders what we do below."),
    ),
    "water": (
        ("The waves come in, the waves go out,", "and wash away the smallest doubt."),
        ("A little boat, a sail of white,", "goes dancing through the morning light."),
        ("The rain begins to drum and sing,", "and wakes each green and growing thing."),
        ("Deep in the blue where no one goes", "a fish swims by and no one knows."),
    ),
    "seasons": (
        ("The spring has come on quiet feet,", "with tulips all along the street."),
        ("The summer hums, the bees fly low,", "the warm and golden evenings glow."),
        ("The autumn leaves turn red and brown", "and slowly, slowly flutter down."),
        ("The snow falls soft on roof and tree,", "as white and still as it can be."),
    ),
    "animals": (
        ("A cat lies curled in the midday sun", "and dreams of all the mice that run."),
        ("My dog can hear me from afar,", "he knows the humming of our car."),
        ("A bird upon the highest bough", "is singing to the whole world now."),
        ("The fox steps out on careful feet", "where forest path and meadow meet."),
    ),
    "plants": (
        ("A rose has opened in the night", "and greets the garden, red and bright."),
        ("The oldest tree upon the hill", "has seen so much and stands there still."),
        ("A seed lies sleeping in the ground", "and wakes in spring without a sound."),
    ),
    "home": (
        ("A candle and a cup of tea,", "a chair for you, a chair for me."),
        ("The bread is warm, the soup is hot,", "we share whatever we have got."),
        ("The door is open, come inside,", "the world is cold, the world is wide."),
    ),
    "music": (
        ("A song begins with just one tone,", "and no one has to be alone."),
        ("The piano speaks, the strings reply,", "the evening slowly passes by."),
        ("The drum keeps time, the fiddle plays,", "and feet go dancing through the days."),
    ),
    "heart": (
        ("A friend is someone who will stay", "when all the others go away."),
        ("The road is long, the bag is light,", "we travel on till late at night."),
        ("I made this rhyme for you today,", "a little joy along the way."),
        ("Be brave, be kind, and you will see", "how bright a simple day can be."),
    ),
}
THEMES: dict[str, str] = {  # words of a topic -> theme; anything else is a matter of the heart
    "moon": "sky", "stars": "sky", "sun": "sky", "space": "sky", "weather": "sky", "dreams": "sky", "sleep": "sky", "airplanes": "sky",
    "sea": "water", "rain": "water", "boats": "water", "fish": "water", "swimming": "water",
    "spring": "seasons", "summer": "seasons", "autumn": "seasons", "winter": "seasons", "snow": "seasons", "holidays": "seasons", "time": "seasons",
    "animals": "animals", "cats": "animals", "dogs": "animals", "birds": "animals", "horses": "animals", "insects": "animals", "farms": "animals",
    "flowers": "plants", "trees": "plants", "gardens": "plants", "forest": "plants", "nature": "plants", "fruit": "plants",
    "food": "home", "bread": "home", "cake": "home", "coffee": "home", "tea": "home", "cooking": "home", "family": "home",
    "music": "music", "piano": "music", "guitar": "music", "violin": "music", "drums": "music", "singing": "music", "dancing": "music", "poems": "music",
}  # fmt: skip


def poem(topic: str, rng: random.Random) -> str:
    """Four lines about a topic; the first couplet is of its theme."""
    theme = next((THEMES[word] for word in topic.split() if word in THEMES), "heart")
    first = rng.choice(COUPLETS[theme])
    second = rng.choice([couplet for couplet in (*COUPLETS[theme], *COUPLETS["heart"]) if couplet != first])
    return "\n".join((*first, *second))
