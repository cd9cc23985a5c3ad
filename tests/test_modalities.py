"""A modality more is one file and one line: a codec module from elsewhere is registered and takes part in a chat."""

from __future__ import annotations

import dataclasses
import sys
import textwrap

import numpy as np
import pytest

from anygpt_demo import codecs
from anygpt_demo.chat import Chat, Made, Message, Settings, read_file
from anygpt_demo.checkpoints import Family, export
from anygpt_demo.conversation import Journal
from anygpt_demo.errors import BadCheckpoint
from anygpt_demo.media import Audio, write_wav
from anygpt_demo.vocabulary import Vocabulary
from tests.test_chat import Script, written
from tests.tokens import write_tokenizer

MODULE = """
    import numpy as np
    from anygpt_demo.media import Audio
    from anygpt_demo.modality import Modality, Sampling

    MODALITY = Modality(
        name="gesture", kind="audio", symbol="👋", marks=("<soge>", "<eoge>"), codebook=16, layers=2, frames=range(2, 21),
        frame_rate_hz=10.0, sample_rate_hz=8000, sampling=Sampling(top_k=5),
    )

    class GestureCodec:
        modality = MODALITY

        @classmethod
        def load(cls, family, device="cpu"):
            return cls()

        def encode(self, media):
            levels = np.abs(media.samples[: len(media.samples) // 800 * 800]).reshape(-1, 800).max(1)
            return np.stack([(levels * 15).astype(int)] * 2, 1)

        def decode(self, codes, *, voice=None, seed=0):
            return Audio(np.repeat(codes[:, 0] / 15, 800).astype(np.float32), 8000)
"""


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """The registry with its one line more."""
    (tmp_path / "gesture_codec.py").write_text(textwrap.dedent(MODULE), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield {**codecs.CODECS, "gesture": "gesture_codec:GestureCodec"}
    sys.modules.pop("gesture_codec", None)


def test_a_fifth_modality_takes_part_in_a_chat(registry, tmp_path):
    modalities = codecs.modalities(codecs=registry)
    assert [item.name for item in modalities] == [*codecs.CODECS, "gesture"]
    vocabulary = Vocabulary(write_tokenizer(tmp_path / "tokenizer", modalities), modalities)
    codes = np.arange(12).reshape(6, 2)
    engine = Script(written(vocabulary, " so ", vocabulary.block("gesture", codes)))
    chat = Chat(vocabulary, engine, lambda name: codecs.load_codec(name, None, codecs=registry))
    wave = np.sin(np.arange(8000, dtype=np.float32))
    media, _ = read_file(vocabulary, "gesture", write_wav(Audio(wave, 8000)))
    conversation = Journal.create(tmp_path).conversation()
    updates = list(chat.reply(conversation, Message("wave", (("gesture", media),)), settings=Settings(output="gesture")))
    (made,) = [update for update in updates if isinstance(update, Made)]
    assert made.path.is_file() and made.part.codes.tolist() == codes.tolist()
    assert vocabulary.ranges["gesture"].start in engine.prompts[0]
    again = Journal(conversation.journal.folder).turns
    assert again[1].parts[1].codes.tolist() == codes.tolist() and again[0].parts[0].modality == "gesture"


def test_unknown_codecs_are_refused():
    with pytest.raises(BadCheckpoint):
        codecs.load_codec("smell", None)


def test_a_family_states_how_its_codes_are_drawn(tmp_path):
    published = {item.name: item.sampling for item in codecs.modalities()}
    export(tmp_path, "llm", {"sampling": {"image": {"temperature": 0.5}}}, {})
    own = {item.name: item.sampling for item in codecs.modalities(Family.open(tmp_path))}
    assert own["image"] == dataclasses.replace(published["image"], temperature=0.5)
    assert own["music"] == published["music"]
    assert codecs.stated_sampling(Family.open(tmp_path), "text", published["music"]) == published["music"]
    export(tmp_path, "llm", {"sampling": {"image": {"heat": 1}}}, {})
    with pytest.raises(BadCheckpoint, match="sampling of image"):
        codecs.modalities(Family.open(tmp_path))
