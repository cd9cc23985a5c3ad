"""The kernels in C against the plain ways: the same whole numbers, the same draws, the same bits in any company; and no compiler."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from anygpt_demo import engine as engine_module
from anygpt_demo.engine import LocalEngine, draw, pack, penalise
from anygpt_demo.errors import ModelFault
from anygpt_demo.grammar import Grammar
from anygpt_demo.modality import Sampling
from anygpt_demo.models import compiled
from anygpt_demo.models.compiled import FLAGS, Compiled, Tiles, Wish, build, cores, library
from anygpt_demo.models.fast import Fast, Int8, Work
from anygpt_demo.models.llama import Llama, LlamaConfig

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

    def read(step: int) -> tuple[np.ndarray, torch.Tensor]:
        cache = packed.cache(400)
        for start in range(0, len(ids), step):
            row = packed.run([(ids[start : start + step], cache)])[0]
        return row, cache.both[..., : len(ids), :]

    row, both = read(333)
    for step in (1, 5, 128):
        other = read(step)
        assert np.array_equal(row, other[0]) and torch.equal(both, other[1])
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
        wishes = [Wish.of(64) for _ in rows]
        for luck in (0.0, 0.31, 0.77, 0.999):
            wanted = []
            for row, wish in zip(rows, wishes, strict=True):
                wish.ask(head, sampling)
                wish.luck = luck
                seen = wish.room[: wish.count].copy()
                scores = packed.scores(row, head)
                penalise(scores, head.place[seen], sampling.repetition_penalty)
                place = draw(scores, sampling, Luck(luck))  # type: ignore[arg-type]
                shares = np.exp(scores - scores.max())
                token = int(head.ids[place])
                expected = {*seen.tolist(), token} if sampling.repetition_penalty != 1.0 else set()
                wanted.append((token, pytest.approx(shares[place] / shares.sum(), rel=1e-4), expected))
            packed.draw(rows, wishes)
            assert [(wish.token, wish.share, set(wish.room[: wish.count].tolist())) for wish in wishes] == wanted


def test_many_equal_scores_are_drawn_evenly(native):
    packed = Compiled(random_model(CONFIGS["small heads"]), native)
    wish = Wish.of(8)
    wish.ask(packed.head(((0, 512),)), Sampling(top_k=100))
    row = np.zeros((1, 64), np.float32)
    found = set()
    for luck in np.linspace(0, 0.999, 300):
        wish.luck = luck
        packed.draw(row, [wish])
        found.add(wish.token)
    assert len(found) == 100 and wish.share == pytest.approx(1 / 512)


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


def test_any_thread_may_draw_at_any_time(native):
    packed = Compiled(random_model(CONFIGS["small heads"]), native)
    head, rows = packed.head(((0, 512),)), np.random.default_rng(0).normal(size=(60, 64)).astype(np.float32)

    def one(row: np.ndarray) -> list[int]:
        wish, found = Wish.of(400), []
        wish.ask(head, Sampling(top_k=40, repetition_penalty=1.2))
        for luck in np.linspace(0, 0.99, 300):
            wish.luck = luck
            packed.draw(row[None], [wish])
            found.append(wish.token)
        return found

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, rows)) == [one(row) for row in rows]


# ---------------------------------------------------------------- two threads


class Crowd:
    """Sessions at positions of their own, each with a wish."""

    def __init__(self, packed: Compiled, count: int, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.packed, self.luck = packed, random.random((count, 2000))
        heads = [packed.head(((0, 256),)), packed.head(((3, 40), (90, 250)))]
        self.members = []
        for number in range(count):
            cache, wish = packed.cache(700), Wish.of(700)
            packed.run([(random.integers(0, 256, int(random.integers(1, 90))).tolist(), cache)])
            wish.ask(heads[number % 2], (SAMPLINGS["music"], SAMPLINGS["words"], SAMPLINGS["best"])[number % 3])
            self.members.append((cache, wish, [1]))

    def step(self, who: list[int]) -> None:
        """One id for each of these."""
        for number in who:
            _, wish, ids = self.members[number]
            wish.luck = self.luck[number, len(ids)]
        self.packed.write([(self.members[number][2][-1], *self.members[number][:2]) for number in who])
        for number in who:
            _, wish, ids = self.members[number]
            ids.append(wish.token)

    @property
    def state(self) -> list[tuple[list[int], float, bytes]]:
        """Everything that was written, to the bit."""
        return [
            (ids, wish.share, cache.both[..., : len(cache.ids), :].contiguous().view(torch.uint8).numpy().tobytes())
            for cache, wish, ids in self.members
        ]


@torch.inference_mode()
@pytest.mark.parametrize("count", range(1, 9))
def test_two_threads_write_what_one_writes(kernels, count):
    model = random_model(CONFIGS["usual heads, shared keys"])
    crowds = [Crowd(Compiled(model, kernels, threads), count) for threads in (1, 2)]
    for _ in range(60):
        for crowd in crowds:
            crowd.step(list(range(count)))
    assert crowds[0].state == crowds[1].state
    assert crowds[0].packed.helped == 0 and (count > 1 or crowds[1].packed.helped == 0)


@torch.inference_mode()
def test_thousands_of_steps_with_anybody_in_them(native):
    """Also while another thread reads prompts, and with pauses in which the second thread falls asleep."""
    model, random = random_model(CONFIGS["usual heads, shared keys"]), np.random.default_rng(1)
    crowds = [Crowd(Compiled(model, native, threads), 8) for threads in (1, 2)]
    plan = [random.permutation(8)[: random.integers(1, 9)].tolist() for _ in range(900)]
    over, problems = threading.Event(), []

    def read() -> None:
        ids = list(range(100))
        expected = crowds[0].packed.run([(ids, crowds[0].packed.cache(100))])
        while not over.wait(0.003):
            if not np.array_equal(crowds[1].packed.run([(ids, crowds[1].packed.cache(100))]), expected):
                problems.append("another row")

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        for number, who in enumerate(plan):
            for crowd in crowds:
                crowd.step(who)
            if number % 100 == 0:
                time.sleep(0.002)
        over.set()
        reader.result()
    assert crowds[0].state == crowds[1].state and not problems


@pytest.mark.skipif(cores() < 2, reason="one processor")
@torch.inference_mode()
def test_the_second_thread_is_used_and_ends_with_its_model(native):
    def threads() -> int:
        return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0

    before, packed = threads(), Compiled(random_model(CONFIGS["usual heads, shared keys"]), native, 2)
    wishes, caches = [Wish.of(8) for _ in range(4)], [packed.cache(64) for _ in range(4)]
    for wish in wishes:
        wish.ask(packed.head(((0, 512),)), SAMPLINGS["words"])
    end = time.monotonic() + 20
    while packed.helped < 5 and time.monotonic() < end:  # on a busy machine it seldom has a processor when it is needed
        for cache in caches:
            cache.ids = []
        packed.write([(7, cache, wish) for cache, wish in zip(caches, wishes, strict=True)])
    assert packed.helped >= 5
    del packed
    gc.collect()
    assert threads() <= before


SCRIPT = """
import os, sys, time
from tests.test_compiled import CONFIGS, Crowd, random_model
from anygpt_demo.models.compiled import Compiled, library
import torch
torch.set_grad_enabled(False)
model, kernels = random_model(CONFIGS["usual heads, shared keys"]), library()

