"""Looking at tokens: ids and layers of one part, a picture from its first tokens, a sound through its first layers,
and what the model sees or hears of an upload. Everything is computed when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anygpt_demo import protocol
from anygpt_demo.chat import Chat, Media, known_shares
from anygpt_demo.conversation import Conversation, MediaPart, TextPart, Turn
from anygpt_demo.errors import BadText
from anygpt_demo.media import read_audio
from anygpt_demo.view import NAMES, address, button, literal, shown_file, shown_media, words_of

ROWS = 1500  # frames that are printed: a sound of 30 s
LEVELS = 8  # of SpeechTokenizer
AFTER = "Keep the reply up to here and continue it anew"
AFTER_ROW = "Click the number of a row to continue the reply after it."
AFTER_PIECE = "Click a piece to continue the reply after it."
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


def player(shown: dict[str, str], modality: str, label: str) -> str:
    """A picture or an audio player in the drawer."""
    url = address(shown)
    if modality == "image":
        return f'<figure><img src="{url}" alt="{literal(label)}"><figcaption>{literal(label)}</figcaption></figure>'
    return f'<figure><audio controls src="{url}" aria-label="{literal(label)}"></audio><figcaption>{literal(label)}</figcaption></figure>'


def panel(chat: Chat, conversation: Conversation, folder: Path, place: str, amount: int | None = None) -> str:
    """The Tokens drawer for one part. amount: tokens or layers to use of it. Raises UserError."""
    index, number, turn = find(conversation, place.removesuffix(".heard"))
    if place.endswith(".heard"):
        return _heard_panel(chat, turn)
    if not turn.parts:
        return EMPTY
    part = turn.parts[number]
    if isinstance(part, TextPart):
        return _text_panel(chat, turn, index, number)
    facts = chat.vocabulary.ranges[part.modality].modality
    most = steps(chat, part)
    name = NAMES.get(part.modality, part.modality)
    shown = []
    if part.file is not None:
        label = "as you sent it" if turn.role == "human" else "the reply, AI-generated"
        if part.seconds:
            label = f"the reply, AI-generated; its tokens are the first {len(part.codes) / (facts.frame_rate_hz or 1):.1f} s"
        shown.append(player(shown_file(folder / part.file, name), part.modality, label))
    if amount is not None or turn.role == "human":
        used = most if amount is None else max(1, min(amount, most))
        whole = turn.role == "human" and amount is None
        media = chat.codec(part.modality).decode(part.codes) if whole else taken_apart(chat, part, used, folder)
        unit = "tokens" if facts.kind == "image" else "layers"
        verb = "sees" if facts.kind == "image" else "hears"
        label = f"what the model {verb}" if whole else f"the first {used} of {most} {unit}, AI-generated"
        shown.append(player(shown_media(media, label), part.modality, label))
    scrub = _slider(place, most, most if amount is None else amount, facts.kind) if facts.kind == "image" or most > 1 else ""
    say = button("branch", f"{index}.{number}", "Continue from here") if turn.role == "mmgpt" else ""
    head = f'<h2 class="of-{part.modality}">{name}: {part.codes.size} tokens</h2>'
    return f'{head}<div class="pair">{"".join(shown)}</div>{scrub}{say}{_ids(chat, turn, index, number, part)}'


def _slider(place: str, most: int, value: int, kind: str) -> str:
    about = "Use the first tokens only" if kind == "image" else "Listen to the first layers only"
    return (
        f'<label class="scrub">{about}<input type="range" name="scrub" data-place="{place}" min="1" max="{most}" value="{value}">'
        f"<output>{value} of {most}</output></label>"
    )


def _shares(chat: Chat, turn: Turn, number: int, marks: int) -> list[float | None]:
    """How likely each id of one part was, without the marks at either end; empty if the part has no ids of its own."""
    try:
        first, last = protocol.places(chat.vocabulary, turn)[number]
    except (ValueError, IndexError):
        return []
    return known_shares(turn)[first + marks : last - marks]


def _chance(shares: Sequence[float | None], place: int) -> str:
    """A probability in words, if it is known."""
    share = shares[place] if place < len(shares) else None
    return f"{share:.0%}" if share is not None else ""


def _ids(chat: Chat, turn: Turn, index: int, number: int, part: MediaPart) -> str:
    """Frames as rows, layers as columns: the code, and how likely it was. In a reply a row is a place to go on from."""
    item = chat.vocabulary.ranges[part.modality]
    layers = part.codes.shape[1]
    shares = _shares(chat, turn, number, 1)
    head = "".join(f"<th>layer {layer + 1}</th>" for layer in range(layers)) if layers > 1 else "<th>code</th>"
    rows = []
    for frame, codes in enumerate(part.codes[:ROWS]):
        chances = [_chance(shares, frame * layers + layer) for layer in range(layers)]
        cells = "".join(
            f"<td>{int(code)}{f' <small>{chance}</small>' if chance else ''}</td>" for code, chance in zip(codes, chances, strict=True)
        )
        onward = button("branch", f"{index}.{number}.{frame + 1}", str(frame + 1), AFTER)
        rows.append(f"<tr><th>{onward if turn.role == 'mmgpt' else frame + 1}</th>{cells}</tr>")
    about = f"Ids {item.first} to {item.stop - 1} are {part.modality}; id = {item.first} + layer x {item.modality.codebook} + code."
    told = f"<span>{about}</span>{f' <span>{AFTER_ROW}</span>' if turn.role == 'mmgpt' else ''}"
    table = f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"
    return f'<p class="smallprint">{told}</p><div class="ids" tabindex="0" role="region" aria-label="Ids">{table}</div>'


def _piece(chat: Chat, token: int, chance: str, place: str = "") -> str:
    """One word piece: what it says, its id, how likely it was. place: where a click goes on from."""
    text = literal(chat.vocabulary.spell(token).decode("utf-8", "replace")) or "&#183;"
    facts = f"{text}<small>{token}{f' <b>{chance}</b>' if chance else ''}</small>"
    if place:
        return f'<button type="button" name="branch" value="{place}" class="piece" title="{AFTER}">{facts}</button>'
    return f'<span class="piece">{facts}</span>'


def _text_panel(chat: Chat, turn: Turn, index: int, number: int) -> str:
    ids, shares, reply = words_of(chat.vocabulary, turn, number), _shares(chat, turn, number, 0), turn.role == "mmgpt"
    places = [f"{index}.{number}.{count}" if reply and turn.ids else "" for count in range(1, len(ids) + 1)]
    pieces = [_piece(chat, token, _chance(shares, at), place) for at, (token, place) in enumerate(zip(ids, places, strict=True))]
    how = f'<p class="smallprint">{AFTER_PIECE}</p>' if reply else ""
    return f'<h2 class="of-text">Text: {len(ids)} tokens</h2>{how}<div class="pieces">{"".join(pieces)}</div>'


def _heard_panel(chat: Chat, turn: Turn) -> str:
    """What the model wrote down of what was spoken."""
    count, shares = protocol.heard_ids(chat.vocabulary, turn.ids), known_shares(turn)
    pieces = [_piece(chat, token, _chance(shares, at)) for at, token in enumerate(turn.ids[:count]) if chat.vocabulary.is_text(token)]
    return f'<h2 class="of-text">Heard: {len(pieces)} tokens</h2><div class="pieces">{"".join(pieces)}</div>'
