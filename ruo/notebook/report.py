"""Pages that open offline: the report of a notebook, and the newest results of all notebooks."""

import os
import re
import time
from collections.abc import Collection
from html import escape
from pathlib import Path
from typing import Any

from ruo.errors import ExperimentError, needs

_WIDGET = "application/vnd.jupyter.widget-view+json"

# nbconvert's own pages load scripts from the network. Here code is folded, and progress bars are left out.
_BODY = """
{%- extends 'classic/base.html.j2' -%}
{% block input %}<details><summary>code</summary>{{ super() }}</details>{% endblock input %}
{% block stream_stderr %}{% endblock stream_stderr %}
"""
_SCRIPT = re.compile(r"<script\b.*?</script\s*>", re.DOTALL | re.IGNORECASE)
_STYLE = Path(__file__).with_name("report.css").read_text(encoding="utf-8")

_SET_ASIDE = re.compile(r"-\d{8}-\d{6}$")
_TAG = re.compile(r"<[a-z][^>]*>", re.IGNORECASE)
_ANCHOR = re.compile(r'(\bid="|\bhref="#|\burl\(#)')
_LINK_TO_FILE = re.compile(r'<a href="(?![a-z]+:|//|#)([^"]*)"[^>]*>(.*?)</a>', re.DOTALL)
_TITLE = "What was measured"


def to_body(notebook: Any) -> tuple[str, str]:
    """Return a notebook's title, which is its first heading, and the HTML of its cells."""
    from nbconvert import HTMLExporter

    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _WIDGET not in output.get("data", {})]
    notebook.metadata.pop("widgets", None)
    options = {"template_name": "classic", "exclude_input_prompt": True, "exclude_output_prompt": True}
    body, _ = HTMLExporter(raw_template=_BODY, **options).from_notebook_node(notebook)
    lines = [line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    return next((line[2:] for line in lines if line.startswith("# ")), ""), _SCRIPT.sub("", body)


def page(title: str, body: str) -> str:
    """Return a page that needs no other file and no network."""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>
{body}
</main></body></html>
"""


def write_report(executed: Path) -> Path:
    """Write the page of a notebook that was run beside it: what it found first, then all of it; return its path."""
    import nbformat

    title, body = to_body(nbformat.read(executed, as_version=4))
    found = "".join(f"<p>{escape(line)}</p>" for line in _findings(executed.with_name("verdict.txt")))
    summary = f'<div class="summary">{found}</div>\n' if found else ""
    written = executed.with_suffix(".html")
    written.write_text(page(title, summary + _link_within(body, ())), encoding="utf-8")
    return written


def _findings(verdict: Path) -> list[str]:
    """The first two sentences of a verdict, without the line that only introduces a list of them."""
    lines = verdict.read_text(encoding="utf-8").strip().splitlines() if verdict.exists() else []
    introduced = 1 if lines and lines[0].endswith(":") else 0
    return [line.removeprefix("- ") for line in lines[introduced : introduced + 2]]


@needs("notebooks")
def bind(results: str | os.PathLike[str]) -> Path:
    """Write the newest finished run of each notebook to ``report.html`` in the folder `results`; return its path."""
    folder = Path(results)
    verdicts = [path for path in folder.glob("*/verdict.txt") if not _SET_ASIDE.search(path.parent.name)]
    verdicts.sort(key=lambda path: path.stat().st_mtime)
    runs = [(verdict, path) for verdict in verdicts for path in sorted(verdict.parent.glob("*.ipynb"))]
    newest = {path.stem: (verdict, notebook) for verdict, path in runs if (notebook := whole_notebook(path))}
    if not newest:
        raise ExperimentError(f"There is no finished run in {folder} yet; make benchmark makes one.")
    rows, sections = "", ""
    for name, (verdict, notebook) in sorted(newest.items()):
        title, body = to_body(notebook)
        when = time.strftime("%d %B %Y, %H:%M", time.localtime(verdict.stat().st_mtime)).lstrip("0")
        first, *others = _findings(verdict) or [""]
        shown = [first, *(line for line in others if line.startswith(("VALID", "INVALID")))]
        link = f'<a href="#{escape(name)}">{escape(title or name)}</a>'
        rows += f"<tr><td>{link}</td><td>{when}</td><td>{'<br>'.join(map(escape, shown))}</td></tr>\n"
        body = _link_within(_prefix_anchors(body, name), newest)
        sections += f'<section id="{escape(name)}">\n<p class="up"><a href="#">to the top</a></p>\n{body}\n</section>\n'
    written = folder / "report.html"
    index = f"<nav><h1>{_TITLE}</h1><table>\n{rows}</table></nav>\n"
    written.write_text(page(_TITLE, index + sections), encoding="utf-8")
    return written


def whole_notebook(executed: Path) -> Any:
    """A notebook that was run to its end, else None: its verdict is written before, so papermill's metadata decides."""
    import nbformat

    try:
        notebook = nbformat.read(executed, as_version=4)
        progress = notebook.metadata.get("papermill")
    except (ValueError, AttributeError, nbformat.ValidationError) as error:
        raise ExperimentError(f"{executed} is not a readable notebook; delete it, or run it again.") from error
    is_whole = progress is None or (progress.get("end_time") and not progress.get("exception"))
    return notebook if is_whole else None


def _prefix_anchors(body: str, name: str) -> str:
    """Prefix each anchor with the notebook's name, since several notebooks have headings such as "What we see"."""
    return _TAG.sub(lambda tag: _ANCHOR.sub(rf"\g<1>{escape(name)}--", tag[0]), body)


def _link_within(body: str, names: Collection[str]) -> str:
    """Turn links to other notebooks into links to their sections, and links to any other file into text."""

    def link(match: re.Match[str]) -> str:
        name = match[1].partition("#")[0].removesuffix(".ipynb")
        return f'<a href="#{name}">{match[2]}</a>' if name in names else match[2]

    return _LINK_TO_FILE.sub(link, body)
