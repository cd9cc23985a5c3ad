"""Training of the language model, in seconds: equal arithmetic, a falling loss, resuming, early stand-ins for codes."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from anygpt_demo import checkpoints
from anygpt_demo.grammar import section_of
from anygpt_demo.synth import dialogues, music, phrasings, scenes
from anygpt_demo.synth.dialogues import NotFound, Words
from anygpt_demo.synth.world import NOUNS, noun_index
from anygpt_demo.train import llm, llm_data, music_codes, music_data, picture_data, word_spans
from anygpt_demo.train.llm_data import (
    BRIEF,
    FAR,
    FIRST,
    KNOWN,
    LONGEST_CLIP,
    PAINTED,
    SOUNDS,
    Library,
    Stream,
    View,
    until_next,
    without_repeats,
    words_of,
)
from anygpt_demo.train.loop import Settings
from anygpt_demo.train.speech_data import SpeechSet
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


def settings(home: Path, budget: float, runs: str = "runs", **sizes: str) -> Settings:
    return Settings(budget_s=budget, runs=home / runs, family=home / "mini", options=SIZES | sizes)


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


def test_new_aids_learn_alone_before_a_known_model_goes_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm, "ALONE", 3)
    first = llm.Trainer(settings(home, 1))
    first.export()
    trainer = llm.Trainer(settings(home, 1))
    trainer.begin_from(home / "mini")
    known, aids = ([item.detach().clone() for item in found] for found in (trainer.model.parameters(), trainer.parameters))
    source = stream(home, trainer)
    documents = [dataclasses.replace(source.next(View()), heard=((1, 12, (3, 4)),)) for _ in range(6)]
    for _ in range(3):
        trainer.step(documents, 1.0)
    assert all(torch.equal(one, other) for one, other in zip(known, trainer.model.parameters(), strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(aids, trainer.parameters, strict=True)), "the aids have learnt"
    trainer.step(documents, 1.0)
    assert not any(torch.equal(one, other) for one, other in zip(known[:3], trainer.model.parameters(), strict=False))


def test_a_run_begins_from_a_smaller_model_that_it_equals(home: Path) -> None:
    small = llm.Trainer(settings(home, 1))
    small.export()
    checkpoints.load_strict(small.model, checkpoints.Family.open(home / "mini").component("llm").state(), "llm")
    large = llm.Trainer(settings(home, 1, layers="4", ffn="96"))
    large.begin_from(home / "mini")
    prefix, ids = torch.arange(1, 6), torch.arange(40).view(2, 20) + 5
    for weights in (large.model.state_dict(), large.average):
        large.model.load_state_dict(weights)
        with torch.no_grad():
            before, after = (llm.hidden_states(one.model, prefix, ids)[0] for one in (small, large))
        assert torch.allclose(before, after, atol=1e-5)
    made = large.model.state_dict()
    assert float(made["model.layers.1.mlp.gate_proj.weight"].std()) > 0.01, "new layers can learn: their way in is not zero"
    for change, said in ((dict(ffn="32"), "larger"), (dict(layers="1"), "larger"), (dict(hidden="128"), "width")):
        with pytest.raises(checkpoints.BadCheckpoint, match=said):
            llm.Trainer(settings(home, 1, **change)).begin_from(home / "mini")
    weights = {key: value for key, value in small.model.state_dict().items() if "layers.0.mlp.up" not in key}
    with pytest.raises(checkpoints.BadCheckpoint, match="missing"):
        llm.enlarged(weights, large.model)


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
    two.begin_average()
    two.export()
    one.mix(home / "mini")
    assert torch.equal(one.average["model.norm.weight"], torch.full_like(one.average["model.norm.weight"], 2.0))


def test_what_is_exported_follows_the_model_as_an_average(home: Path) -> None:
    trainer = llm.Trainer(settings(home, 1))
    begun = trainer.model.model.norm.weight.detach().clone()
    source = stream(home, trainer)
    for _ in range(12):
        trainer.step(next(source.batches(View(), 400, pool=8)), 1.0)
    here, there = trainer.model.model.norm.weight.detach().clone(), trainer.average["model.norm.weight"].clone()
    assert 0 < float((there - begun).norm()) < float((here - begun).norm())
    trainer.begin_average(trained=True)
    trainer.step(next(source.batches(View(), 400, pool=8)), 1.0)
    moved = (trainer.average["model.norm.weight"] - here).norm() / (trainer.model.model.norm.weight.detach() - here).norm()
    assert float(moved) < 0.01
    here, there = trainer.model.model.norm.weight.detach(), trainer.average["model.norm.weight"]
    trainer.export()
    shipped = checkpoints.Family.open(home / "mini").component("llm").state()["model.norm.weight"].float()
    assert torch.allclose(shipped, there, atol=1e-2) and torch.equal(shipped, there.bfloat16().float())
    again = llm.Trainer(settings(home, 1))
    again.load(trainer.state())
    assert torch.equal(again.average["model.norm.weight"], there) and torch.equal(again.model.model.norm.weight, here)


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


def test_a_new_picture_tokenizer_takes_over_from_the_old_one() -> None:
    rng = np.random.default_rng(0)
    old = rng.integers(0, 8, (200, 32)).astype(np.uint16)
    new = (old + 3).astype(np.uint16)  # code c is code c + 3 now
    new[old == 7] = 0  # and 0 stands for 7
    shares = llm.translation(old, new, 16)
    assert torch.equal(shares.argmax(1)[3:10], torch.arange(7)) and shares[0, 7] == 1
    assert set(shares.sum(1).tolist()) == {0.0, 1.0} and shares[1].sum() == 0


def test_layers_that_a_new_music_codec_kept_keep_their_rows(home: Path) -> None:
    torch.manual_seed(0)
    books = {f"quantizer.layers.{layer}.codebook.embed": torch.randn(2048, 8).bfloat16() for layer in range(4)}
    checkpoints.export(home / "before", "music_codec", {}, books)
    books["quantizer.layers.1.codebook.embed"] = torch.randn(2048, 8).bfloat16()
    checkpoints.export(home / "mini", "music_codec", {}, books)
    given = settings(home, 1)
    trainer = llm.Trainer(dataclasses.replace(given, options={**given.options, "from": str(home / "before")}))
    item = trainer.vocabulary.ranges["music"]
    (low, high), (first, last) = item.layer(1), item.layer(0)
    trainer.model.head.data[low:high] += 0.3
    before = trainer.model.head.detach().clone()
    trainer._adopt_vectors("music")
    after = trainer.model.head.detach()
    hasty = llm.Trainer(dataclasses.replace(given, options={**given.options, "from": str(home / "before"), "haste": "3"}))
    assert [part.data_ptr() for part in hasty.hasty] == [hasty.model.head[low:high].data_ptr()]
    assert torch.equal(after[first:last], before[first:last]) and torch.equal(after[high:], before[high:])
    assert not torch.equal(after[low:high], before[low:high])
    assert torch.allclose(after[low:high].mean(0), before[low:high].mean(0), atol=2e-3)  # guesses go on from the usual
    assert abs(float((after[low:high] - after[low:high].mean(0)).std() / (before[low:high] - before[low:high].mean(0)).std()) - 1) < 0.1
    (home / "mini" / "music_codec").rename(home / "unused")
    (home / "mini" / "manifest.json").unlink()


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


def test_whatever_is_said_is_written_down_first(home: Path) -> None:
    trainer = llm.Trainer(settings(home, 1))
    source, tokens = stream(home, trainer), trainer.vocabulary
    documents = [source.next(View()) for _ in range(250)]
    ending = [item for item in documents if re.fullmatch("(t-t[^,]*, |s-t, )*listen", item.pattern)]  # nothing is cut before that
    assert len(ending) > 5 and any(", " in item.pattern for item in ending)
    for item in ending:
        begin, end = np.flatnonzero(item.ids == tokens.ins)[-1], len(item.ids) - 1
        assert item.ids[end] == tokens.res and (item.weights[begin : end + 1] > 0).all()
        heard = "".join(llm_data.LETTERS[letter] for letter in item.heard[-1][2])
        assert tokens.decode_text(item.ids[begin + 1 : end].tolist()).strip() == heard


def coded(home: Path) -> Path:
    """A copy of the speech set of 60 clips of one voice with codes and words; code = 100 x clip + phone, so each tells where it is from."""
    folder = home / "coded" / "data" / "speech" / "synth1"
    if folder.is_dir():
        return home / "coded"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    letters = "abdefghikl"  # each is said as one phone of 3 frames
    words = [["".join(rng.choice(list(letters), int(rng.integers(1, 4)))) for _ in range(4)] for _ in range(60)]
    phones = [np.repeat([0, *(1 + letters.index(letter) for letter in "".join(some)), 0], 3) for some in words]
    rows, at = [], 0
    for some, sounds in zip(words, phones, strict=True):
        size = len(sounds)
        rows.append({
            "start": at * 320, "samples": size * 320, "frames_start": at, "frames": size, "text": " ".join(some), "voice": "rms",
            "source": "rms", "split": "train",
        })  # fmt: skip
        at += size
    (folder / "index.json").write_text(json.dumps(rows))
    np.zeros(at * 320, np.int16).tofile(folder / "audio.i16")
    np.concatenate(phones).astype(np.uint8).tofile(folder / "phones.u8")
    levels = np.zeros((at, 8), np.uint16)
    levels[:, 0] = np.concatenate(phones)
    levels.tofile(folder / "codes.u16")
    word_spans.write(folder)
    return home / "coded"


def test_words_are_found_in_clips_without_a_dictionary(home: Path) -> None:
    data = SpeechSet(coded(home) / "data" / "speech" / "synth1")
    found = word_spans.read(data)
    assert found is not None
    right = total = 0
    for clip, ends in zip(data.clips, found, strict=True):
        lengths = [3 * len(word) for word in clip.text.split()]  # a pause of 3 frames begins and ends the clip
        true = 3 + np.cumsum(lengths)
        true[-1] += 3
        # equal neighbours are one run of frames, so a border between them cannot be seen
        right += int((np.abs(ends - true) <= 3).sum())
        total += len(true)
    assert right / total > 0.9
    (data.folder / "words.u16").write_bytes(b"12")
    assert word_spans.read(data) is None  # of another state of the set
    word_spans.write(data.folder)


def test_mixed_sentences_say_their_words(home: Path) -> None:
    library = Library(coded(home))
    rng = random.Random(3)
    texts = {clip.item.text for clip in library.clips.clips}
    mixed = [library.clips.mixed(rng) for _ in range(40)]
    assert sum(part.item.text not in texts for part in mixed) > 30
    for part in mixed:
        codes, words = library.clips.codes(part.number), library.clips.words(part.number)
        assert words is not None and len(codes) == len(words) <= LONGEST_CLIP
        spoken = part.item.text.split()
        assert words.tolist() == sorted(words.tolist()) and words[-1] == len(spoken) - 1
        assert codes.tolist() == library.clips.codes(part.number).tolist()  # the number says all
    close = 0
    for part in mixed:
        heard = library.clips.codes(part.number)
        said = heard[np.concatenate([[True], heard[1:] != heard[:-1]])]
        true = [1 + "abdefghikl".index(letter) for letter in part.item.text.replace(" ", "")]
        close += abs(len(said[said > 0]) - len(true)) <= 3
    assert close > 30


def test_mini_speaks_with_one_voice_and_hears_the_others(home: Path, tmp_path: Path) -> None:
    sets = tmp_path / "data" / "speech"
    shutil.copytree(coded(home) / "data" / "speech" / "synth1", sets / "synth1")
    alone, rng = Library(tmp_path), random.Random(4)
    shutil.copytree(sets / "synth1", sets / llm_data.OWN)
    library = Library(tmp_path)
    text = library.clips.clips[0].item.text
    for mine, name in ((True, llm_data.OWN), (False, "synth1")):
        for part in (library.speech(rng, ("any",), mine=mine), library.speech(rng, (), text, mine=mine)):
            assert library.clips.clips[part.number].set == name
        mixed = [library.speech(rng, ("words",), mine=mine).number for _ in range(9)]
        assert {library.clips._chunks(number)[0] for number in mixed} == {name}
    assert alone.speech(rng, (), text, mine=True).item.text == text  # without such a set any voice serves
    alone.speech(rng, ("words",), mine=True)
    with pytest.raises(NotFound):
        library.speech(rng, (), "nobody says this", mine=True)


def test_people_are_heard_more_often_than_their_clips_are_many(home: Path, tmp_path: Path) -> None:
    sets = tmp_path / "data" / "speech"
    shutil.copytree(coded(home) / "data" / "speech" / "synth1", sets / "synth1")
    shutil.copytree(sets / "synth1", sets / llm_data.HUMAN)
    library, rng = Library(tmp_path), random.Random(5)
    whole = [library.clips.clips[library.speech(rng, ("any",)).number].set for _ in range(400)]
    assert 0.75 < whole.count(llm_data.HUMAN) / 400 < 0.9  # five of six
    mixed = [library.clips._chunks(library.speech(rng, ("words",)).number)[0] for _ in range(400)]
    assert 0.28 < mixed.count(llm_data.HUMAN) / 400 < 0.42
    spoken = [library.clips._chunks(library.speech(rng, ("words",), mine=True).number)[0] for _ in range(40)]
    assert llm_data.HUMAN not in spoken  # nobody's voice is taken for mini's


def test_spoken_codes_are_guided_to_their_words(home: Path) -> None:
    trainer = llm.Trainer(settings(home, 1, "coded"))
    coded(home)
    source = Stream(trainer.vocabulary, Library(home / "coded"), None, 0)
    documents = [item for item in (source.next(View()) for _ in range(300)) if len(item.said)]
    speech = trainer.vocabulary.ranges["speech"]
    assert documents
    for item in documents:
        query, first, end, phones, after = item.said.T
        following = item.ids[query + 1]
        assert (((following >= speech.first) & (following < speech.start)) | (following == speech.end)).all()
        assert (first < end).all() and (end <= query + 1).all()
        assert all(trainer.vocabulary.is_text(int(number)) for number in item.ids[first])
        spoken = following < speech.start
        assert (phones[spoken] == following[spoken] - speech.first).all() and (phones[~spoken] == -1).all()  # codes are phones here
        assert (after[spoken] != phones[spoken]).all()
        places = np.flatnonzero(np.diff(first) < 0)
        assert all(item.ids[query[at] + 1] == speech.end for at in places)  # within one reply it only moves on
    batch = llm.collate(documents[:4])
    head = torch.nn.Linear(64, 2 * 41)
    assert float(llm.sounding_loss(head, torch.zeros(*batch.ids.shape, 64), batch)) == pytest.approx(np.log(41), rel=0.05)  # type: ignore[arg-type]
    looks = torch.full((2, len(batch.ids), 2, batch.ids.shape[1], 5 + batch.ids.shape[1]), 1e-6)
    worst = llm.speaking_loss(looks, batch, 5)
    for row, query, first, end, *_ in batch.said.tolist():
        looks[:, row, 0, query, 5 + first : 5 + min(end, first + llm.LONGEST_WORD)] = 1.0 / min(end - first, llm.LONGEST_WORD)
    best = llm.speaking_loss(looks, batch, 5)
    assert worst is not None and best is not None and float(best) == pytest.approx(0.0, abs=1e-3) and float(worst) > 9


def test_chats_that_follow_one_another_are_guided_to_their_own_words(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_data, "JOINED", 0.8)
    trainer = llm.Trainer(settings(home, 1, "coded"))
    coded(home)
    source = Stream(trainer.vocabulary, Library(home / "coded"), None, 0)
    documents = [source.next(View()) for _ in range(300)]
    people = [np.flatnonzero(item.ids == trainer.vocabulary.human) for item in documents]
    assert sum(len(found) > 2 for found in people) > 40
    assert max(len(item.ids) for item in documents) <= llm_data.LONGEST
    late = 0
    for item, found in zip(documents, people, strict=True):
        for query, first, *_ in item.said.tolist():
            turn = int(found[found < query].max())
            assert first > turn
            late += turn > found[0]
    assert late > 5


def test_words_to_be_copied_are_new_and_end_where_speech_begins(home: Path) -> None:
    trainer = llm.Trainer(settings(home, 1))
    source = stream(home, trainer)
    documents = [item for item in (source.next(View()) for _ in range(300)) if item.pattern == "copy"]
    assert documents
    assert all(item.ids[-1] == trainer.vocabulary.ranges["speech"].start and item.weights[-1] > 0 for item in documents)


def test_words_that_are_copied_are_looked_for_in_the_request(home: Path) -> None:
    trainer = llm.Trainer(settings(home, 1))
    source = stream(home, trainer)
    documents = [item for item in (source.next(View()) for _ in range(300)) if item.pattern in ("copy", "t-s")]
    vocabulary = trainer.vocabulary
    assert sum(len(item.copied) > 0 for item in documents) > 0.8 * len(documents)
    for item in documents:
        for query, first, end in item.copied.tolist():
            piece = vocabulary.spell(int(item.ids[query + 1])).lower().strip()
            assert piece in b"".join(vocabulary.spell(int(n)) for n in item.ids[first:end]).lower()
            assert end <= int(np.flatnonzero(item.ids == vocabulary.mmgpt)[0]) <= query
    batch = llm.collate(documents[:4])
    looks = torch.full((2, len(batch.ids), 2, batch.ids.shape[1], 5 + batch.ids.shape[1]), 1e-6)
    for row, query, first, end in batch.copied.tolist():
        looks[:, row, 1, query, 5 + first : 5 + end] = 1.0 / (end - first)
    assert float(llm.copying_loss(looks, batch, 5)) == pytest.approx(0.0, abs=1e-3)  # type: ignore[arg-type]
    assert float(llm.speaking_loss(looks, batch, 5) or 9.0) > 8  # the other head looks elsewhere


@pytest.fixture(scope="module")
def tuned(home: Path) -> tuple[list[music.Piece], np.ndarray]:
    """Pieces and their codes, in home / "tuned"."""
    folder = home / "tuned" / "data" / "codes" / "music"
    folder.mkdir(parents=True)
    rng = random.Random(2)
    pieces = [music.sample_piece(rng) for _ in range(30)]
    codes = np.random.default_rng(3).integers(0, 2048, (30, 125, 4)).astype("<u2")
    music_codes._write(folder, "", codes, pieces)
    return pieces, codes


def test_what_the_score_begins_is_known_before_each_frame(home: Path, tuned: tuple[list[music.Piece], np.ndarray]) -> None:
    pieces, codes = tuned
    trainer = llm.Trainer(settings(home, 1, "tuned"))
    library = Library(home / "tuned")
    assert library.music is not None and library.music.bits is not None
    source = Stream(trainer.vocabulary, library, None, 0)
    documents = [item for item in (source.next(View()) for _ in range(200)) if len(item.played)]
    assert documents
    low, high = trainer.vocabulary.ranges["music"].layer(0)
    firsts = [row[:, 0].tolist() for row in codes]
    modes: set[str] = set()
    for item in documents:
        query, until, facts = item.played[:, 0], item.played[:, 1 : 1 + SOUNDS], item.played[:, 1 + SOUNDS : -len(KNOWN)]
        following = item.ids[query + 1]
        assert ((following >= low) & (following < high)).all()
        start = np.flatnonzero(np.diff(query, prepend=-9) != 4)[0]
        count = next((n for n in range(1, len(query)) if query[n] - query[n - 1] != 4), len(query))
        row = next(n for n, codes_0 in enumerate(firsts) if codes_0[:count] == (following[start : start + count] - low).tolist())
        bits = music_data.label(music.compose(pieces[row], music_data.SECONDS)).bits[: music_codes.FRAMES].astype(int)
        assert until[:count].tolist() == until_next(bits)[:count].tolist()
        assert item.played[0, -len(KNOWN) :].tolist() == [values.index(getattr(pieces[row], name)) for name, values in KNOWN.items()]
        tempo, drums, *_, mode = (
            "".join(trainer.vocabulary.spell(int(number)).decode() for number in item.ids[first:end]).strip()
            for first, end in facts[0].reshape(-1, 2)[:5]
        )
        modes.add(mode)
        assert mode in ("", pieces[row].mode)
        beat = round(3000 / pieces[row].bpm)
        assert facts[:beat, -2:].max() == -1 and (facts[beat:count, -2] == query[: max(0, count - beat)] + 1).all()
        assert (tempo, drums) == (pieces[row].tempo, "with" if pieces[row].drums else "without")
    assert modes & set(music.MODES)
    assert any((item.shown != item.ids).any() for item in documents)
    lows = np.array([trainer.vocabulary.ranges["music"].layer(layer)[0] for layer in range(4)])
    there = {tuple(frame[1:]) for row in codes.tolist() for frame in row}
    held, misled = 0, 0
    for item in documents:
        for query, *until in item.played[:, : 1 + SOUNDS].tolist():
            frame, before = slice(query + 1, query + 5), slice(query - 3, query + 1)
            seen = tuple((item.shown[frame] - lows).tolist())
            if (item.weights[frame] == 0).all():  # a frame that seems to be held
                assert 0 not in until and item.shown[query + 1] == item.shown[query - 3]
                held += int((item.shown[frame] == item.shown[before]).all())
            elif (item.weights[frame] == 0).any():  # or played by somebody else
                assert (item.weights[frame] == 0).tolist() == [False, False, True, True] and seen[1:] in there
                misled += int((item.shown[frame] != item.ids[frame]).any())
            else:
                assert (item.shown[frame] == item.ids[frame]).all() or 0 in until
    assert held and misled
    for item in documents:
        item.shown[item.shown != item.ids] = low
        assert ((item.ids < low) <= (item.shown == item.ids)).all()
    batch = llm.collate(documents[:2])
    hidden = torch.randn(*batch.ids.shape, 64)
    head = torch.nn.Linear(64, SOUNDS * (FAR + 1))
    assert llm.playing_loss(head, hidden, batch) is not None
    longest = batch.ids.shape[1]
    looks = torch.zeros(2, 2, 2, longest, 5 + longest)
    row, query, (first, end) = batch.played[:, 0], batch.played[:, 1], batch.played[:, 2 + SOUNDS : 4 + SOUNDS].T
    for offset in range(llm.LONGEST_WORD):
        at = (first + offset).clamp(max=longest - 1)
        looks[0, row, 0, query, 5 + at] = torch.where(first + offset < end, 0.5, 0.0)
    away = torch.zeros_like(looks)
    assert float(llm.facts_loss(looks, batch, 5) or 9.0) < float(llm.facts_loss(away, batch, 5) or 0.0) - 1
    silent = [item for item in (source.next(View()) for _ in range(60)) if not len(item.played)]
    assert llm.playing_loss(head, hidden, llm.collate(silent)) is None
    assert llm.facts_loss(looks, llm.collate(silent), 5) is None


def test_first_frames_of_music_count_more(home: Path, tuned: tuple[list[music.Piece], np.ndarray]) -> None:
    vocabulary = llm.Trainer(settings(home, 1, "tuned")).vocabulary
    writer, item = Stream(vocabulary, Library(home / "tuned"), None, 0).writer, vocabulary.ranges["music"]
    frames = np.tile([item.layer(layer)[0] + 5 for layer in range(4)], (20, 1))
    frames[12:, 1] += 1
    ids = np.concatenate([[7, 8, item.start], frames.ravel(), [item.end, 9]])
    for reply in (True, False):
        weights = np.ones(len(ids), np.float32)
        writer._stress(ids, np.full(len(ids), reply), weights)
        played = weights[3:-2].reshape(20, 4)
        if reply:
            assert (played[: llm_data.FIRST] == llm_data.OPENING).all()
            played[: llm_data.FIRST] = 1
        assert (weights == 1).all()


def test_pieces_that_texts_hardly_hold_are_copied_too(home: Path) -> None:
    trainer = llm.Trainer(settings(home, 1))
    source = stream(home, trainer)
    words = (part.text for _ in range(4000) for turn in source._copy().turns for part in turn.parts if isinstance(part, Words))
    seen = {trainer.vocabulary.spell(number).decode("latin-1") for number in trainer.vocabulary.encode_text(" ".join(words))}
    assert len(source.pieces) > 100 and np.mean([piece in seen for piece in source.pieces]) > 0.9


def test_captions_are_told_aloud_in_words_that_no_clip_says(home: Path, tuned: tuple[list[music.Piece], np.ndarray]) -> None:
    trainer = llm.Trainer(settings(home, 1, "tuned"))
    source = Stream(trainer.vocabulary, Library(home / "tuned"), None, 0)
    item = trainer.vocabulary.ranges
    for number in range(20):
        dialogue = dialogues.write("m-s", random.Random(number), source.writer.library, spoken=False)
        request, reply = dialogue.turns
        piece = next(part.piece for part in request.parts if not isinstance(part, Words))
        assert reply.parts[0] == Words(f"I hear {dialogues.piece_words(piece)}.")
        assert any(isinstance(part, Words) and part.text in phrasings.typed(phrasings.ASK_SPOKEN_MUSIC_CAPTION) for part in request.parts)
        document = source.writer.document(dialogue, random.Random(0), View())
        assert document is not None and document.ids[-1] == item["speech"].start and document.weights[-1] > 0
        assert item["music"].end in document.ids


def test_a_piece_that_is_only_begun_keeps_its_aids(home: Path, tuned: tuple[list[music.Piece], np.ndarray]) -> None:
    trainer = llm.Trainer(settings(home, 1, "tuned"))
    source = Stream(trainer.vocabulary, Library(home / "tuned"), None, 3)
    documents = [item for item in (source.next(View(brief=1.0)) for _ in range(200)) if len(item.played)]
    assert documents
    mark = trainer.vocabulary.ranges["music"].start
    for item in documents:
        start = int(item.played[0, 0])
        frames, rest = divmod(len(item.ids) - start - 1, 4)
        assert item.ids[start] == mark and rest == 0 and FIRST <= frames <= BRIEF
        assert item.played[:, 0].tolist() == [start + 4 * frame for frame in range(frames)]
    lengths = {len(item.played) for item in documents}
    assert len(lengths) > 1


def test_the_facts_of_a_piece_are_asked_for_while_it_is_heard(home: Path, tuned: tuple[list[music.Piece], np.ndarray]) -> None:
    trainer = llm.Trainer(settings(home, 1, "tuned"))
    source = Stream(trainer.vocabulary, Library(home / "tuned"), None, 0)
    documents = [item for item in (source.next(View()) for _ in range(300)) if len(item.known)]
    assert documents
    item = trainer.vocabulary.ranges["music"]
    low, high = item.layer(3)
    rows = [(codes[:, 3].tolist(), piece) for piece, codes in zip(*tuned, strict=True)]
    for document in documents:
        place, *classes = document.known[0].tolist()
        assert low <= document.ids[place] < high  # the last code of a frame
        start = int(np.flatnonzero(document.ids[:place] == item.start)[-1])
        end = start + int(np.flatnonzero(document.ids[start:] == item.end)[0])
        heard = (document.ids[start + 4 : end : 4] - low).tolist()
        piece = next(piece for codes, piece in rows if any(codes[at : at + len(heard)] == heard for at in range(len(codes))))
        assert classes == [values.index(getattr(piece, name)) for name, values in KNOWN.items()]
    batch = llm.collate([item for item in documents if not len(item.played)][:2])
    head = torch.nn.Linear(64, sum(map(len, KNOWN.values())))
    hidden = torch.randn(*batch.ids.shape, 64)
    chance = llm.knowing_loss(head, hidden, batch)
    assert chance is not None and float(chance) > 1
    with torch.no_grad():  # a head that knows the first piece
        head.weight.zero_()
        head.bias.zero_()
        starts = np.cumsum([0, *map(len, KNOWN.values())])[:-1]
        head.bias[batch.known[0, 2:] + torch.from_numpy(starts)] = 20.0
    known = llm.knowing_loss(head, hidden, dataclasses.replace(batch, known=batch.known[:1]))
    assert known is not None and float(known) < 0.01
    silent = [document for document in (source.next(View()) for _ in range(60)) if not len(document.known) + len(document.played)]
    assert llm.knowing_loss(head, hidden, llm.collate(silent)) is None


def test_what_stands_where_is_known_before_each_code_of_a_picture(home: Path) -> None:
    folder = home / "drawn" / "data" / "codes" / "pictures"
    folder.mkdir(parents=True)
    rng = random.Random(4)
    drawn = [scenes.sample_scene(rng) for _ in range(40)]
    (folder / "scenes.jsonl").write_text("".join(json.dumps(picture_data.row_of(scene, rng)) + "\n" for scene in drawn))
    np.repeat(np.arange(40, dtype="<u2")[:, None], 32, 1).tofile(folder / "codes.u16")  # each code tells which picture it is of
    trainer = llm.Trainer(settings(home, 1, "drawn"))
    source = Stream(trainer.vocabulary, Library(home / "drawn"), None, 0)
    documents = [item for item in (source.next(View()) for _ in range(200)) if len(item.painted)]
    assert documents and all(len(item.painted) % 32 == 0 for item in documents)
    low, _ = trainer.vocabulary.ranges["image"].layer(0)
    for item in documents:
        for rows in item.painted.reshape(-1, 32, 1 + len(PAINTED)):
            codes = item.ids[rows[:, 0] + 1] - low
            assert (codes == codes[0]).all()
            scene = drawn[codes[0]]
            nouns = [noun_index(thing.noun) for thing, _ in scene.slots()]
            assert rows[8::8, 1].tolist() == (nouns + [len(NOUNS)] * 3)[:3]
            for slot, (_, box) in enumerate(scene.slots(), 1):
                assert (np.abs(rows[8 * slot : 8 * slot + 8, 2:4] / 8 + 1 / 16 - (box.x, box.y)) < 1 / 16 + 1e-6).all()
            assert (rows[:8, 1:4] == -1).all() and (rows[8:, 4:] == -1).all() and (rows[:8, 4:] >= 0).all()
    batch = llm.collate(documents[:1])
    head = torch.nn.Linear(64, sum(PAINTED.values()))
    hidden = torch.zeros(1, batch.ids.shape[1], 64)
    loss = llm.painting_loss(head, hidden, batch)
    assert loss is not None and 0 < float(loss) < 6
    silent = [document for document in (source.next(View()) for _ in range(60)) if not len(document.painted)]
    assert llm.painting_loss(head, hidden, llm.collate(silent[:1])) is None


def test_the_time_to_the_next_sound_is_known_until_the_cut() -> None:
    bits = np.zeros(50, int)
    bits[[10, 11, 30, 31]] = 5
    until = until_next(bits)
    assert until[:12, 0].tolist() == [*range(10, -1, -1), 19] and until[31:, 0].tolist() == [-1] * 19
    assert (until[:19, 1] == FAR).all() and (until[19:, 1] == -1).all()
    assert until[:, 2].tolist() == until[:, 0].tolist()


def test_where_a_person_ends_is_not_learnt(home: Path) -> None:
    trainer = llm.Trainer(settings(home, 1))
    source = stream(home, trainer)
    ends = [item.end for item in trainer.vocabulary.ranges.values()]
    seen = 0
    for item in (source.next(View()) for _ in range(200)):
        reply = int(np.flatnonzero(item.ids == trainer.vocabulary.mmgpt)[0])
        given = np.isin(item.ids[:reply], ends)
        seen += int(given.sum())
        assert not item.weights[:reply][given].any()
    assert seen and all(source.writer.reply_weight[trainer.vocabulary.ranges[name].end] > 0 for name in ("speech", "music"))
    assert not source.writer.read_weight[ends].any()


def test_schedules() -> None:
    assert llm.schedule(0.5) == 1.0 and llm.schedule(1.0) == pytest.approx(0.03) and llm.schedule(1.0, keep=True) == 1.0
    assert llm.repeats(0.5, 0.6) == 0.0 and llm.repeats(0.8, 0.6) == 0.95
