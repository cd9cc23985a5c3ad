"""Short rhymed poems: two couplets about a topic or a scene, chosen from hand-written ones."""

from __future__ import annotations

import random
from collections.abc import Sequence

Couplet = tuple[str, str]

# theme -> couplets; lines are joined with commas and stops as written
COUPLETS: dict[str, tuple[Couplet, ...]] = {
    "sky": (
        ("The moon climbs up without a sound", "and lays its silver on the ground."),
        ("A thousand stars, a quiet light,", "keep watch above the sleeping night."),
        ("The morning paints the window gold,", "a story that is always told."),
        ("A cloud sails by, so white, so slow,", "and wonders what we do below."),
        ("A comet writes a silver line", "and tells us that the world is fine."),
        ("The sun goes down behind the hill,", "the swallows hush, the air is still."),
        ("A planet turns in endless space,", "a marble in a velvet case."),
    ),
    "water": (
        ("The waves come in, the waves go out,", "and wash away the smallest doubt."),
        ("A little boat, a sail of white,", "goes dancing through the morning light."),
        ("The rain begins to drum and sing,", "and wakes each green and growing thing."),
        ("Deep in the blue where no one goes", "a fish swims by and no one knows."),
        ("The river winds through field and town,", "it carries leaves and wishes down."),
        ("The gulls are circling, wild and free,", "above the green and foaming sea."),
        ("A pebble skips, the ripples grow,", "and tickle all the weeds below."),
    ),
    "seasons": (
        ("The spring has come on quiet feet,", "with tulips all along the street."),
        ("The summer hums, the bees fly low,", "the warm and golden evenings glow."),
        ("The autumn leaves turn red and brown", "and slowly, slowly flutter down."),
        ("The snow falls soft on roof and tree,", "as white and still as it can be."),
        ("October wears a cloak of gold", "and warns us of the coming cold."),
        ("The blossoms fall, a fragrant rain,", "the blackbird tries his tune again."),
        ("An icy wind, a frosted pane,", "the kettle sings its old refrain."),
    ),
    "animals": (
        ("A cat lies curled in the midday sun", "and dreams of all the mice that run."),
        ("My dog can hear me from afar,", "he knows the humming of our car."),
        ("A bird upon the highest bough", "is singing to the whole world now."),
        ("The fox steps out on careful feet", "where forest path and meadow meet."),
        ("The hedgehog snuffles through the hay", "and curls up at the break of day."),
        ("A whisker twitch, a gentle sniff,", "a rabbit on a mossy cliff."),
        ("With stripe and feather, scale and fur,", "they hoot and howl, they hum and purr."),
        ("The elephant walks wise and grand,", "a gentle cloud upon the land."),
    ),
    "plants": (
        ("A rose has opened in the night", "and greets the garden, red and bright."),
        ("The oldest tree upon the hill", "has seen so much and stands there still."),
        ("A seed lies sleeping in the ground", "and wakes in spring without a sound."),
        ("The poppies nod, the grasses sway,", "a bumblebee is on its way."),
        ("Beneath the oak the ferns unroll,", "the forest has a patient soul."),
    ),
    "home": (
        ("A candle and a cup of tea,", "a chair for you, a chair for me."),
        ("The bread is warm, the soup is hot,", "we share whatever we have got."),
        ("The door is open, come inside,", "the world is cold, the world is wide."),
        ("The spoon goes round, the kitchen steams,", "it smells of cinnamon and dreams."),
        ("A pinch of salt, a dash of thyme,", "the dinner bubbles like a rhyme."),
        ("The crust is crisp, the cream is sweet,", "so pull a chair and take a seat."),
    ),
    "music": (
        ("A song begins with just one tone,", "and no one has to be alone."),
        ("The piano speaks, the strings reply,", "the evening slowly passes by."),
        ("The drum keeps time, the fiddle plays,", "and feet go dancing through the days."),
        ("A trumpet laughs, a cello sighs,", "a lullaby for weary eyes."),
        ("One chord, one beat, one little tune,", "a serenade beneath the moon."),
    ),
    "dark": (
        ("The owl has opened golden eyes", "and listens as the evening dies."),
        ("A shadow dances on the wall,", "a coat, a hat, and that is all."),
        ("The candle trembles, thin and pale,", "while someone tells a ghostly tale."),
    ),
    "adventure": (
        ("The anchor lifts, the sails are wide,", "we follow fortune and the tide."),
        ("A crooked map, a lantern bright,", "a tent beneath the starry night."),
        ("The bridge is high, the path is steep,", "the valley down below is deep."),
        ("A whistle blows, the engines start,", "a journey tugs at every heart."),
    ),
    "mind": (
        ("A question knocked upon my door,", "and when I answered, there were more."),
        ("I turned the page, and there it lay,", "an ocean and a summer day."),
        ("A clever thought, a spark, a click,", "a candle on a brand new wick."),
    ),
    "heart": (
        ("A friend is someone who will stay", "when all the others go away."),
        ("The road is long, the bag is light,", "we travel on till late at night."),
        ("I made this rhyme for you today,", "a little joy along the way."),
        ("Be brave, be kind, and you will see", "how bright a simple day can be."),
        ("A word of thanks, a helping hand", "is something all can understand."),
        ("So laugh a while and lift your chin,", "and let a bit of sunshine in."),
    ),
}
THEMES: dict[str, str] = {  # words of a topic -> theme; anything else is a matter of the heart
    "moon": "sky", "planets": "sky", "rainbows": "sky", "morning": "sky", "kites": "sky", "stars": "sky", "sun": "sky", "space": "sky", "weather": "sky", "dreams": "sky", "sleep": "sky", "airplanes": "sky",
    "sea": "water", "rivers": "water", "lakes": "water", "islands": "water", "beach": "water", "fishing": "water", "whales": "water", "storms": "water", "rain": "water", "boats": "water", "fish": "water", "swimming": "water",
    "spring": "seasons", "summer": "seasons", "autumn": "seasons", "winter": "seasons", "snow": "seasons", "holidays": "seasons", "time": "seasons",
    "tigers": "animals", "elephants": "animals", "penguins": "animals", "bears": "animals", "rabbits": "animals", "wolves": "animals", "monkeys": "animals",
    "frogs": "animals", "pets": "animals", "dinosaurs": "animals", "bees": "plants", "butterflies": "plants", "chocolate": "home", "cheese": "home",
    "pizza": "home", "breakfast": "home", "kitchen": "home", "markets": "home", "trumpet": "music", "jazz": "music", "owls": "dark", "ghosts": "dark",
    "night": "dark", "caves": "dark", "castles": "dark", "magic": "dark", "pirates": "adventure", "maps": "adventure", "camping": "adventure",
    "hiking": "adventure", "bridges": "adventure", "lighthouses": "adventure", "travel": "adventure", "trains": "adventure", "chess": "mind", "books": "mind",
    "libraries": "mind", "languages": "mind", "numbers": "mind", "inventions": "mind", "letters": "mind", "teachers": "mind", "science": "mind",
    "computers": "mind", "school": "mind", "stories": "mind", "museums": "mind",
    "animals": "animals", "cats": "animals", "dogs": "animals", "birds": "animals", "horses": "animals", "insects": "animals", "farms": "animals",
    "flowers": "plants", "trees": "plants", "gardens": "plants", "forest": "plants", "nature": "plants", "fruit": "plants",
    "food": "home", "bread": "home", "cake": "home", "coffee": "home", "tea": "home", "cooking": "home", "family": "home",
    "music": "music", "piano": "music", "guitar": "music", "violin": "music", "drums": "music", "singing": "music", "dancing": "music", "poems": "music",
}  # fmt: skip


