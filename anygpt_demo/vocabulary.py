"""Ids of the token language: word pieces, turn marks and one range per modality.

Every id is looked up in the checkpoint's own tokenizer folder (the published layout: tokenizer.model and
added_tokens.json), never computed from counts. This is the only file that knows offsets.
Text is encoded by plain sentencepiece, which knows no marks: whatever a person types stays below `text_size`.
"""

from __future__ import annotations

import codecs as text_codecs
import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anygpt_demo.errors import BadCheckpoint
from anygpt_demo.modality import CHAT_WORDS, HEARD_WORDS, Modality, Sampling

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

    from anygpt_demo.checkpoints import Family

TURN_MARKS = {"human": "[Human]", "mmgpt": "[MMGPT]", "eoh": "<eoh>", "eos": "<eos>", "ins": "<-Ins->", "res": "<-Res->"}
SPACE = "▁"  # how sentencepiece spells a space


@dataclass(frozen=True)
class CodeRange:
    """Where one modality lives: code c of layer l has id first + l * codebook + c."""

    modality: Modality
    first: int
    start: int  # id of the opening mark
    end: int  # id of the closing mark

    @property
    def stop(self) -> int:
        """One past the last code id."""
        return self.first + self.modality.codes

    def layer(self, number: int) -> tuple[int, int]:
        """Half-open id range of one codebook."""
        low = self.first + number * self.modality.codebook
        return low, low + self.modality.codebook


def _damaged(problem: str, cause: str) -> BadCheckpoint:
    return BadCheckpoint(problem, cause, "Fetch the model family again, or use the tokenizer that belongs to it.")


