"""The decode loop on a tiny random model: legality, determinism, stopping, budgets and cache reuse."""

from __future__ import annotations

import copy
import os
import queue
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from anygpt_demo import engine as engine_module
from anygpt_demo import memory, protocol
from anygpt_demo.chat import Chat, Message, Settings
from anygpt_demo.conversation import Conversation, TextPart, Turn
from anygpt_demo.engine import AHEAD, CACHE_BYTES, Desk, LocalEngine, cache_room, draw, lead, likeliest, pack, penalise, record
from anygpt_demo.errors import ModelFault, UserError
from anygpt_demo.grammar import Grammar
from anygpt_demo.media import Audio, Voice
from anygpt_demo.modality import Sampling
from anygpt_demo.models import fast
from anygpt_demo.models.compiled import Compiled, library
from anygpt_demo.models.eager import Eager
from anygpt_demo.models.graphs import Graphs
from anygpt_demo.models.llama import Llama, LlamaConfig
from anygpt_demo.protocol import Parser
from anygpt_demo.vocabulary import Vocabulary
from tests.tiles import kept


@pytest.fixture(scope="module")
def engine(vocabulary) -> LocalEngine:
    torch.manual_seed(0)
    model = Llama(LlamaConfig(vocabulary.size, 64, 128, 2, 2, 2, max_position_embeddings=1024, tie_word_embeddings=True))
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.05)
    return LocalEngine(model)


def write(engine, vocabulary, prompt, seed=1, budget=300, **options):
    generation = engine.generate(prompt, Grammar(vocabulary, budget=budget), seed=seed, max_new=budget, **options)
    ids = list(generation)
    assert len(generation.shares) == len(ids) and all(share is None or 0 < share <= 1 for share in generation.shares)
    return ids, generation.reason


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
    assert count == 5 and generation.reason == "stop" and time.perf_counter() - started < 1  # the bench tells how many milliseconds


def test_the_budget_of_the_caller_is_kept(engine, vocabulary):
    generation = engine.generate([vocabulary.bos], Grammar(vocabulary, budget=900, force="music"), seed=0, stop=None, max_new=7)
    assert len(list(generation)) == 7 and generation.reason == "budget"


def test_a_prompt_longer_than_the_context_is_refused(engine, vocabulary):
    with pytest.raises(UserError):
        engine.generate([5] * 1024, Grammar(vocabulary), seed=0, stop=None, max_new=5)


def test_draw_follows_its_settings():
    scores = np.array([0.0, 1.0, 3.0, 2.0], np.float32)
    random = np.random.default_rng(0)
    assert draw(scores, Sampling(temperature=0.0), random) == 2
    assert {draw(scores, Sampling(top_k=2), random) for _ in range(200)} == {2, 3}
    assert {draw(scores, Sampling(top_p=0.5), random) for _ in range(200)} == {2}
    assert {draw(scores, Sampling(top_k=3, top_p=0.8), random) for _ in range(200)} == {2, 3}
    counts = np.bincount([draw(scores, Sampling(), random) for _ in range(4000)], minlength=4)
    assert np.abs(counts / 4000 - torch.from_numpy(scores).softmax(-1).numpy()).max() < 0.03
    with pytest.raises(ModelFault):
        draw(np.array([0.0, np.nan], np.float32), Sampling(), random)


@pytest.mark.parametrize("top_p", [0.1, 0.7, 0.999])
def test_the_nucleus_equals_the_one_of_a_full_sort(top_p):
    scores = np.random.default_rng(1).normal(size=3000).astype(np.float32)
    shares = np.exp(np.sort(scores)[::-1].astype(np.float64))
    before = np.cumsum(shares) - shares
    kept = set(np.argsort(-scores)[before < top_p * shares.sum()].tolist())
    random = np.random.default_rng(2)
    found = {draw(scores, Sampling(top_p=top_p), random) for _ in range(3000)}
    assert found <= kept and len(found) > 0.2 * min(len(kept), 3000)


def test_leading_away_keeps_the_odds_of_a_mark():
    random = np.random.default_rng(0)
    scores, other = random.normal(size=(2, 9)).astype(np.float32)
    codes = np.arange(9) < 8
    led = scores.copy()
    lead(led, other, 2.0, codes)
    chance = [np.exp(item[8]) / np.exp(item).sum() for item in (scores, led)]
    assert chance[0] == pytest.approx(chance[1], rel=1e-5)
    assert np.allclose(led[:8], 2 * scores[:8] - other[:8])
    same = scores.copy()
    lead(same, other, 1.0, codes)
    assert np.allclose(same, scores, atol=1e-6)


