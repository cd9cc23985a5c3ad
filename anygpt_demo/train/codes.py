"""Stage codes: everything the language model learns from, encoded with the family's codecs. Data that is missing is made first.

The codec stages leave codes behind too; this one makes those that are still missing, so that a language model can be trained from exported
codecs alone. What is complete is left alone, unless the option redo=1 asks for it again (after a codec was trained anew).
"""

from __future__ import annotations

from anygpt_demo.checkpoints import Family
from anygpt_demo.train.loop import Settings

HEARD = ("synth1", "human")  # sets of speech that are also heard through another microphone


def train(settings: Settings) -> None:
    """Encode pictures, music and speech. The budget is not used: the work has an end."""
    again = settings.options.get("redo") == "1"
    pictures(settings, again)
    music(settings, again)
    speech(settings, again)


def pictures(settings: Settings, again: bool = False) -> None:
    """runs/data/codes/pictures, about 3 CPU minutes."""
    from anygpt_demo.train.picture_codes import make_codes
    from anygpt_demo.train.picture_data import make_stock

    make_stock(settings.runs / "data" / "pictures", settings.seed)
    if again or not (settings.runs / "data" / "codes" / "pictures" / "codes.u16").is_file():
        make_codes(settings)


def music(settings: Settings, again: bool = False) -> None:
    """runs/data/codes/music, about 16 CPU minutes: every piece once as it is and once as mini plays it."""
    from anygpt_demo.train.music_codes import make

    if again or not (settings.runs / "data" / "codes" / "music" / "replies.u16").is_file():
        make(settings)


def speech(settings: Settings, again: bool = False) -> None:
    """codes.u16 and words.u16 beside every set of speech, and codes_aug1.u16 beside HEARD; about 1 CPU minute an hour of each.

    Sets that are missing are spoken first.
    """
    from anygpt_demo.codecs.speech import SpeechCodec
    from anygpt_demo.synth.make import SPEECH_SETS
    from anygpt_demo.synth.speech import make_set
    from anygpt_demo.train import word_spans
    from anygpt_demo.train.speech_codes import encode_set

    home = settings.runs / "data" / "speech"
    codec = SpeechCodec.load(Family.open(settings.family), settings.device)
    for name in SPEECH_SETS:
        if not (home / name / "index.json").is_file():
            make_set(name, home, settings.data, settings.seed, settings.threads)
        if not (home / name / "index.json").is_file():
            continue  # recordings of people that are not there
        if again:
            for file in ("codes.u16", "codes_aug1.u16"):
                (home / name / file).unlink(missing_ok=True)
        encode_set(home / name, codec)
        if name in HEARD:
            encode_set(home / name, codec, augmented=1)
        word_spans.write(home / name)
