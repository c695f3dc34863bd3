"""Components that are wrong, each in one way, as a single-file plug-in; see test_kit.py."""

from __future__ import annotations

import random
from typing import Annotated

import torch
from optuna.distributions import FloatDistribution

from pinikit import Combine, Injector, Loss, Noise


class Good(Noise):
    """Gaussian."""

    name = "good"
    version = 1
    parameters = ("mean", "std")

    def __init__(self) -> None:
        pass

    def base(self, shape, generator):
        return torch.randn(shape, generator=generator, device=generator.device)

    def sample(self, params, base):
        return params["mean"] + params["std"] * base

    def mean(self, params):
        return params["mean"]


class Undocumented(Noise):
    """Gaussian."""

    name = "undocumented"
    version = 1

    def __init__(self, wide: Annotated[float, FloatDistribution(0.0, 1.0)] = 2.0, name: float = 1.0) -> None:
        self._wide = wide

    base, sample, mean = Good.base, Good.sample, Good.mean


class Refusing(Noise):
    """Refuses an end of the range of ``size``."""

    name = "refusing"
    version = 1

    def __init__(self, size: Annotated[float, FloatDistribution(0.0, 1.0)] = 0.5) -> None:
        if size <= 0:
            raise ValueError(f"size: found {size}; allowed: above 0")

    base, sample, mean = Good.base, Good.sample, Good.mean


class Global(Noise):
    """Draws from Python's own generator."""

    name = "global"
    version = 1
    parameters = ("mean", "std")

    def __init__(self) -> None:
        pass

    def base(self, shape, generator):
        return Good.base(self, shape, generator) + random.random()

    sample, mean = Good.sample, Good.mean


class Looking(Noise):
    """Looks at a number."""

    name = "looking"
    version = 1
    parameters = ("mean", "std")

    def __init__(self) -> None:
        pass

    def sample(self, params, base):
        scale = 1.0 if params["std"].abs().max() < 1e9 else 2.0
        return params["mean"] + scale * params["std"] * base

    base, mean = Good.base, Good.mean


class Elsewhere(Noise):
    """Mixes in a tensor of the processor."""

    name = "elsewhere"
    version = 1
    parameters = ("mean", "std")

    def __init__(self) -> None:
        pass

    def sample(self, params, base):
        return params["mean"] + params["std"] * base * torch.ones(base.shape[-1])

    base, mean = Good.base, Good.mean


class Shifted(Noise):
    """Its mean is another one; and it is noise where its parameters are zero."""

    name = "shifted"
    version = 1
    parameters = ("mean", "std")

    def __init__(self) -> None:
        pass

    def sample(self, params, base):
        return params["mean"] + params["std"] * base + 0.1

    base, mean = Good.base, Good.mean


class Detached(Noise):
    """Half of its gradient is lost, and double precision, too; rows know of each other."""

    name = "detached"
    version = 1
    parameters = ("mean", "std")

    def __init__(self) -> None:
        pass

    def sample(self, params, base):
        wrong = params["mean"].detach() + params["std"] * base
        return (wrong + 0.1 * params["std"][:1]).float()

    base, mean = Good.base, Good.mean


class Narrow(Noise):
    """Yields half of the event."""

    name = "narrow"
    version = 1
    parameters = ("mean", "std")

    def __init__(self) -> None:
        pass

    def sample(self, params, base):
        return Good.sample(self, params, base)[..., ::2]

    base, mean = Good.base, Good.mean


class Greedy(Loss):
    """Reads more than it says, depends on the order of rows, and overflows."""

    name = "greedy"
    version = 1
    requires = frozenset({"logits"})

    def __init__(self, weight: float = 1.0) -> None:
        pass

    def __call__(self, batch):
        extra = batch["labels"][0] if "labels" in batch else 0
        return batch["logits"][0].exp().sum() + extra


class Shaky(Combine):
    """Not the identity without noise, random, and rows know of each other."""

    name = "shaky"
    version = 1

    def __init__(self) -> None:
        pass

    def __call__(self, clean, noise):
        return clean + noise + 1e-3 * torch.rand(()) + 1e-2 * clean.mean()


class Forgetful(Injector):
    """What it learned is no parameter, and it begins from the global generator."""

    name = "forgetful"
    version = 1
    requires = frozenset({"here"})

    def __init__(self) -> None:
        super().__init__()

    def build(self, noise, around, initialise):
        self.names = noise.parameters
        self.values = [torch.randn(around.event.shape)]

    def forward(self, context):
        return {name: self.values[0] + context["here"].mean(0, keepdim=True) for name in self.names}
