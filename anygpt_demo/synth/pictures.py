"""Draw scenes of the small world with Pillow and the Noto Color Emoji font.

`render` is the true drawing at 256 px; `render_fine` draws the same scene at 512 px. `Studio` is the fast path for training
at 128 px: cached backdrops and sprites, with labels per instance and per cell. All are deterministic: equal scenes (or equal generators) give equal pixels.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from anygpt_demo.errors import MissingProgram
from anygpt_demo.synth.scenes import SLOTS, Box, Scene, Thing, describe, request, sample_scene, with_changes
from anygpt_demo.synth.world import COLOURS, NOUNS, PLACES, STYLES, TIMES, noun_index

if TYPE_CHECKING:
    from anygpt_demo.media import Picture

__all__ = [
    "Batch",
    "Box",
    "Scene",
    "Studio",
    "Thing",
    "describe",
    "evaluation_batch",
    "evaluation_scenes",
    "render",
    "render_fine",
    "render_rgb",
    "request",
    "sample_scene",
    "with_changes",
]

FONTS = (Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"), Path("/usr/share/fonts/noto/NotoColorEmoji.ttf"))
STRIKE = 109  # the only size of the font's bitmaps, in pixels per em
SIDE = 256  # pixels of the true drawing
SMALL = 128  # pixels of the training drawing
GRID = 8  # cells per side of the class map
BACKGROUND = len(NOUNS)  # class of an empty cell and of an empty slot
UNSURE = -1  # class of a cell that an object only grazes
PLACE_INDEX = {place.name: number for number, place in enumerate(PLACES)}
TIME_INDEX = {time.name: number for number, time in enumerate(TIMES)}
STYLE_INDEX = {style.name: number for number, style in enumerate(STYLES)}
HUES = {"red": 0, "orange": 18, "yellow": 36, "green": 90, "blue": 152, "purple": 196, "pink": 232}  # of 256
RGB = tuple[int, int, int]
FINE_EDGES = ImageFilter.Kernel(  # FIND_EDGES with neighbours two pixels away: lines of 512 px are as wide as those of 256 px
    (5, 5), [-1, 0, -1, 0, -1, *[0] * 5, -1, 0, 8, 0, -1, *[0] * 5, -1, 0, -1, 0, -1], scale=1
)


@cache
def _font() -> ImageFont.FreeTypeFont:
    """The emoji font. Raises MissingProgram if it is not installed."""
    for path in FONTS:
        if path.is_file():
            return ImageFont.truetype(str(path), STRIKE)
    raise MissingProgram(
        "The emoji font is missing.", "Pictures of the small world are drawn with Noto Color Emoji.", "Install fonts-noto-color-emoji."
    )


@cache
def glyph(emoji: str) -> Image.Image:
    """One emoji, RGBA, cropped to its ink; about 136 x 128 px."""
    image = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(image).text((8, 8), emoji, font=_font(), embedded_color=True)
    return image.crop(image.getbbox())


def tint(image: Image.Image, colour: str) -> Image.Image:
    """An RGBA glyph in another colour; highlights and dark lines stay."""
    alpha = image.getchannel("A")
    hue, saturation, value = (np.asarray(band).astype(np.float32) for band in image.convert("RGB").convert("HSV").split())
    white = (saturation < 40) & (value > 215)
    if colour == "black":
        saturation, value = saturation * 0.2, np.where(white, value, value * 0.38)
    else:
        hue = np.full_like(hue, HUES[colour])
        strength = 120 if colour == "pink" else 205
        saturation = np.where(white, saturation, np.clip(strength + 0.2 * (saturation - 128), 0, 255))
        value = np.where(value > 90, np.clip(value * 0.6 + 95, 0, 255), value)
    bands = [Image.fromarray(band.clip(0, 255).astype(np.uint8)) for band in (hue, saturation, value)]
    result = Image.merge("HSV", bands).convert("RGB")
    result.putalpha(alpha)
    return result


@lru_cache(maxsize=30_000)
def sprite(noun: int, side: int, mirrored: bool, colour: str, light: float) -> Image.Image:
    """A glyph scaled to a longer side in pixels, tinted, mirrored and dimmed (light 0..1)."""
    image = glyph(NOUNS[noun].emoji)
    if colour:
        image = tint(image, colour)
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.LANCZOS if side > 64 else Image.Resampling.BILINEAR, reducing_gap=2.0)
    if mirrored:
        image = ImageOps.mirror(image)
    if light < 1:
        alpha = image.getchannel("A")
        image = ImageEnhance.Brightness(image.convert("RGB")).enhance(light)
        image.putalpha(alpha)
    return image


# --- backdrops, described in units of 1/256 of the side and drawn at any multiple of 256 px ---


class Pen:
    """A Pillow pen whose coordinates are units: `unit` pixels each, so that a finer canvas gets finer lines.

    Shapes given by their corners include the last unit, as Pillow's include the last pixel.
    """

    def __init__(self, image: Image.Image, unit: int) -> None:
        self._draw = ImageDraw.Draw(image, "RGBA")
        self._unit = unit

    def _box(self, box: Sequence[float]) -> tuple[float, float, float, float]:
        unit = self._unit
        left, top, right, bottom = box
        return left * unit, top * unit, (right + 1) * unit - 1, (bottom + 1) * unit - 1

    def _points(self, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x * self._unit, y * self._unit) for x, y in points]

    def ellipse(self, box: Sequence[float], fill: tuple[int, ...]) -> None:
        """As of ImageDraw."""
        self._draw.ellipse(self._box(box), fill=fill)

    def rectangle(self, box: Sequence[float], fill: tuple[int, ...]) -> None:
        """As of ImageDraw."""
        self._draw.rectangle(self._box(box), fill=fill)

    def arc(self, box: Sequence[float], start: float, end: float, fill: tuple[int, ...], width: int) -> None:
        """As of ImageDraw."""
        self._draw.arc(self._box(box), start, end, fill=fill, width=width * self._unit)

    def polygon(self, points: Sequence[tuple[float, float]], fill: tuple[int, ...]) -> None:
        """As of ImageDraw."""
        self._draw.polygon(self._points(points), fill=fill)

    def line(self, points: Sequence[float], fill: tuple[int, ...], width: int) -> None:
        """As of ImageDraw."""
        self._draw.line([value * self._unit for value in points], fill=fill, width=width * self._unit)


def _noise(random_state: np.random.Generator, height: int, width: int, cell: int, amount: float) -> np.ndarray:
    """Smooth noise, float32 (height, width, 1), about +-amount/2, with features of `cell` pixels."""
    small = random_state.random((max(2, height // cell), max(2, width // cell)), dtype=np.float32)
    large = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    return (large[..., None] - 0.5) * amount


def _gradient(upper: RGB, lower: RGB, height: int, width: int) -> np.ndarray:
    """float32 (height, width, 3)."""
    share = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    return np.broadcast_to(np.array(upper, np.float32) * (1 - share) + np.array(lower, np.float32) * share, (height, width, 3))


def _dim(colour: Sequence[int], light: float, alpha: int = 255) -> tuple[int, int, int, int]:
    """A colour under the light of the scene."""
    red, green, blue = (int(min(255, value * light)) for value in colour)
    return red, green, blue, alpha


def _cloud(draw: Pen, rng: random.Random, height: int, fill: tuple[int, int, int, int]) -> None:
    """One cloud of overlapping ellipses."""
    x, y = rng.randrange(-10, 210), rng.randrange(8, max(9, height // 2))
    for k in range(5):
        lift = (0, 9, 14, 8, 0)[k]
        draw.ellipse((x + k * 13, y - lift, x + k * 13 + 30, y + 18), fill=fill)


def _sky(draw: Pen, rng: random.Random, time: str, height: int) -> None:
    """Sun, moon, stars, clouds and lightning."""
    if time == "night":
        for _ in range(rng.randint(25, 45)):
            x, y = rng.randrange(SIDE), rng.randrange(height - 10)
            draw.ellipse((x, y, x + 1.6, y + 1.6), fill=(255, 255, 230, 255))
        x = rng.randint(20, 205)
        draw.ellipse((x, 16, x + 32, 48), fill=(247, 244, 215, 255))
    elif time == "sunny":
        x = rng.randint(12, 205)
        draw.ellipse((x - 7, 9, x + 45, 61), fill=(255, 240, 160, 90))
        draw.ellipse((x, 16, x + 38, 54), fill=(255, 232, 110, 255))
    elif time in ("sunset", "dawn"):
        x = rng.randint(12, 205)
        y = height - rng.randint(26, 40)
        draw.ellipse((x, y, x + 40, y + 40), fill=(255, 176, 70, 255) if time == "sunset" else (255, 236, 200, 255))
    clouds = {"cloudy": 5, "sunny": 2, "stormy": 4}.get(time, 0)
    fill = (70, 74, 86, 225) if time == "stormy" else (255, 255, 255, 215)
    for _ in range(clouds):
        _cloud(draw, rng, height, fill)
    if time == "stormy":
        x = rng.randint(40, 210)
        bolt = [(x, 20), (x - 12, 55), (x - 1, 55), (x - 14, 95), (x + 16, 46), (x + 5, 46), (x + 14, 20)]
        draw.polygon(bolt, fill=(255, 240, 140, 255))


def _mountains(draw: Pen, rng: random.Random, horizon: int, light: float) -> None:
    for _ in range(4):
        x, width, height = rng.randint(-10, 250), rng.randint(80, 130), rng.randint(65, 110)
        draw.polygon([(x - width // 2, horizon), (x + width // 2, horizon), (x, horizon - height)], fill=_dim((108, 112, 130), light))
        cap = height * 3 // 4
        draw.polygon(
            [(x - width // 8, horizon - cap), (x + width // 8, horizon - cap), (x, horizon - height)], fill=_dim((240, 245, 250), light)
        )


def _street(draw: Pen, rng: random.Random, horizon: int, light: float) -> None:
    x = 0
    while x < SIDE:
        width, height, grey = rng.randint(26, 50), rng.randint(60, horizon - 20), rng.randint(90, 160)
        draw.rectangle((x, horizon - height, x + width, horizon), fill=_dim((grey, grey * 0.95, grey * 1.05), light))
        for y in range(horizon - height + 6, horizon - 8, 13):
            for left in range(x + 4, x + width - 6, 11):
                if rng.random() < 0.7:
                    draw.rectangle((left, y, left + 5, y + 7), fill=(255, 225, 130, 255) if light < 0.85 else (200, 222, 240, 255))
        x += width + 2
    middle = (horizon + SIDE) // 2
    for left in range(-10, SIDE, 44):
        draw.rectangle((left, middle, left + 24, middle + 5), fill=_dim((235, 235, 225), light))


def _garden(draw: Pen, rng: random.Random, horizon: int, light: float) -> None:
    for y in (horizon - 22, horizon - 9):
        draw.rectangle((0, y, SIDE, y + 4), fill=_dim((150, 98, 52), light))
    for x in range(rng.randrange(16) - 16, SIDE, 16):
        draw.polygon(
            [(x, horizon + 3), (x, horizon - 28), (x + 5, horizon - 34), (x + 10, horizon - 28), (x + 10, horizon + 3)],
            fill=_dim((178, 120, 66), light),
        )
    for _ in range(70):
        x, y = rng.randrange(SIDE), rng.randrange(horizon + 8, SIDE)
        petal = rng.choice(((235, 70, 90), (250, 215, 70), (245, 245, 250), (190, 90, 210), (250, 140, 60)))
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_dim(petal, light))


def _meadow(draw: Pen, rng: random.Random, horizon: int, light: float) -> None:
    for _ in range(150):
        x, y = rng.randrange(SIDE), rng.randrange(horizon + 4, SIDE)
        draw.line((x, y, x + rng.randint(-3, 3), y - rng.randint(5, 10)), fill=_dim((170, 232, 96), light), width=1)


def _water(draw: Pen, rng: random.Random, horizon: int, light: float, wide: bool) -> None:
    for _ in range(26):
        x, y = rng.randrange(-10, 250), rng.randrange(horizon + 6, SIDE - 4)
        length = rng.randint(18, 40) if wide else rng.randint(8, 20)
        draw.arc((x, y - 4, x + length, y + 5), 200, 340, fill=_dim((215, 235, 250), light, 200), width=2)


def _lake(draw: Pen, rng: random.Random, horizon: int, light: float) -> None:
    _water(draw, rng, horizon, light, wide=False)
    for x in range(-20, SIDE, 26):
        width = rng.randint(34, 60)
        draw.ellipse((x, horizon - rng.randint(12, 24), x + width, horizon + 7), fill=_dim((66, 128, 62), light))
    draw.rectangle((0, horizon, SIDE, horizon + 6), fill=_dim((96, 150, 76), light))
    draw.ellipse((-60, SIDE - rng.randint(18, 30), SIDE + 60, SIDE + 60), fill=_dim((104, 160, 80), light))


def _dunes(draw: Pen, rng: random.Random, horizon: int, light: float) -> None:
    for _ in range(3):
        x, width, height = rng.randint(0, SIDE), rng.randint(120, 220), rng.randint(16, 34)
        draw.ellipse((x - width // 2, horizon - height, x + width // 2, horizon + height), fill=_dim((232, 180, 100), light))
    for k in range(5):
        y = horizon + 16 + k * 20 + rng.randint(-4, 4)
        draw.arc((rng.randint(-60, 60), y, rng.randint(180, 320), y + 22), 190, 350, fill=_dim((182, 124, 54), light), width=2)


def _place(image: Image.Image, rng: random.Random, place: str, horizon: int, light: float, unit: int) -> None:
    """What stands at a place, drawn over sky and ground."""
    draw = Pen(image, unit)
    if place == "forest":
        for _ in range(11):
            height = rng.randint(56, 96)
            tree = _fir(height * unit, light)
            left = rng.randint(0, SIDE - _fir(height, light).width)
            image.alpha_composite(tree, (left * unit, max(0, horizon - height + rng.randint(0, 14)) * unit))
    elif place == "beach":
        draw.rectangle((0, horizon, SIDE, horizon + 26), fill=_dim((36, 128, 196), light))
        draw.rectangle((0, horizon + 26, SIDE, horizon + 30), fill=_dim((240, 245, 245), light))
    elif place == "ocean":
        _water(draw, rng, horizon, light, wide=True)
    else:
        painters = {"mountains": _mountains, "city street": _street, "garden": _garden, "meadow": _meadow, "lake": _lake, "desert": _dunes}
        if place in painters:
            painters[place](draw, rng, horizon, light)


@cache
def _fir(side: int, light: float) -> Image.Image:
    """A fir tree of the forest's background."""
    image = glyph("\N{EVERGREEN TREE}")
    image = image.resize((round(side * image.width / image.height), side), Image.Resampling.LANCZOS)
    alpha = image.getchannel("A")
    dimmed = ImageEnhance.Brightness(image.convert("RGB")).enhance(light)
    dimmed.putalpha(alpha)
    return dimmed


