"""The noisy dual encoder: a frozen backbone with injections, from clean activations to logits."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from pinikit.backbones.base import Backbone, Edit, PromptEdit, PromptEmbedding, Prompts, TextTower
from pinikit.components.contracts import (
    CONTEXT,
    IMAGE_CONTEXT,
    Draw,
    ImageSite,
    PromptSite,
    Shape,
    Surroundings,
)
from pinikit.errors import ConfigError, listing
from pinikit.seeding import generator
from pinikit.training.injection import Injection
from pinikit.training.precision import at_least_float32


@dataclass(frozen=True)
class Text:
    """Text features [C, D] and the noise-to-feature ratio [C] of each text injection."""

    features: Tensor
    ratios: Mapping[str, Tensor]
    template: Tensor
    """The template's tokens at the prompt embedding, with their noise, [1 or C, T, W]."""


@dataclass(frozen=True)
class Output:
    """A batch's noisy features and logits."""

    logits: Tensor  # [B·S, C]
    image_features: Tensor  # [B·S, D]
    text_features: Tensor  # [C, D]
    ratios: Mapping[str, Tensor]
    samples: int = 1
    """S; the samples of a picture are neighbours."""
    template: Tensor | None = None
    """The template's noisy tokens, [1 or C, T, W]."""


_CLEAN: WeakKeyDictionary[TextTower, WeakKeyDictionary[Prompts, dict[Any, Tensor]]] = WeakKeyDictionary()
"""Clean text features by tower, prompts, number format and device."""


