"""A notebook, run with parameters, and its report: ``python -m ruo.report NOTEBOOK --results FOLDER -p NAME VALUE``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import nbformat
import papermill
from jinja2 import DictLoader
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError

from ruo.errors import RuoError

__all__ = ["Report", "main", "parse_value", "run_notebook", "to_html"]

_WIDGET = "application/vnd.jupyter.widget-view+json"

# Code is folded; the rest is nbconvert's page.
_TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{%- block input_group -%}
<details><summary style="color: #777; font-size: small; cursor: pointer">code</summary>{{ super() }}</details>
{%- endblock -%}
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
        raise RuoError(f"There is no notebook at {notebook}.")
    _require_known(notebook, parameters or {})
    _put_aside_finished(folder)
    folder.mkdir(parents=True, exist_ok=True)
    executed = folder / notebook.name
    try:
        papermill.execute_notebook(
            str(notebook),
            str(executed),
            {**(parameters or {}), "results_dir": str(folder)},
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
    """One page that needs no network: pictures are inside, scripts are not needed, code is folded."""
    for cell in notebook.cells:
        if cell.cell_type == "code":  # a widget is a script, and a progress bar tells nothing afterwards
            cell.outputs = [output for output in cell.outputs if _WIDGET not in output.get("data", {})]
    notebook.metadata.pop("widgets", None)
    exporter = HTMLExporter(
        extra_loaders=[DictLoader({"folded.html.j2": _TEMPLATE})],
        template_file="folded.html.j2",
        mathjax_url="",
        mermaid_js_url="",
        require_js_url="",
        jquery_url="",
        embed_images=True,
    )
    page, _ = exporter.from_notebook_node(notebook)
    return str(page)


def parse_value(text: str) -> Any:
    """A parameter's value as it is written on a command line: 5, 0.5, true, none, text, or a list: 1000,5000,none."""
    if "," in text:
        return [parse_value(part) for part in text.split(",")]
    words = {"none": None, "true": True, "false": False}
    if text.strip().lower() in words:
        return words[text.strip().lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _require_known(notebook: Path, parameters: Mapping[str, Any]) -> None:
    known = papermill.inspect_notebook(str(notebook))
    for name in parameters:
        if name not in known:
            raise RuoError(f"{notebook.name} has no parameter {name!r}; it has {', '.join(known)}.")


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
