"""Checkpoints of training under way, so that an interruption costs at most a minute of it.

``runs/by-group/<hash of the runs' identities>/`` holds how far a group of runs is that are trained
together: ``state.json`` with everything but the tensors, and the safetensors file that it names. The
folder goes when the group's results are stored. Imports torch only to keep and to load.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pinikit.data.files import checksum, read_json, write_atomic, write_json
from pinikit.errors import DataError, PinikitError
from pinikit.study.store import RESULT, Store
from pinikit.training.context import Checkpoints

if TYPE_CHECKING:
    from torch import Tensor

    from pinikit.study.costs import Meter

FORMAT = 1
"""Raised when what training keeps, or how, changes."""

INTERVAL = 60.0
"""Seconds from one checkpoint to the next: short runs never pay for one."""

BEING_WRITTEN = 3600.0
"""Seconds for which a checkpoint that cannot be read may be one that another process is writing."""

STATE = "state.json"


class StopRequest:
    """Asks training to stop after the epoch under way; may be set from a signal handler or a thread."""

    def __init__(self) -> None:
        self._asked = False

    def set(self) -> None:
        """Ask."""
        self._asked = True

    def is_set(self) -> bool:
        """Whether it was asked."""
        return self._asked


class Interrupted(KeyboardInterrupt):
    """Training stopped because it was asked to; how far it was is kept."""


class GroupCheckpoints(Checkpoints):
    """The checkpoints of runs that are trained together.

    Args:
        store: where they lie.
        run_ids: the group's identities.
        conditions: what else decides the bits (versions, device, threads): a checkpoint that was made
            under others is not used.
        stop: looked at after each epoch.
        tell: told what a user should know.
        interval: seconds between checkpoints; :data:`INTERVAL` if left out.
    """

    def __init__(
        self,
        store: Store,
        run_ids: Sequence[str],
        conditions: Mapping[str, Any],
        *,
        stop: StopRequest | None = None,
        tell: Callable[[str], None] = lambda text: None,
        interval: float | None = None,
    ) -> None:
        self.folder = store.group_folder(run_ids)
        self.earlier: dict[str, float] = {}
        """What training cost before it was interrupted."""
        self.meter: Meter | None = None
        """Measures what it has cost since; set by whoever begins the training."""
        self._runs, self._conditions = list(run_ids), dict(conditions)
        self._stop, self._tell = stop or StopRequest(), tell
        self._interval = INTERVAL if interval is None else interval
        self._last = time.monotonic()
        self._keeps = True

    def load(self) -> Any | None:
        """What was kept last, if it is whole and was made under the same conditions; else that is told."""
        from safetensors import SafetensorError

        if not (self.folder / STATE).is_file():
            return None
        try:
            description = _read(self.folder)
            self._check_conditions(description)
            state = _load_state(self.folder, description)
        except (PinikitError, SafetensorError, KeyError, TypeError, ValueError) as error:
            self._tell(f"training starts again: the checkpoint in {self.folder} is of no use ({error})")
            self.remove()
            return None
        self.earlier = dict(description["costs"])
        self._tell(f"training goes on after epoch {description['epoch']} of {description['epochs']}")
        return state

    def offer(self, epoch: int, epochs: int, state: Callable[[], Any]) -> None:
        """Keep ``state()`` if the last time was long ago or training is to stop.

        Raises:
            Interrupted: it was asked to stop.
        """
        stop = self._stop.is_set()
        if stop or time.monotonic() - self._last >= self._interval:
            self._keep(epoch, epochs, state)
            self._last = time.monotonic()
        if stop:
            raise Interrupted(f"stopped after epoch {epoch} of {epochs}")

    def spent(self) -> dict[str, float]:
        """What training has cost so far, before the interruption and since, but for what was done twice."""
        from pinikit.study.costs import add_costs

        return add_costs(self.earlier, self.meter.costs() if self.meter else {})

    def remove(self) -> None:
        """Forget what was kept."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # refused unless it is empty
            self.folder.parent.rmdir()

    def _keep(self, epoch: int, epochs: int, state: Callable[[], Any]) -> None:
        """Write a checkpoint; where that fails, training goes on without."""
        if not self._keeps:
            return
        try:
            self._write(epoch, epochs, state())
        except (PinikitError, TypeError) as error:
            self._keeps = False
            self._tell(f"an interruption would cost the whole training, as it cannot be kept: {error}")

    def _write(self, epoch: int, epochs: int, state: Any) -> None:
        from safetensors.torch import save

        tensors: dict[str, Tensor] = {}
        values = _pack(state, tensors)
        content = save(tensors)
        name = f"{epoch}.safetensors"
        write_atomic(self.folder / name, content)
        description = {
            "format": FORMAT,
            "runs": self._runs,
            "epoch": epoch,
            "epochs": epochs,
            "conditions": self._conditions,
            "costs": self.spent(),
            "tensors": {"file": name, "sha256": hashlib.sha256(content).hexdigest()},
            "state": values,
        }
        write_json(self.folder / STATE, {**description, "checksum": checksum(description)})
        for path in self.folder.iterdir():
            if path.name not in (STATE, name):
                path.unlink(missing_ok=True)

    def _check_conditions(self, description: Mapping[str, Any]) -> None:
        for name, value in self._conditions.items():
            if (found := description["conditions"].get(name)) != value:
                raise DataError(f"{name}: {found} then, {value} now")


