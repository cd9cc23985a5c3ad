"""The kernels in C against the plain ways: the same whole numbers, the same draws, the same bits in any company; and no compiler."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from anygpt_demo import engine as engine_module
from anygpt_demo.engine import LocalEngine, draw, lead, pack, penalise
from anygpt_demo.errors import ModelFault
from anygpt_demo.grammar import Grammar
from anygpt_demo.modality import Sampling
from anygpt_demo.models import compiled, fast
from anygpt_demo.models.compiled import FLAGS, STEPS, Compiled, Tiles, Way, Wish, build, library
from anygpt_demo.models.fast import Fast, Int8, Work, spread, turned, unturned
from anygpt_demo.models.llama import Llama, LlamaConfig
from tests.tiles import kept

WAYS = {"as this processor likes it": (), "without AVX-512": ("-mno-avx512f",), "without AVX": ("-mno-avx",)}
CONFIGS = {
    "small heads": LlamaConfig(512, 64, 130, 3, 2, 2, max_position_embeddings=700, tie_word_embeddings=True),
    "usual heads, shared keys": LlamaConfig(512, 128, 192, 2, 4, 2, max_position_embeddings=700),
    "wide heads": LlamaConfig(300, 256, 96, 2, 2, 1, max_position_embeddings=700, rms_norm_eps=1e-6),
}


@pytest.fixture(scope="module", params=WAYS)
def kernels(request) -> ctypes.CDLL:
    found = library((*FLAGS, *WAYS[request.param]))
    if found is None:
        pytest.skip("no C compiler, or another processor")
    return found


@pytest.fixture(scope="module")
def native() -> ctypes.CDLL:
    found = library()
    if found is None:
        pytest.skip("no C compiler")
    return found


def random_model(config: LlamaConfig) -> Llama:
    torch.manual_seed(3)
    model = Llama(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.08) if parameter.dim() > 1 else torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def multiply(kernels: ctypes.CDLL, tiles: Tiles, x: np.ndarray) -> np.ndarray:
    result, codes = np.empty((len(x), tiles.facts.outs), np.float32), np.empty(len(x) * (x.shape[1] + 8), np.int8)
    kernels.score(ctypes.addressof(tiles.facts), x.ctypes.data, len(x), result.ctypes.data, codes.ctypes.data)
    return result


@pytest.mark.parametrize("eps", [None, 1e-5])
@pytest.mark.parametrize(("width", "outs"), [(80, 96), (81, 33), (7, 5), (256, 768), (1, 1)])
def test_products_equal_the_plain_ones_to_the_bit(kernels, width, outs, eps):
    torch.manual_seed(0)
    weight, rows = torch.randn(outs, width), np.random.default_rng(0).normal(size=(128, width)).astype(np.float32)
    rows[3], rows[5], weight[0] = 0.0, 1e30, 0.0
    plain, tiles = Int8(weight, eps), Tiles(weight, eps)
    for count in (*range(1, 18), 128):
        assert np.array_equal(multiply(kernels, tiles, rows[:count].copy()), plain(rows[:count], Work(count)))


@torch.inference_mode()
@pytest.mark.parametrize("name", CONFIGS)
def test_a_row_has_the_same_bits_in_any_company(kernels, name):
    """Read at once, in pieces, id by id, alone, and together with other sessions at other positions."""
    packed = Compiled(random_model(CONFIGS[name]), kernels)
    ids = np.random.default_rng(0).integers(0, 300, 333).tolist()

    def read(step: int) -> tuple[np.ndarray, ...]:
        cache = packed.cache(400)
        for start in range(0, len(ids), step):
            row = packed.run([(ids[start : start + step], cache)])[0]
        return row, *kept(cache, len(ids))

    at_once = read(333)
    for step in (1, 5, 128):
        assert all(np.array_equal(one, other) for one, other in zip(at_once, read(step), strict=True))
    starts = (1, 17, 60, 200, 332)
    alone, caches = [], []
    for start in starts:
        cache = packed.cache(400)
        packed.run([(ids[:start], cache)])
        caches.append(cache.copy(400 + start))
        alone.append(packed.run([(ids[start : start + 1], cache)])[0])
    together = packed.run([(ids[start : start + 1], cache) for start, cache in zip(starts, caches, strict=True)])
    assert np.array_equal(together, np.array(alone)) and [len(cache.ids) for cache in caches] == [start + 1 for start in starts]


@torch.inference_mode()
@pytest.mark.parametrize("name", CONFIGS)
def test_the_scores_are_those_of_the_model(kernels, name):
    model = random_model(CONFIGS[name])
    packed, size = Compiled(model, kernels), model.config.vocab_size
    ids = np.random.default_rng(1).integers(0, 300, 150).tolist()
    exact = model(torch.tensor([ids]))[0, -1].numpy()

    def error(other: Fast | Compiled) -> float:
        found = other.scores(other.run([(ids, other.cache(150))])[0], other.head(((0, size),)))
        return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))

    assert error(packed) < 1.2 * error(Fast(model, "int8")) + 0.01 < 0.1
    row = packed.run([(ids, packed.cache(150))])[0]
    found = packed.scores(row, packed.head(((0, size),)))
    part = packed.head(((10, 20), (200, 250)))
    assert np.array_equal(packed.scores(row, part), found[part.ids])


@torch.inference_mode()
def test_a_channel_that_is_much_larger_than_the_others_costs_few_bits(native, monkeypatch):
    """As in trained models: its part of a row is large, its column in the weights small."""
    torch.manual_seed(1)
    rows = torch.randn(5, 80)
    assert torch.allclose(turned(rows) @ turned(torch.eye(80)).t(), rows, atol=1e-5)
    assert torch.allclose(turned(rows).norm(dim=1), rows.norm(dim=1))
    model = random_model(CONFIGS["usual heads, shared keys"])
    model.model.embed_tokens.weight[:, 5] = 1.0
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter[5] = 0.02
    ids = np.random.default_rng(1).integers(0, 300, 50).tolist()
    exact = model(torch.tensor([ids]))[0, -1].numpy()

    def error(packed: Fast | Compiled) -> float:
        found = packed.scores(packed.run([(ids, packed.cache(64))])[0], packed.head(((0, model.config.vocab_size),)))
        return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))

    errors = [error(Compiled(model, native)), error(Fast(model, "int8"))]
    monkeypatch.setattr(compiled, "turned", unturned)
    monkeypatch.setattr(fast, "turned", unturned)
    assert max(errors) < 0.7 * min(error(Compiled(model, native)), error(Fast(model, "int8")))


@torch.inference_mode()
def test_an_outlier_among_what_is_gated_costs_few_bits(native, monkeypatch):
    """As in trained models: now and then one number before the last product is far larger than the others."""
    rows = torch.randn(3, 704)
    assert torch.allclose(spread(spread(rows)) / 64, rows, atol=1e-5) and torch.equal(spread(rows[:, :7]), rows[:, :7])
    assert torch.allclose(spread(rows)[:, 64:128], rows[:, 64:128] @ spread(torch.eye(64)), atol=1e-4)
    config = LlamaConfig(500, 128, 704, 2, 2, 2, max_position_embeddings=256, tie_word_embeddings=True)
    model = random_model(config)
    for layer in model.model.layers:
        layer.mlp.up_proj.weight[100] *= 60
        layer.mlp.down_proj.weight[:, 100] /= 60
    ids = np.random.default_rng(1).integers(0, 300, 50).tolist()
    exact = model(torch.tensor([ids]))[0, -1].numpy()

    def error(packed: Fast | Compiled) -> float:
        found = packed.scores(packed.run([(ids, packed.cache(64))])[0], packed.head(((0, 500),)))
        return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))

    errors = [error(Compiled(model, native)), error(Fast(model, "int8"))]
    monkeypatch.setattr(fast, "LARGEST_TURN", 1)
    assert max(errors) < 0.7 * error(Fast(model, "int8"))


class Luck:
    """A random number that is known."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


