"""What must hold of a noisy model whatever its weights: section 2.6 of PiNI's description, and more."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from tiny_models import tiny_backbone
from torch import Tensor

from pinikit.backbones.base import Backbone, Prompts
from pinikit.components.contracts import Draw
from pinikit.components.losses.cross_entropy import CrossEntropy
from pinikit.components.methods.pini import Pini, make_injection
from pinikit.config.checking import Checker, Slot, Where
from pinikit.config.schema import InjectionConfig, LossConfig, OptimConfig
from pinikit.errors import ConfigError
from pinikit.plugin import registry
from pinikit.training.draws import FixedDraw, MeanDraw, RandomDraw
from pinikit.training.loop import WeightedLoss, total_loss
from pinikit.training.model import NoisyModel

CLASSES = ("accordion", "grand_piano", "ant", "water_lilly")
TEMPLATE = "x x x a photo of a {}."
TEXT = {"site": "prompt_template", "noise": {"name": "gaussian", "std": "sign_free"}}
IMAGE = {"site": "image_feature", "injector": "cross_attention", "share": "image"}
PINI = {"text": TEXT, "image": IMAGE}


def injection_config(values: dict[str, Any]) -> InjectionConfig:
    checker, slot, where = Checker(registry()), Slot(InjectionConfig), Where("test")
    return InjectionConfig(**checker.complete(checker.merge({}, values, slot, where), slot, where))


@cache
def frozen_backbone() -> Backbone:
    """Double precision; nothing here changes its weights."""
    backbone = tiny_backbone()
    backbone.model.double()
    return backbone


def make_model(injections: dict[str, dict[str, Any]], classes: tuple[str, ...] = CLASSES) -> NoisyModel:
    backbone = frozen_backbone()
    prompts: Prompts = backbone.text.tokenize(TEMPLATE, classes)
    made = [make_injection(label, injection_config(v), backbone, prompts) for label, v in injections.items()]
    model = NoisyModel(backbone, prompts, made, seed=3)
    model.injections.double()
    return model


def pixels(model: NoisyModel, count: int = 3) -> Tensor:
    shape = model.backbone.image.stages["pixels"].shape
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def activations(model: NoisyModel, count: int = 3) -> dict[str, Tensor]:
    return model.backbone.image.read(pixels(model, count), model.requires)


def logits(model: NoisyModel, draw: Draw) -> Tensor:
    return model(activations(model), draw).logits


def zero_shot(model: NoisyModel) -> Tensor:
    backbone, prompts = model.backbone, model.prompts
    text = backbone.text.encode_plain(prompts, backbone.text.embed(prompts))
    return model.logits(backbone.image.run(pixels(model)), text)


def silence(model: NoisyModel) -> None:
    with torch.no_grad():
        for parameter in model.injections.parameters():
            parameter.zero_()


SITES: dict[str, dict[str, Any]] = {
    "prompt_template": {"site": "prompt_template"},
    "prompt_context": {"site": "prompt_context"},
    "prompt_classname": {"site": "prompt_classname"},
    "prompt_all": {"site": "prompt_all"},
    "prompt_template per class": {"site": "prompt_template", "injector": "free_per_class", "share": "class"},
    "prompt_all per class": {"site": "prompt_all", "injector": "free_per_class", "share": "class"},
    "prompt_classname mlp": {"site": "prompt_classname", "injector": "mlp", "share": "class"},
    "text_block.0": {"site": "text_block.0"},
    "text_block.middle classname": {"site": {"name": "text_block", "index": "middle", "tokens": "classname"}},
    "text_block.0 all per class": {
        "site": {"name": "text_block", "index": 0, "tokens": "all"},
        "injector": "mlp",
        "share": "class",
    },
    "text_feature": {"site": "text_feature", "injector": "mlp", "share": "class"},
    "pixels": {"site": "pixels", "share": "image"},
    "patch_embedding": {"site": "patch_embedding", "injector": "cross_attention", "share": "image"},
    "image_block.0": {"site": "image_block.0", "injector": "mlp", "share": "image"},
    "image_block.middle": {
        "site": "image_block.middle",
        "injector": "cross_attention_spatial",
        "share": "image",
    },
    "image_block.-2": {"site": "image_block.-2", "share": "batch"},
    "spatial_feature": {"site": "spatial_feature", "injector": "cross_attention_spatial", "share": "image"},
    "image_feature": {"site": "image_feature", "injector": "mlp", "share": "image"},
    "image_feature spatial": {
        "site": "image_feature",
        "injector": "cross_attention_spatial",
        "share": "image",
    },
    "pixels mlp": {
        "site": "pixels",
        "injector": {"name": "mlp", "context": "image_feature"},
        "share": "image",
    },
}


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("combine", ["add", "multiply", "sphere"])
def test_zero_parameters_give_zero_shot_of_the_x_prompt(site: str, combine: str) -> None:
    model = make_model({"only": {**SITES[site], "combine": combine}})
    silence(model)
    for draw in (MeanDraw(), RandomDraw(0, "test")):
        torch.testing.assert_close(logits(model, draw), zero_shot(model), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("site", SITES)
def test_noise_changes_the_logits_and_every_parameter_has_a_gradient(site: str) -> None:
    model = make_model({"only": SITES[site]})
    output = model(activations(model), RandomDraw(0, "test"))
    assert not torch.allclose(output.logits, zero_shot(model), atol=1e-4)
    total_loss([WeightedLoss(CrossEntropy(), 1.0)], output, torch.tensor([0, 1, 2])).backward()
    for name, parameter in model.injections.named_parameters():
        assert parameter.grad is not None, name
        unused = name.endswith(("key.bias",))  # softmax does not see a shift shared by all classes
        assert unused or parameter.grad.abs().max() > 0, name
    assert all(parameter.grad is None for parameter in model.backbone.model.parameters())
    assert output.ratios["only"].min() > 0


@pytest.mark.parametrize("site", SITES)
def test_same_draw_same_logits_other_draw_other_logits(site: str) -> None:
    model = make_model({"only": SITES[site]})
    first, again = (logits(model, RandomDraw(7, "test")) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, logits(model, RandomDraw(8, "test")))


@pytest.mark.parametrize("control", ["zero", {"name": "isotropic", "std": 0.0}])
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("combine", ["add", "multiply", "sphere"])
def test_controls_without_noise_are_the_identity(control: Any, site: str, combine: str) -> None:
    model = make_model({"only": {**SITES[site], "noise": control, "combine": combine}})
    assert not list(model.injections.parameters())
    clean = make_model({})
    for draw in (MeanDraw(), RandomDraw(0, "test")):
        output = model(activations(model), draw)
        torch.testing.assert_close(output.logits, logits(clean, draw), rtol=1e-12, atol=1e-12)
        assert output.ratios["only"].max() == 0


@pytest.mark.parametrize("combine", ["add", "multiply", "sphere"])
def test_noise_ratio_is_the_size_of_the_change(combine: str) -> None:
    model = make_model({"only": {"site": "prompt_classname", "combine": combine, "noise": "mu_only"}})
    injection, embedding = model.injections["only"], model.backbone.text.embed(model.prompts)
    clean = injection.site.read(embedding)
    noisy = injection(clean, {}, MeanDraw())
    for row, length in enumerate(model.prompts.classname_lengths):
        change = (noisy.value - clean)[row, :length].norm() / clean[row, :length].norm()
        torch.testing.assert_close(noisy.ratio[row], change)
        assert change > 0


def test_logits_are_computed_in_single_precision() -> None:
    model = make_model(PINI)
    image, text = torch.randn(5, 24).bfloat16(), torch.randn(7, 24).bfloat16()
    found = model.logits(image, text)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.float(), model.logits(image.float(), text.float()).float())


def test_equal_samples_are_refused() -> None:
    shared = {"image": injection_config({**IMAGE, "share": "batch"})}
    backbone = tiny_backbone()
    prompts = backbone.text.tokenize(TEMPLATE, CLASSES)
    losses = {"classify": LossConfig({"name": "cross_entropy", "weight": 1.0})}
    with pytest.raises(ConfigError, match="samples: found 4"):
        Pini(shared, losses, OptimConfig(), samples=4).footprint(backbone, prompts)


@pytest.mark.parametrize(("share", "samples"), [("batch", 2), ("image", 1), ("image", 3)])
def test_noise_in_pairs_needs_pairs_of_samples(share: str, samples: int) -> None:
    plain = {"share": "image"} if samples > 1 else {}
    injections = {
        "pairs": injection_config({**IMAGE, "noise": "antithetic", "share": share}),
        "plain": injection_config({**IMAGE, **plain}),
    }
    with pytest.raises(
        ConfigError, match=rf"pairs\.noise: .* found share: {share}, samples: {samples}; allo"
    ):
        footprint_of(injections, samples)


def test_an_even_number_of_samples_has_pairs() -> None:
    footprint_of({"image": injection_config({**IMAGE, "noise": "antithetic", "share": "image"})}, 2)


def footprint_of(injections: dict[str, InjectionConfig], samples: int) -> None:
    backbone = tiny_backbone()
    losses = {"classify": LossConfig({"name": "cross_entropy", "weight": 1.0})}
    prompts = backbone.text.tokenize(TEMPLATE, CLASSES)
    Pini(injections, losses, OptimConfig(), samples=samples).footprint(backbone, prompts)


@pytest.mark.parametrize("noise", ["bernoulli_mask", "gumbel_gate"])
def test_masks_only_multiply(noise: str) -> None:
    message = rf"injections\.image\.combine: found 'add', .*'{noise}'.* allowed with it: multiply"
    with pytest.raises(ConfigError, match=message):
        make_model({"image": {**IMAGE, "noise": noise}})
    make_model({"image": {**IMAGE, "noise": noise, "combine": "multiply"}})


def test_masks_of_positions_are_refused_where_the_site_has_none() -> None:
    mask = {"noise": {"name": "bernoulli_mask", "over": "position"}, "combine": "multiply"}
    with pytest.raises(ConfigError, match=r"injections\.image\.noise\.over: found 'position'"):
        make_model({"image": {**IMAGE, **mask}})


def test_mean_draw_is_base_zero_and_mu_only() -> None:
    model = make_model(PINI)
    zeros = {label: torch.zeros(1, *i.site.event.shape) for label, i in model.injections.items()}
    torch.testing.assert_close(logits(model, MeanDraw()), logits(model, FixedDraw(zeros)))
    only_mean = make_model({label: {**config, "noise": "mu_only"} for label, config in PINI.items()})
    torch.testing.assert_close(logits(only_mean, RandomDraw(0, "test")), logits(model, MeanDraw()))
    only_std = make_model({"image": {**IMAGE, "noise": "sigma_only"}})
    torch.testing.assert_close(logits(only_std, MeanDraw()), zero_shot(only_std))


def test_arms_that_differ_in_noise_share_the_initial_values_of_what_they_share() -> None:
    whole, part = (
        make_model(PINI),
        make_model({label: {**c, "noise": "mu_only"} for label, c in PINI.items()}),
    )
    values = dict(whole.injections.named_parameters())
    for name, parameter in part.injections.named_parameters():
        assert torch.equal(parameter, values[name]), name


def test_one_class_attends_to_itself_alone() -> None:
    model = make_model({"image": IMAGE}, classes=("ant",))
    text = model.clean_text
    params = model.injections["image"].injector(
        {"image_feature": activations(model)["image_feature"], "noisy_text_feature": text}
    )
    for value in params.values():
        torch.testing.assert_close(value, value[:1].expand_as(value))


def test_permuting_classes_permutes_logits_and_leaves_image_noise() -> None:
    order = [2, 0, 3, 1]
    model = make_model(PINI)
    permuted = make_model(PINI, classes=tuple(CLASSES[i] for i in order))
    one, other = (m(activations(m), RandomDraw(5, "test")) for m in (model, permuted))
    torch.testing.assert_close(other.logits, one.logits[:, order])
    torch.testing.assert_close(other.image_features, one.image_features)


def test_gradient_of_std_is_base_times_gradient_of_mean() -> None:
    model = make_model({"text": TEXT})
    base = torch.randn(1, *model.injections["text"].site.event.shape, dtype=torch.float64)
    output = model(activations(model), FixedDraw({"text": base}))
    total_loss([WeightedLoss(CrossEntropy(), 1.0)], output, torch.tensor([0, 1, 2])).backward()
    grads = {name.rpartition(".")[2]: p.grad for name, p in model.injections.named_parameters()}
    torch.testing.assert_close(grads["std"], base * grads["mean"], rtol=1e-12, atol=1e-15)


def test_sign_of_std_and_base_together_changes_nothing() -> None:
    model = make_model({"text": TEXT})
    base = torch.randn(1, *model.injections["text"].site.event.shape, dtype=torch.float64)
    before = logits(model, FixedDraw({"text": base}))
    with torch.no_grad():
        dict(model.injections.named_parameters())["text.injector.values.std"].neg_()
    torch.testing.assert_close(logits(model, FixedDraw({"text": -base})), before)


@pytest.mark.parametrize("site", ["image_feature", "pixels"])
def test_equal_samples_give_the_loss_of_one(site: str) -> None:
    model = make_model({"text": TEXT, "image": {"site": site, "share": "image"}})
    clean, labels, samples = activations(model), torch.tensor([0, 1, 2]), 4
    base = {
        label: torch.randn(3, *i.site.event.shape, dtype=torch.float64)
        for label, i in model.injections.items()
    }
    base["text"] = base["text"][:1]
    repeated = {**base, "image": base["image"].repeat_interleave(samples, 0)}
    losses = [WeightedLoss(CrossEntropy(), 1.0)]
    one = total_loss(losses, model(clean, FixedDraw(base)), labels)
    several = total_loss(
        losses, model(clean, FixedDraw(repeated), samples=samples), labels.repeat_interleave(samples)
    )
    torch.testing.assert_close(several, one)


def test_image_noise_reaches_the_text_parameters_through_the_keys() -> None:
    for detach, expected in ((False, True), (True, False)):
        image = {**IMAGE, "injector": {"name": "cross_attention", "detach_keys": detach}}
        model = make_model({"text": TEXT, "image": image})
        text = model.text(MeanDraw())
        output = model(activations(model), MeanDraw(), text=text)
        shift = output.image_features.sum()
        parameters = [p for n, p in model.injections.named_parameters() if n == "text.injector.values.mean"]
        (gradient,) = torch.autograd.grad(shift, parameters, allow_unused=True)
        assert (gradient is not None and bool(gradient.abs().max() > 0)) == expected


def test_several_injections_at_one_stage_follow_each_other() -> None:
    model = make_model({"one": {**IMAGE, "noise": "mu_only"}, "two": {**IMAGE, "noise": "mu_only"}})
    clean = activations(model)["image_feature"]
    output = model({"image_feature": clean}, MeanDraw())
    context = {"image_feature": clean, "noisy_text_feature": model.clean_text}
    shifts = [model.injections[label].injector(context)["mean"] for label in ("one", "two")]
    torch.testing.assert_close(output.image_features, clean + shifts[0] + shifts[1])


def test_noise_of_short_class_names_stays_on_them() -> None:
    model = make_model({"only": {"site": "prompt_classname"}})
    injection = model.injections["only"]
    embedding = model.backbone.text.embed(model.prompts)
    noisy = injection.site.write(
        embedding,
        injection(injection.site.read(embedding), {}, RandomDraw(0, "test")).value,
        shared=True,
    )
    changed = (noisy.suffix != embedding.suffix).any(-1)
    assert changed.sum(1).tolist() == list(model.prompts.classname_lengths)
    assert torch.equal(noisy.prefix, embedding.prefix)


def test_a_site_that_cannot_reach_the_image_feature_is_refused() -> None:
    model = make_model({"only": {"site": "image_block.-1", "share": "batch"}})
    with pytest.raises(ConfigError, match=r"injections\.only\.site.*'image_block.2' does not reach"):
        model.check_reach()
    for site in ("image_block.-2", "spatial_feature", "image_feature", "pixels", "patch_embedding"):
        make_model({"only": {"site": site, "share": "batch"}}).check_reach()
