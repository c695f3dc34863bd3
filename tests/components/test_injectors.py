"""Injectors: what they refuse, what they yield, and that their state is all that they learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from golden_cases import GoldenCase, cases

from pinikit.components.contracts import Event, Injector, Noise, Shape, Side, Surroundings
from pinikit.components.initialise import Initialiser
from pinikit.components.injectors.bottleneck_mixture import BottleneckMixture
from pinikit.components.injectors.cnn_pixel import CnnPixel
from pinikit.components.injectors.constant import Constant
from pinikit.components.injectors.cross_attention import CrossAttention
from pinikit.components.injectors.cross_attention_spatial import CrossAttentionSpatial
from pinikit.components.injectors.feature_mlp import FeatureMlp
from pinikit.components.injectors.free import Free
from pinikit.components.injectors.free_per_class import FreePerClass
from pinikit.components.injectors.mlp import Mlp
from pinikit.components.injectors.text_guided_feature import TextGuidedFeature
from pinikit.components.injectors.transformer import Transformer
from pinikit.components.injectors.unet_pixel import UnetPixel
from pinikit.components.noise.controls import Isotropic, MuOnly
from pinikit.components.noise.gaussian import Gaussian
from pinikit.components.noise.gaussian_low_rank import GaussianLowRank
from pinikit.errors import ConfigError
from pinikit.plugin import registry

CLASSES, BATCH, WIDTH, POSITIONS = 5, 3, 12, 4
CONTEXT: Mapping[str, Shape] = {
    "image_feature": (WIDTH,),
    "text_feature": (WIDTH,),
    "noisy_text_feature": (WIDTH,),
    "spatial_feature": (POSITIONS, 10),
}
VECTOR, TOKENS, PICTURE = Event((WIDTH,)), Event((POSITIONS, 10)), Event((3, 6, 6), channel_axis=0)


def around(side: Side, event: Event, **context: Shape) -> Surroundings:
    return Surroundings(side, event, CLASSES, {**CONTEXT, "here": event.shape, **context})


def build(
    injector: Injector, side: Side = "image", event: Event = VECTOR, noise: Noise | None = None, seed: int = 0
) -> Injector:
    injector.build(noise or Gaussian(), around(side, event), Initialiser(seed, "label"))
    return injector.eval()


def context(event: Event, side: Side = "image") -> dict[str, torch.Tensor]:
    stream = torch.Generator().manual_seed(3)
    rows = CLASSES if side == "text" else BATCH
    shapes = {
        "here": (rows, *event.shape),
        "image_feature": (BATCH, WIDTH),
        "spatial_feature": (BATCH, *CONTEXT["spatial_feature"]),
        "text_feature": (CLASSES, WIDTH),
        "noisy_text_feature": (CLASSES, WIDTH),
    }
    return {name: torch.randn(shape, generator=stream) for name, shape in shapes.items()}


BUILT: dict[str, tuple[Any, Side, Event]] = {
    "free": (Free, "image", VECTOR),
    "free text": (Free, "text", TOKENS),
    "free pixels": (Free, "image", PICTURE),
    "free_per_class": (FreePerClass, "text", TOKENS),
    "mlp": (Mlp, "image", TOKENS),
    "mlp text": (Mlp, "text", VECTOR),
    "mlp image_feature": (lambda: Mlp(context="image_feature"), "image", TOKENS),
    "mlp pixels": (lambda: Mlp(context="image_feature"), "image", PICTURE),
    "cross_attention": (lambda: CrossAttention(reduction=2), "image", VECTOR),
    "cross_attention pixels": (CrossAttention, "image", PICTURE),
    "cross_attention_spatial": (CrossAttentionSpatial, "image", TOKENS),
    "cross_attention_spatial feature": (CrossAttentionSpatial, "image", VECTOR),
    "cnn_pixel": (CnnPixel, "image", PICTURE),
    "feature_mlp": (FeatureMlp, "image", TOKENS),
    "feature_mlp text": (FeatureMlp, "text", VECTOR),
    "feature_mlp pixels": (lambda: FeatureMlp(context="image_feature"), "image", PICTURE),
    "bottleneck_mixture": (BottleneckMixture, "image", TOKENS),
    "bottleneck_mixture text": (BottleneckMixture, "text", VECTOR),
    "text_guided_feature": (TextGuidedFeature, "image", VECTOR),
    "transformer": (Transformer, "image", TOKENS),
    "transformer feature": (lambda: Transformer(width=8, heads=2, layers=2), "image", VECTOR),
    "unet_pixel": (UnetPixel, "image", PICTURE),
    "constant": (lambda: Constant({"mean": 0.0, "std": 0.05}), "image", VECTOR),
}


# --- what they yield ----------------------------------------------------------------------------------


def test_initial_values_are_those_of_pytorch() -> None:
    """Same distribution: bounds of 1/sqrt(fan in), for weights and biases."""
    injector = build(Mlp(hidden=400))
    for layer in (injector.input, *injector.heads.layers.values()):
        bound = layer.in_features**-0.5
        for parameter in layer.parameters():
            assert parameter.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    free = build(Free(init_std=0.5), event=Event((100, 100)))
    assert free.values["mean"].std().item() == pytest.approx(0.5, rel=0.05)


def test_no_registered_injector_escapes() -> None:
    known = {entry.name for entry in registry().entries("injector") if entry.source == "pinikit"}
    assert {name.partition(" ")[0] for name in BUILT} == known


@pytest.mark.parametrize("make", [Mlp, CrossAttention, CrossAttentionSpatial, FeatureMlp, Transformer])
def test_heads_may_begin_at_zero(make: Any) -> None:
    raw = build(make(zero_init_heads=True))(context(VECTOR))
    assert all(not value.any() for value in raw.values())


def test_constant_yields_its_values() -> None:
    raw = build(Constant({"mean": 0.25, "std": 0.05}), event=TOKENS)(context(TOKENS))
    assert raw["mean"].eq(0.25).all()
    assert raw["std"].eq(0.05).all()
    assert raw["std"].shape == (1, *TOKENS.shape)
    assert build(Constant({"mean": 0.0, "std": 0.1})).state_dict() == {}
    assert build(Constant({}), noise=Isotropic())(context(VECTOR)) == {}


def test_attention_may_be_scaled() -> None:
    """With one class there is nothing to weigh; with several the factor changes the weights."""
    given = context(VECTOR)
    for classes, same in ((1, True), (CLASSES, False)):
        given["noisy_text_feature"] = context(VECTOR)["noisy_text_feature"][:classes]
        plain, scaled = (build(CrossAttention(scaled=flag))(given)["mean"] for flag in (False, True))
        assert torch.allclose(plain, scaled) == same


def test_pixel_maps_have_the_level_as_root_mean_square() -> None:
    raw = build(CnnPixel(level=0.3), event=PICTURE)(context(PICTURE))
    for value in raw.values():
        rms = value.square().mean((2, 3)).sqrt()
        torch.testing.assert_close(rms, torch.full_like(rms, 0.3))


@pytest.mark.parametrize("case", cases("pingda_feat_noise"), ids=str)
def test_feature_mlp_equals_the_released_code(case: GoldenCase) -> None:
    injector = build(FeatureMlp(hidden=case.hyper["hidden"]), event=Event(case.inputs["x"].shape[1:]))
    letters, layers = {"mean": "m", "std": "s"}, {"0": "1", "2": "2"}
    theirs = {
        f"networks.{name}.{layer}.{kind}": case.inputs[f"{letter}_{kind[0]}{number}"]
        for name, letter in letters.items()
        for layer, number in layers.items()
        for kind in ("weight", "bias")
    }
    raw = torch.func.functional_call(injector, theirs, ({"here": case.inputs["x"]},))
    params = Gaussian().constrain(raw)
    case.check("mu", params["mean"])
    case.check("sigma", params["std"])
    case.check("noise", Gaussian().sample(params, case.inputs["eps"]))


def test_mixture_of_bottlenecks_in_its_limits() -> None:
    """One expert of weight 1 is a plain bottleneck, the experts add up, and weights of zero give zero."""
    given = context(TOKENS)
    one, two = (build(BottleneckMixture(width=6, experts=k), event=TOKENS) for k in (1, 2))
    down, up = one.get_buffer("down"), one.get_buffer("up_mean")
    plain = one.experts["mean"][0](given["here"] @ down) @ up
    torch.testing.assert_close(one(given)["mean"], plain)
    assert "down" not in dict(one.named_parameters()), "frozen"
    with torch.no_grad():
        second = two.experts["mean"][1](given["here"] @ down) @ up
        torch.testing.assert_close(two(given)["mean"], (plain + second) / 2)
        two.weights["mean"].zero_()
    assert not two(given)["mean"].any()


def test_text_guided_vectors_are_means_of_text_features() -> None:
    injector, given = build(TextGuidedFeature(gain=0.5)), context(VECTOR)
    text = given["noisy_text_feature"]
    weights = torch.linalg.lstsq(text.mT, 2 * injector(given)["mean"].mT).solution
    torch.testing.assert_close(weights.sum(0), torch.ones(BATCH), rtol=1e-3, atol=1e-3)
    assert (weights > -1e-4).all()
    with torch.no_grad():
        injector.gains["mean"].zero_()
    assert not injector(given)["mean"].any()


PAIRS = [
    (name, noise.name) for name in BUILT for noise in registry().entries("noise") if noise.source == "pinikit"
]


@pytest.mark.parametrize(("injector", "noise"), PAIRS)
def test_every_pair_of_injector_and_noise_works_or_is_refused(injector: str, noise: str) -> None:
    """Samples have the event's shape and every learned number has a finite gradient."""
    (make, side, event), family = BUILT[injector], registry().find("noise", noise).load()()
    if not family.parameters:
        return
    made = Constant(dict.fromkeys(family.parameters, 0.1)) if injector == "constant" else make()
    try:
        built = build(made, side, event, family)
    except ConfigError as error:
        built = str(error)
    if isinstance(built, str):
        assert "allowed" in built
        choosy = ("text_guided_feature", "constant")
        assert event == PICTURE or injector in choosy, "all others take any noise at vectors"
        return
    given = context(event, side)
    params = family.constrain(built({key: given[key] for key in built.requires}))
    base = family.base(given["here"].shape, torch.Generator().manual_seed(0))
    sample = family.sample(params, base)
    assert torch.broadcast_shapes(sample.shape, given["here"].shape) == given["here"].shape
    assert torch.broadcast_shapes(family.mean(params).shape, given["here"].shape) == given["here"].shape
    learned = list(built.parameters())
    if learned:
        gradients = torch.autograd.grad(sample.square().sum(), learned, allow_unused=True)
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


