"""PiNI's parts against the released code's numbers: values, gradients, one optimiser step."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from golden_cases import FOLDER, GoldenCase, cases
from torch import Tensor

from pinikit.backbones.assembly import assemble_backbone
from pinikit.backbones.base import Backbone, PromptEmbedding, Prompts
from pinikit.components.combine.add import Add
from pinikit.components.contracts import Event, Surroundings
from pinikit.components.initialise import Initialiser
from pinikit.components.injectors.cnn_pixel import CnnPixel
from pinikit.components.injectors.cross_attention import CrossAttention
from pinikit.components.injectors.cross_attention_spatial import CrossAttentionSpatial
from pinikit.components.injectors.free import Free
from pinikit.components.losses.cross_entropy import CrossEntropy
from pinikit.components.noise.gaussian import Gaussian
from pinikit.components.sites._prompt import PrefixSite
from pinikit.components.sites.image_feature import ImageFeature
from pinikit.components.sites.prompt_template import PromptTemplate
from pinikit.config.schema import OptimConfig
from pinikit.study.study import PINI_CONTEXT
from pinikit.training.draws import FixedDraw
from pinikit.training.injection import Injection
from pinikit.training.loop import WeightedLoss, make_optimiser, total_loss
from pinikit.training.model import NoisyModel
from pinikit.training.schedule import learning_rate

ATTENTION = {
    "crossAttention.fc_q": "attention.query",
    "crossAttention.fc_k": "attention.key",
    "crossAttention.fc_v": "attention.value",
    "fc_mean": "heads.layers.mean",
    "fc_variance": "heads.layers.std",
}
"""The released code's layers and ours."""


def _our_name(theirs: str) -> str:
    layer, _, kind = theirs.rpartition(".")
    return f"{ATTENTION[layer]}.{kind}"


@pytest.mark.parametrize("case", cases("pini_image_generator"), ids=str)
def test_image_generator(case: GoldenCase) -> None:
    visual, text = case.inputs["visual"], case.inputs["text"]
    dim, reduction, samples = (case.hyper[key] for key in ("dim", "reduction", "num"))
    spatial = visual.dim() == 3
    event = Event(tuple(visual.shape[1:]))
    injector = (CrossAttentionSpatial if spatial else CrossAttention)(reduction=reduction)
    feature = "spatial_feature" if spatial else "image_feature"
    noise = Gaussian()
    context = {feature: event.shape, "noisy_text_feature": (dim,)}
    injector.build(noise, Surroundings("image", event, len(text), context), Initialiser(0, "image"))
    theirs = {name: tensor for name, tensor in case.inputs.items() if "fc_" in name}
    ours = {_our_name(name): tensor for name, tensor in theirs.items()}
    raw = torch.func.functional_call(
        injector.double(), ours, ({feature: visual, "noisy_text_feature": text},)
    )
    params = noise.constrain(raw)
    case.check("mu", params["mean"])
    case.check("sigma", params["std"])
    sample = noise.sample({name: value.unsqueeze(1) for name, value in params.items()}, case.inputs["eps"])
    assert sample.shape[1] == samples
    case.check("noise", sample)


@pytest.mark.parametrize("case", cases("pini_prompt_generator"), ids=str)
def test_prompt_generator(case: GoldenCase) -> None:
    start, template, suffix = (case.inputs[name] for name in ("prefix", "template", "suffix"))
    embedding = PromptEmbedding(torch.cat([start, template.expand(len(start), -1, -1)], dim=1), suffix)
    site = PrefixSite.__new__(PrefixSite)
    site.stage, site.event, site._first, site._last = (
        "prompt_embedding",
        Event(tuple(template.shape)),
        1,
        1 + len(template),
    )
    noise = Gaussian(std="sign_free")
    injection = Injection("text", site, Free(), noise, Add(), "batch")
    injection.build(Surroundings("text", site.event, len(suffix), {}), seed=0)
    ours = {
        "injector.values.mean": case.inputs["mu"][None],
        "injector.values.std": case.inputs["sigma"][None],
    }
    noisy = torch.func.functional_call(
        injection, ours, (site.read(embedding), {}, FixedDraw({"text": case.inputs["eps"]}))
    )
    assert noisy.shared
    written = site.write(embedding, noisy.value, shared=noisy.shared)
    prompts = torch.cat([written.prefix.expand(len(suffix), -1, -1), written.suffix], dim=1)
    case.check("prompts", prompts)


