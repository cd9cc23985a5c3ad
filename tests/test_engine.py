"""The decode loop on a tiny random model: legality, determinism, stopping, budgets and cache reuse."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from anygpt_demo.engine import LocalEngine, draw, id_at, penalise, places
from anygpt_demo.errors import ModelFault, UserError
from anygpt_demo.grammar import Grammar
from anygpt_demo.modality import Sampling
from anygpt_demo.models.llama import Llama, LlamaConfig
from anygpt_demo.protocol import Parser


@pytest.fixture(scope="module")
def engine(vocabulary) -> LocalEngine:
    torch.manual_seed(0)
    model = Llama(LlamaConfig(vocabulary.size, 64, 128, 2, 2, 2, max_position_embeddings=1024, tie_word_embeddings=True))
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.05)
    return LocalEngine(model)


def write(engine, vocabulary, prompt, seed=1, budget=300, **options):
    generation = engine.generate(prompt, Grammar(vocabulary, budget=budget), seed=seed, max_new=budget, **options)
    return list(generation), generation.reason


def test_random_weights_write_only_well_formed_replies(engine, vocabulary):
    for seed in range(8):
        ids, reason = write(engine, vocabulary, [vocabulary.bos, vocabulary.human], seed)
        parser = Parser(vocabulary)
        events = [event for number in ids for event in parser.feed(number)]
        assert reason == "eos" and ids[-1] == vocabulary.stop
        assert not [event for event in events if type(event).__name__ == "Malformed"]


def test_equal_arguments_give_equal_ids_and_another_seed_other_ids(engine, vocabulary):
    prompt = [vocabulary.bos, 5, 6, 7]
    assert write(engine, vocabulary, prompt, 3) == write(engine, vocabulary, prompt, 3)
    assert write(engine, vocabulary, prompt, 3) != write(engine, vocabulary, prompt, 4)


def test_a_kept_cache_changes_nothing_but_the_work(engine, vocabulary):
    first = [vocabulary.bos, *range(10, 60)]
    cache = engine.cache()
    write(engine, vocabulary, first, cache=cache)
    for prompt in (first + [20, 21], first[:30] + [9], first):  # continued, edited, undone
        assert write(engine, vocabulary, prompt, 5, cache=cache) == write(engine, vocabulary, prompt, 5)


def test_stop_flag_ends_within_one_token(engine, vocabulary):
    stop = threading.Event()
    generation = engine.generate([vocabulary.bos], Grammar(vocabulary, budget=900, force="music"), seed=0, stop=stop, max_new=900)
    count, started = 0, 0.0
    for count, _ in enumerate(generation, 1):
        if count == 5:
            started = time.perf_counter()
            stop.set()
    assert count == 5 and generation.reason == "stop" and time.perf_counter() - started < 0.05


def test_the_budget_of_the_caller_is_kept(engine, vocabulary):
    generation = engine.generate([vocabulary.bos], Grammar(vocabulary, budget=900, force="music"), seed=0, stop=None, max_new=7)
    assert len(list(generation)) == 7 and generation.reason == "budget"


def test_a_prompt_longer_than_the_context_is_refused(engine, vocabulary):
    with pytest.raises(UserError):
        engine.generate([5] * 1024, Grammar(vocabulary), seed=0, stop=None, max_new=5)


def test_draw_follows_its_settings():
    logits = torch.tensor([0.0, 1.0, 3.0, 2.0])
    generator = torch.Generator().manual_seed(0)
    assert draw(logits, Sampling(temperature=0.0), generator) == 2
    assert {draw(logits, Sampling(top_k=2), generator) for _ in range(200)} == {2, 3}
    assert {draw(logits, Sampling(top_p=0.5), generator) for _ in range(200)} == {2}
    counts = torch.zeros(4)
    for _ in range(4000):
        counts[draw(logits, Sampling(), generator)] += 1
    assert (counts / 4000 - logits.softmax(-1)).abs().max() < 0.03
    with pytest.raises(ModelFault):
        draw(torch.tensor([0.0, float("nan")]), Sampling(), generator)


def test_penalty_equals_the_reference():
    from transformers import RepetitionPenaltyLogitsProcessor

    logits = torch.randn(50)
    seen = torch.tensor([3, 7, 20])
    expected = RepetitionPenaltyLogitsProcessor(1.15)(seen[None], logits[None])[0]
    assert torch.equal(penalise(logits, seen, 1.15), expected)


def test_positions_and_ids_are_inverse():
    ranges = ((3, 6), (10, 12))
    assert [id_at(ranges, place) for place in range(5)] == [3, 4, 5, 10, 11]
    assert sorted(places(ranges, [11, 4, 4, 99])) == [1, 4]
