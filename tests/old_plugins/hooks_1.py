"""A plug-in as one could be written for version 1 of the hook specifications. It must keep working: do not edit it.

It uses every hook with every argument, every kind of component with every method that must be there, and the
registry's methods, as they were then.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from PIL import Image

import pinikit
from pinikit.components.contracts import Classified, Event, Footprint, TextFeatureSite
from pinikit.data.catalogue import Catalogue, Item
from pinikit.errors import ConfigError

pinikit_hooks = 1
heard = []


@pinikit.hookimpl
def pinikit_register(registry):
    here = __name__
    registry.site("old_site", f"{here}:OldSite", doc="A site")
    registry.noise("old_noise", f"{here}:OldNoise", doc="A noise", synonyms=["older_noise"])
    registry.injector("old_injector", f"{here}:OldInjector", doc="An injector")
    registry.combine("old_combine", f"{here}:OldCombine", doc="A combine")
    registry.loss("old_loss", f"{here}:OldLoss", doc="A loss")
    registry.method("old_method", f"{here}:OldMethod", doc="A method")
    registry.add("dataset", "old_dataset", f"{here}:OldDataSet", doc="A data set", synonyms=())


@pinikit.hookimpl
def pinikit_study_started(study, folder, runs):
    heard.append(("study started", study, folder.name, runs))


@pinikit.hookimpl
def pinikit_run_started(run_id, arm, seed):
    heard.append(("run started", len(run_id), arm, seed))


@pinikit.hookimpl
def pinikit_run_finished(run_id, arm, seed, result):
    heard.append(("run finished", len(run_id), arm, seed, result["status"]))


@pinikit.hookimpl
def pinikit_report(study, folder):
    heard.append(("report", study, folder.name))


class OldSite(pinikit.Site):
    """The text features."""

    name = "old_site"
    version = 1

    def __init__(self) -> None:
        pass

    def bind(self, backbone, prompts):
        bound = TextFeatureSite()
        bound.stage = "text_feature"
        bound.event = Event((backbone.feature_width,), channel_axis=-1)
        return bound


class OldNoise(pinikit.Noise):
    """Gaussian."""

    name = "old_noise"
    version = 2
    parameters = ("mean", "std")

    def __init__(
        self,
        size: Annotated[float, FloatDistribution(0.1, 2.0, log=True)] = 1.0,
        std: Literal["abs", "softplus"] = "abs",
    ) -> None:
        if size <= 0:
            raise ValueError(f"size: found {size}; allowed: above 0")
        self._size, self._std = size, std

    def check_event(self, event):
        if event.channels < 2:
            raise ConfigError(f"shape: found {event.shape}; allowed: two numbers or more")

    def parameter_shapes(self, event_shape):
        return {"mean": event_shape, "std": event_shape}

    @property
    def constraints(self):
        return {"std": self._std}

    def base(self, shape, generator):
        return {"normal": torch.randn(shape, generator=generator, device=generator.device)}

    def sample(self, params, base):
        return params["mean"] + self._size * params["std"] * base["normal"]

    def mean(self, params):
        return params["mean"]


class OldInjector(pinikit.Injector):
    """One layer."""

    name = "old_injector"
    version = 1

    def __init__(self, scale: Annotated[float, CategoricalDistribution([0.1, 1.0])] = 0.1) -> None:
        super().__init__()
        self._scale = scale

    @property
    def requires(self):
        return frozenset({"here", "text_feature"})

    def build(self, noise, around, initialise):
        shapes = noise.parameter_shapes((around.event.channels,))
        self.layer = initialise.linear("layer", around.context["text_feature"][-1], around.event.channels)
        self.free = initialise.normal("free", (1, around.event.channels), 0.02)
        self.names = list(shapes)
        assert around.side in ("text", "image")
        assert around.classes > 1

    def forward(self, context):
        value = self._scale * self.layer(context["text_feature"]).mean(0) + self.free
        return {name: value.expand(len(context["here"]), -1) for name in self.names}


class OldCombine(pinikit.Combine):
    """The sum."""

    name = "old_combine"
    version = 1

    def __init__(self) -> None:
        pass

    def __call__(self, clean, noise):
        return clean + noise


class OldLoss(pinikit.Loss):
    """Cross-entropy and a little more."""

    name = "old_loss"
    version = 1
    requires = frozenset({"logits", "labels", "image_features", "text_features"})

    def __init__(self, penalty: float = 0.0) -> None:
        self._penalty = penalty

    def __call__(self, batch):
        sizes = batch["image_features"].square().mean() + batch["text_features"].square().mean()
        return torch.nn.functional.cross_entropy(batch["logits"], batch["labels"]) + self._penalty * sizes


class OldMethod(pinikit.Method):
    """The mean of each class's image features."""

    name = "old_method"
    version = 1

    def __init__(self, blend: float = 0.5) -> None:
        self._blend = blend

    def footprint(self, backbone, prompts):
        return Footprint("image_feature", "nothing trained", 0)

    def fit(self, task, run):
        features = task.train.activations({"image_feature"})["image_feature"]
        labels = task.train.labels
        means = torch.stack([features[labels == c].mean(0) for c in range(len(task.class_names))])
        run.progress(1, 1, loss=0.0)
        return OldPredictor(means, self._blend)

    def restore(self, backbone, prompts, state):
        return OldPredictor(state["means"], self._blend)


class OldPredictor(pinikit.Predictor):
    """Cosines to the means."""

    stochastic = False

    def __init__(self, means, blend):
        self._means, self._blend = means, blend

    @property
    def requires(self):
        return frozenset({"image_feature"})

    def classifier(self, draw):
        def classify(activations):
            rows = torch.nn.functional.normalize(activations["image_feature"], dim=-1)
            return Classified(20 * rows @ torch.nn.functional.normalize(self._means, dim=-1).mT, {})

        return classify

    def state(self):
        return {"means": self._means}


class OldDataSet(pinikit.DataSet):
    """Dark and bright squares."""

    name = "old_dataset"
    version = 1
    plain_template = "a {} square."
    pini_words = "a"
    flip = True
    crop_scale = (0.5, 1.0)
    crop_ratio = (1.0, 1.0)

    def __init__(self, size: int = 6) -> None:
        self.size = size

    def read(self):
        splits = {
            split: tuple(Item(f"{split}/{i}", i % 2) for i in range(self.size))
            for split in ("train", "val", "test")
        }
        return Catalogue(self.name, ("dark", "bright"), splits["train"], splits["val"], splits["test"])

    def open(self, item):
        shade = 40 + 150 * item.label + int(item.id.rpartition("/")[2])
        return Image.new("RGB", (16, 16), (shade, shade, shade))

    def check(self, items):
        assert all(item.label in (0, 1) for item in items)
