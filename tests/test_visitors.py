"""Chats of a visitor, the line before the model, and the limits of a public page."""

from __future__ import annotations

import os
import threading
import time

import pytest

from anygpt_demo.conversation import TextPart, Turn
from anygpt_demo.errors import UserError
from anygpt_demo.visitors import Line, Pace, Visitors, prune


def test_chats_of_a_visitor(tmp_path):
    visitors = Visitors(tmp_path)
    one = visitors.find(None)
    one.conversation.add(Turn("human", (TextPart("about boats"),)))
    two = visitors.find(one.key, "")
    two.conversation.add(Turn("human", (TextPart("about trains"),)))
    two.rename("  Rails \n and more ")
    assert {item.title for item in visitors.chats(one.key)} == {"about boats", "Rails and more"}
    again = Visitors(tmp_path)
    assert again.find(one.key, one.chat).conversation.turns[0].text == "about boats"
    assert again.chats("0" * 32) == []
    for key in ("../" + one.key, one.key.upper(), ".", "", 5):
        assert again.find(key, one.chat).key != one.key
    again.delete(one.key, "../../x")
    again.delete(one.key, one.chat)
    assert [item.chat for item in again.chats(one.key)] == [two.chat] and not one.folder.exists()


def test_old_and_empty_chats_are_pruned(tmp_path):
    visitors = Visitors(tmp_path)
    kept, old, empty = (visitors.find(None, "") for _ in range(3))
    for session in (kept, old):
        session.conversation.add(Turn("human", (TextPart("x"),)))
    os.utime(old.folder / "turns.jsonl", (0, 0))
    (tmp_path / "readme").write_text("stays")
    assert prune(tmp_path) == 2
    assert kept.folder.is_dir() and not old.folder.exists() and not empty.folder.parent.exists() and (tmp_path / "readme").exists()
    assert prune(tmp_path, limit=1) == 1 and prune(tmp_path / "absent") == 0


def test_the_line_serves_everybody_in_turn():
    line, served = Line(limit=6), []

    def work(who, ticket):
        while not line.wait(ticket, 1):
            pass
        served.append(who)
        time.sleep(0.02)
        line.leave(ticket)

    first = line.enter("z")
    assert line.wait(first, 0)
    queue = [(who, line.enter(who)) for who in ("a", "a", "b", "c")]
    assert [line.ahead(ticket) for _, ticket in queue] == [1, 4, 2, 3] and len(line) == 5
    with pytest.raises(UserError, match="One reply at a time"):
        line.enter("a")
    line.enter("d")
    with pytest.raises(UserError, match="Too many people"):
        line.enter("e")
    line._waiting = [item for item in line._waiting if item[1] != "d"]
    threads = [threading.Thread(target=work, args=item) for item in queue]
    for thread in threads:
        thread.start()
    assert not line.wait(queue[0][1], 0.05)
    line.leave(first)
    for thread in threads:
        thread.join(10)
    assert served == ["a", "b", "c", "a"] and len(line) == 0


def test_a_ticket_that_is_given_back_blocks_nobody():
    line = Line()
    one, two = line.enter("a"), line.enter("b")
    assert line.wait(one, 0) and not line.wait(two, 0)
    line.leave(two)
    line.leave(one)
    with line.turn("c"):
        assert len(line) == 1


def test_the_pace_of_strangers():
    pace = Pace(3, seconds=0.3)
    for _ in range(3):
        pace.step("a")
    with pytest.raises(UserError, match="That was quick"):
        pace.step("a")
    pace.step("b")
    time.sleep(0.35)
    pace.step("a")
