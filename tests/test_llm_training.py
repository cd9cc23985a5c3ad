"""Training of the language model, in seconds: equal arithmetic, a falling loss, resuming, early stand-ins for codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from anygpt_demo.grammar import section_of
from anygpt_demo.train import llm
from anygpt_demo.train.llm_data import Library, Stream, View, without_repeats, words_of
from anygpt_demo.train.loop import Settings
from anygpt_demo.train.text_tokenizer import added_tokens, mini_modalities, train_pieces, write_settings
from anygpt_demo.vocabulary import Vocabulary

SIZES = {"hidden": "64", "heads": "1", "layers": "2", "ffn": "64", "tokens": "300"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family with a tokenizer, and a speech set with phones but no codes."""
    folder = tmp_path_factory.mktemp("llm")
    tokenizer = folder / "mini" / "tokenizer"
    tokenizer.mkdir(parents=True)
    lines = ["draw a red car on a beach at night", "Here is a dog.", "play some slow jazz music", "tell me about the sea"] * 40
    train_pieces(iter(lines), 320, tokenizer / "tokenizer.model")
    write_settings(tokenizer, added_tokens(320, mini_modalities()))
    speech = folder / "runs" / "data" / "speech" / "synth1"
    speech.mkdir(parents=True)
    texts = ["draw a red car on a beach", "play some slow jazz music", "tell me about the sea", "a dog is happy when you come home"] * 3
    rng = np.random.default_rng(0)
    rows = []
    for number, text in enumerate(texts):
        rows.append({
            "start": number * 320 * 60, "samples": 320 * 60, "frames_start": number * 60, "frames": 60, "text": text, "voice": "rms",
            "source": "rms", "split": "train",
        })  # fmt: skip
    (speech / "index.json").write_text(json.dumps(rows))
    np.zeros(len(texts) * 320 * 60, np.int16).tofile(speech / "audio.i16")
    np.repeat(rng.integers(0, 41, len(texts) * 20), 3).astype(np.uint8).tofile(speech / "phones.u8")
    return folder


def settings(home: Path, budget: float, runs: str = "runs") -> Settings:
    return Settings(budget_s=budget, runs=home / runs, family=home / "mini", options=SIZES)


def stream(home: Path, trainer: llm.Trainer) -> Stream:
    return Stream(trainer.vocabulary, Library(home / "runs"), None, 0)


def test_shared_prefix_changes_nothing(home: Path) -> None:
    trainer = llm.Trainer(settings(home, 1))
    ids = torch.randint(3, 300, (3, 17))
    whole = torch.cat([trainer.prefix.expand(3, -1), ids], 1)
    expected = trainer.model.hidden(whole)[:, len(trainer.prefix) :]
    torch.testing.assert_close(llm.hidden_states(trainer.model, trainer.prefix, ids)[0], expected, rtol=1e-4, atol=1e-5)


def test_restricted_loss_equals_a_masked_softmax(home: Path) -> None:
    trainer = llm.Trainer(settings(home, 1))
    documents = [stream(home, trainer).next(View()) for _ in range(3)]
    batch = llm.collate(documents)
    hidden, _ = llm.hidden_states(trainer.model, trainer.prefix, batch.ids)
    loss, _ = trainer.loss(trainer.model, hidden, batch)
    section = torch.from_numpy(section_of(trainer.vocabulary, np.arange(trainer.vocabulary.size)).astype(np.int64))
    total, weight = 0.0, float(batch.weights[:, 1:].sum())
    logits = hidden[:, :-1] @ trainer.model.head.T
    for row, column in torch.nonzero(batch.weights[:, 1:] > 0).tolist():
        target = int(batch.ids[row, column + 1])
        legal = section == section[target]
        scores = logits[row, column].masked_fill(~legal, -torch.inf)
        total += float(batch.weights[row, column + 1]) * float((scores.logsumexp(0) - scores[target]).detach())
    assert float(loss) == pytest.approx(total / weight, rel=1e-4)


