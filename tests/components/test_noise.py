"""Noise families: reference numbers, moments, and where their randomness comes from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import GoldenCase, cases
from scipy import integrate, special, stats
from torch import Tensor

from pinikit.components.contracts import Event, Noise, Shape
from pinikit.components.noise._bessel import log_bessel
from pinikit.components.noise.controls import Antithetic, Isotropic, Shuffled, SigmaOnly
from pinikit.components.noise.gaussian import Gaussian
from pinikit.components.noise.gaussian_full import GaussianFull
from pinikit.components.noise.gaussian_low_rank import GaussianLowRank
from pinikit.components.noise.gaussian_mixture import GaussianMixture
from pinikit.components.noise.laplace import Laplace
from pinikit.components.noise.logistic import Logistic
from pinikit.components.noise.masks import BernoulliMask, GumbelGate
from pinikit.components.noise.student_t import StudentT
from pinikit.components.noise.uniform import Uniform
from pinikit.components.noise.von_mises_fisher import VonMisesFisher
from pinikit.errors import ConfigError
from pinikit.plugin import registry

ALL: dict[str, Noise] = {
    **{entry.name: entry.load()() for entry in registry().entries("noise") if entry.source == "pinikit"},
    "gaussian sign_free": Gaussian(std="sign_free"),
    "gumbel_gate of positions": GumbelGate(keep=0.5, over="position"),
    "bernoulli_mask of positions": BernoulliMask(p=0.4, over="position"),
}
"""Every noise that pinikit registers, with its default arguments, and a few variants."""

NOT_RANDOM = {"mu_only", "zero"}
SAMPLES = 100_000


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def raw_parameters(noise: Noise, event: Shape = (4,), seed: int = 1) -> dict[str, Tensor]:
    shapes = noise.parameter_shapes(event)
    numbers = stream(seed)
    return {name: torch.randn(1, *shape, generator=numbers).double() for name, shape in shapes.items()}


def double(base: Any) -> Any:
    return (
        {name: part.double() for name, part in base.items()} if isinstance(base, Mapping) else base.double()
    )


def parts(base: Any) -> list[Tensor]:
    return list(base.values()) if isinstance(base, Mapping) else [base]


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


LOCATION_SCALE: dict[str, tuple[Callable[[GoldenCase], Any], Callable[[GoldenCase], Tensor]]] = {
    "noise_laplace": (lambda case: Laplace(), lambda case: Laplace.standard(case.inputs["u"])),
    "noise_logistic": (lambda case: Logistic(), lambda case: torch.logit(case.inputs["u"])),
    "noise_studentt": (
        lambda case: StudentT(df=case.hyper["df"]),
        lambda case: case.inputs["z"] * (case.hyper["df"] / case.inputs["chi2"]).sqrt(),
    ),
    "noise_uniform": (lambda case: Uniform(), lambda case: 2 * case.inputs["u"] - 1),
}


@pytest.mark.parametrize("case", [case for name in LOCATION_SCALE for case in cases(name)], ids=str)
def test_families_with_a_scale_equal_the_reference(case: GoldenCase) -> None:
    make, standard = LOCATION_SCALE[case.component]
    noise = make(case)
    scale = case.inputs.get("scale", case.inputs.get("half_width"))
    assert scale is not None
    params = {"mean": case.inputs["mu"], "scale": scale}
    sample = noise.sample(params, standard(case))
    case.check("sample", sample)
    case.check("entropy", noise.entropy(params))
    if "log_prob" in case.outputs:
        case.check("log_prob", noise.log_prob(params, sample.detach()))
    if "kl" in case.outputs:
        case.check("kl", noise.kl(params, case.hyper["prior_scale"]))
    if "kl_to_gaussian" in case.outputs:
        case.check("kl_to_gaussian", noise.kl(params, case.hyper["prior_std"]))


@pytest.mark.parametrize("case", cases("noise_gaussian_lowrank"), ids=str)
def test_low_rank_gaussian_equals_the_reference(case: GoldenCase) -> None:
    """Its ``diag`` is a variance."""
    noise = GaussianLowRank()
    params = {
        "mean": case.inputs["mu"],
        "factor": case.inputs["factor"],
        "std": case.inputs["diag"].sqrt(),
    }
    base = {"factor": case.inputs["eps_f"], "diagonal": case.inputs["eps_d"]}
    sample = noise.sample(params, base)
    case.check("sample", sample)
    case.check("log_prob", noise.log_prob(params, sample))
    case.check("entropy", noise.entropy(params))
    case.check("kl", noise.kl(params, case.hyper["prior_std"]))


@pytest.mark.parametrize("case", cases("noise_gaussian_full"), ids=str)
def test_full_gaussian_equals_the_reference(case: GoldenCase) -> None:
    noise = GaussianFull()
    params = {"mean": case.inputs["mu"], "tril": case.inputs["tril"]}
    sample = noise.sample(params, case.inputs["eps"])
    case.check("sample", sample)
    case.check("log_prob", noise.log_prob(params, sample))
    case.check("entropy", noise.entropy(params))
    case.check("kl", noise.kl(params, case.hyper["prior_std"]))


@pytest.mark.parametrize("case", cases("noise_gaussian_mixture"), ids=str)
def test_mixture_equals_the_reference(case: GoldenCase) -> None:
    """Given the component; the reference has no gradient through the choice."""
    names = {"logits": "logits", "mean": "mu", "std": "sigma"}
    params = {ours: case.inputs[theirs] for ours, theirs in names.items()}
    count = params["logits"].shape[-1]
    noise = GaussianMixture(components=count)
    picked = torch.nn.functional.one_hot(case.inputs["component"].long(), count).double()
    sample = noise.of_component(params, picked, case.inputs["eps"])
    case.check("sample", sample)
    case.check("log_prob", noise.log_prob(params, sample.detach()))
    far = {"gumbel": 1e6 * picked, "normal": case.inputs["eps"]}
    assert torch.equal(noise.sample(params, far), sample)


@pytest.mark.parametrize("case", cases("noise_vmf"), ids=str)
def test_von_mises_fisher_equals_the_reference(case: GoldenCase) -> None:
    noise = VonMisesFisher(kappa=case.hyper["kappa"])
    params = {"mean": 3 * case.inputs["direction"]}
    case.check("log_prob", noise.log_prob(params, case.inputs["x"]))
    case.check("entropy", noise.entropy(params))
    width = len(case.inputs["direction"])
    case.check("mean_resultant", torch.tensor(noise.resultant(width)))


@pytest.mark.parametrize("case", cases("gumbel_sigmoid_gate"), ids=str)
def test_gumbel_gate_equals_the_released_code(case: GoldenCase) -> None:
    gate = 1 + GumbelGate().sample({"logit": case.inputs["logits"]}, GumbelGate.squeezed(case.inputs["u"]))
    case.check("gate", gate.squeeze())


# --- moments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in ALL if hasattr(ALL[name], "kl")])
def test_divergence_from_the_prior(name: str) -> None:
    """What many samples say; it is never negative, and zero for the prior itself."""
    noise: Any = ALL[name]
    params = noise.constrain(raw_parameters(noise))
    sample = noise.sample(params, double(noise.base((SAMPLES, 4), stream())))
    families: dict[str, Any] = {"laplace": torch.distributions.Laplace}
    prior = families.get(name, torch.distributions.Normal)(0.0, 0.7)
    ratio = noise.log_prob(params, sample) - prior.log_prob(sample).sum(-1)
    exact = noise.kl(params, 0.7)
    assert exact >= 0
    assert abs(ratio.mean() - exact) < 5 * ratio.std() / SAMPLES**0.5
    itself: dict[str, dict[str, Tensor]] = {
        "laplace": {"scale": torch.full((4,), 0.7)},
        "gaussian_low_rank": {"factor": torch.zeros(4, 2), "std": torch.full((4,), 0.7)},
        "gaussian_full": {"tril": 0.7 * torch.eye(4)},
    }
    if name != "uniform":  # which is never Gaussian
        own = {"mean": torch.zeros(4), **itself.get(name, {"std": torch.full((4,), 0.7)})}
        assert abs(noise.kl(own, 0.7)) < 1e-5


# --- what a family is in its limits -------------------------------------------------------------------


def test_student_t_has_its_distribution() -> None:
    for df in (2.1, 30.0):
        sample = StudentT(df=df).base((20_000,), stream())
        assert stats.kstest(sample.numpy(), stats.t(df).cdf).pvalue > 1e-3
    gaussian = StudentT(df=1e7).base((20_000,), stream())
    assert stats.kstest(gaussian.numpy(), stats.norm.cdf).pvalue > 1e-3


@pytest.mark.parametrize(("width", "kappa"), [(2, 0.3), (3, 5.0), (24, 200.0), (512, 60.0), (5, 1e4)])
def test_von_mises_fisher_has_its_distribution(width: int, kappa: float) -> None:
    """The cosine to the mean direction, by numerical integration; and nothing prefers a side."""
    noise = VonMisesFisher(kappa)
    base = double(noise.base((5_000, width), stream()))
    mean = torch.randn(width, generator=stream(3)).double()
    sample = noise.sample({"mean": mean}, base)
    torch.testing.assert_close(sample.norm(dim=-1), mean.norm().expand(5_000))
    cosine = (sample @ mean / mean.square().sum()).numpy()
    angles = np.linspace(0, math.pi, 50_001)[1:-1]
    logs = kappa * np.cos(angles) + (width - 2) * np.log(np.sin(angles))
    weights = np.cumsum(np.exp(logs - logs.max()))
    found = stats.kstest(-cosine, lambda x: np.interp(np.arccos(-x), angles, weights / weights[-1]))
    assert found.pvalue > 1e-3
    aside = (sample.mean(0) - noise.resultant(width) * mean).norm()
    assert aside < 5 * mean.norm() / 5_000**0.5


def test_bessel_functions_of_large_order() -> None:
    """Both ways agree where both work, and the recurrence I(n−1) − I(n+1) = 2n/x I(n) holds where one does not."""
    for order, x in ((255.0, 300.0), (127.0, 12.0), (255.0, 1.0), (383.5, 2.0)):
        low, here, high = (log_bessel(order + step, x) for step in (-1, 0, 1))
        assert math.exp(low - here) - math.exp(high - here) == pytest.approx(2 * order / x, rel=1e-9)


def test_gates_open_and_close_and_keep_as_told() -> None:
    gate = GumbelGate(keep=0.8)
    base = gate.base((1000, 4), stream())
    for logit, value in ((1e4, 0.0), (-1e4, -1.0)):
        params = {"logit": torch.full((1, 4), logit)}
        assert torch.equal(gate.sample(params, base), torch.full((1000, 4), value))
        assert torch.equal(gate.mean(params), torch.full((1, 4), value))
    kept = gate.constrain({"logit": torch.zeros(1)})["logit"]
    torch.testing.assert_close(kept.sigmoid(), torch.tensor([0.8]))


@pytest.mark.parametrize("logit", [-200.0, -30.0, -3.0, -0.011, -0.009, -1e-6, 0.0, 0.009, 0.011, 0.5, 30.0])
def test_mean_gate_by_numerical_integration(logit: float) -> None:
    value, _ = integrate.quad(lambda u: special.expit(special.logit(u) + logit), 1e-4, 1 - 1e-4, limit=200)
    found = GumbelGate().mean({"logit": torch.tensor([logit], dtype=torch.float64)})
    assert found.item() + 1 == pytest.approx(value / (1 - 2e-4), abs=1e-9)


def test_masks_drop_positions_or_elements() -> None:
    whole = BernoulliMask(p=0.5, over="position").base((100, 7, 5), stream())
    assert whole.shape == (100, 7, 1)
    sample = BernoulliMask(p=0.5).sample({}, BernoulliMask(p=0.5).base((100, 7, 5), stream()))
    assert set((1 + sample).unique().tolist()) == {0.0, 2.0}
    never = BernoulliMask(p=0.0)
    assert not never.sample({}, never.base((100, 5), stream())).any(), "p = 0 is the identity"


def test_shuffled_takes_another_rows_parameters() -> None:
    noise, base = Shuffled(), torch.randn(6, 4, generator=stream())
    params = {name: torch.randn(6, 4, generator=stream(seed)) for seed, name in enumerate(("mean", "std"))}
    order = noise.mean({"mean": torch.arange(6)})
    moved = {name: value[order] for name, value in params.items()}
    assert torch.equal(noise.sample(params, base), Gaussian().sample(moved, base))
    assert torch.equal(noise.mean(params), moved["mean"])
    assert torch.equal(noise.log_prob(params, base), Gaussian().log_prob(moved, base))


@pytest.mark.parametrize("rows", [1, 2, 3, 32])
def test_shuffled_rows_are_a_fixed_cycle(rows: int) -> None:
    """Each row is read once, and none by itself where there is another one."""
    order = Shuffled().mean({"mean": torch.arange(rows)})
    assert torch.equal(order, Shuffled().mean({"mean": torch.arange(rows)}))
    assert torch.equal(order.sort().values, torch.arange(rows))
    assert rows == 1 or not (order == torch.arange(rows)).any()


def test_shuffled_mixes_rows_sorted_by_class() -> None:
    """In a test split sorted by class, no class gets the parameters of a single other one."""
    labels = torch.arange(100) // 10
    given = Shuffled().mean({"mean": labels})
    for label in range(10):
        assert len(given[labels == label].unique()) > 3


@pytest.mark.parametrize("noise", [BernoulliMask(over="position"), GumbelGate(over="position")])
def test_masks_of_positions_need_positions(noise: Noise) -> None:
    noise.check_event(Event((7, 5)))
    for event in (Event((12,)), Event((3, 8, 8), channel_axis=0)):
        with pytest.raises(ConfigError, match=r"over: found 'position' at .*; allowed here: over: element"):
            noise.check_event(event)


@pytest.mark.parametrize("noise", [BernoulliMask(), GumbelGate()])
def test_masks_of_elements_work_anywhere(noise: Noise) -> None:
    noise.check_event(Event((12,)))
    noise.check_event(Event((3, 8, 8), channel_axis=0))


def test_narrow_uniform_noise_far_from_zero() -> None:
    """Its bounds cancel in single precision: 1e4 ± 1e-4 is one number there."""
    params = {"mean": torch.full((1, 3), 1e4), "scale": torch.full((1, 3), -1e-4)}
    entropy = 3 * math.log(2e-4)
    torch.testing.assert_close(Uniform().entropy(params), torch.tensor([entropy]))
    cross = 3 * (1e8 / 2e8 + 0.5 * math.log(2 * math.pi) + math.log(1e4))
    torch.testing.assert_close(Uniform().kl(params, prior_std=1e4), torch.tensor([cross - entropy]))


def test_antithetic_rows_are_opposite_in_pairs() -> None:
    for rows in (1, 5, 6):
        base = Antithetic().base((rows, 3), stream())
        assert base.shape == (rows, 3)
        for row in range(1, rows, 2):
            assert torch.equal(base[row], -base[row - 1])


def test_mixture_s_choice_has_the_softmax_s_gradient() -> None:
    noise = GaussianMixture(components=3, temperature=0.7)
    params = {name: value.requires_grad_() for name, value in raw_parameters(noise).items()}
    base = double(noise.base((5, 4), stream()))
    weight = torch.randn(5, 4, generator=stream(2), dtype=torch.float64)
    found = torch.autograd.grad((noise.sample(params, base) * weight).sum(), params["logits"])[0]
    soft = ((params["logits"] + base["gumbel"]) / 0.7).softmax(-1)
    relaxed = noise.of_component(params, soft, base["normal"])
    # The soft weights' value matters only in std · ε and mean, in which the sample is linear.
    expected = torch.autograd.grad((relaxed * weight).sum(), params["logits"])[0]
    torch.testing.assert_close(found, expected)


def test_entropy_of_a_free_sign_is_that_of_its_absolute_value() -> None:
    noise = Gaussian(std="sign_free")
    params = {"mean": torch.zeros(2), "std": torch.tensor([-0.5, 2.0])}
    assert torch.equal(noise.entropy(params), noise.entropy({**params, "std": params["std"].abs()}))


# --- constraints --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), [(Gaussian, "std"), (SigmaOnly, "std"), (Laplace, "scale")])
def test_constraints_of_the_scale(kind: Any, name: str) -> None:
    raw = torch.tensor([-2.0, 0.0, 3.0])
    expected = {
        "abs": raw.abs(),
        "softplus": (1 + raw.exp()).log(),
        "exp": raw.exp(),
        "sign_free": raw,
    }
    for choice, value in expected.items():
        torch.testing.assert_close(kind(**{name: choice}).constrain({name: raw})[name], value)


def test_mean_is_not_constrained() -> None:
    raw = torch.tensor([-2.0, 3.0])
    assert torch.equal(Gaussian().constrain({"mean": raw, "std": raw})["mean"], raw)


def test_full_covariance_is_lower_triangular_with_a_positive_diagonal() -> None:
    raw = {"mean": torch.zeros(2, 4), "tril": torch.randn(2, 4, 4, generator=stream())}
    tril = GaussianFull().constrain(raw)["tril"]
    assert torch.equal(tril.diagonal(dim1=-2, dim2=-1), raw["tril"].diagonal(dim1=-2, dim2=-1).abs())
    torch.testing.assert_close(tril.tril(-1), raw["tril"].tril(-1) / 2)
    assert not tril.triu(1).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Isotropic(-0.1), r"std: found -0\.1; allowed: 0 or more"),
        (lambda: StudentT(df=1.0), r"df: found 1\.0; allowed: more than 1"),
        (lambda: GaussianLowRank(rank=0), "rank: found 0; allowed: 1 or more"),
        (lambda: GaussianMixture(components=0), "components: found 0; allowed: 1 or more"),
        (lambda: GaussianMixture(temperature=0.0), r"temperature: found 0\.0; allowed: above 0"),
        (lambda: BernoulliMask(p=1.0), r"p: found 1\.0; allowed: 0 to below 1"),
        (lambda: GumbelGate(keep=1.0), r"keep: found 1\.0; allowed: between 0 and 1"),
        (lambda: VonMisesFisher(kappa=0.0), r"kappa: found 0\.0; allowed: above 0"),
        (lambda: VonMisesFisher(kappa=3e9), r"kappa: found 3.*; allowed: above 0, up to 1e\+08"),
    ],
)
def test_impossible_arguments_are_refused(make: Callable[[], Noise], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_direction_needs_two_numbers() -> None:
    with pytest.raises(ConfigError, match=r"shape \(3, 1\); allowed: vectors of 2 or more"):
        VonMisesFisher().parameter_shapes((3, 1))


# --- what holds of every family -----------------------------------------------------------------------


def test_gaussian_is_found_by_both_names() -> None:
    assert registry().find("noise", "gaussian_diag").load() is Gaussian
    with pytest.raises(ConfigError, match=r"unknown noise 'gausian' \(did you mean 'gaussian'\?\)"):
        registry().find("noise", "gausian")