class NoisyModel(nn.Module):
    """Frozen backbone, prompts and injections. Only the injections' parameters belong to the module."""

    def __init__(
        self, backbone: Backbone, prompts: Prompts, injections: Sequence[Injection], seed: int | None
    ) -> None:
        """Build the injectors; without a seed their parameters have no values, but shapes."""
        super().__init__()
        self.backbone, self.prompts = backbone, prompts
        _check_labels(injection.label for injection in injections)
        self.injections = nn.ModuleDict({injection.label: injection for injection in injections})
        stages = list(backbone.image.stages)
        self._image = sorted(
            (i for i in injections if i.site.side == "image"), key=lambda i: stages.index(i.site.stage)
        )
        self._prompt = [i for i in injections if isinstance(i.site, PromptSite)]
        self._text_stages = dict.fromkeys(i.site.stage for i in self._prompt)
        self._text_feature = [i for i in injections if i.site.stage == "text_feature"]
        self.start = self._resume_point(stages)
        self._embedding = backbone.text.embed(prompts)
        for injection in injections:
            self._check_context(injection)
            injection.build(self._surroundings(injection), seed)
        self.injections.to(backbone.logit_scale.device)

    @cached_property
    def clean_text(self) -> Tensor:
        """Clean text features [C, D]; encoded at first use, once for all models with these prompts."""
        text, like = self.backbone.text, self.backbone.logit_scale
        known = _CLEAN.setdefault(text, WeakKeyDictionary()).setdefault(self.prompts, {})
        key = (self.backbone.dtype, like.device)
        if key not in known:
            with torch.no_grad():
                known[key] = text.encode(self.prompts, self._embedding)
        return known[key]

    def template(self, embedding: PromptEmbedding | None = None) -> Tensor:
        """The template's tokens [1 or C, T, W] of an embedding, the clean one by default."""
        return (embedding or self._embedding).prefix[:, self.prompts.leading :]

    # --- what it needs ----------------------------------------------------------------------

    @property
    def earliest_change(self) -> str:
        """The first image stage that an injection alters; ``image_feature`` if none does."""
        return self._image[0].site.stage if self._image else "image_feature"

    @property
    def changes_text(self) -> bool:
        """Whether text features differ from the clean ones."""
        return bool(self._prompt or self._text_feature)

    @property
    def changes_prompts(self) -> bool:
        """Whether the text tower runs, forward and backward, at every step."""
        return bool(self._prompt)

    @property
    def requires(self) -> frozenset[str]:
        """Image stages whose clean tensors ``forward`` reads."""
        read = frozenset().union(*(i.requires for i in self._image))
        return (read & IMAGE_CONTEXT) | {self.start}

    def step_bytes(self, rows: int) -> int:
        """About the bytes that training with ``rows`` image rows in a batch takes beside the backbone.

        What crosses the towers (a transformer block keeps about 16 numbers for each of its input), what the
        injectors read, and their parameters with gradients and two moments.
        """
        image, numbers = self.backbone.image.stages, 0
        numbers += rows * sum(math.prod(image[stage].shape) for stage in self.requires) // 2
        numbers += sum(parameter.numel() for parameter in self.injections.parameters()) // 4
        if self._image:
            stages = list(image)
            crossed = stages[stages.index(self.earliest_change) :]
            numbers += rows * sum(math.prod(image[stage].shape) for stage in crossed)
        if self._prompt:
            text = self.backbone.text
            tokens = self.prompts.prefix_length + sum(self.prompts.suffix_lengths)
            blocks = sum(stage.startswith("text_block.") for stage in text.stages)
            numbers += tokens * text.width * max(blocks, 1)
        return 16 * 4 * numbers

    def _resume_point(self, stages: list[str]) -> str:
        """The latest stage at or before the first altered one from which the tower can go on."""
        upto = stages[: stages.index(self.earliest_change) + 1]
        return next(stage for stage in reversed(upto) if stage in self.backbone.image.resume_points)

    def _check_context(self, injection: Injection) -> None:
        allowed = {"here", "text_feature"} | (set(CONTEXT) if injection.site.side == "image" else set())
        if lacking := sorted(injection.requires - allowed):
            raise ConfigError(
                f"injection {injection.label!r}: its injector reads {listing(lacking)}, which the site "
                f"{injection.site.stage!r} does not have; it has {listing(sorted(allowed))}"
            )

    def _surroundings(self, injection: Injection) -> Surroundings:
        spatial = self.backbone.image.stages.get("spatial_feature")
        context: dict[str, Shape] = {
            "here": injection.site.event.shape,
            "image_feature": (self.backbone.feature_width,),
            "text_feature": (self.backbone.feature_width,),
            "noisy_text_feature": (self.backbone.feature_width,),
        }
        if spatial is not None:
            context["spatial_feature"] = (spatial.shape[0] - spatial.leading, spatial.shape[1])
        elif "spatial_feature" in injection.requires:
            raise ConfigError(
                f"injection {injection.label!r}: backbone {self.backbone.name!r} has no spatial_feature; "
                f"its image stages: {listing(self.backbone.image.stages)}"
            )
        return Surroundings(injection.site.side, injection.site.event, len(self.prompts.texts), context)

    def check_reach(self, labels: Collection[str] | None = None) -> None:
        """Refuse image sites whose noise cannot reach the image feature (a class-token tower's last block).

        Args:
            labels: of the injections that are looked at; None for all.

        Raises:
            ConfigError: names the injection.
        """
        shape = self.backbone.image.stages["pixels"].shape
        stream = generator(0, "check_reach")
        pixels = torch.randn(1, *shape, generator=stream).to(self._embedding.prefix)
        for injection in (item for item in self._image if labels is None or item.label in labels):
            site = injection.site
            assert isinstance(site, ImageSite)
            probe = torch.zeros(
                (1, *site.event.shape), device=pixels.device, dtype=pixels.dtype, requires_grad=True
            )

            def edit(tensor: Tensor, site: ImageSite = site, probe: Tensor = probe) -> Tensor:
                return site.write(tensor, site.read(tensor) + probe)

            feature = self.backbone.image.run(pixels, edits={site.stage: edit})
            direction = torch.randn(feature.shape, generator=stream).to(feature)
            (gradient,) = torch.autograd.grad(feature, probe, direction, allow_unused=True)
            if gradient is None or not gradient.any():
                raise ConfigError(
                    f"run.method.injections.{injection.label}.site: noise at {site.stage!r} does "
                    f"not reach the image feature of backbone {self.backbone.name!r}, whose class token no "
                    "longer sees it; allowed: an earlier block, spatial_feature, image_feature"
                )

    # --- forward ----------------------------------------------------------------------------

    def text(self, draw: Draw) -> Text:
        """Noisy text features under one draw."""
        return noisy_texts([self], [draw])[0]

    def forward(
        self, activations: Mapping[str, Tensor], draw: Draw, *, text: Text | None = None, samples: int = 1
    ) -> Output:
        """Logits of a batch.

        Args:
            activations: the clean tensors of the stages in ``requires``, [B, ...].
            draw: the base randomness.
            text: text features computed before under the same draw.
            samples: S, noise samples per image; rows are image-major.
        """
        return noisy_outputs([self], [activations], [draw], [text or self.text(draw)], samples)[0]

    def noisy_prompt(
        self, draw: Draw, ratios: dict[str, Tensor]
    ) -> tuple[PromptEmbedding, dict[str, PromptEdit]]:
        """The noisy prompt embedding, and what the injections do at later stages of the text tower."""
        edits: dict[str, PromptEdit] = {
            stage: partial(self._edit_prompt, stage, draw, ratios) for stage in self._text_stages
        }
        start = edits.pop("prompt_embedding", None)
        return start(self._embedding) if start else self._embedding, edits

    def _edit_prompt(
        self, stage: str, draw: Draw, ratios: dict[str, Tensor], embedding: PromptEmbedding
    ) -> PromptEmbedding:
        for injection in self._prompt:
            if injection.site.stage == stage:
                assert isinstance(injection.site, PromptSite)
                clean = injection.site.read(embedding)
                noisy = injection(clean, {"text_feature": self.clean_text}, draw)
                ratios[injection.label] = noisy.ratio.expand(len(self.prompts.texts))
                embedding = injection.site.write(embedding, noisy.value, shared=noisy.shared)
        return embedding

    def noisy_text_feature(
        self, features: Tensor, draw: Draw, ratios: dict[str, Tensor], template: Tensor
    ) -> Text:
        """What the injections at the text feature make of ``features`` [C, D]."""
        for injection in self._text_feature:
            noisy = injection(features, {"text_feature": self.clean_text}, draw)
            features, ratios[injection.label] = noisy.value, noisy.ratio
        return Text(features, ratios, template)

    def image_edits(
        self, activations: Mapping[str, Tensor], text: Text, draw: Draw, ratios: dict[str, Tensor]
    ) -> dict[str, Edit]:
        """What the injections do at the stages of the image tower."""
        context = self._image_context(activations, text)
        edits: dict[str, Edit] = {}
        for stage in dict.fromkeys(injection.site.stage for injection in self._image):
            here = [injection for injection in self._image if injection.site.stage == stage]
            edits[stage] = partial(self._edit, here, context, draw, ratios)
        return edits

    def _image_context(self, activations: Mapping[str, Tensor], text: Text) -> dict[str, Tensor]:
        context = {name: activations[name] for name in IMAGE_CONTEXT & set(activations)}
        if "spatial_feature" in context:
            leading = self.backbone.image.stages["spatial_feature"].leading
            context["spatial_feature"] = context["spatial_feature"][:, leading:]
        return {**context, "text_feature": self.clean_text, "noisy_text_feature": text.features}

    def _edit(
        self,
        injections: Sequence[Injection],
        context: Mapping[str, Tensor],
        draw: Draw,
        ratios: dict[str, Tensor],
        tensor: Tensor,
    ) -> Tensor:
        for injection in injections:
            assert isinstance(injection.site, ImageSite)
            noisy = injection(injection.site.read(tensor), context, draw)
            ratios[injection.label] = noisy.ratio
            tensor = injection.site.write(tensor, noisy.value)
        return tensor

    def logits(self, image: Tensor, text: Tensor) -> Tensor:
        """Logit scale times cosine, plus the bias of a model that has one, [B, C].

        In float32 or better: at a scale of 100 bf16 would round differences away.
        """
        image, text = (functional.normalize(at_least_float32(side), dim=-1) for side in (image, text))
        logits = self.backbone.logit_scale * (image @ text.mT)
        return logits if self.backbone.logit_bias is None else logits + self.backbone.logit_bias


