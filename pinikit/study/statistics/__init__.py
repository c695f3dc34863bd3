"""Arms compared over their seeds, and series of arms over settings and data sets. Imports no torch.

The headline metric is test accuracy at the last epoch with noise at its mean. An arm is compared with its
baseline on the seeds that both finished, as paired differences, so what a seed's split has in common for
both cancels. Spread between the draws of the test-time noise stands apart from spread between seeds.
``docs/statistics.md`` says what each figure covers and what it does not.

scipy.stats takes seconds to import, so scipy.special does what can be done with it.
"""

from pinikit.study.statistics.comparison import LEVEL, Comparison, compare
from pinikit.study.statistics.estimates import CONFIDENCE, Estimate, estimate
from pinikit.study.statistics.holm import holm, seeds_needed
from pinikit.study.statistics.leaders import leaders
from pinikit.study.statistics.other_data import OtherSummary, other_labels, other_summaries
from pinikit.study.statistics.ranks import Ranking, ranking
from pinikit.study.statistics.results import (
    Results,
    draws_in,
    finished_by_arm,
    headline,
    headline_mode,
    long_rows,
    long_table,
    paired_differences,
)
from pinikit.study.statistics.series import SeriesSummary, series_summaries, settings_of
from pinikit.study.statistics.summaries import (
    ArmSummary,
    SharedCosts,
    arm_summaries,
    as_table,
    shared_costs,
)

__all__ = [
    "CONFIDENCE",
    "LEVEL",
    "ArmSummary",
    "Comparison",
    "Estimate",
    "OtherSummary",
    "Ranking",
    "Results",
    "SeriesSummary",
    "SharedCosts",
    "arm_summaries",
    "as_table",
    "compare",
    "draws_in",
    "estimate",
    "finished_by_arm",
    "headline",
    "headline_mode",
    "holm",
    "leaders",
    "long_rows",
    "long_table",
    "other_labels",
    "other_summaries",
    "paired_differences",
    "ranking",
    "seeds_needed",
    "series_summaries",
    "settings_of",
    "shared_costs",
]
