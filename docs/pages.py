"""What MkDocs cannot see by itself: the README, the guides beside the code, and the notebooks, which `make docs` has executed."""

import re
from os.path import relpath
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
WIDGET = "application/vnd.jupyter.widget-view+json"
EXECUTED = ROOT / "results" / "docs"
GUIDES = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("k8s/**/README.md"), *ROOT.glob("CONTRIBUTING.md")])
# in the order in which notebooks/README.md tells to read them
NOTEBOOKS = re.findall(r"\((\w+)\.ipynb\)", (ROOT / "notebooks" / "README.md").read_text())
NAMED = ("reference", "performance", "architecture")
HOW_TO = sorted(path.name for path in ROOT.glob("docs/*.md") if path.stem not in NAMED)
PAGES = {  # where what is in the repository stands on the site
    "README.md": "index.md",
    "notebooks/README.md": "tutorial/index.md",
    **{f"notebooks/{name}.ipynb": f"tutorial/{name}.md" for name in NOTEBOOKS},
    **{f"docs/{path.name}": path.name for path in ROOT.glob("docs/*.*")},
    **{guide: guide for guide in GUIDES},
}
SOURCES = {page: source for source, page in PAGES.items()}


def on_config(config: MkDocsConfig) -> None:
    """Set the order of the pages."""
    config.nav = [
        {"Start": "index.md"},
        {"Tutorial": ["tutorial/index.md", *(f"tutorial/{name}.md" for name in NOTEBOOKS)]},
        {"How to": [*HOW_TO, *GUIDES]},
        *({name.capitalize(): f"{name}.md"} for name in NAMED),
    ]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that are not in docs/."""
    for source, page in PAGES.items():
        if source.endswith(".ipynb"):
            for uri, content in _notebook(Path(source).stem).items():
                files.append(File.generated(config, uri, content=content))
        elif not source.startswith("docs/"):
            files.append(File.generated(config, page, content=(ROOT / source).read_text()))


def _notebook(name: str) -> dict[str, str | bytes]:
    """The pages and pictures of an executed notebook; as it is committed, where nobody has executed it."""
    executed = EXECUTED / f"{name}.ipynb"
    notebook = nbformat.read(executed if executed.exists() else ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:  # without progress bars, and what is written to stderr
        shown = [
            each
            for each in cell.get("outputs", ())
            if each.get("name") != "stderr" and WIDGET not in each.get("data", ())
        ]
        cell.update({"outputs": shown} if cell.cell_type == "code" else {})
    resources = {"unique_key": name, "output_files_dir": f"{name}_files"}
    text, resources = MarkdownExporter().from_notebook_node(notebook, resources)
    pictures = {f"tutorial/{path}": content for path, content in resources["outputs"].items()}
    return {f"tutorial/{name}.md": text, **pictures}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point each link at the page that its target is here; what is only in the repository keeps its name."""
    here = PurePosixPath(page.file.src_uri)
    source = PurePosixPath(SOURCES.get(str(here), str(here)))

    def point(link: re.Match[str]) -> str:
        text, target, anchor = link.groups()
        if "://" in target or not target or target.startswith(f"{source.stem}_files/"):
            return link[0]
        found = normpath(source.parent / target)
        there = PAGES.get(found) or PAGES.get(f"{found}/README.md")
        if there is None:
            return text if (ROOT / found).exists() else link[0]
        return f"[{text}]({relpath(there, here.parent)}{anchor or ''})"

    return re.sub(r"\[([^\]]*)\]\(([^)#\s]*)(#[^)]*)?\)", point, markdown)