def drawn_by(vocabulary, **sampling: float) -> Vocabulary:
    """The same words and codes, whose codes are drawn otherwise."""
    other = copy.copy(vocabulary)
    other.ranges = {
        name: replace(item, modality=replace(item.modality, sampling=replace(item.modality.sampling, **sampling)))
        for name, item in vocabulary.ranges.items()
    }
    return other


def guided(vocabulary, guidance: float) -> Vocabulary:
    """The same words and codes, whose codes are led away from what nobody asked for."""
    return drawn_by(vocabulary, guidance=guidance)


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["own kernels", "fp32"])
def test_guided_codes_are_those_of_two_readings_of_the_model(vocabulary, kind):
    """Block begun by the reply or standing in the prompt: each code is drawn from both readings, worked out here from the beginning."""
    torch.manual_seed(0)
    model = Llama(LlamaConfig(vocabulary.size, 64, 128, 2, 2, 2, max_position_embeddings=600, tie_word_embeddings=True))
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.2)
    kernels = library()
    if kind == "own kernels" and kernels is None:
        pytest.skip("no C compiler")
    runner = Compiled(model, kernels) if kind == "own kernels" else fast.Fast(model, kind)
    engine, tokens = LocalEngine(model, runner=runner), guided(vocabulary, 3.0)
    for name in ("speech", "image"):
        item = tokens.ranges[name]
        prompt = protocol.encode(tokens, [Turn("human", (TextPart("Draw or say seven words"),))])
        for begun in ([], [item.start], [item.start, item.first + 3, item.first + 1]):
            grammar = Grammar(tokens, budget=80, force=name, force_after=0, limits={"speech": 25})
            grammar.begin(begun)
            ids = list(engine.generate([*prompt, *begun], grammar, seed=4, max_new=80))
            unled = Grammar(vocabulary, budget=80, force=name, force_after=0, limits={"speech": 25})
            unled.begin(begun)
            assert ids != list(engine.generate([*prompt, *begun], unled, seed=4, max_new=80))
            check, random = Grammar(tokens, budget=80, force=name, force_after=0, limits={"speech": 25}), np.random.default_rng(4)
            check.begin(begun)
            reply = list(begun)
            for token in ids:
                legal = check.allowed()
                head = runner.head(legal.ranges)
                scores = runner.scores(runner.run([([*prompt, *reply], runner.cache(600))])[0], head).copy()
                if legal.block is not None:
                    block = reply[reply.index(item.start) :]
                    other = runner.run([([*protocol.anything(tokens, name), *block], runner.cache(600))])[0]
                    codes = (head.ids >= legal.onward[0]) & (head.ids < legal.onward[1])
                    lead(scores, runner.scores(other, head), 3.0, codes)
                assert token == int(head.ids[draw(scores, legal.sampling, random)])
                check.advance(token)
                reply.append(token)


def test_guided_replies_written_together_are_those_written_alone(vocabulary):
    torch.manual_seed(0)
    model = Llama(LlamaConfig(vocabulary.size, 64, 128, 2, 2, 2, max_position_embeddings=400, tie_word_embeddings=True))
    engine, tokens = LocalEngine(model, kind="auto"), guided(vocabulary, 2.0)

    def reply(number: int) -> list[int]:
        grammar = Grammar(tokens if number % 3 else vocabulary, budget=150)
        return list(engine.generate([tokens.bos, 300 + number], grammar, seed=number, max_new=150))

    alone = [reply(number) for number in range(10)]
    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(reply, range(10))) == alone


