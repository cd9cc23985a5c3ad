"""Our LLaMA forward against transformers' LlamaForCausalLM with the same random weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from anygpt_demo.models.compiled import Compiled, library
from anygpt_demo.models.fast import Fast, Int8, Work
from anygpt_demo.models.llama import Cache, Llama, LlamaConfig, RopeScaling, packed, unpacked

CONFIGS = {
    "tied": LlamaConfig(512, 64, 128, 3, 4, 4, max_position_embeddings=2048, tie_word_embeddings=True),
    "untied, grouped keys": LlamaConfig(512, 64, 192, 2, 4, 2, max_position_embeddings=2048, rms_norm_eps=1e-6),
}
WIDE = {"max_position_embeddings": 512, "head_dim": 32}  # four heads of 32 in a model of 64
VARIANTS = {
    "wide heads": LlamaConfig(512, 64, 96, 2, 4, 2, rope_theta=500000.0, **WIDE),
    "linear": LlamaConfig(512, 64, 96, 2, 4, 4, max_position_embeddings=512, rope_scaling=RopeScaling("linear", 4.0)),
    "llama3": LlamaConfig(512, 64, 96, 2, 4, 2, rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 64), **WIDE),
}


@pytest.fixture(params=CONFIGS, scope="module")
def pair(request):
    return both(CONFIGS[request.param])


def both(config):
    """Our model and theirs with the same random weights."""
    from transformers import LlamaConfig as HFConfig
    from transformers import LlamaForCausalLM

    torch.manual_seed(3)
    ours = Llama(config).eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.08) if parameter.dim() > 1 else torch.nn.init.uniform_(parameter, 0.5, 1.5)
    theirs = LlamaForCausalLM(HFConfig(**{key: value for key, value in config.to_json().items() if key != "architectures"})).float().eval()
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    theirs.tie_weights()
    return ours, theirs


@torch.inference_mode()
def test_logits_equal_the_reference(pair):
    ours, theirs = pair
    ids = torch.randint(0, 512, (2, 300))
    assert (ours(ids) - theirs(ids).logits).abs().max() <= 1e-5


@torch.inference_mode()
def test_cached_reading_equals_reading_at_once(pair):
    ours, _ = pair
    ids = torch.randint(0, 512, (1, 64))
    cache = Cache(ours.config, 64, torch.float32, "cpu")
    pieces = []
    for low, high in [(0, 20), (20, 21), (21, 50), (50, 64)]:
        pieces.append(ours.hidden(ids[:, low:high], cache))
        cache.ids += ids[0, low:high].tolist()
    assert (torch.cat(pieces, 1) - ours.hidden(ids)).abs().max() <= 1e-5


@torch.inference_mode()
def test_greedy_ids_equal_the_reference_over_1000_tokens(pair):
    ours, theirs = pair
    prompt = list(range(5, 15))
    options = {"max_new_tokens": 1000, "min_new_tokens": 1000, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    reference = theirs.generate(torch.tensor([prompt]), **options)
    cache = Cache(ours.config, 1010, torch.float32, "cpu")
    fresh, written = prompt, list(prompt)
    for _ in range(1000):
        hidden = ours.hidden(torch.tensor([fresh]), cache)
        cache.ids += fresh
        fresh = [int(ours.logits(hidden[0, -1], [(0, 512)]).argmax())]
        written += fresh
    assert written == reference[0].tolist()


@torch.inference_mode()
def test_partial_logits_are_rows_of_the_full_ones(pair):
    ours, _ = pair
    hidden = ours.hidden(torch.tensor([[1, 2, 3]]))
    full = ours.logits(hidden, [(0, 512)])
    part = ours.logits(hidden, [(10, 20), (300, 302)])
    assert torch.allclose(part, torch.cat([full[..., 10:20], full[..., 300:302]], -1), atol=1e-6)


def test_cut_keeps_the_common_prefix_and_leaves_one_id_to_read():
    cache = Cache(CONFIGS["tied"], 16, torch.float32, "cpu")
    cache.ids = [1, 2, 3, 4]
    assert cache.cut([1, 2, 9, 4]) == 2 and cache.ids == [1, 2]
    cache.ids = [1, 2, 3]
    assert cache.cut([1, 2, 3]) == 2 and cache.ids == [1, 2]
    cache.ids, cache.read = list(range(12)), 9
    assert cache.cut(list(range(12)), unit=4) == 8 and cache.ids == list(range(8)) and cache.read == 8


def test_a_cache_grows_and_keeps_what_it_holds():
    cache = Cache(CONFIGS["tied"], 4, torch.float32, "cpu")
    cache.ids = [1, 2, 3]
    cache.both[:] = torch.arange(cache.both.numel(), dtype=torch.float32).view(cache.both.shape)
    before = cache.both[..., :3, :].clone()
    cache.reserve(4)
    assert cache.capacity == 4
    cache.reserve(5)
    assert cache.capacity == 512 and torch.equal(cache.both[..., :3, :], before)


def packed_logits(packed: Fast, ids: list[int], cache: Cache, step: int) -> np.ndarray:
    """The last row's logits after reading in pieces."""
    for start in range(0, len(ids), step):
        row = packed.run([(ids[start : start + step], cache)])[0]
    return packed.scores(row, packed.head(((0, packed.config.vocab_size),)))


