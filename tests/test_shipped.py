"""The weights in checkpoints/mini, lightly: they load, they write and draw, and their codecs can be taken apart."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from anygpt_demo import archive, lens, protocol
from anygpt_demo.chat import Card, Chat, Finished, Made, Message, Preview, Settings, Update, write_file
from anygpt_demo.checkpoints import MINI, Family
from anygpt_demo.codecs.speech import built_in_voice
from anygpt_demo.conversation import Conversation, Journal, MediaPart, TextPart, Turn
from anygpt_demo.engine import LocalEngine
from anygpt_demo.eval.bench import Bench, reference
from anygpt_demo.grammar import Grammar
from anygpt_demo.media import Audio, Picture
from anygpt_demo.selftest import sample
from anygpt_demo.vocabulary import Vocabulary

HOP = {"speech": 320, "music": 640}  # samples of one frame


@pytest.fixture(scope="module")
def chat() -> Iterator[Chat]:
    yield Chat.open(Family.open(MINI))


def answer(chat: Chat, text: str, settings: Settings) -> tuple[Finished, list[Update]]:
    updates = list(chat.reply(Conversation(), Message(text), seed=1, settings=settings))
    assert not [update for update in updates if isinstance(update, Card)]
    assert isinstance(updates[-1], Finished) and updates[-1].turn is not None
    return updates[-1], updates


def codes_of(chat: Chat, name: str, frames: int) -> np.ndarray:
    found = chat.codec(name).encode(sample(chat, name))[:frames]
    assert found.shape == (frames, chat.vocabulary.ranges[name].modality.layers)
    return found


def test_words(chat: Chat) -> None:
    last, _ = answer(chat, "Hello, how are you?", Settings(output="text", max_new=60))
    assert last.turn is not None and len(re.findall(r"[A-Za-z]{2,}", last.turn.text)) >= 2
    assert len(last.turn.facts["shares"]) == len(last.turn.ids)


def test_a_picture_that_forms(chat: Chat) -> None:
    last, updates = answer(chat, "Draw a dog.", Settings(output="image", max_new=90))
    (made,) = [update.media for update in updates if isinstance(update, Made)]
    assert isinstance(made, Picture) and made.rgb.shape == (256, 256, 3) and made.rgb.std() > 5
    rough = [update.media.rgb for update in updates if isinstance(update, Preview)]
    assert len(rough) > 1 and (rough[-1] == made.rgb).all()
    assert last.turn is not None and 'value="0.' in lens._ids(chat, last.turn, 0, len(last.turn.parts) - 1, last.turn.parts[-1])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["speech", "music"])
def test_sound_in_pieces(chat: Chat, name: str) -> None:
    codes = codes_of(chat, name, 60)
    streamer = chat.codec(name).streamer(seed=1)  # type: ignore[attr-defined]
    early = [piece for frame in codes for piece in streamer.feed(frame)]
    pieces = [*early, *streamer.finish()]
    assert early and sum(len(piece.samples) for piece in pieces) == 60 * HOP[name]
    assert np.abs(np.concatenate([piece.samples for piece in pieces])).max() > 0.01


def test_two_voices(chat: Chat) -> None:
    if not chat.clones:
        pytest.skip("the shipped family has no voice model")
    codec, codes = chat.codec("speech"), codes_of(chat, "speech", 40)
    first, second = (codec.decode(codes, voice=built_in_voice(name), seed=1) for name in ("slt", "kathleen"))
    assert isinstance(first, Audio) and isinstance(second, Audio) and len(first.samples) == len(second.samples) == 40 * HOP["speech"]
    assert np.abs(first.samples - second.samples).max() > 0.01


@pytest.mark.parametrize(("name", "most"), [("speech", 8), ("music", 4), ("image", 32)])
def test_a_part_is_taken_apart(chat: Chat, tmp_path_factory: pytest.TempPathFactory, name: str, most: int) -> None:
    """Layers of a sound, first tokens of a picture: of the right size, and each amount gives something else."""
    folder = tmp_path_factory.mktemp("parts")
    codes = codes_of(chat, name, 32)
    whole = chat.codec(name).decode(codes)
    data, suffix = write_file(whole)
    part = replace(MediaPart(name, codes), file=Journal(folder).save(name, suffix, data))
    found = [lens.taken_apart(chat, part, amount, folder) for amount in (1, most // 2, most)]
    values = [np.asarray(item.rgb if isinstance(item, Picture) else item.samples, np.float32) for item in found]
    expected = whole.rgb.shape if isinstance(whole, Picture) else (32 * HOP[name],)
    assert lens.steps(chat, part) == most and all(item.shape == expected for item in values)
    assert (values[0] != values[1]).any() and (values[1] != values[2]).any()
    if name != "speech":  # whose layers are those of the sound, not of the codes
        assert np.allclose(values[2], np.asarray(whole.rgb if isinstance(whole, Picture) else whole.samples, np.float32), atol=1e-4)


@pytest.mark.parametrize("name", ["image", "music"])
def test_a_block_goes_on_from_within_and_is_made_again(chat: Chat, tmp_path: Path, name: str) -> None:
    """The codes before the cut stay, those after it are drawn anew, and a saved chat gives them again."""
    conversation = Journal.create(tmp_path).conversation()
    freely = {name: {"temperature": 1.5}}  # whatever the weights are sure of
    settings = Settings(output=name, limits={"music": 30}, max_new=250, lead=8, sampling=freely)
    list(chat.reply(conversation, Message("Make something."), seed=1, settings=settings))
    human, turn = conversation.turns
    number = next(place for place, part in enumerate(turn.parts) if isinstance(part, MediaPart))
    part, kept = turn.parts[number], 12
    assert isinstance(part, MediaPart) and len(part.codes) > kept
    conversation.undo(2)
    last = list(chat.reply(conversation, human, seed=2, settings=settings, opening=chat.opening(turn, number, kept)))[-1]
    assert isinstance(last, Finished) and last.reason == "eos" and last.turn is not None
    new = last.turn.parts[number]
    assert isinstance(new, MediaPart) and new.file and (new.codes[:kept] == part.codes[:kept]).all()
    assert new.codes[kept:].tolist() != part.codes[kept:].tolist()
    assert len(last.turn.facts["shares"]) == len(last.turn.ids)
    saved = archive.unpack(archive.pack(conversation, "x", "mini", chat.model), chat.vocabulary)
    assert [(again.state, again.ids) for again in archive.replay(saved, chat)] == [("same", len(last.turn.ids))]


def test_the_engine_writes_what_transformers_would() -> None:
    """Scores of the shipped model within 1e-5 and the same words, one after the other, as the same weights in transformers."""
    family = Family.open(MINI)
    vocabulary, engine = Vocabulary.of(family), LocalEngine.load(family, quantize="none")
    bench = Bench(family, vocabulary, engine, 1)
    prompt = protocol.encode(vocabulary, [Turn("human", (TextPart("Please write a poem about the sea."),))])
    theirs = reference(bench)
    grammar = Grammar(vocabulary, budget=300, preset="greedy", force="text", chain=False)
    ids = list(engine.generate(prompt, grammar, seed=0, stop=None, max_new=60))
    assert len(ids) > 15
    with torch.inference_mode():
        scores = theirs(torch.tensor([[*prompt, *ids]])).logits[0].numpy()
        cache, whole = engine.cache(), []
        for number in (prompt, *[[token] for token in ids]):
            row = engine.runner.run([(number, cache)])[0]
            whole.append(np.array(engine.runner.scores(row, engine.runner.head(((0, vocabulary.size),)))))
    for place, (mine, other) in enumerate(zip(whole, scores[len(prompt) - 1 :], strict=True)):
        assert np.abs(mine - other).max() <= 1e-5 * max(1.0, np.abs(other).max()), place
    check = Grammar(vocabulary, budget=300, preset="greedy", force="text", chain=False)
    for token, other in zip(ids, scores[len(prompt) - 1 :], strict=False):
        legal = np.concatenate([np.arange(low, high) for low, high in check.allowed().ranges])
        assert token == legal[other[legal].argmax()]
        check.advance(token)