@pytest.mark.parametrize("kind", ["own kernels", "fp32"])
def test_of_several_drawings_of_a_block_the_likeliest_is_kept(vocabulary, kind):
    """Each drawing is made here alone, from the same seed; what follows the block is drawn as if nothing else had been written."""
    torch.manual_seed(0)
    model = Llama(LlamaConfig(vocabulary.size, 64, 128, 2, 2, 2, max_position_embeddings=600, tie_word_embeddings=True))
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.2)
    kernels = library()
    if kind == "own kernels" and kernels is None:
        pytest.skip("no C compiler")
    engine = LocalEngine(model, runner=Compiled(model, kernels) if kind == "own kernels" else fast.Fast(model, kind))
    tokens, once = drawn_by(vocabulary, tries=4, guidance=1.5, top_p=1.0), drawn_by(vocabulary, guidance=1.5, top_p=1.0)
    item, prompt = tokens.ranges["speech"], [tokens.bos, 300, 301]
    winners = []
    for seed in range(6):
        generation = engine.generate(
            prompt, Grammar(tokens, budget=200, force="speech", force_after=3, limits={"speech": 30}), seed=seed, max_new=200
        )
        ids = list(generation)
        assert len(generation.shares) == len(ids) and ids[-1] == tokens.stop
        first = ids.index(item.start) + 1
        last = ids.index(item.end) + 1
        drawings = []
        for number in range(4):
            grammar = Grammar(once, budget=200, force="speech", force_after=3, limits={"speech": 30})
            grammar.begin(ids[:first])
            own = int(np.random.SeedSequence([seed, len(prompt) + first, number]).generate_state(1)[0])
            alone = engine.generate([*prompt, *ids[:first]], grammar, seed=own, max_new=200 - first)
            written = list(alone)
            end = written.index(item.end) + 1
            drawings.append((float(np.log(alone.shares[:end]).sum()), written[:end]))
        best = likeliest([len(written) for _, written in drawings], [chance for chance, _ in drawings])
        assert ids[first:last] == drawings[best][1] and len({tuple(written) for _, written in drawings}) > 1
        winners.append(best)
        shares = np.log(np.array(generation.shares[first:last], float))
        assert float(shares.sum()) == pytest.approx(drawings[best][0], abs=1e-2)
    assert set(winners) != {0}


def test_a_drawing_that_was_given_up_is_not_the_likeliest():
    assert likeliest([80, 90, 85], [-40.0, -30.0, -35.0]) == 1
    assert likeliest([3, 90, 85], [-1.0, -40.0, -35.0]) == 2
    assert likeliest([3, 4, 90], [-2.0, -1.0, -30.0]) == 1  # nobody can tell
    assert likeliest([7], [-5.0]) == 0


def test_a_drawing_is_as_likely_as_its_length_lets_expect():
    assert likeliest([80, 100, 100], [-30.0, -31.0, -60.0]) == 1  # a shorter one has swallowed words
    assert likeliest([80, 100, 100], [-30.0, -40.0, -60.0]) == 0
    assert likeliest([80, 160, 80], [-30.0, -55.0, -60.0]) == 0  # a longer one, of which each id is likelier, drags on


def test_several_drawings_are_stopped_and_written_together_like_one(vocabulary):
    torch.manual_seed(0)
    model = Llama(LlamaConfig(vocabulary.size, 64, 128, 2, 2, 2, max_position_embeddings=600, tie_word_embeddings=True))
    engine, tokens = LocalEngine(model, kind="auto"), drawn_by(vocabulary, tries=3)

    def reply(number: int) -> list[int]:
        grammar = Grammar(tokens, budget=200, force=("speech", "image")[number % 2])
        return list(engine.generate([tokens.bos, 300 + number], grammar, seed=number, max_new=200))

    alone = [reply(number) for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(reply, range(8))) == alone
    assert not engine.desk._writers
    stop = threading.Event()
    grammar = Grammar(tokens, budget=500, force="speech", force_after=0)
    generation = engine.generate([tokens.bos, 300], grammar, seed=0, stop=stop, max_new=500)
    ids = iter(generation)
    assert next(ids) == tokens.ranges["speech"].start
    threading.Timer(0.005, stop.set).start()
    began = time.perf_counter()
    rest = list(ids)
    assert generation.reason == "stop" and time.perf_counter() - began < 1
    assert all(number in range(tokens.ranges["speech"].first, tokens.ranges["speech"].stop) for number in rest[:-1])
    assert not engine.desk._writers


def test_penalty_equals_the_reference():
    from transformers import RepetitionPenaltyLogitsProcessor

    scores = torch.randn(50)
    seen = torch.tensor([3, 7, 20])
    expected = RepetitionPenaltyLogitsProcessor(1.15)(seen[None], scores[None])[0]
    found = scores.numpy().copy()
    penalise(found, seen.numpy(), 1.15)
    assert np.array_equal(found, expected.numpy())