def write(packed, steps):
    crowd = Crowd(packed, 5)
    for _ in range(steps):
        crowd.step([0, 1, 2, 3, 4])
    return crowd.state

two = Compiled(model, kernels, 2)
wanted = write(Compiled(model, kernels), 60)
assert write(two, 60) == wanted
for _ in range(2):  # a child has no second thread until it needs one
    child = os.fork()
    if child == 0:
        os._exit(0 if write(two, 60) == wanted else 1)
    assert os.waitpid(child, 0)[1] == 0 and write(two, 60) == wanted
one = next(iter(os.sched_getaffinity(0)))
for task in os.listdir("/proc/self/task"):
    os.sched_setaffinity(int(task), {one})  # both threads on one processor
start = time.process_time()
write(Compiled(model, kernels), 60)
alone, start = time.process_time() - start, time.process_time()
for _ in range(5):
    assert write(two, 60) == wanted
print(alone, (time.process_time() - start) / 5)
sys.exit(0)  # while the second thread looks for work
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no such call on this system")
def test_forks_one_processor_and_the_end_of_the_program_are_no_trouble(native):
    alone_in_torch = os.environ | {"OMP_NUM_THREADS": "1"}  # torch's own threads do not survive a fork: its child waits for them for ever
    options = {"capture_output": True, "text": True, "timeout": 120, "env": alone_in_torch}
    done = subprocess.run([sys.executable, "-c", SCRIPT], **options, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    alone, shared = map(float, done.stdout.split())
    assert shared < 3 * alone + 0.1


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
