"""Text towers: every fast path equals the published one, in values and in gradients."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import cache
from pathlib import Path

import open_clip
import pytest
import torch
from golden_cases import GoldenCase, cases
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import (
    EMBED,
    TEXT_CONFIGS,
    VIT,
    bpe,
    golden_backbone,
    tiny_backbone,
    tiny_bert_folder,
    tiny_clip,
    tiny_hub_backbone,
)
from torch import Tensor

from pinikit.backbones import shared_prefix, text_causal
from pinikit.backbones.assembly import assemble_backbone
from pinikit.backbones.base import Backbone, PromptEmbedding, Prompts, TextTower
from pinikit.backbones.text_causal import CausalTextTower
from pinikit.backbones.text_open_clip import OpenClipTextTower

KINDS = sorted(TEXT_CONFIGS)
CAUSAL = ["causal", "causal_custom", "causal_no_projection"]
POOLERS = ["mean_pooler", "cls_pooler", "cls_last_hidden_state_pooler", "max_pooler"]
NAMES = ["dog", "sea_horse", "a very long name of 7 words", "707-320"]


@cache
def backbone_of(kind: str, dtype: torch.dtype = torch.float32) -> Backbone:
    return tiny_backbone(text=kind).to(dtype=dtype)


def plain_features(backbone: Backbone, prompts: Prompts) -> Tensor:
    with torch.no_grad():
        feature = backbone.model.encode_text(prompts.tokens)
    return feature[0] if isinstance(feature, tuple) else feature


def noisy(embedding: PromptEmbedding, groups: int = 1, seed: int = 0) -> PromptEmbedding:
    """Leaves with gradient: the embedding plus noise, the prefix for ``groups`` groups."""
    generator = torch.Generator().manual_seed(seed)
    prefix = embedding.prefix.expand(groups, -1, -1)

    def leaf(clean: Tensor) -> Tensor:
        noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
        return (clean + 0.05 * noise.to(clean.dtype)).requires_grad_()

    return PromptEmbedding(leaf(prefix), leaf(embedding.suffix))


def compare(tower: TextTower, prompts: Prompts, embedding: PromptEmbedding, tolerance: float) -> None:
    """``encode`` against ``encode_plain``: features, and gradients for prefix and suffix."""
    results = []
    for encode in (tower.encode, tower.encode_plain):
        feature = encode(prompts, embedding)
        weights = torch.linspace(-1.0, 1.0, feature.numel(), dtype=feature.dtype).reshape(feature.shape)
        gradients = torch.autograd.grad((feature * weights).sum(), [embedding.prefix, embedding.suffix])
        results.append((feature, *gradients))
    for found, expected in zip(*results, strict=True):
        scale = float(expected.detach().abs().max())
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("kind", KINDS)
def test_without_noise_the_features_are_encode_text(kind: str) -> None:
    backbone = backbone_of(kind)
    prompts = backbone.text.tokenize("x x a photo of a {}.", NAMES)
    embedding = backbone.text.embed(prompts)
    expected = plain_features(backbone, prompts)
    for found in (backbone.text.encode(prompts, embedding), backbone.text.encode_plain(prompts, embedding)):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()) + 1e-6)
        assert not found.requires_grad
    assert backbone.text.stages["text_feature"].shape == expected.shape[1:]
    assert backbone.text.stages["prompt_embedding"].shape == (77, backbone.text.width)
    assert isinstance(backbone.text, CausalTextTower) == (kind in [*CAUSAL, "causal_last"])


@pytest.mark.parametrize("groups", ["shared", "per class"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_fast_equals_plain(kind: str, groups: str, dtype: torch.dtype, tolerance: float) -> None:
    tower = backbone_of(kind, dtype).text
    prompts = tower.tokenize("x x x a photo of a {}, a kind of thing.", NAMES)
    embedding = noisy(tower.embed(prompts), 1 if groups == "shared" else len(NAMES))
    assert embedding.prefix.dtype == dtype
    compare(tower, prompts, embedding, tolerance)


WORDS = st.lists(st.sampled_from(["x", "photo", "of", "zebra", "antidisestablishmentarianism"]), max_size=6)
CLASS_NAMES = st.lists(
    st.lists(
        st.sampled_from(["dog", "Cat", "sea_horse", "707-320", "floccinaucinihilipilification"]), min_size=1
    ).map(lambda words: " ".join(words[:3])),
    min_size=1,
    max_size=4,
)


@settings(max_examples=25, deadline=None)
@given(before=WORDS, after=WORDS, names=CLASS_NAMES, per_class=st.booleans(), seed=st.integers(0, 99))
def test_fast_equals_plain_whatever_the_lengths(
    before: list[str], after: list[str], names: list[str], per_class: bool, seed: int
) -> None:
    tower = backbone_of("causal", torch.float64).text
    template = " ".join([*before, "{}", *after[:4]]) + "."
    prompts = tower.tokenize(template, names)
    embedding = noisy(tower.embed(prompts), len(names) if per_class else 1, seed)
    assert embedding.prefix.shape[1] == prompts.prefix_length == 1 + prompts.template_length
    assert embedding.suffix.shape[1] == max(prompts.suffix_lengths)
    compare(tower, prompts, embedding, 1e-9)


@pytest.mark.parametrize("kind", CAUSAL)
def test_only_what_prompts_do_not_share_is_computed_for_each(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = tiny_backbone(text=kind).text
    prompts = tower.tokenize("a photo of a {}.", NAMES)
    rows: list[int] = []

    def spy(blocks: object, tokens: Tensor, *rest: object, **options: object) -> Tensor:
        rows.append(tokens.shape[1])
        return shared_prefix.run_blocks(blocks, tokens, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(text_causal, "run_blocks", spy)
    clean = tower.embed(prompts)
    tower.encode(prompts, clean)
    tower.encode(prompts, noisy(clean, len(NAMES)))
    tower.encode(prompts, replace(noisy(clean, len(NAMES)), common=1))
    expected = [
        5 + sum(prompts.suffix_lengths),
        sum(prompts.lengths),
        1 + sum(n - 1 for n in prompts.lengths),
    ]
    assert rows == expected  # one tile, so no row is empty
    assert tower.tokens_encoded == sum(expected)
    before = tower.tokens_encoded
    tower.encode_plain(prompts, clean)
    assert tower.tokens_encoded == before + 77 * len(NAMES)


def test_arms_in_one_pass_equal_arms_one_by_one() -> None:
    for kind in ("causal", "causal_last"):
        tower = backbone_of(kind, torch.float64).text
        prompts = tower.tokenize("x x a photo of a {}.", NAMES)
        clean = tower.embed(prompts)
        arms = [
            noisy(clean, seed=0),
            noisy(clean, seed=1),
            replace(noisy(clean, seed=2), suffix=clean.suffix),
        ]
        for embeddings in (arms, [*arms, noisy(clean, len(NAMES), seed=3)]):
            found = tower.encode_arms(prompts, embeddings)
            each = [tower.encode_plain(prompts, embedding) for embedding in embeddings]
            torch.testing.assert_close(found, torch.stack(each), rtol=1e-10, atol=1e-10)


def test_what_lies_behind_a_prompt_is_ignored() -> None:
    for kind in KINDS:
        tower = backbone_of(kind).text
        prompts = tower.tokenize("a photo of a {}.", NAMES)
        embedding = tower.embed(prompts)
        changed = embedding.suffix.clone()
        for row, length in zip(changed, prompts.suffix_lengths, strict=True):
            row[length:] = 100.0
        for encode in (tower.encode, tower.encode_plain):
            found = encode(prompts, PromptEmbedding(embedding.prefix, changed))
            torch.testing.assert_close(found, encode(prompts, embedding), rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(
    "eos_token_id" not in inspect.signature(open_clip.transformer.text_global_pool).parameters,
    reason="this open_clip does not pool at a named end token",
)
def test_pooling_at_a_named_end_token() -> None:
    model = tiny_clip()
    model.text_pool_type, model.text_eos_id = "eos", 49407
    backbone = assemble_backbone(model, bpe(), name="eos", weights_hash="eos")
    backbone = backbone.to(dtype=torch.float64)
    prompts = backbone.text.tokenize("a photo of a {}.", NAMES)
    compare(backbone.text, prompts, noisy(backbone.text.embed(prompts)), 1e-10)


def test_a_block_with_its_own_attention_runs_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        text = {**TEXT_CONFIGS["causal"], "qk_norm": True}
        model = open_clip.CLIP(embed_dim=EMBED, vision_cfg=VIT, text_cfg=text).eval()
    except TypeError:
        pytest.skip("this open_clip has no such blocks")
    backbone = assemble_backbone(model, bpe(), name="custom", weights_hash="custom")
    backbone = backbone.to(dtype=torch.float64)
    monkeypatch.setattr(text_causal, "run_blocks", None)
    prompts = backbone.text.tokenize("a photo of a {}.", NAMES)
    compare(backbone.text, prompts, noisy(backbone.text.embed(prompts)), 1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_quick_gelu(dtype: torch.dtype, tolerance: float) -> None:
    backbone = tiny_backbone(quick_gelu=True).to(dtype=dtype)
    prompts = backbone.text.tokenize("x x a photo of a {}.", NAMES)
    embedding = noisy(backbone.text.embed(prompts))
    compare(backbone.text, prompts, embedding, tolerance)
    activation = backbone.model.transformer.resblocks[1].mlp.gelu
    handle = activation.register_forward_hook(lambda _module, _inputs, output: output * 2)
    compare(backbone.text, prompts, embedding, tolerance)
    handle.remove()


def test_a_hooked_block_is_not_bypassed() -> None:
    backbone = tiny_backbone().to(dtype=torch.float64)
    prompts = backbone.text.tokenize("a photo of a {}.", NAMES)
    embedding = backbone.text.embed(prompts)
    block = backbone.model.transformer.resblocks[1]
    assert shared_prefix.blocks_are_standard([block])
    handle = block.attn.register_forward_hook(lambda _module, _inputs, output: (output[0] * 2, output[1]))
    compare(backbone.text, prompts, noisy(embedding), 1e-10)
    assert not shared_prefix.blocks_are_standard([block])
    handle.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_weights_stay_close(kind: str) -> None:
    exact, rough = backbone_of(kind).text, tiny_backbone(text=kind).to(dtype=torch.bfloat16).text
    prompts = exact.tokenize("x x a photo of a {}.", NAMES)
    for groups in (1, len(NAMES)):
        embedding = noisy(exact.embed(prompts), groups)
        expected = exact.encode_plain(prompts, embedding)
        for encode in (rough.encode, rough.encode_plain):
            found = encode(prompts, embedding)
            assert found.dtype == torch.float32
            assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.995
            (gradient,) = torch.autograd.grad(found.square().sum(), embedding.prefix)
            (wanted,) = torch.autograd.grad(expected.square().sum(), embedding.prefix, retain_graph=True)
            assert gradient.dtype == torch.float32
            similarity = torch.nn.functional.cosine_similarity(gradient.flatten(), wanted.flatten(), dim=0)
            assert similarity > 0.99
    assert rough.embed(prompts).suffix.dtype == torch.float32


@pytest.mark.parametrize("case", cases("pini_full"), ids=str)
def test_reference_text_features_with_noise(case: GoldenCase) -> None:
    backbone = golden_backbone(case.groups["weights"])
    prompts = backbone.text.tokenize(case.hyper["template"] + " {}.", case.hyper["classnames"])
    assert torch.equal(prompts.tokens, case.inputs["tokens"])
    assert prompts.template_length == case.hyper["template_lens"]
    clean = backbone.text.embed(prompts)
    noise = case.groups["param"]["promptVpnGenerator.template_mu"] + (
        case.groups["param"]["promptVpnGenerator.template_var"] * case.inputs["eps_text"]
    )
    prefix = torch.cat([clean.prefix[:, :1], clean.prefix[:, 1:] + noise], dim=1)
    found = backbone.text.encode(prompts, PromptEmbedding(prefix, clean.suffix))
    torch.testing.assert_close(found, case.outputs["text_features"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_stays_behind_on_another_device(kind: str) -> None:
    backbone = tiny_backbone(text=kind).to("meta")
    prompts = backbone.text.tokenize("x x a photo of a {}.", NAMES)
    clean = backbone.text.embed(prompts)
    for prefix in (clean.prefix, clean.prefix.expand(len(NAMES), -1, -1)):
        embedding = PromptEmbedding(prefix, clean.suffix)
        for encode in (backbone.text.encode, backbone.text.encode_plain):
            assert encode(prompts, embedding).shape == (len(NAMES), EMBED)
    pixels = torch.zeros(2, *backbone.image.stages["pixels"].shape, device="meta")
    assert backbone.image.run(pixels).shape == (2, EMBED)
    assert backbone.logit_scale.device.type == "meta"


def test_wrong_shapes_are_named() -> None:
    tower = backbone_of("causal").text
    prompts = tower.tokenize("a photo of a {}.", NAMES)
    good = tower.embed(prompts)
    with pytest.raises(ValueError, match=r"prefix is \(1, 4, 32\), expected \[1 or 4, 5, W\]"):
        tower.encode(prompts, replace(good, prefix=good.prefix[:, 1:]))
    with pytest.raises(ValueError, match=r"suffix is \(3, "):
        tower.encode(prompts, replace(good, suffix=good.suffix[1:]))


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return tiny_bert_folder(tmp_path_factory.mktemp("bert"))


@pytest.mark.parametrize("pooler", POOLERS)
def test_hub_tower(bert_folder: Path, pooler: str) -> None:
    backbone = tiny_hub_backbone(bert_folder, pooler)
    prompts = backbone.text.tokenize("x x a photo of a {}.", NAMES)
    assert not backbone.text.causal
    assert prompts.leading == 1
    assert prompts.template_length == 6
    assert prompts.context_length == 2
    assert prompts.tokens.shape == (len(NAMES), 48)
    clean = backbone.text.embed(prompts)
    expected = plain_features(backbone, prompts)
    torch.testing.assert_close(backbone.text.encode(prompts, clean), expected, rtol=1e-6, atol=1e-6)
    for groups in (1, len(NAMES)):
        compare(backbone.text, prompts, noisy(clean, groups), 1e-5)
    precise = backbone.to(dtype=torch.float64).text
    compare(precise, prompts, noisy(precise.embed(prompts)), 1e-10)


def test_a_bidirectional_native_tower_sees_its_padding() -> None:
    tower = backbone_of("bidirectional").text
    assert type(tower) is OpenClipTextTower
    assert not tower.causal