# ---------------------------------------------------------------- 8 bit, many at once, and beams


@pytest.fixture(scope="module", params=["torch's kernels", "own kernels"])
def small(vocabulary, request) -> LocalEngine:
    """The same model in 8 bit."""
    torch.manual_seed(0)
    model = Llama(LlamaConfig(vocabulary.size, 64, 128, 2, 2, 1, max_position_embeddings=1024, tie_word_embeddings=True))
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.05)
    if request.param == "torch's kernels":
        return LocalEngine(model, kind="int8")
    kernels = library()
    if kernels is None:
        pytest.skip("no C compiler")
    return LocalEngine(model, runner=Compiled(model, kernels))


def test_in_8_bit_a_kept_cache_gives_the_very_same_numbers(small, vocabulary):
    """Not nearly the same: every key and value has the bits of a cold run, wherever the old prompt and reply ended."""
    first = [vocabulary.bos, *(number % 390 for number in range(5, 305))]
    cache = small.cache()
    write(small, vocabulary, first, cache=cache)
    for prompt in (first + [20, 21], first[:200] + [9] * 80, first, first + [7] * 300):
        cold = small.cache()
        assert write(small, vocabulary, prompt, 5, cache=cache) == write(small, vocabulary, prompt, 5, cache=cold)
        n = len(cold.ids)
        assert cache.ids == cold.ids
        assert all(np.array_equal(one, other) for one, other in zip(kept(cache, n), kept(cold, n), strict=True))


def test_whoever_reads_a_prompt_begins_to_write_and_a_stop_ends_that(small, vocabulary, monkeypatch):
    found, stop, read = [], threading.Event(), engine_module.LocalGeneration._read_prompt

    def stopped(self):
        row = read(self)
        found.append(len(self.ready))
        stop.set()
        return row

    monkeypatch.setattr(engine_module.LocalGeneration, "_read_prompt", stopped)
    reply = small.generate([vocabulary.bos, 7, 8], Grammar(vocabulary, budget=20), seed=1, stop=stop, max_new=20)
    assert list(reply) == [] and reply.reason == "stop"
    assert found == [isinstance(small.runner, Compiled)] and not small.desk._writers


def test_replies_written_together_equal_those_written_alone(small, vocabulary):
    prompts = [[vocabulary.bos, *range(9, 9 + 40 * number)] for number in (1, 2, 5, 7)]
    alone = [write(small, vocabulary, prompt, seed) for seed, prompt in enumerate(prompts)]
    before = small.desk.calls
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda pair: write(small, vocabulary, pair[1], pair[0]), enumerate(prompts)))
    assert together == alone
    assert small.desk.calls - before < sum(len(ids) for ids, _ in alone)  # forwards were shared


def test_one_that_pauses_does_not_hold_up_the_others(small, vocabulary):
    idle = iter(small.generate([vocabulary.bos], Grammar(vocabulary, budget=900, force="music"), seed=0, max_new=900))
    next(idle), next(idle)
    start = time.perf_counter()
    write(small, vocabulary, [vocabulary.bos, 4], budget=100)
    assert time.perf_counter() - start < 5
    next(idle)


def test_a_failure_reaches_every_reply_that_shared_the_forward():
    class Broken:
        unit = block = 4

        def run(self, pieces):
            raise RuntimeError("no")

    desk = Desk(Broken())
    for key in range(2):
        with pytest.raises(RuntimeError):
            desk.run([([key], None)])


def test_the_oldest_cache_gives_way_and_is_read_again(vocabulary):
    torch.manual_seed(0)
    config = LlamaConfig(vocabulary.size, 64, 128, 2, 2, 2, max_position_embeddings=1024, tie_word_embeddings=True)
    engine = LocalEngine(Llama(config), kind="int8", cache_bytes=300_000)
    caches = [engine.cache() for _ in range(3)]
    prompt = [vocabulary.bos, *range(9, 159)]
    first = write(engine, vocabulary, prompt, budget=40, cache=caches[0])
    for cache in caches[1:]:
        write(engine, vocabulary, prompt, budget=40, cache=cache)
    assert caches[0].ids == [] and caches[2].ids
    assert write(engine, vocabulary, prompt, budget=40, cache=caches[0]) == first