SAMPLINGS = {
    "music": Sampling(top_k=200, repetition_penalty=1.15),
    "words": Sampling(temperature=0.7, top_p=0.9),
    "narrow": Sampling(temperature=0.3, top_p=0.05),
    "both limits": Sampling(top_k=50, top_p=0.8, repetition_penalty=1.3),
    "one": Sampling(top_k=1),
    "plain": Sampling(temperature=0.5),
    "best": Sampling(temperature=0.0, repetition_penalty=1.1),
}


@torch.inference_mode()
@pytest.mark.parametrize("name", SAMPLINGS)
def test_draws_equal_the_plain_ones(kernels, name):
    """The same ids from the same numbers, among any number of ids, alone and many at once, with the same shares."""
    sampling = SAMPLINGS[name]
    packed = Compiled(random_model(CONFIGS["small heads"]), kernels)
    random = np.random.default_rng(5)
    rows = random.normal(size=(9, 64)).astype(np.float32)
    for ranges in (((0, 512),), ((7, 8),), ((3, 40), (90, 333))):
        head = packed.head(ranges)
        head.matrix.scale[:] *= 4
        way, wishes = Way.of(head, sampling), [Wish.of(64) for _ in rows]
        for luck in (0.0, 0.31, 0.77, 0.999):
            wanted = []
            for row, wish in zip(rows, wishes, strict=True):
                wish.plan([way])
                wish.try_luck([luck])
                seen = wish.room[: wish.count].copy()
                scores = packed.scores(row, head)
                penalise(scores, head.place[seen], sampling.repetition_penalty)
                place = draw(scores, sampling, Luck(luck))  # type: ignore[arg-type]
                shares = np.exp(scores - scores.max())
                token = int(head.ids[place])
                expected = {*seen.tolist(), token} if sampling.repetition_penalty != 1.0 else set()
                wanted.append((token, pytest.approx(shares[place] / shares.sum(), rel=1e-4), expected))
            packed.draw(rows, wishes)
            assert [(wish.tokens[0], wish.shares[0], set(wish.room[: wish.count].tolist())) for wish in wishes] == wanted