def _check_labels(labels: Iterable[str]) -> None:
    """Refuse labels that torch's containers use for themselves."""
    for label in labels:
        if hasattr(nn.ModuleDict(), label):
            raise ConfigError(f"run.method.injections: found the label {label!r}, which torch uses itself")


def noisy_texts(models: Sequence[NoisyModel], draws: Sequence[Draw]) -> list[Text]:
    """Noisy text features of several arms, the text tower crossed once for all.

    The models have the same backbone, prompts and text stages; each has its own injections and draw.
    """
    first = models[0]
    ratios: list[dict[str, Tensor]] = [{} for _ in models]
    if first.changes_prompts:
        noisy = [
            model.noisy_prompt(draw, seen) for model, draw, seen in zip(models, draws, ratios, strict=True)
        ]
        features = first.backbone.text.encode_arms(
            first.prompts, [embedding for embedding, _ in noisy], [edits for _, edits in noisy]
        )
        rows = list(features.unbind(0))
        templates = [first.template(embedding) for embedding, _ in noisy]
    else:
        rows = [model.clean_text for model in models]
        templates = [model.template() for model in models]
    return [
        model.noisy_text_feature(features, draw, seen, template)
        for model, features, draw, seen, template in zip(models, rows, draws, ratios, templates, strict=True)
    ]


def noisy_outputs(
    models: Sequence[NoisyModel],
    activations: Sequence[Mapping[str, Tensor]],
    draws: Sequence[Draw],
    texts: Sequence[Text],
    samples: int = 1,
) -> list[Output]:
    """Outputs of several arms with a batch each, the image tower crossed once for all; see ``forward``.

    The models have the same backbone and image stages.
    """
    first = models[0]
    ratios = [dict(text.ratios) for text in texts]
    batches = [
        {stage: tensor.repeat_interleave(samples, 0) for stage, tensor in batch.items()}
        for batch in activations
    ]
    edits = [
        model.image_edits(batch, text, draw, seen)
        for model, batch, text, draw, seen in zip(models, batches, texts, draws, ratios, strict=True)
    ]
    starts = [batch[first.start] for batch in batches]
    sizes = [len(start) for start in starts]
    features = first.backbone.image.run(
        _joined(starts),
        start=first.start,
        edits={stage: partial(_each_arm, [edit[stage] for edit in edits], sizes) for stage in edits[0]},
    )
    rows = features.split(sizes)
    return [
        Output(model.logits(image, text.features), image, text.features, ratio, samples, text.template)
        for model, image, text, ratio in zip(models, rows, texts, ratios, strict=True)
    ]


def _each_arm(edits: Sequence[Edit], sizes: Sequence[int], tensor: Tensor) -> Tensor:
    """Each arm's edit on its own rows."""
    rows = tensor.split(sizes)
    return _joined([edit(row) for edit, row in zip(edits, rows, strict=True)])


def _joined(rows: Sequence[Tensor]) -> Tensor:
    """The rows of all arms one behind the other; one arm's without a copy."""
    return rows[0] if len(rows) == 1 else torch.cat(list(rows))