def test_beams_count_among_the_memory_of_conversations(vocabulary):
    torch.manual_seed(0)
    config = LlamaConfig(vocabulary.size, 64, 128, 2, 2, 2, max_position_embeddings=1024, tie_word_embeddings=True)
    engine = LocalEngine(Llama(config), kind="int8")
    prompt = [vocabulary.bos, *range(9, 159)]

    def answer(preset, cache):
        grammar = Grammar(vocabulary, budget=20, preset=preset, force="text", chain=False)
        return list(engine.generate(prompt, grammar, seed=1, max_new=20, cache=cache))

    caches = [engine.cache() for _ in range(3)]
    answer("greedy", caches[0])
    engine.cache_bytes = 3 * caches[0].bytes
    answer("greedy", caches[1])
    assert caches[0].ids and caches[1].ids
    answer("paper", caches[2])
    assert not caches[0].ids and not caches[1].ids and caches[2].ids


def test_beams_find_what_greedy_misses_and_stay_legal(small, vocabulary):
    prompt = [vocabulary.bos, *range(30, 60)]

    def reply(preset, budget=40):
        grammar = Grammar(vocabulary, budget=budget, preset=preset, force="text", chain=False)
        return list(small.generate(prompt, grammar, seed=1, max_new=budget))

    def rank(ids):
        """Mean log-probability of the text with the mark that ends it."""
        grammar, cache, total = Grammar(vocabulary, budget=40, preset="paper", force="text", chain=False), small.cache(), 0.0
        with torch.inference_mode():
            row = small.runner.run([(prompt, cache)])[0]
            for count, number in enumerate(ids, 1):
                head = small.runner.head(grammar.allowed().ranges)
                total += float(torch.from_numpy(small.runner.scores(row, head)).log_softmax(-1)[head.place[number]])
                grammar.advance(number)
                if grammar.state != "text":
                    return total / count
                row = small.runner.run([([number], cache)])[0]
        return total / len(ids)

    best, greedy = reply("paper"), reply("greedy")
    assert best == reply("paper") and best[-1] == vocabulary.stop
    assert rank(best) >= rank(greedy)
    parser = Parser(vocabulary)
    assert not [event for number in best for event in parser.feed(number) if type(event).__name__ == "Malformed"]


def test_after_the_text_of_beams_blocks_are_drawn_as_ever(small, vocabulary):
    grammar = Grammar(vocabulary, budget=120, preset="paper", force="music", force_after=6, limits={"music": 4})
    ids = list(small.generate([vocabulary.bos, 9, 8], grammar, seed=3, max_new=120))
    parser = Parser(vocabulary)
    kinds = [type(event).__name__ for number in ids for event in parser.feed(number)]
    assert "BlockClosed" in kinds and "Malformed" not in kinds and ids[-1] == vocabulary.stop


def test_a_transcript_is_searched_for_and_the_answer_drawn(small, vocabulary, monkeypatch):
    """The search ends where the transcript does, whatever comes after it; every id says how likely it was."""
    monkeypatch.setattr(vocabulary, "heard", Sampling(beams=4))
    monkeypatch.setattr("anygpt_demo.grammar.HEARD_LIMIT", 6)
    prompt, replies = [vocabulary.bos, *range(30, 60), vocabulary.ins], []
    for seed in range(4):
        grammar = Grammar(vocabulary, budget=60)
        grammar.begin([vocabulary.ins])
        generation = small.generate(prompt, grammar, seed=seed, max_new=30)
        ids = list(generation)
        assert len(generation.shares) == len(ids) and all(0 < share <= 1 for share in generation.shares)
        end = ids.index(vocabulary.res)
        assert end <= 6 and generation.shares[end] == 1 or end < 6
        replies.append((tuple(ids[:end]), tuple(ids[end:])))
    heard, said = zip(*replies, strict=True)
    assert len(set(heard)) == 1 and len(set(said)) > 1


# ---------------------------------------------------------------- many sessions: caches, fairness, the choice of bits


def test_sessions_in_turn_with_edits_and_undone_turns_stay_right(small, vocabulary):
    """Two conversations take turns; each goes on, is edited, taken back, and the other never shines through."""
    caches = [small.cache(), small.cache()]
    base = [[vocabulary.bos, *range(start, start + 150)] for start in (10, 200)]
    for step, change in enumerate((lambda ids: ids, lambda ids: ids + [30] * 140, lambda ids: ids[:130] + [31] * 9, lambda ids: ids)):
        for cache, ids in zip(caches, base, strict=True):
            assert write(small, vocabulary, change(ids), step, 60, cache=cache) == write(small, vocabulary, change(ids), step, 60)


