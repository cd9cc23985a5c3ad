"""Recorded steps, here run piece by piece on a CPU: seats, positions, the draw, and ids that the host learns one step late."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from anygpt_demo.engine import LocalEngine, draw, penalise
from anygpt_demo.grammar import Grammar
from anygpt_demo.modality import Sampling
from anygpt_demo.models.eager import Eager
from anygpt_demo.models.graphs import Graphs, Recording, seats_for, without_outliers
from anygpt_demo.models.llama import Llama, LlamaConfig, row_bytes
from tests.test_engine import guided


@pytest.fixture(scope="module")
def model(vocabulary) -> Llama:
    torch.manual_seed(1)
    made = Llama(LlamaConfig(vocabulary.size, 64, 128, 2, 4, 2, max_position_embeddings=512, tie_word_embeddings=True))
    torch.nn.init.normal_(made.model.embed_tokens.weight, std=0.2)  # with nearly equal scores rounding would decide the order
    return made.requires_grad_(False)


def engine_of(model: Llama, seats: int, kv: str = "none") -> LocalEngine:
    return LocalEngine(model, runner=Graphs(model, "cpu", seats, kv=kv))


def write(engine, vocabulary, prompt, seed=1, budget=150, cache=None, **rules):
    generation = engine.generate(prompt, Grammar(vocabulary, budget=budget, **rules), seed=seed, max_new=budget, cache=cache)
    ids = list(generation)
    return ids, Shares(generation.shares), generation.reason


class Shares(list):
    """How likely each id was; equal to what differs by rounding only."""

    def __eq__(self, other):
        return [share or 0 for share in self] == pytest.approx([share or 0 for share in other], abs=1e-4)


@pytest.mark.parametrize("rules", [{}, {"force": "music", "force_after": 3}, {"force": "image"}, {"preset": "greedy"}])
def test_ids_equal_those_that_are_drawn_on_the_host(model, vocabulary, rules):
    prompt = [vocabulary.bos, *range(9, 60)]
    for seed in range(3):
        expected = write(LocalEngine(model), vocabulary, prompt, seed, **rules)
        assert write(engine_of(model, 2), vocabulary, prompt, seed, **rules) == expected


def test_sessions_in_seats_and_one_without_write_what_they_write_alone(model, vocabulary):
    prompts = [[vocabulary.bos, *range(9, 9 + 30 * number)] for number in (1, 2, 3, 4)]
    alone = [write(LocalEngine(model), vocabulary, prompt, seed) for seed, prompt in enumerate(prompts)]
    engine = engine_of(model, 3)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda pair: write(engine, vocabulary, pair[1], pair[0]), enumerate(prompts))) == alone
    assert engine.runner.seats == [None] * 3


def test_a_later_turn_reads_only_what_is_new_and_stays_right(model, vocabulary):
    engine, first = engine_of(model, 1), [vocabulary.bos, *range(10, 60)]
    cache = engine.cache()
    ids, *_ = write(engine, vocabulary, first, cache=cache, budget=60)
    assert -1 not in cache.ids and cache.ids[: len(first)] == first
    for prompt in (first + ids + [20, 21], first[:30] + [9], first):
        assert write(engine, vocabulary, prompt, 5, cache=cache) == write(LocalEngine(model), vocabulary, prompt, 5)


def test_a_stop_leaves_a_cache_without_unknown_ids(model, vocabulary):
    engine, stop = engine_of(model, 1), threading.Event()
    cache = engine.cache()
    rules = Grammar(vocabulary, budget=300, force="music")
    generation = engine.generate([vocabulary.bos, 7], rules, seed=0, stop=stop, max_new=300, cache=cache)
    for count, _ in enumerate(generation, 1):
        if count == 9:
            stop.set()
    assert count == 9 and generation.reason == "stop" and -1 not in cache.ids and engine.runner.seats == [None]


@pytest.mark.parametrize("seats", [1, 2])
@pytest.mark.parametrize("name", ["speech", "image"])
def test_guided_ids_equal_those_that_are_drawn_on_the_host(model, vocabulary, name, seats):
    """The reading that a block is led away from has a seat of its own, or is read without one."""
    tokens, prompt = guided(vocabulary, 3.0), [vocabulary.bos, *range(9, 60)]
    rules = {"force": name, "force_after": 2, "limits": {"speech": 25}, "budget": 90}
    for seed in range(2):
        engine = engine_of(model, seats)
        expected = write(LocalEngine(model), tokens, prompt, seed, **rules)
        assert write(engine, tokens, prompt, seed, **rules) == expected
        assert engine.runner.seats == [None] * seats
        assert expected != write(LocalEngine(model), vocabulary, prompt, seed, **rules)


def test_guided_sessions_together_write_what_they_write_alone_and_stop_clean(model, vocabulary):
    tokens, engine = guided(vocabulary, 2.0), engine_of(model, 3)
    vocabularies = (tokens, vocabulary, tokens)
    rules = {"force": "speech", "force_after": 1, "limits": {"speech": 15}, "budget": 60}
    alone = [write(LocalEngine(model), words, [vocabulary.bos, 9 + seed], seed, **rules) for seed, words in enumerate(vocabularies)]
    with ThreadPoolExecutor(3) as pool:
        numbered = list(enumerate(vocabularies))
        assert list(pool.map(lambda pair: write(engine, pair[1], [vocabulary.bos, 9 + pair[0]], pair[0], **rules), numbered)) == alone
    stop, cache = threading.Event(), engine.cache()
    grammar = Grammar(tokens, budget=200, force="speech", force_after=0)
    generation = engine.generate([vocabulary.bos, 7], grammar, seed=0, stop=stop, max_new=200, cache=cache)
    for count, _ in enumerate(generation, 1):
        if count == 6:
            stop.set()
    assert -1 not in cache.ids and engine.runner.seats == [None] * 3


@torch.inference_mode()
def test_keys_and_values_in_8_bit_take_half_and_hardly_change_the_scores(model):
    """A number is off by at most 1/254 of the largest of its row, about 1/100 of a usual one, and a score adds many of them: below 1 %."""
    small, plain = Graphs(model, "cpu", 1, kv="int8"), Graphs(model, "cpu", 1)
    half = copy.deepcopy(model).bfloat16()
    assert Eager(half, "cpu", "int8").cache(99).each == 18 / 32 * Eager(half, "cpu").cache(99).each  # heads of 16 numbers
    assert row_bytes(128, 2, "int8") == 130 and row_bytes(128, 2, "none") == 256  # usual ones
    assert Graphs(half, "cpu", 1, kv="int8").slots.nbytes == 18 / 32 * Graphs(half, "cpu", 1).slots.nbytes
    assert seats_for(half, 10**6, "int8") == (4, 512) and seats_for(half, 10**6) == (2, 512)
    ids = np.random.default_rng(0).integers(9, 300, 200).tolist()
    head = plain.head(((0, model.config.vocab_size),))
    found = []
    for runner in (small, plain):
        cache = runner.cache(256)
        for start, end in ((0, 120), (120, 199), (199, 200)):
            row = runner.run([(ids[start:end], cache)])[0]
        found.append(runner.scores(row, head))
    assert 0 < np.linalg.norm(found[0] - found[1]) / np.linalg.norm(found[1]) < 0.01


@pytest.mark.parametrize("seats", [0, 1])
def test_in_8_bit_a_kept_cache_and_edits_give_the_ids_of_a_cold_run(model, vocabulary, seats):
    def made():
        return engine_of(model, 1, "int8") if seats else LocalEngine(model, runner=Eager(model, "cpu", "int8"))

    engine, first = made(), [vocabulary.bos, *range(10, 60)]
    cache = engine.cache()
    ids, *_ = write(engine, vocabulary, first, cache=cache, budget=60)
    assert cache.dtype == torch.int8 and cache.ids[: len(first)] == first
    for prompt in (first + ids + [20, 21], first[:30] + [9], first):  # continued, edited, undone
        assert write(engine, vocabulary, prompt, 5, cache=cache, budget=80) == write(made(), vocabulary, prompt, 5, budget=80)


def test_after_beams_blocks_are_drawn_on_the_device(model, vocabulary):
    rules = {"preset": "paper", "force": "music", "force_after": 6, "limits": {"music": 4}}
    prompt = [vocabulary.bos, 9, 8]
    assert write(engine_of(model, 1), vocabulary, prompt, 3, 120, **rules) == write(LocalEngine(model), vocabulary, prompt, 3, 120, **rules)


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(top_k=9), Sampling(top_p=0.6), Sampling(top_k=20, top_p=0.7), Sampling(temperature=0.0)],
)
@torch.inference_mode()
def test_the_draw_on_the_device_is_the_draw_on_the_host(model, sampling):
    class Given:
        """A source of one number."""

        def __init__(self, luck):
            self.random = lambda: luck

    graphs = Graphs(model, "cpu")
    scores = np.random.default_rng(1).normal(size=300).astype(np.float32)
    for luck in np.linspace(0, 0.999, 40).tolist():
        graphs.luck[0] = luck
        place = graphs._place(torch.from_numpy(scores), sampling)
        assert int(place[0]) == draw(scores.copy(), sampling, Given(graphs.luck[0].item()))


@torch.inference_mode()
def test_the_penalty_on_the_device_is_the_penalty_on_the_host(model, vocabulary):
    graphs, ranges = Graphs(model, "cpu"), ((20, 60), (80, 90))
    row, seen = torch.randn(64), graphs.blank()
    seen[torch.tensor([25, 85])] = True
    sampling = Sampling(temperature=0.0, repetition_penalty=1.5)
    found = graphs.draw(row, graphs.head(ranges), sampling, 0.0, seen).get()[0]
    scores = graphs.scores(row, graphs.head(ranges)).copy()
    penalise(scores, np.array([5, 45]), 1.5)
    assert found == graphs.head(ranges).ids[scores.argmax()] and bool(seen[found])


def test_seats_take_a_share_of_the_free_memory(model):
    seat = 2 * 2 * 2 * 16 * 4 * 512
    assert seats_for(model, 0) == (0, 0) and seats_for(model, 4 * seat) == (1, 512) and seats_for(model, 400 * seat) == (8, 512)
    long = Llama(LlamaConfig(300, 64, 128, 2, 4, 2, max_position_embeddings=4096))
    assert seats_for(long, 4 * 2 * seat) == (1, 1024) and seats_for(long, 4 * 8 * seat) == (1, 4096)


def test_a_conversation_that_outgrows_its_seat_goes_on_without_one(model, vocabulary):
    engine, cache = LocalEngine(model, runner=Graphs(model, "cpu", 2, length=100)), None
    cache = engine.cache()
    prompt = [vocabulary.bos, *range(9, 60)]
    assert write(engine, vocabulary, prompt, 2, 150, cache=cache) == write(LocalEngine(model), vocabulary, prompt, 2, 150)
    assert engine.runner.seats == [None, None] and len(cache.ids) > 100
    longer = cache.ids[:120] + [5, 6]
    assert write(engine, vocabulary, longer, 2, 90, cache=cache) == write(LocalEngine(model), vocabulary, longer, 2, 90)


def test_the_outlier_path_is_switched_off(model):
    class Linear8bitLt(torch.nn.Module):
        """As bitsandbytes names its layer."""

        def __init__(self):
            super().__init__()
            self.state = type("State", (), {"threshold": 6.0})()

    holder = torch.nn.Sequential(Linear8bitLt(), torch.nn.Linear(2, 2))
    assert without_outliers(holder) == 1 and holder[0].state.threshold == 0.0


def test_what_cannot_be_recorded_runs_step_by_step(monkeypatch, caplog):
    done = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda: (_ for _ in ()).throw(RuntimeError("no")))
    recording = Recording(lambda: done.append(1), "cuda")
    recording.replay()
    assert done == [1] and recording.graph is None and "piece by piece" in caplog.text
