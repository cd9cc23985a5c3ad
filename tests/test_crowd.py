"""Many people at once: over HTTP with files, and as chats of the page. Nobody gets what is somebody else's, nothing fails."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from anygpt_demo.turns import answer, claim, new_message
from anygpt_demo.visitors import Line, Visitors
from tests.browser import stage as stages
from tests.browser.stage import Stage

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))
import crowd  # noqa: E402


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("stage"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "TEXT_S", 0.0)
        patch.setattr(stages, "CODE_S", 0.0)
        yield stage
    stage.close()


def test_ten_programs_at_once(stage: Stage) -> None:
    result = crowd.run(stage.url, people=10, seconds=8)
    assert not result.errors and result.crossed == result.damaged == 0 and result.replies >= 10


def test_a_crossed_reply_would_be_seen(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = crowd.Person.ask
    monkeypatch.setattr(crowd.Person, "ask", lambda self, which: asked(self, 0 if self.alone and self.number else which))
    assert crowd.run(stage.url, people=2, seconds=3).crossed > 0


def test_ten_chats_of_the_page_at_once(stage: Stage, tmp_path: Path) -> None:
    visitors, line, faults = Visitors(tmp_path), Line(), []
    sessions = [visitors.find(None) for _ in range(10)]

    def talk(number: int) -> None:
        session = sessions[number]
        for turn in range(2):
            words = f"word{number}x{turn} draw"
            claim(session, lambda words=words: new_message(stage.chat, session, words, []))
            for view, _, _ in answer(stage.chat, session, line):
                others = [str(other) for other in range(10) if other != number and f"word{other}x" in str(view)]
                if others:
                    faults.append((number, others))

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not faults and len(line) == 0
    for number, session in enumerate(sessions):
        assert [turn.role for turn in session.conversation.turns] == ["human", "mmgpt"] * 2
        assert session.conversation.turns[1].text.startswith(f"You said: word{number}x0")
        files = [part.file for turn in session.conversation.turns for part in turn.parts if getattr(part, "file", None)]
        assert len(files) == 2 and all((session.folder / name).is_file() for name in files)
