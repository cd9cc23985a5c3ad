"""The registry of modalities. A new one is one file in this package and one line in CODECS.

Each codec module has a top-level `MODALITY` (facts only, no torch) and a codec class with
`load(family, device)`. Importing this package imports no model code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from anygpt_demo.errors import BadCheckpoint

if TYPE_CHECKING:
    from anygpt_demo.checkpoints import Family
    from anygpt_demo.codecs.base import Codec, Rendering
    from anygpt_demo.modality import Modality, Sampling

CODECS: Mapping[str, str] = {  # order is frozen: ids in checkpoints follow it
    "image": "anygpt_demo.codecs.image:ImageCodec",
    "speech": "anygpt_demo.codecs.speech:SpeechCodec",
    "music": "anygpt_demo.codecs.music:MusicCodec",
}
_CODEBOOK_OWNER: Mapping[str, str] = {"image": "image_tokenizer", "speech": "speech_tokenizer", "music": "music_codec"}


def is_stated(name: str, family: Family) -> bool:
    """Whether a family has the component that owns a modality's codebook."""
    return family.has(_CODEBOOK_OWNER.get(name, name))


def modalities(family: Family | None = None, codecs: Mapping[str, str] = CODECS) -> tuple[Modality, ...]:
    """The facts of every registered modality in registry order; a family's manifest may state others.

    Of a codec: `codebook`; of the language model: see stated_sampling().
    """
    found = []
    for name, target in codecs.items():
        facts: Modality = import_module(target.partition(":")[0]).MODALITY
        if family is not None and is_stated(name, family):
            config = family.component(_CODEBOOK_OWNER.get(name, name)).config
            codebook = config.get("codebook", config.get("codebook_size"))
            if codebook is not None:
                facts = dataclasses.replace(facts, codebook=int(codebook))
        facts = dataclasses.replace(facts, sampling=stated_sampling(family, name, facts.sampling))
        found.append(facts)
    return tuple(found)


def stated_sampling(family: Family | None, name: str, usual: Sampling) -> Sampling:
    """How a family draws the codes of a modality, its words ("text") or those of a transcript ("heard"), where that differs from the usual.

    Its language model states it: `sampling`, {name: fields of Sampling}. Raises BadCheckpoint if that cannot be read.
    """
    own = family.component("llm").config.get("sampling", {}) if family is not None and family.has("llm") else {}
    try:
        return dataclasses.replace(usual, **own.get(name, {}))
    except TypeError as error:
        cause = "Its settings have no such name."
        raise BadCheckpoint(f"The sampling of {name} cannot be read.", cause, "Fetch the family again.") from error


def load_codec(name: str, family: Family, device: str = "cpu", codecs: Mapping[str, str] = CODECS, purpose: str = "both") -> Codec:
    """Load the codec of one modality from a family. Raises BadCheckpoint if it is unknown or its files are bad.

    purpose: "encode" or "decode" leaves out what the other direction needs, where a codec can (its class has SPLITS).
    """
    if name not in codecs:
        raise BadCheckpoint(f"There is no codec named {name}.", "It is not registered.", f"Use one of: {', '.join(codecs)}.")
    module, _, attribute = codecs[name].partition(":")
    kind = getattr(import_module(module), attribute)
    options = {"purpose": purpose} if getattr(kind, "SPLITS", False) else {}
    codec: Codec = kind.load(family, device, **options)
    return codec


def tune(codec: Codec, rendering: Rendering) -> Codec:
    """The codec with the choices of a rendering, if it has any of them; its networks are shared."""
    tuned = getattr(codec, "tuned", None)
    found: Codec = codec if tuned is None else tuned(rendering)
    return found
