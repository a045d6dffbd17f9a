"""Which combination of a sweep is best: a table, a sentence and a figure."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

RANKING = "ranking.md"
_MEASURE = "rows_per_s"


def write_ranking(folder: Path, combinations: Iterable[tuple[str, list[dict[str, Any]], str]]) -> None:
    """Write ranking.md, .csv, .png and .svg for combinations with their names, the rows of their summaries and verdicts."""
    ranking = _rank(combinations)
    if len(ranking):
        from ruo.figures import figure_of_ranking, save_figure  # slow to import

        save_figure(figure_of_ranking(ranking), folder / RANKING, data=ranking)
        text = f"{ranking.to_string(index=False, na_rep='', formatters=_FORMATS)}\n\n{_best(ranking)}"
    else:
        text = f"No combination wrote a summary with the column {_MEASURE}, so none is ranked."
    (folder / RANKING).write_text(f"{text}\n", encoding="utf-8")


def _rank(combinations: Iterable[tuple[str, list[dict[str, Any]], str]]) -> pd.DataFrame:
    """The fastest setting of each combination, the fastest combination first, with the 95 % interval of its rate."""
    ranked = []
    for name, rows, verdict in combinations:
        measured = [row for row in rows if pd.notna(row.get(_MEASURE))]
        if measured:
            row = max(measured, key=lambda row: float(row[_MEASURE]))
            word = re.match(r"(IN)?VALID\b", verdict)
            ranked.append({"combination": name, **_rates(row), "verdict": word[0] if word else ""})
    frame = pd.DataFrame(ranked).dropna(axis="columns", how="all")  # what these notebooks do not measure
    return frame.sort_values(_MEASURE, ascending=False, kind="stable", ignore_index=True) if ranked else frame


def _rates(row: Mapping[str, Any]) -> dict[str, Any]:
    rate = float(row[_MEASURE])
    job = rate * row["total_mean"] if "total_mean" in row else float("nan")  # rows
    low, high = (job / row[name] if row.get(name, 0) > 0 else float("nan") for name in ("total_high", "total_low"))
    return {"rows_per_request": row.get("rows_per_request"), _MEASURE: rate, "low": low, "high": high}


_FORMATS: dict[Any, Any] = dict.fromkeys(("rows_per_request", _MEASURE, "low", "high"), "{:,.0f}".format)


def _best(ranking: pd.DataFrame) -> str:
    """The best combination whose runs can be relied on, and whether the next one differs from it."""
    sound = ranking[ranking["verdict"] != "INVALID"].to_dict("records")
    if not sound:
        return "No combination is VALID, so none is best; verdicts.md says why."
    best, *others = sound
    size = f" with {best['rows_per_request']:,.0f} rows per request" if best.get("rows_per_request") else ""
    text = f"Best: {best['combination']}{size}, {best[_MEASURE]:,.0f} rows/s."
    if others:
        text += (
            f" The next, {others[0]['combination']}, is {100 * (1 - others[0][_MEASURE] / best[_MEASURE]):.0f} % slower"
        )
        # NaN, where there was one run, is above nothing
        apart = best.get("low", float("nan")) > others[0].get("high", float("nan"))
        text += "." if apart else ", which may be chance: the intervals overlap, or there are too few runs for one."
    return text
