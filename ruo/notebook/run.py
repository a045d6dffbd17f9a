"""One run of a notebook with parameters, and its report: a page that opens offline."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruo.errors import ArgumentError, RuoError
from ruo.experiment.results import put_aside_finished

if TYPE_CHECKING:
    import nbformat

_WIDGET = "application/vnd.jupyter.widget-view+json"

# nbconvert's own pages load scripts from the network. Here code is folded, and progress bars are left out.
_BODY = """
{%- extends 'classic/base.html.j2' -%}
{% block input %}<details><summary>code</summary>{{ super() }}</details>{% endblock input %}
{% block stream_stderr %}{% endblock stream_stderr %}
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


def run_notebook(
    notebook: str | os.PathLike[str], results: str | os.PathLike[str], parameters: Mapping[str, Any] | None = None
) -> str:
    """Run a notebook, leave it, its page and its data in the folder `results`, and return the text of verdict.txt.

    A finished run in that folder is kept beside it, under its date; an interrupted run is resumed.
    """
    import nbformat

    notebook, folder = Path(notebook), Path(results)
    known = require_known(notebook, parameters or {})
    put_aside_finished(folder)
    folder.mkdir(parents=True, exist_ok=True)
    executed = folder / notebook.name
    given = {"results_dir": str(folder)} if "results_dir" in known else {}
    _execute(notebook, executed, {**(parameters or {}), **given})
    executed.with_suffix(".html").write_text(page(*to_body(nbformat.read(executed, as_version=4))), encoding="utf-8")
    verdict = folder / "verdict.txt"
    return verdict.read_text(encoding="utf-8").strip() if verdict.exists() else ""


def _execute(notebook: Path, executed: Path, parameters: Mapping[str, Any]) -> None:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    try:
        papermill.execute_notebook(
            str(notebook),
            str(executed),
            parameters,
            kernel_name="python3",
            autosave_cell_every=0,  # saving during a cell would be measured too
            progress_bar=sys.stderr.isatty(),
        )
    except PapermillExecutionError as error:
        raise RuoError(
            f"Cell {error.exec_count} of {notebook.name} failed: {error.ename}: {error.evalue} (see {executed})"
        ) from error
    except DeadKernelError as error:
        raise RuoError(f"The kernel of {notebook.name} died; it may have had too little memory.") from error


def to_body(notebook: nbformat.NotebookNode) -> tuple[str, str]:
    """Return a notebook's title, which is its first heading, and the HTML of its cells."""
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _WIDGET not in output.get("data", {})]
    notebook.metadata.pop("widgets", None)
    exporter = HTMLExporter(
        template_name="classic",
        template_file="ruo.html.j2",
        extra_loaders=[DictLoader({"ruo.html.j2": _BODY})],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    body, _ = exporter.from_notebook_node(notebook)
    lines = [line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    return next((line[2:] for line in lines if line.startswith("# ")), ""), _SCRIPT.sub("", body)


def page(title: str, body: str, style: str = "") -> str:
    """Return a page in the style of the reports, with `style` added."""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{_STYLE}{style}</style></head><body><main>
{body}
</main></body></html>
"""


def require_known(notebook: Path, names: Iterable[str]) -> list[str]:
    """Return the names of a notebook's parameters; refuse others in `names`, of which papermill only warns."""
    import papermill

    if not notebook.is_file():
        raise ArgumentError(f"There is no notebook at {notebook}.")
    known = list(papermill.inspect_notebook(str(notebook)))
    for name in names:
        if name == "results_dir":
            raise ArgumentError("results_dir is the folder that --results names; leave the parameter out.")
        if name not in known:
            raise ArgumentError(f"{notebook.name} has no parameter {name!r}; it has {', '.join(known)}.")
    return known
