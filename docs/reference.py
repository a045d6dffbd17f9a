"""Writes docs/reference.md: the public names, the command line, the variables and the routes, from what the code says.

`make docs` runs it; tests/test_docs.py tells when that was forgotten.
"""

import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from ruo.__main__ import main as command_line
from server.settings import Settings
from server.views import openapi

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference.md"
HEAD = """# Reference

Written by `make docs` from docstrings, `--help`, the server's settings and its OpenAPI document. Change it there.
"""
FIRST = ("ruo", "score_csv")  # the others refer to its keywords
# What reads no field of `Settings`; tests/test_docs.py holds both to the code.
VARIABLES = {
    "PROMETHEUS_MULTIPROC_DIR": ("a temporary folder", "where the workers keep their counters"),
    "OMP_NUM_THREADS": ("the CPUs, divided by the workers", "threads that compute in each worker"),
    "TF_NUM_INTRAOP_THREADS": ("as OMP_NUM_THREADS", "the same, for TensorFlow"),
    "TF_NUM_INTEROP_THREADS": ("1", "TensorFlow operations that run at the same time"),
    "TF_ONEDNN_USE_SYSTEM_ALLOCATOR": ("1", "oneDNN gives memory back, so that a replaced model's is free again"),
    "TF_CPP_MIN_LOG_LEVEL": ("2", "TensorFlow's log: 0 is everything, 3 nothing but failures"),
    "KUBECONFIG": ("~/.kube/config", "the cluster that `KubernetesDeployment` speaks to"),
}


def page() -> str:
    """The whole page."""
    parts = [HEAD, "## Python\n", *_python(), "## Command line\n", *_verbs(), "## Environment variables\n"]
    parts += [_variables(), "## Routes\n", "`M` is the model's name, `V` a version of it.\n", _routes()]
    return "\n".join(parts)


def public_names() -> list[tuple[str, str]]:
    """Module and name of all that `ruo` hands out, and of all that a notebook or a page imports from ruo."""
    names = [("ruo", name) for name in importlib.import_module("ruo").__all__]
    pages = {ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/*.ipynb")} - {PAGE}
    for text in (path.read_text() for path in pages):
        for module, imported in re.findall(r'^[ "]*from (ruo(?:\.\w+)*) import ([\w, ]+)', text, re.MULTILINE):
            names += [(module, name.strip()) for name in imported.split(",")]
    return sorted(dict.fromkeys(names), key=lambda pair: (pair[0] != "ruo", pair != FIRST, pair))


def _python() -> Iterator[str]:
    seen: dict[str, str] = {}  # entries that are on the page, and where
    described, public = set(), public_names()
    pending = list(public)
    for module, name in pending:
        thing = getattr(importlib.import_module(module), name)
        if id(thing) in described or not callable(thing):
            continue
        described.add(id(thing))
        called = (module, name) in public and not (isinstance(thing, type) and issubclass(thing, BaseException))
        yield f"### {name if module == 'ruo' else f'{module}.{name}'}\n"
        if called:
            yield f"```python\n{_call(name, thing)}\n```\n"
        yield markdown(inspect.getdoc(thing) or "", name, seen)
        yield from _members(thing)
        result = _result(thing)
        if result is not None:
            pending.append((result.__module__, result.__name__))


def _result(function: Any) -> type | None:
    """The class of ruo whose instance, or a context with one, a function returns."""
    function = inspect.unwrap(function)
    named = None if isinstance(function, type) else function.__annotations__.get("return")
    if isinstance(named, str):
        named = getattr(importlib.import_module(function.__module__), named, None)
    classes = [part for part in (named, *getattr(named, "__args__", ())) if isinstance(part, type)]
    return next((part for part in classes if part.__module__.startswith("ruo.")), None)


def _members(thing: Any) -> Iterator[str]:
    """The public methods and properties of a class."""
    bases = [base for base in getattr(thing, "__mro__", ()) if base.__module__.startswith("ruo")]
    for name, member in {name: member for base in bases for name, member in vars(base).items()}.items():
        text = _one_line(inspect.getdoc(member) or "")
        if not name.startswith("_") and inspect.isfunction(member):
            yield f"- `{_call(f'.{name}', member)}`: {text}"
        elif not name.startswith("_") and isinstance(member, (property, cached_property)):
            yield f"- `.{name}`: {text}"
    yield ""


def _call(name: str, thing: Any) -> str:
    """How it is called, with its defaults."""
    signature = inspect.signature(thing)
    arguments = [each.replace(annotation=each.empty) for each in signature.parameters.values() if each.name != "self"]
    shown = str(signature.replace(parameters=arguments, return_annotation=signature.empty))
    shown = re.sub(r"(?<==)\d+(?=[,)])", lambda number: f"{int(number[0]):_}", shown)
    return "\n".join(textwrap.wrap(name + shown, 100, subsequent_indent="    "))


def markdown(docstring: str, name: str, seen: dict[str, str]) -> str:
    """A numpydoc docstring as Markdown; entries that are on the page already are only named."""
    opening, *sections = re.split(r"^(\w[\w ]*)\n-{3,}\n", docstring.replace("``", "`"), flags=re.MULTILINE)
    parts = [re.sub(r"^(?=>>>|from ruo|scores = )", "    ", opening, flags=re.MULTILINE)]
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        if title == "Examples":
            parts.append(f"```python\n{body.strip()}\n```\n")
            continue
        entries = re.split(r"\n(?=\S)", body.strip())
        known = [entry for entry in entries if entry in seen and " : " in entry]
        shown = [_entry(entry) for entry in entries if entry not in known]
        seen |= {entry: name for entry in entries if entry not in seen}
        if known:
            names = ", ".join(f"`{entry.partition(' : ')[0]}`" for entry in known)
            shown.append(f"- As for `{seen[known[0]]}`: {names}.")
        parts.append(f"{title}:\n\n" + "\n".join(shown) + "\n")
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def _entry(entry: str) -> str:
    first, _, rest = entry.partition("\n")
    name, _, kind = first.partition(" : ")
    return f"- `{name}`" + (f" ({kind})" if kind else "") + (f": {_one_line(rest)}" if rest else "")


def _one_line(text: str) -> str:
    return " ".join(text.partition("\n\n")[0].split())


def _verbs() -> Iterator[str]:
    context = click.Context(command_line, info_name="ruo", terminal_width=100, **command_line.context_settings)
    for name, verb in sorted(command_line.commands.items()):
        yield f"### ruo {name}\n\n```text\n{verb.get_help(click.Context(verb, context, name))}\n```\n"


def _variables() -> str:
    text = (ROOT / "server" / "settings.py").read_text()
    meanings = dict(re.findall(r"^    (\w+): [^=\n]+ = .*?  # (.+)$", text, re.MULTILINE))
    rows = [(name.upper(), getattr(Settings(), name), meanings[name]) for name in Settings.__dataclass_fields__]
    return _table(("variable", "default", "meaning"), [*rows, *((name, *about) for name, about in VARIABLES.items())])


def _routes() -> str:
    rows = []
    for path, operations in openapi(Settings())["paths"].items():
        for method, operation in operations.items():
            shown = path.replace("{model}", "M").replace("{version}", "V")
            token = "" if operation.get("security") == [] else "yes"
            rows.append((f"{method.upper()} {shown}", operation["summary"], token))
    return _table(("route", "answer", "needs the token"), rows)


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *((f"`{first}`", *map(_cell, rest)) for first, *rest in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
