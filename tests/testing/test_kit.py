"""The tests for authors fail where a component is wrong, and exceptions have to be true."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import pinikit.testing as kit
from pinikit.errors import ConfigError
from pinikit.plugin import plugins

BASES: dict[str, type[kit.Conformance]] = {
    "noise": kit.NoiseConformance,
    "loss": kit.LossConformance,
    "combine": kit.CombineConformance,
    "injector": kit.InjectorConformance,
}
DEVICE = "test_it_stays_on_the_device_and_never_waits_for_it"
CAUGHT = [
    ("noise", "undocumented", "test_it_is_documented"),
    ("noise", "undocumented", "test_its_parameters_can_stand_in_a_study"),
    ("noise", "undocumented", "test_its_search_space_is_valid"),
    ("noise", "refusing", "test_its_search_space_is_valid"),
    ("noise", "global", "test_all_its_randomness_comes_from_the_generator"),
    ("noise", "looking", DEVICE),
    ("noise", "elsewhere", DEVICE),
    ("noise", "shifted", "test_zero_parameters_are_no_noise"),
    ("noise", "shifted", "test_mean_and_variance_are_those_of_many_samples"),
    ("noise", "detached", "test_gradients_are_right"),
    ("noise", "detached", "test_it_keeps_the_number_format"),
    ("noise", "detached", "test_the_order_of_rows_does_not_matter"),
    ("noise", "narrow", "test_samples_have_the_event_s_shape"),
    ("loss", "greedy", "test_it_reads_what_it_requires"),
    ("loss", "greedy", "test_its_parameters_can_stand_in_a_study"),
    ("loss", "greedy", "test_the_order_of_rows_and_of_classes_does_not_matter"),
    ("loss", "greedy", "test_small_batches_and_large_logits_stay_finite"),
    ("combine", "shaky", "test_no_noise_is_the_identity"),
    ("combine", "shaky", "test_nothing_is_random"),
    ("combine", "shaky", "test_rows_do_not_depend_on_each_other"),
    ("injector", "forgetful", "test_its_state_is_all_that_it_learned"),
    ("injector", "forgetful", "test_initial_values_depend_on_seed_and_label_only"),
    ("injector", "forgetful", "test_images_do_not_depend_on_their_neighbours_nor_on_the_order_of_classes"),
]


@pytest.fixture(scope="module", autouse=True)
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("parts")
    shutil.copy(Path(__file__).parent / "bad_parts.py", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PINIKIT_PLUGINS_DIR", str(folder))
        plugins.cache_clear()
        yield
    plugins.cache_clear()


def case(kind: str, name: str, **attributes: object) -> kit.Conformance:
    made: kit.Conformance = type("TestIt", (BASES[kind],), {"component": name, **attributes})()
    return made


@pytest.mark.parametrize(("kind", "name", "check"), CAUGHT)
def test_what_is_wrong_is_caught(kind: str, name: str, check: str) -> None:
    with pytest.raises(
        (AssertionError, RuntimeError, ConfigError)
    ):  # torch's, of the device; a range refused
        getattr(case(kind, name), check)()


def test_a_good_one_passes() -> None:
    """All but what takes a process or training, which the built-ins go through."""
    good = case("noise", "good", variance=lambda self, noise, params: params["std"] ** 2)
    for check in dir(good):
        if check.startswith("test_") and "process" not in check and "together" not in check:
            getattr(good, check)()


@pytest.mark.parametrize(
    ("exceptions", "message"),
    [
        (
            {"test_gradients_are_rihgt": "a reason"},
            r"no check .* \(did you mean 'test_gradients_are_right'\?\)",
        ),
        ({"test_gradients_are_right": " "}, "found no reason"),
    ],
)
def test_exceptions_that_are_none(exceptions: dict[str, str], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        case("noise", "good", exceptions=exceptions)


def test_an_exception_must_be_true() -> None:
    """It is an expected failure, which fails where the check passes; other classes are not touched."""
    check = "test_gradients_are_right"
    (mark,) = getattr(case("noise", "good", exceptions={check: "a reason"}), check).pytestmark
    assert (mark.name, mark.kwargs) == ("xfail", {"reason": "a reason", "strict": True})
    assert not hasattr(getattr(kit.NoiseConformance, check), "pytestmark")


@pytest.mark.parametrize("name", ["godo", {"name": "good", "size": 1}])
def test_a_component_that_is_not_there_is_told(name: object) -> None:
    with pytest.raises(
        BaseException, match=r"unknown noise 'godo' \(did you mean 'good'|has no parameter 'size'"
    ):
        type("TestIt", (kit.NoiseConformance,), {"component": name})().make()
