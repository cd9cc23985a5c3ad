"""Tiny random models in the official file formats and folder layout, for tests of conversion and loading."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from anygpt_demo import mockup
from anygpt_demo.checkpoints import write_json

SCALE = mockup.tiny()
SPEECH, SOUNDSTORM, SEED = dict(SCALE.speech), dict(SCALE.soundstorm), dict(SCALE.seed)
MUSIC = dict(SCALE.music)


def save(path: Path, module: nn.Module) -> dict[str, torch.Tensor]:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}
    torch.save(state, path)
    return state


def write_llm(home: Path, vocab: int) -> None:
    from anygpt_demo.models.llama import Llama, LlamaConfig

    config = LlamaConfig(vocab, 64, 128, 2, 2, 2, max_position_embeddings=4096)
    model = Llama(config)
    state = dict(model.state_dict()) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)}
    keys = sorted(state)
    for number, part in enumerate((keys[::2], keys[1::2]), 1):
        torch.save({key: state[key].clone() for key in part}, home / f"pytorch_model-{number:05d}-of-00002.bin")
    write_json(home / "config.json", config.to_json())


def write_seed(home: Path) -> None:
    from anygpt_demo.models.seed import SeedConfig, SeedTokenizer

    model = SeedTokenizer(SeedConfig.from_json(SEED))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    state = {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}
    head = "visual_encoder."
    home.mkdir(parents=True, exist_ok=True)
    foreign = {"text_proj.weight": torch.ones(2), "Qformer.bert.embeddings.position_ids": torch.arange(4)[None]}
    torch.save({key: tensor for key, tensor in state.items() if not key.startswith(head)} | foreign, home / "seed_quantizer.pt")
    torch.save({key[len(head) :]: tensor.half() for key, tensor in state.items() if key.startswith(head)}, home / "eva_vit_g.pth")
    write_json(home / "config.json", SEED)


def write_speech(home: Path) -> None:
    from anygpt_demo.models.soundstorm import SoundStorm
    from anygpt_demo.models.speechtokenizer import SpeechTokenizer

    save(home / "speechtokenizer" / "ckpt.dev", SpeechTokenizer(SPEECH))
    write_json(home / "speechtokenizer" / "config.json", SPEECH)
    save(home / "soundstorm" / "speechtokenizer_soundstorm_mls.pt", SoundStorm(SOUNDSTORM))
    write_json(home / "soundstorm" / "config.json", SOUNDSTORM)


def write_music(home: Path) -> None:
    from anygpt_demo.models import encodec

    model = encodec.build(MUSIC)
    for key, tensor in model.state_dict().items():
        if key.endswith("codebook.embed"):
            nn.init.normal_(tensor)
    state = {}
    for key, tensor in model.state_dict().items():
        for old, new in encodec.OLD_NAMES:
            key = key.replace(new, old)
        state[key] = tensor.clone()
    home.mkdir(parents=True, exist_ok=True)
    torch.save(state, home / "pytorch_model.bin")
    write_json(home / "config.json", MUSIC | {"model_type": "encodec"})


def write_unclip(home: Path) -> None:
    """A diffusers folder without a picture encoder, which is never read."""
    from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
    from transformers import CLIPTextConfig, CLIPTextModel

    UNet2DConditionModel(**SCALE.unet).save_pretrained(home / "unet")
    AutoencoderKL(**SCALE.vae).save_pretrained(home / "vae")
    StableUnCLIPImageNormalizer(16).save_pretrained(home / "image_normalizer")
    PNDMScheduler(skip_prk_steps=True, steps_offset=1, prediction_type="v_prediction").save_pretrained(home / "scheduler")
    DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(home / "image_noising_scheduler")
    words = CLIPTextConfig(vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    words.bos_token_id, words.eos_token_id, words.max_position_embeddings = 0, 1, 8
    CLIPTextModel(words).save_pretrained(home / "text_encoder")
    tokens = home / "tokenizer"
    write_json(tokens / "vocab.json", {"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "a</w>": 3})
    (tokens / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    write_json(tokens / "special_tokens_map.json", marks)
    write_json(tokens / "tokenizer_config.json", {**marks, "model_max_length": 8, "tokenizer_class": "CLIPTokenizer"})
    write_json(home / "model_index.json", mockup.UNCLIP_INDEX)


def write_official(home: Path, kind: str = "chat") -> Path:
    """Everything, in the layout that `fetch --from` takes."""
    torch.manual_seed(0)
    tokens = mockup.write_tokenizer(home / "anygpt" / kind, mockup.facts(SCALE))
    vocab = max(json.loads((tokens / "added_tokens.json").read_text(encoding="utf-8")).values()) + 1
    write_llm(tokens, vocab)
    write_seed(home / "seed-tokenizer-2")
    write_speech(home)
    write_music(home / "encodec_32khz")
    write_unclip(home / "stable-diffusion-2-1-unclip")
    return home
