"""PiNI as its released code runs it, on open_clip alone: the slow twin of the comparison.

Every step sends the pictures through the frozen image tower (forward) and all classes, each padded to
the full context of 77 tokens, through the frozen text tower (forward and backward), in float32. Source:
Huang, Zhang, Li, "Enhance Vision-Language Alignment with Noise", AAAI 2025, and its code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Generators(nn.Module):
    """All that is trained: free text noise, and the image noise's attention and two heads."""

    def __init__(self, template_length: int, text_width: int, width: int) -> None:
        super().__init__()
        self.text_mean = nn.Parameter(0.02 * torch.randn(1, template_length, text_width))
        self.text_std = nn.Parameter(0.02 * torch.randn(1, template_length, text_width))
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.image_mean, self.image_std = (nn.Linear(width, width) for _ in range(2))


@dataclass(frozen=True)
class Draws:
    """Standard normal numbers: one draw of text noise [1, L, W], image noise [B, D]."""

    text: Tensor
    image: Tensor


@dataclass(frozen=True)
class Outcome:
    """What a step computed; the gradients stand in the generators."""

    text_features: Tensor  # [C, D]
    image_features: Tensor  # noisy, [B, D]
    loss: Tensor


class NaivePini:
    """A frozen open_clip ``CLIP`` with PiNI's two noise generators.

    Args:
        clip: the model, in float32; its parameters are frozen.
        tokenizer: open_clip's tokenizer for it.
        words: the template in front of the class name.
        class_names: one per class.
    """

    def __init__(self, clip: Any, tokenizer: Any, words: str, class_names: Sequence[str]) -> None:
        self.clip = clip.eval().requires_grad_(False)
        device = clip.positional_embedding.device
        names = [name.replace("_", " ") for name in class_names]
        self.tokens = tokenizer([f"{words} {name}." for name in names]).to(device)  # [C, 77]
        self.template_length = len(tokenizer.encode(words))
        text_width, width = clip.text_projection.shape
        self.generators = Generators(self.template_length, text_width, width).to(device)
        self.optimiser = torch.optim.SGD(
            self.generators.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4
        )

    def step(self, pixels: Tensor, labels: Tensor, draws: Draws) -> Outcome:
        """One training step on pictures [B, 3, H, W] but for :meth:`update`."""
        text = self.encode_text(draws.text)
        outcome = self._classify(pixels, labels, draws, text)
        outcome.loss.backward()
        return outcome

    def step_in_chunks(
        self, pixels: Tensor, labels: Tensor, draws: Draws, text: Tensor, size: int
    ) -> Outcome:
        """The work of :meth:`step` with the graph of only ``size`` classes in memory at a time.

        The classes meet in the softmax, so the text features must be known before the first chunk.
        They are given (:meth:`text_without_graph`); so nothing is computed more often than in a step.

        Args:
            text: the text features [C, D] under ``draws``.
        """
        text = text.detach().requires_grad_()
        outcome = self._classify(pixels, labels, draws, text)
        outcome.loss.backward()
        assert text.grad is not None
        for rows in self._chunks(size):
            self.encode_text(draws.text, rows).backward(text.grad[rows])
        return outcome

    def update(self) -> None:
        """PiNI's optimiser step."""
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    @torch.no_grad()
    def text_without_graph(self, draw: Tensor, size: int) -> Tensor:
        """Text features [C, D], chunk by chunk."""
        return torch.cat([self.encode_text(draw, rows) for rows in self._chunks(size)])

    def encode_text(self, draw: Tensor, rows: slice = slice(None)) -> Tensor:
        """Noisy text features [C, D] of the classes in ``rows``."""
        clip, tokens, end = self.clip, self.tokens[rows], 1 + self.template_length
        clean = clip.token_embedding(tokens)  # [C, 77, W]
        template = clean[:, 1:end] + self.generators.text_mean + self.generators.text_std * draw
        prompts = torch.cat([clean[:, :1], template, clean[:, end:]], dim=1)
        hidden = clip.transformer(prompts + clip.positional_embedding, attn_mask=clip.attn_mask)
        hidden = clip.ln_final(hidden)
        classes = torch.arange(len(tokens), device=tokens.device)
        return hidden[classes, tokens.argmax(dim=-1)] @ clip.text_projection

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> Tensor:
        """Clean image features [B, D]."""
        feature: Tensor = self.clip.encode_image(pixels)
        return feature

    def _classify(self, pixels: Tensor, labels: Tensor, draws: Draws, text: Tensor) -> Outcome:
        clean, made = self.encode_image(pixels), self.generators
        attention = (made.query(clean) @ made.key(text).T).softmax(dim=-1)  # [B, C]
        hidden = attention @ made.value(text)
        noisy = clean + made.image_mean(hidden) + made.image_std(hidden).abs() * draws.image
        cosine = functional.normalize(noisy, dim=-1) @ functional.normalize(text, dim=-1).T
        loss = functional.cross_entropy(self.clip.logit_scale.exp() * cosine, labels)
        return Outcome(text, noisy, loss)

    def _chunks(self, size: int) -> Iterator[slice]:
        return (slice(first, first + size) for first in range(0, len(self.tokens), size))
