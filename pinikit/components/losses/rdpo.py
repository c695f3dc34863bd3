"""Re-Align's preference loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from optuna.distributions import FloatDistribution
from torch import Tensor
from torch.nn.functional import softplus

from pinikit.components.bounds import check_above_zero
from pinikit.components.contracts import Loss
from pinikit.components.losses._terms import nearest_of_another_class, own_class


class Rdpo(Loss):
    """The true class should gain more on the frozen model than a wrong class, and than on a wrong picture.

    softplus(−β (Δ_chosen − Δ_rejected)) + softplus(−β (Δ_chosen − Δ_elsewhere)), Δ = log p noisy − log p
    frozen: of the true class; of the wrong one that is most probable; and of the true class on the most
    similar picture of another class in the batch. Where there is no such class or picture, its term is left
    out. ``reference_free`` takes the frozen model as indifferent (rDPO; Xing et al., "Re-Align", 2025,
    arXiv 2502.13146).
    """

    name = "rdpo"
    version = 1
    requires = frozenset({"logits", "labels", "clean_logits", "clean_image_features"})

    def __init__(
        self,
        beta: Annotated[float, FloatDistribution(0.01, 10.0, log=True)] = 0.1,
        reference_free: bool = False,
    ) -> None:
        check_above_zero(beta=beta)
        self._beta, self._reference_free = beta, reference_free

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean over rows, a scalar."""
        logits, labels = batch["logits"], batch["labels"]
        gain = logits.log_softmax(1)  # [B, C]
        if not self._reference_free:
            gain = gain - batch["clean_logits"].log_softmax(1)
        elsewhere, found = nearest_of_another_class(batch["clean_image_features"], labels)
        wrong = logits.masked_fill(own_class(labels, logits.shape[1]), float("-inf")).argmax(1)
        chosen = _at(gain, labels)
        terms = self.preference(chosen, _at(gain[elsewhere], labels)).masked_fill(~found, 0.0)
        if logits.shape[1] > 1:
            terms = terms + self.preference(chosen, _at(gain, wrong))
        return terms.mean()

    def preference(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """softplus(−β (chosen − rejected)) of gains, whatever their shape."""
        return softplus(-self._beta * (chosen - rejected))


def _at(values: Tensor, classes: Tensor) -> Tensor:
    """Each row's value [B, C] at a class [B]."""
    return values.gather(1, classes.unsqueeze(1)).squeeze(1)
