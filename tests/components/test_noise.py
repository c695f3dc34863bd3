"""Noise families: reference numbers, moments, and where their randomness comes from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden_cases import GoldenCase, cases
from torch import Tensor

from pinikit.components.contracts import Noise
from pinikit.components.noise.controls import Isotropic, MuOnly, SigmaOnly, Zero
from pinikit.components.noise.gaussian import Gaussian
from pinikit.errors import ConfigError
from pinikit.plugin import registry

ALL: dict[str, Noise] = {
    "gaussian": Gaussian(),
    "gaussian sign_free": Gaussian(std="sign_free"),
    "mu_only": MuOnly(),
    "sigma_only": SigmaOnly(),
    "isotropic": Isotropic(0.3),
    "zero": Zero(),
}
SAMPLES = 100_000


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def raw_parameters(noise: Noise, event: tuple[int, ...] = (4,), seed: int = 1) -> dict[str, Tensor]:
    shapes = noise.parameter_shapes(event)
    numbers = stream(seed)
    return {name: torch.randn(shape, generator=numbers).double() for name, shape in shapes.items()}


# --- reference numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("noise_gaussian_diag"), ids=str)
@pytest.mark.parametrize("output", ["sample", "log_prob", "entropy", "kl"])
def test_gaussian_equals_the_reference(case: GoldenCase, output: str) -> None:
    noise = Gaussian()
    params = {"mean": case.inputs["mu"], "std": case.inputs["sigma"]}
    found: dict[str, Any] = {
        "sample": lambda: noise.sample(params, case.inputs["eps"]),
        "log_prob": lambda: noise.log_prob(params, noise.sample(params, case.inputs["eps"])),
        "entropy": lambda: noise.entropy(params),
        "kl": lambda: noise.kl(params, case.hyper["prior_std"]),
    }
    case.check(output, found[output]())


# --- moments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_moments_of_many_samples(name: str) -> None:
    """Within five standard errors."""
    noise = ALL[name]
    params = noise.constrain(raw_parameters(noise))
    sample = noise.sample(params, noise.base((SAMPLES, 4), stream())).double()
    mean = params.get("mean", torch.zeros(4))
    std = {"isotropic": torch.full((4,), 0.3)}.get(name, params.get("std", torch.zeros(4))).abs().double()
    assert ((sample.mean(0) - mean).abs() <= 5 * std / SAMPLES**0.5 + 1e-9).all()
    assert ((sample.std(0) - std).abs() <= 5 * std / (2 * SAMPLES) ** 0.5 + 1e-9).all()
    torch.testing.assert_close(
        noise.mean(params).expand(4).double(), mean.double(), msg="the mean that evaluation uses"
    )


def test_entropy_and_divergence_agree_with_many_samples() -> None:
    noise = Gaussian(std="softplus")
    params = noise.constrain(raw_parameters(noise))
    sample = noise.sample(params, noise.base((SAMPLES, 4), stream()).double())
    density = noise.log_prob(params, sample)
    prior = torch.distributions.Normal(0.0, 0.7).log_prob(sample).sum(-1)
    for estimate, exact in (
        (-density, noise.entropy(params)),
        (density - prior, noise.kl(params, prior_std=0.7)),
    ):
        assert abs(estimate.mean() - exact) < 5 * estimate.std() / SAMPLES**0.5
    prior_itself = {"mean": torch.zeros(3), "std": torch.full((3,), 0.7)}
    assert noise.kl(prior_itself, prior_std=0.7) == 0


def test_entropy_of_a_free_sign_is_that_of_its_absolute_value() -> None:
    noise = Gaussian(std="sign_free")
    params = {"mean": torch.zeros(2), "std": torch.tensor([-0.5, 2.0])}
    assert torch.equal(noise.entropy(params), noise.entropy({**params, "std": params["std"].abs()}))


# --- constraints --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Gaussian, SigmaOnly])
def test_constraints_of_the_standard_deviation(kind: Any) -> None:
    raw = torch.tensor([-2.0, 0.0, 3.0])
    expected = {
        "abs": raw.abs(),
        "softplus": (1 + raw.exp()).log(),
        "exp": raw.exp(),
        "sign_free": raw,
    }
    for name, value in expected.items():
        torch.testing.assert_close(kind(std=name).constrain({"std": raw})["std"], value)


def test_mean_is_not_constrained() -> None:
    raw = torch.tensor([-2.0, 3.0])
    assert torch.equal(Gaussian().constrain({"mean": raw, "std": raw})["mean"], raw)


def test_isotropic_refuses_a_negative_standard_deviation() -> None:
    with pytest.raises(ValueError, match=r"std: found -0\.1; allowed: 0 or more"):
        Isotropic(-0.1)


# --- randomness ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_base_uses_the_given_generator_and_nothing_else(name: str) -> None:
    noise = ALL[name]
    before = torch.get_rng_state()
    first, second = noise.base((3, 4), stream(5)), noise.base((3, 4), stream(5))
    torch.manual_seed(99)
    assert torch.equal(first, second)
    assert torch.equal(first, noise.base((3, 4), stream(5)))
    if name not in ("mu_only", "zero"):
        assert not torch.equal(first, noise.base((3, 4), stream(6)))
    torch.set_rng_state(before)
    noise.base((3, 4), stream(5))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ALL)
def test_sample_is_a_function_of_parameters_and_base(name: str) -> None:
    noise = ALL[name]
    params = noise.constrain(raw_parameters(noise))
    base = noise.base((3, 4), stream())
    before = torch.get_rng_state()
    sample = noise.sample(params, base)
    assert sample.shape == (3, 4)
    assert torch.equal(sample, noise.sample(params, base))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ALL)
def test_sample_is_differentiable_in_every_parameter(name: str) -> None:
    noise = ALL[name]
    params = {key: value.requires_grad_() for key, value in raw_parameters(noise).items()}
    if params:
        base = noise.base((3, 4), stream()).double()
        gradients = torch.autograd.grad(
            noise.sample(noise.constrain(params), base).square().sum(), list(params.values())
        )
        assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


def test_gaussian_is_found_by_both_names() -> None:
    assert registry().find("noise", "gaussian_diag").load() is Gaussian
    with pytest.raises(ConfigError, match="unknown noise 'gaussian_full'"):
        registry().find("noise", "gaussian_full")
