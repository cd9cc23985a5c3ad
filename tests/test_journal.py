"""The journal keeps every acknowledged turn through kill -9, torn lines and damage."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from anygpt_demo.conversation import Journal, MediaPart, TextPart, Turn

WRITER = """
import sys
from pathlib import Path
import numpy as np
from anygpt_demo.conversation import Journal, MediaPart, TextPart, Turn
journal = Journal(Path(sys.argv[1]))
number = len(journal.turns)
while True:
    name = journal.save("music", ".bin", bytes([number % 256]) * 50_000)
    part = MediaPart("music", np.full((50, 4), number % 2048), name)
    journal.append(Turn("human" if number % 2 == 0 else "mmgpt", (TextPart(f"turn {number}"), part)))
    print(number, flush=True)
    number += 1
"""


def check(journal: Journal) -> None:
    for number, turn in enumerate(journal.turns):
        assert turn.text == f"turn {number}"
        part = turn.parts[1]
        assert (part.codes == number % 2048).all()
        assert (journal.folder / part.file).read_bytes() == bytes([number % 256]) * 50_000


def test_kill_9_loses_no_acknowledged_turn(tmp_path):
    """JOURNAL_KILLS=200 runs the full count."""
    draw = random.Random(4)
    folder = tmp_path / "session"
    acknowledged = 0
    for _ in range(int(os.environ.get("JOURNAL_KILLS", "8"))):
        command = [sys.executable, "-c", WRITER, str(folder)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)
        assert writer.stdout is not None
        acknowledged = int(writer.stdout.readline()) + 1
        time.sleep(draw.random() * 0.05)
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged = max([acknowledged, *(int(line) + 1 for line in writer.stdout.read().split("\n")[:-1])])
        writer.wait()
        journal = Journal(folder)
        assert len(journal.turns) >= acknowledged
        check(journal)
    assert acknowledged > 8 and not list(folder.glob("*.part"))


def test_a_torn_last_line_is_repaired_at_every_length(tmp_path):
    folder = tmp_path / "session"
    journal = Journal(folder)
    journal.append(Turn("human", (TextPart("first"),)))
    first = journal.path.read_bytes()
    picture = MediaPart("image", np.zeros((32, 1), dtype=np.int64))
    journal.append(Turn("mmgpt", (TextPart("é \u2028 second"), picture), heard="é", ids=(1, 2)))
    both = journal.path.read_bytes()
    for length in [*range(len(first), len(both), 5), len(both) - 1]:
        journal.path.write_bytes(both[:length])
        again = Journal(folder)
        assert [turn.text for turn in again.turns] == ["first"]
        again.append(Turn("mmgpt", (TextPart("third"),)))
        assert [turn.text for turn in Journal(folder).turns] == ["first", "third"]
    journal.path.write_bytes(both)
    assert [turn.ids for turn in Journal(folder).turns] == [(), (1, 2)] and Journal(folder).turns[1].heard == "é"


def test_a_damaged_line_costs_only_itself(tmp_path):
    journal = Journal.create(tmp_path)
    for word in "abc":
        journal.append(Turn("human", (TextPart(word),)))
    lines = journal.path.read_bytes().split(b"\n")
    lines[1] = lines[1].replace(b"parts", b"p\xffrts")
    journal.path.write_bytes(b"\n".join(lines))
    assert [turn.text for turn in Journal(journal.folder).turns] == ["a", "c"]


def test_undo_and_clear_are_remembered(tmp_path):
    conversation = Journal.create(tmp_path).conversation()
    conversation.add(*(Turn("human", (TextPart(word),)) for word in "abcd"))
    conversation.undo(2)
    conversation.add(Turn("human", (TextPart("e"),)))
    assert [turn.text for turn in Journal(conversation.journal.folder).turns] == ["a", "b", "e"]
    conversation.clear()
    assert Journal(conversation.journal.folder).turns == []


def test_sessions_have_unguessable_private_folders(tmp_path):
    folders = [Journal.create(tmp_path).folder for _ in range(5)]
    assert len({folder.name for folder in folders}) == 5
    assert all(len(bytes.fromhex(folder.name)) == 16 and folder.stat().st_mode & 0o077 == 0 for folder in folders)
