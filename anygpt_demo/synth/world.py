"""The small world that mini talks about and draws: nouns, places, times, styles, colours, sizes and relations.

Torch-free tables, curated by hand. The order of every table is frozen: indices are the classes of trained models.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

VOWEL_SOUND_EXCEPTIONS = {"unicorn": "a", "hourglass": "an"}


@dataclass(frozen=True)
class Noun:
    """One thing that can be drawn."""

    emoji: str  # glyph in the Noto Color Emoji font
    name: str  # "dog"
    plural: str  # "dogs"
    article: str  # "a" | "an" | "some" (for names that are plural already)
    size: str  # size class of the real thing: "small" | "medium" | "large"
    homes: tuple[str, ...]  # names of the places where it is usually found
    kind: str  # "animal" | "food" | "plant" | "vehicle" | "building" | "thing"
    tintable: bool = False  # whether "a red ..." makes sense


@dataclass(frozen=True)
class Place:
    """Where a scene plays."""

    name: str
    phrase: str  # "on a beach"
    words: str  # one sentence about it, for long captions
    ground: tuple[tuple[int, int, int], tuple[int, int, int]]  # RGB of the ground at the horizon and at the lower edge


@dataclass(frozen=True)
class Time:
    """Time of day or weather: the sky."""

    name: str
    phrase: str  # "at sunset"
    words: str  # one sentence about it, for long captions
    sky: tuple[tuple[int, int, int], tuple[int, int, int]]  # RGB at the upper edge and at the horizon
    light: float  # brightness of the ground and of the objects


@dataclass(frozen=True)
class Style:
    """How a scene is drawn. The first style is the plain one."""

    name: str
    phrases: tuple[str, ...]  # what a caption calls such a picture: "a watercolor of"


PLACES: tuple[Place, ...] = (
    Place("beach", "on a beach", "There is sand and a strip of blue sea.", ((238, 214, 155), (222, 192, 122))),
    Place("meadow", "in a meadow", "Bright green grass covers the ground.", ((126, 200, 72), (84, 160, 44))),
    Place("forest", "in a forest", "Tall fir trees stand in the background.", ((58, 92, 48), (34, 60, 34))),
    Place("desert", "in the desert", "Orange dunes reach to the horizon.", ((226, 172, 92), (202, 140, 64))),
    Place("snowy field", "in a snowy field", "White snow covers the ground.", ((240, 245, 250), (214, 226, 240))),
    Place("lake", "by a lake", "The calm lake has green banks.", ((92, 168, 205), (44, 118, 165))),
    Place("city street", "on a city street", "Tall houses with lit windows line the street.", ((112, 112, 120), (80, 80, 88))),
    Place("mountains", "in front of mountains", "Snow lies on the mountain tops.", ((140, 150, 96), (108, 116, 74))),
    Place("ocean", "on the ocean", "There is nothing but deep blue waves.", ((24, 84, 170), (8, 42, 112))),
    Place("garden", "in a garden", "Flowers grow in front of a wooden fence.", ((88, 142, 76), (58, 104, 56))),
)
TIMES: tuple[Time, ...] = (
    Time("sunny", "on a sunny day", "The sun shines in a blue sky.", ((90, 168, 240), (195, 230, 250)), 1.0),
    Time("sunset", "at sunset", "The sky glows orange.", ((66, 50, 122), (252, 150, 76)), 0.78),
    Time("night", "at night", "The moon and the stars are out.", ((8, 10, 35), (30, 40, 80)), 0.5),
    Time("cloudy", "under a cloudy sky", "Grey and white clouds fill the sky.", ((140, 150, 165), (205, 210, 215)), 0.95),
    Time("foggy", "in the fog", "Everything is pale with fog.", ((188, 193, 197), (216, 219, 221)), 1.0),
    Time("stormy", "under a stormy sky", "Dark clouds gather and lightning flashes.", ((42, 47, 57), (95, 100, 110)), 0.7),
    Time("dawn", "at dawn", "The early sky is pink and violet.", ((122, 112, 176), (252, 204, 190)), 0.9),
)
STYLES: tuple[Style, ...] = (
    Style("plain", ("a picture of", "an image of", "a drawing of")),
    Style("watercolor", ("a watercolor of", "a watercolor painting of")),
    Style("pencil sketch", ("a pencil sketch of", "a pencil drawing of")),
    Style("pixel art", ("a pixel art picture of", "pixel art of")),
    Style("oil painting", ("an oil painting of",)),
    Style("black and white", ("a black and white picture of", "a black and white photo of")),
    Style("vintage photo", ("a vintage photo of", "an old sepia photo of")),
    Style("comic", ("a comic drawing of", "a comic style picture of")),
)
COLOURS: tuple[str, ...] = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
SIZES: tuple[str, ...] = ("small", "large")
RELATIONS: tuple[str, ...] = ("left of", "right of", "above", "next to", "behind")
RELATION_PHRASES: dict[str, tuple[str, ...]] = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "over"),
    "next to": ("next to", "beside"),
    "behind": ("behind",),
}
COUNT_WORDS: dict[int, str] = {1: "one", 2: "two", 3: "three"}

# Rows: kind; homes; entries "emoji name[/plural][!]" separated by commas. The last letter of an entry: s, m or l for
# the size class; "!" marks things that may be tinted; "~" marks names without a singular.
_TABLE = """
animal; meadow garden; 🐕 dog m, 🐈 cat s, 🐎 horse l, 🐄 cow l, 🐖 pig m, 🐑 sheep/sheep m, 🐐 goat m, 🐇 rabbit s, 🐔 chicken s, 🐓 rooster s, 🦃 turkey m, 🐁 mouse/mice s
animal; forest mountains; 🐻 bear l, 🦊 fox/foxes m, 🐺 wolf/wolves m, 🦌 deer/deer m, 🦝 raccoon m, 🦔 hedgehog s, 🐿 squirrel s, 🦨 skunk m, 🦉 owl s, 🦇 bat s, 🐍 snake s
animal; forest; 🐒 monkey m, 🦍 gorilla l, 🐼 panda l, 🐨 koala m, 🦥 sloth m, 🐅 tiger l, 🦎 lizard s, 🦜 parrot s, 🦚 peacock m
animal; desert meadow; 🦁 lion l, 🐘 elephant l, 🦒 giraffe l, 🦓 zebra l, 🐫 camel l, 🦙 llama l, 🦘 kangaroo l, 🦏 rhino l, 🦛 hippo l, 🦂 scorpion s
animal; ocean beach; 🐟 fish/fish s!, 🐡 pufferfish/pufferfish s, 🐳 whale l, 🐬 dolphin l, 🦈 shark l, 🐙 octopus/octopuses m, 🦀 crab s, 🦞 lobster s, 🐢 turtle m
animal; lake; 🐸 frog s, 🦆 duck s, 🦢 swan m, 🦩 flamingo m, 🐊 crocodile l
animal; snowy field; 🐧 penguin m
animal; garden meadow; 🐦 bird s!, 🦅 eagle m, 🦋 butterfly/butterflies s!, 🐝 bee s, 🐞 ladybug s, 🐌 snail s, 🕷 spider s
animal; mountains forest; 🦖 dinosaur l, 🐉 dragon l, 🦄 unicorn l
food; garden; 🍎 apple s!, 🍐 pear s, 🍊 orange s, 🍋 lemon s, 🍌 banana s, 🍉 watermelon s, 🍇 ~grapes s, 🍓 strawberry/strawberries s, 🍒 ~cherries s, 🍍 pineapple s, 🍅 tomato/tomatoes s, 🍆 eggplant s, 🥑 avocado s, 🥦 broccoli/broccoli s, 🥒 cucumber s, 🌽 corn/corn s, 🥕 carrot s, 🍄 mushroom s
food; city street; 🍞 bread/breads s, 🥐 croissant s, 🧀 cheese/cheeses s, 🥚 egg s, 🥞 ~pancakes s, 🍔 hamburger s, 🍟 ~french fries s, 🍕 pizza s, 🌭 hot dog s, 🍿 popcorn/popcorn s, 🍦 ice cream s, 🍩 donut s, 🎂 cake s, 🍭 lollipop s, ☕ coffee cup s!, 🍷 wine glass/wine glasses s
plant; garden meadow; 🌻 sunflower m, 🌹 rose s, 🌷 tulip s!, 🌸 blossom s, 🎃 pumpkin s
plant; forest garden; 🌳 tree l, 🍁 maple leaf/maple leaves s
plant; beach desert; 🌴 palm tree l, 🌵 cactus/cactuses m
vehicle; city street; 🚗 car l!, 🚕 taxi l, 🚌 bus/buses l!, 🚓 police car l, 🚑 ambulance l, 🚒 fire engine l, 🚚 truck l!, 🏍 motorcycle m!, 🚲 bicycle m!, 🛴 scooter m!, 🚋 tram l!, 🛹 skateboard s!
vehicle; meadow mountains; 🚜 tractor l!, 🚂 locomotive l, 🚁 helicopter l!, 🚀 rocket l, 🛸 flying saucer l
vehicle; ocean lake; ⛵ sailboat l!, 🚢 ship l, 🚤 speedboat l!, 🛶 canoe m!
building; city street garden; 🏠 house l!, ⛪ church/churches l, 🏭 factory/factories l, ⛲ fountain l, 🎡 ferris wheel l, 🎠 carousel l
building; mountains; 🏰 castle l, ⛺ tent l!, 🗼 tower l, 🗿 stone head m
thing; city street garden; 🎸 guitar m!, 🎹 piano m, 🥁 drum m!, 🎺 trumpet s, 🎻 violin s, 🎷 saxophone m, 🎤 microphone s, 🎧 headphones/headphones s, 📻 radio s!, 📺 television m, 📷 camera s!, 💻 laptop s, ☎ telephone s!, ⏰ clock s!, ⏳ hourglass/hourglasses s, 💡 light bulb s, 🕯 candle s!, 📖 book s!, ✏ pencil s!, ✂ ~scissors s, 🔑 key s!, 🔒 lock s!, 🔨 hammer s, 🪓 axe s, 🧲 magnet s, 🧹 broom m, 🧺 basket s
thing; garden city street; 🪑 chair m!, 🛏 bed l, 🛋 sofa l!, 🛁 bathtub m, 🧸 teddy bear s!, 🎈 balloon s!, 🎁 gift s!, 🪁 kite s!, 🏆 trophy/trophies s, ⚽ soccer ball s, 🏀 basketball s, 🎾 tennis racket s, 🏈 football s
thing; city street beach; 👑 crown s, 🎩 top hat s, 🧢 cap s!, 👟 shoe s!, 👢 boot s!, 👗 dress/dresses m!, 👕 shirt m!, 🧣 scarf/scarves s!, 🧦 ~socks s!, 🕶 ~sunglasses s, 💎 gem s!, 🎒 backpack s!, 👜 handbag s!, ☂ umbrella m!
thing; ocean beach; ⚓ anchor m!, 🐚 seashell s
thing; mountains snowy field; 🔔 bell s, ⭐ star s!, ❤ heart s!, 🤖 robot m!, 👻 ghost m, 👽 alien m, ⛄ snowman/snowmen m, 🔮 crystal ball s, 🔭 telescope m, 🌍 globe s, 📫 mailbox/mailboxes m
"""


def _noun(entry: str, kind: str, homes: tuple[str, ...]) -> Noun:
    """Parse one entry of the table."""
    emoji, rest = entry.strip().split(" ", 1)
    tintable = rest.endswith("!")
    names, size = rest.rstrip("!").rsplit(" ", 1)
    several = names.startswith("~")
    name, _, plural = names.lstrip("~").partition("/")
    plural = plural or (name if several else name + "s")
    article = VOWEL_SOUND_EXCEPTIONS.get(name) or ("an" if name[0] in "aeiou" else "a")
    if several or name in UNCOUNTED:
        article = "some"
    return Noun(emoji, name, plural, article, {"s": "small", "m": "medium", "l": "large"}[size], homes, kind, tintable)


UNCOUNTED = frozenset({"bread", "broccoli", "corn", "popcorn", "headphones", "cheese"})


def _parse(table: str) -> tuple[Noun, ...]:
    """All nouns of the table, in order."""
    found: list[Noun] = []
    for row in table.strip().splitlines():
        kind, places, entries = (part.strip() for part in row.split(";"))
        homes = tuple(place.name for place in PLACES if place.name in places)
        found.extend(_noun(entry, kind, homes) for entry in entries.split(","))
    return tuple(found)


NOUNS: tuple[Noun, ...] = _parse(_TABLE)


@cache
def noun_index(name: str) -> int:
    """Class number of a noun by its singular name. Raises KeyError if there is none."""
    return {noun.name: number for number, noun in enumerate(NOUNS)}[name]


@cache
def natives(place: str) -> tuple[int, ...]:
    """Class numbers of the nouns that usually live at a place."""
    return tuple(number for number, noun in enumerate(NOUNS) if place in noun.homes)


def mention(noun: Noun, count: int = 1, colour: str = "", size: str = "") -> str:
    """A noun phrase: 'a small red car', 'two dogs', 'some grapes'."""
    words = [word for word in (size, colour) if word]
    if count > 1:
        return " ".join((COUNT_WORDS[count], *words, noun.plural))
    article = noun.article
    if words and article != "some":
        article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join((article, *words, noun.name))
