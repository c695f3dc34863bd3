"""Any other image tower: run as published, read and edited through hooks where that is safe."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pinikit.backbones.base import Edit, ImageTower, StageInfo
from pinikit.backbones.image_staged import FEATURE, PIXELS, block_name, check_stages
from pinikit.backbones.precision import at_least_float32, weight_dtype


class HookedTower(ImageTower):
    """A tower whose inner order is not known: only whole runs from the pixels.

    Blocks are stages where the tower names them and each is called once with one token grid
    [B, N, W] or map [B, W, h, w] as its output.
    """

    resume_points = frozenset({PIXELS, FEATURE})

    def __init__(self, visual: Any, picture: Tensor) -> None:
        """``picture`` [1, 3, H, W] is run through once, to learn which blocks can be stages."""
        self._visual = visual
        self._modules: dict[str, nn.Module] = {}
        self._channels_last = getattr(getattr(visual, "trunk", None), "output_fmt", "NCHW") == "NHWC"
        self.stages = self._describe(picture)

    @torch.no_grad()
    def _describe(self, picture: Tensor) -> dict[str, StageInfo]:
        calls: list[tuple[nn.Module, Any]] = []
        with ExitStack() as stack:
            for module in _candidate_blocks(self._visual):
                stack.enter_context(_hooked(module, lambda module, output: calls.append((module, output))))
            feature = self._whole(picture)
        modules = [module for module, _ in calls]
        once = [(m, o) for m, o in calls if modules.count(m) == 1 and _is_grid(o)]
        stages = [StageInfo(PIXELS, tuple(picture.shape[1:]))]
        for index, (module, output) in enumerate(once):
            self._modules[block_name(index)] = module
            shape = tuple(self._as_tokens(output).shape[1:])
            stages.append(StageInfo(block_name(index), shape, self._leading(output)))
        stages.append(StageInfo(FEATURE, tuple(feature.shape[1:])))
        return {stage.name: stage for stage in stages}

    def run(
        self,
        value: Tensor,
        *,
        start: str = PIXELS,
        stop: str = FEATURE,
        edits: Mapping[str, Edit] | None = None,
    ) -> Tensor:
        """Run the whole tower, with the edits as hooks. See :meth:`ImageTower.run`."""
        edits = edits or {}
        check_stages(self, [stop, *edits], start)
        if start in edits:
            value = edits[start](at_least_float32(value))
        if start == stop:
            return at_least_float32(value)
        if start == FEATURE:
            raise ValueError(f"stage {stop!r} comes before {start!r}")
        order = list(self.stages)
        inner = {name: edit for name, edit in edits.items() if name in order[1 : order.index(stop) + 1]}
        return self._run_inner(value, stop, inner)

    def read(self, pixels: Tensor, stages: Collection[str]) -> dict[str, Tensor]:
        """Keep what is asked for of one pass. See :meth:`ImageTower.read`."""
        check_stages(self, stages)
        found = {PIXELS: pixels}
        with ExitStack() as stack:
            for name in set(stages) & set(self._modules):
                stack.enter_context(self._edited(name, _keep_in(found, name)))
            found[FEATURE] = self._whole(pixels)
        return {name: at_least_float32(found[name]) for name in stages}

    def _run_inner(self, pixels: Tensor, stop: str, edits: Mapping[str, Edit]) -> Tensor:
        found: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for name in set(edits) & set(self._modules):
                stack.enter_context(self._edited(name, edits[name]))
            if stop in self._modules:  # after the edits' hooks, so that it sees the edited tensor
                stack.enter_context(self._edited(stop, _keep_in(found, stop)))
            feature = self._whole(pixels)
        if stop != FEATURE:
            return found[stop]
        return edits[FEATURE](feature) if FEATURE in edits else feature

    def _whole(self, pixels: Tensor) -> Tensor:
        output = self._visual(pixels.to(weight_dtype(self._visual)))
        feature: Tensor = output[0] if isinstance(output, tuple) else output
        return at_least_float32(feature)

    @contextmanager
    def _edited(self, name: str, edit: Edit) -> Iterator[None]:
        def change(_module: nn.Module, output: Tensor) -> Tensor:
            return self._like(edit(at_least_float32(self._as_tokens(output))), output).to(output.dtype)

        with _hooked(self._modules[name], change):
            yield

    def _as_tokens(self, output: Tensor) -> Tensor:
        if output.ndim == 3:
            return output
        return output.flatten(1, 2) if self._channels_last else output.flatten(2).transpose(1, 2)

    def _like(self, tokens: Tensor, output: Tensor) -> Tensor:
        if output.ndim == 3:
            return tokens
        if self._channels_last:
            return tokens.reshape(output.shape)
        return tokens.transpose(1, 2).reshape(output.shape)

    def _leading(self, output: Tensor) -> int:
        tokens = int(getattr(getattr(self._visual, "trunk", None), "num_prefix_tokens", 0))
        return tokens if output.ndim == 3 else 0


def _candidate_blocks(visual: Any) -> list[nn.Module]:
    """Modules that are likely the blocks of a tower: listed as such, or named by timm's feature table."""
    trunk = getattr(visual, "trunk", visual)
    for name in ("blocks", "stages", "layers"):
        listed = getattr(trunk, name, None)
        if isinstance(listed, nn.ModuleList | nn.Sequential) and len(listed):
            return list(listed)
    named = dict(trunk.named_modules())
    table = [entry for entry in getattr(trunk, "feature_info", None) or [] if isinstance(entry, dict)]
    return [named[entry["module"]] for entry in table if entry.get("module") in named]


def _is_grid(output: Any) -> bool:
    return isinstance(output, Tensor) and output.ndim in (3, 4)


@contextmanager
def _hooked(module: nn.Module, change: Callable[[nn.Module, Any], Any]) -> Iterator[None]:
    """Let ``change`` see the module's output; what it returns, unless None, takes the output's place."""
    handle = module.register_forward_hook(lambda hooked, _inputs, output: change(hooked, output))
    try:
        yield
    finally:
        handle.remove()


def _keep_in(found: dict[str, Tensor], name: str) -> Edit:
    def keep(tokens: Tensor) -> Tensor:
        found[name] = tokens
        return tokens

    return keep
