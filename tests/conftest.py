"""What all tests share: a tiny tokenizer with every registered modality, and one with a modality more."""

from __future__ import annotations

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # these are read when their packages are imported
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # there is a test process for every core: threads of torch would wait for one another

import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anygpt_demo import codecs
from anygpt_demo.vocabulary import Vocabulary
from tests.official import write_official
from tests.tokens import GESTURE, write_tokenizer


@pytest.fixture(scope="session", autouse=True)
def offline() -> Iterator[list[str]]:
    """Everything works without a network: a connection to another machine fails the test that makes it."""
    tried: list[str] = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def local(host: object) -> bool:
        try:
            return host in (None, "", "localhost") or ipaddress.ip_address(str(host)).is_loopback or str(host) == "0.0.0.0"
        except ValueError:
            return False

    def guarded_connect(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not local(address[0]):
            tried.append(str(address))
            raise OSError(f"no network in tests: {address}")
        return connect(self, address)

    def guarded_look_up(host: Any, *rest: Any, **options: Any) -> Any:
        if not local(host):
            tried.append(str(host))
            raise OSError(f"no network in tests: {host}")
        return look_up(host, *rest, **options)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", guarded_connect)
    patch.setattr(socket, "getaddrinfo", guarded_look_up)
    yield tried
    patch.undo()
    assert not tried, f"these were asked for: {tried}"


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer folder in the published layout."""
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"), codecs.modalities())


@pytest.fixture(scope="session")
def vocabulary(tiny_tokenizer: Path) -> Vocabulary:
    """The vocabulary of all registered modalities."""
    return Vocabulary(tiny_tokenizer)


@pytest.fixture(scope="session")
def wider(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    """The vocabulary with one modality more, as if a file and a line had been added."""
    modalities = (*codecs.modalities(), GESTURE)
    return Vocabulary(write_tokenizer(tmp_path_factory.mktemp("wider"), modalities), modalities)


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny random models in the official file formats and layout."""
    return write_official(tmp_path_factory.mktemp("official"))


@pytest.fixture(scope="session")
def converted(official: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The family folder made from them. Tests copy it before they change it."""
    from anygpt_demo import fetch, unpickle

    out = tmp_path_factory.mktemp("families") / "anygpt-chat"
    fetch.fetch("anygpt-chat", out, lambda _: None, source=official, read=lambda job, say: unpickle.work(job))
    return out