@torch.inference_mode()
def test_guided_draws_equal_the_plain_ones(kernels):
    """Of many sessions, some of them led away from a row of their own, each draws what it would draw alone."""
    packed = Compiled(random_model(CONFIGS["small heads"]), kernels)
    random = np.random.default_rng(6)
    rows = 8 * random.normal(size=(12, 64)).astype(np.float32)
    head, sampling = packed.head(((3, 40), (90, 91))), Sampling(temperature=0.8, guidance=2.5)
    way, beside = Way.of(head, sampling, (3, 40)), packed.cache(16)
    pairs = [
        (rows[0:2], True),
        (rows[2:3], False),
        (rows[3:5], True),
        (rows[5:7], True),
        (rows[7:8], False),
        (rows[8:10], True),
        (rows[10:12], True),
    ]
    for luck in (0.0, 0.31, 0.77, 0.999):
        wishes, wanted = [Wish.of(8) for _ in pairs], []
        for (own, guided), wish in zip(pairs, wishes, strict=True):
            wish.plan([way])
            wish.guide(sampling.guidance, beside if guided else None)
            wish.try_luck([luck])
            scores = packed.scores(own[0], head)
            if guided:
                lead(scores, packed.scores(own[1], head), sampling.guidance, head.ids < 40)
            place = draw(scores, sampling, Luck(luck))  # type: ignore[arg-type]
            shares = np.exp(scores - scores.max())
            wanted.append((int(head.ids[place]), pytest.approx(shares[place] / shares.sum(), rel=1e-3)))
        packed.draw(rows, wishes)
        assert [(wish.tokens[0], wish.shares[0]) for wish in wishes] == wanted


def test_many_equal_scores_are_drawn_evenly(native):
    packed = Compiled(random_model(CONFIGS["small heads"]), native)
    way, wish = Way.of(packed.head(((0, 512),)), Sampling(top_k=100)), Wish.of(8)
    row = np.zeros((1, 64), np.float32)
    found = set()
    for luck in np.linspace(0, 0.999, 300):
        wish.plan([way])
        wish.try_luck([luck])
        packed.draw(row, [wish])
        found.add(wish.tokens[0])
    assert len(found) == 100 and wish.shares[0] == pytest.approx(1 / 512)


