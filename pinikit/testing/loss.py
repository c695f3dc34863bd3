"""What holds of every loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pinikit.components.contracts import LOSS_BATCH, Loss
from pinikit.testing.conformance import Conformance
from pinikit.testing.isolation import assert_there, no_global_randomness, on_another_device
from pinikit.testing.probes import numbers, stream

_SCALE = 10.0
_INJECTIONS = {
    "text": {"site": "text_feature", "injector": "free"},
    "image": {"site": "image_feature", "injector": "cross_attention", "share": "image"},
}
_PROMPT = {"prompt": {"site": "prompt_template", "injector": "free"}}


class _Watched(Mapping[str, Any]):
    """A batch that knows which of its entries were read."""

    def __init__(self, batch: Mapping[str, Tensor]) -> None:
        self._batch, self.read = batch, set[str]()

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return self._batch[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._batch)

    def __len__(self) -> int:
        return len(self._batch)


def batch(
    loss: Loss, rows: int = 8, classes: int = 5, width: int = 6, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """All entries for random features of so many pictures, with the samples that the loss needs.

    The labels leave the last class out.
    """
    samples = loss.min_samples
    labels = torch.arange(rows) % max(classes - 1, 1)
    beside = {
        "clean_image_features": numbers(rows, width, seed=5, dtype=dtype).repeat_interleave(samples, 0),
        "clean_text_features": numbers(classes, width, seed=6, dtype=dtype),
        "uniform": torch.rand(rows * samples, loss.uniforms, generator=stream(7)).to(dtype),
    }
    image = numbers(rows * samples, width, seed=3, dtype=dtype)
    text = numbers(classes, width, seed=4, dtype=dtype)
    return of_features(image, text, labels.repeat_interleave(samples), beside, samples)


def of_features(
    image: Tensor, text: Tensor, labels: Tensor, beside: Mapping[str, Tensor], samples: int
) -> dict[str, Tensor]:
    """The batch that a model makes of noisy features [B·S, D] and [C, D], and of what is not noisy."""
    logits = _SCALE * _cosines(image, text)
    clean = _SCALE * _cosines(beside["clean_image_features"], beside["clean_text_features"])
    return {
        "logits": logits,
        "labels": labels,
        "image_features": image,
        "text_features": text,
        "sample_logits": logits.unflatten(0, (-1, samples)),
        "sample_features": image.unflatten(0, (-1, samples)),
        "clean_logits": clean,
        "prompt_tokens": text.unsqueeze(0),
        "class_prior": torch.bincount(labels, minlength=len(text)) / len(labels),
        **{name: beside[name] for name in _BESIDE},
    }


_BESIDE = ("clean_image_features", "clean_text_features", "uniform")


def like(given: Mapping[str, Tensor], image: Tensor, text: Tensor) -> dict[str, Tensor]:
    """A batch with other noisy features."""
    return of_features(image, text, given["labels"], given, given["sample_logits"].shape[1])


def _cosines(image: Tensor, text: Tensor) -> Tensor:
    return functional.normalize(image, dim=-1) @ functional.normalize(text, dim=-1).mT


def value(loss: Loss, given: Mapping[str, Tensor]) -> Tensor:
    """The loss of what it requires, and of nothing else."""
    return loss({name: given[name] for name in loss.requires})


def _probe(loss: Loss) -> dict[str, Tensor]:
    return {"loss": value(loss, batch(loss))}


class LossConformance(Conformance):
    """Tests of a loss: ``component`` is its name, or a mapping with its parameters."""

    kind = "loss"

    @staticmethod
    def probe(component: Any) -> dict[str, Tensor]:
        """See :func:`_probe`."""
        return _probe(component)

    def test_it_reads_what_it_requires(self) -> None:
        """Of what there is, and no more."""
        loss = self.make()
        given = _Watched(batch(loss))
        assert loss.requires <= set(LOSS_BATCH), f"there is {', '.join(LOSS_BATCH)}"
        loss(given)
        assert given.read <= loss.requires, f"it reads {given.read - loss.requires}, too"

    def test_it_is_a_scalar_in_the_batch_s_number_format(self) -> None:
        """In single precision close to double."""
        loss = self.make()
        given = batch(loss)
        double, single = value(loss, given), value(loss, _single(given))
        assert double.shape == single.shape == ()
        assert (double.dtype, single.dtype) == (torch.float64, torch.float32)
        torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4)

    def test_gradients_are_right(self) -> None:
        """To both sides' features, by finite differences in float64."""
        loss = self.make()
        given = batch(loss, rows=4, classes=4, width=3)
        image, text = given["image_features"].requires_grad_(), given["text_features"].requires_grad_()

        def found(image: Tensor, text: Tensor) -> Tensor:
            return value(loss, like(given, image, text))

        assert torch.autograd.gradcheck(found, (image, text))

    def test_the_order_of_rows_and_of_classes_does_not_matter(self) -> None:
        """Rows and classes in another order give the same loss."""
        loss = self.make()
        given, samples = batch(loss), loss.min_samples
        pictures, classes = torch.randperm(8, generator=stream(1)), torch.randperm(5, generator=stream(2))
        rows = (pictures.unsqueeze(1) * samples + torch.arange(samples)).flatten()
        beside = {
            "clean_image_features": given["clean_image_features"][rows],
            "clean_text_features": given["clean_text_features"][classes],
            "uniform": given["uniform"][rows],
        }
        image, text = given["image_features"][rows], given["text_features"][classes]
        moved = of_features(image, text, classes.argsort()[given["labels"][rows]], beside, samples)
        torch.testing.assert_close(value(loss, moved), value(loss, given))

    def test_small_batches_and_large_logits_stay_finite(self) -> None:
        """One row, one class; logits of ±200 in single precision, right and wrong; and the gradients."""
        loss = self.make()
        for rows, classes in ((1, 5), (4, 1), (1, 1), (8, 5)):
            given = batch(loss, rows, classes, dtype=torch.float32)
            image, text = given["image_features"], given["text_features"]
            image[0], image[-1] = text[given["labels"][0]], -text[given["labels"][-1]]
            made = like(given, image.requires_grad_(), text.requires_grad_())
            made |= {name: 20 * made[name] for name in ("logits", "sample_logits", "clean_logits")}
            found = value(loss, made)
            assert found.isfinite(), f"{rows} rows, {classes} classes"
            if found.requires_grad:
                gradients = torch.autograd.grad(found, [image, text], allow_unused=True)
                assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)

    def test_nothing_is_random(self) -> None:
        """Twice the same, and no global generator is used."""
        loss = self.make()
        given = batch(loss)
        with no_global_randomness():
            assert torch.equal(value(loss, given), value(loss, given))

    def test_it_stays_on_the_device_and_never_waits_for_it(self) -> None:
        """No tensor of the processor gets in, and no number is looked at."""
        loss = self.make()
        given = batch(loss)
        assert_there(on_another_device(lambda given: value(loss, given).reshape(1), given))

    def test_runs_trained_together_come_out_as_alone(self) -> None:
        """With noise at both features, and at the prompt for a loss of its tokens."""
        from pinikit.testing.few_shot import check_trained_together

        loss = self.make()
        injections = _INJECTIONS | (_PROMPT if "prompt_tokens" in loss.requires else {})
        check_trained_together(injections, loss, learns=False)


def _single(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: item.float() if item.is_floating_point() else item for name, item in given.items()}
