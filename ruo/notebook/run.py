"""A notebook, run with parameters, and its report: ``python -m ruo.notebook.run NOTEBOOK --results FOLDER -p NAME VALUE``."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import click
import nbformat
import papermill
from jinja2 import DictLoader
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError

from ruo.errors import ArgumentError, RuoError

__all__ = ["Report", "main", "page", "parse_value", "require_known", "run_notebook", "to_body", "to_html"]

_WIDGET = "application/vnd.jupyter.widget-view+json"

# nbconvert's own pages load scripts from the network; this one needs none. Code is folded.
_BODY = """
{%- extends 'classic/base.html.j2' -%}
{% block in_prompt %}{% endblock in_prompt %}
{% block output_area_prompt %}{% endblock output_area_prompt %}
{% block input %}<details><summary>code</summary>{{ super() }}</details>{% endblock input %}
"""
_SCRIPT = re.compile(r"<script\b.*?</script\s*>", re.DOTALL | re.IGNORECASE)
_STYLE = """
body { margin: 0; background: #fff; color: #1a1a1a; font: 16px/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 920px; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
a.anchor-link { display: none; } img { max-width: 100%; height: auto; }
details { margin: .5rem 0; } summary { cursor: pointer; color: #595959; font-size: .85rem; }
pre { overflow-x: auto; background: #f6f6f6; padding: .7rem .9rem; border-radius: 4px; font-size: .85rem; }
.output_text pre, .output_stream pre { white-space: pre-wrap; }
.output_html { overflow-x: auto; } .output_error pre { background: #fdecea; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #e3e3e3; text-align: left; vertical-align: top; }
table.dataframe td, table.dataframe thead th { text-align: right; } caption { text-align: left; color: #595959; }
"""


@dataclass(frozen=True)
class Report:
    """What a run left in its folder: the executed notebook and its page; `verdict` is what it found, in words."""

    notebook: Path
    html: Path
    verdict: str


def run_notebook(
    notebook: str | os.PathLike[str], results: str | os.PathLike[str], parameters: Mapping[str, Any] | None = None
) -> Report:
    """Run a notebook in this process's working directory and leave everything in the folder `results`.

    An earlier, finished run in that folder is kept beside it, under its date; one that was interrupted is gone on
    with. Raises RuoError for a parameter that the notebook does not have, and where a cell fails.
    """
    notebook, folder = Path(notebook), Path(results)
    if not notebook.is_file():
        raise ArgumentError(f"There is no notebook at {notebook}.")
    known = require_known(notebook, parameters or {})
    _put_aside_finished(folder)
    folder.mkdir(parents=True, exist_ok=True)
    executed = folder / notebook.name
    try:
        papermill.execute_notebook(
            str(notebook),
            str(executed),
            {**(parameters or {}), **({"results_dir": str(folder)} if "results_dir" in known else {})},
            kernel_name="python3",
            autosave_cell_every=0,  # saving in mid-cell would be measured too
            progress_bar=sys.stderr.isatty(),
        )
    except PapermillExecutionError as error:
        raise RuoError(
            f"Cell {error.exec_count} of {notebook.name} failed: {error.ename}: {error.evalue} (see {executed})"
        ) from error
    html = executed.with_suffix(".html")
    html.write_text(to_html(nbformat.read(executed, as_version=4)), encoding="utf-8")
    verdict = folder / "verdict.txt"
    return Report(executed, html, verdict.read_text(encoding="utf-8").strip() if verdict.exists() else "")


def to_html(notebook: nbformat.NotebookNode) -> str:
    """One page that needs no network: pictures are inside, there are no scripts, code is folded."""
    return page(*to_body(notebook))


def to_body(notebook: nbformat.NotebookNode) -> tuple[str, str]:
    """A notebook's title, which is its first heading, and what its page shows."""
    for cell in notebook.cells:
        if cell.cell_type == "code":  # a progress bar of Jupyter's is a script, and tells nothing afterwards
            cell.outputs = [
                output
                for output in cell.outputs
                if _WIDGET not in output.get("data", {}) and output.get("name") != "stderr"
            ]
    notebook.metadata.pop("widgets", None)
    exporter = HTMLExporter(
        template_name="classic", extra_loaders=[DictLoader({"ruo.html.j2": _BODY})], template_file="ruo.html.j2"
    )
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    body, _ = exporter.from_notebook_node(notebook)
    lines = [line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    return next((line[2:] for line in lines if line.startswith("# ")), ""), _SCRIPT.sub("", body)


def page(title: str, body: str, style: str = "") -> str:
    """A whole page in the reports' style, and what it has of its own."""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{_STYLE}{style}</style></head><body><main>
{body}
</main></body></html>
"""


def parse_value(text: str) -> Any:
    """A parameter's value as it is written on a command line: 5, 0.5, true, none, a list such as 1000,none, or text."""
    parts = [_word(part) for part in text.split(",")]
    if len(parts) > 1 and not any(isinstance(part, str) for part in parts):
        return parts
    return _word(text)


def _word(text: str) -> Any:
    words = {"none": None, "true": True, "false": False}
    if text.strip().lower() in words:
        return words[text.strip().lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def require_known(notebook: Path, parameters: Mapping[str, Any]) -> list[str]:
    """The notebook's parameters; papermill itself would only warn of one that it does not have."""
    known = list(papermill.inspect_notebook(str(notebook)))
    if "results_dir" in parameters:
        raise ArgumentError("results_dir is what --results gives; leave the parameter out.")
    for name in parameters:
        if name not in known:
            raise ArgumentError(f"{notebook.name} has no parameter {name!r}; it has {', '.join(known)}.")
    return known


def _put_aside_finished(folder: Path) -> None:
    verdict = folder / "verdict.txt"
    if verdict.exists():  # it is written last
        when = time.strftime("%Y%m%d-%H%M%S", time.localtime(verdict.stat().st_mtime))
        folder.rename(folder.with_name(f"{folder.name}-{when}"))


@click.command()
@click.argument("notebook", type=click.Path(path_type=Path))
@click.option("--results", required=True, type=click.Path(path_type=Path), help="Folder for everything that comes out.")
@click.option("-p", "pairs", nargs=2, multiple=True, metavar="NAME VALUE", help="A parameter of the notebook.")
def main(notebook: Path, results: Path, pairs: tuple[tuple[str, str], ...]) -> None:
    """Run NOTEBOOK with parameters; leave it, a page that opens offline and its data in one folder."""
    try:
        report = run_notebook(notebook, results, {name: parse_value(value) for name, value in pairs})
    except RuoError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"\n{report.verdict}\n")
    for path in sorted(results.iterdir()):
        click.echo(f"  {path}")


if __name__ == "__main__":
    main()
