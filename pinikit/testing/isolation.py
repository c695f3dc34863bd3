"""Whether components touch what is not theirs: global generators, numbers on a device."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only


@contextmanager
def no_global_randomness() -> Iterator[None]:
    """Fail if a global generator of torch, NumPy or Python is used inside."""
    before = _global_states()
    yield
    used = [name for name, state in _global_states().items() if state != before[name]]
    assert not used, f"it draws from the global generator of {', '.join(used)}"


def _global_states() -> dict[str, object]:
    legacy = np.random.get_state(legacy=False)
    assert isinstance(legacy, dict)
    numpy_state = (legacy["state"]["key"].tobytes(), legacy["state"]["pos"])
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "NumPy": numpy_state,
        "Python": random.getstate(),
    }


def on_another_device(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call ``function`` with tensors that have shapes and a device of their own, but no numbers.

    Whoever asks for a number raises (a GPU would have to be waited for), and so does whoever mixes in a
    tensor of the processor.

    Returns:
        What ``function`` gives, with tensors of that device.
    """
    with _fake_mode() as mode:
        there = tree_map_only(Tensor, lambda tensor: mode.from_tensor(tensor).to("meta"), arguments)
        return function(*there)


def without_numbers(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call ``function`` here, where tensors that it makes have no numbers that it could ask for."""
    function(*arguments)  # what it keeps between calls is made of real tensors
    with _fake_mode():
        return function(*arguments)


def assert_there(value: Any) -> None:
    """Fail unless all tensors are on the other device; a single number may be anywhere."""

    def check(tensor: Tensor) -> None:
        assert tensor.device.type == "meta" or tensor.ndim == 0, (
            f"a tensor of shape {tuple(tensor.shape)} is not on the device"
        )

    tree_map_only(Tensor, check, value)


@cache
def _fake_mode() -> FakeTensorMode:
    """One for the process: components may keep tensors between calls, which modes do not exchange."""
    return FakeTensorMode(allow_non_fake_inputs=True)
