"""What all benchmarks share: options, clock, machine, and the table that is printed and kept."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import open_clip
import torch
from rich.console import Console
from rich.table import Table as RichTable

from pinikit.backbones.base import Backbone
from pinikit.backbones.loading import load_backbone
from pinikit.backbones.precision import DTYPES
from pinikit.backbones.spec import RANDOM, BackboneSpec
from pinikit.config.hardware import cuda_capability, resolve_precision
from pinikit.data.files import write_atomic

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
SHARED = Path(os.environ.get("PINIKIT_SHARED") or ROOT.parent / "shared")
"""Real pictures and models, which are no part of the repository."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """One measurement: rows of equal keys, and what a reader must know of them."""

    name: str
    """The benchmark's module name: the section of RESULTS.md."""
    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()


# --- options ------------------------------------------------------------------------------------


def parser(description: str | None, *, classes: Sequence[int], repeat: int) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    made.add_argument("--classes", type=int, nargs="+", default=list(classes), metavar="N")
    made.add_argument("--threads", type=int, default=torch.get_num_threads())
    made.add_argument("--repeat", type=int, default=repeat, help="repetitions; the median counts")
    made.add_argument("--device", default="all", help="cpu, cuda, or all that there are (default)")
    made.add_argument("--backbone", default="ViT-B-16", help="an architecture (random weights) or glyph")
    made.add_argument("--json", action="store_true", help="print JSON instead of a table")
    made.add_argument("--write", action="store_true", help="also put the table into benchmarks/RESULTS.md")
    return made


def devices(name: str) -> list[torch.device]:
    """The devices that ``--device`` names."""
    names = ["cpu", *(["cuda"] if cuda_capability() else [])] if name == "all" else [name]
    return [torch.device(each) for each in names]


def precisions(device: torch.device, backbone: str) -> list[str]:
    """fp32, and what ``precision: auto`` stands for on this device where that is another one."""
    return list(dict.fromkeys(["fp32", resolve_precision("auto", device.type, backbone)]))


def make_backbone(name: str, device: torch.device, precision: str) -> Backbone:
    """A frozen backbone as a run has it; an architecture gets seeded random weights."""
    has_weights = name == "glyph" or ":" in name
    spec = BackboneSpec(name) if has_weights else BackboneSpec(name, RANDOM)
    return load_backbone(spec).to(device, DTYPES[precision])


def class_names(count: int) -> tuple[str, ...]:
    """``count`` names spread evenly over ImageNet's 1,000, so that their lengths are realistic.

    Raises:
        ValueError: more than there are.
    """
    known = list(dict.fromkeys(open_clip.IMAGENET_CLASSNAMES))
    known += [f"{name} (two)" for name in known[: 1000 - len(known)]]  # two of the 1,000 stand twice
    if count > len(known):
        raise ValueError(f"--classes: found {count}; allowed: 1 to {len(known)}")
    return tuple(known[index * len(known) // count] for index in range(count))


# --- clock and memory ---------------------------------------------------------------------------


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """How long a call takes, until the device is done with it."""
    synchronise(device)
    start = time.perf_counter()
    function()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def free_bytes(device: torch.device) -> int:
    """Memory that may still be used on the device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        found = None
    return int(found.group(1)) * 1024 if found else 4 * 10**9


def saved_bytes(function: Callable[[], object], frozen: torch.nn.Module) -> int:
    """What autograd keeps of ``function`` for the backward pass, weights of ``frozen`` left out."""
    weights = {weight.untyped_storage().data_ptr() for weight in frozen.parameters()}
    kept: dict[int, torch.Tensor] = {}  # holding them keeps their addresses from being used again

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in weights)


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that is removed afterwards, with an empty cache of its own for the view bank."""
    before = os.environ.get("PINIKIT_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PINIKIT_CACHE"] = str(Path(folder) / "cache")
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ["PINIKIT_CACHE"]
            else:
                os.environ["PINIKIT_CACHE"] = before


def in_child(module: str, arguments: Sequence[str], threads: int) -> dict[str, Any]:
    """What ``python -m module`` prints as JSON, run in a process of its own.

    Raises:
        subprocess.CalledProcessError: it failed; its own message has been shown.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, encoding="utf-8"
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


# --- the table ----------------------------------------------------------------------------------


def publish(table: Table, options: argparse.Namespace, arguments: Sequence[str] | None) -> None:
    """Print the table, and keep it in RESULTS.md if that is asked for."""
    facts = circumstances(table.name, options.threads, sys.argv[1:] if arguments is None else arguments)
    if options.json:
        print(json.dumps({"name": table.name, **facts, "rows": table.rows, "notes": table.notes}, indent=1))
    else:
        _show(table, facts)
    if options.write:
        write_section(RESULTS, table.name, as_markdown(table, facts))


def circumstances(name: str, threads: int, arguments: Sequence[str]) -> dict[str, str]:
    """Machine, versions, date and command."""
    kept = [argument for argument in arguments if argument not in ("--write", "--json")]
    packages = ("pinikit", "torch", "open_clip_torch", "timm")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return {
        "machine": f"{_processor()}, {threads} of {os.cpu_count()} cores used{_gpu()}",
        "versions": f"Python {platform.python_version()}, {versions}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join([f"OMP_NUM_THREADS={threads} python -m benchmarks.{name}", *kept]),
    }


def as_markdown(table: Table, facts: Mapping[str, str]) -> str:
    """The table as a section of RESULTS.md."""
    columns = list(table.rows[0])
    lines = [f"## {table.title}", "", f"    {facts['command']}", ""]
    lines += [f"{facts['date']} · {facts['machine']} · {facts['versions']}", ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(as_text(row[column]) for column in columns) + " |" for row in table.rows]
    return "\n".join([*lines, "", *(f"* {note}" for note in table.notes), ""])


def write_section(path: Path, name: str, markdown: str) -> None:
    """Put ``markdown`` in the place of the section ``name``, or behind the others."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    text = path.read_text(encoding="utf-8") if path.exists() else "# Benchmark results\n"
    section = f"{begin}\n{markdown}{end}\n"
    if begin in text:
        before, _, rest = text.partition(begin)
        text = before + section + rest.partition(f"{end}\n")[2]
    else:
        text = f"{text.rstrip()}\n\n{section}"
    write_atomic(path, text)


def as_text(value: object) -> str:
    """A cell: three significant digits, plain for whole numbers, a dash for nothing."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.0e}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _show(table: Table, facts: Mapping[str, str]) -> None:
    shown = RichTable(title=table.title)
    for column in table.rows[0]:
        shown.add_column(column, justify="right")
    for row in table.rows:
        shown.add_row(*(as_text(value) for value in row.values()))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(shown)
    for line in (*table.notes, *(f"{key}: {value}" for key, value in facts.items())):
        console.print(line, highlight=False)


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found.group(1) if found else platform.processor() or platform.machine()


def _gpu() -> str:
    return f", {torch.cuda.get_device_name()}" if cuda_capability() else ""
