"""What a search was asked for, so that ``pinikit tune --resume`` can ask for the same. Imports no torch."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pinikit.data.files import read_json, write_json
from pinikit.errors import DataError

REQUEST = "tune.json"

RUNS = "runs"
"""The folder of the result store where none is given."""

_SECRETS = (
    re.compile(r"((?:^(?!journal:|[^:/@]*://)|://)[^:/@]*:).+(?=@)", re.DOTALL),  # USER:PASSWORD@
    re.compile(r"([?&][^=&#]*(?:pass(?!file)|pwd|secret|token|odbc_connect)[^=&#]*=)[^&#\s]+", re.IGNORECASE),
)
"""Passwords in a storage's URL: before the host, and in the query (``password``, ``sslpassword``, …)."""


@dataclass(frozen=True)
class Request:
    """The words of a ``pinikit tune`` command."""

    source: str
    """A study file, or a shipped study's name."""
    overrides: tuple[str, ...] = ()
    """With those that the options for sampler, pruner and seed stand for."""
    trials: int = 100
    """All trials of the search, those of earlier calls among them."""
    timeout: float | None = None
    """Seconds after which no trial begins."""
    jobs: int = 1
    storage: str | None = None
    """None: SQLite in the study's folder."""
    runs: str = RUNS
    """The folder of the result store."""

    @property
    def command(self) -> str:
        """What to type to ask for the same; a password in the storage's URL is not shown."""
        words = ["pinikit", "tune", self.source, *self.overrides, "--trials", str(self.trials)]
        words += ["--jobs", str(self.jobs)] if self.jobs != 1 else []
        words += ["--timeout", f"{self.timeout:g}"] if self.timeout is not None else []
        words += ["--storage", masked(self.storage)] if self.storage is not None else []
        words += ["--runs", self.runs] if Path(self.runs) != Path(RUNS) else []
        return shlex.join(words)

    def at(self, storage: str | None) -> Request:
        """The same in another storage, if one is given."""
        return self if storage is None else replace(self, storage=storage)

    @property
    def secret(self) -> bool:
        """Whether the storage's URL holds a password."""
        return self.storage is not None and masked(self.storage) != self.storage

    def as_json(self) -> dict[str, Any]:
        """As written to files: without the storage where its URL holds a password."""
        return {**asdict(self), "storage": None if self.secret else self.storage, "secret": self.secret}

    def save(self, folder: Path) -> None:
        """Write ``tune.json`` into the study's folder.

        Raises:
            PinikitError: it cannot be written.
        """
        write_json(folder / REQUEST, self.as_json())

    @classmethod
    def load(cls, folder: Path) -> tuple[Request, bool]:
        """The request that was written last, and whether its storage had a password, so that it lacks it.

        Raises:
            DataError: there is none, or it is damaged.
        """
        content = read_json(folder / REQUEST, "record of a search")
        try:
            return cls.of_json(content), bool(content["secret"])
        except (AttributeError, KeyError, TypeError) as error:
            raise DataError(f"{folder / REQUEST} is no record of a search; give the whole command") from error

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Request:
        """From :meth:`as_json`."""
        known = {item.name: content[item.name] for item in fields(cls)}
        return cls(**{**known, "overrides": tuple(known["overrides"])})


def masked(url: str) -> str:
    """A storage's URL without its passwords."""
    for pattern in _SECRETS:
        url = pattern.sub(r"\1***", url)
    return url


def without_secrets(text: str, url: str) -> str:
    """A message in which a driver may repeat a storage's URL, or a password of it."""
    text = text.replace(url, masked(url))
    for pattern in _SECRETS:
        for found in pattern.finditer(url):
            secret = found.group().removeprefix(found.group(1))
            for spelling in (secret, unquote(secret)):
                text = re.sub(rf"(?<!\w){re.escape(spelling)}(?!\w)", "***", text)
    return text
