"""What holds of every injector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from pinikit.components.contracts import CONTEXT, Event, Injector, Side, Surroundings
from pinikit.components.initialise import Initialiser
from pinikit.components.noise.gaussian import Gaussian
from pinikit.errors import ConfigError
from pinikit.testing.conformance import Conformance
from pinikit.testing.isolation import assert_there, no_global_randomness, on_another_device
from pinikit.testing.probes import PICTURE, TOKENS, VECTOR, numbers

_CLASSES, _BATCH, _WIDTH = 5, 3, VECTOR.shape[0]
PLACES: tuple[tuple[Side, Event], ...] = (
    ("image", VECTOR),
    ("image", TOKENS),
    ("image", PICTURE),
    ("text", TOKENS),
    ("text", VECTOR),
)
"""Side and event of the kinds of sites that there are."""

_SITES = (
    {"site": "image_feature", "share": "image"},
    {"site": "spatial_feature", "share": "image"},
    {"site": "prompt_template", "share": "batch"},
    {"site": "prompt_template", "share": "class"},
    {"site": "text_feature", "share": "class"},
    {"site": "pixels", "share": "image"},
)


def _context(side: Side, event: Event) -> dict[str, Tensor]:
    """A batch of what an injector may read there, single precision."""
    rows = _CLASSES if side == "text" else _BATCH
    shapes = {"here": (rows, *event.shape), "text_feature": (_CLASSES, _WIDTH)}
    if side == "image":
        shapes |= {
            "image_feature": (_BATCH, _WIDTH),
            "spatial_feature": (_BATCH, *TOKENS.shape),
            "noisy_text_feature": (_CLASSES, _WIDTH),
        }
    return {name: numbers(*shape, seed=len(name), dtype=torch.float32) for name, shape in shapes.items()}


def _build(injector: Injector, side: Side, event: Event, seed: int | None = 0, label: str = "a") -> Injector:
    shapes = {name: tuple(value.shape[1:]) for name, value in _context("image", event).items()}
    around = Surroundings(side, event, _CLASSES, shapes)
    injector.build(Gaussian(), around, Initialiser(seed, label))
    return injector.eval()


def _given(injector: Injector, context: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: context[name] for name in injector.requires}


def _probe(injector: Injector) -> dict[str, Tensor]:
    """Initial values and what is made of them, at the first place that fits."""
    for side, event in PLACES:
        try:
            _build(injector, side, event)
            raw = injector(_given(injector, _context(side, event)))
        except (ConfigError, KeyError):
            continue
        return {**injector.state_dict(), **{f"raw {name}": value for name, value in raw.items()}}
    return {}


class InjectorConformance(Conformance):
    """Tests of an injector: ``component`` is its name, or a mapping with its parameters."""

    kind = "injector"
    _fitting: ClassVar[list[tuple[Side, Event]]]

    @staticmethod
    def probe(component: Any) -> dict[str, Tensor]:
        """See :func:`_probe`."""
        return _probe(component)

    def test_it_fits_a_site(self) -> None:
        """Of a feature, tokens or pixels, on one side or the other; it refuses the others by ConfigError."""
        assert self._places(), "it can be built nowhere"

    def test_it_reads_what_it_requires(self) -> None:
        """Of what there is, and no more; a missing entry would raise a KeyError here."""
        for side, event in self._places():
            injector = _build(self.make(), side, event)
            assert injector.requires <= set(CONTEXT), f"there is {', '.join(CONTEXT)}"
            injector(_given(injector, _context(side, event)))

    def test_it_yields_the_noise_s_parameters(self) -> None:
        """Each broadcastable to the event, with one row or one for each image or class; finite; float32."""
        for side, event in self._places():
            injector, context = _build(self.make(), side, event), _context(side, event)
            target = tuple(context["here"].shape)
            raw = injector(_given(injector, context))
            assert set(raw) == set(Gaussian.parameters)
            for value in raw.values():
                assert torch.broadcast_shapes(value.shape, target) == target
                assert value.dtype == torch.float32
                assert value.isfinite().all()

    def test_it_works_in_double_precision(self) -> None:
        """Close to single precision."""
        for side, event in self._places():
            injector, context = _build(self.make(), side, event), _context(side, event)
            single = injector(_given(injector, context))
            double = injector.double()({k: v.double() for k, v in _given(injector, context).items()})
            for name, value in double.items():
                assert value.dtype == torch.float64
                torch.testing.assert_close(value, single[name].double(), rtol=1e-3, atol=1e-4)

    def test_gradients_are_right(self) -> None:
        """To everything learned, by finite differences along random directions in float64."""
        for side, event in self._places():
            injector = _build(self.make(), side, event).double()
            given = {k: v.double() for k, v in _given(injector, _context(side, event)).items()}
            learned = dict(injector.named_parameters())

            def raw(
                *values: Tensor,
                injector: Injector = injector,
                given: dict[str, Tensor] = given,
                names: tuple[str, ...] = tuple(learned),
            ) -> tuple[Tensor, ...]:
                found = torch.func.functional_call(injector, dict(zip(names, values, strict=True)), (given,))
                return tuple(found.values())

            if learned:
                assert torch.autograd.gradcheck(raw, tuple(learned.values()), fast_mode=True)

    def test_its_state_is_all_that_it_learned(self) -> None:
        """Another one, of another seed, that is given the state yields the same."""
        for side, event in self._places():
            one, other = (_build(self.make(), side, event, seed) for seed in (1, 2))
            other.load_state_dict(one.state_dict())
            given = _given(one, _context(side, event))
            for name, value in one(given).items():
                assert torch.equal(value, other(given)[name]), name

    def test_initial_values_depend_on_seed_and_label_only(self) -> None:
        """No global generator is used, also when it works; without a seed there are shapes alone."""
        for side, event in self._places():
            with no_global_randomness():
                one, again = (_build(self.make(), side, event) for _ in range(2))
                one(_given(one, _context(side, event)))
                shapes = _build(self.make(), side, event, seed=None).state_dict()
            state = one.state_dict()
            assert all(torch.equal(value, again.state_dict()[name]) for name, value in state.items())
            assert {name: value.shape for name, value in shapes.items()} == {
                name: value.shape for name, value in state.items()
            }
            for change in ({"seed": 1}, {"label": "b"}):
                other = _build(self.make(), side, event, **change).state_dict()
                drawn = [
                    name for name, value in state.items() if value.ndim > 1 and value.unique().numel() > 1
                ]
                assert not any(torch.equal(state[name], other[name]) for name in drawn), change

    def test_images_do_not_depend_on_their_neighbours_nor_on_the_order_of_classes(self) -> None:
        """A picture's noise is its own, and classes are a set."""
        for side, event in self._places():
            if side == "image":
                injector, context = _build(self.make(), side, event), _context(side, event)
                self._check_images(injector, _given(injector, context))

    @staticmethod
    def _check_images(injector: Injector, given: dict[str, Tensor]) -> None:
        both = injector(given)
        alone = injector({k: value[:1] if len(value) == _BATCH else value for k, value in given.items()})
        order = torch.tensor([3, 0, 4, 1, 2])
        turned = injector({k: value[order] if "text" in k else value for k, value in given.items()})
        for name, value in both.items():
            torch.testing.assert_close(value[:1], alone[name], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(value, turned[name], rtol=1e-4, atol=1e-5)

    def test_it_stays_on_the_device_and_never_waits_for_it(self) -> None:
        """No tensor of the processor gets in, and no number is looked at."""
        for side, event in self._places():
            injector = _build(self.make(), side, event)

            def run(state: dict[str, Tensor], given: dict[str, Tensor], injector: Injector = injector) -> Any:
                return torch.func.functional_call(injector, state, (given,))

            state = {**dict(injector.named_parameters()), **dict(injector.named_buffers())}
            assert_there(on_another_device(run, state, _given(injector, _context(side, event))))

    def test_runs_trained_together_come_out_as_alone(self) -> None:
        """At the first site of the backbone that fits; what is learned there is learned."""
        from pinikit.testing.few_shot import check_trained_together, noisy_model, tiny_tasks

        task = tiny_tasks()[0]
        for site in _SITES:
            injections = {
                "only": {**site, "injector": self.spec, "noise": {"name": "gaussian", "std": "sign_free"}}
            }
            try:
                noisy_model(injections, task.backbone, task.prompts)
            except ConfigError:
                continue
            check_trained_together(injections, learns=False)
            return
        raise AssertionError("it fits no site of a small ViT")

    def _places(self) -> list[tuple[Side, Event]]:
        """The places that the injector does not refuse; looked for once."""
        if "_fitting" not in vars(type(self)):
            type(self)._fitting = [place for place in PLACES if self._fits(*place)]
        return self._fitting

    def _fits(self, side: Side, event: Event) -> bool:
        try:
            injector = _build(self.make(), side, event, seed=None)
        except ConfigError:
            return False
        return injector.requires <= set(_context(side, event))
