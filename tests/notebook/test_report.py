"""All results on one page: which runs are on it, and that it needs no network."""

import os
import re
import time
from html import unescape
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ruo.__main__ import main
from ruo.errors import ExperimentError
from ruo.notebook.report import bind

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
NOON = time.mktime((2026, 11, 3, 12, 5, 0, 0, 0, -1))


def leave(folder: Path, name: str, text: str, verdict: str | None = "VALID.\n\nMore.", at: float = NOON, **notes: object) -> Path:  # fmt: skip
    """Write what a run of a notebook leaves in a folder; `notes` are papermill's metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = {"data": {"image/png": PIXEL, "text/plain": "<Figure>"}, "metadata": {"image/png": {"alt": "a"}}}
    outputs = [new_output("stream", text="stdout <of> it\n"), new_output("display_data", **picture)]
    cells = [new_markdown_cell(text), new_code_cell("print(1)", outputs=outputs)]
    notebook = new_notebook(cells=cells, metadata={"papermill": notes} if notes else {})
    nbformat.write(notebook, folder / f"{name}.ipynb")
    if verdict is not None:
        (folder / "verdict.txt").write_text(verdict)
        os.utime(folder / "verdict.txt", (at, at))
    return folder / f"{name}.ipynb"


def links(page: str) -> dict[str, str]:
    """Where a page's links lead, with their texts."""
    found = re.findall(r'<a [^>]*href="([^"]*)"[^>]*>([^<]*)', page)
    return {unescape(target): unescape(text) for target, text in found}


def names(page: str) -> list[str]:
    """The anchors of a page."""
    return [unescape(name) for name in re.findall(r'<[^>]* id="([^"]*)"', page)]


def test_the_index_has_title_date_and_verdict(tmp_path: Path) -> None:
    """The index links to each notebook's section, with the time of its run, its answer, and whether the runs are valid."""
    leave(tmp_path / "benchmark", "benchmark", "# How many rows & when?", "5,000 <rows>.\nINVALID: it drifts.\nMore.")
    leave(tmp_path / "scale", "scaling", "# Do servers pay?", "We see that:\n- It is so.\n- More.", at=NOON + 3600)
    written = bind(tmp_path)

    page = written.read_text()
    assert written == tmp_path / "report.html"
    found = links(page)
    assert (found["#benchmark"], found["#scaling"]) == ("How many rows & when?", "Do servers pay?")
    assert {"benchmark", "scaling"} <= set(names(page))
    assert "<td>3 November 2026, 12:05</td><td>5,000 &lt;rows&gt;.<br>INVALID: it drifts.</td>" in page
    assert "<td>3 November 2026, 13:05</td><td>It is so.</td>" in page
    assert "More." not in page


def test_only_the_newest_finished_run_of_a_name_counts(tmp_path: Path) -> None:
    """Earlier runs, and those that were put aside, interrupted or failed are left out, even if they are newer."""
    leave(tmp_path / "benchmark", "benchmark", "# finished", start_time="a", end_time="b", exception=None)
    leave(tmp_path / "yours", "benchmark", "# old", at=NOON - 60)
    leave(tmp_path / "benchmark-20261103-120500", "benchmark", "# aside", at=NOON + 10)
    leave(tmp_path / "other", "benchmark", "# unfinished", verdict=None)
    leave(tmp_path / "third", "benchmark", "# running", at=NOON + 10, end_time=None, exception=None)
    leave(tmp_path / "fourth", "benchmark", "# failed", at=NOON + 10, end_time="b", exception=True)
    assert re.findall(r"<h1 id=[^>]*>(\w+)<a", bind(tmp_path).read_text()) == ["finished"]


def test_the_page_has_whole_notebooks_with_folded_code(tmp_path: Path) -> None:
    """Prose, printed text and figures are on the page; each code cell is folded."""
    leave(tmp_path / "a", "a", "# A\n\nSome *prose*.")
    leave(tmp_path / "b", "b", "# B")
    page = bind(tmp_path).read_text()

    assert "Some <em>prose</em>." in page
    assert page.count("stdout &lt;of&gt; it") == page.count("<details>") == 2
    assert page.replace("\n", " ").count("data:image/png;base64,") == 2
    assert page.count("<!DOCTYPE html>") == page.count("<title>") == 1


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    """There is no script, not even one from a table's HTML or for a progress bar, and nothing is loaded."""
    path = leave(tmp_path / "a", "a", "# A")
    notebook = nbformat.read(path, 4)
    table = "<script type='text/javascript'>\nfetch('https://a.example')</script><b>table</b><SCRIPT src=x></SCRIPT>"
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "BAR"}
    notebook.cells[1].outputs += [new_output("display_data", data) for data in ({"text/html": table}, widget)]
    notebook.metadata["widgets"] = {}
    nbformat.write(notebook, path)
    page = bind(tmp_path).read_text()

    assert "<b>table</b>" in page
    assert "BAR" not in page
    assert "script" not in page.lower()
    assert not re.search(r"<(?:link|img|iframe)[^>]*(?:src|href)=[\"']?(?:https?:)?//|@import|url\(", page)


def test_anchors_of_two_notebooks_do_not_collide(tmp_path: Path) -> None:
    """A heading that two notebooks share has two anchors, and a link to it stays within its notebook."""
    for name in ("1a", "2b"):
        leave(tmp_path / name, name, f"# {name}\n\n[down](#Result)\n\n## Result")
    page = bind(tmp_path).read_text()
    found = names(page)
    assert len(found) == len(set(found))
    assert {"1a--Result", "2b--Result"} <= set(found)
    assert {target[1:] for target in links(page) if target.startswith("#")} - {""} <= set(found)


def test_links_between_notebooks_stay_on_the_page(tmp_path: Path) -> None:
    """A link to another notebook leads to its section; a link to a file that is not on the page becomes text."""
    there = "[the *next*](b.ipynb), [the last](c.ipynb#x), [data](../x.csv), [far](https://a.example)"
    leave(tmp_path / "a", "a", f"# A\n\n{there}")
    leave(tmp_path / "b", "b", "# B")
    page = bind(tmp_path).read_text()
    assert '<a href="#b">the <em>next</em></a>, the last, data, <a href="https://a.example">far</a>' in page


@pytest.mark.parametrize("folder", ["", "none"])
def test_no_finished_run(tmp_path: Path, folder: str) -> None:
    """Without a finished run, or without the folder, the command says how to make one, and writes nothing."""
    done = CliRunner().invoke(main, ["report", str(tmp_path / folder)])
    assert done.exit_code == 1
    assert re.search(r"^Error: There is no finished run in .* yet; make benchmark makes one\.$", done.output, re.M)
    assert not list(tmp_path.rglob("*.html"))


def test_the_command_says_where_the_page_is(tmp_path: Path) -> None:
    """The command prints the path of the page; an unreadable notebook is named, not silently left out."""
    path = leave(tmp_path / "a", "a", "# A")
    done = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert (done.exit_code, done.output.strip()) == (0, str(tmp_path / "report.html"))
    path.write_text("{")
    with pytest.raises(ExperimentError, match=r"a\.ipynb is not a readable notebook"):
        bind(tmp_path)
