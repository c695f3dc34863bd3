"""A mixture of Gaussians."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.nn import functional

from pinikit.components.contracts import Constraint, Noise, Shape
from pinikit.components.noise._uniform import open_uniform


class GaussianMixture(Noise):
    """One of K diagonal Gaussians: k ~ softmax(logits), then mean_k + std_k · ε.

    A component is picked for each vector (the last axis of the event) by the Gumbel maximum. The sample
    is that component's exactly; the gradient to the logits is that of the softmax at ``temperature``
    (straight-through: Jang, Gu, Poole, "Categorical Reparameterization with Gumbel-Softmax", ICLR 2017,
    arXiv 1611.01144).

    K is ``components``; ``std`` says what becomes of raw standard deviations, as for ``gaussian``.
    """

    name = "gaussian_mixture"
    version = 1
    parameters = ("logits", "mean", "std")

    def __init__(
        self,
        components: Annotated[int, CategoricalDistribution([2, 3, 5, 8])] = 2,
        temperature: Annotated[float, FloatDistribution(0.1, 2.0, log=True)] = 0.5,
        std: Literal["abs", "softplus", "exp", "sign_free"] = "abs",
    ) -> None:
        if components < 1:
            raise ValueError(f"components: found {components}; allowed: 1 or more")
        if temperature <= 0:
            raise ValueError(f"temperature: found {temperature}; allowed: above 0")
        self._components, self._temperature = components, temperature
        self._std: Constraint = std

    def parameter_shapes(self, event_shape: Shape) -> dict[str, Shape]:
        """``logits`` [..., K], ``mean`` and ``std`` [..., K, D]."""
        *positions, width = event_shape
        logits = (*positions, self._components)
        return {"logits": logits, "mean": (*logits, width), "std": (*logits, width)}

    @property
    def constraints(self) -> Mapping[str, Constraint]:
        """``std`` as chosen; the others are real."""
        return {"std": self._std}

    def base(self, shape: Shape, generator: torch.Generator) -> dict[str, Tensor]:
        """``gumbel`` [..., K] and standard ``normal`` numbers of ``shape``."""
        uniform = open_uniform((*shape[:-1], self._components), generator)
        normal = torch.randn(shape, generator=generator, device=generator.device)
        return {"gumbel": -(-uniform.log()).log(), "normal": normal}

    def sample(self, params: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> Tensor:
        """The picked component's sample."""
        return self.of_component(params, self._pick(params["logits"] + base["gumbel"]), base["normal"])

    @staticmethod
    def of_component(params: Mapping[str, Tensor], weights: Tensor, normal: Tensor) -> Tensor:
        """mean_k + std_k · normal, where ``weights`` [..., K] are one-hot."""
        mean, std = ((weights.unsqueeze(-1) * params[name]).sum(-2) for name in ("mean", "std"))
        return mean + std * normal

    def mean(self, params: Mapping[str, Tensor]) -> Tensor:
        """The weighted mean of the components' means."""
        return (params["logits"].softmax(-1).unsqueeze(-1) * params["mean"]).sum(-2)

    def log_prob(self, params: Mapping[str, Tensor], sample: Tensor) -> Tensor:
        """Log-density of ``sample`` over the last axis: log Σ_k π_k N_k."""
        normal = Normal(params["mean"], params["std"].abs(), validate_args=False)
        components = Independent(normal, 1, validate_args=False)
        weights = Categorical(logits=params["logits"], validate_args=False)
        density: Tensor = MixtureSameFamily(weights, components, validate_args=False).log_prob(sample)
        return density

    def _pick(self, scores: Tensor) -> Tensor:
        """One-hot at the highest score, with the gradient of the softmax."""
        soft = (scores / self._temperature).softmax(-1)
        hard = functional.one_hot(scores.argmax(-1), scores.shape[-1]).to(soft.dtype)
        return hard + (soft - soft.detach())  # the bracket is zero: the value stays exactly one-hot
