"""What holds of every combine."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pinikit.components.contracts import Combine
from pinikit.testing.conformance import Conformance
from pinikit.testing.isolation import assert_there, no_global_randomness, on_another_device
from pinikit.testing.probes import EVENTS, numbers


def _probe(combine: Combine) -> dict[str, Tensor]:
    return {"noisy": combine(numbers(3, 5), numbers(3, 5, seed=1))}


class CombineConformance(Conformance):
    """Tests of a combine: ``component`` is its name, or a mapping with its parameters."""

    kind = "combine"

    @staticmethod
    def probe(component: Any) -> dict[str, Tensor]:
        """See :func:`_probe`."""
        return _probe(component)

    def test_noise_broadcasts(self) -> None:
        """One noise for many rows, and one number for all channels, as well as one for each."""
        combine = self.make()
        for event in EVENTS:
            clean = numbers(3, *event.shape)
            for shape in ((3, *event.shape), (1, *event.shape), (1,) * clean.ndim):
                assert combine(clean, numbers(*shape, seed=1)).shape == clean.shape

    def test_no_noise_is_the_identity(self) -> None:
        """To rounding, for one noise and for many."""
        combine, clean = self.make(), numbers(3, 5)
        for zero in (torch.zeros(3, 5).double(), torch.zeros(1, 1).double()):
            torch.testing.assert_close(combine(clean, zero), clean, rtol=1e-14, atol=0)

    def test_gradients_are_right(self) -> None:
        """To the clean tensor and to the noise, by finite differences in float64."""
        clean, noise = numbers(2, 4).requires_grad_(), numbers(2, 4, seed=1).requires_grad_()
        assert torch.autograd.gradcheck(self.make(), (clean, noise))

    def test_gradients_are_finite_where_noise_or_tensor_are_zero(self) -> None:
        """Noise begins near zero, and a frozen tower may yield a vector of zeros."""
        combine = self.make()
        for clean_size, noise_size in ((1.0, 0.0), (1.0, 1e-300), (1.0, 1e-9), (0.0, 1.0), (0.0, 0.0)):
            clean = (clean_size * numbers(2, 4)).requires_grad_()
            noise = (noise_size * numbers(2, 4, seed=1)).requires_grad_()
            noisy = combine(clean, noise)
            found = torch.autograd.grad((noisy * numbers(2, 4, seed=2)).sum(), [clean, noise])
            assert noisy.isfinite().all()
            assert all(gradient.isfinite().all() for gradient in found)

    def test_rows_do_not_depend_on_each_other(self) -> None:
        """Each row is what it would be alone."""
        combine, clean, noise = self.make(), numbers(3, 4, 5), numbers(3, 4, 5, seed=1)
        for row, noisy in enumerate(combine(clean, noise)):
            torch.testing.assert_close(noisy, combine(clean[row : row + 1], noise[row : row + 1])[0])

    def test_it_keeps_the_number_format(self) -> None:
        """Single precision stays single, close to double."""
        combine, clean, noise = self.make(), numbers(3, 5), 0.1 * numbers(3, 5, seed=1)
        single, double = combine(clean.float(), noise.float()), combine(clean, noise)
        assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
        torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)

    def test_nothing_is_random(self) -> None:
        """Twice the same, and no global generator is used."""
        combine, clean, noise = self.make(), numbers(3, 5), numbers(3, 5, seed=1)
        with no_global_randomness():
            assert torch.equal(combine(clean, noise), combine(clean, noise))

    def test_it_stays_on_the_device_and_never_waits_for_it(self) -> None:
        """No tensor of the processor gets in, and no number is looked at."""
        assert_there(on_another_device(self.make(), numbers(3, 5), numbers(3, 5, seed=1)))

    def test_runs_trained_together_come_out_as_alone(self) -> None:
        """At a text site and at an image site."""
        from pinikit.testing.few_shot import check_trained_together

        check_trained_together(
            {
                "text": {"site": "prompt_template", "injector": "free", "combine": self.spec},
                "image": {"site": "image_feature", "injector": "mlp", "share": "image", "combine": self.spec},
            }
        )