def test_what_is_no_number_is_told(native, vocabulary):
    model = random_model(LlamaConfig(vocabulary.size, 64, 130, 2, 2, 2, max_position_embeddings=300, tie_word_embeddings=True))
    model.model.embed_tokens.weight[9] = float("nan")
    engine = LocalEngine(model, runner=Compiled(model, native))
    with pytest.raises(ModelFault):
        list(engine.generate([vocabulary.bos, 8, 9], Grammar(vocabulary, budget=20), seed=1, max_new=20))


def test_what_has_no_place_is_refused_and_a_cache_grows(native):
    packed = Compiled(random_model(CONFIGS["small heads"]), native)
    for ids in ([1, 512], [-1], [1] * 701):
        with pytest.raises(ValueError, match="beyond"):
            packed.run([(ids, packed.cache(700))])
    ids = list(range(90))
    small, large = packed.cache(40), packed.cache(700)
    for start in (0, 30, 60):
        row = packed.run([(ids[start : start + 30], small)])
    assert np.array_equal(row, packed.run([(ids, large)])) and small.capacity >= 90
    small.forget()
    assert np.array_equal(packed.run([(ids, small)]), row)


@pytest.mark.parametrize("begun", [0, 31, 32, 33, 50])
def test_a_cache_takes_what_another_has_read_since_any_position(native, begun):
    packed, ids = Compiled(random_model(CONFIGS["usual heads, shared keys"]), native), list(range(100, 190))
    own, whole = packed.cache(45), packed.cache(700)
    assert own.capacity == 64
    wanted = packed.run([(ids, whole)])
    if begun:
        packed.run([(ids[:begun], own)])
    other = own.copy(70)
    packed.run([(ids[begun:80], other)])
    packed.run([(list(range(10)), own)])  # positions that are taken back
    own.cut([*ids[:begun], 1])
    own.take(other, begun)
    for cache in (own, other):
        assert np.array_equal(packed.run([(ids[80:], cache)]), wanted)
        assert all(np.array_equal(one, two) for one, two in zip(kept(cache, 90), kept(whole, 90), strict=True))


def test_any_thread_may_draw_at_any_time(native):
    packed = Compiled(random_model(CONFIGS["small heads"]), native)
    head, rows = packed.head(((0, 512),)), np.random.default_rng(0).normal(size=(60, 64)).astype(np.float32)

    def one(row: np.ndarray) -> list[int]:
        way, wish, found = Way.of(head, Sampling(top_k=40, repetition_penalty=1.2)), Wish.of(400), []
        for luck in np.linspace(0, 0.99, 300):
            wish.plan([way])
            wish.try_luck([luck])
            packed.draw(row[None], [wish])
            found.append(wish.tokens[0])
        return found

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, rows)) == [one(row) for row in rows]


# ---------------------------------------------------------------- several ids in one call, several threads


