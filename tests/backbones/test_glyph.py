"""The embedded backbone: it loads, is small, knows its prompts, and is useful without adaptation."""

from __future__ import annotations

import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from pinikit.backbones.glyph import (
    CONFIG_NAME,
    GLYPH_DIR,
    TOKEN_IDS,
    TOKEN_ROWS,
    WEIGHTS_NAME,
    load_glyph,
    read_glyph_config,
)

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = ("a photo of the digit {}.", "x " * 16 + "a photo of the digit {}.")


@pytest.fixture(scope="module")
def glyph() -> tuple[open_clip.CLIP, Tensor]:
    return load_glyph()


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """All of scikit-learn's digits, preprocessed as the asset's configuration says."""
    size = read_glyph_config()["preprocess_cfg"]["size"]
    data = load_digits()
    enlarged = [
        Image.fromarray(grey).resize((size, size), Image.Resampling.BICUBIC)
        for grey in (data.images * (255 / 16)).round().astype("uint8")
    ]
    pixels = torch.stack(
        [torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8) for image in enlarged]
    )
    normalised = pixels.float().div(255).sub(0.5).div(0.5).view(-1, 1, size, size).expand(-1, 3, -1, -1)
    return normalised, torch.tensor(data.target, dtype=torch.int64)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the asset to damage."""
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        shutil.copy(GLYPH_DIR / name, tmp_path / name)
    return tmp_path


def test_the_asset_is_small() -> None:
    assert sum(path.stat().st_size for path in GLYPH_DIR.iterdir()) <= 12 * 2**20


def test_loads_in_single_precision_for_evaluation(glyph: tuple[open_clip.CLIP, Tensor]) -> None:
    model, _ = glyph
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.logit_scale.exp() <= 100.1


def test_knows_the_tokens_of_its_prompts(glyph: tuple[open_clip.CLIP, Tensor]) -> None:
    model, known = glyph
    tokenizer = open_clip.SimpleTokenizer()
    prompts = [template.format(name) for template in TEMPLATES for name in (*WORDS, *map(str, range(10)))]
    used = {token for prompt in prompts for token in tokenizer.encode(prompt)}
    used |= {tokenizer.sot_token_id, tokenizer.eot_token_id}
    assert used <= set(known.tolist())
    norms = model.token_embedding.weight.norm(dim=-1)
    assert (norms[known] > 0).all()
    assert int((norms > 0).sum()) == len(known)


@pytest.mark.parametrize("template", TEMPLATES, ids=("plain", "16 x"))
@torch.no_grad()
def test_zero_shot_is_clearly_above_chance(
    glyph: tuple[open_clip.CLIP, Tensor], digits: tuple[Tensor, Tensor], template: str
) -> None:
    model, (pixels, labels) = glyph[0], digits
    tokens = open_clip.SimpleTokenizer()([template.format(name) for name in WORDS])
    logits = F.normalize(model.encode_image(pixels), dim=-1) @ model.encode_text(tokens, normalize=True).T
    assert (logits.argmax(-1) == labels).float().mean() > 0.3


def test_loading_is_deterministic_and_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, second = load_glyph()[0].state_dict(), load_glyph()[0].state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_truncated_file_is_refused(copy: Path) -> None:
    path = copy / WEIGHTS_NAME
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="cannot be read"):
        load_glyph(copy)


def test_a_missing_file_is_refused(copy: Path) -> None:
    (copy / WEIGHTS_NAME).unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        load_glyph(copy)


def test_a_broken_configuration_is_refused(copy: Path) -> None:
    (copy / CONFIG_NAME).write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="configuration"):
        load_glyph(copy)


@pytest.mark.parametrize(
    ("name", "damaged", "message"),
    [
        (TOKEN_IDS, None, "lack"),
        (TOKEN_IDS, torch.tensor([49408]), "do not fit the vocabulary"),
        (TOKEN_ROWS, torch.zeros(3, 5), "do not fit the vocabulary"),
        ("logit_scale", None, "do not fit its configuration"),
        ("logit_scale", torch.tensor(float("nan")), "not finite"),
    ],
)
def test_damaged_tensors_are_refused(copy: Path, name: str, damaged: Tensor | None, message: str) -> None:
    stored = load_file(copy / WEIGHTS_NAME)
    if damaged is None:
        del stored[name]
    else:
        stored[name] = damaged
    save_file(stored, copy / WEIGHTS_NAME)
    with pytest.raises(ValueError, match=message):
        load_glyph(copy)
