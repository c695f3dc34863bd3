"""A study as the store knows it, without its file, its data set or its backbone. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pinikit.config.build import create
from pinikit.config.loading import shipped_studies
from pinikit.config.schema import DataExtras, ExpectConfig
from pinikit.data.catalogue import Catalogue, DataSet, Item
from pinikit.data.files import canonical_json, read_json
from pinikit.data.manifest import SplitManifest
from pinikit.errors import ConfigError, DataError, PinikitError, listing, nearest
from pinikit.study.arm import Arm
from pinikit.study.store import INDEX, Store, StoredResult
from pinikit.study.study import Run, Study, resolve_study

if TYPE_CHECKING:
    from PIL.Image import Image

Results = Mapping[tuple[str, int], StoredResult]


def stored_study(store: Store, source: str | Path) -> tuple[Study, Results]:
    """A study by its name or folder in the store, else by its file or the name of a shipped one.

    Raises:
        ConfigError: there is none, or none of its runs has a result.
        DataError: what the store knows of it is damaged.
    """
    name = Path(source).name if (Path(source) / INDEX).is_file() else str(source)
    known = store.study_names()
    if name in known:
        study, results = saved_study(store, name)
    elif Path(source).suffix in (".yaml", ".yml") or name in shipped_studies():
        study = resolve_study(source)
        found = (((run.arm, run.seed), store.load(run.id)) for run in study.runs)
        results = {key: result for key, result in found if result is not None}
    else:
        raise ConfigError(
            f"study {str(source)!r}: the store {store.folder} has none of this name"
            f"{nearest(name, known)}; allowed: {listing(known) if known else 'a study file'}"
        )
    if not results:
        raise ConfigError(
            f"study {study.name!r}: none of its runs has a result in {store.folder}: run it first"
        )
    return study, results


def saved_study(store: Store, name: str) -> tuple[Study, Results]:
    """A study of the store with the results that are there, by arm and seed.

    Runs without a sound result are left out, of the study too.

    Raises:
        DataError: the study's index, or a file of a run, is missing, damaged, or of an earlier version.
    """
    path = store.study_folder(name) / INDEX
    index: Any = read_json(path, "index of a study")
    try:
        results = dict(_results(store, index["runs"]))
        files = _Files(store)
        runs = tuple(
            files.run(arm, seed, result) for (arm, seed), result in results.items() if result.finished
        )
        study = Study(
            index["name"],
            index["question"],
            Path(index["source"]),
            index["baseline"],
            {arm: Arm(arm, config, **index["compared"][arm]) for arm, config in index["arms"].items()},
            tuple(index["seeds"]),
            runs,
            axes={axis: tuple(values) for axis, values in index["axes"].items()},
            expect={
                arm: tuple(ExpectConfig(**item) for item in items) for arm, items in index["expect"].items()
            },
            dropped={arm: item["reason"] for arm, item in index["dropped"].get("arms", {}).items()},
            overrides=tuple(index["overrides"]),
            picked=index["picked"],
            fuse=index.get("fuse", "auto"),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no index of a study; running the study again writes it anew") from error
    return study, results


def _results(
    store: Store, runs: Mapping[str, Mapping[str, str]]
) -> Iterator[tuple[tuple[str, int], StoredResult]]:
    for arm, seeds in runs.items():
        for seed, run_id in seeds.items():
            result = store.load(run_id)
            if result is not None:
                yield (arm, int(seed)), result


@dataclass
class _Files:
    """Reads runs' folders; what several runs have in common is read once."""

    store: Store
    _manifests: dict[str, SplitManifest] = field(default_factory=dict)
    _datasets: dict[str, DataSet] = field(default_factory=dict)

    def run(self, arm: str, seed: int, result: StoredResult) -> Run:
        folder = self.store.run_folder(result.run_id)
        described: Any = read_json(folder / "config.json", "configuration of a run")
        config = described["config"]
        return Run(
            result.run_id,
            arm,
            seed,
            config,
            described["template"],
            self._manifest(folder / "manifest.json", result.content["files"]["manifest.json"]),
            self._dataset(config["data"]),
            described["identity"],
        )

    def _manifest(self, path: Path, digest: str) -> SplitManifest:
        if digest not in self._manifests:
            self._manifests[digest] = SplitManifest.load(path)
        return self._manifests[digest]

    def _dataset(self, data: Mapping[str, Any]) -> DataSet:
        """What opens the pictures."""
        spec = {key: value for key, value in data.items() if key not in DataExtras.__dataclass_fields__}
        key = canonical_json(spec)
        if key not in self._datasets:
            try:
                self._datasets[key] = create("dataset", spec, "run.data")
            except PinikitError:
                self._datasets[key] = _Gone()
        return self._datasets[key]


class _Gone(DataSet):
    """Stands for a data set whose component is not installed any more: it has no pictures to show."""

    name = "gone"
    plain_template = pini_words = ""

    def read(self) -> Catalogue:
        raise DataError("this data set is gone")

    def open(self, item: Item) -> Image:
        raise DataError(f"{item.id}: its data set is gone")

    def check(self, items: Iterable[Item]) -> None:
        raise DataError("this data set is gone")
