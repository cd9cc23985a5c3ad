"""Parity of SoundStorm with the official code: same keys, same logits, same codes pass for pass."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anygpt_demo.models.soundstorm import Noise, SoundStorm, adapt, remask_counts
from tests.golden import places


def folder() -> Path:
    """The reference data."""
    return places.part("soundstorm")


def models() -> list[Path]:
    """Every NAME.npz with a NAME.config.json."""
    return sorted(path for path in folder().glob("*.npz") if path.with_suffix(".config.json").is_file())


def generations() -> Iterator[tuple[Path, str]]:
    """Every (model, key of a generated result): gI_sS_MODE."""
    for path in models():
        for key in np.load(path):
            if re.fullmatch(r"g\d+_s\d+_(exact|seeded|zeronoise|nongreedy|nocat)", key):
                yield path, key


def build(path: Path) -> SoundStorm:
    model = SoundStorm(json.loads(path.with_suffix(".config.json").read_text()))
    file = path.with_suffix(".pt")
    if file.is_file():
        state = torch.load(file, weights_only=True)
    else:
        from safetensors.torch import load_file

        state = load_file(path.with_suffix(".safetensors"))
    model.load_state_dict(adapt(state), strict=True)
    return model.eval()


def ids(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).long()


def spoken(data: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Semantic codes and prompt of the first recorded case with a prompt."""
    names = sorted(match[1] for match in (re.fullmatch(r"(g\d+)_semantic", key) for key in data) if match)
    name = next(name for name in names if f"{name}_prompt" in data and data[f"{name}_prompt"].size)
    return ids(data[f"{name}_semantic"]), ids(data[f"{name}_prompt"])


def recorded(noises: np.ndarray) -> Noise:
    rows = iter(torch.from_numpy(noises))
    return lambda logits: next(rows)


