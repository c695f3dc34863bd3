"""``table.tex``: compiled where there is a TeX, its structure checked in any case."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fabricated import ACCURACIES, STUDY, make_axes_result, make_result

from pinikit.reporting.latex import SPECIAL, escape, table_tex

TEX = next((name for name in ("tectonic", "pdflatex", "lualatex", "xelatex") if shutil.which(name)), None)
ODD = "100 % of a_b & c#1 ^2 {x} \\y ~z $5 <|> Δμ±σ"


def check_structure(text: str) -> list[list[str]]:
    """Braces and environments match, nothing is unescaped, all rows have as many cells as the head has.

    Returns:
        The cells of the tabular's rows.
    """
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    bare = re.sub(r"\\[\\{}&%$#_,~^ ]", "", code)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert "%" not in bare
    assert "#" not in bare
    assert code.isascii()
    opened = re.findall(r"\\begin\{(\w+)\}", code)
    assert opened == re.findall(r"\\end\{(\w+)\}", code)[::-1] == ["table", "tabular"]
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", code)
    assert columns is not None
    rows = [
        line.strip().removesuffix(r"\\").split(" & ") for line in code.splitlines() if line.endswith(r"\\")
    ]
    assert {len(row) for row in rows} == {len(columns[1])}
    return rows


def compiled(text: str, folder: Path) -> bool:
    document = (
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + text + "\\end{document}\n"
    )
    (folder / "paper.tex").write_text(document, encoding="utf-8")
    options = [] if TEX == "tectonic" else ["-interaction=nonstopmode", "-halt-on-error"]
    done = subprocess.run([str(TEX), *options, "paper.tex"], cwd=folder, capture_output=True, check=False)
    return done.returncode == 0 and (folder / "paper.pdf").is_file()


def test_arms_with_differences(tmp_path: Path) -> None:
    text = table_tex(make_result(tmp_path))
    head, *rows = check_structure(text)
    assert head == [
        "Arm",
        r"Accuracy (\%)",
        r"$\Delta$ to \texttt{zero\_shot}",
        r"95\,\% interval",
        "Parameters ",
    ]
    assert rows[3][:2] == [r"\texttt{both}", r"$\mathbf{76.20 \pm 3.11}$"]
    assert rows[3][2:4] == [r"$+21.20^{\circ}$", r"$[+18.09,\ +24.31]$"]
    assert rows[0][1:4] == [r"$55.00 \pm 0.00$", "", ""]
    assert text.count("mathbf") == 1
    assert "digits with 4 shots; 3 seeds. $\\pm$ is the half-width of the 95 \\% t-interval" in text
    assert "Differences are paired by seed, to zero\\_shot. $^{\\circ}$ the 95" in text


def test_what_seeds_do_not_tell_from_the_best_is_bold_too(tmp_path: Path) -> None:
    close = {**ACCURACIES, "image_side": (76.0, 76.0, 76.5)}
    text = table_tex(make_result(tmp_path, accuracies=close))
    assert text.count("mathbf") == 2
    one = {arm: values[:1] for arm, values in ACCURACIES.items()}
    assert "mathbf" not in table_tex(make_result(tmp_path, STUDY.replace("[1, 2, 3]", "[1]"), one))


def test_series_at_settings(tmp_path: Path) -> None:
    head, *rows = check_structure(table_tex(make_axes_result(tmp_path)))
    assert [cell.strip() for cell in head] == [
        "data.name, data.shots",
        "digits, 1",
        "digits, 16",
        "dtd, 1",
        "dtd, 16",
    ]
    assert rows[3][2].startswith(r"$\mathbf{81.20 \pm 3.11}^{\circ}$")
    assert rows[0][1] == r"$55.00 \pm 0.00$"


def test_odd_names_and_missing_results(tmp_path: Path) -> None:
    text = STUDY.replace("Where does learned noise help most?", f"'{ODD}'").replace("both:", '"b_o%t&h":')
    accuracies = {**ACCURACIES, "b_o%t&h": (None, None, None)}
    *_, last = check_structure(table_tex(make_result(tmp_path, text, accuracies)))
    assert last == [r"\texttt{b\_o\%t\&h}", "--", "", "", "-- "]
    assert escape("a\n b") == "a b"
    assert escape("[1, 2]").startswith("{"), "after the end of a line a bracket would be its option"
    assert all(value.isascii() for value in SPECIAL.values())


@pytest.mark.skipif(TEX is None, reason="no TeX is installed")
@pytest.mark.parametrize("odd", [False, True])
def test_it_compiles(tmp_path: Path, odd: bool) -> None:
    text = STUDY.replace("Where does learned noise help most?", f"'{ODD}'")
    assert compiled(table_tex(make_result(tmp_path, text) if odd else make_axes_result(tmp_path)), tmp_path)