def _read_marks(folder: Path) -> dict[str, int]:
    try:
        marks = json.loads((folder / "added_tokens.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged("The tokenizer cannot be read.", "added_tokens.json is missing or damaged.") from error
    if not isinstance(marks, dict) or not all(isinstance(number, int) for number in marks.values()):
        raise _damaged("The tokenizer cannot be read.", "added_tokens.json is not a table of names and numbers.")
    return marks


def _read_pieces(folder: Path) -> SentencePieceProcessor:
    from sentencepiece import SentencePieceProcessor

    path = folder / "tokenizer.model"
    if not path.is_file():
        raise _damaged("The tokenizer cannot be read.", "tokenizer.model is missing.")
    try:
        return SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise _damaged("The tokenizer cannot be read.", "tokenizer.model is damaged.") from error


def _find_range(marks: dict[str, int], modality: Modality) -> CodeRange:
    """Look up one modality. Raises BadCheckpoint unless all its codes are there, in order and without a gap."""
    names = [f"<{modality.symbol}{number}>" for number in range(modality.codes)]
    missing = [name for name in (*modality.marks, *names) if name not in marks]
    if missing:
        raise _damaged(f"The tokenizer has too few {modality.name} tokens.", f"{len(missing)} are absent, first {missing[0]}.")
    first = marks[names[0]]
    if any(marks[name] != first + number for number, name in enumerate(names)):
        raise _damaged(f"The tokenizer does not fit: {modality.name} tokens are out of order.", "Their numbers are not consecutive.")
    if f"<{modality.symbol}{modality.codes}>" in marks:
        raise _damaged(f"The tokenizer has too many {modality.name} tokens.", f"The model has {modality.codes}.")
    return CodeRange(modality, first, marks[modality.marks[0]], marks[modality.marks[1]])


def _count(modality: Modality, folder: Path) -> Modality:
    """The facts of a modality whose codec the family does not (yet) have: its codebook is as large as the tokenizer says."""
    known = len([name for name in _read_marks(folder) if name.startswith(f"<{modality.symbol}")])
    return dataclasses.replace(modality, codebook=known // modality.layers or modality.codebook)


class Vocabulary:
    """All ids of one checkpoint. Read-only after construction.

    size: number of ids; text_size: word pieces are [0, text_size); bos, stop, unk: control pieces of the text
    model; human, mmgpt, eoh, eos, ins, res: ids of the turn marks; ranges: modality name -> CodeRange in
    registry order; words: how words are drawn in a chat; heard: how those of a transcript. Further added tokens (another modality of
    the checkpoint) are tolerated and never used.
    """

    def __init__(
        self, folder: Path | str, modalities: Sequence[Modality] | None = None, words: Sampling = CHAT_WORDS, heard: Sampling = HEARD_WORDS
    ) -> None:
        if modalities is None:
            from anygpt_demo import codecs

            modalities = codecs.modalities()
        folder = Path(folder)
        self.pieces = _read_pieces(folder)
        marks = _read_marks(folder)
        self.marks: dict[str, int] = marks
        self.text_size: int = self.pieces.get_piece_size()
        if sorted(marks.values()) != list(range(self.text_size, self.text_size + len(marks))):
            raise _damaged("The tokenizer does not fit itself.", "The added tokens do not follow the word pieces without gaps.")
        self.size = self.text_size + len(marks)
        self.unk, self.bos, self.stop = self.pieces.unk_id(), self.pieces.bos_id(), self.pieces.eos_id()
        absent = [name for name in TURN_MARKS.values() if name not in marks]
        if absent or min(self.unk, self.bos, self.stop) < 0:
            cause = f"{absent[0]} is absent." if absent else "Its text model has no begin, end or unknown piece."
            raise _damaged("The tokenizer lacks a turn mark.", cause)
        self.human, self.mmgpt, self.eoh, self.eos, self.ins, self.res = (marks[name] for name in TURN_MARKS.values())
        self.ranges: dict[str, CodeRange] = {item.name: _find_range(marks, item) for item in modalities}
        self.starts: dict[int, str] = {item.start: name for name, item in self.ranges.items()}
        self.ends: dict[int, str] = {item.end: name for name, item in self.ranges.items()}
        self.words, self.heard = words, heard
        self._check_bytes()
        self._plain_text = self._spell()

    @classmethod
    def of(cls, family: Family) -> Vocabulary:
        """The vocabulary of a family, its files verified first."""
        from anygpt_demo import codecs

        component = family.component("tokenizer")
        component.verify()
        facts = [item if codecs.is_stated(item.name, family) else _count(item, component.folder) for item in codecs.modalities(family)]
        words, heard = codecs.stated_sampling(family, "text", CHAT_WORDS), codecs.stated_sampling(family, "heard", HEARD_WORDS)
        return cls(component.folder, facts, words, heard)

    def _check_bytes(self) -> None:
        if any(self.pieces.piece_to_id(f"<0x{value:02X}>") == self.unk for value in range(256)):
            raise _damaged("The tokenizer cannot write every text.", "It has no byte pieces.")

    def _spell(self) -> list[bytes]:
        """UTF-8 bytes of every word piece; control pieces are empty."""
        spelled = []
        for number in range(self.text_size):
            piece = self.pieces.id_to_piece(number)
            if self.pieces.is_control(number) or self.pieces.is_unknown(number):
                spelled.append(b"")
            elif self.pieces.is_byte(number):
                spelled.append(bytes([int(piece[1:-1], 16)]))
            else:
                spelled.append(piece.replace(SPACE, " ").encode("utf-8"))
        return spelled

    def is_text(self, number: int) -> bool:
        """Whether an id is a word piece that may stand in a text (control pieces may not)."""
        return 0 <= number < self.text_size and number not in (self.unk, self.bos, self.stop)

    def encode_text(self, text: str) -> list[int]:
        """Any string to word-piece ids. Never a control id: marks are spelled out in letters; lone surrogates become U+FFFD."""
        clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return list(self.pieces.encode(clean)) if clean else []

    def decode_text(self, ids: Iterable[int]) -> str:
        """Word-piece ids to text; other ids are left out. Inverse of encode_text (U+2581 becomes a space)."""
        joined = b"".join(self._plain_text[number] for number in ids if self.is_text(number))
        text = joined.decode("utf-8", "replace")
        return text[1:] if text.startswith(" ") else text

    def spell(self, number: int) -> bytes:
        """The UTF-8 bytes that a word piece adds to a text, its leading space included; b"" for any other id."""
        return self._plain_text[number] if self.is_text(number) else b""

    def block(self, name: str, codes: np.ndarray) -> list[int]:
        """Codes int64 (frames, layers) of one modality to ids: start mark, codes frame by frame, end mark."""
        item = self.ranges[name]
        facts = item.modality
        grid = np.asarray(codes)
        if grid.ndim != 2 or grid.shape[1] != facts.layers or grid.shape[0] not in facts.frames:
            raise ValueError(f"{name} codes of shape {grid.shape} are not ({facts.frames.start}..{facts.frames.stop - 1}, {facts.layers})")
        if grid.min() < 0 or grid.max() >= facts.codebook:
            raise ValueError(f"{name} codes outside [0, {facts.codebook})")
        ids = grid.astype(np.int64) + item.first + np.arange(facts.layers, dtype=np.int64) * facts.codebook
        return [item.start, *ids.reshape(-1).tolist(), item.end]

    def codes(self, name: str, ids: Sequence[int]) -> np.ndarray:
        """Code ids (marks optional) to int64 (frames, layers). Raises ValueError on a foreign id, a wrong layer or a cut frame."""
        item = self.ranges[name]
        facts = item.modality
        inner = [number for number in ids if number not in (item.start, item.end)]
        if len(inner) % facts.layers:
            raise ValueError(f"{name}: {len(inner)} codes are not whole frames of {facts.layers}")
        grid = np.asarray(inner, dtype=np.int64).reshape(-1, facts.layers)
        grid = grid - item.first - np.arange(facts.layers, dtype=np.int64) * facts.codebook
        if grid.size and (grid.min() < 0 or grid.max() >= facts.codebook):
            raise ValueError(f"{name}: a code lies outside its codebook")
        return grid

    def split(self, text: str) -> list[int]:
        """Ids of a trusted string in which marks are meant as marks: cut at every added token, the rest as text.

        Equal to the official slow tokenizer without its leading begin id. Never call it with a person's text.
        """
        import re

        pattern = re.compile("|".join(sorted(map(re.escape, self.marks), key=len, reverse=True)))
        ids: list[int] = []
        position = 0
        for match in pattern.finditer(text):
            ids += self.encode_text(text[position : match.start()])
            ids.append(self.marks[match.group()])
            position = match.end()
        return ids + self.encode_text(text[position:])


class TextStream:
    """Word pieces to text, piece by piece; never shows half a character, and drops the spaces at both ends."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = text_codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # white space that only counts if more text follows
        self._begun = False

    def feed(self, number: int) -> str:
        """The text that becomes certain with this id."""
        return self._take(self._decoder.decode(self._vocabulary.spell(number)))

    def end(self) -> str:
        """The rest of the text (a cut character becomes U+FFFD); the stream is fresh afterwards."""
        rest = self._take(self._decoder.decode(b"", final=True))
        self._decoder.reset()
        self._held, self._begun = "", False
        return rest

    def _take(self, text: str) -> str:
        text = self._held + text
        if not self._begun:
            text = text.lstrip()
        shown = text.rstrip()
        self._held = text[len(shown) :]
        self._begun = self._begun or bool(shown)
        return shown
