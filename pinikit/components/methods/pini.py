"""Learned noise injected into a frozen CLIP; with its default arguments, PiNI as published."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated
from weakref import WeakKeyDictionary

import torch
from optuna.distributions import CategoricalDistribution
from torch import Tensor

from pinikit.backbones.base import Backbone, Prompts
from pinikit.components.contracts import (
    LOSS_BATCH,
    BoundSite,
    Classified,
    Draw,
    Footprint,
    Method,
    Noise,
    Predictor,
)
from pinikit.config.build import completed, create
from pinikit.config.schema import InjectionConfig, LossConfig, OptimConfig
from pinikit.data.files import canonical_json
from pinikit.errors import ConfigError, PinikitError, WeightsError, listing
from pinikit.training.context import RunContext
from pinikit.training.draws import RandomDraw
from pinikit.training.injection import Injection
from pinikit.training.loop import Trainee, WeightedLoss, check_optimiser, train
from pinikit.training.loss_batch import stages_of
from pinikit.training.model import NoisyModel, noisy_texts
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

_REACHING: WeakKeyDictionary[torch.nn.Module, set[str]] = WeakKeyDictionary()
"""Sites, as configured, whose noise reaches the features, by a backbone's model."""

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
        losses: dict[str, LossConfig] = CLASSIFY,  # type: ignore[assignment]  # so is this
        optim: OptimConfig = {},  # type: ignore[assignment]  # noqa: B006 — and this, which is only read
        samples: Annotated[int, CategoricalDistribution([1, 2, 4])] = 1,
    ) -> None:
        if samples < 1:
            raise ValueError(f"samples: found {samples}; allowed: 1 or more")
        self._injections = completed(injections, dict[str, InjectionConfig], "injections")
        self._losses = completed(losses, dict[str, LossConfig], "losses")
        self._optim, self._samples = completed(optim, OptimConfig, "optim"), samples

    def footprint(self, backbone: Backbone, prompts: Prompts) -> Footprint:
        """Builds the whole model once, without initial values."""
        check_optimiser(self._optim)
        losses = self._make_losses()
        model = self._make_model(backbone, prompts, seed=None)
        self._check_reach(model)
        shares = {i.share for i in self._injections.values()}
        if self._samples > 1 and "image" not in shares:
            raise ConfigError(
                f"run.method.samples: found {self._samples}, but no injection has share: image, so all "
                "samples of an image would be equal; allowed: 1"
            )
        self._check_pairs(model)
        _check_dependence(losses, model)
        rows = self._optim.batch_size * self._samples
        return Footprint(
            model.earliest_change,
            _cost_class(model),
            _count(model),
            model.step_bytes(rows),
            model.requires,
            self._optim.epochs if _count(model) else 0,
            stages_of(item.loss for item in losses) - model.requires,
        )

    def _check_reach(self, model: NoisyModel) -> None:
        """Refuse sites from which noise does not get through; each is tried once on a backbone."""
        known = _REACHING.setdefault(model.backbone.model, set())
        sites = {label: canonical_json(config.site) for label, config in self._injections.items()}
        model.check_reach([label for label, site in sites.items() if site not in known])
        known.update(sites.values())

    def _check_pairs(self, model: NoisyModel) -> None:
        """Noise in pairs of rows needs both of a pair to be samples of one picture."""
        for item in model.injections.values():
            if not (isinstance(item, Injection) and item.noise.in_pairs):
                continue
            if item.share != "image" or self._samples % 2:
                raise ConfigError(
                    f"run.method.injections.{item.label}.noise: comes in pairs, which must be samples of one "
                    f"picture; found share: {item.share}, samples: {self._samples}; "
                    "allowed: share: image with an even number of samples"
                )

    def check_transfer(
        self, backbone: Backbone, prompts: Prompts, other: Prompts, *, same_classes: bool
    ) -> None:
        """Refuse what an injection learns for each class of its own, or for tokens that there are no more."""
        if other is prompts:
            return
        learned, needed = self._shapes(backbone, prompts), self._shapes(backbone, other)
        with_one_more = learned if same_classes else self._shapes(backbone, _with_one_class_more(prompts))
        for (label, name), shape in learned.items():
            if with_one_more[label, name] != shape:
                raise ConfigError(
                    f"run.method.injections.{label} learns something for each class of its own, and the "
                    "classes are others; allowed: data with the same classes, or another injector"
                )
            if needed[label, name] != shape:
                raise ConfigError(
                    f"run.method.injections.{label} learns {name.removeprefix('injector.')} of shape {shape} "
                    f"with {prompts.texts[0]!r}, and would learn {needed[label, name]} with "
                    f"{other.texts[0]!r}; allowed: prompts with as many tokens there, such as one text for "
                    "all data as run.prompt.template"
                )

    def _shapes(self, backbone: Backbone, prompts: Prompts) -> dict[tuple[str, str], tuple[int, ...]]:
        """Shapes of what is learned with these prompts, by injection and name."""
        injections = self._make_model(backbone, prompts, seed=0).injections
        return {
            (label, name): tuple(value.shape)
            for label, injection in injections.items()
            for name, value in injection.state_dict().items()
        }

    def fit(self, task: Task, run: RunContext) -> Predictor:
        """Train the injections with the configured optimiser; no selection on validation data."""
        (outcome,) = self.fit_together([self], [task], [run])
        if isinstance(outcome, PinikitError):
            raise outcome
        return outcome

    @classmethod
    def fit_together(
        cls, methods: Sequence[Method], tasks: Sequence[Task], runs: Sequence[RunContext]
    ) -> list[Predictor | PinikitError]:
        """Cross the frozen towers once for all arms."""
        members = [method for method in methods if isinstance(method, Pini)]
        trainees = [
            Trainee(
                method._make_model(task.backbone, task.prompts, run.seed),
                method._make_losses(),
                method._optim,
                task,
                run,
                _PiniPredictor,
            )
            for method, task, run in zip(members, tasks, runs, strict=True)
        ]
        failures = train(trainees, members[0]._samples)
        return [
            failure or _PiniPredictor(trainee.model)
            for failure, trainee in zip(failures, trainees, strict=True)
        ]

    @classmethod
    def text_step(cls, predictors: Sequence[Predictor]) -> Callable[[], None] | None:
        """Noisy text features of all arms, and their gradients."""
        models = [predictor._model for predictor in predictors if isinstance(predictor, _PiniPredictor)]
        if not models or not models[0].changes_prompts:
            return None
        parameters = [parameter for model in models for parameter in model.injections.parameters()]
        if not parameters:
            return None
        draws = [RandomDraw(0, "text_step", device=model.backbone.logit_scale.device) for model in models]

        def step() -> None:
            total = torch.stack([text.features.sum() for text in noisy_texts(models, draws)]).sum()
            if total.requires_grad:
                total.backward()  # autograd.grad does not get on with the counter of operations
            for parameter in parameters:
                parameter.grad = None

        return step

    def restore(self, backbone: Backbone, prompts: Prompts, state: Mapping[str, Tensor]) -> Predictor:
        """The model with the checkpoint's injections."""
        model = self._make_model(backbone, prompts, seed=0)
        try:
            model.injections.load_state_dict(dict(state))
        except RuntimeError as error:
            raise WeightsError(f"the checkpoint does not fit its configuration: {error}") from error
        return _PiniPredictor(model)

    def _make_model(self, backbone: Backbone, prompts: Prompts, seed: int | None) -> NoisyModel:
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
            if self._samples < loss.min_samples:
                raise ConfigError(
                    f"run.method.losses.{label}: {spec['name']!r} compares noise samples of a picture; found "
                    f"run.method.samples: {self._samples}; allowed with it: {loss.min_samples} or more"
                )
            losses.append(WeightedLoss(loss, config.loss["weight"], label))
        return losses


