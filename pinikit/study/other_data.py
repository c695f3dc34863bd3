"""Data that runs are tested on and were not trained on (``run.evaluate.other_data``). Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pinikit.config.build import create
from pinikit.data.catalogue import DataSet, Item
from pinikit.data.files import canonical_json
from pinikit.errors import PinikitError
from pinikit.study.template import resolve_template


@dataclass(frozen=True, eq=False)
class OtherData:
    """The test pictures of a data set, and the words that its classes are named with."""

    dataset: DataSet
    spec: Mapping[str, Any]
    """The data set's name and parameters."""
    template: str
    """The prompt template as text: the run's word for it, of this data set."""
    class_names: tuple[str, ...]
    items: tuple[Item, ...]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides a result on these pictures, but for components' versions: no path is part of it."""
        paths = self.dataset.path_parameters
        pictures = [self.class_names, [[item.id, item.label] for item in self.items]]
        return {
            "data": {key: value for key, value in self.spec.items() if key not in paths},
            "template": self.template,
            "pictures": hashlib.sha256(canonical_json(pictures).encode()).hexdigest(),
            "content": self.dataset.content(self.items),
        }


class OtherDataSets:
    """Finds other data by what runs say of it; what several runs share is read once."""

    def __init__(self) -> None:
        self._datasets: dict[str, DataSet] = {}
        self._known: dict[tuple[str, str], OtherData] = {}

    def of(self, config: Mapping[str, Any]) -> dict[str, OtherData]:
        """By label, for a run's complete configuration.

        Raises:
            ConfigError, DataError: with the key, what was found and what is allowed.
        """
        word, found = config["prompt"]["template"], {}
        for label, spec in config["evaluate"]["other_data"].items():
            where = f"run.evaluate.other_data.{label}"
            try:
                found[label] = self._find(spec, word, where)
            except PinikitError as error:
                raise type(error)(_told_at(str(error), where)) from error
        return found

    def _find(self, spec: Mapping[str, Any], word: str, where: str) -> OtherData:
        key = canonical_json(spec)
        if (key, word) not in self._known:
            if key not in self._datasets:
                self._datasets[key] = create("dataset", spec, where)
            dataset = self._datasets[key]
            catalogue = dataset.catalogue()
            template = resolve_template(word, dataset)
            self._known[key, word] = OtherData(dataset, spec, template, catalogue.class_names, catalogue.test)
        return self._known[key, word]


def _told_at(message: str, where: str) -> str:
    """A data set's message with the key that it stands at; data sets believe to be ``run.data``."""
    placed = message.replace("run.data.", f"{where}.")
    return placed if where in placed else f"{where}: {placed}"