class Counting:
    """A runner that computes nothing and notes who was served together."""

    unit = block = 4

    def __init__(self):
        self.served = []

    def cache(self, capacity):
        return type("Nothing", (), {"ids": []})()

    def run(self, pieces):
        self.served.append([len(ids) for ids, _ in pieces])
        return list(range(len(pieces)))


class Writer:
    """A reply at the desk that only counts."""

    def __init__(self, name):
        self.pieces, self.waiting, self.over, self.ready, self.drawn = [([name], None)], False, False, deque(), 0
        self.bell = queue.SimpleQueue()

    @property
    def satisfied(self):
        return bool(self.ready)

    urgent = satisfied

    def receive(self, rows):
        self.ready.append(0)
        self.drawn += 1

    def fail(self, error):
        raise error


def test_all_who_write_advance_together_and_a_prompt_waits_for_one_step_at_most():
    desk = Desk(Counting())
    writers = [Writer(name) for name in range(3)]
    for writer in writers:
        desk.join(writer)
    for _ in range(4):
        desk.satisfy(writers[0])
        writers[0].ready.popleft()
    assert [writer.drawn for writer in writers] == [4, 4, 4]
    for _ in range(AHEAD):  # those who do not come for theirs are not written further than AHEAD
        desk.satisfy(writers[0])
        writers[0].ready.popleft()
    assert [writer.drawn for writer in writers] == [AHEAD + 4, AHEAD, AHEAD]
    desk.runner.served.clear()
    for writer in writers:
        writer.ready.clear()
    for _ in range(3):  # three blocks of a prompt: between two of them everybody gets an id
        desk.run([([1, 2, 3], None)])
        desk.satisfy(writers[0])
        writers[0].ready.popleft()
    assert desk.runner.served == [[3], [1, 1, 1]] * 3
    for writer in writers:
        desk.leave(writer)
    assert desk._next() == []


def test_two_places_share_those_who_write():
    """Each place serves the caller and those who have the least, nobody twice; a prompt takes one place only."""
    desk = Desk(Counting())
    desk.places = 2
    writers = [Writer(name) for name in range(5)]
    for writer, ready in zip(writers, (0, 3, 1, 2, 0), strict=True):
        desk.join(writer)
        writer.ready.extend([0] * ready)
    first = desk._next(writers[1])
    assert [writer.pieces[0][0][0] for writer in first] == [1, 0, 4]
    desk._served = {0: first}
    second = desk._next(writers[3])
    assert sorted(writer.pieces[0][0][0] for writer in second) == [2, 3]
    desk._served = {1: second}
    assert desk._next(writers[0])[0] is writers[0] and writers[2] not in desk._next(writers[0])
    desk._jobs = [engine_module.Ticket([([1, 2, 3], None)])]
    desk._served = {}
    reading = desk._next(writers[0])
    assert len(reading) == 1 and reading[0] not in writers and not desk._jobs
    desk._served = {0: reading}
    assert set(map(id, desk._next(writers[0]))) <= set(map(id, writers))
    desk._served, writers[0].over = {}, True
    for writer in writers[1:]:
        desk.leave(writer)
    assert desk._next(writers[1]) == []


def test_prompts_that_come_together_are_read_before_ids_one_for_each_place():
    desk, writer = Desk(Counting()), Writer(0)
    desk.places = 2
    desk.join(writer)
    desk._jobs = [engine_module.Ticket([([1, 2, 3], None)]) for _ in range(5)]
    served = ["ids" if desk._next(None) == [writer] else "prompt" for _ in range(8)]
    assert served == ["prompt", "prompt", "ids", "prompt", "prompt", "ids", "prompt", "ids"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not say where a thread runs")
def test_threads_at_two_places_have_different_processors_and_get_theirs_back():
    there, found = os.sched_getaffinity(0), []
    both, told = threading.Barrier(2), threading.Barrier(2)

    class Slow(Counting):
        def run(self, pieces):
            both.wait(10)  # now both compute
            found.append(os.sched_getaffinity(0))
            told.wait(10)
            return super().run(pieces)

    desk = Desk(Slow())
    desk.places = 2

    def work(_):
        desk.run([([1, 2, 3], None)])
        return os.sched_getaffinity(0)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, range(2))) == [there] * 2
    if len(there) > 1:
        assert not found[0] & found[1] and found[0] | found[1] == there
    both, told = threading.Barrier(1), threading.Barrier(1)
    assert work(0) == there == found[2]
    assert not desk._confined and not desk._threads