def backdrop(place: str, time: str, horizon: float, seed: int, unit: int = 1) -> Image.Image:
    """Sky and ground without objects, RGBA, 256 px times `unit`. Equal seeds give the same view at every size."""
    rng = random.Random(seed)
    grain = np.random.default_rng(seed)
    where, when = PLACES[PLACE_INDEX[place]], TIMES[TIME_INDEX[time]]
    line = round(horizon * SIDE)
    side, edge = SIDE * unit, line * unit
    pixels = np.empty((side, side, 3), np.float32)
    pixels[:edge] = _gradient(*when.sky, edge, side) + _noise(grain, edge, side, 32 * unit, 12)
    pixels[edge:] = (_gradient(*where.ground, side - edge, side) + _noise(grain, side - edge, side, 6 * unit, 18)) * when.light
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGBA")
    _sky(Pen(image, unit), rng, time, line)
    _place(image, rng, place, line, when.light, unit)
    if time == "foggy":
        veil = np.zeros((side, side, 4), np.uint8)
        veil[..., :3] = 214
        distance = np.abs(np.arange(side) - edge) / side
        veil[..., 3] = (215 * np.exp(-((distance / 0.22) ** 2))).astype(np.uint8)[:, None]
        image.alpha_composite(Image.fromarray(veil))
    return image


