"""The options of the command line, made from the documented dataclasses, and grouped as these are in `--help`."""

import csv
import re
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

_NAMES = {"headers": "http-header", "inputs": "input", "null_values": "null-value", "output": "output-name"}


class ScoreCommand(click.Command):
    """A command that takes the options of a run; they are loaded where they are needed, since that takes a while."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own parameters and those of all groups."""
        *own, help_option = super().get_params(ctx)
        return [*own, *(option for options in _groups().values() for option in options), help_option]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group."""
        for title, options in {"Options": super().get_params(ctx), **_groups()}.items():
            shown = [option for option in options if isinstance(option, click.Option)]
            with formatter.section(title):
                formatter.write_dl([record for option in shown if (record := option.get_help_record(ctx))])


def _groups() -> dict[str, list[click.Parameter]]:
    from ruo.client.options import GROUPS, entries

    groups: dict[str, list[click.Parameter]] = {}
    for title, group in GROUPS.items():
        hints, documented = get_type_hints(group), entries(group)
        of_files = [option for option in fields(group) if option.name != "pipelined"]  # which keeps all in memory
        groups[f"The {title}"] = [
            _option(option.name, hints[option.name], option.default, documented[option.name]) for option in of_files
        ]
    return groups


def _option(name: str, hint: Any, default: Any, entry: str) -> click.Option:
    text = " ".join(line.strip() for line in entry.splitlines()[1:])
    first_sentence = re.split(r"(?<!\.)\.(?: |$)", text)[0]
    shown = _SHOWN.get(name, {})
    about = {"default": None if default == () else default, **shown}
    about["help"] = f"{first_sentence}.{shown.get('help', '')}"
    flag = f"--{_NAMES.get(name, name.replace('_', '-'))}"
    kinds = [hint, *get_args(hint)]
    if bool in kinds:
        flag += "" if default is False else f"/--no-{flag[2:]}"
        about["is_flag"] = True
    elif "type" not in about and (literal := next((kind for kind in kinds if get_origin(kind) is Literal), None)):
        about["type"] = click.Choice(get_args(literal))
    return click.Option([name, flag], **about)


def keywords(given: dict[str, Any]) -> dict[str, Any]:
    """The values of the options as keywords of `score_csv`, without those that were left out."""
    pairs = {name: dict(given[name]) for name in ("headers", "inputs")}
    told = {name: value for name, value in {**given, **pairs}.items() if value not in (None, (), {})}
    return {**told, "chunk_size": given["chunk_size"] or None}


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


_LIST = {"type": _names, "metavar": "A,B,..."}
_NUMBER = {"type": _number, "metavar": "N|auto"}
_SEVERAL = {"multiple": True, "help": " Repeat it for several."}
_SHOWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("columns", "drop", "keep", "prediction_names"), _LIST),
    "inputs": {"type": _input, "metavar": "NAME=A,B,...", **_SEVERAL},
    "null_values": _SEVERAL,
    "chunk_size": {"help": " 0 sends the whole table as one request.", **_NUMBER},
    "concurrency": _NUMBER,
    "shard": {"type": _part, "metavar": "I/N", "help": " `ruo merge` joins the parts."},
    "headers": {"type": _header, "metavar": "'NAME: VALUE'", **_SEVERAL},
    "token": {"envvar": "RUO_TOKEN"},
}
