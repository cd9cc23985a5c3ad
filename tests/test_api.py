"""The named endpoints as a program sees them: gradio_client over a served page with actors in the place of the models."""

from __future__ import annotations

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"

import asyncio
import inspect
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from PIL import Image

import app
from anygpt_demo import ui
from anygpt_demo.api import Endpoints
from anygpt_demo.errors import MissingProgram
from anygpt_demo.media import Audio, read_audio, write_wav
from tests.browser.stage import Stage

NAMES = {"/chat", "/draw", "/speak", "/compose", "/caption", "/transcribe", "/clone_voice", "/tokenize", "/detokenize", "/status"}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("stage"))
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def client(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(stage.url, verbose=False, analytics_enabled=False, download_files=str(tmp_path_factory.mktemp("down")))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    import numpy as np

    folder = tmp_path_factory.mktemp("files")
    Image.new("RGB", (40, 30), "orange").save(folder / "orange.png")
    tone = np.sin(np.arange(32_000) / 20).astype(np.float32) * 0.3
    (folder / "speech.wav").write_bytes(write_wav(Audio(tone, 16_000)))
    return {"image": str(folder / "orange.png"), "speech": str(folder / "speech.wav")}


def sound(path: str) -> Audio:
    return read_audio(Path(path).read_bytes(), rate_hz=16_000, limit_s=60, crop=True)[0]


def test_exactly_these_endpoints_are_named(client: Client) -> None:
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == NAMES


def test_making_things(client: Client, files: dict[str, str]) -> None:
    assert Image.open(client.predict("a boat", api_name="/draw")).size == (256, 256)
    assert sound(client.predict("hello", api_name="/speak")).seconds == pytest.approx(0.5, abs=0.01)
    assert sound(client.predict("a waltz", api_name="/compose")).seconds == pytest.approx(0.5, abs=0.01)
    assert client.predict(handle_file(files["image"]), api_name="/caption") == "I see your image."
    assert client.predict(handle_file(files["speech"]), api_name="/transcribe") == "draw a boat and sing"
    spoken = client.predict(handle_file(files["speech"]), handle_file(files["speech"]), True, api_name="/clone_voice")
    assert sound(spoken).seconds == pytest.approx(2.0, abs=0.01)


def test_a_long_text_is_spoken_to_its_end(client: Client) -> None:
    """Each of its blocks has 60 codes here, of which some begin and end in silence."""
    text = "One two three four five six seven. " * 20
    assert 3.0 < sound(client.predict(f"Read this aloud: {text}", api_name="/speak")).seconds < 3 * 1.2 + 2 * 0.3


def test_a_whole_turn(client: Client, files: dict[str, str]) -> None:
    reply = client.predict("", None, handle_file(files["speech"]), None, "", "chat", 5, api_name="/chat")
    assert [part["type"] for part in reply["parts"]] == ["text", "speech", "text", "image"]
    assert reply["heard"] == "draw a boat and sing" and reply["seed"] == 5 and reply["reason"] == "eos"
    assert Image.open(reply["parts"][3]["file"]).size == (256, 256) and len(reply["parts"][3]["codes"]) == 32


def test_a_file_among_the_words(client: Client, stage: Stage, files: dict[str, str]) -> None:
    picture, tokens = handle_file(files["image"]), stage.chat.vocabulary
    for text, words in (("what is [image] here", "what is"), ("what is here", "")):
        client.predict(text, picture, None, None, "", "chat", 5, api_name="/chat")
        before = stage.actor.message[: stage.actor.message.index(tokens.ranges["image"].start)]
        assert tokens.decode_text(before).strip(": ") == words


def test_own_numbers_for_drawing(client: Client, stage: Stage) -> None:
    usual = stage.chat.vocabulary.ranges["image"].modality.sampling
    client.predict("hello", None, None, None, "", "chat", 5, {"image": {"temperature": 0.25}}, api_name="/chat")
    assert stage.actor.grammar.drawn["image"] == replace(usual, temperature=0.25) != usual


def test_tokens_there_and_back(client: Client, files: dict[str, str]) -> None:
    found = client.predict("text", "two words", None, api_name="/tokenize")
    assert client.predict("text", found["ids"], api_name="/detokenize")["text"] == "two words"
    found = client.predict("image", "", handle_file(files["image"]), api_name="/tokenize")
    assert len(found["codes"]) == 32 and len(found["ids"]) == 34
    assert Image.open(client.predict("image", found["ids"], api_name="/detokenize")["file"]).size == (256, 256)


def test_refusals_say_why(client: Client, files: dict[str, str], tmp_path: Path) -> None:
    for arguments, name, words in (
        (("image", [1, 2, 3]), "/detokenize", "not image ids"),
        (("smell", "", None), "/tokenize", "no modality smell"),
        ((handle_file(files["speech"]), handle_file(files["speech"]), False), "/clone_voice", "consent"),
        (("x", None, None, None, "smell"), "/chat", "no output smell"),
        (("x", None, None, None, "", "chat", 0, {"smell": {}}), "/chat", "no numbers for drawing"),
        (("x", None, None, None, "", "chat", 0, {"image": {"temperature": 9}}), "/chat", "temperature cannot be 9"),
        (({"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},), "/caption", ""),
    ):
        with pytest.raises(Exception, match=words):
            client.predict(*arguments, api_name=name)


def test_status(client: Client) -> None:
    status = client.predict(api_name="/status")
    assert status["family"] == "mini" and status["ready"] and status["waiting"] == 0
    assert status["modalities"] == ["text", "image", "speech", "music"]


def test_a_public_page_is_stricter(tmp_path: Path) -> None:
    strict = Stage(tmp_path, public=True)
    try:
        client = Client(strict.url, verbose=False, analytics_enabled=False)
        assert set(client.view_api(return_format="dict")["named_endpoints"]) == NAMES - {"/clone_voice"}
        assert client.predict(api_name="/status")["public"] is True
        texts = [
            item["props"].get("value") for item in client.config["components"] if item["type"] == "button" and item["props"].get("visible")
        ]
        assert "Settings" in texts and "Use this voice" not in texts and "Save as .voice" not in texts
        for _ in range(6):
            client.predict("text", "x", None, api_name="/tokenize")
        with pytest.raises(Exception, match="6 messages a minute"):
            client.predict("text", "x", None, api_name="/tokenize")
    finally:
        strict.close()


@pytest.mark.parametrize("name", sorted(name.strip("/") for name in NAMES))
def test_what_a_program_is_told_of_an_endpoint(name: str, client: Client) -> None:
    """Gradio's own reader of docstrings finds a sentence, every argument, and what is returned: the description of an MCP tool."""
    from gradio.utils import get_function_description

    function = getattr(Endpoints, name)
    about, arguments, returned = get_function_description(function)
    given = [argument for argument in inspect.signature(function).parameters if argument not in ("self", "request")]
    assert about.endswith(".") and about.count(".") == 1 and len(about) > 20
    assert all(len(arguments[argument]) > 10 for argument in given), arguments
    assert returned or name == "status"
    told = client.view_api(return_format="dict")["named_endpoints"][f"/{name}"]["parameters"]
    assert [item["parameter_name"] for item in told] == given
    files = {"image", "speech", "music", "voice", "recording", "file"}
    assert all((item["component"], "path" in item["type"].get("properties", {}))[1] == (item["parameter_name"] in files) for item in told)
    assert all(item["type"] for item in told), "an argument without a type"


def test_mcp_without_its_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(ui, "find_spec", lambda name: None)
    with pytest.raises(MissingProgram, match="not installed"):
        ui.launch_options(public=False, mcp=True)
    assert not ui.launch_options(public=False)["mcp_server"]
    assert app.main(["--mcp"]) == 1
    assert 'pip install "gradio[mcp]==' in capsys.readouterr().err


def test_media_leave_the_model_its_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert [ui.media_threads(True, count) for count in (1, 2, 4, 8)] == [1, 1, 3, 7]
    assert [ui.media_threads(False, count) for count in (1, 2, 4, 8)] == [1, 1, 2, 4]
    before = torch.get_num_threads()
    monkeypatch.setattr("anygpt_demo.models.compiled.cores", lambda: 4)
    try:
        for given, small, threads in ((8, True, 3), (8, False, 2), (1, True, 1)):
            torch.set_num_threads(given)
            ui.share_processors(small)
            with ThreadPoolExecutor(1) as pool:  # a reply is decoded in a thread that begins later
                assert pool.submit(torch.get_num_threads).result() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(find_spec("mcp") is None, reason="gradio[mcp] is not installed")
def test_an_mcp_client_finds_and_calls_the_tools(tmp_path: Path, files: dict[str, str]) -> None:
    import base64

    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    stage = Stage(tmp_path, mcp=True)

    async def talk() -> None:
        async with streamablehttp_client(f"{stage.url}gradio_api/mcp/") as (read, write, _), ClientSession(read, write) as session:
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            assert {f"/{name}" for name in tools} >= NAMES
            assert tools["draw"].description.startswith("Draw a picture of what a text says.")
            assert tools["draw"].inputSchema["required"] == ["text"]
            assert "dog on the beach" in tools["draw"].inputSchema["properties"]["text"]["description"]
            assert "File Input" in tools["caption"].inputSchema["properties"]["image"]["format"]
            drawn = await session.call_tool("draw", {"text": "a boat"})
            assert not drawn.isError and drawn.content[0].type == "image" and base64.b64decode(drawn.content[0].data)
            data = base64.b64encode(Path(files["image"]).read_bytes()).decode()
            told = await session.call_tool("caption", {"image": f"data:image/png;base64,{data}"})
            assert told.content[0].text == "I see your image.", told.content
            refused = await session.call_tool("tokenize", {"kind": "smell"})
            assert refused.isError and "no modality smell" in refused.content[0].text

    try:
        with ThreadPoolExecutor(1) as thread:  # a browser test may have left a loop running in this one
            thread.submit(asyncio.run, talk()).result()
    finally:
        stage.close()