class Crowd:
    """Sessions at positions of their own, each with a plan of two heads in turn."""

    def __init__(self, packed: Compiled, count: int, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.packed, self.luck, self.members = packed, random.random((count, 2000)), []
        heads = [packed.head(((0, 256),)), packed.head(((3, 40), (90, 250)))]
        for number in range(count):
            cache, wish = packed.cache(700), Wish.of(700)
            packed.run([(random.integers(0, 256, int(random.integers(1, 90))).tolist(), cache)])
            sampling = (SAMPLINGS["music"], SAMPLINGS["words"], SAMPLINGS["best"])[number % 3]
            self.members.append((cache, wish, [Way.of(head, sampling, (0, 200)) for head in heads], [1], [1.0]))

    def step(self, who: list[int], most: list[int]) -> None:
        """Some ids for each of these: `most`, if the plan goes on as long."""
        for number, many in zip(who, most, strict=True):
            _, wish, ways, ids, _ = self.members[number]
            wish.plan([ways[at % 2] for at in range(len(ids), len(ids) + many)])
            wish.try_luck(self.luck[number, len(ids) : len(ids) + many].tolist())
        self.packed.write([(self.members[number][3][-1], *self.members[number][:2]) for number in who])
        for number in who:
            _, wish, _, ids, shares = self.members[number]
            ids += wish.tokens[: wish.drawn]
            shares += wish.shares[: wish.drawn]

    def state(self, upto: int) -> list[tuple[list[int], list[float], bytes]]:
        """What was written up to that many ids, to the bit."""
        found = []
        for cache, _, _, ids, shares in self.members:
            end = len(cache.ids) - len(ids) + 1 + upto
            found.append((ids[: upto + 1], shares[: upto + 1], b"".join(part.tobytes() for part in kept(cache, end))))
        return found


@torch.inference_mode()
@pytest.mark.parametrize("count", range(1, 9))
def test_many_ids_of_one_call_are_those_of_many_calls(kernels, count):
    packed, random = Compiled(random_model(CONFIGS["usual heads, shared keys"]), kernels), np.random.default_rng(count)
    single, several = Crowd(packed, count), Crowd(packed, count)
    for _ in range(60):
        single.step(list(range(count)), [1] * count)
    while min(len(ids) for *_, ids, _ in several.members) <= 60:
        who = random.permutation(count)[: random.integers(1, count + 1)].tolist()
        several.step(who, random.integers(1, STEPS + 1, len(who)).tolist())
    assert single.state(60) == several.state(60)


@torch.inference_mode()
def test_a_plan_ends_where_it_does_not_go_on(native):
    """After an id that is not onward, and after a score that is no number."""
    model, luck = random_model(CONFIGS["small heads"]), np.random.default_rng(4).random(STEPS).tolist()

    def write(first: int, last: int) -> list[int]:
        packed, wish = Compiled(model, native), Wish.of(99)
        cache, way = packed.cache(64), Way.of(packed.head(((0, 512),)), Sampling(), (first, last))
        wish.plan([way] * STEPS)
        wish.try_luck(luck)
        packed.write([(7, cache, wish)])
        tokens, shares = wish.answer
        assert len(shares) == len(tokens)
        assert cache.ids == [7, *tokens[:-1]]
        return tokens

    tokens = write(0, 512)
    assert len(tokens) == STEPS and len(set(tokens)) > 9
    for end in range(STEPS):
        if tokens[end] == max(tokens[: end + 1]):
            assert write(0, tokens[end]) == tokens[: 1 + next(at for at in range(STEPS) if tokens[at] >= tokens[end])]
        if tokens[end] == min(tokens[: end + 1]):
            assert write(tokens[end] + 1, 512) == tokens[: 1 + next(at for at in range(STEPS) if tokens[at] <= tokens[end])]
    model.model.embed_tokens.weight[tokens[0]] = float("nan")
    assert write(0, 512) == [-1]


@torch.inference_mode()
def test_any_number_of_threads_may_write_at_once(native):
    model = random_model(CONFIGS["usual heads, shared keys"])
    packed, ids = Compiled(model, native), list(range(100))
    wanted, prompt = Crowd(packed, 4), packed.run([(ids, packed.cache(100))])
    for _ in range(20):
        wanted.step([0, 1, 2, 3], [STEPS] * 4)

    def work(number: int) -> bool:
        if number % 3 == 0:
            return all(np.array_equal(packed.run([(ids, packed.cache(100))]), prompt) for _ in range(30))
        crowd = Crowd(packed, 4)
        for _ in range(20):
            crowd.step([0, 1, 2, 3], [STEPS] * 4)
        return crowd.state(20) == wanted.state(20)

    with ThreadPoolExecutor(5) as pool:
        assert all(pool.map(work, range(9)))


SCRIPT = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from tests.test_compiled import CONFIGS, Crowd, random_model
from anygpt_demo.models.compiled import Compiled, library
import torch
torch.set_grad_enabled(False)
packed = Compiled(random_model(CONFIGS["usual heads, shared keys"]), library(), 2)

def write(_=None):
    crowd = Crowd(packed, 5)
    for _ in range(10):
        crowd.step([0, 1, 2, 3, 4], [8] * 5)
    return crowd.state(10)

wanted = write()
with ThreadPoolExecutor(2) as pool:
    assert list(pool.map(write, range(4))) == [wanted] * 4
for _ in range(2):
    child = os.fork()
    if child == 0:
        os._exit(0 if write() == wanted else 1)
    assert os.waitpid(child, 0)[1] == 0 and write() == wanted
print(len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1)
sys.exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no such call on this system")
def test_a_fork_after_two_threads_have_written_is_no_trouble_and_no_thread_is_left(native):
    alone_in_torch = os.environ | {"OMP_NUM_THREADS": "1"}  # torch's own threads do not survive a fork: its child waits for them for ever
    options = {"capture_output": True, "text": True, "timeout": 120, "env": alone_in_torch}
    done = subprocess.run([sys.executable, "-c", SCRIPT], **options, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 1


def test_replies_that_are_stopped_while_others_write_are_those_written_alone(native, vocabulary):
    config = LlamaConfig(vocabulary.size, 64, 130, 2, 2, 2, max_position_embeddings=400, tie_word_embeddings=True)
    model = random_model(config)
    alone, shared = (LocalEngine(model, runner=Compiled(model, native, threads)) for threads in (1, 2))

    def reply(engine: LocalEngine, number: int, most: int) -> list[int]:
        stop, ids = threading.Event(), []
        for token in engine.generate([vocabulary.bos, 300 + number], Grammar(vocabulary, budget=200), seed=number, stop=stop, max_new=200):
            ids.append(token)
            if len(ids) == most:
                stop.set()
        return ids

    lengths = np.random.default_rng(2).integers(1, 150, 24).tolist()
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda number: reply(shared, number, lengths[number]), range(24)))
    assert found == [reply(alone, number, lengths[number]) for number in range(24)]


