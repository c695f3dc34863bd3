"""Every component that comes with pinikit passes the tests that plug-in authors are given.

Components without a class of their own here get one without exceptions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from scipy import integrate, special
from torch import Tensor

import pinikit.testing as kit
from pinikit.components.contracts import LOSS_BATCH
from pinikit.components.losses.cross_entropy import CrossEntropy
from pinikit.plugin import registry
from pinikit.testing.loss import batch

NOT_LEARNED = "its parameters are no part of what is learned"
NOT_RANDOM = "it is the control without randomness"
TARGETS = "its targets have no gradient, so that differences tell another one than autograd"

Params = Mapping[str, Tensor]

# --- noise ----------------------------------------------------------------------------------------------------


class OfStd:
    """Families whose ``std`` is their standard deviation."""

    def variance(self, noise: Any, params: Params) -> Tensor:
        return params["std"] ** 2


class TestGaussian(OfStd, kit.NoiseConformance):
    component = "gaussian"


class TestGaussianOfFreeSign(OfStd, kit.NoiseConformance):
    component: ClassVar[dict[str, Any]] = {"name": "gaussian", "std": "sign_free"}


class TestSigmaOnly(OfStd, kit.NoiseConformance):
    component = "sigma_only"


class TestAntithetic(OfStd, kit.NoiseConformance):
    component = "antithetic"


class TestShuffled(OfStd, kit.NoiseConformance):
    component = "shuffled"
    exceptions: ClassVar[dict[str, str]] = {
        "test_the_order_of_rows_does_not_matter": "each row takes another one's parameters, by its place"
    }


class TestMuOnly(kit.NoiseConformance):
    component = "mu_only"
    exceptions: ClassVar[dict[str, str]] = {"test_another_seed_is_another_draw": NOT_RANDOM}

    def variance(self, noise: Any, params: Params) -> Tensor:
        return torch.zeros(())


class TestZero(kit.NoiseConformance):
    component = "zero"
    exceptions: ClassVar[dict[str, str]] = {"test_another_seed_is_another_draw": NOT_RANDOM}

    def variance(self, noise: Any, params: Params) -> Tensor:
        return torch.zeros(())


class TestIsotropic(kit.NoiseConformance):
    component = "isotropic"
    exceptions: ClassVar[dict[str, str]] = {"test_zero_parameters_are_no_noise": NOT_LEARNED}

    def variance(self, noise: Any, params: Params) -> Tensor:
        return torch.tensor(0.1**2)


class TestLaplace(kit.NoiseConformance):
    component = "laplace"

    def variance(self, noise: Any, params: Params) -> Tensor:
        return 2 * params["scale"] ** 2


class TestLogistic(kit.NoiseConformance):
    component = "logistic"

    def variance(self, noise: Any, params: Params) -> Tensor:
        return math.pi**2 / 3 * params["scale"] ** 2


class TestStudentT(kit.NoiseConformance):
    component = "student_t"

    def variance(self, noise: Any, params: Params) -> Tensor:
        return 5 / 3 * params["scale"] ** 2


class TestUniform(kit.NoiseConformance):
    component = "uniform"

    def variance(self, noise: Any, params: Params) -> Tensor:
        return params["scale"] ** 2 / 3


class TestGaussianLowRank(kit.NoiseConformance):
    component = "gaussian_low_rank"

    def variance(self, noise: Any, params: Params) -> Tensor:
        return params["factor"].square().sum(-1) + params["std"] ** 2


class TestGaussianFull(kit.NoiseConformance):
    component = "gaussian_full"

    def variance(self, noise: Any, params: Params) -> Tensor:
        return params["tril"].square().sum(-1)


class TestGaussianMixture(kit.NoiseConformance):
    component = "gaussian_mixture"
    relaxed: ClassVar[dict[str, str]] = {"logits": "the choice's gradient is that of the softmax"}

    def variance(self, noise: Any, params: Params) -> Tensor:
        weights = params["logits"].softmax(-1)[..., None]
        second = (weights * (params["std"] ** 2 + params["mean"] ** 2)).sum(-2)
        return second - noise.mean(params) ** 2


class TestVonMisesFisher(kit.NoiseConformance):
    component = "von_mises_fisher"

    def variance(self, noise: Any, params: Params) -> Tensor:
        """E[v vᵀ] = A/κ I + (1 − D A/κ) m mᵀ (Mardia and Jupp, section 9.6)."""
        mean = params["mean"]
        share = noise.resultant(4) / 200.0
        second = share * mean.square().sum(-1, keepdim=True) + (1 - 4 * share) * mean.square()
        return second - noise.mean(params) ** 2


class TestBernoulliMask(kit.NoiseConformance):
    component = "bernoulli_mask"
    exceptions: ClassVar[dict[str, str]] = {"test_zero_parameters_are_no_noise": NOT_LEARNED}

    def variance(self, noise: Any, params: Params) -> Tensor:
        return torch.tensor(0.1 / 0.9)


class TestBernoulliMaskOfPositions(kit.NoiseConformance):
    component: ClassVar[dict[str, Any]] = {"name": "bernoulli_mask", "p": 0.4, "over": "position"}
    exceptions: ClassVar[dict[str, str]] = {"test_zero_parameters_are_no_noise": NOT_LEARNED}

    def variance(self, noise: Any, params: Params) -> Tensor:
        return torch.tensor(0.4 / 0.6)


class Gate:
    """Gates' variance by numerical integration, over u between b and 1 − b."""

    exceptions: ClassVar[dict[str, str]] = {
        "test_zero_parameters_are_no_noise": "a gate is closed by a logit"
    }

    def variance(self, noise: Any, params: Params) -> Tensor:
        logits = params["logit"]
        numbers = [self._moment(a, 2) - self._moment(a, 1) ** 2 for a in logits.flatten().tolist()]
        return torch.tensor(numbers, dtype=torch.float64).view(logits.shape)

    @staticmethod
    def _moment(logit: float, power: int) -> float:
        def gate(u: float) -> float:
            return float(special.expit(special.logit(u) + logit)) ** power

        return float(integrate.quad(gate, 1e-4, 1 - 1e-4)[0]) / (1 - 2e-4)


