"""Which combination of a sweep is best."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from ruo.__main__ import main
from ruo.notebook.run import RANKING, write_ranking
from tests.notebook.test_grid import write_notebook


def setting(rows_per_s: float, spread: float = 0.01, rows_per_request: int = 1000) -> dict[str, Any]:
    """A row of a sweep's summary, of a job of 10,000 rows."""
    mean = 10_000 / rows_per_s
    times = {"total_mean": mean, "total_low": mean * (1 - spread), "total_high": mean * (1 + spread)}
    return {"rows_per_request": rows_per_request, "rows_per_s": rows_per_s, **times}


SLOW, FAST, FASTER = setting(1000), setting(2000, rows_per_request=500), setting(4000)


@pytest.mark.parametrize(
    ("combinations", "sentence"),
    [
        (
            [("a", [SLOW, FAST], "VALID.\nx"), ("b", [FASTER], "VALID: y")],
            "Best: b with 1,000 rows per request, 4,000 rows/s. The next, a, is 50 % slower.",
        ),
        ([("a", [FAST], "VALID."), ("b", [FASTER], "INVALID:\n")], "Best: a with 500 rows per request, 2,000 rows/s."),
        (
            [("a", [setting(1000, 0.2)], ""), ("b", [setting(1100, 0.2)], "")],
            "is 9.1 % slower, which may be chance: the intervals overlap, or there are too few runs for one.",
        ),
        (
            [("a", [setting(1000, 1e-4)], ""), ("b", [setting(1002.5, 1e-4)], "")],
            "Best: b with 1,000 rows per request, 1,002 rows/s. The next, a, is 0.25 % slower.",
        ),
        ([("a", [{"rows_per_s": 0.4}], ""), ("b", [{"rows_per_s": 0.2}], "")], "Best: a, 0.400 rows/s."),
        (  # as `save` of a sweep writes it, below the answer
            [("a", [FAST], "It is fast.\nVALID: x."), ("b", [FASTER], "It is faster.\nINVALID: busy.")],
            "Best: a with 500 rows per request, 2,000 rows/s.",
        ),
        ([("a", [FAST], "INVALID:\n- busy")], "No combination is VALID, so none is best"),
        ([("a", [{"seconds": 1}, {"rows_per_s": float("nan")}], "VALID")], "so none is ranked."),
        ([], "so none is ranked."),
    ],
)
def test_the_best_is_named(tmp_path: Path, combinations: Any, sentence: str) -> None:
    """The fastest whose runs can be relied on is best, and whether its lead may be chance is said."""
    write_ranking(tmp_path, [(name, pd.DataFrame(rows), verdict) for name, rows, verdict in combinations])
    assert sentence in (tmp_path / RANKING).read_text()
    assert (tmp_path / "ranking.png").exists() == ("none is ranked" not in sentence)


def test_every_combination_is_in_the_table(tmp_path: Path) -> None:
    """A combination counts with its fastest setting; the table is in the order of speed, as text and as data."""
    write_ranking(tmp_path, [("a", pd.DataFrame([SLOW, FAST]), "VALID."), ("b", pd.DataFrame([FASTER]), "INVALID:")])
    table = pd.read_csv(tmp_path / "ranking.csv")[["combination", "rows_per_request", "rows_per_s", "verdict"]]
    assert table.to_numpy().tolist() == [["b", 1000, 4000, "INVALID"], ["a", 500, 2000, "VALID"]]
    assert [line.split()[0] for line in (tmp_path / RANKING).read_text().splitlines()[:3]] == ["combination", "b", "a"]


@pytest.mark.slow
def test_a_sweep_ends_with_its_ranking(tmp_path: Path) -> None:
    """Parameters come from -f, -y and -p, the later ones first; the ranking and the paths of all files are printed."""
    work = (
        "open(results_dir + '/summary.csv', 'w').write(f'rows_per_s\\n{size * levels}\\n');"
        "open(results_dir + '/verdict.txt', 'w').write('VALID.')"
    )
    notebook = write_notebook(tmp_path / "work.ipynb", work)
    (tmp_path / "parameters.yml").write_text("size: [1, 2, 3]\nlevels: 5\n")
    arguments = ["sweep", str(notebook), "--results", str(tmp_path / "r"), "-f", str(tmp_path / "parameters.yml")]
    arguments += ["-y", "{levels: 10}", "-p", "size", "3,4"]

    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "Best: size=4, 40.0 rows/s. The next, size=3, is 25 % slower" in result.output
    assert f"  {tmp_path / 'r' / 'ranking.png'}\n" in result.output