# --- what others may know -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """A checkpoint as its description tells it."""

    folder: Path
    runs: tuple[str, ...]
    epoch: int
    epochs: int
    moment: float
    """When it was written, in seconds since 1970."""


def kept_checkpoints(store: Store) -> Iterator[Kept]:
    """The checkpoints in a store; damaged ones are left out."""
    for folder in store.group_folders():
        with suppress(DataError, KeyError, TypeError, ValueError, OSError):
            found = _read(folder)
            moment = (folder / STATE).stat().st_mtime
            yield Kept(folder, tuple(found["runs"]), found["epoch"], found["epochs"], moment)


def checkpoint_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None if it is sound."""
    try:
        _tensor_bytes(folder, _read(folder))
    except (DataError, OSError, KeyError, TypeError, ValueError) as error:
        return str(error)
    return None


def tidy_checkpoints(store: Store) -> None:
    """Remove checkpoints that nobody needs: their runs have results, or they have long been of no use.

    A process was killed before it could do so, or the runs were trained in other groups.
    """
    kept = {item.folder: item for item in kept_checkpoints(store)}
    for folder in store.group_folders():
        if folder in kept:
            needed = not all((store.run_folder(run_id) / RESULT).is_file() for run_id in kept[folder].runs)
        else:
            needed = _age(folder) < BEING_WRITTEN
        if not needed:
            shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # refused unless it is empty
        (store.folder / "by-group").rmdir()


def _age(folder: Path) -> float:
    """Seconds since a file came or went; 0 where the folder just went."""
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0


# --- files --------------------------------------------------------------------------------------------


def _read(folder: Path) -> dict[str, Any]:
    """A checkpoint's description.

    Raises:
        DataError: it is damaged, or of another format.
    """
    path = folder / STATE
    description = read_json(path, "checkpoint")
    if not isinstance(description, dict) or description.get("checksum") != checksum(description):
        raise DataError(f"{path} does not match its own checksum")
    if description["format"] != FORMAT:
        raise DataError(f"{path} has format {description['format']}; this pinikit knows {FORMAT}")
    return description


def _tensor_bytes(folder: Path, description: Mapping[str, Any]) -> bytes:
    path = folder / description["tensors"]["file"]
    try:
        content: bytes = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    if hashlib.sha256(content).hexdigest() != description["tensors"]["sha256"]:
        raise DataError(f"{path} does not match its checksum")
    return content


def _load_state(folder: Path, description: Mapping[str, Any]) -> Any:
    from safetensors.torch import load

    return _unpack(description["state"], load(_tensor_bytes(folder, description)))


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON; its tensors go to ``tensors`` under numbers. Keys may be other than texts.

    Raises:
        TypeError: there is something else in it.
    """
    from torch import Tensor

    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone()  # safetensors wants no two that share memory
        return {"tensor": name}
    if isinstance(value, float):
        return {"float": value.hex()}  # JSON has no infinities
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {"items": [[_pack(key, tensors), _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_pack(item, tensors) for item in value]
    raise TypeError(f"found {type(value).__name__}; allowed: numbers, texts, None, tensors")


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of :func:`_pack`."""
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "float":
        return float.fromhex(content)
    if kind == "tuple":
        return tuple(_unpack(item, tensors) for item in content)
    if kind == "items":
        return {_unpack(key, tensors): _unpack(item, tensors) for key, item in content}
    raise ValueError(f"unknown entry {kind!r}")
