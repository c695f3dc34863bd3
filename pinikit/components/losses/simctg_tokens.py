"""SimCTG's term on the tokens of the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from optuna.distributions import FloatDistribution
from torch import Tensor
from torch.nn.functional import relu

from pinikit.components.contracts import Loss
from pinikit.components.losses._terms import mean_where, other_rows, unit


class SimctgTokens(Loss):
    """Noisy tokens of the template should not be too much alike: mean relu(ρ − (1 − cos)) over pairs of them.

    To stand beside a classification loss, where noise is at the prompt embedding; the x's of PiNI's prompt
    are all the same token, and noise alone tells them apart (Su et al., "A Contrastive Framework for Neural
    Text Generation", NeurIPS 2022, arXiv 2202.06417; Su, Collier, TMLR 2023, arXiv 2210.14140).

    ρ is ``margin``.
    """

    name = "simctg_tokens"
    version = 1
    requires = frozenset({"prompt_tokens"})

    def __init__(self, margin: Annotated[float, FloatDistribution(0.1, 1.0)] = 0.5) -> None:
        if not 0 <= margin <= 2:
            raise ValueError(f"margin: found {margin}; allowed: 0 to 2")
        self._margin = margin

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over ordered pairs of tokens, a scalar, 0 or more."""
        tokens = batch["prompt_tokens"]
        return self.of_tokens(tokens, tokens.new_ones(tokens.shape[:2]).bool())

    def of_tokens(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The same of sequences [G, T, W] and which of their tokens count, [G, T]."""
        rows = unit(tokens)
        pairs = other_rows(tokens.shape[1], tokens) & valid.unsqueeze(1) & valid.unsqueeze(2)
        return mean_where(relu(self._margin - 1 + rows @ rows.mT), pairs)
