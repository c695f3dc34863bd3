"""What holds of components of every kind, and how a component says where it is an exception."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pytest
from torch import Tensor

from pinikit.config.build import create
from pinikit.errors import ConfigError, listing, nearest
from pinikit.plugin import plugins, registry
from pinikit.registry import Entry
from pinikit.signature import REQUIRED, Parameter, Range
from pinikit.testing.probes import digest
from pinikit.testing.process import digest_in_a_process

RESERVED = {"loss": {"name", "weight"}}
"""Keys that stand beside a component's parameters in a study."""

GREEK = {"α": "alpha", "β": "beta", "γ": "gamma", "ε": "epsilon", "κ": "kappa", "τ": "tau"}
"""Letters of formulas in docstrings that name a parameter."""


class Conformance:
    """Tests of one component; the subclass of its kind is what to subclass.

    A check that a component cannot pass for a good reason is named in ``exceptions`` with that reason:
    it is run all the same, reported as an expected failure, and fails where it passes after all.
    """

    kind: ClassVar[str]
    """Of the component; given by the subclass of the kind."""
    component: ClassVar[str | Mapping[str, Any]]
    """As a study names it: ``"my_noise"``, or with parameters ``{"name": "my_noise", "widen": 2.0}``."""
    exceptions: ClassVar[Mapping[str, str]] = {}
    """Name of a check -> why the component does not pass it."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for check, reason in vars(cls).get("exceptions", {}).items():
            checks = [name for name in dir(cls) if name.startswith("test_")]
            if check not in checks:
                raise TypeError(
                    f"{cls.__name__}.exceptions: no check {check!r}{nearest(check, checks)}; "
                    f"checks: {listing(checks)}"
                )
            if not isinstance(reason, str) or not reason.strip():
                raise TypeError(f"{cls.__name__}.exceptions[{check!r}]: found no reason; allowed: a sentence")
            setattr(cls, check, _expected_to_fail(getattr(cls, check), reason))

    # --- what a check works with ------------------------------------------------------------------------

    @property
    def spec(self) -> dict[str, Any]:
        """The component as a mapping."""
        if not hasattr(self, "component"):
            pytest.fail(f"{type(self).__name__}: component is missing; allowed: the name of a {self.kind}")
        given = self.component
        return {"name": given} if isinstance(given, str) else dict(given)

    @property
    def entry(self) -> Entry:
        """What the registry knows of it."""
        try:
            return registry().find(self.kind, self.spec["name"], f"{type(self).__name__}.component")
        except ConfigError as error:  # its plug-in may be one of those that were left out
            left_out = [f"plug-in {item.plugin!r} was left out: {item.reason}" for item in plugins().problems]
            pytest.fail("\n".join([str(error), *left_out]))

    def make(self, **changes: Any) -> Any:
        """A new component with the given parameters, some of them changed."""
        parameters = self.entry.signature.parameters
        spec = {**self.spec, **changes}
        unknown = [key for key in spec if key not in parameters and key != "name"]
        if unknown:
            pytest.fail(
                f"{self.kind} {spec['name']!r} has no parameter {unknown[0]!r}: {listing(parameters)}"
            )
        return create(self.kind, spec, type(self).__name__)

    @staticmethod
    def probe(component: Any) -> Mapping[str, Tensor]:
        """What is compared between processes; given by the subclass of the kind."""
        raise NotImplementedError

    # --- what holds of every component ------------------------------------------------------------------

    def test_it_is_documented(self) -> None:
        """One line for ``pinikit list``; every parameter is named in the class's docstring."""
        doc, entry = self.entry.signature.doc, self.entry
        assert entry.doc, "its doc line is empty"
        assert "\n" not in entry.doc
        assert doc, "its class has no docstring"
        words = {*re.findall(r"[A-Za-z0-9_]+", doc), *(GREEK[letter] for letter in doc if letter in GREEK)}
        missing = [name for name in entry.signature.parameters if name not in words]
        assert not missing, f"its docstring does not name {listing(missing)}"

    def test_its_parameters_can_stand_in_a_study(self) -> None:
        """They have types, and names that mean nothing else there; its version counts from 1."""
        taken = RESERVED.get(self.kind, {"name"})
        for parameter in self.entry.signature.parameters.values():
            assert parameter.name not in taken, (
                f"{parameter.name!r} means something else beside a {self.kind}"
            )
            assert parameter.type is not Any, f"{parameter.name!r} has no type"
        assert self.entry.signature.version >= 1

    def test_its_search_space_is_valid(self) -> None:
        """Each range holds the default, and the component can be made at both its ends or with any choice."""
        for parameter in self.entry.signature.parameters.values():
            if parameter.search is not None:
                self._check_range(parameter, parameter.search)

    def _check_range(self, parameter: Parameter, search: Range) -> None:
        from optuna import distributions

        space = getattr(distributions, search.distribution)(**search.arguments)
        default = parameter.default
        if default is not REQUIRED and default is not None:
            inside = space._contains(space.to_internal_repr(default))
            assert inside, f"{parameter.name}: the default {default} is not in {search}"
        ends = search.arguments.get("choices") or [search.arguments["low"], search.arguments["high"]]
        for value in ends:
            self.make(**{parameter.name: value})

    def test_it_is_the_same_in_another_process(self) -> None:
        """Made there from its configuration it gives the same bits, as workers of a study do."""
        here = digest(type(self).probe(self.make()))
        assert digest_in_a_process(self.kind, self.spec) == here


def _expected_to_fail(check: Callable[..., None], reason: str) -> Callable[..., None]:
    """The check, which must fail."""

    @functools.wraps(check)
    def run(*arguments: Any, **options: Any) -> None:
        check(*arguments, **options)

    marked: Callable[..., None] = pytest.mark.xfail(reason=reason, strict=True)(run)
    return marked


def conformance_of(
    base: type[Conformance], source: str, explicit: Mapping[str, Any]
) -> dict[str, type[Conformance]]:
    """A test class for each component of a plug-in that has none yet; variants with parameters do not count.

    Args:
        base: the class of their kind.
        source: the plug-in, with its version, as ``pinikit list`` shows it.
        explicit: a test module's ``globals()``, with the classes of components that need one of their own.

    Returns:
        Classes by name, to be put into the module: ``globals().update(...)``.
    """
    classes = [item for item in explicit.values() if isinstance(item, type) and issubclass(item, base)]
    given = [item.component for item in classes if "component" in vars(item)]
    made = {}
    for entry in registry().entries(base.kind):
        parameters = entry.signature.parameters.values()
        only_so = any(item.default is REQUIRED for item in parameters)  # it cannot be named alone
        there = {
            item if isinstance(item, str) else item["name"]
            for item in given
            if only_so or isinstance(item, str)
        }
        if entry.source == source and entry.name not in there:
            name = "Test" + entry.target.partition(":")[2] + base.kind.capitalize()
            made[name] = type(name, (base,), {"component": entry.name, "__module__": explicit["__name__"]})
    return made