class TestGumbelGate(Gate, kit.NoiseConformance):
    component = "gumbel_gate"
    exceptions = Gate.exceptions


class TestGumbelGateOfPositions(Gate, kit.NoiseConformance):
    component: ClassVar[dict[str, Any]] = {"name": "gumbel_gate", "keep": 0.5, "over": "position"}
    exceptions = Gate.exceptions


# --- losses ---------------------------------------------------------------------------------------------------


class TestSiamlip(kit.LossConformance):
    component = "siamlip"
    exceptions: ClassVar[dict[str, str]] = {"test_gradients_are_right": TARGETS}


class TestSwav(kit.LossConformance):
    component = "swav"
    exceptions: ClassVar[dict[str, str]] = {"test_gradients_are_right": TARGETS}


class TestSwalip(kit.LossConformance):
    component = "swalip"
    exceptions: ClassVar[dict[str, str]] = {"test_gradients_are_right": TARGETS}


class TestMochi(kit.LossConformance):
    component = "mochi"
    exceptions: ClassVar[dict[str, str]] = {"test_gradients_are_right": "its mixtures have no gradient"}


class TestBeclr(kit.LossConformance):
    component = "beclr"
    exceptions: ClassVar[dict[str, str]] = {"test_gradients_are_right": TARGETS}


def test_losses_are_given_all_that_there_is() -> None:
    assert set(batch(CrossEntropy())) == set(LOSS_BATCH)


# --- injectors and sites --------------------------------------------------------------------------------------


class TestConstant(kit.InjectorConformance):
    component: ClassVar[dict[str, Any]] = {"name": "constant", "values": {"mean": 0.0, "std": 0.05}}


class TestMlpOfTheFeature(kit.InjectorConformance):
    component: ClassVar[dict[str, Any]] = {"name": "mlp", "context": "image_feature"}


class TestFeatureMlpOfTheFeature(kit.InjectorConformance):
    component: ClassVar[dict[str, Any]] = {"name": "feature_mlp", "context": "image_feature"}


class TestDeepTransformer(kit.InjectorConformance):
    component: ClassVar[dict[str, Any]] = {"name": "transformer", "width": 8, "heads": 2, "layers": 2}


class TestImageBlock(kit.SiteConformance):
    component: ClassVar[dict[str, Any]] = {"name": "image_block", "index": 0}


class TestTextBlock(kit.SiteConformance):
    component: ClassVar[dict[str, Any]] = {"name": "text_block", "index": 0, "tokens": "all"}


BASES = (
    kit.NoiseConformance,
    kit.CombineConformance,
    kit.LossConformance,
    kit.InjectorConformance,
    kit.SiteConformance,
)
for base in BASES:
    globals().update(kit.conformance_of(base, "pinikit", globals()))
del base  # which pytest would look at


def test_no_component_escapes() -> None:
    """Every built-in component of a kind that has tests is in a class that pytest collects here."""
    tested = {
        (item.kind, item().spec["name"])
        for name, item in globals().items()
        if name.startswith("Test") and isinstance(item, type) and issubclass(item, kit.Conformance)
    }
    kinds = {item.kind for item in BASES}
    known = {(kind, entry.name) for kind in kinds for entry in registry().entries(kind)}
    assert tested == known
