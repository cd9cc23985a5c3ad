"""What all tests share: a tiny tokenizer with every registered modality, and one with a modality more."""

from __future__ import annotations

from pathlib import Path

import pytest

from anygpt_demo import codecs
from anygpt_demo.vocabulary import Vocabulary
from tests.tokens import GESTURE, write_tokenizer


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
