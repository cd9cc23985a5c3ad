"""Speed of the 7B language model on a graphics card, with random weights of its true size: `python -m anygpt_demo bench --device cuda`.

Random weights cost exactly what trained ones cost. The family is only asked for its vocabulary: codes are those of the shipped one.
HF generate runs the very same quantized layers, as transformers does it: one launch after the other.
"""

from __future__ import annotations

import gc
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from anygpt_demo.engine import LocalEngine
from anygpt_demo.eval.bench import PROMPT, Bench, figure, take
from anygpt_demo.models.llama import Llama, LlamaConfig
from anygpt_demo.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from anygpt_demo.checkpoints import Family

SEVEN = LlamaConfig(53_520, 4096, 11_008, 32, 32, 32, max_position_embeddings=4096)  # the published checkpoint
CODES = 200  # a second of music
SESSIONS = 8
GATES = {"bandwidth_share": ">= 0.5", "music_vs_hf": ">= 3", "music_times_real_time": ">= 2", "prefill_tok_s": ">= 5000", "batch8": ">= 4"}


def random_llama(config: LlamaConfig, device: str, kind: str) -> Llama:
    """A model with random weights, quantized layer by layer: never more than one of its layers in 16 bit. kind: as quantize.KINDS."""
    from anygpt_demo import quantize

    with torch.device("meta"):
        model = Llama(config)
    dtype = torch.float32 if device == "cpu" and kind == "none" else torch.bfloat16
    replaced = quantize.linears(model) if kind != "none" else {}
    for name, parameter in list(model.named_parameters()):
        weight = torch.ones(parameter.shape) if parameter.dim() == 1 else torch.empty(parameter.shape, device=device).normal_(0, 0.02)
        layer = replaced.get(name.removesuffix(".weight"))
        if layer is None:
            quantize._put(model, name, torch.nn.Parameter(weight.to(device, dtype), requires_grad=False))
            continue
        hollow = quantize._hollow(layer, kind)
        quantize._put(model, name.removesuffix(".weight"), hollow)  # type: ignore[arg-type]
        hollow.weight = quantize._quantized(hollow, weight, kind, device)
    return model.eval()


def reference(model: Llama) -> LlamaForCausalLM:
    """The same layers under transformers' own loop."""
    from transformers import LlamaConfig as HFConfig
    from transformers import LlamaForCausalLM

    facts = {key: value for key, value in model.config.to_json().items() if key not in ("architectures", "torch_dtype")}
    with torch.device("meta"):
        theirs = LlamaForCausalLM(HFConfig(**facts))
    theirs.model.rotary_emb = type(theirs.model.rotary_emb)(theirs.config)  # its table has values, not weights
    device = model.model.norm.weight.device
    for name, part in model.named_modules():
        if not list(part.children()):
            home, _, leaf = name.rpartition(".")
            if isinstance(part, torch.nn.Linear | torch.nn.Embedding):
                setattr(theirs.get_submodule(home), leaf, part)
            else:
                theirs.get_submodule(name).weight = part.weight  # type: ignore[assignment]
    if model.lm_head is None:
        theirs.lm_head.weight = model.model.embed_tokens.weight
    theirs.model.rotary_emb.to(device)
    return theirs.eval()


def weight_bytes(model: Llama, rows: int) -> int:
    """Bytes that one id reads of the weights: all layers, and `rows` rows of the head."""
    layers = sum(parameter.nbytes for parameter in model.model.layers.parameters())
    return layers + rows * model.head[0].nbytes


