"""What holds of every site."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pinikit.backbones.base import Backbone, PromptEmbedding
from pinikit.components.contracts import BoundSite, ImageSite, PromptSite, Site
from pinikit.testing.conformance import Conformance
from pinikit.testing.few_shot import CLASSES, check_trained_together, noisy_model, tiny_backbone, tokenize
from pinikit.testing.isolation import no_global_randomness
from pinikit.testing.probes import numbers
from pinikit.training.draws import MeanDraw, RandomDraw
from pinikit.training.model import NoisyModel


def _clean(site: BoundSite, backbone: Backbone) -> Any:
    """The clean tensor, or the prompts' embedding, at the site's stage."""
    if isinstance(site, PromptSite):
        return backbone.text.embed(tokenize(backbone))  # blocks have tensors of the same shapes
    return backbone.image.read(_pixels(backbone), {site.stage})[site.stage]


def _pixels(backbone: Backbone) -> Tensor:
    return numbers(2, *backbone.image.stages["pixels"].shape)


def _probe(site: Site) -> dict[str, Tensor]:
    backbone = tiny_backbone()
    bound = site.bind(backbone, tokenize(backbone))
    found = {"event": torch.tensor([*bound.event.shape, bound.event.channel_axis])}
    if isinstance(bound, ImageSite | PromptSite):
        found["read"] = bound.read(_clean(bound, backbone))
    return found


class SiteConformance(Conformance):
    """Tests of a site, on a small ViT: ``component`` is its name, or a mapping with its parameters."""

    kind = "site"

    @staticmethod
    def probe(component: Any) -> dict[str, Tensor]:
        """See :func:`_probe`."""
        return _probe(component)

    def test_it_is_a_stage_of_the_backbone(self) -> None:
        """With an event whose channels are the stage's, and a mask where classes differ."""
        backbone, bound = tiny_backbone(), self._bound()
        stages = backbone.text.stages if bound.side == "text" else backbone.image.stages
        assert bound.stage in stages, f"there are {', '.join(stages)}"
        info = stages[bound.stage]
        assert bound.event.channels == info.shape[0 if bound.event.channel_axis == 0 else -1]
        if bound.mask is not None:
            assert bound.mask.shape == (len(CLASSES), bound.event.shape[0])

    def test_what_is_read_can_be_written_back(self) -> None:
        """Nothing changes then; and what is written is read, and the rest is left alone."""
        bound = self._bound()
        if not isinstance(bound, ImageSite | PromptSite):
            return  # the whole text feature
        clean = _clean(bound, tiny_backbone())
        part = bound.read(clean)
        assert part.shape[1:] == bound.event.shape
        assert part.numel() > 0
        assert all(
            torch.equal(*pair) for pair in zip(_parts(clean), _parts(_write(bound, clean, part)), strict=True)
        )
        moved = _write(bound, clean, part + 1)
        torch.testing.assert_close(bound.read(moved), part + 1)
        changed = sum(int((one != two).sum()) for one, two in zip(_parts(clean), _parts(moved), strict=True))
        times = len(CLASSES) if isinstance(bound, PromptSite) and len(part) == 1 else 1  # one for all classes
        assert changed <= times * part.numel(), "it changes more than it reads"

    def test_zero_noise_is_zero_shot(self) -> None:
        """The logits of the clean backbone come back."""
        model = self._model()
        with torch.no_grad():
            for parameter in model.injections.parameters():
                parameter.zero_()
            clean = noisy_model({}, model.backbone, model.prompts)
            for draw in (MeanDraw(), RandomDraw(0, "test")):
                torch.testing.assert_close(_logits(model, draw), _logits(clean, draw), rtol=1e-9, atol=1e-9)

    def test_noise_reaches_the_logits(self) -> None:
        """And a gradient comes back to all that is learned; the backbone stays as it is."""
        model = self._model()
        with no_global_randomness():
            noisy = _logits(model, RandomDraw(0, "test"))
        assert not torch.allclose(
            noisy, _logits(noisy_model({}, model.backbone, model.prompts), MeanDraw()), atol=1e-6
        )
        noisy.square().sum().backward()
        for name, parameter in model.injections.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        assert all(parameter.grad is None for parameter in model.backbone.model.parameters())

    def test_the_order_of_classes_permutes_the_logits(self) -> None:
        """Noise that all classes share does not tell them apart."""
        order = [2, 0, 1]
        model, turned = self._model(), self._model([CLASSES[index] for index in order])
        logits = _logits(model, RandomDraw(0, "test"))[:, order]
        torch.testing.assert_close(_logits(turned, RandomDraw(0, "test")), logits, rtol=1e-9, atol=1e-9)

    def test_runs_trained_together_come_out_as_alone(self) -> None:
        """And what is learned there is learned."""
        check_trained_together(self._injections())

    def _bound(self) -> BoundSite:
        backbone = tiny_backbone()
        bound: BoundSite = self.make().bind(backbone, tokenize(backbone))
        return bound

    def _injections(self) -> dict[str, dict[str, Any]]:
        return {"only": {"site": self.spec, "injector": "free", "share": "batch"}}

    def _model(self, classes: Sequence[str] = CLASSES) -> NoisyModel:
        backbone = tiny_backbone()
        return noisy_model(self._injections(), backbone, tokenize(backbone, classes))


def _logits(model: NoisyModel, draw: Any) -> Tensor:
    activations = model.backbone.image.read(_pixels(model.backbone), model.requires)
    logits: Tensor = model(activations, draw).logits
    return logits


def _write(site: ImageSite | PromptSite, clean: Any, value: Tensor) -> Any:
    if isinstance(site, ImageSite):
        return site.write(clean, value)
    return site.write(clean, value, shared=False)


def _parts(clean: Any) -> list[Tensor]:
    """The tensors of a stage; a prefix that has become one row a class counts once."""
    if isinstance(clean, PromptEmbedding):
        return [clean.prefix.expand(len(clean.suffix), -1, -1), clean.suffix]
    return [clean]
