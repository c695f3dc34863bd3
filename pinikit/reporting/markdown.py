"""``report.md``: what was asked, what came out, how it was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pinikit import __version__
from pinikit.reporting.changes import ArmSettings
from pinikit.reporting.text import count, duration, number, plural, plus_minus, signed_interval
from pinikit.study.statistics import ArmSummary, SharedCosts, arm_summaries, shared_costs

if TYPE_CHECKING:
    from pinikit.api import StudyResult
    from pinikit.study.study import Run

LAYOUT = 2
"""Raised when figure or report come out differently from equal results, so that old ones are made anew."""

_HEADLINE = (
    "Test accuracy in percent at the last epoch, with noise at its mean. No epoch and no setting was chosen "
    "on the test set: it was opened once, after training."
)
_INTERVALS = (
    "± is the half-width of the 95 % t-interval over seeds; each seed draws its own few-shot split, unless "
    "`data.split_seed` says otherwise."
)
_PAIRS = (
    "Δ is the mean of the paired differences to `{baseline}` on the seeds that both finished, in points, "
    "with its 95 % t-interval. Intervals are not corrected for the number of arms."
)
_DRAWS = (
    "`mc-K` averages the probabilities of K draws. *draw std* (spread of accuracy between these draws, mean "
    "over seeds), *flip rate* (how often two of them disagree on a picture) and *noise / feature* (size of "
    "the noise relative to what it meets) describe noise at test time and are no part of ±."
)
_COSTS = (
    "Time (training and evaluation, without loading and encoding pictures once for all runs), images/s and "
    "text tokens (in training) are of one run, a mean over seeds; runs that were trained together bear "
    "equal shares. Memory is the peak of the largest run. The cost class says what each training step "
    "crosses. *text GFLOP/s* is the speed of the text path, forward and backward, in a step after training; "
    "*of matmul* is its share of the speed of a plain matrix product in the same number format and process."
)


def report_text(result: StudyResult) -> str:
    """The report as Markdown."""
    study = result.study
    summaries = arm_summaries(study, result.results)
    parts = [
        f"# {study.name}",
        f"**{study.question}**" if study.question else "",
        headline_sentence(summaries, study.baseline, _task(study.runs)),
        "![Test accuracy by arm](accuracy.png)",
        "## Results",
        _result_table(summaries),
        "## Noise and calibration",
        _noise_table(summaries),
        "## Costs",
        _cost_table(summaries),
        _shared(shared_costs(result.results)),
        "## Arms",
        _arms(result),
        "## Data",
        _data(study.runs),
        _failures(result),
        _notes(result, summaries),
        "## How it was measured",
        _method(summaries, study.baseline),
        _environment(result),
        f"<!-- pinikit {__version__}, layout {LAYOUT} -->",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def headline_sentence(summaries: Sequence[ArmSummary], baseline: str | None, task: str) -> str:
    """The best arm with its numbers, and whether seeds tell it from the baseline."""
    finished = [row for row in summaries if row.seeds]
    if not finished:
        return "No run finished, so there is nothing to compare."
    best = max(finished, key=lambda row: row.accuracy)
    what = f"{plus_minus(best.accuracy, best.accuracy_interval)} % test accuracy on {task}"
    over = f"mean over {plural(best.seeds, 'seed')}"
    over += ", 95 % interval" if best.seeds > 1 else ", which gives no interval"
    reference = next((row for row in finished if row.arm == baseline), None)
    if len(finished) == 1:
        return f"`{best.arm}` reaches {what} ({over})."
    sentence = f"Of {plural(len(finished), 'arm')}, `{best.arm}` is the most accurate: {what} ({over})"
    if reference is None or best is reference:
        return f"{sentence}{'; no arm beats the baseline' if best is reference else ''}."
    gain = signed_interval(best.difference, best.difference_low, best.difference_high)
    verdict = _verdict(best)
    return f"{sentence}, {gain} points against `{baseline}` ({number(reference.accuracy)} %){verdict}."


def _verdict(row: ArmSummary) -> str:
    if row.pairs == 0:
        return "; they share no seed"
    if math.isnan(row.difference_low):
        return "; one shared seed says nothing about the spread"
    if row.difference_low <= 0 <= row.difference_high:
        return "; that interval contains 0, so these seeds do not tell the two apart"
    return f", ahead on {row.wins} of {plural(row.pairs, 'seed')}"


def _task(runs: Iterable[Run]) -> str:
    """Data set and shots in words."""
    tasks = dict.fromkeys((run.manifest.dataset, run.manifest.shots) for run in runs)
    return " and ".join(f"{dataset} with {plural(shots, 'shot')}" for dataset, shots in tasks)


def _result_table(summaries: Sequence[ArmSummary]) -> str:
    drawn = next((row.mc_noise for row in summaries if row.mc_noise), "mc")
    plain = ("arm", "seeds", "test accuracy", "Δ to baseline", "won/tied/lost")
    head = (*plain, "one draw", drawn, "macro", "time")
    rows = [
        (
            f"`{row.arm}`",
            f"{row.seeds}" + (f" ({row.failed} failed)" if row.failed else ""),
            plus_minus(row.accuracy, row.accuracy_interval),
            signed_interval(row.difference, row.difference_low, row.difference_high),
            f"{row.wins}/{row.ties}/{row.losses}" if row.pairs else "",
            number(row.sample_accuracy),
            number(row.mc_accuracy),
            number(row.macro_accuracy),
            duration(row.seconds_total),
        )
        for row in summaries
    ]
    return _table(head, rows)


def _noise_table(summaries: Sequence[ArmSummary]) -> str:
    head = ("arm", "draw std", "flip rate %", "noise / feature", "NLL", "ECE %")
    rows = [
        (
            f"`{row.arm}`",
            number(row.draw_std),
            number(row.flip_rate),
            row.noise_ratio,
            number(row.nll, 3),
            number(row.ece),
        )
        for row in summaries
    ]
    return _table(head, rows)


def _cost_table(summaries: Sequence[ArmSummary]) -> str:
    head = (
        "arm",
        "cost class",
        "parameters",
        "training",
        "evaluation",
        "images/s",
        "text tokens",
        "text GFLOP/s",
        "of matmul %",
        "peak MB",
    )
    rows = [
        (
            f"`{row.arm}`",
            row.cost_class,
            count(row.trainable_parameters),
            duration(row.seconds_train),
            duration(row.seconds_evaluate),
            count(row.images_per_second),
            count(row.tokens_train),
            number(row.text_flops_per_second / 1e9, 1),
            number(row.matmul_share, 1),
            count(row.peak_memory_mb),
        )
        for row in summaries
    ]
    return _table(head, rows)


def _shared(costs: SharedCosts) -> str:
    """What no arm bears alone."""
    return (
        f"For all runs together: backbones were loaded in {duration(costs.seconds_load)}; the frozen image "
        f"tower encoded {count(costs.images_encoded)} views of pictures, and {count(costs.rows_cached)} were "
        f"found in the bank, in {duration(costs.seconds_bank)}."
    )


def _arms(result: StudyResult) -> str:
    study = result.study
    settings = ArmSettings(study)
    against = f"the baseline `{study.baseline}`" if study.baseline else "what all arms share"
    lines = [f"What each arm changes against {against}; keys are relative to `run`.", ""]
    for arm in study.arms:
        mark = " (baseline)" if arm == study.arms[arm].baseline else ""
        lines += [f"- `{arm}`{mark}: {_keys(settings.changes(arm))}"]
    shared = [f"- {_code(key)}: {_code(text)}" for key, text in settings.shared.items()]
    return "\n".join([*lines, "", "Shared settings:", "", *shared])


def _keys(changes: dict[str, str]) -> str:
    return "; ".join(f"{_code(key)} {_code(text)}" for key, text in changes.items()) or "nothing"


def _code(text: str) -> str:
    return f"`{text}`"


def _data(runs: Sequence[Run]) -> str:
    """Each split manifest once, with the arms that use it if not all do."""
    arms = dict.fromkeys(run.arm for run in runs)
    rows = {}
    for run in runs:
        manifest = run.manifest
        users = list(dict.fromkeys(other.arm for other in runs if other.manifest.hash == manifest.hash))
        rows[manifest.hash] = (
            manifest.dataset,
            str(manifest.shots),
            str(manifest.split_seed),
            str(len(manifest.class_names)),
            f"{len(manifest.train)} / {len(manifest.val)} / {len(manifest.test)}",
            "all" if len(users) == len(arms) else ", ".join(f"`{arm}`" for arm in users),
            f"`{manifest.hash[:16]}`",
        )
    head = ("data set", "shots", "split seed", "classes", "train / val / test", "arms", "manifest")
    return _table(head, rows.values())


def _failures(result: StudyResult) -> str:
    lines = [
        f"- `{arm}`, seed {seed} (run `{item.run_id}`): {_one_line(item.error)}"
        for (arm, seed), item in result.results.items()
        if not item.finished
    ]
    return "\n".join(["## Failed runs", "", *lines]) if lines else ""


def _notes(result: StudyResult, summaries: Sequence[ArmSummary]) -> str:
    notes = [*result.study.notes, *_caveats(result, summaries)]
    return "\n".join(["## Notes", "", *(f"- {_one_line(note)}" for note in notes)]) if notes else ""


def _caveats(result: StudyResult, summaries: Sequence[ArmSummary]) -> Iterator[str]:
    """What a reader must know before believing the table."""
    if alone := [row.arm for row in summaries if row.seeds == 1]:
        yield f"No interval for {', '.join(f'`{arm}`' for arm in alone)}: one seed shows no spread."
    if fixed := [row.arm for row in summaries if row.accuracy_interval == 0]:
        names = ", ".join(f"`{arm}`" for arm in fixed)
        yield f"Every seed gives {names} the same accuracy: their ± 0.00 says nothing of other pictures."
    if fewer := [row for row in summaries if row.failed and row.pairs]:
        pairs = ", ".join(f"`{row.arm}` {row.pairs}" for row in fewer)
        yield f"Some seeds failed; differences are over the seeds that both arms have: {pairs}."
    if other := _on_other_data(result):
        yield (
            f"{', '.join(f'`{arm}`' for arm in other)} ran on other split manifests than the baseline: the "
            "difference is not one on the same pictures."
        )
    if odd := [row for row in summaries if row.noise not in ("", "mean")]:
        yield f"Without noise at its mean: {', '.join(f'`{row.arm}` ({row.noise})' for row in odd)}."
    if sum(row.seeds > 0 for row in summaries) > 2:
        yield "The most accurate arm was picked by test accuracy: with many arms, its lead is optimistic."


def _on_other_data(result: StudyResult) -> list[str]:
    study = result.study
    manifests = {(run.arm, run.seed): run.manifest.hash for run in study.runs}
    return [
        name
        for name, arm in study.arms.items()
        if arm.baseline is not None
        and any(manifests.get((name, seed)) != manifests.get((arm.baseline, seed)) for seed in study.seeds)
    ]


def _method(summaries: Sequence[ArmSummary], baseline: str | None) -> str:
    lines = [_HEADLINE, _INTERVALS]
    if baseline is not None:
        lines.append(_PAIRS.format(baseline=baseline))
    if any(row.mc_noise for row in summaries):
        lines.append(_DRAWS)
    return "\n".join(f"- {line}" for line in [*lines, _COSTS])


def _environment(result: StudyResult) -> str:
    """Where the runs were trained, as their own records say."""
    found = dict.fromkeys(_environment_line(path) for path in _environment_files(result))
    lines = [line for line in found if line]
    return "\n".join(f"Trained with {line}." for line in lines) or "Nothing is known of where it was trained."


def _environment_files(result: StudyResult) -> list[Path]:
    by_id = result.folder.parent.parent / "by-id"
    return [by_id / item.run_id / "environment.json" for item in result.results.values()]


def _environment_line(path: Path) -> str:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
        machine = f"{content['device']}, {plural(int(content['threads']), 'thread')}"
        return f"Python {content['python']} on {content['platform']} ({machine}): {versions}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _one_line(text: str) -> str:
    return " ".join(text.split())
