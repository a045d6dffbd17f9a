"""All that was found, on one page: ``python -m ruo.notebook.report RESULTS``."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from html import escape
from pathlib import Path

import click
import nbformat

from ruo.errors import RuoError
from ruo.notebook.run import page, to_body

__all__ = ["bind", "main"]

_PUT_ASIDE = re.compile(r"-\d{8}-\d{6}$")
_TAG = re.compile(r"<[a-z][^>]*>", re.IGNORECASE)
_NAME = re.compile(r'(\bid="|\bhref="#|\burl\(#)')
_LINK_TO_FILE = re.compile(r'<a href="(?![a-z]+:|//|#)([^"]*)"[^>]*>(.*?)</a>', re.DOTALL)
_TITLE = "What was measured"
_STYLE = """
nav td { padding: .45rem .9rem .45rem 0; } nav td:nth-child(2) { white-space: nowrap; color: #595959; }
section { margin-top: 4rem; border-top: 4px solid #e3e3e3; } .up { text-align: right; font-size: .85rem; }
@media print { section { break-before: page; } .up { display: none; } }
"""


@dataclass(frozen=True)
class _Run:
    """A notebook that ran to its end; `ended` is in seconds since 1970."""

    name: str
    notebook: nbformat.NotebookNode
    ended: float
    verdict: str


def bind(results: str | os.PathLike[str]) -> Path:
    """Bind the newest finished run of each notebook into ``report.html`` in the folder `results`, and say where it is.

    Runs that were put aside under their date are left out. Raises RuoError where no run has finished, or a notebook
    cannot be read.
    """
    folder = Path(results)
    newest = {run.name: run for run in sorted(_finished(folder), key=lambda run: run.ended)}
    if not newest:
        raise RuoError(f"There is no finished run in {folder} yet; make benchmark makes one.")
    rows, sections = [], []
    for name, run in sorted(newest.items()):
        title, body = to_body(run.notebook)
        rows.append(_row(run, title or name))
        sections.append(_section(name, _point_within(_keep_apart(body, name), newest)))
    index = f"<nav><h1>{_TITLE}</h1><table>\n{''.join(rows)}</table></nav>\n"
    written = folder / "report.html"
    written.write_text(page(_TITLE, index + "\n".join(sections), _STYLE), encoding="utf-8")
    return written


def _finished(results: Path) -> list[_Run]:
    runs = []
    for path in sorted(results.glob("*/*.ipynb")):
        verdict = path.with_name("verdict.txt")
        if _PUT_ASIDE.search(path.parent.name) or not verdict.is_file():
            continue
        try:
            notebook = nbformat.read(path, as_version=4)
        except ValueError as error:
            raise RuoError(f"{path} is not a notebook that can be read; delete it, or run it anew.") from error
        if _ran_to_its_end(notebook):
            text = verdict.read_text(encoding="utf-8").strip()
            runs.append(_Run(path.stem, notebook, verdict.stat().st_mtime, text))
    return runs


def _ran_to_its_end(notebook: nbformat.NotebookNode) -> bool:
    """By papermill's own notes, where there are any: a verdict is written before the last cell has run."""
    notes = notebook.metadata.get("papermill")
    return notes is None or bool(notes.get("end_time") and not notes.get("exception"))


def _row(run: _Run, title: str) -> str:
    when = time.strftime("%d %B %Y, %H:%M", time.localtime(run.ended)).lstrip("0")
    link = f'<a href="#{escape(run.name)}">{escape(title)}</a>'
    return f"<tr><td>{link}</td><td>{when}</td><td>{escape(_in_a_line(run.verdict))}</td></tr>\n"


def _in_a_line(verdict: str) -> str:
    first, _, rest = verdict.partition("\n")
    item = rest.partition("\n")[0].removeprefix("- ")
    return f"{first} {item}" if first.endswith(":") else first  # such a line only announces a list


def _section(name: str, body: str) -> str:
    return f'<section id="{escape(name)}">\n<p class="up"><a href="#">to the top</a></p>\n{body}\n</section>'


def _keep_apart(body: str, name: str) -> str:
    """Put the notebook's name before each name within it, since headings such as "What we see" come in several."""
    return _TAG.sub(lambda tag: _NAME.sub(rf"\g<1>{escape(name)}--", tag[0]), body)


def _point_within(body: str, names: Collection[str]) -> str:
    """Let links to other notebooks lead to their place on the page; a link to any other file is text, as none is with it."""

    def link(match: re.Match[str]) -> str:
        name = match[1].partition("#")[0].removesuffix(".ipynb")
        return f'<a href="#{name}">{match[2]}</a>' if name in names else match[2]

    return _LINK_TO_FILE.sub(link, body)


@click.command()
@click.argument("results", type=click.Path(path_type=Path))
def main(results: Path) -> None:
    """Bind the newest finished run of each notebook in the folder RESULTS into one page that opens offline."""
    try:
        click.echo(f"  {bind(results)}")
    except RuoError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