def _with_one_class_more(prompts: Prompts) -> Prompts:
    """The same prompts and the first of them once more, so that nothing but the number of classes differs."""
    return replace(
        prompts,
        texts=(*prompts.texts, prompts.texts[0]),
        tokens=torch.cat([prompts.tokens, prompts.tokens[:1]]),
        classname_lengths=(*prompts.classname_lengths, prompts.classname_lengths[0]),
        lengths=(*prompts.lengths, prompts.lengths[0]),
    )


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
    _check_noise(noise, bound, config, where)
    combine = create("combine", config.combine, f"{where}.combine")
    return Injection(label, bound, injector, noise, combine, config.share)


def _check_noise(noise: Noise, bound: BoundSite, config: InjectionConfig, where: str) -> None:
    """Refuse a noise at a site, or met in a way, where it is not what it says."""
    found = config.combine["name"]
    if noise.combines is not None and found not in noise.combines:
        raise ConfigError(
            f"{where}.combine: found {found!r}, under which noise {config.noise['name']!r} is not what it "
            f"says; allowed with it: {listing(sorted(noise.combines))}"
        )
    try:
        noise.check_event(bound.event)
    except ConfigError as error:
        raise ConfigError(f"{where}.noise.{error}") from error


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
    def injections(self) -> Mapping[str, Injection]:
        found = self._model.injections.values()
        return {item.label: item for item in found if isinstance(item, Injection)}

    @property
    def trainable_parameters(self) -> int:
        return _count(self._model)


def _check_dependence(losses: Sequence[WeightedLoss], model: NoisyModel) -> None:
    """Refuse losses none of which can teach the injections anything."""
    trained = [
        item.site
        for item in model.injections.values()
        if isinstance(item, Injection) and list(item.parameters())
    ]
    sides = {site.side for site in trained}
    moved = {f"{side}_features" for side in sides} | {"logits", "sample_logits"}
    moved |= {"sample_features"} if "image" in sides else set()
    moved |= {"prompt_tokens"} if any(site.stage == "prompt_embedding" for site in trained) else set()
    if sides and not any(item.loss.requires & moved for item in losses):
        read = frozenset[str]().union(*(item.loss.requires for item in losses)) - {"labels"}
        raise ConfigError(
            f"run.method.losses: found losses of {listing(sorted(read))} only, which no injection changes; "
            f"allowed: at least one of {listing(sorted(moved))}"
        )


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
