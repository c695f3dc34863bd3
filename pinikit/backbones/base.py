"""What the rest of pinikit knows of a backbone: stages, prompts and the two towers.

A *stage* is a point of a pipeline where a tensor can be read or changed. Every stage between the
pixels and the features is presented as a token grid ``[B, N, W]``, also for convolutional towers
(their maps are flattened), so that noise and injectors see one layout.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pinikit.backbones.precision import cast_weights, weight_dtype

Edit = Callable[[Tensor], Tensor]
"""Takes the clean tensor of a stage and returns the tensor that goes on; the batch size is kept."""


@dataclass(frozen=True)
class StageInfo:
    """A stage's shape without the batch axis: ``(3, H, W)``, ``(N, W)`` or ``(D,)``."""

    name: str
    shape: tuple[int, ...]
    leading: int = 0
    """Leading special tokens (class token, registers), which are not positions of the picture."""


class ImageTower(ABC):
    """A frozen image encoder as a sequence of stages, from ``pixels`` to ``image_feature``.

    It computes in the number format of its weights. Tensors are cast to it where they enter, and
    everything that is handed out, to edits too, is at least float32.
    """

    stages: dict[str, StageInfo]
    """In the order in which the tower computes them."""

    resume_points: frozenset[str]
    """Stages from whose tensor the tower can go on; always has pixels and image_feature."""

    @abstractmethod
    def run(
        self,
        value: Tensor,
        *,
        start: str = "pixels",
        stop: str = "image_feature",
        edits: Mapping[str, Edit] | None = None,
    ) -> Tensor:
        """Go from ``value``, the clean tensor of ``start`` (a resume point), to the tensor of ``stop``.

        The edits of all stages from ``start`` to ``stop``, both included, are applied on the way.
        """

    @abstractmethod
    def read(self, pixels: Tensor, stages: Collection[str]) -> dict[str, Tensor]:
        """The clean tensors of several stages from one pass over ``pixels`` [B, 3, H, W]."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """One tokenised prompt per class. All of them share ``leading`` + ``template_length`` first tokens.

    Positions: ``leading`` special tokens (1 for OpenAI's start token), the template, the class name,
    the rest (a full stop, the end token), padding.
    """

    texts: tuple[str, ...]
    tokens: Tensor  # [C, L] int64
    leading: int
    template_length: int
    """Tokens of the template before the class name; 0 if a template begins with the class name."""
    context_length: int
    """How many of them are the ``x`` context words in front."""
    classname_lengths: tuple[int, ...]
    lengths: tuple[int, ...]
    """Tokens of each prompt up to its end token, which is included."""

    @property
    def prefix_length(self) -> int:
        """Tokens that all prompts share: special tokens and template."""
        return self.leading + self.template_length

    @property
    def suffix_lengths(self) -> tuple[int, ...]:
        """Tokens of each prompt behind the shared prefix, end token included."""
        return tuple(length - self.prefix_length for length in self.lengths)


@dataclass(frozen=True)
class PromptEmbedding:
    """The tokens of all prompts at a stage, in two parts, so that what classes share is computed once."""

    prefix: Tensor
    """[G, P, W] with G = 1 (shared by all classes) or C; P = ``prompts.prefix_length``."""
    suffix: Tensor
    """[C, S, W], padded to the longest suffix; positions behind a prompt's own length are ignored."""
    common: int = 0
    """Where G = C: how many leading prefix tokens are known to be equal for all classes."""

    @property
    def shared_length(self) -> int:
        """How many leading tokens are the same for all classes."""
        return self.prefix.shape[1] if self.prefix.shape[0] == 1 else self.common


PromptEdit = Callable[[PromptEmbedding], PromptEmbedding]
"""Takes the tokens of a text stage and returns those that go on; the classes and lengths are kept."""


class TextTower(ABC):
    """A frozen text encoder, from ``prompt_embedding`` to ``text_feature``."""

    stages: dict[str, StageInfo]
    """In the order in which the tower computes them, with ``text_block.k`` where blocks can be edited."""
    context_length: int
    width: int
    causal: bool
    tokens_encoded: int = 0
    """Tokens that went through the blocks so far, forward, by any of the paths."""

    @abstractmethod
    def tokenize(self, template: str, class_names: Collection[str]) -> Prompts:
        """Tokenise ``template`` (with one ``{}``) for every class.

        Raises:
            ConfigError: a prompt is longer than the context, or a class name is empty.
        """

    @abstractmethod
    def embed(self, prompts: Prompts) -> PromptEmbedding:
        """Token embeddings (no positions added) of the prompts, split at the shared prefix."""

    @abstractmethod
    def encode(
        self, prompts: Prompts, embedding: PromptEmbedding, edits: Mapping[str, PromptEdit] | None = None
    ) -> Tensor:
        """Text features [C, D], not normalised, at least float32, by the fastest exact path.

        Args:
            prompts: what :meth:`tokenize` gave.
            embedding: the tokens at ``prompt_embedding``, without positions.
            edits: by stage ``text_block.k``: what becomes of the tokens behind block k.

        Raises:
            ConfigError: the tower has no such stage.
            ValueError: tokens of other shapes than ``prompts`` has.
        """

    @abstractmethod
    def encode_plain(
        self, prompts: Prompts, embedding: PromptEmbedding, edits: Mapping[str, PromptEdit] | None = None
    ) -> Tensor:
        """The same by the published path: every prompt at the full context length. For tests."""

    def encode_arms(
        self,
        prompts: Prompts,
        embeddings: Sequence[PromptEmbedding],
        edits: Sequence[Mapping[str, PromptEdit]] | None = None,
    ) -> Tensor:
        """Text features [A, C, D]: what :meth:`encode` gives for each arm alone; in one pass where it can."""
        each = edits or [{}] * len(embeddings)
        arms = zip(embeddings, each, strict=True)
        return torch.stack([self.encode(prompts, embedding, changes) for embedding, changes in arms])

    def token_text(self, token: int) -> str:
        """A token, readable; its number where the tower knows no better."""
        return str(token)

    def unknown_tokens(self, prompts: Prompts) -> list[str]:
        """Readable tokens of the prompts that training never saw; empty where that is not known."""
        return []


@dataclass(frozen=True)
class Backbone:
    """A frozen dual encoder. Nothing of it requires a gradient; every module is in eval mode."""

    name: str
    model: torch.nn.Module
    image: ImageTower
    text: TextTower
    logit_scale: Tensor
    """exp of the model's parameter: multiplies the cosine. Scalar."""
    logit_bias: Tensor | None
    feature_width: int
    preprocess: Mapping[str, Any]
    """``image_size`` (H, W), ``mean``, ``std``, ``interpolation``, ``resize_mode``."""
    weights_hash: str
    notes: tuple[str, ...] = ()
    """Things worth telling the user, such as a QuickGELU mismatch."""

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Backbone:
        """This backbone on another device or with weights in another number format, changed in place.

        The logits' scale and bias stay at least float32.
        """
        if dtype is not None:
            cast_weights(self.model, dtype)
            dtype = torch.promote_types(dtype, torch.float32)
        bias = self.logit_bias
        return replace(
            self,
            model=self.model.to(device=device),
            logit_scale=self.logit_scale.to(device=device, dtype=dtype),
            logit_bias=None if bias is None else bias.to(device=device, dtype=dtype),
        )

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the frozen weights."""
        return weight_dtype(self.model)

    @property
    def stages(self) -> dict[str, StageInfo]:
        """All stages, text first."""
        return {**self.text.stages, **self.image.stages}