def test_other_head_widths_are_left_to_others(native):
    with pytest.raises(ValueError, match="32"):
        Compiled(random_model(LlamaConfig(99, 48, 64, 1, 3, 3)), native)


# ---------------------------------------------------------------- the compiler


def test_without_a_compiler_torch_does_the_work(monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert library() is None and "no C compiler" in caplog.text
    packed = pack(random_model(CONFIGS["small heads"]))
    assert isinstance(packed, Fast) and packed.kind in caplog.text


@pytest.mark.parametrize("broken", ["compiler", "folder", "home"])
def test_where_compiling_fails_torch_does_the_work(monkeypatch, tmp_path, caplog, broken):
    caplog.set_level(logging.INFO)
    home = tmp_path / "cache"
    monkeypatch.setattr(compiled, "folder", lambda: home)
    if broken == "compiler":
        monkeypatch.setenv("CC", "false")
    elif broken == "home":

        def nobody():
            raise RuntimeError("no home")

        monkeypatch.setattr(compiled, "folder", nobody)
    else:
        home.write_text("a file stands where the folder should be")
    assert library() is None and "could not be compiled" in caplog.text
    assert broken != "compiler" or not list(home.iterdir())


def test_kernels_are_compiled_once_and_again_for_other_code(native, monkeypatch, tmp_path):
    monkeypatch.setattr(compiled, "folder", lambda: tmp_path)
    made = build((*FLAGS, "-O0"))
    monkeypatch.setattr(compiled.subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert made is not None and build((*FLAGS, "-O0")) == made and list(tmp_path.iterdir()) == [made]
    monkeypatch.undo()
    monkeypatch.setattr(compiled, "folder", lambda: tmp_path)
    changed = tmp_path / "kernels.c"
    changed.write_text(compiled.SOURCE.read_text() + "\nint more;\n")
    monkeypatch.setattr(compiled, "SOURCE", changed)
    other = build((*FLAGS, "-O0"))
    assert other is not None and other != made


def test_own_kernels_are_refused_where_they_are_wrong_or_slow(native, monkeypatch):
    model = random_model(CONFIGS["small heads"])
    monkeypatch.setattr(engine_module, "library", lambda: native)
    right = Compiled.run

    def late(self, pieces):
        torch.randn(1_000_000).sum()
        return right(self, pieces)

    def wrong(self, pieces):
        return right(self, pieces) + 1.0

    for change in (late, wrong):
        monkeypatch.setattr(Compiled, "run", change)
        assert isinstance(pack(model), Fast)
