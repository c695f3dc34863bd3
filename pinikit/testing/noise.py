"""What holds of every noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from pinikit.components.contracts import Event, Noise
from pinikit.errors import ConfigError
from pinikit.testing.conformance import Conformance
from pinikit.testing.isolation import assert_there, no_global_randomness, on_another_device, without_numbers
from pinikit.testing.probes import events_of, raw_parameters, stream

SAMPLES = 100_000
_SMALL = (Event((4,)), Event((2, 4)), Event((3, 2, 2), channel_axis=0))

_INJECTIONS: Mapping[str, Mapping[str, str]] = {
    "text": {"site": "prompt_template", "injector": "free"},
    "image": {"site": "image_feature", "injector": "cross_attention", "share": "image"},
    "pixels": {"site": "pixels", "injector": "free", "share": "image"},
}


def _probe(noise: Noise) -> dict[str, Tensor]:
    """A sample and the mean at the first event that fits."""
    event = events_of(noise)[0]
    params = noise.constrain(raw_parameters(noise, event, rows=2))
    base = _cast(noise.base((2, *event.shape), stream()), torch.float64)
    return {"sample": noise.sample(params, base), "mean": noise.mean(params)}


class NoiseConformance(Conformance):
    """Tests of a noise: ``component`` is its name, or a mapping with its parameters."""

    kind = "noise"

    @staticmethod
    def probe(component: Any) -> dict[str, Tensor]:
        """See :func:`_probe`."""
        return _probe(component)

    relaxed: ClassVar[Mapping[str, str]] = {}
    """Parameter -> why its gradient is not that of the sample (a choice's that is relaxed, say)."""

    def variance(self, noise: Any, params: Mapping[str, Tensor]) -> Tensor | None:
        """The variance of each number, broadcastable to the event; override it where there is a formula."""
        return None

    def test_it_fits_a_site(self) -> None:
        """At a feature, at tokens or at pixels; what it refuses it refuses with a reason."""
        assert events_of(self.make()), "it refuses a feature, tokens and pixels alike"

    def test_samples_have_the_event_s_shape(self) -> None:
        """At every site that fits, for one row of parameters and for many; so does the mean."""
        noise = self.make()
        for event in events_of(noise):
            target = (3, *event.shape)
            base = noise.base(target, stream())
            for rows in (1, 3):
                params = noise.constrain(_single(raw_parameters(noise, event, rows)))
                for value in (noise.sample(params, base), noise.mean(params)):
                    assert torch.broadcast_shapes(value.shape, target) == target
                    assert value.isfinite().all()

    def test_it_keeps_the_number_format(self) -> None:
        """Parameters in single precision give single precision, close to double."""
        noise = self.make()
        for event in events_of(noise):
            raw, base = raw_parameters(noise, event, 2), noise.base((2, *event.shape), stream())
            single = noise.sample(noise.constrain(_single(raw)), base)
            double = noise.sample(noise.constrain(raw), _cast(base, torch.float64))
            assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
            torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)

    def test_gradients_are_right(self) -> None:
        """Of the sample to the raw parameters, through the constraints, by finite differences in float64."""
        noise = self.make()
        event = self._small_event(noise)
        raw = raw_parameters(noise, event)
        free = [name for name in raw if name not in self.relaxed]
        base = _cast(noise.base((2, *event.shape), stream()), torch.float64)

        def sample(*values: Tensor) -> Tensor:
            params = noise.constrain({**raw, **dict(zip(free, values, strict=True))})
            found: Tensor = noise.sample(params, base)
            return found

        if free:
            assert torch.autograd.gradcheck(sample, tuple(raw[name].requires_grad_() for name in free))

    def test_all_its_randomness_comes_from_the_generator(self) -> None:
        """Equal generators give equal bits; sampling itself draws nothing."""
        noise = self.make()
        for event in events_of(noise):
            shape, raw = (3, *event.shape), raw_parameters(noise, event)
            with no_global_randomness():
                first, again = (noise.base(shape, stream(5)) for _ in range(2))
                params = noise.constrain(_single(raw))
                samples = [noise.sample(params, first) for _ in range(2)]
                noise.mean(params)
            assert all(
                torch.equal(*pair) for pair in zip(tree_leaves(first), tree_leaves(again), strict=True)
            )
            assert all(part.isfinite().all() for part in tree_leaves(first))
            assert torch.equal(*samples), "the same parameters and base give another sample"

    def test_another_seed_is_another_draw(self) -> None:
        """It is random."""
        noise = self.make()
        event = events_of(noise)[0]
        params = noise.constrain(_single(raw_parameters(noise, event)))
        one, other = (noise.sample(params, noise.base((3, *event.shape), stream(seed))) for seed in (5, 6))
        assert not torch.equal(one, other)

    def test_zero_parameters_are_no_noise(self) -> None:
        """And the gradients there are finite, so that layers which begin at zero can leave it."""
        noise = self.make()
        event = self._small_event(noise)
        raw = {name: torch.zeros_like(value) for name, value in raw_parameters(noise, event).items()}
        params = noise.constrain({name: value.requires_grad_() for name, value in raw.items()})
        sample = noise.sample(params, _cast(noise.base((2, *event.shape), stream()), torch.float64))
        assert not sample.any()
        assert not noise.mean(params).any()
        if raw:
            found = torch.autograd.grad(sample.sum(), list(raw.values()), allow_unused=True)
            assert all(gradient is None or gradient.isfinite().all() for gradient in found)

    def test_mean_and_variance_are_those_of_many_samples(self) -> None:
        """Within five standard errors; the variance where :meth:`variance` gives a formula."""
        noise, params, sample = self._many_samples()
        mean = noise.mean(params)
        error = sample.std(0) / SAMPLES**0.5 + 1e-9
        assert ((sample.mean(0) - mean).abs() <= 5 * error).all(), "mean"
        expected = self.variance(noise, params)
        if expected is not None:
            squared = (sample - mean).square()
            error = 5 * squared.std(0) / SAMPLES**0.5 + 1e-7
            assert ((squared.mean(0) - expected).abs() <= error).all(), "variance"

    def test_its_entropy_is_that_of_its_density(self) -> None:
        """Minus the mean log-density of many samples, where it has both methods."""
        noise, params, sample = self._many_samples()
        if hasattr(noise, "entropy") and hasattr(noise, "log_prob"):
            surprise = -noise.log_prob(params, sample)
            assert abs(surprise.mean() - noise.entropy(params)) < 5 * surprise.std() / SAMPLES**0.5 + 1e-9

    def test_the_order_of_rows_does_not_matter(self) -> None:
        """Rows of parameters and base in another order give the same samples in that order."""
        noise = self.make()
        for event in events_of(noise):
            params = noise.constrain(raw_parameters(noise, event, rows=4))
            base = _cast(noise.base((4, *event.shape), stream()), torch.float64)
            order = torch.tensor([2, 0, 3, 1])

            def turned(value: Tensor, order: Tensor = order) -> Tensor:
                return value[order] if len(value) == len(order) else value

            moved = noise.sample(*(tree_map_only(Tensor, turned, item) for item in (params, base)))
            torch.testing.assert_close(moved, turned(noise.sample(params, base)))
            mean = noise.mean(params)
            moved = noise.mean(tree_map_only(Tensor, turned, params))
            torch.testing.assert_close(moved, turned(mean) if mean.ndim else mean)

    def test_it_stays_on_the_device_and_never_waits_for_it(self) -> None:
        """No tensor of the processor gets in, and no number is looked at."""
        noise = self.make()
        for event in events_of(noise):
            shape = (3, *event.shape)
            base = noise.base(shape, stream())
            without_numbers(lambda shape=shape: noise.base(shape, stream()))
            raw = _single(raw_parameters(noise, event, rows=3))

            def run(raw: Mapping[str, Tensor], base: Any) -> Any:
                params = noise.constrain(raw)
                return noise.sample(params, base), noise.mean(params)

            assert_there(on_another_device(run, raw, base))

    def test_runs_trained_together_come_out_as_alone(self) -> None:
        """And what is learned is learned, at a text site and at an image site."""
        from pinikit.testing.few_shot import check_trained_together

        injections, learns = self._injections(), bool(self.make().parameters)
        check_trained_together(injections, learns=learns)

    # --- what they share --------------------------------------------------------------------------------

    def _small_event(self, noise: Noise) -> Event:
        fitting = [event for event in _SMALL if _fits(noise, event)]
        assert fitting, "it refuses a feature, tokens and pixels alike"
        return fitting[0]

    def _many_samples(self) -> tuple[Any, dict[str, Tensor], Tensor]:
        """The noise, its parameters, and samples [N, *event]."""
        noise = self.make()
        event = self._small_event(noise)
        params = noise.constrain(raw_parameters(noise, event))
        base = _cast(noise.base((SAMPLES, *event.shape), stream()), torch.float64)
        return noise, params, noise.sample(params, base).expand(SAMPLES, *event.shape)

    def _injections(self) -> dict[str, dict[str, Any]]:
        """The text and the image injection, or where neither fits the one of pixels."""
        from pinikit.testing.few_shot import noisy_model, tiny_tasks

        noise, task = self.make(), tiny_tasks()[0]
        combine = "add" if noise.combines is None else min(noise.combines)
        found: dict[str, dict[str, Any]] = {}
        for label, injection in _INJECTIONS.items():
            one = {label: {**injection, "noise": self.spec, "combine": combine}}
            if label == "pixels" and found:
                break
            try:
                noisy_model(one, task.backbone, task.prompts)
            except ConfigError:
                continue
            found |= one
        assert found, "it fits neither the prompt, nor the image feature, nor pixels"
        return found


def _fits(noise: Noise, event: Event) -> bool:
    try:
        noise.check_event(event)
        noise.parameter_shapes(event.shape)
    except ConfigError:
        return False
    return True


def _cast(base: Any, dtype: torch.dtype) -> Any:
    """Base randomness in another number format, as training casts it."""
    return tree_map_only(Tensor, lambda part: part.to(dtype), base)


def _single(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.float() for name, value in params.items()}