@torch.inference_mode()
@pytest.mark.parametrize("step", [1, 7, 128, 300])
def test_packed_logits_equal_the_reference(pair, step):
    ours, theirs = pair
    packed = Fast(ours, "fp32")
    ids = torch.randint(0, 512, (300,)).tolist()
    found = packed_logits(packed, ids, packed.cache(300), step)
    assert np.abs(found - theirs(torch.tensor([ids])).logits[0, -1].numpy()).max() <= 1e-5


@torch.inference_mode()
def test_packed_greedy_ids_equal_the_reference_over_1000_tokens(pair):
    ours, theirs = pair
    packed, prompt = Fast(ours, "fp32"), list(range(5, 15))
    options = {"max_new_tokens": 1000, "min_new_tokens": 1000, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    reference = theirs.generate(torch.tensor([prompt]), **options)
    cache, head = packed.cache(1010), packed.head(((0, 512),))
    fresh, written = prompt, list(prompt)
    for _ in range(1000):
        fresh = [int(packed.scores(packed.run([(fresh, cache)])[0], head).argmax())]
        written += fresh
    assert written == reference[0].tolist()


@torch.inference_mode()
@pytest.mark.parametrize(("kind", "bound"), [("int8", 0.05), ("bf16", 0.02)])
def test_fewer_bits_cost_little(pair, kind, bound):
    ours, _ = pair
    ids = torch.randint(0, 512, (100,)).tolist()
    exact, packed = Fast(ours, "fp32"), Fast(ours, kind)
    wanted = packed_logits(exact, ids, exact.cache(100), 100)
    found = packed_logits(packed, ids, packed.cache(100), 100)
    assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < bound


@pytest.mark.parametrize("eps", [None, 1e-5])
def test_a_row_in_8_bit_does_not_depend_on_its_company(eps):
    torch.manual_seed(0)
    layer, rows = Int8(torch.randn(96, 80), eps), np.random.default_rng(0).normal(size=(140, 80)).astype(np.float32)
    rows[3] = 0.0
    whole = layer(rows, Work(140)).copy()
    for count in (1, 5, 8, 64):
        assert np.array_equal(layer(rows[2 : 2 + count], Work(count)), whole[2 : 2 + count])


@torch.inference_mode()
@pytest.mark.parametrize("name", VARIANTS)
def test_other_heads_and_positions_equal_the_reference(name):
    """Layer by layer, packed, and in 8 bit by the own kernels, which refuse heads that they do not know."""
    config = VARIANTS[name]
    ours, theirs = both(config)
    assert LlamaConfig.from_json(theirs.config.to_dict()) == LlamaConfig.from_json(config.to_json()) == config
    ids = torch.randint(0, 512, (1, 300))
    wanted = theirs(ids).logits
    assert (ours(ids) - wanted).abs().max() <= 1e-5
    last = wanted[0, -1].numpy()
    if config.rope_scaling is not None:  # or it would not matter
        plain = Llama(replace(config, rope_scaling=None)).eval()
        plain.load_state_dict(ours.state_dict())
        assert (plain(ids) - wanted).abs().max() > 1e-2
    fast = Fast(ours, "fp32")
    assert np.abs(packed_logits(fast, ids[0].tolist(), fast.cache(300), 128) - last).max() <= 1e-5
    kernels = library()
    if kernels is not None and config.head_dim % 32:
        with pytest.raises(ValueError, match="multiple of 32"):
            Compiled(ours, kernels)
    elif kernels is not None:
        own = Compiled(ours, kernels)
        found = packed_logits(own, ids[0].tolist(), own.cache(300), 128)
        assert np.linalg.norm(found - last) / np.linalg.norm(last) < 0.05


def test_configs_of_every_age_are_read_and_what_is_not_known_is_refused():
    plain = LlamaConfig(512, 64, 96, 2, 4, 4).to_json()
    assert "head_dim" not in plain and "rope_scaling" not in plain
    assert LlamaConfig.from_json(plain | {"head_dim": 24}).head_dim == 24
    old = LlamaConfig.from_json(plain | {"rope_scaling": {"type": "linear", "factor": 2}})
    new = LlamaConfig.from_json(plain | {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}})
    assert old == new and old.rope_scaling is not None and old.rope_scaling.factor == 2
    assert (
        LlamaConfig.from_json(plain | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_theta": None}).rope_theta
        == 5e5
    )
    for scaling in ({"type": "dynamic", "factor": 2.0}, {"rope_type": "yarn", "factor": 2.0}, {"type": "linear"}):
        with pytest.raises(ValueError, match="rope_scaling must be"):
            LlamaConfig.from_json(plain | {"rope_scaling": scaling})
    for name in ("attention_bias", "mlp_bias"):
        with pytest.raises(ValueError, match="biases"):
            LlamaConfig.from_json(plain | {name: True})


def test_keys_in_8_bit_come_back_within_half_a_step():
    torch.manual_seed(0)
    x = torch.randn(3, 5, 32).transpose(0, 1) * torch.tensor([1e-4, 1.0, 300.0])[:, None]
    x[0, 0] = 0.0
    kept = packed(x, torch.int8)
    assert kept.shape == (5, 3, 34) and kept.dtype == torch.int8 and packed(x, torch.float32) is x
    step = x.abs().amax(-1, keepdim=True) / 127
    found = unpacked(kept, torch.float32)
    assert found[0, 0].abs().max() == 0 and bool(((found - x).abs() <= 0.6 * step + 1e-7).all())
    assert torch.equal(packed(x[2, 1], torch.int8), kept[2, 1])  # whatever else is rounded with it