OPENINGS: tuple[Couplet, ...] = (  # about any topic
    ("I dreamed of {topic} last night", "and woke up smiling, warm and bright."),
    ("I sing of {topic} today", "and chase the heavy clouds away."),
    ("Of {topic} my verses tell,", "I know the tune, I know it well."),
    ("Give me {topic} and a song,", "and I will hum the whole day long."),
    ("For {topic} I write this line,", "I hope it makes your evening shine."),
    ("I wrote of {topic} with care,", "a little verse for us to share."),
    ("I think of {topic} and know", "why little wonders seem to grow."),
)
SEEN: tuple[Couplet, ...] = (  # about things in a scene
    ("I looked and saw {topic} today", "and stopped a moment on my way."),
    ("I see {topic} before my eyes,", "a little scene, a sweet surprise."),
    ("Just look, {topic}, as fine can be,", "a tiny world for you and me."),
)
BACKDROPS: dict[str, Couplet] = {  # place or time of a scene -> couplet
    "beach": ("The sand is warm, the waves are near,", "and summer songs are all I hear."),
    "meadow": ("The grass is green, the wind is mild,", "the meadow flowers, bright and wild."),
    "forest": ("The leaves are whispering up high", "and tell of all that wanders by."),
    "desert": ("The dunes are gold, the air is dry,", "and slowly shifting sands go by."),
    "snowy field": ("The field is white, the frost is deep,", "and all the earth has gone to sleep."),
    "lake": ("The lake lies smooth, a looking glass,", "where ripples come and ripples pass."),
    "city street": ("The street is long, the windows gleam,", "the city hums, a waking dream."),
    "mountains": ("The mountains stand so tall, so old,", "with secrets that were never told."),
    "ocean": ("The ocean rolls from shore to shore", "and always whispers: tell me more."),
    "garden": ("The garden path is soft and green,", "the loveliest that I have seen."),
    "sunny": ("The sun is high, the day is bright,", "and everything is full of light."),
    "sunset": ("The day is done, the sky aglow,", "the evening light sinks soft and low."),
    "night": ("The night has come, the moon looks down", "in silver slippers and a gown."),
    "cloudy": ("The clouds drift by in white and gray", "and softly dim the light of day."),
    "foggy": ("The fog has wrapped the world in white", "and hidden half of it from sight."),
    "stormy": ("The thunder growls, the lightning flies,", "a storm is racing through the skies."),
    "dawn": ("The dawn is pink, the day is new,", "and every wish may still come true."),
}


def _about(couplets: Sequence[Couplet], topic: str, rng: random.Random) -> Couplet:
    first, second = rng.choice(couplets)
    return first.format(topic=topic), second


def poem(topic: str, rng: random.Random) -> str:
    """Four lines about a topic; the first couplet names it or is of its theme, the second is of its theme or of the heart."""
    theme = next((THEMES[word] for word in topic.split() if word in THEMES), "heart")
    first = _about(OPENINGS, topic, rng) if rng.random() < 0.4 else rng.choice(COUPLETS[theme])
    second = rng.choice([couplet for couplet in (*COUPLETS[theme], *COUPLETS["heart"]) if couplet != first])
    return "\n".join((*first, *second))


def scene_poem(things: str, backdrop: str, rng: random.Random) -> str:
    """Four lines about things ('two dogs') and their place or time, by its name."""
    return "\n".join((*_about(SEEN, things, rng), *BACKDROPS[backdrop]))