def _cnn_name(theirs: str) -> str:
    blocks = {"layer1.0": "trunk.3", "layer1.1": "trunk.4", "layer2.0": "trunk.5", "layer3.0": "trunk.6"}
    heads = {
        "conv1.": "trunk.0.",
        "bn1.": "trunk.1.",
        "conv_variance.": "heads.std.",
        "conv_mean.": "heads.mean.",
    }
    for old, new in blocks.items():
        if theirs.startswith(old):
            return new + theirs[len(old) :]
    old = next(old for old in heads if theirs.startswith(old))
    return heads[old] + theirs[len(old) :]


@pytest.mark.parametrize("case", cases("pini_pixel_cnn"), ids=str)
def test_pixel_generator(case: GoldenCase) -> None:
    images, eps = case.inputs["images"], case.inputs["eps"]
    noise = Gaussian()
    injector = CnnPixel(level=case.hyper["level"])
    event = Event(tuple(images.shape[1:]), channel_axis=0)
    injector.build(noise, Surroundings("image", event, 2, {}), Initialiser(0, "pixels"))
    missing = injector.double().load_state_dict(
        {_cnn_name(name): tensor for name, tensor in case.groups["weights"].items()}, strict=False
    )
    assert not missing.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in missing.missing_keys)
    injector.train(case.hyper["training"])
    params = noise.constrain(injector({"here": images}))
    case.check("mu", params["mean"])
    case.check("sigma", params["std"])
    noisy = Add()(images, noise.sample(params, eps[:, 0]))
    parameters = dict(injector.named_parameters())
    names = {name.split("/", 1)[1] for name in case.gradients} - {"images"}
    case.check("noisy", noisy, {name: parameters[_cnn_name(name)] for name in names})


@pytest.mark.parametrize("case", cases("pini_lr"), ids=str)
def test_learning_rate(case: GoldenCase) -> None:
    hyper = case.hyper
    optim = OptimConfig(
        lr=hyper["lr"],
        epochs=hyper["max_epoch"],
        warmup=hyper["warmup_type"],
        warmup_epochs=hyper["warmup_epoch"],
        warmup_lr=hyper["warmup_cons_lr"],
    )
    rates = [learning_rate(epoch, optim) for epoch in range(optim.epochs)]
    np.testing.assert_allclose(rates, case.outputs["lr_per_epoch"], rtol=case.rtol, atol=case.atol)


@cache
def _tiny_clip() -> Backbone:
    """The goldens' tiny OpenAI CLIP, loaded into open_clip in double precision."""
    with np.load(FOLDER / "pini_full.npz") as archive:
        weights = {
            key.removeprefix("weights/"): archive[key] for key in archive.files if key.startswith("weights/")
        }
    state = {name: torch.from_numpy(array).float() for name, array in weights.items()}
    ids, rows = state.pop("token_ids").long(), state.pop("token_rows")
    state["token_embedding.weight"] = torch.zeros(49408, rows.shape[1]).index_copy(0, ids, rows)
    model = open_clip.model.build_model_from_openai_state_dict(
        state, quick_gelu=True, cast_dtype=torch.float32
    )
    tokenizer = open_clip.SimpleTokenizer()
    return assemble_backbone(model.double(), tokenizer, name="tiny", weights_hash="")


