"""Whether torch.compile makes the text path faster: forward and backward with and without it, in turns.

It is not used in training. The tables say why: where a step is long it wins nothing, where it is short the
first call takes longer than a study, and the last digits of a run would depend on a measurement's outcome.
Processor time, so other work on the machine matters less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks import _tools
from benchmarks._tools import Row, Table
from benchmarks.pini import make_prompts
from pinikit.backbones import shared_prefix
from pinikit.backbones.base import Backbone

NOTES = (
    "Text tower forward and backward with noise on the prefix, one arm; the least processor seconds of all "
    "repetitions. First call: wall seconds until the compiled step has run twice; an unchanged graph is "
    "found in torch's cache on disk the next time, which is what the figure shows then.",
)


def main(arguments: Sequence[str] | None = None) -> Table:
    """Measure and print."""
    options = _tools.parser(__doc__, classes=(100,), repeat=9).parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = [
        {
            "backbone": options.backbone,
            "classes": classes,
            **measure(make(options.backbone), classes, options.repeat),
        }
        for classes in options.classes
    ]
    table = Table(
        f"compiled-{options.backbone}", f"torch.compile on the text path, {options.backbone}", rows, NOTES
    )
    _tools.publish(table, options, arguments)
    return table


def make(name: str) -> Backbone:
    """In single precision on the processor."""
    return _tools.make_backbone(name, torch.device("cpu"), "fp32")


def measure(backbone: Backbone, classes: int, repeat: int) -> Row:
    """A row of the table."""
    step = text_step(backbone, classes)
    step()
    plain = shared_prefix._run
    compiled = torch.compile(plain, dynamic=False)
    with running(compiled):
        first = _tools.seconds(lambda: (step(), step()), torch.device("cpu"))
    taken: dict[str, list[float]] = {"plain": [], "compiled": []}
    found: dict[str, Tensor] = {}
    for _ in range(repeat):
        for name, way in (("plain", plain), ("compiled", compiled)):
            with running(way):
                start = time.process_time()
                found[name] = step()
                taken[name].append(time.process_time() - start)
    return {
        "plain s": min(taken["plain"]),
        "compiled s": min(taken["compiled"]),
        "ratio": min(taken["plain"]) / min(taken["compiled"]),
        "first call s": first,
        "Δ gradient": float((found["plain"] - found["compiled"]).norm() / found["plain"].norm()),
    }


def text_step(backbone: Backbone, classes: int) -> Callable[[], Tensor]:
    """A call that goes forward and backward and returns the gradient of the noise."""
    prompts = make_prompts(backbone, _tools.class_names(classes))
    embedding = backbone.text.embed(prompts)
    noise = torch.zeros_like(embedding.prefix).requires_grad_()

    def step() -> Tensor:
        features = backbone.text.encode(prompts, replace(embedding, prefix=embedding.prefix + noise))
        (gradient,) = torch.autograd.grad(features.square().sum(), noise)
        return gradient

    return step


@contextmanager
def running(way: Callable[..., Any]) -> Iterator[None]:
    """Let the text towers run their blocks by ``way``."""
    before = shared_prefix._run
    shared_prefix._run = way
    try:
        yield
    finally:
        shared_prefix._run = before


if __name__ == "__main__":
    main()