def forget_peak(device: str) -> None:
    """Count the peak of memory from now, without the model before."""
    if device.startswith("cuda"):
        gc.collect()
        torch.cuda.reset_peak_memory_stats(device)


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def timed(device: str, work: Callable[[], object]) -> float:
    """Seconds of one call, the device's work included."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def read_limit(device: str, megabytes: int = 2048) -> float:
    """Bytes per second that the device reads, by a sum over a large block; the best of some."""
    block = torch.ones(megabytes * 2**18, device=device)
    return block.nbytes / min(timed(device, block.sum) for _ in range(5))


def writing(bench: Bench, number: int, count: int) -> Iterator[int]:
    """Codes of music after a prompt; the first few, in which steps are recorded, are taken off."""
    stream = iter(bench.engine.generate(bench.prompt(number), bench.grammar("music"), seed=number, max_new=count + 16))
    take(stream, 8)
    return stream


def run(
    device: str, family: Family, repeats: int = 5, config: LlamaConfig = SEVEN, kinds: tuple[str, ...] = ("4bit", "8bit")
) -> dict[str, Any]:
    """All figures, one kind of weights after the other."""
    figures: dict[str, Any] = {}
    limit = read_limit(device, 2048 if device != "cpu" else 64)
    for kind in kinds:
        for name, found in measure(device, family, repeats, config, kind, limit).items():
            figures[f"{name}_{kind}"] = found | ({"gate": GATES[name]} if name in GATES and kind == "4bit" else {})
    card = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor()
    facts = {"device": card, "read_limit_gb_s": round(limit / 1e9, 1), "torch": torch.__version__}
    return {"figures": figures, "machine": facts}


def measure(device: str, family: Family, repeats: int, config: LlamaConfig, kind: str, limit: float) -> dict[str, Any]:
    """The figures of one kind of weights."""
    forget_peak(device)
    model = random_llama(config, device, kind)
    vocabulary = Vocabulary.of(family)
    engine = LocalEngine(model, device, None)
    bench = Bench(family, vocabulary, engine, repeats)
    item = vocabulary.ranges["music"]
    rates, prefill = [], []
    for number in range(repeats):
        ids, cache = bench.prompt(number), engine.cache()
        prefill.append(PROMPT / timed(device, lambda ids=ids, cache=cache: engine.runner.run([(ids, cache)])))
        stream = writing(bench, number, CODES)
        rates.append(CODES / timed(device, lambda stream=stream: take(stream, CODES)))
        stream.close()  # type: ignore[attr-defined]
    middle = PROMPT + CODES // 2  # keys and values are read too
    cached = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * model.model.norm.weight.element_size()
    read = weight_bytes(model, item.modality.codebook) + middle * cached
    theirs = hf_rate(model, bench, device)
    sessions = min(SESSIONS, max(2, len(getattr(engine.runner, "seats", ()))))
    together = batch_rate(bench, device, sessions)
    peak = torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else 0
    return {
        "music_tok_s": figure(rates, "tokens/s", "wall") | {"limit": round(limit / read, 1)},
        "bandwidth_share": figure([rate * read / limit for rate in rates], "of what the device reads", "wall") | {"limit": 1.0},
        "music_times_real_time": figure([rate / 200 for rate in rates], "times", "wall"),
        "prefill_tok_s": figure(prefill, "tokens/s", "wall"),
        "hf_tok_s": figure([theirs], "tokens/s", "wall"),
        "music_vs_hf": figure([rate / theirs for rate in rates], "times", "wall"),
        "batch8": figure([together / statistics.median(rates)], "times", "wall") | {"limit": float(sessions)},
        "peak_gb": figure([peak / 1e9], "GB", "none"),
    }


def hf_rate(model: Llama, bench: Bench, device: str) -> float:
    """Tokens per second of HF generate with the official music settings, the prompt's time taken off."""
    theirs, prompt = reference(model), torch.tensor([bench.prompt(0)], device=device)
    shared: dict[str, Any] = {"do_sample": True, "top_k": 200, "repetition_penalty": 1.15, "pad_token_id": 0, "eos_token_id": None}

    def write(count: int) -> None:
        with torch.inference_mode():
            theirs.generate(prompt, max_new_tokens=count, min_new_tokens=count, **shared)

    write(2)
    return 48 / (timed(device, lambda: write(49)) - timed(device, lambda: write(1)))


def batch_rate(bench: Bench, device: str, count: int) -> float:
    """Tokens per second of `count` sessions together, each in its own thread, once their common steps are recorded."""
    streams = [writing(bench, number, CODES) for number in range(count)]
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda stream: take(stream, 8), streams))
        spent = timed(device, lambda: list(pool.map(lambda stream: take(stream, CODES), streams)))
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]
    return float(np.round(count * CODES / spent, 3))
