"""Push-to-talk and the desktop window, with pretended devices."""

from __future__ import annotations

import builtins
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from anygpt_demo import cli, desktop, talk
from anygpt_demo.errors import BadAudio, MissingProgram


def test_a_missing_library_is_explained(monkeypatch):
    real = builtins.__import__

    def absent(name, *rest, **options):
        if name == "sounddevice":
            raise OSError("PortAudio library not found")
        return real(name, *rest, **options)

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingProgram, match="libportaudio2"):
        talk.sound_device()


class Microphone:
    """Plays a tone into the callback while Enter is awaited."""

    def __init__(self, blocks):
        self.blocks, self.played, self.sounding = blocks, [], False

    def InputStream(self, *, samplerate, channels, dtype, device, callback):  # noqa: N802 - its name
        assert (samplerate, channels, dtype) == (16_000, 1, "float32")
        self.callback = callback
        return self

    def __enter__(self):
        for _ in range(self.blocks):
            self.callback(np.sin(np.arange(1600, dtype=np.float32) / 9)[:, None], 1600, None, None)

    def __exit__(self, *_):
        pass

    def play(self, samples, rate, device=None):
        assert not self.sounding, "a sound was cut off by the next one"
        self.sounding = True
        self.played.append((len(samples), rate))

    def wait(self):
        self.sounding = False


def test_listening(monkeypatch):
    monkeypatch.setattr(builtins, "input", lambda _: "")
    assert talk.listen(Microphone(12)).seconds == pytest.approx(1.2)
    assert talk.listen(Microphone(400)).seconds <= 30.2
    with pytest.raises(BadAudio, match="heard nothing"):
        talk.listen(Microphone(0))


def spoken_with(chat, monkeypatch, tmp_path):
    """One exchange by voice; the microphone, which knows what was played."""
    microphone, typed = Microphone(12), iter(["", "", "q"])
    monkeypatch.setattr(builtins, "input", lambda _: next(typed))
    monkeypatch.setattr(talk, "sound_device", lambda: microphone)
    monkeypatch.setattr(talk, "open_chat", lambda _: chat)
    options = cli.arguments().parse_args(["talk", "--out", str(tmp_path)])
    assert options.function(options) == 0
    return microphone


def test_a_spoken_exchange(monkeypatch, vocabulary, tmp_path, capsys):
    from tests.test_chat import Chat, Plain, Script, block, written

    reply = written(vocabulary, " ", [vocabulary.ins], " hi\n ", [vocabulary.res], " hello ", block(vocabulary, "speech", frames=7))
    chat = Chat(vocabulary, Script(reply), lambda name: Plain(vocabulary.ranges[name].modality))
    microphone = spoken_with(chat, monkeypatch, tmp_path)
    assert microphone.played == [(7 * 320, 16_000)] and "hello" in capsys.readouterr().out


def test_sounds_of_one_reply_are_played_one_after_the_other(monkeypatch, vocabulary, tmp_path):
    from tests.test_chat import Chat, Plain, Script, block, written

    speech, music = block(vocabulary, "speech", frames=7), block(vocabulary, "music", frames=5)
    chat = Chat(vocabulary, Script(written(vocabulary, " one ", speech, music)), lambda name: Plain(vocabulary.ranges[name].modality))
    microphone = spoken_with(chat, monkeypatch, tmp_path)
    assert microphone.played == [(7 * 320, 16_000), (5 * 320, 32_000)] and not microphone.sounding


class Server:
    """In the place of subprocess.Popen: a server that comes up, or ends at once."""

    def __init__(self, code=None):
        self.code, self.command, self.env, self.calls = code, [], {}, []

    def __call__(self, command, env):
        self.command, self.env = command, env
        return self

    def poll(self):
        return self.code

    def terminate(self):
        self.calls.append("terminate")

    def wait(self, seconds=None):
        self.calls.append(("wait", seconds))


@pytest.mark.parametrize("end", ["closed", "interrupted"])
def test_the_window_and_its_server_end_together(monkeypatch, end):
    server, shown = Server(), []

    def show(url, wait):
        shown.append((url, wait))
        if end == "interrupted":
            raise KeyboardInterrupt

    monkeypatch.setattr(desktop.subprocess, "Popen", server)
    monkeypatch.setattr(desktop, "wait_for", lambda url, alive: alive())
    monkeypatch.setattr(desktop, "show", show)
    options = cli.arguments().parse_args(["desktop", "--port", "7999"])
    assert options.function(options) == 0
    assert shown == [("http://127.0.0.1:7999/", server.wait)]
    assert server.command[0] == sys.executable and server.command[1].endswith("app.py")
    assert server.command[server.command.index("--port") + 1] == "7999" and "--device" in server.command
    assert server.env["GRADIO_SERVER_NAME"] == "127.0.0.1" and "PATH" in server.env
    assert server.calls == ["terminate", ("wait", 20)]


def test_a_server_that_ends_at_once_is_told(monkeypatch, capsys):
    server, shown = Server(code=2), []
    monkeypatch.setattr(desktop.subprocess, "Popen", server)
    monkeypatch.setattr(desktop, "show", lambda *given: shown.append(given))
    options = cli.arguments().parse_args(["desktop"])
    assert options.function(options) == 1
    assert not shown and "did not come up" in capsys.readouterr().out and server.calls[0] == "terminate"
    assert server.command[server.command.index("--port") + 1] == str(desktop.PORT)


def test_the_window_falls_back_to_the_browser(monkeypatch, capsys):
    opened, waited = [], []
    monkeypatch.setattr(desktop, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    monkeypatch.setattr(desktop.webbrowser, "open", opened.append)
    desktop.show("http://127.0.0.1:1/", lambda: waited.append(True))
    assert opened == ["http://127.0.0.1:1/"] and waited and "pywebview is not installed" in capsys.readouterr().out
    window = SimpleNamespace(create_window=lambda *a, **k: opened.append("window"), start=lambda: None)
    monkeypatch.setattr(desktop, "import_module", lambda name: window)
    desktop.show("http://127.0.0.1:1/", lambda: waited.append(True))
    assert opened[1:] == ["window"] and len(waited) == 1
    assert not desktop.wait_for("http://127.0.0.1:9/", lambda: False)


def test_a_saved_chat_is_made_again(monkeypatch, vocabulary, tmp_path, capsys):
    from anygpt_demo import archive, terminal
    from anygpt_demo.conversation import Conversation
    from tests.test_chat import Chat, Message, Plain, Script, written

    reply = written(vocabulary, " hello")
    chat = Chat(vocabulary, Script(reply, reply, written(vocabulary, " other")), lambda name: Plain(vocabulary.ranges[name].modality))
    conversation = Conversation()
    list(chat.reply(conversation, Message("hi"), seed=3))
    (tmp_path / "chat.zip").write_bytes(archive.pack(conversation, "x", "mini", ""))
    monkeypatch.setattr(terminal, "open_chat", lambda _: chat)
    assert cli.main(["replay", str(tmp_path / "chat.zip")]) == 0
    assert "1 of 1 replies have the same ids." in capsys.readouterr().out
    assert cli.main(["replay", str(tmp_path / "chat.zip")]) == 1
    (tmp_path / "chat.zip").write_bytes(b"nothing")
    assert cli.main(["replay", str(tmp_path / "chat.zip")]) == 2
