"""Whether a configuration can be built on a tune study's backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pinikit.config.checking import Checker
from pinikit.errors import ConfigError, PinikitError
from pinikit.plugin import registry
from pinikit.study.arm import Arm
from pinikit.study.checks import Look
from pinikit.study.groups import shapes_of
from pinikit.study.study import Resolver, Run
from pinikit.tuning.blind import blind
from pinikit.tuning.study import TuneStudy

if TYPE_CHECKING:
    from pinikit.study.run import Workshop


class Fits:
    """Says of a complete run configuration why it cannot be built, as for the arms of a study.

    The backbone is loaded at the first call. Configurations that differ in floating-point numbers only
    are built once; the numbers themselves are looked at by the components' constructors.
    """

    def __init__(self, study: TuneStudy, workshop: Workshop) -> None:
        self.look = Look(workshop)
        self._resolver, self._seeds = Resolver(Checker(registry()), prepare=blind), study.seeds
        self._evaluate = {**study.base["evaluate"], "other_data": {}}

    def runs(self, config: Mapping[str, Any], seeds: Sequence[int] | None = None) -> list[Run]:
        """The runs of a configuration with the study's seeds, or some, without anything to test them on.

        Their data has no test split, and other data that is tested on besides is not even looked for.

        Raises:
            PinikitError: the data or the weights are not there, or the prompt is wrong.
        """
        arm = Arm("trial", {**config, "evaluate": self._evaluate}, "trial", {}, None)
        return self._resolver.runs(arm, self._seeds if seeds is None else seeds)

    def __call__(self, config: Mapping[str, Any]) -> str | None:
        """The reason why a configuration cannot be built; None if it can.

        Raises:
            DataError, WeightsError: no configuration can be: data or weights are missing or damaged.
        """
        try:
            (run,) = self.runs(config, self._seeds[:1])
        except ConfigError as error:
            return str(error)
        found = self.look.footprint(run, shapes_of([run])[0])
        if isinstance(found, PinikitError) and not isinstance(found, ConfigError):
            raise found
        return str(found) if isinstance(found, PinikitError) else None
