"""Looking at tokens: ids and layers of one part, a picture from its first tokens, a sound through its first layers,
and what the model sees or hears of an upload. Everything is computed when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from anygpt_demo import protocol
from anygpt_demo.chat import Chat, Media
from anygpt_demo.conversation import Conversation, MediaPart, TextPart, Turn
from anygpt_demo.errors import BadText
from anygpt_demo.media import read_audio
from anygpt_demo.view import NAMES, button, literal, shown_file, shown_media

ROWS = 250  # frames that are printed
LEVELS = 8  # of SpeechTokenizer
EMPTY = '<p class="smallprint">Click the coloured strip below a reply, or "What the model sees" below a file of yours.</p>'


def find(conversation: Conversation, place: str) -> tuple[int, int, Turn]:
    """Turn and part that a button names: "3.1". Raises BadText if they are gone."""
    index, _, number = place.partition(".")
    if index.isdecimal() and (number or "0").isdecimal() and int(index) < len(conversation.turns):
        turn = conversation.turns[int(index)]
        if int(number or 0) < max(1, len(turn.parts)):
            return int(index), int(number or 0), turn
    raise BadText("This part is gone.", "The chat has changed since.", "Look at the newest reply.")


def steps(chat: Chat, part: MediaPart) -> int:
    """How far a part can be taken apart: tokens of a picture, layers of a sound."""
    facts = chat.vocabulary.ranges[part.modality].modality
    return len(part.codes) if facts.kind == "image" else LEVELS if part.modality == "speech" else facts.layers


def taken_apart(chat: Chat, part: MediaPart, amount: int, folder: Path) -> Media:
    """A picture of its first `amount` tokens, a sound through its first `amount` layers. Raises UserError."""
    codec = chat.codec(part.modality)
    amount = max(1, min(amount, steps(chat, part)))
    if hasattr(codec, "first"):
        made: Media = codec.first(part.codes, amount)
    elif part.modality == "speech" and hasattr(codec, "layers") and part.file is not None:
        rate = chat.vocabulary.ranges["speech"].modality.sample_rate_hz or 16_000
        audio, _ = read_audio((folder / part.file).read_bytes(), rate_hz=rate, limit_s=60.0, crop=True)
        made = codec.layers(audio, amount)
    elif hasattr(codec, "layers"):
        made = codec.layers(part.codes, amount)
    else:
        made = codec.decode(part.codes)
    return made


def player(path: str, modality: str, label: str) -> str:
    """A picture or an audio player in the drawer."""
    url = f"gradio_api/file={quote(path)}"
    if modality == "image":
        return f'<figure><img src="{url}" alt="{literal(label)}"><figcaption>{literal(label)}</figcaption></figure>'
    return f'<figure><audio controls src="{url}" aria-label="{literal(label)}"></audio><figcaption>{literal(label)}</figcaption></figure>'


def panel(chat: Chat, conversation: Conversation, folder: Path, place: str, amount: int | None = None) -> str:
    """The Tokens drawer for one part. amount: tokens or layers to use of it. Raises UserError."""
    index, number, turn = find(conversation, place)
    if not turn.parts:
        return EMPTY
    part = turn.parts[number]
    if isinstance(part, TextPart):
        return _text_panel(chat, turn, index, number, part)
    facts = chat.vocabulary.ranges[part.modality].modality
    most = steps(chat, part)
    name = NAMES.get(part.modality, part.modality)
    shown = []
    if part.file is not None:
        label = "as you sent it" if turn.role == "human" else "the reply"
        if part.seconds:
            label = f"the reply; its tokens are the first {len(part.codes) / (facts.frame_rate_hz or 1):.1f} s"
        shown.append(player(shown_file(folder / part.file, name)["path"], part.modality, label))
    if amount is not None or turn.role == "human":
        used = most if amount is None else max(1, min(amount, most))
        whole = turn.role == "human" and amount is None
        media = chat.codec(part.modality).decode(part.codes) if whole else taken_apart(chat, part, used, folder)
        unit = "tokens" if facts.kind == "image" else "layers"
        verb = "sees" if facts.kind == "image" else "hears"
        label = f"what the model {verb}" if whole else f"the first {used} of {most} {unit}"
        shown.append(player(shown_media(media, label)["path"], part.modality, label))
    scrub = _slider(place, most, most if amount is None else amount, facts.kind) if facts.kind == "image" or most > 1 else ""
    say = button("branch", f"{index}.{number}", "Continue from here") if turn.role == "mmgpt" else ""
    head = f'<h2 class="of-{part.modality}">{name}: {part.codes.size} tokens</h2>'
    return f'{head}<div class="pair">{"".join(shown)}</div>{scrub}{say}{_ids(chat, part, _shares(chat, turn, number))}'


def _slider(place: str, most: int, value: int, kind: str) -> str:
    about = "Use the first tokens only" if kind == "image" else "Listen to the first layers only"
    return (
        f'<label class="scrub">{about}<input type="range" name="scrub" data-place="{place}" min="1" max="{most}" value="{value}">'
        f"<output>{value} of {most}</output></label>"
    )


def _shares(chat: Chat, turn: Turn, number: int) -> Sequence[float | None] | None:
    """Probabilities of the ids of one part, if the engine noted them."""
    shares = turn.facts.get("shares")
    if not isinstance(shares, list) or len(shares) != len(turn.ids):
        return None
    spans = protocol.blocks(chat.vocabulary, turn.ids)
    media = [place for place, part in enumerate(turn.parts) if isinstance(part, MediaPart)]
    if number not in media or len(spans) != len(media):
        return None
    first, last = spans[media.index(number)]
    return list(shares[first + 1 : last - 1])


def _ids(chat: Chat, part: MediaPart, shares: Sequence[float | None] | None) -> str:
    """Frames as rows, layers as columns: the code, and how likely it was."""
    item = chat.vocabulary.ranges[part.modality]
    layers = part.codes.shape[1]
    head = "".join(f"<th>layer {layer + 1}</th>" for layer in range(layers)) if layers > 1 else "<th>code</th>"
    told = shares is not None and len(shares) == part.codes.size and all(isinstance(share, int | float) for share in shares)
    likely = np.asarray(shares, float).reshape(part.codes.shape) if told else None
    rows = []
    for frame, codes in enumerate(part.codes[:ROWS]):
        cells = "".join(
            f"<td>{int(code)}{f' <small>{likely[frame, layer]:.0%}</small>' if likely is not None else ''}</td>"
            for layer, code in enumerate(codes)
        )
        rows.append(f"<tr><th>{frame + 1}</th>{cells}</tr>")
    about = f"Ids {item.first} to {item.stop - 1} are {part.modality}; id = {item.first} + layer x {item.modality.codebook} + code."
    table = f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"
    return f'<p class="smallprint">{about}</p><div class="ids" tabindex="0" role="region" aria-label="Ids">{table}</div>'


def _text_panel(chat: Chat, turn: Turn, index: int, number: int, part: TextPart) -> str:
    tokens = chat.vocabulary
    ids = tokens.encode_text(part.text)
    spelled = [(token, literal(tokens.spell(token).decode("utf-8", "replace"))) for token in ids]
    pieces = "".join(f'<span class="piece">{text or "&#183;"}<small>{token}</small></span>' for token, text in spelled)
    say = button("branch", f"{index}.{number}", "Continue from here") if turn.role == "mmgpt" else ""
    return f'<h2 class="of-text">Text: {len(ids)} tokens</h2><div class="pieces">{pieces}</div>{say}'
