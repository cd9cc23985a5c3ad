"""Official files that pass through the converter and the manifest still compute what the official code computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anygpt_demo import unpickle
from anygpt_demo.checkpoints import Component, Family, enter, load_strict
from anygpt_demo.models import encodec
from anygpt_demo.models.seed import SeedConfig, SeedTokenizer, preprocess
from anygpt_demo.models.soundstorm import SoundStorm, adapt
from anygpt_demo.models.speechtokenizer import SpeechTokenizer
from tests.golden import places


def through(role: str, files: dict[str, Path], config: dict[str, Any], folder: Path) -> Component:
    """Convert files and open the result as a family does."""
    paths = {kind: [str(path)] for kind, path in files.items()}
    kept = unpickle.work({"role": role, "files": paths, "config": config, "out": str(folder / role)})
    enter(folder, role, kept, "anygpt")
    return Family.open(folder).component(role)


def some(found: list[Path]) -> list[Path]:
    if not found:
        pytest.skip("the subset has no file of this kind")
    return found


def test_speech(golden_dir: Path, tmp_path: Path):
    for path in some(sorted(golden_dir.glob("speechtokenizer/*.ckpt.dev"))):
        name = path.name.removesuffix(".ckpt.dev")
        config = json.loads(path.with_name(f"{name}.config.json").read_text())
        part = through("speech_tokenizer", {"weights": path}, config, tmp_path / name)
        model = load_strict(SpeechTokenizer(part.config), part.state(), part.role)
        golden = np.load(path.with_name(f"{name}.npz"))
        with torch.inference_mode():
            np.testing.assert_array_equal(model.encode(torch.from_numpy(golden["wav_0"])).numpy(), golden["codes_0"])


def test_soundstorm_in_both_spellings(golden_dir: Path, tmp_path: Path):
    for number, path in enumerate(some(sorted(golden_dir.glob("soundstorm/*.pt")))):
        config = json.loads(path.with_name(path.name.split(".")[0] + ".config.json").read_text())
        part = through("soundstorm", {"weights": path}, config, tmp_path / str(number))
        state = load_strict(SoundStorm(part.config), part.state(), part.role).state_dict()
        for key, tensor in adapt(torch.load(path, weights_only=True)).items():
            assert torch.equal(state[key], tensor), (path.name, key)


def test_pictures(golden_dir: Path, tmp_path: Path):
    suffix = ".seed_quantizer.pt"
    for path in some(sorted(golden_dir.glob("seed/*" + suffix))):
        name = path.name.removesuffix(suffix)
        facts = json.loads(path.with_name(f"{name}.config.json").read_text())
        vit, bert, constants = facts["vit"], facts["bert"], facts["overridden_defaults"]
        config = SeedConfig(
            vit_width=vit["embed_dim"],
            vit_depth=vit["depth"],
            vit_heads=vit["num_heads"],
            width=bert["hidden_size"],
            layers=bert["num_hidden_layers"],
            heads=bert["num_attention_heads"],
            intermediate=bert["intermediate_size"],
            codebook=constants["n_embed"],
            code_dim=constants["codebook_embed_dim"],
            embedding=constants["image_features_dim"],
        ).to_json()
        files = {"weights": path, "vit": path.with_name(f"{name}.eva_vit_g.pth")}
        part = through("image_tokenizer", files, config, tmp_path / name)
        assert part.config["text_decoder"] is False
        model = SeedTokenizer(SeedConfig.from_json(part.config))
        load_strict(model, part.state(), part.role)
        golden = np.load(path.with_name(f"{name}.npz"))
        ids = torch.from_numpy(golden["rand_ids"].astype(np.int64))
        np.testing.assert_allclose(model.embedding(ids).numpy(), golden["rand_embeds"], rtol=1e-4, atol=1e-3)
        if "rgb_0" in golden:
            np.testing.assert_array_equal(model.encode(preprocess(golden["rgb_0"])[None]).numpy(), golden["ids_0"])


def test_music(golden_dir: Path, tmp_path: Path):
    for path in some(sorted(golden_dir.glob("encodec/*/pytorch_model.bin"))):
        config = json.loads((path.parent / "config.json").read_text())
        if not any(key.startswith("decoder.") for key in torch.load(path, weights_only=True)):
            continue  # the subset holds the encoder alone
        part = through("music_codec", {"weights": path}, config, tmp_path / path.parent.name)
        model = encodec.build(part.config)
        load_strict(model, encodec.with_training_buffers(part.state()), part.role)
        golden = np.load(path.parent / "golden.npz")
        codes = encodec.encode(model, torch.from_numpy(golden["wav_0"])[:, None])
        np.testing.assert_array_equal(codes.numpy(), golden["codes_0"][0].transpose(0, 2, 1))


def test_pictures_are_drawn_the_same_without_the_encoders(golden_dir: Path, tmp_path: Path):
    from anygpt_demo.models.unclip import EMPTY_PROMPT, PARTS, UnclipDecoder

    for home in some([path.parent for path in sorted(golden_dir.glob("unclip/*/model_index.json"))]):
        files = {part: home / part / "diffusion_pytorch_model.safetensors" for part in PARTS}
        files |= {"index": home / "model_index.json", "text": home / "text_encoder" / "model.safetensors"}
        part = through("unclip", files, {}, tmp_path / home.name)
        assert EMPTY_PROMPT in part.files and not (part.folder / "text_encoder").exists()
        whole, small = UnclipDecoder.load(home), UnclipDecoder.load(part.folder)
        torch.testing.assert_close(small.prompt, whole.prompt, rtol=1e-5, atol=1e-6)
        embedding = torch.from_numpy(np.load(home / "golden.npz")["image_embeds"])[:1]
        difference = whole.picture(embedding, 1).astype(int) - small.picture(embedding, 1)
        assert np.abs(difference).max() <= 1


def test_the_subset_beside_the_tests_is_small():
    assert sum(path.stat().st_size for path in places.SUBSET.rglob("*") if path.is_file()) <= 3_000_000