def close(actual: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", models(), ids=lambda path: path.stem)
@torch.inference_mode()
def test_one_pass(path: Path) -> None:
    model, data = build(path), np.load(path)
    codes = ids(data["net_x"])
    condition = model.condition(ids(data["net_semantic"]))
    hidden = model.net.hidden(codes, condition)
    logits = model.net(codes, condition)
    close(logits.flatten(1, 2), data["net_logits"])
    close(model.net.embeds(hidden).flatten(1, 2), data["net_embeds"])
    if "conformer_out" in data:
        close(model.net.conformer(condition), data["conformer_out"])
    close(model.net(codes).flatten(1, 2), data["net_logits_nomask_nocond"])
    for level in range(model.levels):
        torch.testing.assert_close(model.net.level_logits(hidden, level), logits[:, :, level], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", models(), ids=lambda path: path.stem)
@torch.inference_mode()
def test_padding(path: Path) -> None:
    model, data = build(path), np.load(path)
    condition = model.condition(ids(data["net_semantic_padded"]))
    close(condition, data["net_cond_padded"])
    valid = torch.from_numpy(data["net_mask_padded"]).bool()
    logits = model.net(ids(data["net_x"]), condition, valid).flatten(1, 2)
    close(logits, data["net_logits_padded"])


def recorded_seed(path: Path, key: str, usual: int) -> int:
    """The seed that NAME.cases.json states for a case, else the one that the README states for its mode."""
    file = path.with_suffix(".cases.json")
    cases = json.loads(file.read_text())["cases"] if file.is_file() else []
    return next((int(case["torch_seed"]) for case in cases if case["key"] == key and "torch_seed" in case), usual)


def arguments(path: Path, case: str, key: str, data: Any) -> tuple[int, dict[str, Any]]:
    """What the official code was called with: number of steps, and the rest."""
    steps = int(re.findall(r"_s(\d+)_", key)[0])
    rest: dict[str, Any] = {}
    usual = 1000 + steps
    if key.endswith("nongreedy"):
        usual, rest["greedy"] = 77, False
    elif key.endswith("nocat"):
        usual, rest["join_semantic"] = 78, False
    elif key.endswith("zeronoise"):
        rest["noise"] = torch.zeros_like
    torch.manual_seed(recorded_seed(path, key, usual))
    if f"{case}_prompt" in data:
        rest["prompt"] = ids(data[f"{case}_prompt"])
    return steps, rest


@pytest.mark.parametrize(("path", "key"), list(generations()), ids=lambda value: value.stem if isinstance(value, Path) else value)
def test_generation(path: Path, key: str) -> None:
    model, data = build(path), np.load(path)
    case = key.split("_")[0]
    steps, rest = arguments(path, case, key, data)
    trace: list[torch.Tensor] = []
    result = model.generate(ids(data[f"{case}_semantic"]), steps=steps, trace=trace, **rest)
    np.testing.assert_array_equal(result.numpy(), data[key])
    if f"{key}_trace" in data:
        np.testing.assert_array_equal(torch.stack(trace).numpy(), data[f"{key}_trace"])
    if f"{key}_gumbel" in data:
        rest["noise"] = recorded(data[f"{key}_gumbel"])
        again = model.generate(ids(data[f"{case}_semantic"]), steps=steps, **rest)
        np.testing.assert_array_equal(again.numpy(), data[key])


@pytest.mark.parametrize("path", sorted(folder().glob("*.orig_layout.pt")), ids=lambda path: path.stem)
def test_unforked_layout_and_wrapped_files_load_to_the_same_weights(path: Path) -> None:
    plain = torch.load(path.with_name(path.name.replace(".orig_layout", "")), weights_only=True)
    old = torch.load(path, weights_only=True)
    assert set(old) != set(plain)
    for state in (old, {"model": old, "optim": {}, "scheduler": {}, "best_dev_loss": 1.0}):
        adapted = adapt(state)
        assert set(adapted) == set(plain)
        assert all(torch.equal(adapted[key], plain[key]) for key in plain)


def test_schedule() -> None:
    table = json.loads((folder() / "schedule.json").read_text())["steps"]
    for steps, row in table.items():
        for frames, counts in row["tokens"].items():
            assert remask_counts(int(steps), int(frames)) == counts


def test_full_size_manifest() -> None:
    facts = places.manifest("soundstorm_anygpt")
    with torch.device("meta"):
        model = SoundStorm(facts["config"])
    own = {key: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for key, tensor in model.state_dict().items()}
    expected = facts["state_dict"]
    assert own == expected
    assert sum(parameter.numel() for parameter in model.parameters()) == facts["n_params"]
    old = {key: torch.empty(0) for key in facts["orig_repo_layout_only_keys"]}
    assert set(adapt(old)) <= set(expected)


@pytest.mark.parametrize("path", models(), ids=lambda path: path.stem)
def test_clean_generation_keeps_its_promises(path: Path) -> None:
    model = build(path)
    semantic, prompt = spoken(np.load(path))
    vectors = torch.randn(model.levels, model.mask_id, 8)
    first, again = (model.generate_clean(semantic, prompt, vectors, 4) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (*semantic.shape, model.levels + 1)
    assert torch.equal(first[..., 0], semantic)
    assert int(first.max()) < model.mask_id


def voice_cases() -> list[Path]:
    return [path for path in models() if "vc_prompt_wav" in np.load(path)]


@pytest.mark.parametrize("path", voice_cases(), ids=lambda path: path.stem)
def test_voice_cloning_from_wave_to_wave(path: Path) -> None:
    from anygpt_demo.models.speechtokenizer import SpeechTokenizer

    data, model = np.load(path), build(path)
    fitting = []
    for official in sorted(places.part("speechtokenizer").glob("*.ckpt.dev")):
        config = json.loads(official.with_name(official.name.removesuffix(".ckpt.dev") + ".config.json").read_text())
        if config["codebook_size"] != model.mask_id or config["n_q"] != model.levels + 1:
            continue
        candidate = SpeechTokenizer(config)
        candidate.load_state_dict(torch.load(official, weights_only=True))
        with torch.inference_mode():
            prompt = candidate.eval().encode(torch.from_numpy(data["vc_prompt_wav"])).permute(1, 2, 0)
        if np.array_equal(prompt.numpy(), data["vc_prompt_tokens"]):
            fitting.append((candidate, prompt))
    if not places.full():
        pytest.skip("the speech tokenizer that belongs to this case is not in the subset")
    assert fitting, "no speech tokenizer gives the recorded codes of the voice prompt"
    tokenizer, prompt = fitting[0]
    for key in data:
        if match := re.fullmatch(r"vc_s(\d+)(_noprompt)?_wav", key):
            steps = int(match[1])
            torch.manual_seed(recorded_seed(path, key.removesuffix("_wav"), 1000 + steps))
            codes = model.generate(ids(data["vc_semantic"]), None if match[2] else prompt, steps)
            if not match[2]:
                np.testing.assert_array_equal(codes.numpy(), data[key.replace("_wav", "_tokens")])
            with torch.inference_mode():
                wave = tokenizer.decode(codes.permute(2, 0, 1))
            np.testing.assert_allclose(wave.numpy(), data[key], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("path", models(), ids=lambda path: path.stem)
@torch.inference_mode()
def test_half_precision_is_close(path: Path) -> None:
    """What a card computes with. Codes may differ where two were nearly as good, and then those that follow from them."""
    model, data = build(path).half(), np.load(path)
    codes, condition = ids(data["net_x"]), model.condition(ids(data["net_semantic"]))
    rounded, exact = model.net(codes, condition).flatten(1, 2).float(), torch.from_numpy(data["net_logits"])
    worst = (rounded - exact).abs().max()
    assert worst < 0.02 * exact.abs().max()
    first, second = exact.topk(2, -1).values.unbind(-1)
    clear = first - second > 2 * worst
    assert clear.float().mean() > 0.5 and torch.equal(rounded.argmax(-1)[clear], exact.argmax(-1)[clear])
    semantic, prompt = spoken(data)
    made = model.generate(semantic, prompt, 4, noise=torch.zeros_like)
    assert made.dtype == torch.int64 and torch.equal(made[..., 0], semantic)
