"""Data sets by name, for the command line: each makes what is missing under runs/data and leaves the rest alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anygpt_demo.train.loop import Settings

KINDS: Mapping[str, str] = {  # name -> module:function(Settings); the order of `synth all`
    "pictures": "anygpt_demo.synth.make:pictures",
    "speech": "anygpt_demo.synth.make:speech",
    "music": "anygpt_demo.synth.make:music",
}
SPEECH_SETS = ("synth0", "synth1", "own", "synth_test", "human")


def pictures(settings: Settings) -> None:
    """The stock of drawn scenes."""
    from anygpt_demo.train.picture_data import make_stock

    make_stock(settings.runs / "data" / "pictures", settings.seed)


def speech(settings: Settings) -> None:
    """All speech sets; recordings of people only if the data folder has them. Option `set=NAME`: one of them."""
    from anygpt_demo.synth.speech import make_set

    wanted = settings.options.get("set")
    for name in (wanted,) if wanted else SPEECH_SETS:
        make_set(name, settings.runs / "data" / "speech", settings.data, settings.seed, settings.threads)


def music(settings: Settings) -> None:
    """Rendered pieces, to train and to test on."""
    from anygpt_demo.train.music_data import sets

    sets(settings)
