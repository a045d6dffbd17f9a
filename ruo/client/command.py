"""The options of the command line, made from the documented dataclasses, and grouped as these are in `--help`."""

import csv
import re
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

_NAMES = {"headers": "http-header", "inputs": "input", "null_values": "null-value", "output": "output-name"}
_METAVARS = {"headers": "'NAME: VALUE'", "inputs": "NAME=A,B,...", "shard": "I/N"}
_MORE = {
    "chunk_size": " 0 sends the whole table as one request.",
    "headers": " Repeat it for several.",
    "inputs": " Repeat it for each input.",
    "null_values": " Repeat it for several.",
    "shard": " `ruo merge` joins the parts.",
}


class ScoreCommand(click.Command):
    """A command that takes the options of a run; they are loaded where they are needed, since that takes a while."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own parameters and those of all groups."""
        *own, help_option = super().get_params(ctx)
        return [*own, *(option for options in _groups().values() for option in options), help_option]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group."""
        own = {"Options": super().get_params(ctx)}
        for title, options in {**own, **_groups()}.items():
            shown = [option for option in options if isinstance(option, click.Option)]
            records = [record for option in shown if (record := option.get_help_record(ctx))]
            with formatter.section(title):
                formatter.write_dl(records)


def _groups() -> dict[str, list[click.Parameter]]:
    from ruo.client.options import GROUPS, entries

    titles = {"table": "The table", "run": "The run", "server": "The server"}
    groups: dict[str, list[click.Parameter]] = {}
    for name, group in GROUPS.items():
        hints, documented = get_type_hints(group), entries(group)
        of_files = [option for option in fields(group) if option.name != "pipelined"]  # which keeps all in memory
        groups[titles[name]] = [
            _option(option.name, hints[option.name], option.default, documented[option.name]) for option in of_files
        ]
    return groups


def _option(name: str, hint: Any, default: Any, entry: str) -> click.Option:
    text = " ".join(line.strip() for line in entry.splitlines()[1:])
    first = re.split(r"(?<!\.)\.(?: |$)", text)[0]
    about: dict[str, Any] = {"help": first + "." + _MORE.get(name, ""), "default": default}
    flag = f"--{_NAMES.get(name, name.replace('_', '-'))}"
    kinds = [hint, *get_args(hint)]
    if bool in kinds:
        flag += "" if default is False else f"/--no-{flag[2:]}"
        about["is_flag"] = True
    elif int in kinds and default is not None:
        about |= {"type": _number, "metavar": "N|auto"} if len(kinds) > 1 else {"type": int}
    elif literal := next((kind for kind in kinds if get_origin(kind) is Literal), None):
        about["type"] = click.Choice(get_args(literal))
    elif name in ("headers", "inputs", "null_values"):
        about |= {"metavar": _METAVARS.get(name)}
        about |= {"type": {"headers": _header, "inputs": _input}.get(name, str), "multiple": True, "default": ()}
    elif name in ("columns", "drop", "keep", "prediction_names"):
        about |= {"type": _names, "default": None, "metavar": "A,B,..."}
    else:
        about |= {"type": {"shard": _part, "timeout": float}.get(name, str), "metavar": _METAVARS.get(name)}
    return click.Option([name, flag], envvar="RUO_TOKEN" if name == "token" else None, **about)


def keywords(given: dict[str, Any]) -> dict[str, Any]:
    """The values of the options as keywords of `score_csv`, without those that were left out."""
    given["chunk_size"] = given["chunk_size"] or None
    pairs = {name: dict(given[name]) for name in ("headers", "inputs")}
    return {
        name: value for name, value in {**given, **pairs}.items() if name == "chunk_size" or value not in (None, (), {})
    }


def _names(text: str) -> list[str]:
    return next(csv.reader([text], skipinitialspace=True))  # a name may hold a comma, in quotes


def _input(text: str) -> tuple[str, list[str]]:
    name, equals, columns = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{text!r} is no input; write NAME=a,b,c.")
    return name, _names(columns)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise click.BadParameter("a header is written 'Name: value'.")  # without the text, which may be a secret
    return name, value.strip()


def _number(value: str) -> int | str:
    if str(value) == "auto" or str(value).isdigit():
        return value if value == "auto" else int(value)
    raise click.BadParameter(f"{value!r} is neither a whole number nor auto.")


def _part(value: str) -> tuple[int, int]:
    index, _, of = value.partition("/")
    if index.isdigit() and of.isdigit() and int(index) < int(of):
        return int(index), int(of)
    raise click.BadParameter(f"{value!r} is no part; 0/4 is the first of four, 3/4 the last.")
