"""Every kind of image tower: the stages are the tower's own computation, and edits act where they should."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from golden_cases import GoldenCase, cases
from tiny_models import IMAGE_CONFIGS, golden_backbone, pictures, tiny_backbone
from torch import Tensor

from pinikit.backbones.base import Backbone
from pinikit.backbones.image_generic import HookedTower
from pinikit.errors import ConfigError

KINDS = sorted(IMAGE_CONFIGS)
HOOKED = ["timm_eva", "timm_nfnet"]
CLASS_POOLED = ["vit", "vit_tok_ln_after", "timm_vit"]


@cache
def backbone_of(kind: str) -> Backbone:
    return tiny_backbone(kind)


def encoded(backbone: Backbone, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        feature = backbone.model.encode_image(pixels)
    return feature[0] if isinstance(feature, tuple) else feature


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_without_edits_the_feature_is_encode_image(kind: str) -> None:
    backbone = backbone_of(kind)
    pixels = pictures(backbone)
    feature = backbone.image.run(pixels)
    close(feature, encoded(backbone, pixels))
    assert not feature.requires_grad
    assert feature.shape[1:] == (backbone.feature_width,)


@pytest.mark.parametrize("kind", KINDS)
def test_read_gives_every_stage_in_its_stated_shape(kind: str) -> None:
    backbone = backbone_of(kind)
    pixels = pictures(backbone)
    tensors = backbone.image.read(pixels, list(backbone.image.stages))
    assert {name: tuple(t.shape[1:]) for name, t in tensors.items()} == {
        name: info.shape for name, info in backbone.image.stages.items()
    }
    close(tensors["image_feature"], encoded(backbone, pixels))
    for name, tensor in tensors.items():
        close(backbone.image.run(pixels, stop=name), tensor)


@pytest.mark.parametrize("kind", KINDS)
def test_stages_are_in_the_order_of_computation(kind: str) -> None:
    tower = backbone_of(kind).image
    names = list(tower.stages)
    blocks = [name for name in names if name.startswith("image_block.")]
    assert names[0] == "pixels"
    assert names[-1] == "image_feature"
    assert blocks == [f"image_block.{index}" for index in range(len(blocks))]
    assert blocks
    assert {"pixels", "image_feature"} <= tower.resume_points <= set(names)
    assert isinstance(tower, HookedTower) == (kind in HOOKED)


@pytest.mark.parametrize("kind", KINDS)
def test_resuming_anywhere_gives_the_same_feature(kind: str) -> None:
    backbone = backbone_of(kind)
    pixels = pictures(backbone)
    expected = encoded(backbone, pixels)
    points = backbone.image.resume_points
    for name, tensor in backbone.image.read(pixels, points).items():
        close(backbone.image.run(tensor.clone(), start=name), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_at_every_stage_reaches_the_feature_and_its_gradient(kind: str) -> None:
    backbone = backbone_of(kind)
    pixels = pictures(backbone, count=2)
    expected = encoded(backbone, pixels)
    for name, info in backbone.image.stages.items():
        noise = torch.randn(info.shape, generator=torch.Generator().manual_seed(3)).requires_grad_()
        seen = []

        def edit(clean: Tensor, noise: Tensor = noise, seen: list[Tensor] = seen) -> Tensor:
            seen.append(clean)
            return clean + noise

        feature = backbone.image.run(pixels, edits={name: edit})
        assert not seen[0].requires_grad, "a graph was built before the first edit"
        assert (feature - expected).abs().max() > 1e-4 * expected.abs().max(), name
        (gradient,) = torch.autograd.grad(feature.square().sum(), noise)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_zero_edits_everywhere_change_nothing(kind: str) -> None:
    backbone = backbone_of(kind)
    pixels = pictures(backbone)
    edits = {name: (lambda clean: clean + 0.0) for name in backbone.image.stages}
    close(backbone.image.run(pixels, edits=edits), encoded(backbone, pixels))


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_acts_alike_from_the_pixels_and_from_its_own_stage(kind: str) -> None:
    backbone = backbone_of(kind)
    pixels = pictures(backbone)
    for name in backbone.image.resume_points - {"pixels"}:
        clean = backbone.image.run(pixels, stop=name)
        edits = {name: lambda tensor: tensor * 1.25}
        whole = backbone.image.run(pixels, edits=edits)
        close(backbone.image.run(clean, start=name, edits=edits), whole)
        close(backbone.image.run(pixels, stop=name, edits=edits), clean * 1.25)


@pytest.mark.parametrize("kind", KINDS)
def test_reading_leaves_the_tensors_unharmed(kind: str) -> None:
    backbone = backbone_of(kind)
    pixels = pictures(backbone, count=1)
    before = pixels.clone()
    names = list(backbone.image.stages)
    together = backbone.image.read(pixels, names)
    assert torch.equal(pixels, before)
    for name in names:
        close(together[name], backbone.image.read(pixels, [name])[name])


@pytest.mark.parametrize("kind", CLASS_POOLED)
def test_edited_patches_of_a_class_token_tower_move_the_feature_by_their_mean(kind: str) -> None:
    backbone = backbone_of(kind)
    pixels = pictures(backbone)
    info = backbone.image.stages["spatial_feature"]
    shift = torch.randn(info.shape, generator=torch.Generator().manual_seed(5))
    shift[0] = 0
    assert info.leading == 1
    feature = backbone.image.run(pixels, edits={"spatial_feature": lambda clean: clean + shift})
    close(feature, encoded(backbone, pixels) + shift[1:].mean(dim=0), 1e-5)


@pytest.mark.parametrize("kind", ["vit", "timm_vit"])
def test_without_an_edit_the_spatial_stage_costs_no_exactness(kind: str) -> None:
    backbone = backbone_of(kind)
    pixels = pictures(backbone)
    spatial = backbone.image.run(pixels, stop="spatial_feature")
    assert torch.equal(backbone.image.run(spatial, start="spatial_feature"), backbone.image.run(pixels))


@pytest.mark.parametrize("kind", ["vit", "vit_attn_pool", "resnet", "timm_efficientnet", "timm_vit_map"])
def test_double_precision(kind: str) -> None:
    backbone = tiny_backbone(kind).to(dtype=torch.float64)
    pixels = pictures(backbone, dtype=torch.float64)
    close(backbone.image.run(pixels), encoded(backbone, pixels), 1e-12)


@pytest.mark.parametrize("case", cases("pini_full"), ids=str)
def test_reference_features(case: GoldenCase) -> None:
    backbone = golden_backbone(case.groups["weights"])
    found = backbone.image.run(case.inputs["images"])
    torch.testing.assert_close(found, case.outputs["visual_features"], rtol=1e-10, atol=1e-10)


def test_unknown_stages_are_refused_with_the_nearest() -> None:
    backbone = backbone_of("vit")
    pixels = pictures(backbone, count=1)
    with pytest.raises(
        ConfigError, match=r"no stage 'image_block.9' \(did you mean 'image_block\.[012]'\?\)"
    ):
        backbone.image.run(pixels, edits={"image_block.9": lambda clean: clean})
    with pytest.raises(ConfigError, match="no stage 'patches'"):
        backbone.image.read(pixels, ["patches"])
    with pytest.raises(ConfigError, match="no stage 'nowhere'"):
        backbone_of("timm_nfnet").image.run(pixels, stop="nowhere")


def test_going_backwards_is_refused() -> None:
    for kind in ("vit", "timm_nfnet"):
        backbone = backbone_of(kind)
        with pytest.raises(ValueError, match="comes before"):
            backbone.image.run(torch.zeros(1, backbone.feature_width), start="image_feature", stop="pixels")


class ChannelsLast(torch.nn.Module):
    """A tower as timm's Swin: its layers give maps [B, h, w, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.image_size = (8, 12)
        self.trunk = torch.nn.Module()
        self.trunk.output_fmt = "NHWC"
        self.trunk.layers = torch.nn.ModuleList([torch.nn.Linear(3, 5), torch.nn.Linear(5, 7)])

    def forward(self, pixels: Tensor) -> Tensor:
        maps = pixels[:, :, ::4, ::4].permute(0, 2, 3, 1)
        for layer in self.trunk.layers:
            maps = layer(maps)
        return maps[:, -1, 0]  # one corner, so that a mixed-up grid shows


def test_maps_with_channels_last_become_tokens_and_back() -> None:
    torch.manual_seed(0)
    tower = HookedTower(ChannelsLast(), torch.zeros(1, 3, 8, 12))
    pixels = torch.randn(2, 3, 8, 12)
    assert tower.stages["image_block.1"].shape == (6, 7)
    corner = torch.zeros(6, 7)
    corner[3] = 1.0  # row 1, column 0 of a grid of 2 x 3
    with torch.no_grad():
        moved = tower.run(pixels, edits={"image_block.1": lambda clean: clean + corner})
        close(moved, tower.run(pixels) + 1.0)


def test_a_hooked_tower_says_where_it_can_go_on_from() -> None:
    backbone = backbone_of("timm_nfnet")
    value = backbone.image.run(pictures(backbone, count=1), stop="image_block.1")
    with pytest.raises(
        ConfigError, match=r"cannot go on from 'image_block.1', only from pixels, image_feature"
    ):
        backbone.image.run(value, start="image_block.1")