def test_sentences_that_listening_is_tested_on_are_never_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, seen = stream(home, llm.Trainer(settings(home, 1))), []
    write = source.writer.document
    monkeypatch.setattr(source.writer, "document", lambda dialogue, *rest: seen.append(words_of(dialogue)) or write(dialogue, *rest))
    for _ in range(60):
        source.next(View())
    common = max(set().union(*seen), key=lambda text: sum(text in words for words in seen))
    assert sum(common in words for words in seen) > 2
    source.writer.library.unseen = frozenset({common})
    seen.clear()
    for _ in range(200):
        source.next(View())
    assert not any(common in words for words in seen)


def test_loss_falls(home: Path) -> None:
    trainer = llm.Trainer(settings(home, 1))
    documents = [stream(home, trainer).next(View()) for _ in range(6)]
    losses = []
    for _ in range(45):
        _, figures, _ = trainer.step(documents, 3.0)
        losses.append(figures["text"][0] / figures["text"][1])
    assert losses[-1] < 0.7 * losses[0]


def test_training_resumes_and_exports(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm, "_evaluate", lambda run, trainer: None)
    llm.train(settings(home, 1.5))
    state = torch.load(home / "runs" / "llm" / "state.pt", weights_only=True)
    first = state["state"]["steps"]
    assert first > 0 and state["used_s"] >= 1.5
    llm.train(settings(home, 4))
    again = torch.load(home / "runs" / "llm" / "state.pt", weights_only=True)
    assert again["state"]["steps"] > first and again["used_s"] >= 4
    manifest = json.loads((home / "mini" / "manifest.json").read_text())
    config = manifest["components"]["llm"]["config"]
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["vocab_size"] == Vocabulary(home / "mini" / "tokenizer", mini_modalities()).size


def test_two_rounds_are_averaged(home: Path) -> None:
    one, two = (llm.Trainer(settings(home, 1)) for _ in range(2))
    two.model.model.norm.weight.data.fill_(3.0)
    two.export()
    one.mix(home / "mini")
    assert torch.equal(one.model.model.norm.weight.data, torch.full_like(one.model.model.norm.weight.data, 2.0))


def test_codes_take_over_from_phones(home: Path) -> None:
    trainer = llm.Trainer(settings(home, 1))
    folder = home / "runs" / "data" / "speech" / "synth1"
    phones = np.fromfile(folder / "phones.u8", np.uint8)
    codes = np.zeros((len(phones), 8), np.uint16)
    codes[:, 0] = phones.astype(np.uint16) + 500  # code 500 + p always stands for phone p
    codes.tofile(folder / "codes.u16")
    low, _ = trainer.vocabulary.ranges["speech"].layer(0)
    before = trainer.model.head[low : low + 41].detach().clone()
    library = Library(home / "runs")
    assert library.clips.coded
    trainer.adopt(library)
    after = trainer.model.head[low + 500 : low + 541].detach()
    present = np.unique(phones).tolist()
    likeness = torch.nn.functional.cosine_similarity(before[present], after[present])
    assert float(likeness.min()) > 0.8
    (folder / "codes.u16").unlink()


def test_documents(home: Path) -> None:
    trainer = llm.Trainer(settings(home, 1))
    source = stream(home, trainer)
    documents = [source.next(View()) for _ in range(80)]
    assert {"s-t", "t-s", "t-t"} <= {item.pattern for item in documents}
    speech = trainer.vocabulary.ranges["speech"]
    for item in documents:
        assert len(item.ids) == len(item.weights) and item.ids[0] == trainer.vocabulary.human
        for first, length, letters in item.heard:
            assert item.ids[first - 1] == speech.start and item.ids[first + length - 1] == speech.end and letters
    assert without_repeats(np.array([1, 1, 2, 2, 1])).tolist() == [1, 2, 1]
    batch = next(source.batches(View(), 200, pool=8))
    assert max(len(item.ids) for item in batch) * len(batch) <= 200 or len(batch) == 1


def test_schedules() -> None:
    assert llm.schedule(0.5) == 1.0 and llm.schedule(1.0) == pytest.approx(0.03) and llm.schedule(1.0, keep=True) == 1.0
    assert llm.repeats(0.5, 0.6) == 0.0 and llm.repeats(0.8, 0.6) == 0.95
