"""Tiny open_clip models with random weights, one of each kind. Each builds in well under a second."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import build_model_from_openai_state_dict
from open_clip.tokenizer import HFTokenizer

from pinikit.backbones.assembly import assemble_backbone, seeded_model
from pinikit.backbones.base import Backbone

EMBED = 24
VIT = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3}

IMAGE_CONFIGS: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "vit_no_ln_pre": {**VIT, "no_ln_pre": True, "ls_init_value": 0.5},
    "vit_avg": {**VIT, "pool_type": "avg"},
    "vit_avg_ln_after": {**VIT, "pool_type": "avg", "final_ln_after_pool": True},
    "vit_tok_ln_after": {**VIT, "final_ln_after_pool": True},
    "vit_attn_pool": {**VIT, "attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 2},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "head_width": 16},
    "timm_efficientnet": {"timm_model_name": "tf_efficientnet_lite0", "timm_pool": "avg", "image_size": 64},
    "timm_mobilenet": {
        "timm_model_name": "mobilenetv3_small_050",
        "timm_pool": "avg",
        "timm_proj": "",
        "image_size": 64,
    },
    "timm_resnet": {"timm_model_name": "resnet10t", "timm_pool": "avg", "image_size": 64},
    "timm_resnet_attn": {
        "timm_model_name": "resnet10t",
        "timm_pool": "rot_attn",
        "timm_proj": "",
        "image_size": 64,
    },
    "timm_convnext": {"timm_model_name": "convnext_atto", "timm_pool": "", "image_size": 64},
    "timm_vit": {"timm_model_name": "test_vit", "timm_pool": "token", "image_size": 160},
    "timm_vit_avg": {"timm_model_name": "test_vit", "timm_pool": "avg", "image_size": 160},
    "timm_vit_map": {
        "timm_model_name": "test_vit3",
        "timm_pool": "map",
        "timm_proj": "none",
        "image_size": 160,
    },
    "timm_eva": {"timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token", "image_size": 224},
    "timm_nfnet": {"timm_model_name": "test_nfnet", "timm_pool": "avg", "image_size": 160},
}

TEXT_CONFIGS: dict[str, dict[str, Any]] = {
    "causal": TEXT,
    "causal_custom": {**TEXT, "proj_bias": True, "ls_init_value": 0.5, "pad_id": 1},
    "causal_no_projection": {**TEXT, "proj_type": "none", "width": EMBED},
    "causal_last": {**TEXT, "pool_type": "last"},
    "causal_class_token": {**TEXT, "embed_cls": True, "output_tokens": True},
    "bidirectional": {**TEXT, "no_causal_mask": True, "pool_type": "last"},
}


@cache
def bpe() -> open_clip.SimpleTokenizer:
    """CLIP's tokenizer, which takes longer to build than any model here."""
    return open_clip.SimpleTokenizer()


def tiny_clip(
    image: str = "vit", text: str = "causal", *, quick_gelu: bool = False, seed: int = 0, **more: Any
) -> torch.nn.Module:
    """A model of the named towers; ``CLIP`` for the plain causal text tower, else ``CustomTextCLIP``."""
    config = {
        "embed_dim": EMBED,
        "vision_cfg": IMAGE_CONFIGS[image],
        "text_cfg": TEXT_CONFIGS[text],
        "quick_gelu": quick_gelu,
        **more,
    }
    model_class = open_clip.CLIP if text == "causal" else open_clip.CustomTextCLIP
    model = seeded_model(model_class, config, seed)
    if image == "timm_eva":
        model.visual.trunk.blocks = model.visual.trunk.blocks[:2]
    enliven(model, seed)
    return model.eval()


def enliven(model: torch.nn.Module, seed: int) -> None:
    """Give random values to what is initialised with zeros and ones: a test on those would see nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.ndim == 1 and tensor.is_floating_point():
                is_scale = name.endswith(("weight", "gamma", "running_var"))
                tensor.copy_(is_scale + 0.2 * torch.rand(tensor.shape, generator=generator))


def tiny_backbone(image: str = "vit", text: str = "causal", **options: Any) -> Backbone:
    """The tiny model as a backbone; options as for :func:`tiny_clip`."""
    model = tiny_clip(image, text, **options)
    return assemble_backbone(model, bpe(), name=f"tiny-{image}-{text}", weights_hash=f"{image}-{text}")


def tiny_bert_folder(folder: Path) -> Path:
    """A BERT with a tiny vocabulary, as ``transformers`` stores it, without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "photo", "of", "texture", ".", ","]
    vocabulary = [*words, *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": len(vocabulary),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}), encoding="utf-8"
    )
    return folder


def tiny_hub_backbone(folder: Path, pooler: str = "mean_pooler", seed: int = 0) -> Backbone:
    """A ``CustomTextCLIP`` whose text tower is the BERT of ``folder``."""
    text = {"hf_model_name": str(folder), "hf_model_pretrained": False, "hf_pooler_type": pooler}
    config = {"embed_dim": EMBED, "vision_cfg": VIT, "text_cfg": text}
    model = seeded_model(open_clip.CustomTextCLIP, config, seed)
    enliven(model, seed)
    tokenizer = HFTokenizer(str(folder), context_length=48)
    return assemble_backbone(model.eval(), tokenizer, name="tiny-bert", weights_hash=pooler)


def pictures(
    backbone: Backbone, count: int = 3, seed: int = 1, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Random pictures [count, 3, H, W] of the size that the backbone takes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *backbone.image.stages["pixels"].shape, generator=generator).to(dtype)


def golden_backbone(weights: Mapping[str, torch.Tensor]) -> Backbone:
    """The tiny OpenAI CLIP of the reference numbers, in float64: ``weights`` of a ``pini_full`` case."""
    state = {name: tensor.float() for name, tensor in weights.items()}
    ids, rows = state.pop("token_ids").long(), state.pop("token_rows")
    state["token_embedding.weight"] = torch.zeros(49408, rows.shape[1])
    state["token_embedding.weight"][ids] = rows
    with torch.random.fork_rng(devices=[]):
        model = build_model_from_openai_state_dict(state, quick_gelu=True, cast_dtype=torch.float32)
    return assemble_backbone(model, bpe(), name="golden", weights_hash="golden").to(dtype=torch.float64)
