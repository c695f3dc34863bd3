"""Learned noise injected into a frozen CLIP; with its default arguments, PiNI as published."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pinikit.backbones.base import Backbone, Prompts
from pinikit.components.contracts import LOSS_BATCH, Classified, Draw, Footprint, Method, Predictor
from pinikit.config.build import create
from pinikit.config.schema import InjectionConfig, LossConfig, OptimConfig
from pinikit.errors import ConfigError, WeightsError, listing
from pinikit.training.context import RunContext
from pinikit.training.injection import Injection
from pinikit.training.loop import WeightedLoss, check_optimiser, train
from pinikit.training.model import NoisyModel
from pinikit.training.task import Task

PINI = {
    "text": {
        "site": "prompt_template",
        "injector": "free",
        "noise": {"name": "gaussian", "std": "sign_free"},
        "share": "batch",
    },
    "image": {
        "site": "image_feature",
        "injector": "cross_attention",
        "noise": {"name": "gaussian", "std": "abs"},
        "share": "image",
    },
}
"""The published method's two injections."""

CLASSIFY = {"classify": "cross_entropy"}
"""The published method's loss."""


class Pini(Method):
    """Train the parameters of noise injected at any number of sites of a frozen CLIP.

    Without ``injections`` this is PiNI: free Gaussian noise on the prompt template, shared by all
    classes, and Gaussian noise from cross-attention on each image feature, trained with cross-entropy
    and ``samples`` noise samples per image (Huang, Zhang, Li, "Enhance Vision-Language Alignment with
    Noise", AAAI 2025, arXiv 2412.10817; released code). Injections that are given replace both.
    """

    name = "pini"
    version = 1

    def __init__(
        self,
        injections: dict[str, InjectionConfig] = PINI,  # type: ignore[assignment]  # in YAML's shorthand
        losses: dict[str, LossConfig] = CLASSIFY,  # type: ignore[assignment]
        optim: OptimConfig = {},  # type: ignore[assignment]  # noqa: B006
        samples: int = 1,
    ) -> None:
        if samples < 1:
            raise ValueError(f"samples: found {samples}; allowed: 1 or more")
        self._injections, self._losses = injections, losses
        self._optim, self._samples = optim, samples

    def footprint(self, backbone: Backbone, prompts: Prompts) -> Footprint:
        """Builds the whole model once, untrained."""
        check_optimiser(self._optim)
        self._make_losses()
        model = self._make_model(backbone, prompts, seed=0)
        model.check_reach()
        shares = {i.share for i in self._injections.values()}
        if self._samples > 1 and "image" not in shares:
            raise ConfigError(
                f"run.method.samples: found {self._samples}, but no injection has share: image, so all "
                "samples of an image would be equal; allowed: 1"
            )
        return Footprint(model.earliest_change, _cost_class(model), _count(model))

    def fit(self, task: Task, run: RunContext) -> Predictor:
        """Train the injections with the configured optimiser; no selection on validation data."""
        model = self._make_model(task.backbone, task.prompts, run.seed)
        train(model, self._make_losses(), self._optim, self._samples, task, run)
        return _PiniPredictor(model)

    def restore(self, backbone: Backbone, prompts: Prompts, state: Mapping[str, Tensor]) -> Predictor:
        """The model with the checkpoint's injections."""
        model = self._make_model(backbone, prompts, seed=0)
        try:
            model.injections.load_state_dict(dict(state))
        except RuntimeError as error:
            raise WeightsError(f"the checkpoint does not fit its configuration: {error}") from error
        return _PiniPredictor(model)

    def _make_model(self, backbone: Backbone, prompts: Prompts, seed: int) -> NoisyModel:
        injections = [
            make_injection(label, config, backbone, prompts) for label, config in self._injections.items()
        ]
        return NoisyModel(backbone, prompts, injections, seed)

    def _make_losses(self) -> list[WeightedLoss]:
        if not self._losses:
            raise ConfigError("run.method.losses: found none; allowed: at least one")
        losses = []
        for label, config in self._losses.items():
            spec = {key: value for key, value in config.loss.items() if key != "weight"}
            loss = create("loss", spec, f"run.method.losses.{label}")
            if lacking := sorted(loss.requires - set(LOSS_BATCH)):
                raise ConfigError(
                    f"run.method.losses.{label}: requires {listing(lacking)}; there is {listing(LOSS_BATCH)}"
                )
            losses.append(WeightedLoss(loss, config.loss["weight"]))
        return losses


def make_injection(label: str, config: InjectionConfig, backbone: Backbone, prompts: Prompts) -> Injection:
    """An injection from its resolved configuration, bound to a backbone and prompts."""
    where = f"run.method.injections.{label}"
    site = create("site", config.site, f"{where}.site")
    try:
        bound = site.bind(backbone, prompts)
    except ConfigError as error:
        raise ConfigError(f"{where}.site: {error}") from error
    injector = create("injector", config.injector, f"{where}.injector")
    noise = create("noise", config.noise, f"{where}.noise")
    combine = create("combine", config.combine, f"{where}.combine")
    return Injection(label, bound, injector, noise, combine, config.share)


class _PiniPredictor(Predictor):
    stochastic = True

    def __init__(self, model: NoisyModel) -> None:
        self._model = model.eval()

    @property
    def requires(self) -> frozenset[str]:
        return self._model.requires

    def classifier(self, draw: Draw) -> Callable[[Mapping[str, Tensor]], Classified]:
        with torch.no_grad():
            text = self._model.text(draw)

        def classify(activations: Mapping[str, Tensor]) -> Classified:
            with torch.no_grad():
                output = self._model(activations, draw, text=text)
            return Classified(output.logits, output.ratios)

        return classify

    def state(self) -> dict[str, Tensor]:
        return dict(self._model.injections.state_dict())

    @property
    def trainable_parameters(self) -> int:
        return _count(self._model)


def _count(model: NoisyModel) -> int:
    return sum(parameter.numel() for parameter in model.injections.parameters())


def _cost_class(model: NoisyModel) -> str:
    """Which frozen towers each training step crosses, forward and backward."""
    if _count(model) == 0:
        return "nothing trained"
    towers = ["text tower"] if model.changes_prompts else []
    if model.earliest_change != "image_feature":
        towers.append(f"image tower from {model.earliest_change}")
    return " + ".join(towers) or "features only"