# --- styles, at any size ---


def _watercolor(image: Image.Image, grain: np.random.Generator) -> Image.Image:
    unit = image.width / SIDE
    soft = ImageOps.posterize(image.filter(ImageFilter.GaussianBlur(1.1 * unit)), 4).filter(ImageFilter.GaussianBlur(0.5 * unit))
    pixels = np.asarray(soft).astype(np.float32) + _noise(grain, image.width, image.width, max(1, round(4 * unit)), 18)
    return Image.fromarray((pixels * 0.74 + 64).clip(0, 255).astype(np.uint8))


def _oil(image: Image.Image, grain: np.random.Generator) -> Image.Image:
    """Short brush strokes: every patch of the canvas takes its colour from a place nearby."""
    side = image.width
    unit = side / SIDE
    rich = np.asarray(ImageEnhance.Color(image).enhance(1.35))
    high, wide = max(2, round(4 * unit)), max(3, round(8 * unit))
    rows, columns = -(-side // high), -(-side // wide)
    shift = np.rint(grain.uniform(-3.4 * unit, 3.4 * unit, (2, rows, columns))).astype(int)
    shift = shift.repeat(high, 1).repeat(wide, 2)[:, :side, :side]
    y, x = np.mgrid[:side, :side]
    strokes = rich[(y + shift[0]).clip(0, side - 1), (x + shift[1]).clip(0, side - 1)].astype(np.float32)
    light = grain.uniform(-9, 9, (rows, columns)).repeat(high, 0).repeat(wide, 1)[:side, :side, None]
    return Image.fromarray((strokes + light).clip(0, 255).astype(np.uint8))


def _pencil(image: Image.Image, grain: np.random.Generator) -> Image.Image:
    """Dodged lines over soft grey hatching, which keeps the tones of ground and sky visible."""
    grey = ImageOps.grayscale(image)
    inverse = np.asarray(ImageOps.invert(grey).filter(ImageFilter.GaussianBlur(6 * image.width / SIDE)), np.float32)
    tone = np.asarray(grey, np.float32)
    lines = (tone * 255 / np.maximum(255 - inverse, 1)).clip(0, 255)
    hatching = tone * 0.8 + 40 + _noise(grain, image.width, image.width, max(1, round(3 * image.width / SIDE)), 16)[..., 0]
    return Image.fromarray((0.45 * lines + 0.55 * hatching).clip(0, 255).astype(np.uint8)).convert("RGB")


def _pixels(image: Image.Image) -> Image.Image:
    small = image.resize((48, 48), Image.Resampling.BOX).quantize(24).convert("RGB")
    return small.resize((SIDE, SIDE), Image.Resampling.NEAREST).resize(image.size, Image.Resampling.BOX)


def _vintage(image: Image.Image) -> Image.Image:
    sepia = np.array([[0.393, 0.349, 0.272], [0.769, 0.686, 0.534], [0.189, 0.168, 0.131]], np.float32)
    return Image.fromarray((np.asarray(image, np.float32) @ sepia * 0.85 + 15).clip(0, 255).astype(np.uint8))


def _comic(image: Image.Image) -> Image.Image:
    """Few strong colours with dark outlines."""
    flat = ImageOps.posterize(ImageEnhance.Color(image.filter(ImageFilter.GaussianBlur(image.width / SIDE))).enhance(1.5), 2)
    flat = flat.point(lambda value: min(255, value + 40))
    fine = image.width > SIDE
    lines = image.filter(FINE_EDGES if fine else ImageFilter.FIND_EDGES)
    edges = ImageOps.grayscale(lines).point(lambda value: 0 if value > 46 else 255)
    frame = (0, 0, edges.width - 1, edges.height - 1)
    ImageDraw.Draw(edges).rectangle(frame, outline=255, width=2 if fine else 1)  # the filter marks the frame
    return ImageChops.multiply(flat, Image.merge("RGB", (edges, edges, edges)))


def stylize(image: Image.Image, style: str, seed: int) -> Image.Image:
    """An RGB picture in one of the world's styles."""
    grain = np.random.default_rng(seed + 1)
    if style == "watercolor":
        return _watercolor(image, grain)
    if style == "oil painting":
        return _oil(image, grain)
    if style == "pencil sketch":
        return _pencil(image, grain)
    if style == "pixel art":
        return _pixels(image)
    if style == "black and white":
        return ImageOps.grayscale(image).convert("RGB")
    if style == "vintage photo":
        return _vintage(image)
    return _comic(image) if style == "comic" else image


# --- composition ---


def _compose(scene: Scene, canvas: Image.Image) -> tuple[Image.Image, np.ndarray]:
    """Put the objects on a backdrop. Returns the RGB picture and the owner of each pixel (0 none, k + 1 instance k)."""
    side = canvas.width
    owner = np.zeros((side, side), np.uint8)
    light = TIMES[TIME_INDEX[scene.time]].light
    light = round(0.6 + 0.4 * light, 2)  # objects are lit better than the ground
    order = list(enumerate(scene.instances()))
    order.sort(key=lambda item: item[1][1].y + item[1][1].size / 2)  # nearer things stand lower and cover those behind
    for number, (thing, box) in order:
        image = sprite(noun_index(thing.noun), max(8, round(box.size * side)), box.mirrored, thing.colour, light)
        left = min(max(0, round(box.x * side - image.width / 2)), side - image.width)
        top = min(max(0, round(box.y * side - image.height / 2)), side - image.height)
        canvas.alpha_composite(image, (left, top))
        owner[top : top + image.height, left : left + image.width][np.asarray(image)[..., 3] > 100] = number + 1
    return canvas.convert("RGB"), owner


def render_rgb(scene: Scene, size: int = SIDE) -> np.ndarray:
    """The true drawing. Returns uint8 (size, size, 3)."""
    image, _ = _compose(scene, backdrop(scene.place, scene.time, scene.horizon, scene.seed))
    image = stylize(image, scene.style, scene.seed)
    if size != SIDE:
        image = image.resize((size, size), Image.Resampling.BOX if size < SIDE else Image.Resampling.BICUBIC)
    return np.asarray(image)


def render_fine(scene: Scene) -> np.ndarray:
    """The same scene drawn at 512 px, not enlarged: uint8 (512, 512, 3).

    Lines, shapes and styles have the finer edges of the larger canvas; glyphs are those of the font (136 px), enlarged where
    a thing is larger than that.
    """
    image, _ = _compose(scene, backdrop(scene.place, scene.time, scene.horizon, scene.seed, unit=2))
    return np.asarray(stylize(image, scene.style, scene.seed))


def render(scene: Scene, size: int = SIDE) -> Picture:
    """The true drawing as a Picture of size x size pixels."""
    from anygpt_demo.media import Picture

    return Picture(render_rgb(scene, size))


@dataclass(frozen=True)
class Batch:
    """Pictures at 128 px with their truth, for training and judging. n pictures."""

    pixels: np.ndarray  # uint8 (n, 128, 128, 3)
    scenes: tuple[Scene, ...]
    place: np.ndarray  # int64 (n,)
    time: np.ndarray  # int64 (n,)
    style: np.ndarray  # int64 (n,)
    count: np.ndarray  # int64 (n,): instances in the slots, 0..3
    nouns: np.ndarray  # int64 (n, 3): class per slot in the order of Scene.slots(), BACKGROUND for empty
    colours: np.ndarray  # int64 (n, 3): 0 natural, else 1 + index into COLOURS
    boxes: np.ndarray  # float32 (n, 3, 4): x, y, size in shares of the side, mirrored 0/1
    grid: np.ndarray  # int64 (n, 8, 8): noun of each cell, BACKGROUND, or UNSURE
    mask: np.ndarray  # bool (n, 128, 128): pixels that belong to an object

    def __len__(self) -> int:
        return len(self.pixels)


def _cells(owner: np.ndarray, classes: list[int]) -> np.ndarray:
    """Class map int64 (8, 8): an object owns a cell from 42 % cover; between 6 and 42 % the cell is unsure."""
    cell = len(owner) // GRID
    cover = np.stack([(owner == k + 1).reshape(GRID, cell, GRID, cell).mean((1, 3)) for k in range(len(classes))])
    most = cover.max(0)
    nouns = np.array(classes)[cover.argmax(0)]
    return np.where(most >= 0.42, nouns, np.where(most <= 0.06, BACKGROUND, UNSURE))


def _batch(scenes: Sequence[Scene], pictures: Sequence[tuple[np.ndarray, np.ndarray]]) -> Batch:
    """Collect pictures (128 px, owner map 128 px) and the labels of their scenes."""
    n = len(scenes)
    nouns = np.full((n, SLOTS), BACKGROUND, np.int64)
    colours = np.zeros((n, SLOTS), np.int64)
    boxes = np.zeros((n, SLOTS, 4), np.float32)
    grid = np.empty((n, GRID, GRID), np.int64)
    count = np.zeros(n, np.int64)
    for row, (scene, (_, owner)) in enumerate(zip(scenes, pictures, strict=True)):
        instances = scene.instances()
        grid[row] = _cells(owner, [noun_index(thing.noun) for thing, _ in instances])
        count[row] = min(SLOTS, len(instances))
        for slot, (thing, box) in enumerate(scene.slots()[:SLOTS]):
            nouns[row, slot] = noun_index(thing.noun)
            colours[row, slot] = 1 + COLOURS.index(thing.colour) if thing.colour else 0
            boxes[row, slot] = (box.x, box.y, box.size, box.mirrored)
    return Batch(
        pixels=np.stack([pixels for pixels, _ in pictures]),
        scenes=tuple(scenes),
        place=np.array([PLACE_INDEX[scene.place] for scene in scenes]),
        time=np.array([TIME_INDEX[scene.time] for scene in scenes]),
        style=np.array([STYLE_INDEX[scene.style] for scene in scenes]),
        count=count,
        nouns=nouns,
        colours=colours,
        boxes=boxes,
        grid=grid,
        mask=np.stack([owner > 0 for _, owner in pictures]),
    )


def evaluation_scenes(n: int, seed: int = 987_654, heldout: bool = False) -> list[Scene]:
    """Ordinary scenes for measuring; seeds of training streams must differ."""
    rng = random.Random(f"evaluation-{seed}")
    return [sample_scene(rng, heldout=heldout) for _ in range(n)]


def evaluation_batch(scenes: Sequence[Scene]) -> Batch:
    """True 256 px drawings, box-reduced to 128 px, with labels."""
    pictures = []
    for scene in scenes:
        image, owner = _compose(scene, backdrop(scene.place, scene.time, scene.horizon, scene.seed))
        pixels = np.asarray(stylize(image, scene.style, scene.seed).reduce(2))
        pictures.append((pixels, owner[::2, ::2]))
    return _batch(scenes, pictures)


class Studio:
    """A fast stream of labelled training pictures at 128 px.

    Backdrops come from a pool that fills while drawing (and is then reused, mirrored half of the time); a share of the
    pictures is drawn truly at 256 px and reduced, so that nothing depends on the shortcuts. Deterministic by seed.
    """

    def __init__(self, seed: int, pool: int = 1500, true_share: float = 0.1) -> None:
        self._rng = random.Random(f"studio-{seed}")
        self._limit = pool
        self._true_share = true_share
        self._pool: list[tuple[str, str, float, Image.Image]] = []

    def _backdrop(self) -> tuple[str, str, float, Image.Image]:
        """Place, time, horizon and a fresh RGBA canvas at 128 px."""
        rng = self._rng
        if len(self._pool) < self._limit:
            place, time, horizon = rng.choice(PLACES).name, rng.choice(TIMES).name, rng.uniform(0.52, 0.64)
            image = backdrop(place, time, horizon, rng.randrange(1 << 30)).reduce(SIDE // SMALL)
            self._pool.append((place, time, horizon, image))
        else:
            place, time, horizon, image = rng.choice(self._pool)
        return place, time, horizon, ImageOps.mirror(image) if rng.random() < 0.5 else image.copy()

    def draw(self, crowded: bool) -> tuple[Scene, np.ndarray, np.ndarray]:
        """One scene, its pixels uint8 (128, 128, 3) and the owner of each pixel."""
        rng = self._rng
        if rng.random() < self._true_share:
            scene = sample_scene(rng, crowded)
            image, owner = _compose(scene, backdrop(scene.place, scene.time, scene.horizon, scene.seed))
            return scene, np.asarray(stylize(image, scene.style, scene.seed).reduce(2)), owner[::2, ::2]
        place, time, horizon, canvas = self._backdrop()
        scene = sample_scene(rng, crowded, place=place, time=time, horizon=horizon)
        image, owner = _compose(scene, canvas)
        return scene, np.asarray(stylize(image, scene.style, scene.seed)), owner

    def batch(self, n: int, crowded_share: float = 0.0) -> Batch:
        """n labelled pictures; each is crowded with the given probability. Slots of crowded ones hold the first three."""
        drawn = [self.draw(self._rng.random() < crowded_share) for _ in range(n)]
        return _batch([scene for scene, _, _ in drawn], [(pixels, owner) for _, pixels, owner in drawn])
