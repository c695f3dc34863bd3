"""Reference numbers computed with published implementations: ``tests/golden/INDEX.json`` is their index.

A test of a component with reference numbers goes through all its cases in float64, outputs and gradients::

    @pytest.mark.parametrize("case", cases("noise_gaussian_diag"), ids=str)
    def test_sample(case):
        sample = ...  # from case.inputs, whose tensors require a gradient where the reference has one
        case.check("sample", sample)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class GoldenCase:
    """One case of one component. Floating-point arrays are tensors in float64."""

    component: str
    index: int
    hyper: dict[str, Any]
    note: str
    inputs: dict[str, Tensor]
    """Those that the reference differentiates for require a gradient."""
    outputs: dict[str, Tensor]
    cotangents: dict[str, Tensor]
    """Fixed weights of a non-scalar output: its gradients are those of Σ output · cotangent."""
    gradients: dict[str, Tensor]
    """By ``output/input``."""
    rtol: float
    atol: float
    groups: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """What else a case has: ``weights`` (fixed), ``param`` (trainable, with gradient), ``after_step``."""

    def __str__(self) -> str:
        return f"{self.component}-{self.index}"

    def check(self, output: str, found: Tensor, leaves: Mapping[str, Tensor] | None = None) -> None:
        """Compare an output and all its gradients with the reference.

        ``leaves``: the tensors to differentiate for, by input name; ``inputs`` and ``param`` by default.
        """
        torch.testing.assert_close(
            found.detach().double(), self.outputs[output], rtol=self.rtol, atol=self.atol, check_device=False
        )
        wanted = {
            name.split("/", 1)[1]: g for name, g in self.gradients.items() if name.split("/", 1)[0] == output
        }
        if not wanted:
            return
        known = {**self.inputs, **self.groups.get("param", {}), **(leaves or {})}
        cotangent = self.cotangents.get(output, torch.ones_like(self.outputs[output]))
        total = (found.double() * cotangent).sum()
        gradients = torch.autograd.grad(
            total, [known[name] for name in wanted], retain_graph=True, allow_unused=True
        )
        for (name, expected), gradient in zip(wanted.items(), gradients, strict=True):
            actual = torch.zeros_like(expected) if gradient is None else gradient
            torch.testing.assert_close(
                actual,
                expected,
                rtol=self.rtol,
                atol=self.atol,
                msg=lambda text, name=name: f"gradient of {output} for {name}: {text}",
            )


def cases(component: str) -> list[GoldenCase]:
    """All cases of a component, with fresh tensors.

    Raises:
        KeyError: there are no reference numbers of that name.
    """
    entries = [entry for entry in _index() if entry["component"] == component]
    if not entries:
        raise KeyError(f"no golden case {component!r} in {FOLDER / 'INDEX.json'}")
    return [_case(entry) for entry in entries]


@cache
def _index() -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((FOLDER / "INDEX.json").read_text(encoding="utf-8"))["cases"]
    return cases


@cache
def _arrays(file: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / file, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def _case(entry: dict[str, Any]) -> GoldenCase:
    sections: dict[str, dict[str, Tensor]] = {}
    for key, array in _arrays(entry["file"]).items():
        head, _, rest = key.partition("/")
        if head == entry["prefix"]:
            head, _, rest = rest.partition("/")
        elif head.startswith("case"):
            continue
        sections.setdefault(head, {})[rest] = _tensor(array)
    for name, facts in entry["inputs"].items():
        sections["in"][name].requires_grad_(facts["grad"])
    for parameter in sections.get("param", {}).values():
        parameter.requires_grad_()
    known = {"in", "out", "cot", "grad"}
    return GoldenCase(
        component=entry["component"],
        index=entry["case"],
        hyper=entry["hyper"],
        note=entry["note"],
        inputs=sections.get("in", {}),
        outputs=sections.get("out", {}),
        cotangents=sections.get("cot", {}),
        gradients=sections.get("grad", {}),
        rtol=entry["rtol"],
        atol=entry["atol"],
        groups={name: tensors for name, tensors in sections.items() if name not in known},
    )


def _tensor(array: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(np.array(array))  # a copy: tests may change it
    return tensor.double() if tensor.is_floating_point() else tensor
