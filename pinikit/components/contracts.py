"""What a component of each kind must offer. A plug-in subclasses one of these and nothing else.

A component is constructed from its YAML keys only; shapes reach it later (``bind``, ``build``,
``parameter_shapes``). Randomness and context are always arguments, so a test can fix them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from pinikit.backbones.base import Backbone, PromptEmbedding, Prompts
from pinikit.components.initialise import Initialiser
from pinikit.errors import ConfigError, PinikitError

if TYPE_CHECKING:
    from pinikit.training.context import RunContext
    from pinikit.training.injection import Injection
    from pinikit.training.task import Task

Shape = tuple[int, ...]
Side = Literal["text", "image"]

# --- noise ----------------------------------------------------------------------------------------

Constraint = Literal["real", "sign_free", "abs", "softplus", "exp"]

_CONSTRAIN: Mapping[str, Callable[[Tensor], Tensor]] = {
    "real": lambda raw: raw,
    "sign_free": lambda raw: raw,
    "abs": torch.abs,
    "softplus": nn.functional.softplus,
    "exp": torch.exp,
}


class Noise(ABC):
    """A distribution family: named parameters and parameter-free base randomness give a sample."""

    version: ClassVar[int] = 1
    parameters: ClassVar[tuple[str, ...]] = ()
    """Names of the parameters that an injector must yield."""
    combines: ClassVar[frozenset[str] | None] = None
    """Names of the only ``combine`` under which it is what it says; None: any."""
    in_pairs: ClassVar[bool] = False
    """Whether rows 2i and 2i + 1 belong together, so that they must be samples of one picture."""

    def check_event(self, event: Event) -> None:  # noqa: B027 — most have nothing to refuse
        """Refuse a site's event that the noise makes no sense at; by default none.

        Raises:
            ConfigError: says what was found and what is allowed.
        """

    def parameter_shapes(self, event_shape: Shape) -> dict[str, Shape]:
        """Shape of each parameter for one event; by default the event's own."""
        return dict.fromkeys(self.parameters, event_shape)

    @property
    def constraints(self) -> Mapping[str, Constraint]:
        """How an injector's raw output becomes each parameter; ``real`` where nothing is said."""
        return {}

    def constrain(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters of the distribution from an injector's raw output."""
        return {name: _CONSTRAIN[self.constraints.get(name, "real")](value) for name, value in raw.items()}

    @abstractmethod
    def base(self, shape: Shape, generator: torch.Generator) -> Any:
        """Base randomness for samples of ``shape``, on the generator's device: a tensor or a mapping."""

    @abstractmethod
    def sample(self, params: Mapping[str, Tensor], base: Any) -> Tensor:
        """A sample, differentiable in the parameters; parameters and base broadcast."""

    @abstractmethod
    def mean(self, params: Mapping[str, Tensor]) -> Tensor:
        """The distribution's mean, broadcastable to the event."""


# --- combine --------------------------------------------------------------------------------------


class Combine(ABC):
    """How a sample meets the clean tensor. Zero noise must give the clean tensor back."""

    version: ClassVar[int] = 1

    @abstractmethod
    def __call__(self, clean: Tensor, noise: Tensor) -> Tensor:
        """The noisy tensor; both have the event's channels on the last axis and broadcast."""


# --- sites ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """The shape of what one draw covers, e.g. ``(20, 512)`` template tokens, and its channel axis."""

    shape: Shape
    channel_axis: int = -1

    @property
    def channels(self) -> int:
        """Width of the channel axis."""
        return self.shape[self.channel_axis]

    def spread(self, value: Tensor) -> Tensor:
        """[N, channels, ...] → the same with axes of 1 for the event's positions, ready to broadcast."""
        positions = len(self.shape) - 1
        at = 1 if self.channel_axis == -1 else 2
        return value.reshape(value.shape[:at] + (1,) * positions + value.shape[at:])


class BoundSite(ABC):
    """A site on a given backbone with given prompts."""

    side: ClassVar[Side]
    stage: str
    event: Event
    mask: Tensor | None = None
    """[C, positions] where positions differ by class; noise outside is dropped."""


class ImageSite(BoundSite):
    """A bound site of the image pipeline: reads from and writes to a stage's tensor [B, ...]."""

    side: ClassVar[Side] = "image"

    @abstractmethod
    def read(self, tensor: Tensor) -> Tensor:
        """The site's part of the stage, [B, *event.shape]."""

    @abstractmethod
    def write(self, tensor: Tensor, value: Tensor) -> Tensor:
        """The stage's tensor with the site's part replaced by ``value``."""


class PromptSite(BoundSite):
    """A bound site of the stage ``prompt_embedding``."""

    side: ClassVar[Side] = "text"

    @abstractmethod
    def read(self, embedding: PromptEmbedding) -> Tensor:
        """The site's tokens, [1 or C, positions, W]."""

    @abstractmethod
    def write(self, embedding: PromptEmbedding, value: Tensor, *, shared: bool) -> PromptEmbedding:
        """The embedding with the site's tokens replaced; ``shared``: the same noise for all classes."""


class TextFeatureSite(BoundSite):
    """The bound site of the stage ``text_feature``: the whole [C, D]."""

    side: ClassVar[Side] = "text"


class Site(ABC):
    """A stage of the backbone and the positions in it that receive noise."""

    version: ClassVar[int] = 1

    @abstractmethod
    def bind(self, backbone: Backbone, prompts: Prompts) -> BoundSite:
        """The site on this backbone with these prompts.

        Raises:
            ConfigError: the backbone lacks the stage, or the prompts lack the positions.
        """


# --- injectors ------------------------------------------------------------------------------------

CONTEXT: Mapping[str, str] = {
    "here": "the clean tensor at the site, [N, *event]",
    "image_feature": "clean global image features, [B, D]",
    "spatial_feature": "clean spatial features, [B, P, W]",
    "text_feature": "clean text features, [C, D]",
    "noisy_text_feature": "text features after the text side's injections, [C, D]",
}
"""What an injector may require."""

IMAGE_CONTEXT = frozenset({"image_feature", "spatial_feature"})


@dataclass(frozen=True)
class Surroundings:
    """Shapes that an injector is built for."""

    side: Side
    event: Event
    classes: int
    context: Mapping[str, Shape]
    """Shape of each context tensor, without its batch or class axis."""


class Injector(nn.Module, ABC):
    """Maps a context to the raw parameters of a noise."""

    version: ClassVar[int] = 1

    @property
    def requires(self) -> frozenset[str]:
        """Names from :data:`CONTEXT` that ``forward`` reads; only those are computed."""
        return frozenset()

    @abstractmethod
    def build(self, noise: Noise, around: Surroundings, initialise: Initialiser) -> None:
        """Create the modules and parameters for this noise and these shapes.

        Raises:
            ConfigError: the injector cannot work at such a site.
        """

    @abstractmethod
    def forward(self, context: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Raw parameters, each broadcastable to [N, *event]."""


# --- losses ---------------------------------------------------------------------------------------


class Loss(ABC):
    """A scalar of a batch."""

    version: ClassVar[int] = 1
    requires: ClassVar[frozenset[str]] = frozenset({"logits", "labels"})
    """Names from :data:`LOSS_BATCH` that it reads; only those are computed."""
    min_samples: ClassVar[int] = 1
    """How many noise samples of each picture it needs at least; fewer are refused before training."""

    @property
    def uniforms(self) -> int:
        """How many random numbers it wants for each row, where it requires ``uniform``."""
        return 0

    @abstractmethod
    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss, a scalar; works in float64."""


LOSS_BATCH: Mapping[str, str] = {
    "logits": "logit scale · cosine, [B·S, C]; the S noise samples of an image are neighbours",
    "labels": "[B·S]",
    "image_features": "noisy image features, not normalised, [B·S, D]",
    "text_features": "noisy text features, not normalised, [C, D]",
    "sample_logits": "logits by picture, [B, S, C]",
    "sample_features": "image_features by picture, [B, S, D]",
    "clean_logits": "logits of the frozen model without noise, [B·S, C]",
    "clean_image_features": "frozen features of the same views, not normalised, [B·S, D]",
    "clean_text_features": "frozen text features of the run's prompts, not normalised, [C, D]",
    "prompt_tokens": "noisy token embeddings of the template, without the start of text, [1 or C, T, W]",
    "uniform": "random numbers on [0, 1), this loss's own at each step, [B·S, its ``uniforms``]",
    "class_prior": "each class's share of the training pictures, [C]",
}
"""What a loss may require. Nothing that is clean, and no prior, has a gradient."""

LOSS_STAGES: Mapping[str, frozenset[str]] = {
    "clean_logits": frozenset({"image_feature"}),
    "clean_image_features": frozenset({"image_feature"}),
}
"""Image stages whose clean tensors an entry of the batch is made of."""


# --- methods --------------------------------------------------------------------------------------


class Draw(ABC):
    """One realisation of all base randomness, or none of it."""

    @abstractmethod
    def base(self, label: str, noise: Noise, shape: Shape) -> Any | None:
        """Base randomness for the injection ``label``; None means: use the noise's mean."""


class Predictor(ABC):
    """A fitted method: from clean activations to logits."""

    stochastic: bool
    """Whether draws change the logits."""

    @property
    @abstractmethod
    def requires(self) -> frozenset[str]:
        """Image stages whose clean tensors ``classifier`` needs."""

    @abstractmethod
    def classifier(self, draw: Draw) -> Callable[[Mapping[str, Tensor]], Classified]:
        """A function from activations of a batch to its logits, all under one draw."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Everything that was learned, for the checkpoint."""

    @property
    def injections(self) -> Mapping[str, Injection]:
        """Where noise enters, by label; a method without noise has none."""
        return {}

    @property
    def trainable_parameters(self) -> int:
        """How many numbers were learned."""
        return sum(tensor.numel() for tensor in self.state().values())


@dataclass(frozen=True)
class Classified:
    """A batch's logits [B, C] and, by injection label, each row's noise-to-feature ratio [B]."""

    logits: Tensor
    ratios: Mapping[str, Tensor]


@dataclass(frozen=True)
class Footprint:
    """What a method will cost on a backbone."""

    earliest_change: str
    """The first image stage that it alters: everything before may be banked."""
    cost_class: str
    trainable_parameters: int
    bytes_per_arm: int | None = None
    """About what one arm adds to the memory of a fused group; None where arms cannot be fused."""
    reads: frozenset[str] = frozenset({"image_feature"})
    """Image stages whose clean tensors are read, in training and evaluation."""
    epochs: int = 0
    """Passes over the train split; 0 if its pictures are not looked at."""
    trains_with: frozenset[str] = frozenset()
    """Image stages whose clean tensors are read in training only, beside ``reads``."""


class Method(ABC):
    """Turns a few-shot task into a predictor. It never sees the test split."""

    version: ClassVar[int] = 1

    @abstractmethod
    def footprint(self, backbone: Backbone, prompts: Prompts) -> Footprint:
        """What it will cost; everything that can be refused before training is refused here.

        Asked once for configurations that differ in floating-point numbers and seeds only; the constructor
        is where numbers are looked at.

        Raises:
            ConfigError: the method does not fit the backbone or the prompts.
        """

    def check_transfer(
        self, backbone: Backbone, prompts: Prompts, other: Prompts, *, same_classes: bool
    ) -> None:
        """Refuse, before training, prompts of other data that a predictor of it will be restored with.

        A method whose predictors are of use for classes that it was not trained on overrides this.

        Args:
            backbone: the run's.
            prompts: the run's.
            other: of the data that will be tested on.
            same_classes: whether the classes are the same, in the same order.

        Raises:
            ConfigError: says what is bound to the run's prompts.
        """
        if not same_classes:
            raise ConfigError(
                "the method is not known to be of use for other classes than it was trained on; "
                "allowed: data sets with the same classes"
            )

    @abstractmethod
    def fit(self, task: Task, run: RunContext) -> Predictor:
        """Learn from the task's train split (and its validation split, if the method selects)."""

    @classmethod
    def fit_together(
        cls, methods: Sequence[Method], tasks: Sequence[Task], runs: Sequence[RunContext]
    ) -> list[Predictor | PinikitError]:
        """Fit several arms as one computation; called where the footprint has ``bytes_per_arm``.

        The arms' configurations differ in floating-point numbers and seeds only. Each arm must come
        out as :meth:`fit` alone would have it, but for rounding.

        Returns:
            Each arm's predictor, or what stopped that arm.
        """
        raise NotImplementedError(f"{cls.__name__} has no fused arms")

    @classmethod
    def text_step(cls, predictors: Sequence[Predictor]) -> Callable[[], None] | None:
        """The text side of a training step of arms fitted together, forward and backward, to be timed.

        None where training steps do not cross the text tower. Calling it changes nothing that was learned.
        """
        return None

    @abstractmethod
    def restore(self, backbone: Backbone, prompts: Prompts, state: Mapping[str, Tensor]) -> Predictor:
        """The predictor that a checkpoint's state describes.

        Raises:
            WeightsError: the state does not fit.
        """