def test_who_begins_a_prompt_lets_those_run_who_were_woken_behind_it(monkeypatch):
    """Once per prompt, not for its other blocks or for ids, not beside somebody who computes, and not where there is one place."""
    ways: list[int] = []
    monkeypatch.setattr(engine_module, "give_way", lambda: ways.append(1))
    desk, writer = Desk(Counting()), Writer(0)
    desk.run([([1, 2, 3], None)], begins=True)
    desk.places = 2
    assert not ways
    desk.run([([1, 2, 3], None)], begins=True)
    assert len(ways) == 1
    desk.run([([1, 2, 3], None)])
    desk.join(writer)
    desk.satisfy(writer)
    desk._served, desk._threads = {0: [Writer(1)]}, {0: 0}
    desk.run([([1, 2, 3], None)], begins=True)
    assert len(ways) == 1


def test_int8_is_refused_where_it_is_wrong_or_does_not_run(vocabulary, monkeypatch):
    torch.manual_seed(0)
    model = Llama(LlamaConfig(vocabulary.size, 64, 128, 2, 2, 2, max_position_embeddings=128, tie_word_embeddings=True))
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.05)
    monkeypatch.setattr(engine_module, "library", lambda: None)
    monkeypatch.setattr(fast.Plain, "__call__", slower(fast.Plain.__call__))  # so that time speaks for fewer bits
    assert pack(model).kind == "int8"
    right = fast.Int8.__call__

    def wrong(self, x, work):
        y = right(self, x, work)
        y *= 1.5
        return y

    monkeypatch.setattr(fast.Int8, "__call__", wrong)
    assert pack(model).kind in ("bf16", "fp32")

    def absent(self, *rest):
        raise RuntimeError("no such operation on this processor")

    monkeypatch.setattr(fast.Int8, "__init__", absent)
    assert pack(model).kind in ("bf16", "fp32")
    monkeypatch.setattr(fast.Plain, "__call__", lambda self, x, work: np.zeros((len(x), self.turned.shape[1]), np.float32))
    assert pack(model).kind == "fp32"  # nothing else agrees with the unpacked model


def slower(call):
    """The same after a fifth of a millisecond."""

    def late(*given):
        time.sleep(0.0002)
        return call(*given)

    return late


def test_int8_is_refused_where_it_is_slow(vocabulary, monkeypatch):
    torch.manual_seed(0)
    model = Llama(LlamaConfig(vocabulary.size, 64, 128, 2, 2, 2, max_position_embeddings=128, tie_word_embeddings=True))
    monkeypatch.setattr(engine_module, "library", lambda: None)
    right = fast.Int8.__call__

    def late(self, x, work):
        time.sleep(0.005)
        return right(self, x, work)

    monkeypatch.setattr(fast.Int8, "__call__", late)
    assert pack(model).kind != "int8"


# ---------------------------------------------------------------- what is read again, and what memory it may take


def runner_of(model: Llama, kind: str) -> Compiled | Eager:
    """What computes, of a kind."""
    kernels = library() if kind == "own kernels" else None
    if kind == "own kernels" and kernels is None:
        pytest.skip("no C compiler")
    return {
        "own kernels": lambda: Compiled(model, kernels),
        "recorded": lambda: Graphs(model, "cpu"),
        "layers": lambda: Eager(model, "cpu"),
    }[kind]()


def watch(engine: LocalEngine) -> list[int]:
    """The ids that are given to the model to be read, from now."""
    read, run = [], engine.runner.run

    def watched(pieces):
        read.extend(number for ids, _ in pieces for number in ids if isinstance(number, int))
        return run(pieces)

    engine.runner.run = watched
    return read


