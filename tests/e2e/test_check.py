"""``expect:`` in a study and ``pinikit run --check``."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import STUDY, call, check_message, write_study

# The glyph model classifies 70.65 % of the test digits without training (README).
ZERO_SHOT = STUDY[: STUDY.index("    image: {method")] + "seeds: [1]\n"
EXPECT = (
    "expect: {{zero_shot: {{value: {value}, tolerance: 0.5, protocol: plain prompt, source: 'us, 2026'}}}}\n"
)


def test_check_tells_met_from_unmet_and_wants_something_to_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pinikit.reporting.write_report", lambda result: [])  # which takes most of the time
    runs = tmp_path / "runs"
    plain = write_study(tmp_path / "plain", ZERO_SHOT)
    done = call("run", plain, "--runs", runs, "--check")
    check_message(done, 2, "--check", "expects nothing")
    assert not runs.exists(), "refused before anything is spent"

    met = write_study(tmp_path / "met", ZERO_SHOT + EXPECT.format(value=71.1))
    done = call("run", met, "--runs", runs, "--check")
    assert done.exit_code == 0, done.output
    assert "within? yes, by one seed [us, 2026]" in done.stdout

    unmet = write_study(tmp_path / "unmet", ZERO_SHOT + EXPECT.format(value=71.2))
    done = call("run", unmet, "--runs", runs, "--check")
    check_message(done, 1, "1 of 1 expectations not met: zero_shot")
    assert "within? no, by one seed [us, 2026]" in done.stdout
