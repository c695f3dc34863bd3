"""Frozen weights in other number formats: what towers take, compute in and hand out."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from tiny_models import IMAGE_CONFIGS, pictures, tiny_backbone, tiny_clip
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pinikit.backbones.base import Backbone
from pinikit.backbones.precision import at_least_float32, weight_dtype

KINDS = sorted(IMAGE_CONFIGS)
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
CONVOLUTIONAL = ["resnet", "timm_convnext", "timm_efficientnet", "timm_mobilenet", "timm_resnet"]


@cache
def backbone_in(kind: str, dtype: torch.dtype) -> Backbone:
    return tiny_backbone(kind).to(dtype=dtype)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", HALF.values(), ids=HALF)
@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_is_handed_out_as_float32_and_near(kind: str, dtype: torch.dtype) -> None:
    exact, rough = backbone_in(kind, torch.float32), backbone_in(kind, dtype)
    pixels = pictures(exact)
    names = list(exact.image.stages)
    expected, found = exact.image.read(pixels, names), rough.image.read(pixels, names)
    assert rough.dtype == dtype
    assert torch.equal(found["pixels"], pixels), "nothing is computed of them"
    for name in names:
        assert found[name].dtype == torch.float32
        assert error(found[name], expected[name]) < (0.05 if dtype == torch.bfloat16 else 0.01), name
    assert error(found["image_feature"], expected["image_feature"]) > 0, "it was computed in float32"


@pytest.mark.parametrize("kind", KINDS)
def test_edits_see_and_give_float32(kind: str) -> None:
    backbone = backbone_in(kind, torch.bfloat16)
    pixels = pictures(backbone, count=2)
    for name, info in backbone.image.stages.items():
        noise = torch.full(info.shape, 0.5).requires_grad_()
        seen = []

        def edit(clean: Tensor, noise: Tensor = noise, seen: list[Tensor] = seen) -> Tensor:
            seen.append(clean)
            return clean + noise

        feature = backbone.image.run(pixels, edits={name: edit})
        assert seen[0].dtype == feature.dtype == torch.float32
        (gradient,) = torch.autograd.grad(feature.square().sum(), noise)
        assert gradient.dtype == torch.float32
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("kind", ["vit", "timm_resnet"])
def test_the_last_edit_is_not_rounded(kind: str) -> None:
    """At a logit scale of 100, bf16 would swallow the noise that PiNI puts on the image feature."""
    backbone = backbone_in(kind, torch.bfloat16)
    feature = backbone.image.run(pictures(backbone))
    edited = backbone.image.run(
        feature, start="image_feature", edits={"image_feature": lambda clean: clean * 1.0001}
    )
    torch.testing.assert_close(edited, feature * 1.0001, rtol=1e-7, atol=0)


@pytest.mark.parametrize("kind", ["vit", "resnet", "timm_efficientnet"])
def test_resuming_from_what_was_handed_out_gives_the_same_feature(kind: str) -> None:
    backbone = backbone_in(kind, torch.bfloat16)
    pixels = pictures(backbone)
    whole = backbone.image.run(pixels)
    for name, tensor in backbone.image.read(pixels, backbone.image.resume_points).items():
        torch.testing.assert_close(backbone.image.run(tensor, start=name), whole, rtol=1e-2, atol=1e-2)


def test_what_stays_wide() -> None:
    backbone = tiny_backbone("timm_efficientnet").to(dtype=torch.bfloat16)
    assert backbone.logit_scale.dtype == torch.float32
    assert backbone.logit_scale == tiny_backbone("timm_efficientnet").logit_scale
    norms = [part for part in backbone.model.modules() if isinstance(part, nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        assert {norm.weight.dtype, norm.running_mean.dtype, norm.running_var.dtype} == {torch.float32}
        assert norm.num_batches_tracked.dtype == torch.int64
    kernels = [part for part in backbone.model.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert {part.weight.dtype for part in kernels} == {torch.bfloat16}


def test_double_precision_stays_double() -> None:
    backbone = tiny_backbone("resnet").to(dtype=torch.float64)
    assert backbone.logit_scale.dtype == backbone.dtype == torch.float64
    feature = backbone.image.run(pictures(backbone))
    assert feature.dtype == torch.float64
    norm = next(part for part in backbone.model.modules() if isinstance(part, nn.BatchNorm2d))
    assert norm.running_mean is not None
    assert norm.running_mean.dtype == torch.float64


def test_widening_is_exact_and_leaves_wide_tensors_alone() -> None:
    half = torch.randn(9).bfloat16()
    assert torch.equal(at_least_float32(half).bfloat16(), half)
    for dtype in (torch.float32, torch.float64):
        wide = torch.ones(2, dtype=dtype)
        assert at_least_float32(wide) is wide


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_channels_last_is_the_published_computation(kind: str) -> None:
    """The twin is the model as it is published, with channels first in memory."""
    backbone, published = backbone_in(kind, torch.float32), tiny_clip(kind)
    pixels = pictures(backbone)
    kernels = [part.weight for part in backbone.model.visual.modules() if isinstance(part, nn.Conv2d)]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    with torch.no_grad():
        expected = published.encode_image(pixels)
    torch.testing.assert_close(
        backbone.image.run(pixels), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max())
    )


def operations(kind: str, stage: str) -> int:
    """Floating-point operations, forward and backward, where an edit at ``stage`` is learned."""
    backbone = backbone_in(kind, torch.float32)
    shift = torch.zeros(backbone.image.stages[stage].shape).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        feature = backbone.image.run(pictures(backbone), edits={stage: lambda clean: clean + shift})
        feature.sum().backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_gradients_cross_only_what_needs_them(kind: str) -> None:
    """Backward costs as much as forward, from the edit upwards; gradients of weights would cost as much again."""
    forward = operations(kind, "image_feature")
    assert operations(kind, "pixels") == pytest.approx(2 * forward, rel=0.01)
    assert forward < operations(kind, "image_block.1") < operations(kind, "image_block.0") < 2 * forward


def test_the_number_format_of_a_module_is_that_of_its_matrices() -> None:
    assert weight_dtype(nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 2).bfloat16())) == torch.bfloat16
