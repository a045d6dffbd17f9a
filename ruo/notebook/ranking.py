"""Which combination of a sweep is best: a table, a sentence and a figure."""

import re
from pathlib import Path

import pandas as pd

RANKING = "ranking.md"
_RATE = "rows_per_s"
_READ = ["rows_per_request", _RATE, "total_mean", "total_low", "total_high"]
_SHOWN = ["combination", "rows_per_request", _RATE, "low", "high", "verdict"]


def write_ranking(folder: Path, combinations: list[tuple[str, pd.DataFrame, str]]) -> None:
    """Write ranking.md, .csv, .png and .svg for combinations with their names, summaries and verdicts."""
    ranking = _rank(combinations) if combinations else pd.DataFrame()
    if len(ranking):
        from ruo.figures import figure_of_ranking, save_figure  # slow to import

        save_figure(figure_of_ranking(ranking), folder / RANKING, data=ranking)
        formats = dict.fromkeys(ranking.columns[1:-1], "{:,.0f}".format)
        text = f"{ranking.to_string(index=False, na_rep='', formatters=formats)}\n\n{_best(ranking)}"
    else:
        text = f"No combination wrote a summary with the column {_RATE}, so none is ranked."
    (folder / RANKING).write_text(f"{text}\n", encoding="utf-8")


def _rank(combinations: list[tuple[str, pd.DataFrame, str]]) -> pd.DataFrame:
    """The fastest setting of each combination, the fastest combination first, with the 95 % interval of its rate."""
    settings = []
    for name, summary, verdict in combinations:
        word = re.match(r"(IN)?VALID\b", verdict)
        settings.append(summary.reindex(columns=_READ).assign(combination=name, verdict=word[0] if word else ""))
    ranking = pd.concat(settings).dropna(subset=_RATE).sort_values(_RATE, ascending=False, kind="stable")
    ranking = ranking.drop_duplicates("combination")
    rows = ranking[_RATE] * ranking["total_mean"]
    ranking = ranking.assign(low=rows / ranking["total_high"], high=rows / ranking["total_low"])[_SHOWN]
    return ranking.dropna(axis="columns", how="all")  # what these notebooks do not measure


def _best(ranking: pd.DataFrame) -> str:
    """The best combination whose runs can be relied on, and whether the next one differs from it."""
    sound = ranking[ranking["verdict"] != "INVALID"].to_dict("records")
    if not sound:
        return "No combination is VALID, so none is best; verdicts.md says why."
    best, *others = sound
    size = f" with {best['rows_per_request']:,.0f} rows per request" if pd.notna(best.get("rows_per_request")) else ""
    text = f"Best: {best['combination']}{size}, {best[_RATE]:,.0f} rows/s."
    for other in others[:1]:
        text += f" The next, {other['combination']}, is {100 * (1 - other[_RATE] / best[_RATE]):.0f} % slower"
        # without intervals, where there was one run, none is apart
        apart = "low" in best and best["low"] > other["high"]
        text += "." if apart else ", which may be chance: the intervals overlap, or there are too few runs for one."
    return text
