"""The noisy dual encoder: a frozen backbone with injections, from clean activations to logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from pinikit.backbones.base import Backbone, PromptEmbedding, Prompts
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


@dataclass(frozen=True)
class Output:
    """A batch's noisy features and logits."""

    logits: Tensor  # [B·S, C]
    image_features: Tensor  # [B·S, D]
    text_features: Tensor  # [C, D]
    ratios: Mapping[str, Tensor]


class NoisyModel(nn.Module):
    """Frozen backbone, prompts and injections. Only the injections' parameters belong to the module."""

    def __init__(
        self, backbone: Backbone, prompts: Prompts, injections: Sequence[Injection], seed: int
    ) -> None:
        super().__init__()
        self.backbone, self.prompts = backbone, prompts
        self.injections = nn.ModuleDict({injection.label: injection for injection in injections})
        stages = list(backbone.image.stages)
        self._image = sorted(
            (i for i in injections if i.site.side == "image"), key=lambda i: stages.index(i.site.stage)
        )
        self._prompt = [i for i in injections if isinstance(i.site, PromptSite)]
        self._text_feature = [i for i in injections if i.site.stage == "text_feature"]
        self.start = self._resume_point(stages)
        self._embedding = backbone.text.embed(prompts)
        for injection in injections:
            self._check_context(injection)
            injection.build(self._surroundings(injection), seed)
        self.injections.to(backbone.logit_scale.device)

    @cached_property
    def clean_text(self) -> Tensor:
        """Clean text features [C, D], encoded at first use, under the same autocast as the noisy ones."""
        with torch.no_grad():
            return self.backbone.text.encode(self.prompts, self._embedding)

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

    def check_reach(self) -> None:
        """Refuse image sites whose noise cannot reach the image feature (a class-token tower's last block).

        Raises:
            ConfigError: names the injection.
        """
        shape = self.backbone.image.stages["pixels"].shape
        stream = generator(0, "check_reach")
        pixels = torch.randn(1, *shape, generator=stream).to(self._embedding.prefix)
        for injection in self._image:
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
        ratios: dict[str, Tensor] = {}
        context = {"text_feature": self.clean_text}
        features = self.clean_text
        if self._prompt:
            embedding = self._embedding
            for injection in self._prompt:
                embedding = self._noise_prompt(injection, embedding, context, draw, ratios)
            features = self.backbone.text.encode(self.prompts, embedding)
        for injection in self._text_feature:
            noisy = injection(features, context, draw)
            features, ratios[injection.label] = noisy.value, noisy.ratio
        return Text(features, ratios)

    def _noise_prompt(
        self,
        injection: Injection,
        embedding: PromptEmbedding,
        context: Mapping[str, Tensor],
        draw: Draw,
        ratios: dict[str, Tensor],
    ) -> PromptEmbedding:
        assert isinstance(injection.site, PromptSite)
        noisy = injection(injection.site.read(embedding), context, draw)
        ratios[injection.label] = noisy.ratio.expand(len(self.prompts.texts))
        return injection.site.write(embedding, noisy.value, shared=noisy.shared)

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
        text = text or self.text(draw)
        ratios = dict(text.ratios)
        activations = {name: tensor.repeat_interleave(samples, 0) for name, tensor in activations.items()}
        context = self._image_context(activations, text)
        edits = {}
        for stage in dict.fromkeys(injection.site.stage for injection in self._image):
            here = [injection for injection in self._image if injection.site.stage == stage]
            edits[stage] = partial(self._edit, here, context, draw, ratios)
        features = self.backbone.image.run(activations[self.start], start=self.start, edits=edits)
        return Output(self.logits(features, text.features), features, text.features, ratios)

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

        In float32 or better, also under autocast: at a scale of 100 bf16 would round differences away.
        """
        with torch.autocast(image.device.type, enabled=False):
            image, text = (functional.normalize(at_least_float32(side), dim=-1) for side in (image, text))
            logits = self.backbone.logit_scale * (image @ text.mT)
        return logits if self.backbone.logit_bias is None else logits + self.backbone.logit_bias
