"""Random logits under the grammar never write a malformed reply; budgets, limits, forcing and the chain hold."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anygpt_demo import codecs
from anygpt_demo.conversation import MediaPart, TextPart, Turn
from anygpt_demo.grammar import HEARD_LEAST, HEARD_LIMIT, HEARD_RATE, PRESETS, Grammar, IllegalToken, section_of, sections
from anygpt_demo.modality import Sampling
from anygpt_demo.protocol import BlockClosed, BlockDropped, Ended, Malformed, Parser, spoken_s

NAMES = [*codecs.CODECS, "gesture"]


def draw(grammar: Grammar, rng: np.random.Generator) -> int:
    """A legal id: mostly uniform over ids, now and then uniform over ranges so that marks come up."""
    ranges = grammar.allowed().ranges
    if rng.random() < 0.05:
        low, high = ranges[int(rng.integers(len(ranges)))]
        return int(rng.integers(low, high))
    place = int(rng.integers(sum(high - low for low, high in ranges)))
    for low, high in ranges:
        if place < high - low:
            return low + place
        place -= high - low
    raise AssertionError


def run(grammar: Grammar, rng: np.random.Generator) -> tuple[list[int], list]:
    parser, ids, events = Parser(grammar.vocabulary), [], []
    while not grammar.done:
        number = draw(grammar, rng)
        grammar.advance(number)
        ids.append(number)
        events += parser.feed(number)
    return ids, events


def check(vocabulary, grammar, events):
    assert grammar.used <= grammar.budget
    assert isinstance(events[-1], Ended) and events[-1].reason == "eos"
    for event in events:
        assert not isinstance(event, Malformed | BlockDropped)
        if isinstance(event, BlockClosed):
            facts = vocabulary.ranges[event.modality].modality
            assert event.codes.shape[0] in facts.frames and event.codes.shape[1] == facts.layers
            assert 0 <= event.codes.min() and event.codes.max() < facts.codebook


def test_random_logits_write_no_malformed_block(wider):
    """RANDOM_TOKENS=1000000 runs the full count."""
    rng = np.random.default_rng(0)
    count, closed = 0, dict.fromkeys(wider.ranges, 0)
    forces = [None, None, None, "text", *wider.ranges]
    while count < int(os.environ.get("RANDOM_TOKENS", "100000")):
        force = forces[int(rng.integers(len(forces)))]
        budget, after = int(rng.integers(1, 1200)), int(rng.integers(0, 60))
        grammar = Grammar(wider, budget=budget, force=force, force_after=after, limits={"speech": 300})
        ids, events = run(grammar, rng)
        check(wider, grammar, events)
        for event in events:
            if isinstance(event, BlockClosed):
                closed[event.modality] += 1
        count += len(ids)
    assert all(closed.values()), closed


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(budget=st.integers(1, 300), seed=st.integers(0, 1000), chain=st.booleans())
def test_a_forced_modality_appears_whenever_it_fits(wider, name, budget, seed, chain):
    facts = wider.ranges[name].modality
    grammar = Grammar(wider, budget=budget, force=name, chain=chain)
    _, events = run(grammar, np.random.default_rng(seed))
    check(wider, grammar, events)
    found = {event.modality for event in events if isinstance(event, BlockClosed)}
    assert found == ({name} if budget >= facts.frames.start * facts.layers + 4 else set())


@pytest.mark.parametrize("name", ["image", "speech"])
def test_a_modality_that_is_forced_at_once_ends_the_reply(wider, name):
    for seed in range(4):
        grammar = Grammar(wider, budget=400, force=name, force_after=0, limits={"speech": 20})
        ids, events = run(grammar, np.random.default_rng(seed))
        assert [type(event) for event in events if isinstance(event, BlockClosed | Ended)] == [BlockClosed, Ended]
        assert ids[0] == wider.ranges[name].start and ids[-3:] == [wider.ranges[name].end, wider.eos, wider.stop]


@pytest.mark.parametrize("name", NAMES)
def test_only_the_right_codebook_and_length(wider, name):
    item = wider.ranges[name]
    facts = item.modality
    grammar = Grammar(wider, budget=100_000, limits={name: facts.frames.start + 3})
    grammar.advance(item.start)
    most = min(facts.frames.start + 3, facts.frames.stop - 1)
    for frame in range(most):
        for layer in range(facts.layers):
            slice_ = grammar.allowed()
            may_end = layer == 0 and frame >= facts.frames.start
            assert slice_.sampling == facts.sampling and slice_.block == name
            assert sum(high - low for low, high in slice_.ranges) == facts.codebook + may_end
            low, high = item.layer(layer)
            with pytest.raises(IllegalToken):
                grammar.clone().advance(wider.human)
            with pytest.raises(IllegalToken):
                grammar.clone().advance(item.start)
            grammar.advance(high - 1)
    assert grammar.allowed().ranges == ((item.end, item.end + 1),)
    grammar.advance(item.end)
    assert grammar.state == "text"


def test_forbidden_modalities_and_text_only(wider):
    rng = np.random.default_rng(3)
    for seed in range(10):
        _, events = run(Grammar(wider, budget=400, forbid=("image", "gesture")), rng)
        assert not {"image", "gesture"} & {event.modality for event in events if isinstance(event, BlockClosed)}
        _, events = run(Grammar(wider, budget=200, force="text"), rng)
        assert not [event for event in events if isinstance(event, BlockClosed)], seed


def test_the_chain_stands_once_and_first(vocabulary):
    grammar = Grammar(vocabulary, budget=500)
    grammar.advance(vocabulary.ins)
    for number in (vocabulary.ins, vocabulary.eos, vocabulary.ranges["speech"].start):
        with pytest.raises(IllegalToken):
            grammar.clone().advance(number)
    grammar.advance(vocabulary.encode_text("hi")[0])
    grammar.advance(vocabulary.res)
    for number in (vocabulary.ins, vocabulary.res):
        with pytest.raises(IllegalToken):
            grammar.clone().advance(number)
    grammar.advance(vocabulary.eos)
    assert grammar.allowed().ranges == ((vocabulary.stop, vocabulary.stop + 1),)
    grammar.advance(vocabulary.stop)
    assert grammar.done and grammar.allowed().ranges == ()


def test_a_transcript_ends(wider):
    grammar = Grammar(wider, budget=2000)
    grammar.advance(wider.ins)
    for _ in range(HEARD_LIMIT):
        grammar.advance(wider.encode_text("a")[0])
    assert grammar.allowed().ranges == ((wider.res, wider.res + 1),)


def test_sampling_follows_the_state(vocabulary):
    for preset, words in PRESETS.items():
        grammar = Grammar(vocabulary, preset=preset)
        assert grammar.allowed().sampling == words
        grammar.advance(vocabulary.ranges["music"].start)
        assert grammar.allowed().sampling.top_k == 200 and grammar.allowed().sampling.repetition_penalty == 1.15


@pytest.mark.parametrize(("preset", "temperature", "beams"), [("chat", 0.0, 1), ("paper", 1.0, 5)])
def test_a_transcript_leaves_nothing_to_chance(vocabulary, preset, temperature, beams):
    grammar = Grammar(vocabulary, preset=preset)
    usual = grammar.allowed().sampling
    grammar.advance(vocabulary.ins)
    heard = grammar.allowed().sampling
    assert (heard.temperature, heard.beams) == (temperature, beams)
    grammar.advance(vocabulary.res)
    assert grammar.allowed().sampling == usual


def test_a_family_states_how_transcripts_are_drawn(vocabulary, monkeypatch):
    monkeypatch.setattr(vocabulary, "heard", Sampling(beams=3))
    grammar = Grammar(vocabulary)
    usual = grammar.allowed().sampling
    grammar.advance(vocabulary.ins)
    assert grammar.allowed().sampling.beams == 3
    grammar.advance(vocabulary.res)
    assert grammar.allowed().sampling == usual and usual.beams == 1


def test_a_transcript_is_no_longer_than_what_was_said(vocabulary):
    grammar = Grammar(vocabulary, heard_s=2.0)
    grammar.advance(vocabulary.ins)
    for _ in range(HEARD_LEAST + 2 * HEARD_RATE):
        grammar.advance(300)
    assert grammar.allowed().ranges == ((vocabulary.res, vocabulary.res + 1),)
    speech = MediaPart("speech", np.zeros((75, 1), np.int64))
    assert spoken_s(vocabulary, Turn("human", (TextPart("Hello"), speech, speech))) == 3.0
    assert spoken_s(vocabulary, Turn("human", (TextPart("Hello"),))) is None


def test_sections_cover_what_the_sampler_may_draw(wider):
    """Every slice of the sampler lies inside the section of its ids: training and sampling agree."""
    rng = np.random.default_rng(5)
    table = sections(wider)
    for _ in range(10):
        grammar = Grammar(wider, budget=600, limits={"speech": 100})
        while not grammar.done:
            ranges = grammar.allowed().ranges
            number = draw(grammar, rng)
            section = int(section_of(wider, np.array([number]))[0])
            if sum(high - low for low, high in ranges) > 1:
                inside = [any(a <= low and high <= b for a, b in table[section]) for low, high in ranges]
                assert all(inside), (grammar.state, ranges)
            grammar.advance(number)


@pytest.mark.parametrize(
    "options", [{}, {"force": "music", "force_after": 5}, {"force": "heard"}, {"limits": {"speech": 9}}, {"force": "text", "chain": False}]
)
def test_what_lies_ahead_is_what_comes(vocabulary, options):
    """As long as words or codes are drawn; whichever they are, many at once lead to where one by one does."""
    random = np.random.default_rng(0)
    for budget in (9, 60, 400):
        grammar = Grammar(vocabulary, budget=budget, **options)
        while not grammar.done:
            before = grammar.__dict__.copy()
            ahead = grammar.ahead(int(random.integers(1, 20)))
            assert before == grammar.__dict__ and ahead[0] is grammar.allowed()
            other, ids = grammar.clone(), []
            for legal in ahead:
                assert other.allowed() is legal
                low, high = legal.onward if random.random() < 0.97 and legal.onward[1] else legal.ranges[random.integers(len(legal.ranges))]
                ids.append(int(random.integers(low, high)))
                other.advance(ids[-1])
                if not legal.onward[0] <= ids[-1] < legal.onward[1]:
                    break
            grammar.follow(ids)
            assert grammar.__dict__ == other.__dict__
