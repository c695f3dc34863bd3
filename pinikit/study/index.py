"""What a store knows of a study: its runs, and the command that asked for them. Imports no torch."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pinikit.data.files import read_json, write_json
from pinikit.errors import DataError
from pinikit.study.store import INDEX, Store

if TYPE_CHECKING:
    from pinikit.study.arm import Arm
    from pinikit.study.study import Study


@dataclass(frozen=True)
class StudyIndex:
    """A study as it was asked for last."""

    name: str
    question: str
    command: str
    """What to type to go on with it; empty in indices of earlier versions."""
    runs: Mapping[str, Mapping[int, str]]
    """Identities by arm and seed, in the study's order."""
    dropped: Any = None
    """What is known of arms that cannot be built; see :mod:`pinikit.study.checks`."""

    def entries(self) -> Iterator[tuple[str, int, str]]:
        """Arm, seed and identity of each run."""
        return ((arm, seed, run_id) for arm, seeds in self.runs.items() for seed, run_id in seeds.items())


def index_of(study: Study) -> StudyIndex:
    """The index of a resolved study."""
    runs = {arm: {seed: run.id for seed, run in seeds.items()} for arm, seeds in study.runs_by_arm.items()}
    return StudyIndex(study.name, study.question, command(study), runs)


def command(study: Study) -> str:
    """The command that runs a study with all that was changed on the command line."""
    from pinikit.config.loading import shipped_studies

    shipped = {path: name for name, path in shipped_studies().items()}
    words = ["pinikit", "run", shipped.get(study.file, str(study.file)), *study.overrides]
    words += ["--arms", study.picked] if study.picked is not None else []
    words += ["--fuse", study.fuse] if study.fuse != "auto" else []
    return shlex.join(words)


def write_index(study: Study, store: Store) -> None:
    """``study.json``: what the study asks for and which runs answer it.

    Raises:
        PinikitError: it cannot be written.
    """
    from pinikit.study.checks import dropped_record

    index = index_of(study)
    content = {
        "name": study.name,
        "question": study.question,
        "source": str(study.file),
        "overrides": study.overrides,
        "picked": study.picked,
        "fuse": study.fuse,
        "command": index.command,
        "baseline": study.baseline,
        "seeds": study.seeds,
        "arms": {name: arm.config for name, arm in study.arms.items()},
        "compared": {name: _place(arm) for name, arm in study.arms.items()},
        "axes": study.axes,
        "expect": {name: [asdict(item) for item in items] for name, items in study.expect.items()},
        "runs": index.runs,
        "dropped": dropped_record(study),
    }
    write_json(store.study_folder(study.name) / INDEX, content)


def _place(arm: Arm) -> dict[str, Any]:
    """What an arm is in the study's design."""
    return {"series": arm.series, "setting": arm.setting, "baseline": arm.baseline}


def read_index(store: Store, name: str) -> StudyIndex:
    """The index of a study in a store.

    Raises:
        DataError: it is missing or damaged.
    """
    path = store.study_folder(name) / INDEX
    content: Any = read_json(path, "index of a study")
    try:
        runs = {
            arm: {int(seed): str(key) for seed, key in row.items()} for arm, row in content["runs"].items()
        }
        words = content["name"], content["question"], content.get("command", "")
        return StudyIndex(*words, runs, content.get("dropped"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no index of a study; running the study again writes it anew") from error
