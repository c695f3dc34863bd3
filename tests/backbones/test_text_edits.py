"""Noise at every site of the text tower, several arms, chunks: the fast path equals the published one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TEXT_CONFIGS, tiny_backbone, tiny_bert_folder, tiny_hub_backbone
from torch import Tensor

from pinikit.backbones import prompt_layout, shared_prefix
from pinikit.backbones.base import Backbone, PromptEdit, PromptEmbedding, Prompts, TextTower
from pinikit.components.contracts import PromptSite
from pinikit.components.sites._prompt import prompt_site
from pinikit.components.sites.text_block import TextBlock
from pinikit.errors import ConfigError

KINDS = sorted(TEXT_CONFIGS)
CAUSAL = ["causal", "causal_custom", "causal_no_projection"]
NAMES = ["dog", "sea_horse", "a very long name of 7 words", "707-320"]
TEMPLATE = "x x a photo of a {}, a thing."
TOKENS = ["template", "context", "classname", "all"]
STAGES = ["prompt_embedding", "text_block.0", "text_block.1"]
Noised = tuple[PromptSite, Tensor]


@cache
def backbone_of(kind: str, dtype: torch.dtype = torch.float64) -> Backbone:
    return tiny_backbone(text=kind).to(dtype=dtype)


def noise_at(
    backbone: Backbone, prompts: Prompts, stage: str, tokens: str, per_class: bool, seed: int
) -> Noised:
    """A site and noise for it, a leaf [1 or C, positions, W]."""
    site = prompt_site(backbone, prompts, tokens, site="s", stage=stage)  # type: ignore[arg-type]
    rows = len(prompts.texts) if per_class else 1
    generator = torch.Generator().manual_seed(seed)
    noise = 0.05 * torch.randn(rows, *site.event.shape, generator=generator, dtype=torch.float64)
    dtype = torch.float64 if backbone.logit_scale.dtype == torch.float64 else torch.float32
    return site, noise.to(dtype).requires_grad_()


def add(noised: Sequence[Noised], embedding: PromptEmbedding) -> PromptEmbedding:
    for site, noise in noised:
        masked = noise if site.mask is None else noise * site.mask[..., None]
        embedding = site.write(embedding, site.read(embedding) + masked, shared=len(noise) == 1)
    return embedding


def arm_of(
    tower: TextTower, prompts: Prompts, noised: Sequence[Noised]
) -> tuple[PromptEmbedding, dict[str, PromptEdit]]:
    """The noisy prompt embedding and the edits behind blocks."""
    by_stage: dict[str, list[Noised]] = {}
    for site, noise in noised:
        by_stage.setdefault(site.stage, []).append((site, noise))
    embedding = add(by_stage.pop("prompt_embedding", []), tower.embed(prompts))
    return embedding, {stage: partial(add, here) for stage, here in by_stage.items()}


def compare(tower: TextTower, prompts: Prompts, arms: Sequence[Sequence[Noised]], tolerance: float) -> None:
    """All arms in one pass against each alone as published: features, and gradients for all noise."""
    leaves = [noise for arm in arms for _, noise in arm]
    results = []
    for fast in (True, False):
        made = [arm_of(tower, prompts, arm) for arm in arms]
        if fast:
            features = tower.encode_arms(prompts, [e for e, _ in made], [edits for _, edits in made])
        else:
            features = torch.stack([tower.encode_plain(prompts, *arm) for arm in made])
        weights = torch.linspace(-1.0, 1.0, features.numel(), dtype=features.dtype).reshape(features.shape)
        results.append((features, *torch.autograd.grad((features * weights).sum(), leaves)))
    for found, expected in zip(*results, strict=True):
        scale = float(expected.detach().abs().max())
        assert scale > 0
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_noise_at_every_site(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    backbone = backbone_of(kind, dtype)
    prompts = backbone.text.tokenize(TEMPLATE, NAMES)
    for seed, (stage, tokens, per_class) in enumerate(product(STAGES, TOKENS, (False, True))):
        noised = noise_at(backbone, prompts, stage, tokens, per_class, seed)
        compare(backbone.text, prompts, [[noised]], tolerance)


@contextmanager
def sizes(tile: int, chunk: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompt_layout, "TILE", tile)
        patch.setattr(shared_prefix, "CHUNK", chunk)
        yield


CLASS_NAMES = st.lists(
    st.lists(
        st.sampled_from(["dog", "Cat", "sea_horse", "707-320", "floccinaucinihilipilification"]), min_size=1
    ).map(lambda words: " ".join(words[:4])),
    min_size=1,
    max_size=9,
)
INJECTIONS = st.lists(
    st.tuples(st.sampled_from(STAGES), st.sampled_from(TOKENS), st.booleans()), min_size=1, max_size=3
)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(CAUSAL),
    names=CLASS_NAMES,
    injections=INJECTIONS,
    arms=st.integers(1, 3),
    tile=st.sampled_from([4, 16, 64]),
    chunk=st.sampled_from([1, 2**12, 2**26]),
)
def test_any_lengths_injections_arms_tiles_and_chunks(
    kind: str, names: list[str], injections: list[tuple[str, str, bool]], arms: int, tile: int, chunk: int
) -> None:
    backbone = backbone_of(kind)
    prompts = backbone.text.tokenize("x a photo of {}.", names)
    noised = [
        [noise_at(backbone, prompts, *where, seed=10 * arm + i) for i, where in enumerate(injections)]
        for arm in range(arms)
    ]
    with sizes(tile, chunk):
        compare(backbone.text, prompts, noised, 1e-9)


def test_arms_may_differ_in_what_their_classes_share() -> None:
    backbone = backbone_of("causal")
    prompts = backbone.text.tokenize(TEMPLATE, NAMES)
    arms = [
        [noise_at(backbone, prompts, "prompt_embedding", "template", False, 0)],
        [noise_at(backbone, prompts, "prompt_embedding", "all", True, 1)],
        [noise_at(backbone, prompts, "text_block.1", "context", True, 2)],
        [noise_at(backbone, prompts, "text_block.0", "classname", False, 3)],
    ]
    compare(backbone.text, prompts, arms, 1e-10)


@pytest.mark.parametrize("edited", [False, True])
def test_chunks_are_computed_again_in_the_backward(edited: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = backbone_of("causal")
    names = [f"{word} {number}" for word in ("dog", "sea horse", "cat") for number in range(12)]
    calls: list[int] = []
    run = shared_prefix._run

    def spy(blocks: Sequence[object], rows: Tensor, *rest: object) -> object:
        calls.append(rows.shape[1])
        return run(blocks, rows, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(shared_prefix, "_run", spy)
    results = []
    for chunk in (2**26, 16 * 32 * 3):
        calls.clear()
        prompts = backbone.text.tokenize(TEMPLATE, names)
        where = "text_block.1" if edited else "prompt_embedding"
        noised = [noise_at(backbone, prompts, where, "template", False, 0)]
        with sizes(16, chunk):
            features = backbone.text.encode(prompts, *arm_of(backbone.text, prompts, noised))
            forward = len(calls)
            (gradient,) = torch.autograd.grad(features.square().sum(), noised[0][1])
        results.append((features, gradient, forward, len(calls)))
    (plain, plain_gradient, passes, all_passes), (chunked, gradient, chunks, all_chunks) = results
    assert passes == all_passes == (2 if edited else 1)
    assert chunks > 8
    assert all_chunks > chunks
    torch.testing.assert_close(chunked, plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, plain_gradient, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_of_the_last_block_reaches_the_feature(kind: str) -> None:
    tower = backbone_of(kind).text
    prompts = tower.tokenize(TEMPLATE, NAMES)
    embedding = tower.embed(prompts)

    def louder(tokens: PromptEmbedding) -> PromptEmbedding:
        factor = torch.linspace(0.5, 2.0, tokens.suffix.shape[-1], dtype=tokens.suffix.dtype)
        return PromptEmbedding(tokens.prefix, tokens.suffix * factor, tokens.common)

    edits: Mapping[str, PromptEdit] = {"text_block.2": louder}
    found = tower.encode(prompts, embedding, edits)
    torch.testing.assert_close(found, tower.encode_plain(prompts, embedding, edits), rtol=1e-10, atol=1e-10)
    ends_in_a_word = kind in CAUSAL  # the others pool a token that belongs to no prompt
    assert torch.allclose(found, tower.encode(prompts, embedding)) is not ends_in_a_word


def test_an_edit_sees_the_tokens_behind_its_block() -> None:
    for kind in KINDS:
        backbone = backbone_of(kind, torch.float32)
        prompts = backbone.text.tokenize(TEMPLATE, NAMES)
        seen: list[PromptEmbedding] = []

        def look(tokens: PromptEmbedding, seen: list[PromptEmbedding] = seen) -> PromptEmbedding:
            seen.append(tokens)
            return tokens

        for encode in (backbone.text.encode, backbone.text.encode_plain):
            encode(prompts, backbone.text.embed(prompts), {"text_block.0": look})
        fast, plain = seen
        assert fast.prefix.shape[1:] == plain.prefix.shape[1:] == (prompts.prefix_length, backbone.text.width)
        torch.testing.assert_close(fast.prefix.expand_as(plain.prefix), plain.prefix, rtol=1e-5, atol=1e-5)
        for mine, theirs, length in zip(fast.suffix, plain.suffix, prompts.suffix_lengths, strict=True):
            torch.testing.assert_close(mine[:length], theirs[:length], rtol=1e-5, atol=1e-5)


def test_edits_in_bfloat16_see_float32() -> None:
    exact, backbone = backbone_of("causal", torch.float32), tiny_backbone().to(dtype=torch.bfloat16)
    prompts = backbone.text.tokenize(TEMPLATE, NAMES)
    noised = [noise_at(exact, prompts, "text_block.1", "template", True, 0)]

    def checked(tokens: PromptEmbedding) -> PromptEmbedding:
        assert tokens.prefix.dtype == tokens.suffix.dtype == torch.float32
        return add(noised, tokens)

    embedding, edits = backbone.text.embed(prompts), {"text_block.1": checked}
    expected = exact.text.encode_plain(prompts, exact.text.embed(prompts), edits)
    for encode in (backbone.text.encode, backbone.text.encode_plain):
        found = encode(prompts, embedding, edits)
        assert found.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.995


def test_nothing_is_kept_or_computed_for_frozen_weights() -> None:
    backbone = tiny_backbone()
    prompts = backbone.text.tokenize(TEMPLATE, NAMES)
    embedding, _ = arm_of(
        backbone.text, prompts, [noise_at(backbone, prompts, "prompt_embedding", "template", False, 0)]
    )
    wide = 4 * backbone.text.width
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
    ):
        feature = backbone.text.encode(prompts, embedding)
    weights = {parameter.data_ptr() for parameter in backbone.model.parameters()}
    hidden = [t for t in kept if t.shape[-1] == wide and t.data_ptr() not in weights and t.ndim > 1]
    assert len({t.data_ptr() for t in hidden}) == len(
        backbone.model.transformer.resblocks
    )  # before GELU, not behind
    feature.sum().backward()
    assert all(parameter.grad is None for parameter in backbone.model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_stages_lie_between_embedding_and_feature(kind: str) -> None:
    tower = backbone_of(kind).text
    assert list(tower.stages) == [
        "prompt_embedding",
        "text_block.0",
        "text_block.1",
        "text_block.2",
        "text_feature",
    ]
    assert tower.stages["text_block.1"].shape == (77, tower.width)


def test_unknown_stages_are_refused(tmp_path: Path) -> None:
    tower = backbone_of("causal").text
    prompts = tower.tokenize(TEMPLATE, NAMES)
    for encode in (tower.encode, tower.encode_plain):
        with pytest.raises(
            ConfigError, match=r"at 'text_block.7'.*it can at text_block.0, text_block.1, text_block.2"
        ):
            encode(prompts, tower.embed(prompts), {"text_block.7": lambda tokens: tokens})
    pytest.importorskip("transformers")
    hub = tiny_hub_backbone(tiny_bert_folder(tmp_path / "bert"))
    prompts = hub.text.tokenize(TEMPLATE, NAMES)
    with pytest.raises(ConfigError, match=r"cannot be edited at 'text_block.0'; it can at none"):
        hub.text.encode(prompts, hub.text.embed(prompts), {"text_block.0": lambda tokens: tokens})
    with pytest.raises(
        ConfigError, match="has no blocks that can be changed; its text stages: prompt_embedding, text_f"
    ):
        TextBlock(0).bind(hub, prompts)


def test_an_edit_must_keep_the_shapes() -> None:
    tower = backbone_of("causal").text
    prompts = tower.tokenize(TEMPLATE, NAMES)

    def shorter(tokens: PromptEmbedding) -> PromptEmbedding:
        return PromptEmbedding(tokens.prefix[:, 1:], tokens.suffix)

    for encode in (tower.encode, tower.encode_plain):
        with pytest.raises(ValueError, match=r"prefix is \(., 6, 32\), expected \[1 or 4, 7, W\]"):
            encode(prompts, tower.embed(prompts), {"text_block.0": shorter})


def test_text_block_names_blocks_from_both_ends() -> None:
    backbone = backbone_of("causal")
    prompts = backbone.text.tokenize(TEMPLATE, NAMES)
    stages = {index: TextBlock(index).bind(backbone, prompts).stage for index in (0, 1, -3, -2, "middle")}
    assert stages == {
        0: "text_block.0",
        1: "text_block.1",
        -3: "text_block.0",
        -2: "text_block.1",
        "middle": "text_block.1",
    }
    for index in (2, -1, 3, -4):
        with pytest.raises(
            ConfigError, match=rf"'text_block.{index}': allowed .*: 0 to 1, -3 to -2, or 'middle'"
        ):
            TextBlock(index).bind(backbone, prompts)
    assert TextBlock(0, "context").bind(backbone, prompts).event.shape == (2, 32)
    bare = backbone.text.tokenize("{} in a photo", NAMES)
    with pytest.raises(
        ConfigError, match=r"'text_block.1': the prompt 'dog in a photo' has no template tokens"
    ):
        TextBlock(1).bind(backbone, bare)
