"""The page of a search: the answer, what was tried, what mattered, what failed and what it cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from markupsafe import Markup

from pinikit import __version__
from pinikit.config.text import value_text
from pinikit.errors import PinikitError
from pinikit.reporting.changes import ArmSettings, change_text
from pinikit.reporting.html import tuning_figures as figures
from pinikit.reporting.html.page import asset
from pinikit.reporting.html.section import (
    Cell,
    Heading,
    Section,
    capped,
    details,
    environment,
    figure,
    join,
    lines_of,
    paragraph,
    parts,
    rich,
    table,
)
from pinikit.reporting.text import (
    duration,
    number,
    p_value,
    plural,
    plus_minus,
    signed,
    signed_interval,
)
from pinikit.study.statistics import LEVEL
from pinikit.tuning.best import fixed_split
from pinikit.tuning.confirm import Arm, Confirmation, answer
from pinikit.tuning.importance import FEWEST
from pinikit.tuning.results import (
    BASE,
    COMPLETE,
    FAILED,
    METRICS,
    PRUNED,
    RUNNING,
    ZERO_SHOT,
    TrialRow,
    TuneResult,
)

BEST_ROWS = 20
"""Trials in the table of the best."""

ROWS = 100
"""Failures that are listed, and parameters of the space."""

PHASES = ("bank", "train", "evaluate", "overhead")


BEGAN = "where the search began"


class Findings:
    """What the sections are made of."""

    def __init__(self, result: TuneResult, found: Confirmation | str | None, command: str) -> None:
        self.result, self.found, self.command = result, found, command

    @cached_property
    def settings(self) -> ArmSettings | None:
        """What trials change; None where their components are not installed here."""
        try:
            return ArmSettings(self.result)
        except PinikitError:
            return None

    def changes(self, name: str) -> str:
        """Where a trial differs from ``base``, in words."""
        if self.settings is None or name not in self.result.arms:
            return ""
        text = change_text(self.settings.changes(name)) or "changes nothing"
        return f"{BEGAN}; {text}" if name == BASE else text


def tuning_page(result: TuneResult, found: Confirmation | str | None, command: str, digest: str = "") -> str:
    """A self-contained page about a search; equal results give equal text.

    Args:
        result: the search.
        found: its best arms on fresh seeds, or why there is nothing of the kind.
        command: what measures them again.
        digest: tells what the page was made of.
    """
    findings = Findings(result, found, command)
    sections = [section for make in SECTIONS if (section := make(findings)) is not None]
    study = {"key": "search", "title": result.name, "question": result.question, "sections": sections}
    text: str = (
        environment()
        .get_template("page.html")
        .render(
            version=__version__,
            digest=digest,
            title=result.name,
            question=result.question,
            overview=_overview(findings),
            studies=[study],
            several=False,
            links=sections,
            style=Markup(asset("style.css")),
            script=Markup(asset("script.js")),
        )
    )
    return text


def _overview(findings: Findings) -> Markup:
    """The answer, and how far the search is."""
    result, found = findings.result, findings.found
    said = answer(result, found)
    body = [Markup('<p class="headline">{}</p>').format(rich(said)), paragraph(_state(result))]
    return join([*body, lines_of(result.notes)] if result.notes else body)


def _state(result: TuneResult) -> str:
    """How many trials there are of each kind."""
    named = [(COMPLETE, "complete"), (PRUNED, "pruned"), (FAILED, "failed"), (RUNNING, "running")]
    counts = [f"{amount} {word}" for state, word in named if (amount := result.count(state))]
    left = result.request.trials - sum(result.count(state) for state, _ in named)
    counts += [f"{left} not begun"] if left > 0 else []
    equal = sum(row.same_as is not None for row in result.trials if row.state == COMPLETE)
    text = f"{plural(result.request.trials, 'trial')} asked for: {', '.join(counts) or 'none begun'}"
    return f"{text}; {equal} of them repeat an earlier one and took its values over." if equal else f"{text}."


# --- fresh seeds ------------------------------------------------------------------------------------------


def fresh(findings: Findings) -> Section | None:
    """The best arms measured again, beside what the search said of them."""
    result, found = findings.result, findings.found
    if not isinstance(found, Confirmation):
        if not result.best():
            return None
        reason = f"The runs of `{result.best_name}` are not shown: {found}." if found else ""
        seeds = plural(len(result.fresh_seeds), "fresh seed")
        text = (
            f"Measure the best {len(result.best())} again, with `{BASE}` and `{ZERO_SHOT}`, on {seeds} and "
        )
        text += "the test set; this page then shows what came out beside the search's values:"
        body = [paragraph(reason)] if reason else []
        return Section("fresh", "On fresh seeds", join([*body, paragraph(text), _command(findings.command)]))
    metric = found.metric
    heads = [
        Heading("arm"),
        Heading("rank", True, "In the search"),
        Heading("validation, search", True, "Mean over the search's seeds, ± 95 %"),
        Heading("validation, fresh", True, "Mean over the fresh seeds, ± 95 %"),
        Heading("change", True, "Fresh seeds minus search"),
        Heading("test, fresh", True, "Mean over the fresh seeds, ± 95 %"),
        Heading(f"test, Δ to {BASE}", True, "Mean paired difference over the fresh seeds, 95 % interval"),
        Heading("seeds", True, "Fresh seeds that are finished, of all"),
    ]
    rows = [_fresh_row(findings, found, arm) for arm in found.arms]
    caption = (
        f"Validation and test {metric.text} ({metric.unit}), on the search's seeds and on fresh ones; ± and "
    )
    caption += "brackets are 95 % t-intervals over seeds, each for itself."
    body = [table(caption, heads, rows), *map(paragraph, _how_to_read(findings, found))]
    if not found.complete:
        body.append(_command(findings.command))
    return Section("fresh", "On fresh seeds", join(body))


def _fresh_row(findings: Findings, found: Confirmation, arm: Arm) -> list[Cell]:
    digits, gap = found.metric.digits, arm.difference
    means = [
        Cell(plus_minus(item.mean, item.interval, digits), item.mean)
        for item in (arm.search, arm.fresh, arm.test)
    ]
    change = arm.fresh.mean - arm.search.mean
    note = BEGAN if arm.name == BASE else findings.changes(arm.name)
    return [
        Cell(arm.name, note=note, strong=arm is found.leader),
        Cell("", math.nan) if arm.trial is None else Cell(str(rank := findings.result.rank(arm.trial)), rank),
        *means[:2],
        Cell(signed(change, digits), change),
        means[2],
        Cell(signed_interval(gap.mean, gap.low, gap.high, digits), gap.mean),
        Cell(f"{arm.seeds} of {found.seeds}", arm.seeds),
    ]


def _how_to_read(findings: Findings, found: Confirmation) -> list[str]:
    """Which arm the answer is about, what may be said of the others, and what fresh seeds leave as it was."""
    texts = [
        f"The answer is about `{found.leader.name}`, the first of the search beside `{BASE}` and "
        f"`{ZERO_SHOT}`: it was fixed before any fresh seed was run, so that neither fresh seeds nor the "
        f"test set had a say in the choice. {_others(found)}",
        "The best of many trials owes some of its value to luck, which fresh seeds do not repeat: compare "
        f"the change of the best arms with that of `{BASE}`, which was not picked.",
    ]
    if fixed_split(findings.result):
        texts.append(
            "The study fixes the split, so validation pictures are those of the search, and validation "
            "values stay too high on fresh seeds. Only the test pictures are new."
        )
    elif not math.isnan(found.base.fresh.mean):
        texts.append(f"{_seen(found)} The test pictures were opened by no trial.")
    return texts


def _others(found: Confirmation) -> str:
    """Whether other arms are ahead of ``base``, with the correction that asking for several of them takes."""
    tested = found.others_ahead
    if not tested:
        return ""
    sign = found.metric.sign
    ahead = [
        f"`{arm.name}` (p = {p_value(p)})"
        for arm, p in tested
        if p < LEVEL and sign * arm.difference.mean > 0
    ]
    how = f"corrected for {plural(len(tested), 'comparison')} (paired t-tests, Holm)"
    return f"Of the other arms {' and '.join(ahead) or 'none'} beat{'s' * (len(ahead) < 2)} `{BASE}`, {how}."


def _seen(found: Confirmation) -> str:
    """How new the validation pictures of the fresh seeds are."""
    if math.isnan(found.seen):
        return "How many validation pictures of the fresh seeds the search had seen is not known here."
    return (
        "The validation pictures of all seeds come from one pool: on average the search had seen "
        f"**{100 * found.seen:.0f} %** of those of a fresh seed, so validation on fresh seeds may still be a "
        "little too high."
    )


def _command(text: str) -> Markup:
    return Markup(parts().command(text))


# --- trials -----------------------------------------------------------------------------------------------


def trials(findings: Findings) -> Section | None:
    """The best trials and the anchors."""
    result = findings.result
    if not result.complete:
        return None
    ranks = {row.number: rank for rank, row in enumerate(result.ranked, 1)}
    chosen = result.ranked[:BEST_ROWS]
    anchors = [row for row in result.anchors if row not in chosen]
    rows = [_trial_cells(findings, row, ranks[row.number]) for row in [*chosen, *anchors]]
    heads = [Heading("trial"), Heading("rank", True)]
    for key in result.metrics:
        metric = METRICS[key]
        heads.append(Heading(f"{metric.text} ({metric.unit})", True, "On validation data, ± 95 % over seeds"))
    if result.base is not None:
        heads.append(Heading(f"Δ to {BASE}", True, "Of the first metric, paired by seed, in the search"))
    heads.append(Heading("time", True, "Of the trial: encoding, training, evaluation and what lies between"))
    caption = "Validation data, over the search's seeds. What is best here is partly lucky. "
    caption += capped(len(chosen), len(result.ranked), "configurations", "; `pinikit tune export` has all")
    return Section("trials", "Best trials", table(caption, heads, rows))


def _trial_cells(findings: Findings, row: TrialRow, rank: int) -> list[Cell]:
    result = findings.result
    note = "; ".join([findings.changes(row.name), *row.notes])
    cells = [Cell(row.name, note=note, strong=rank == 1), Cell(str(rank), rank)]
    for key in result.metrics:
        found = row.estimate(key)
        cells.append(Cell(plus_minus(found.mean, found.interval, METRICS[key].digits), found.mean))
    if result.base is not None:
        gap = row.against(result.base, result.metrics[0])
        text = signed_interval(gap.mean, gap.low, gap.high, result.metric.digits)
        cells.append(Cell("" if row is result.base else text, gap.mean))
    seconds = sum(row.seconds.values()) if row.seconds else math.nan
    return [*cells, Cell(duration(seconds), seconds)]


# --- figures ----------------------------------------------------------------------------------------------


def history(findings: Findings) -> Section | None:
    """Values by trial."""
    result = findings.result
    if not result.complete:
        return None
    return Section("history", "History", figure(*figures.history(result)))


def importances(findings: Findings) -> Section | None:
    """What mattered, by metric."""
    result = findings.result
    if not result.complete:
        return None
    body = [
        figure(*figures.importances(result, key))
        for key in result.metrics
        if figures.has_importances(result, key)
    ]
    if not body:
        text = f"Fewer than {FEWEST} trials share a parameter: too few to say which ones matter."
        return Section("importances", "What matters", paragraph(text))
    return Section("importances", "What matters", join([*body, paragraph(_methods(result))]))


def _methods(result: TuneResult) -> str:
    """What the importances are, and how many trials they rest on."""
    most = max(result.importances, key=lambda item: item.trials)
    pruned = most.trials - most.complete
    rest = f" and {plural(pruned, 'pruned one')}, which rank behind them" if pruned else ""
    return (
        "PED-ANOVA: what matters for being among the best tenth. It rests on "
        f"{plural(most.complete, 'complete trial')}{rest}; a number in brackets is that of the trials with "
        "the parameter, which is judged on these alone. fANOVA: share of the variance in a random forest's "
        "prediction, over the complete trials and the parameters that all of them have. Parameters of fewer "
        f"than {FEWEST} trials are left out; one that has fewer choices beside some others is still one. The "
        "sampler tries promising regions more often, which both methods take as they find it."
    )


def slices(findings: Findings) -> Section | None:
    """Values by each of the parameters that matter most."""
    drawn = figures.slices(findings.result)
    return Section("slices", "Parameter by parameter", figure(*drawn)) if drawn else None


def parallel(findings: Findings) -> Section | None:
    """Whole configurations as lines."""
    drawn = figures.parallel(findings.result)
    return Section("parallel", "Parallel coordinates", figure(*drawn)) if drawn else None


def steps(findings: Findings) -> Section | None:
    """What the pruner saw."""
    drawn = figures.steps(findings.result)
    return Section("steps", f"By {findings.result.step}", figure(*drawn)) if drawn else None


def pareto(findings: Findings) -> Section | None:
    """The front of several metrics."""
    result = findings.result
    if len(result.metrics) < 2 or not result.complete:
        return None
    return Section("pareto", "Pareto front", figure(*figures.pareto(result)))


# --- what failed, what it cost, how to repeat it ----------------------------------------------------------


def failures(findings: Findings) -> Section | None:
    """Trials that failed, with the reason."""
    result = findings.result
    failed = [row for row in result.trials if row.state == FAILED]
    if not failed:
        return None
    again = {row.retry_of: row for row in result.trials if row.retry_of is not None}
    rows = []
    for row in failed[:ROWS]:
        retry = again.get(row.number)
        became = f"tried again as trial {retry.number}: {retry.state}" if retry else "not tried again"
        reason = " ".join(row.failure.split()) or "no reason was recorded"
        rows.append([Cell(f"trial_{row.number}", row.number), Cell(reason), Cell(became)])
    heads = [Heading("trial"), Heading("reason"), Heading("then")]
    caption = f"{plural(len(failed), 'trial')} failed. {capped(len(rows), len(failed), 'failures')}"
    return Section("failures", "What failed", table(caption, heads, rows))


def costs(findings: Findings) -> Section | None:
    """Seconds by phase, and what a trial costs beyond training and evaluation."""
    result = findings.result
    measured = [row for row in result.trials if row.seconds and row.same_as is None]
    if not measured:
        return None
    rows = []
    for phase in [*PHASES, *sorted({key for row in measured for key in row.seconds} - set(PHASES))]:
        values = [row.seconds[phase] for row in measured if phase in row.seconds]
        if values:
            mean = math.fsum(values) / len(values)
            numbers = (math.fsum(values), mean, sorted(values)[len(values) // 2], max(values))
            rows.append([Cell(phase), *(Cell(_seconds(value), value) for value in numbers)])
    heads = [Heading("phase"), *(Heading(text, True) for text in ("all trials", "mean", "median", "most"))]
    caption = f"Time of {plural(len(measured), 'trial')}. bank: encoding pictures that no earlier run had "
    caption += "encoded; overhead: what a trial costs beyond encoding, training and evaluation."
    body = [paragraph(_overhead(measured)), table(caption, heads, rows)]
    return Section("costs", "What it cost", join(body))


def _overhead(measured: Sequence[TrialRow]) -> str:
    values = [row.seconds["overhead"] for row in measured if "overhead" in row.seconds]
    if not values:
        return "The overhead of the trials is not known."
    mean = math.fsum(values) / len(values)
    return (
        f"**{number(mean)} s per trial** went to neither encoding nor training nor evaluation, on average "
        f"over {plural(len(values), 'trial')}; {number(max(values))} s at most."
    )


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 10 else duration(value)


def space(findings: Findings) -> Section | None:
    """What was open."""
    result = findings.result
    given = [(key, f"`{value_text(value)}`") for key, value in result.search.items()]
    body = [Markup(parts().definitions(given))]
    rows = [
        [Cell(name), *(Cell(_said(item.get(key))) for key in SPACE_KEYS)]
        for name, item in list(result.space.items())[:ROWS]
    ]
    heads = [Heading("parameter"), *(Heading(SPACE_HEADS.get(key, key)) for key in SPACE_KEYS)]
    caption = "Parameters by Optuna's names. " + capped(len(rows), len(result.space), "parameters")
    body.append(details(f"All {len(result.space)} parameters", table(caption, heads, rows)))
    return Section("space", "What was open", join(body))


SPACE_KEYS = ("kind", "low", "high", "log", "step", "choices", "when")
SPACE_HEADS = {"when": "only with"}


def _said(value: Any) -> str:
    return "" if value is None else value_text(value)


def reproduce(findings: Findings) -> Section:
    """The command, and what it depends on."""
    result = findings.result
    noise = {"mean": "at its mean", "sample": "as one draw"}.get(result.noise, f"averaged ({result.noise})")
    seeds = ", ".join(map(str, result.seeds))
    texts = [
        f"Seeds {seeds}, each with its split; noise {noise}. Trials are trained on training data, and pruned "
        "and ranked on validation data; no test picture was opened.",
        "Given again, the command evaluates nothing that is there already. One process with the same seed "
        "suggests the same trials in the same order. Several processes do not, but the configuration of each "
        "trial gives the same values again.",
    ]
    facts = [(f"split manifest, seed {seed}", f"`{value}`") for seed, value in _manifests(result)]
    body = [_command(result.request.command), *map(paragraph, texts)]
    if facts:
        body.append(details("Split manifests", Markup(parts().definitions(facts))))
    return Section("reproduce", "How to reproduce it", join(body))


def _manifests(result: TuneResult) -> list[tuple[str, str]]:
    """Hashes by seed."""
    if not isinstance(result.data, dict):
        return []
    return [(str(seed), str(value)) for seed, value in result.data.items()]


SECTIONS: tuple[Callable[[Findings], Section | None], ...] = (
    fresh,
    trials,
    history,
    importances,
    slices,
    parallel,
    steps,
    pareto,
    failures,
    costs,
    space,
    reproduce,
)
"""In the page's order; one that has nothing to say gives None."""
