"""``report.md``: what was asked, what came out, how it was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pinikit import __version__
from pinikit.reporting.changes import ArmSettings
from pinikit.reporting.differences import differences_section
from pinikit.reporting.headline import headline_sentence
from pinikit.reporting.marks import marked
from pinikit.reporting.other_data import other_data_section
from pinikit.reporting.plugins import plugins_sentence
from pinikit.reporting.settings import grid_of, grid_section, series_section
from pinikit.reporting.text import (
    count,
    duration,
    markdown_table,
    number,
    plural,
    plus_minus,
    signed,
    signed_interval,
)
from pinikit.study.expectations import verdicts
from pinikit.study.statistics import (
    ArmSummary,
    Results,
    SeriesSummary,
    SharedCosts,
    finished_by_arm,
    ranking,
    series_summaries,
    shared_costs,
)

if TYPE_CHECKING:
    from pinikit.api import StudyResult
    from pinikit.data.manifest import SplitManifest
    from pinikit.study.store import StoredResult
    from pinikit.study.study import Run

LAYOUT = 5
"""Raised when figure or report come out differently from equal results, so that old ones are made anew."""

RANKS = "ranks.png"
LISTED = 12
"""Arms that a sentence names; of more only the number is said."""

_HEADLINE = (
    "Test accuracy in percent at the last epoch, with noise at its mean unless a note says otherwise. No "
    "epoch and no setting was chosen on the test set: it was opened once, after training."
)
_INTERVALS = (
    "± is the half-width of the 95 % t-interval over seeds; each seed draws its own few-shot split, unless "
    "`data.split_seed` says otherwise."
)
_PAIRS = (
    "Δ is the mean of the paired differences to `{baseline}` on the seeds that both finished, in points, "
    "with its 95 % t-interval over seeds. Intervals are not corrected for the number of arms; tests are."
)
_DRAWS = (
    "`mc-K` averages the probabilities of K draws. *draw std* (spread of accuracy between these draws, mean "
    "over seeds), *flip rate* (how often two of them disagree on a picture) and *noise / feature* (size of "
    "the noise relative to what it meets) describe noise at test time and are no part of ±, which comes from "
    "*seed std*, the spread of the headline between seeds."
)
_WITHIN = (
    "*within*: our mean over seeds differs from the paper's by no more than the tolerance; the interval over "
    "seeds does not decide, but is said where it reaches across the border."
)
_PICTURES = (
    "± is no statement on other test pictures: another {pictures} of them would move a single accuracy by up "
    "to {points} points (95 %, binomial), differences on the same pictures usually by less."
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
    study, summaries = result.study, result.summaries
    series = series_summaries(study, result.results)
    parts = [
        f"# {study.name}",
        f"**{study.question}**" if study.question else "",
        headline_sentence(study, summaries, series),
        "![Test accuracy by arm](accuracy.png)",
        *_over_settings(result, summaries, series),
        "## Results",
        _result_table(summaries),
        *_titled(f"## Differences to `{study.baseline}`", differences_section(summaries)),
        *_titled("## On other data", other_data_section(result)),
        *_titled("## Published numbers", published_section(result)),
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
        "\n".join(f"- {line}" for line in method_lines(result, summaries)),
        plugins_sentence(study.runs),
        _environment(result),
        f"<!-- pinikit {__version__}, layout {LAYOUT} -->",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _titled(title: str, section: str) -> list[str]:
    """Nothing where the section is empty."""
    return [title, section] if section else []


def _over_settings(
    result: StudyResult, summaries: Sequence[ArmSummary], series: Sequence[SeriesSummary]
) -> list[str]:
    """The sections that only studies with axes have."""
    grid = grid_of(result.study, result.results, summaries)
    if grid is None:
        return []
    ranks = ranking(result.study, result.results)
    return [
        "## Each setting",
        grid_section(grid, result.study.baseline),
        "## All settings",
        series_section(series, ranks, RANKS),
    ]


def published_section(result: StudyResult) -> str:
    """Paper beside ours; empty where the study expects nothing."""
    found = verdicts(result.study, result.results)
    if not found:
        return ""
    head = ("arm", "metric", "paper", "ours", "difference", "tolerance", "within", "protocol", "source")
    rows = [
        (
            f"`{item.arm}`",
            item.metric,
            number(item.expected.value),
            plus_minus(item.ours.mean, item.ours.interval),
            signed(item.difference),
            number(item.expected.tolerance),
            item.text,
            item.expected.protocol,
            item.expected.source,
        )
        for item in found
    ]
    return f"{markdown_table(head, rows)}\n\n{_WITHIN}"


def _result_table(summaries: Sequence[ArmSummary]) -> str:
    drawn = next((row.mc_noise for row in summaries if row.mc_noise), "mc")
    compared = any(row.baseline for row in summaries)
    against = ("Δ to baseline", "won/tied/lost") if compared else ()
    head = ("arm", "seeds", "test accuracy", *against, "one draw", drawn, "macro", "time")
    rows = [
        (
            f"`{row.arm}`",
            f"{row.seeds}" + (f" ({row.failed} failed)" if row.failed else ""),
            plus_minus(row.accuracy, row.accuracy_interval),
            *(_against(row) if compared else ()),
            number(row.sample_accuracy),
            number(row.mc_accuracy),
            number(row.macro_accuracy),
            duration(row.seconds_total),
        )
        for row in summaries
    ]
    return markdown_table(head, rows)


def _against(row: ArmSummary) -> tuple[str, str]:
    """The difference to the baseline, and on how many seeds the arm was better, equal and worse."""
    difference = signed_interval(row.difference, row.difference_low, row.difference_high)
    return marked(difference, row), f"{row.wins}/{row.ties}/{row.losses}" if row.pairs else ""


def _noise_table(summaries: Sequence[ArmSummary]) -> str:
    head = ("arm", "seed std", "draw std", "flip rate %", "noise / feature", "NLL", "ECE %")
    rows = [
        (
            f"`{row.arm}`",
            number(row.seed_std),
            number(row.draw_std),
            number(row.flip_rate),
            row.noise_ratio,
            number(row.nll, 3),
            number(row.ece),
        )
        for row in summaries
    ]
    return markdown_table(head, rows)


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
    return markdown_table(head, rows)


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
    arms = {run.arm for run in runs}
    manifests: dict[str, tuple[SplitManifest, dict[str, None]]] = {}
    for run in runs:
        manifests.setdefault(run.manifest.hash, (run.manifest, {}))[1][run.arm] = None
    rows = [
        (
            manifest.dataset,
            str(manifest.shots),
            str(manifest.split_seed),
            str(len(manifest.class_names)),
            f"{len(manifest.train)} / {len(manifest.val)} / {len(manifest.test)}",
            "all" if len(users) == len(arms) else _listed(list(users)),
            f"`{manifest.hash[:16]}`",
        )
        for manifest, users in manifests.values()
    ]
    head = ("data set", "shots", "split seed", "classes", "train / val / test", "arms", "manifest")
    return markdown_table(head, rows)


def _listed(arms: Sequence[str]) -> str:
    """Names of arms; of many only the first ones."""
    names = ", ".join(f"`{arm}`" for arm in arms[:LISTED])
    return names if len(arms) <= LISTED else f"{names} and {len(arms) - LISTED} more"


def _failures(result: StudyResult) -> str:
    lines = [
        f"- `{arm}`, seed {seed} (run `{item.run_id}`): {_one_line(item.error)}"
        for (arm, seed), item in result.results.items()
        if not item.finished
    ]
    return "\n".join(["## Failed runs", "", *lines]) if lines else ""


def _notes(result: StudyResult, summaries: Sequence[ArmSummary]) -> str:
    notes = [*result.study.notes, *caveats(result, summaries)]
    return "\n".join(["## Notes", "", *(f"- {_one_line(note)}" for note in notes)]) if notes else ""


def caveats(result: StudyResult, summaries: Sequence[ArmSummary]) -> Iterator[str]:
    """What a reader must know before believing the table."""
    if alone := [row.arm for row in summaries if row.seeds == 1]:
        yield f"No interval for {_listed(alone)}: one seed shows no spread."
    if fixed := [row.arm for row in summaries if row.accuracy_interval == 0]:
        yield (
            f"Every seed gives {_listed(fixed)} the same accuracy: their ± 0.00 says nothing of other "
            "pictures."
        )
    if fewer := [row for row in summaries if row.failed and row.pairs]:
        pairs = ", ".join(f"`{row.arm}` {row.pairs}" for row in fewer)
        yield f"Some seeds failed; differences are over the seeds that both arms have: {pairs}."
    if other := _on_other_data(result):
        yield (
            f"{_listed(other)} ran on other split manifests than the baseline: the "
            "difference is not one on the same pictures."
        )
    if same := _on_one_split(result.study.runs):
        yield (
            f"All seeds of {_listed(same)} have the same few-shot split: their ± is the spread of training "
            "alone."
        )
    if odd := [row for row in summaries if row.noise not in ("", "mean")]:
        yield f"Without noise at its mean: {', '.join(f'`{row.arm}` ({row.noise})' for row in odd)}."
    if empty := _without_mean(result.results, summaries):
        yield f"The noise of {_listed(empty)} has mean 0: at its mean such an arm predicts as without noise."
    if sum(row.seeds > 0 for row in summaries) > 2:
        yield "The most accurate arm was picked by test accuracy: with many arms, its lead is optimistic."


def _without_mean(results: Results, summaries: Sequence[ArmSummary]) -> list[str]:
    """Arms whose headline is at the mean, where the noise is exactly nothing, though its draws are not."""
    finished = finished_by_arm(results)
    return [
        row.arm
        for row in summaries
        if row.noise == "mean" and all(_only_drawn(result) for result in finished[row.arm].values())
    ]


def _only_drawn(result: StoredResult) -> bool:
    """Whether noise changes nothing at its mean and something in a draw."""
    sizes = {
        mode: max(row["noise_ratio"].values(), default=0)
        for mode, row in result.content["metrics"]["test"].items()
    }
    return sizes["mean"] == 0 and any(size > 0 for size in sizes.values())


def _on_other_data(result: StudyResult) -> list[str]:
    study = result.study
    manifests = {(run.arm, run.seed): run.manifest.hash for run in study.runs}
    return [
        name
        for name, arm in study.arms.items()
        if arm.baseline is not None
        and any(manifests.get((name, seed)) != manifests.get((arm.baseline, seed)) for seed in study.seeds)
    ]


def _on_one_split(runs: Sequence[Run]) -> list[str]:
    """Arms with several seeds on one split manifest."""
    splits: dict[str, list[str]] = {}
    for run in runs:
        splits.setdefault(run.arm, []).append(run.manifest.hash)
    return [arm for arm, hashes in splits.items() if len(hashes) > 1 and len(set(hashes)) == 1]


def method_lines(result: StudyResult, summaries: Sequence[ArmSummary]) -> list[str]:
    """How the numbers were measured, a sentence or two each."""
    baseline = result.study.baseline
    lines = [_HEADLINE, _INTERVALS, _pictures(result.study.runs)]
    if baseline is not None:
        lines.append(_PAIRS.format(baseline=baseline))
    if any(row.mc_noise for row in summaries):
        lines.append(_DRAWS)
    return [*lines, _COSTS]


def _pictures(runs: Sequence[Run]) -> str:
    """How much of an accuracy hangs on the test pictures, for the smallest test set, at 50 % at worst."""
    pictures = min(len(run.manifest.test) for run in runs)
    return _PICTURES.format(pictures=pictures, points=f"{98 / math.sqrt(pictures):.1f}")


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


def _one_line(text: str) -> str:
    return " ".join(text.split())
