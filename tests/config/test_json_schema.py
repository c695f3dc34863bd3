"""The JSON Schema of studies: committed as generated, and of one mind with what pinikit says."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from test_study_files import STUDY, wrong
from typer.testing import CliRunner

from pinikit.cli.app import app
from pinikit.config.json_schema import study_schema
from pinikit.config.loading import shipped_studies
from pinikit.plugin import Plugins

FOLDER = Path(__file__).parents[2] / "studies"
NUMBER = {"value": 1, "tolerance": 1, "protocol": "p", "source": "s"}


@cache
def validator() -> Draft202012Validator:
    found = study_schema(Plugins([]).registry)
    Draft202012Validator.check_schema(found)
    return Draft202012Validator(found)


def is_valid(content: Any) -> bool:
    return bool(validator().is_valid(content))


def test_the_committed_schema_is_the_generated_one() -> None:
    """If not: ``pinikit schema -o studies/schema.json``."""
    assert json.loads((FOLDER / "schema.json").read_text(encoding="utf-8")) == validator().schema


def test_the_command_writes_it(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["schema", "-o", str(tmp_path / "schema.json")])
    assert (done.exit_code, done.stdout) == (0, "")
    assert json.loads((tmp_path / "schema.json").read_text(encoding="utf-8")) == json.loads(
        CliRunner().invoke(app, ["schema"]).stdout
    )


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies_are_valid_and_say_where_the_schema_is(name: str) -> None:
    path = shipped_studies()[name]
    text = path.read_text(encoding="utf-8")
    errors = [
        f"{list(error.path)}: {error.message[:200]}"
        for error in validator().iter_errors(yaml.safe_load(text))
    ]
    assert errors == []
    place = "../" * (len(path.relative_to(FOLDER).parts) - 1) + "schema.json"
    assert text.startswith(f"# yaml-language-server: $schema={place}\n")


DESIGNS: dict[str, Any] = {
    "key paths in arms": {"arms": {"a": {"method.injections.text": {"site": "pixels"}, "data.shots": 1}, "b": None}},
    "parameters": {"arms": {"a": {"method.injections.i.injector.hidden": 3, "method.injections.i.site": "image_block.-1"}}},
    "removal": {"arms": {"a": {"method.injections.text": None, "method.injections": {"image": None}}}},
    "factors": {"kind": "grid", "factors": {"method.optim.lr": [1, 2.5], "method": {"a": "pini", "b": {"name": "pini"}}}},
    "conditions": {"kind": "grid", "factors": {"data.shots": {"values": [1], "when": {"method.name": "pini"}}}},
    "labels": {"kind": "zip", "factors": {"size": {"small": {"data.shots": 1}, "large": {"data": {"shots": 9}}}}},
    "parts": {"kind": "leave_one_out", "parts": {"noise": {"method.injections.text.noise": "mu_only"}}},
    "axes": {"axes": {"data.shots": [1, 2], "data": {"few": {"name": "digits", "shots": 1}}}},
}  # fmt: skip


@pytest.mark.parametrize("what", DESIGNS)
def test_designs_are_valid(what: str) -> None:
    content = {
        **STUDY,
        "design": DESIGNS[what],
        "expect": {"a": NUMBER, "b": [NUMBER]},
        "defaults": ["x.yaml"],
    }
    assert list(validator().iter_errors(content)) == []


WRONG: dict[str, Any] = {
    "unknown top key": wrong("seed", [1]),
    "no name": {"run": {}},
    "misspelt key": wrong("run/data/shotz", 1),
    "unknown component": wrong("run/method/injections/i", {"site": "image_featur"}),
    "index of a plain site": wrong("run/method/injections/i", {"site": "pixels.2"}),
    "parameter of another component": wrong("run/method/injections/i", {"noise": {"name": "zero", "std": "abs"}}),
    "wrong literal": wrong("run/method/injections/i", {"noise": {"name": "gaussian", "std": "ab"}}),
    "wrong type": wrong("run/method/optim/lr", "fast"),
    "bool for a number": wrong("run/data/shots", True),
    "too small": wrong("run/data/shots", 0),
    "wrong choice": wrong("run/method/optim/schedule", "cosin"),
    "seeds of a number": wrong("seeds", 3),
    "misspelt path in an arm": wrong("design/arms/image", {"method.optim.lrr": 1}),
    "wrong value at a path": wrong("design/arms/image", {"method.optim.epochs": 1.5}),
    "unknown kind": wrong("design", {"kind": "gird"}),
    "misspelt factor": wrong("design", {"kind": "grid", "factors": {"method.optim.lrr": [1]}}),
    "wrong value of a factor": wrong("design", {"kind": "grid", "factors": {"method.optim.lr": ["fast"]}}),
    "factor of a number": wrong("design", {"kind": "grid", "factors": {"data.shots": 4}}),
    "condition without values": wrong("design", {"kind": "grid", "factors": {"data.shots": {"when": {"method": 1}}}}),
    "expectation without source": wrong("expect", {"image": {"value": 1, "tolerance": 1, "protocol": "p"}}),
    "defaults of a text": wrong("defaults", "x.yaml"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_typical_mistakes_are_found(what: str) -> None:
    assert is_valid(STUDY)
    assert not is_valid(WRONG[what])