@pytest.mark.parametrize("kind", ["own kernels", "recorded", "layers"])
def test_every_turn_reads_only_the_ids_that_are_new(engine, vocabulary, kind):
    """And the one that was drawn last, which nobody had to read before."""
    engine = LocalEngine(engine.model, runner=runner_of(engine.model, kind))
    cache, prompt, read = engine.cache(), [vocabulary.bos, *range(9, 159)], watch(engine)
    for turn in range(4):
        known = len(cache.ids)
        stream = iter(engine.generate(prompt, Grammar(vocabulary, budget=30), seed=turn, max_new=30, cache=cache))
        reply = [next(stream)]
        assert read == prompt[known:] and (turn == 0 or len(read) in (20, 21))
        reply += stream
        assert cache.ids[: len(prompt)] == prompt
        prompt += [*reply, *range(20, 40)]
        read.clear()


def test_another_voice_amid_a_conversation_changes_no_id(engine, vocabulary):
    """The voice is for the sound alone: the reply is that of a cold run, and the cache is still good."""

    class Mouth:
        """A codec that notes whose voice it was given."""

        def decode(self, codes, *, voice=None, seed=0):
            heard.append(voice.name)
            return Audio(np.zeros(320 * len(codes), np.float32), 16000)

    heard: list[str] = []
    voices = [Voice(name, Audio(np.full(16000, level, np.float32), 16000)) for name, level in (("ann", 0.1), ("bob", 0.2))]
    settings = Settings(output="speech", max_new=60, limits={"speech": 12})

    def say(conversation, number, voice):
        chat = Chat(vocabulary, engine, lambda name: Mouth())
        return list(chat.reply(conversation, Message(f"say {number}"), voice=voice, seed=number, settings=settings))[-1].turn.ids

    warm = Conversation()
    for number in range(2):
        say(warm, number, voices[0])
    cold = [Conversation(list(warm.turns)) for _ in voices]
    kept = list(warm.cache.ids)
    found = say(warm, 2, voices[1])
    assert [say(conversation, 2, voice) for conversation, voice in zip(cold, voices, strict=True)] == [found, found]
    assert set(heard[:-2]) == {"ann", "bob"} and heard[-2:] == ["ann", "bob"]
    assert warm.cache.ids[:100] == kept[:100]


def test_without_room_for_a_seat_layers_are_launched_one_by_one(engine, monkeypatch, caplog):
    free = [0]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[0], 10**9))
    runner = record(engine.model, "cpu", "int8")
    assert type(runner) is Eager and runner.kv == "int8" and "too little graphics memory" in caplog.text
    free[0], said = 10**8, len(caplog.records)
    runner = record(engine.model, "cpu", "int8")
    assert isinstance(runner, Graphs) and runner.kv == "int8" and len(caplog.records) == said


def test_two_long_conversations_are_kept_where_memory_is_free(engine, monkeypatch):
    seven = int(memory.key_value_bytes(4096))  # of the official model, 0.5 MiB for each position
    assert seven == 4096 * 2**19 and 0.5 < memory.key_value_bytes(4096, "int8") / seven < 0.51
    assert cache_room(seven, 100e9) == 2 * seven and cache_room(10**6, 100e9) == CACHE_BYTES
    assert cache_room(seven, 4e9) == 10**9 and cache_room(10**6, 4e8) == 10**8
    assert cache_room(seven, -1e9) == 0 and cache_room(seven, None) == CACHE_BYTES
    monkeypatch.setattr(memory, "free_bytes", lambda device: 8 * 10**8)
    assert LocalEngine(engine.model).cache_bytes == 2 * 10**8
    assert LocalEngine(engine.model, media=4e8).cache_bytes == 10**8
    assert LocalEngine(engine.model, cache_bytes=7).cache_bytes == 7


def test_the_table_of_cards_counts_keys_and_values_as_they_are_kept(monkeypatch):
    sizes = [memory.Size(name, "always", 10**9, 2) for name in ("layers", "rest")]
    monkeypatch.setattr(memory, "official", lambda: iter(sizes))

    def peaks(kv):
        return [float(line.split()[-1]) for line in memory.table(kv) if line.startswith("--vram")]

    saved = (memory.key_value_bytes() - memory.key_value_bytes(kv="int8")) / memory.GB
    assert len(peaks("none")) == len(memory.PRESETS)
    for plain, small in zip(peaks("none"), peaks("int8"), strict=True):
        assert plain - small == pytest.approx(saved, abs=0.02)