# --- what they refuse ---------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Any, Side, Event, str]] = {
    "cross_attention at a text site": (CrossAttention, "text", TOKENS, "'cross_attention': reads image"),
    "cross_attention_spatial at a text site": (
        CrossAttentionSpatial,
        "text",
        TOKENS,
        "'cross_attention_spatial': reads spatial features, which a text site does not have; allowed: image",
    ),
    "cross_attention_spatial with other positions": (
        CrossAttentionSpatial,
        "image",
        Event((POSITIONS + 1, 10)),
        r"event \(5, 10\) does not have the 4 positions of spatial_feature; allowed: .*image_feature",
    ),
    "cross_attention_spatial at pixels": (CrossAttentionSpatial, "image", PICTURE, "does not have the 4"),
    "free_per_class at an image site": (FreePerClass, "image", VECTOR, "no class axis; allowed: text sites"),
    "cnn_pixel at a feature": (CnnPixel, "image", VECTOR, r"shape \(12,\); allowed: site pixels"),
    "cnn_pixel at tokens": (CnnPixel, "image", TOKENS, "'cnn_pixel': needs a picture"),
    "cnn_pixel at a text site": (CnnPixel, "text", TOKENS, "'cnn_pixel': needs a picture"),
    "unet_pixel at tokens": (UnetPixel, "image", TOKENS, "'unet_pixel': needs a picture"),
    "feature_mlp here at pixels": (FeatureMlp, "image", PICTURE, "which pixels have not; allowed there"),
    "bottleneck_mixture at pixels": (BottleneckMixture, "image", PICTURE, "which pixels have not"),
    "text_guided_feature at tokens": (
        TextGuidedFeature,
        "image",
        TOKENS,
        r"event of shape \(4, 10\) on the im",
    ),
    "text_guided_feature at a text site": (
        TextGuidedFeature,
        "text",
        VECTOR,
        "on the text side; allowed: site",
    ),
    "transformer at pixels": (Transformer, "image", PICTURE, "allowed: image sites but pixels"),
    "transformer at a text site": (Transformer, "text", TOKENS, "on the text side"),
    "mlp here at pixels": (Mlp, "image", PICTURE, "which pixels have not; allowed there: context: image_f"),
    "constant without a parameter": (
        lambda: Constant({"mean": 0.0}),
        "image",
        VECTOR,
        "'constant': values: missing std",
    ),
    "constant with an unknown parameter": (
        lambda: Constant({"mean": 0.0, "sdt": 0.1}),
        "image",
        VECTOR,
        r"values\.sdt: the noise has no such parameter \(did you mean 'std'\?\); allowed: mean, std",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused(what: str) -> None:
    make, side, event, message = REFUSED[what]
    with pytest.raises(ConfigError, match=message):
        build(make(), side, event)


@pytest.mark.parametrize(
    ("make", "event", "message"),
    [
        (CnnPixel, PICTURE, r"maps of shape \(3, 6, 6\), but the noise's parameter 'factor' has the shape"),
        (UnetPixel, PICTURE, "injector 'unet_pixel': yields maps"),
        (CrossAttention, PICTURE, "'factor' has the shape .* allowed at pixels: noise with one number per"),
        (TextGuidedFeature, VECTOR, r"parameter 'factor' has the shape \(12, 4\)"),
    ],
)
def test_noise_of_another_shape_is_refused(make: Any, event: Event, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(make(), event=event, noise=GaussianLowRank())


@pytest.mark.parametrize(
    ("std", "value", "made"), [("softplus", 0.05, r"0\.7185"), ("abs", -0.05, r"0\.05"), ("exp", 0.0, "1")]
)
def test_constant_values_are_what_the_noise_gets(std: Any, value: float, made: str) -> None:
    build(Constant({"mean": -0.1, "std": 0.05}), noise=Gaussian(std="abs"))
    with pytest.raises(
        ConfigError, match=rf"values\.std: found {value}, of which the noise makes {made}; all"
    ):
        build(Constant({"mean": -0.1, "std": value}), noise=Gaussian(std=std))


def test_constant_needs_what_the_noise_needs_and_no_more() -> None:
    build(Constant({"mean": 0.1}), noise=MuOnly())
    with pytest.raises(ConfigError, match=r"values\.std.*allowed: mean"):
        build(Constant({"mean": 0.1, "std": 0.1}), noise=MuOnly())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mlp(hidden=0), "hidden: found 0; allowed: 1 or more"),
        (lambda: FeatureMlp(hidden=0), "hidden: found 0"),
        (lambda: BottleneckMixture(width=0), "width: found 0"),
        (lambda: BottleneckMixture(experts=0), "experts: found 0"),
        (lambda: Transformer(width=30), "width: found 30 with 4 heads; allowed: a multiple of the heads"),
        (lambda: Transformer(layers=0), "layers: found 0"),
        (lambda: UnetPixel(width=12), "width: found 12; allowed: multiples of 8"),
        (lambda: UnetPixel(depth=0), "depth: found 0"),
        (lambda: CrossAttention(reduction=0), "reduction: found 0"),
        (lambda: CrossAttentionSpatial(reduction=-1), "reduction: found -1"),
        (lambda: CnnPixel(level=0.0), r"level: found 0\.0; allowed: above 0"),
        (lambda: UnetPixel(level=-0.1), r"level: found -0\.1; allowed: above 0"),
        (lambda: Free(init_std=-0.1), r"init_std: found -0\.1; allowed: 0 or more"),
        (lambda: FreePerClass(init_std=-0.1), r"init_std: found -0\.1; allowed: 0 or more"),
    ],
)
def test_impossible_sizes_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
