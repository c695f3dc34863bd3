"""How a sample meets the clean tensor."""

from __future__ import annotations

import math

import pytest
import torch
from golden_cases import GoldenCase, cases
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pinikit.components.combine.add import Add
from pinikit.components.combine.multiply import Multiply
from pinikit.components.combine.sphere import Sphere
from pinikit.components.contracts import Combine

ALL = [Add(), Multiply(), Sphere()]


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("case", cases("noise_tangent_sphere"), ids=str)
def test_sphere_equals_the_reference_on_the_unit_sphere(case: GoldenCase) -> None:
    """The reference yields a unit vector; ours keeps the norm of x."""
    x, sigma = case.inputs["x"], case.inputs["sigma"]
    turned = Sphere()(x, sigma * case.inputs["eps"])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-9, atol=1e-12)
    case.check("y", functional.normalize(turned, dim=-1))


@pytest.mark.parametrize("combine", ALL, ids=lambda combine: combine.name)
@pytest.mark.parametrize("size", [0.0, 1e-300, 1e-20, 1e-9, 1e-8, 1e-7])
def test_gradients_near_zero_noise(combine: Combine, size: float) -> None:
    """Finite, and the linear map that the derivative at zero is."""
    clean = numbers(2, 4).requires_grad_()
    noise = (size * numbers(2, 4, seed=1)).requires_grad_()
    weight = numbers(2, 4, seed=2)
    to_clean, to_noise = torch.autograd.grad((combine(clean, noise) * weight).sum(), [clean, noise])
    assert to_clean.isfinite().all()
    unit = functional.normalize(clean, dim=-1)
    tangent = weight - (weight * unit).sum(-1, keepdim=True) * unit
    expected = {
        "add": weight,
        "multiply": weight * clean,
        "sphere": clean.norm(dim=-1, keepdim=True) * tangent,
    }
    torch.testing.assert_close(to_noise, expected[combine.name], rtol=1e-6, atol=1e-6)


def test_formulas() -> None:
    clean, noise = numbers(3, 5), numbers(1, 5, seed=1)
    assert torch.equal(Add()(clean, noise), clean + noise)
    torch.testing.assert_close(Multiply()(clean, noise), clean + clean * noise)
    east, north, quarter = torch.tensor([[[3.0, 0]], [[0, 3]], [[0, math.pi / 2]]], dtype=torch.float64)
    torch.testing.assert_close(Sphere()(east, quarter), north)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.floats(-20, 3))
def test_sphere_keeps_the_norm_and_turns_by_the_tangent_s_length(seed: int, exponent: float) -> None:
    clean, noise = 5 * numbers(3, 6, seed=seed), 10**exponent * numbers(3, 6, seed=seed + 1)
    turned = Sphere()(clean, noise)
    torch.testing.assert_close(turned.norm(dim=-1), clean.norm(dim=-1), rtol=1e-9, atol=0)
    unit = functional.normalize(clean, dim=-1)
    angle = (noise - (noise * unit).sum(-1, keepdim=True) * unit).norm(dim=-1)
    cosine = functional.cosine_similarity(turned, clean, dim=-1)
    torch.testing.assert_close(cosine, angle.cos(), rtol=1e-9, atol=1e-9)
