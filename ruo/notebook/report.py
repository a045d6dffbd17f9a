"""The newest results of all notebooks on one page that opens offline."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ruo.errors import ExperimentError
from ruo.notebook.run import page, to_body

if TYPE_CHECKING:
    import nbformat

_SET_ASIDE = re.compile(r"-\d{8}-\d{6}$")
_TAG = re.compile(r"<[a-z][^>]*>", re.IGNORECASE)
_ANCHOR = re.compile(r'(\bid="|\bhref="#|\burl\(#)')
_LINK_TO_FILE = re.compile(r'<a href="(?![a-z]+:|//|#)([^"]*)"[^>]*>(.*?)</a>', re.DOTALL)
_TITLE = "What was measured"
_STYLE = """
nav td { padding: .45rem .9rem .45rem 0; } nav td:nth-child(2) { white-space: nowrap; color: #595959; }
section { margin-top: 4rem; border-top: 4px solid #e3e3e3; } .up { text-align: right; font-size: .85rem; }
@media print { section { break-before: page; } .up { display: none; } }
"""


@dataclass(frozen=True)
class _Run:
    """A finished run of a notebook; `ended` is in seconds since 1970."""

    name: str
    notebook: nbformat.NotebookNode
    ended: float
    verdict: str


def bind(results: str | os.PathLike[str]) -> Path:
    """Write the newest finished run of each notebook to ``report.html`` in the folder `results`; return its path."""
    folder = Path(results)
    newest = {run.name: run for run in sorted(_finished(folder), key=lambda run: run.ended)}
    if not newest:
        raise ExperimentError(f"There is no finished run in {folder} yet; make benchmark makes one.")
    rows, sections = [], []
    for name, run in sorted(newest.items()):
        title, body = to_body(run.notebook)
        rows.append(_row(run, title or name))
        body = _link_within(_prefix_anchors(body, name), newest)
        sections.append(
            f'<section id="{escape(name)}">\n<p class="up"><a href="#">to the top</a></p>\n{body}\n</section>'
        )
    index = f"<nav><h1>{_TITLE}</h1><table>\n{''.join(rows)}</table></nav>\n"
    written = folder / "report.html"
    written.write_text(page(_TITLE, index + "\n".join(sections), _STYLE), encoding="utf-8")
    return written


def _finished(results: Path) -> Iterator[_Run]:
    import nbformat

    for path in sorted(results.glob("*/*.ipynb")):
        verdict = path.with_name("verdict.txt")
        if _SET_ASIDE.search(path.parent.name) or not verdict.is_file():
            continue
        try:
            notebook = nbformat.read(path, as_version=4)
        except ValueError as error:
            raise ExperimentError(f"{path} is not a readable notebook; delete it, or run it again.") from error
        # a verdict is written before the last cell has run, so papermill's metadata decides, where there is any
        progress = notebook.metadata.get("papermill")
        if progress is None or (progress.get("end_time") and not progress.get("exception")):
            yield _Run(path.stem, notebook, verdict.stat().st_mtime, verdict.read_text(encoding="utf-8").strip())


def _row(run: _Run, title: str) -> str:
    when = time.strftime("%d %B %Y, %H:%M", time.localtime(run.ended)).lstrip("0")
    link = f'<a href="#{escape(run.name)}">{escape(title)}</a>'
    return f"<tr><td>{link}</td><td>{when}</td><td>{escape(_first_sentence(run.verdict))}</td></tr>\n"


def _first_sentence(verdict: str) -> str:
    first, _, rest = verdict.partition("\n")
    item = rest.partition("\n")[0].removeprefix("- ")
    return f"{first} {item}" if first.endswith(":") else first  # such a line only introduces a list


def _prefix_anchors(body: str, name: str) -> str:
    """Prefix each anchor with the notebook's name, since several notebooks have headings such as "What we see"."""
    return _TAG.sub(lambda tag: _ANCHOR.sub(rf"\g<1>{escape(name)}--", tag[0]), body)


def _link_within(body: str, names: Collection[str]) -> str:
    """Turn links to other notebooks into links to their sections, and links to any other file into text."""

    def link(match: re.Match[str]) -> str:
        name = match[1].partition("#")[0].removesuffix(".ipynb")
        return f'<a href="#{name}">{match[2]}</a>' if name in names else match[2]

    return _LINK_TO_FILE.sub(link, body)