class Reproduction:
    """The released model of one golden case, assembled from our components."""

    def __init__(self, case: GoldenCase) -> None:
        self.case, hyper = case, case.hyper
        self.backbone = _tiny_clip()
        self.prompts: Prompts = self.backbone.text.tokenize(hyper["template"] + " {}.", hyper["classnames"])
        assert torch.equal(self.prompts.tokens, case.inputs["tokens"])
        assert self.prompts.template_length == hyper["template_lens"]
        text = Injection(
            "text",
            PromptTemplate().bind(self.backbone, self.prompts),
            Free(),
            Gaussian(std="sign_free"),
            Add(),
            "batch",
        )
        image = Injection(
            "image",
            ImageFeature().bind(self.backbone, self.prompts),
            CrossAttention(reduction=hyper["reduction"]),
            Gaussian(),
            Add(),
            "image",
        )
        self.model = NoisyModel(self.backbone, self.prompts, [text, image], seed=0)
        self.model.injections.double()
        self.parameters = dict(self.model.injections.named_parameters())
        with torch.no_grad():
            for name, value in case.groups["param"].items():
                self.parameters[self.our_name(name)].copy_(value)
        noise = {"text": case.inputs["eps_text"], "image": case.inputs["eps_image"].flatten(0, 1)}
        self.draw = FixedDraw(noise)
        self.samples: int = hyper["num"]

    @staticmethod
    def our_name(theirs: str) -> str:
        owner, _, rest = theirs.partition(".")
        if owner == "promptVpnGenerator":
            return {"template_mu": "text.injector.values.mean", "template_var": "text.injector.values.std"}[
                rest
            ]
        return f"image.injector.{_our_name(rest)}"

    def forward(self) -> tuple[Any, Tensor]:
        pixels = self.case.inputs["images"]
        features = self.backbone.image.run(pixels)
        output = self.model({"image_feature": features}, self.draw, samples=self.samples)
        labels = self.case.inputs["labels"].repeat_interleave(self.samples)
        return output, total_loss([WeightedLoss(CrossEntropy(), 1.0)], output, labels)


@pytest.mark.parametrize("case", cases("pini_full"), ids=str)
def test_whole_method(case: GoldenCase) -> None:
    ours = Reproduction(case)
    output, loss = ours.forward()
    case.check("visual_features", ours.backbone.image.run(case.inputs["images"]))
    case.check("text_features", output.text_features)
    case.check("logits", output.logits)
    case.check("noisy_normalised", torch.nn.functional.normalize(output.image_features, dim=-1))
    loss.backward()
    torch.testing.assert_close(loss.detach(), case.outputs["loss"], rtol=case.rtol, atol=case.atol)
    for name, expected in case.gradients.items():
        found = ours.parameters[ours.our_name(name.removeprefix("loss/"))].grad
        torch.testing.assert_close(found.view_as(expected), expected, rtol=case.rtol, atol=case.atol)
    params = ours.model.injections["image"].noise.constrain(
        ours.model.injections["image"].injector(
            {
                "image_feature": ours.backbone.image.run(case.inputs["images"]),
                "noisy_text_feature": output.text_features,
            }
        )
    )
    case.check("mu", params["mean"])
    case.check("sigma", params["std"])


@pytest.mark.parametrize("case", cases("pini_full"), ids=str)
def test_one_optimiser_step(case: GoldenCase) -> None:
    ours = Reproduction(case)
    settings = case.hyper["optimizer"]
    optim = OptimConfig(
        name=settings["name"],
        lr=settings["lr"],
        momentum=settings["momentum"],
        weight_decay=settings["weight_decay"],
    )
    optimiser = make_optimiser(list(ours.model.injections.parameters()), optim)
    _, loss = ours.forward()
    loss.backward()
    optimiser.step()
    for name, expected in case.groups["after_step"].items():
        found = ours.parameters[ours.our_name(name)].detach().view_as(expected)
        torch.testing.assert_close(found, expected, rtol=case.rtol, atol=case.atol)
    _, loss = ours.forward()
    torch.testing.assert_close(loss.detach(), case.outputs["loss_after_step"], rtol=case.rtol, atol=case.atol)


@pytest.mark.parametrize("case", cases("pini_full"), ids=str)
def test_noised_template_embeddings(case: GoldenCase) -> None:
    ours = Reproduction(case)
    text = ours.model.injections["text"]
    embedding = ours.backbone.text.embed(ours.prompts)
    noisy = text(text.site.read(embedding), {}, ours.draw)
    case.check("prompts_template_part", noisy.value.expand(len(ours.prompts.texts), -1, -1))


@pytest.mark.parametrize("case", cases("pini_tokens"), ids=str)
def test_templates_of_the_data_sets(case: GoldenCase) -> None:
    tower = _tiny_clip().text
    for row, words in enumerate(case.hyper["templates"]):
        prompts = tower.tokenize(f"{PINI_CONTEXT}{words} {{}}.", [case.hyper["classname"]])
        assert torch.equal(prompts.tokens[0], case.outputs["tokens"][row].long())
        assert prompts.template_length == int(case.outputs["template_lens"][row])
        assert prompts.context_length == 16
