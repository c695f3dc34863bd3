"""Computing what a run records, after its evaluation and without touching any of its numbers."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pinikit.backbones.base import Backbone, PromptEmbedding, Prompts
from pinikit.components.contracts import Draw, Event, Predictor, PromptSite
from pinikit.data.catalogue import Item
from pinikit.study.record import RECORD, Array, Layout, NoiseSummary, Predictions, Record, write_record
from pinikit.study.study import Run
from pinikit.training.bank import Bank
from pinikit.training.draws import MeanDraw, RandomDraw
from pinikit.training.injection import Injection
from pinikit.training.task import Split

PICTURES = 32
"""Test pictures whose noise is looked at, evenly spread over the split."""
EXAMPLES = 4
"""Those of them whose maps are kept one by one."""
DRAWS = 16
"""Draws from which standard deviations are estimated: any distribution family has draws."""
GRID = 32
"""Rows and columns to which larger maps are averaged."""


class Witness:
    """Keeps what a run predicts for each test picture, in the mode of the headline metric."""

    def __init__(self, modes: Sequence[str]) -> None:
        self._mode = "mean" if "mean" in modes else modes[0]
        self._best: tuple[Tensor, Tensor] | None = None

    def __call__(self, mode: str, log_probs: Tensor) -> None:
        """Take note of log-probabilities [N, C]."""
        if mode == self._mode:
            values, classes = log_probs.max(1)
            self._best = values.exp(), classes

    def predictions(self, items: Sequence[Item]) -> Predictions:
        """The predictions of ``items``, which were evaluated."""
        assert self._best is not None
        confidence, predicted = self._best
        labels = np.array([item.label for item in items], dtype=np.uint16)
        return Predictions(
            self._mode, labels, predicted.numpy().astype(np.uint16), confidence.numpy().astype(np.float16)
        )


def looked_at(items: Sequence[Item]) -> list[int]:
    """Indices of up to :data:`PICTURES` items, evenly spread."""
    count = min(PICTURES, len(items))
    return [index * len(items) // count for index in range(count)]


def save_record(
    folder: Path, run: Run, predictor: Predictor, witness: Witness, bank: Bank, prompts: Prompts
) -> None:
    """Write a run's record into its folder, after its evaluation.

    Nothing that was trained is lost where that fails: the run's log says why there is none.
    """
    try:
        items = run.manifest.test
        indices = looked_at(items)
        split = Split(bank, [items[index] for index in indices], lambda done, total: None)
        noise = noise_summaries(predictor, split, indices, bank.backbone, prompts, run.seed)
        write_record(folder / RECORD, Record(witness.predictions(items), tuple(noise)))
    except Exception as error:
        log = logging.getLogger(f"pinikit.run.{run.id}")
        log.warning("nothing was recorded for the report: %s: %s", type(error).__name__, error)


def noise_summaries(
    predictor: Predictor,
    split: Split,
    indices: Sequence[int],
    backbone: Backbone,
    prompts: Prompts,
    seed: int,
) -> list[NoiseSummary]:
    """How large the noise of each injection is, and where.

    Args:
        predictor: what was trained.
        split: the pictures that are :func:`looked_at`.
        indices: where they stand in the test split.
        backbone: the run's.
        prompts: the run's.
        seed: the run's; draws come from generators of their own.
    """
    device = split.labels.device
    watches = [_Watch(injection, seed, device) for injection in predictor.injections.values()]
    if not watches:
        return []
    with torch.no_grad(), _watching(watches):
        classify = predictor.classifier(MeanDraw())
        classify(split.views(predictor.requires).rows(0, len(split)))
    return [_summary(watch, split, indices, backbone, prompts) for watch in watches if watch.lengths]


def _summary(
    watch: _Watch, split: Split, indices: Sequence[int], backbone: Backbone, prompts: Prompts
) -> NoiseSummary:
    assert watch.lengths is not None
    site = watch.injection.site
    _, height, width = backbone.image.stages["pixels"].shape
    size = _grid(site.event, height / width) if site.side == "image" else None
    chosen = _distinct(split.labels.tolist()) if size else []
    layout: Layout = "tokens" if isinstance(site, PromptSite) else "grid" if size else "vector"

    def measure(lengths: Tensor) -> Array:
        if layout == "tokens":
            return _over_classes(lengths, site.mask)
        return _maps(lengths.reshape(-1, *size), chosen, len(split)) if size else _overall(lengths)

    mean, spread, clean = map(measure, watch.lengths)
    texts = _token_texts(site, prompts, backbone.text.token_text) if isinstance(site, PromptSite) else ()
    return NoiseSummary(
        watch.injection.label,
        site.stage,
        layout,
        mean,
        spread,
        clean,
        tokens=texts,
        examples=tuple(indices[row] for row in chosen),
        pictures=len(split) if site.side == "image" else 0,
    )


class _Watch:
    """Measures an injection's noise when the injection is used."""

    def __init__(self, injection: Injection, seed: int, device: torch.device) -> None:
        self.injection = injection
        self.lengths: tuple[Tensor, Tensor, Tensor] | None = None
        """Of mean, spread and clean tensor over channels, [rows, *positions] each."""
        self._draw = RandomDraw(seed, "record", device=device)

    def __call__(self, module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """A forward hook of the injection."""
        clean, context, _ = inputs
        params = self.injection.distribution(clean, context)
        mean = self._noise(params, clean, context, MeanDraw())
        total, squares = torch.zeros_like(mean), torch.zeros_like(mean)
        for _ in range(DRAWS):
            offset = self._noise(params, clean, context, self._draw) - mean
            total, squares = total + offset, squares + offset.square()
        variance = ((squares - total.square() / DRAWS) / (DRAWS - 1)).clamp_min(0)
        axis = self.injection.site.event.channel_axis
        channels = axis if axis < 0 else axis + 1
        self.lengths = (
            mean.norm(dim=channels),
            variance.sum(channels).sqrt(),
            clean.to(mean.dtype).norm(dim=channels),
        )

    def _noise(
        self, params: Mapping[str, Tensor], clean: Tensor, context: Mapping[str, Tensor], draw: Draw
    ) -> Tensor:
        return self.injection.realise(params, clean, context, draw)


@contextmanager
def _watching(watches: Collection[_Watch]) -> Iterator[None]:
    with ExitStack() as hooks:
        for watch in watches:
            hooks.callback(watch.injection.register_forward_hook(watch).remove)
        yield


def _distinct(labels: Sequence[int]) -> list[int]:
    """Rows of the first :data:`EXAMPLES` pictures of different classes."""
    first: dict[int, int] = {}
    for row, label in enumerate(labels):
        first.setdefault(label, row)
    return sorted(first.values())[:EXAMPLES]


def _over_classes(lengths: Tensor, mask: Tensor | None) -> Array:
    """[rows, P] → [P], of each position a mean over the classes that have it."""
    if mask is None:
        return _numbers(lengths.mean(0))
    present = mask.to(lengths).expand(max(len(mask), len(lengths)), -1)
    return _numbers((lengths * present).sum(0) / present.sum(0).clamp_min(1))


def _maps(lengths: Tensor, chosen: Sequence[int], rows: int) -> Array:
    """[rows or 1, h, w] → [1 + E, h', w'] float16: root mean square over rows, then some rows."""
    squares = lengths.square().expand(rows, -1, -1)
    maps = torch.cat([squares.mean(0, keepdim=True), squares[list(chosen)]])
    height, width = (min(size, GRID) for size in maps.shape[1:])
    small = functional.adaptive_avg_pool2d(maps[None], (height, width))[0].sqrt()
    return _numbers(small, np.float16)


def _overall(lengths: Tensor) -> Array:
    """[rows, *positions] → [1]: the length over all positions, a mean over rows."""
    return _numbers(lengths.reshape(len(lengths), -1).norm(dim=1).mean().reshape(1))


def _numbers(values: Tensor, dtype: type = np.float32) -> Array:
    found: Array = np.nan_to_num(values.float().cpu().numpy(), nan=0.0)
    limit = float(np.finfo(dtype).max)
    return found.clip(-limit, limit).astype(dtype)


def _grid(event: Event, aspect: float) -> tuple[int, int] | None:
    """Rows and columns of an image site's positions; None if it has none, or they fill no grid."""
    sizes = list(event.shape)
    sizes.pop(event.channel_axis)
    if len(sizes) == 2:
        return sizes[0], sizes[1]
    count = sizes[0] if sizes else 1
    rows = max(round(math.sqrt(count * aspect)), 1)
    return (rows, count // rows) if count > 1 and count % rows == 0 else None


def _token_texts(site: PromptSite, prompts: Prompts, decode: Callable[[int], str]) -> tuple[str, ...]:
    """A readable token for each position; ``name token 1`` and so on where classes differ."""
    shared, end = prompts.prefix_length, max(prompts.lengths)
    tokens = prompts.tokens[..., None]
    found = site.read(PromptEmbedding(tokens[:1, :shared], tokens[:, shared:end]))[..., 0]  # [1 or C, P]
    mask = torch.ones_like(found, dtype=torch.bool) if site.mask is None else site.mask.expand_as(found)
    texts, own = [], 0
    for ids, present in zip(found.T, mask.T, strict=True):
        kinds = ids[present].unique().tolist()
        if len(kinds) == 1:
            texts.append(decode(int(kinds[0])))
        else:
            own += 1
            texts.append(f"name token {own}")
    return tuple(texts)
