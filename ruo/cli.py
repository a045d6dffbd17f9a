"""The verbs ``serve`` and ``status``, and the options of ``score``; the other verbs are in ``ruo.__main__``."""

import asyncio
import csv
import math
import re
import signal
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields
from ipaddress import ip_address
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click
from click.core import ParameterSource

from ruo.deploy.local import serve_on
from ruo.deploy.serve import holder, listen, usage
from ruo.errors import DeploymentError, RuoError, printable
from ruo.machine import when_told_to_end


class _NotStartedError(click.ClickException):
    exit_code = 2


class _GivenPath(click.Path):
    """A path that shells complete; an empty one, as of a variable that is not set, would be the working directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(value or self.fail("it is empty; write a path, or . for this folder."), param, ctx)


PATH = _GivenPath(readable=False, path_type=Path)
PATH_AS_TEXT = _GivenPath(readable=False)


@click.command()
@click.argument("model", type=PATH)
@click.option("--host", default="127.0.0.1", help="Address to listen at; 0.0.0.0 for all of this machine's.")
@click.option("--port", default=8000, envvar="PORT", type=click.IntRange(0, 65535), help="0 for any that is free.")
@click.option("--workers", envvar="WEB_CONCURRENCY", type=click.IntRange(0), help="Processes; 0 is one per CPU.")
@click.option("--token", envvar="RUO_TOKEN", help="Bearer token to ask for; better given as RUO_TOKEN.")
@click.pass_context
def serve(context: click.Context, model: Path, host: str, port: int, workers: int | None, token: str | None) -> None:
    """Serve MODEL on this machine until Ctrl-C.

    MODEL is a .keras file or a folder of published versions. Every variable of the server holds here too, such as
    KERAS_BACKEND, MODEL_NAME, RUO_TRUST_MODEL or LOG_LEVEL (info shows each request). Where port 8000 is in use and
    none is asked for, the next free one is taken.

    Exits with status 0 after Ctrl-C, 1 when the server ended by itself, 2 when it could not be started.
    """
    when_told_to_end(signal.default_int_handler)
    takes_next = context.get_parameter_source("port") is ParameterSource.DEFAULT
    with ExitStack() as stack:
        try:
            try:
                listener = stack.enter_context(listen(host, port, takes_next))
                address, taken, *_ = listener.getsockname()
                if port not in (0, taken):
                    click.echo(f"Port {port} is in use by {holder(port)}, so it is {taken} now.", err=True)
                if not token and not ip_address(address).is_loopback:
                    click.echo("Whoever reaches this machine can use it; --token asks for one.", err=True)
                click.echo(f"Loading {model} ...", err=True)
                settings = {"RUO_TOKEN": token or ""}
                server = stack.enter_context(serve_on(listener, model, workers, None, math.inf, settings))
            except RuoError as error:
                raise _NotStartedError(str(error)) from error
            click.echo(usage(server, token))
            sys.stdout.flush()
            server.wait(sys.stderr)
        except KeyboardInterrupt:
            click.echo("Stopping ...", err=True)


@click.command()
@click.argument("url")
@click.option("--watch", is_flag=True, help="Ask again every second, until Ctrl-C.")
@click.option("--token", envvar="RUO_TOKEN", help="Bearer token; better given as RUO_TOKEN.")
@click.option("--ca", type=PATH_AS_TEXT, help="Certificates (PEM) to trust for https.")
def status(url: str, watch: bool, token: str | None, ca: str | None) -> None:
    """Say how busy the server at URL is, and how fast.

    Exits with status 0 when a worker is ready, otherwise 1, or 2 when an option is wrong.
    """
    before = ask(url, token, ca)
    try:
        while True:
            time.sleep(1)
            now = ask(url, token, ca)
            if watch and sys.stdout.isatty():
                click.clear()
            click.echo(describe(url, before, now))
            if not watch:
                sys.exit(not now.total("ruo_worker_ready"))
            before = now
    except KeyboardInterrupt as error:
        if not watch or error.args:  # nothing was said yet, or another signal has its own status
            raise


@dataclass(frozen=True)
class Metrics:
    """The samples of a server's metrics by name, each its labels and value, and the time when it was asked."""

    samples: dict[str, list[tuple[dict[str, str], float]]]
    at: float

    def total(self, name: str) -> float:
        """The sum over all labels."""
        return sum(value for _, value in self.samples.get(name, []))

    def by(self, label: str, name: str) -> dict[str, float]:
        """The values by that label."""
        return {labels[label]: value for labels, value in self.samples.get(name, [])}


def ask(url: str, token: str | None = None, ca: str | None = None) -> Metrics:
    """The metrics of the server at `url`; raises DeploymentError."""
    from prometheus_client.parser import text_string_to_metric_families

    from ruo.client.http import Endpoint, HttpClient
    from ruo.client.retry import RequestError
    from ruo.client.servers import model_address

    [base], *_ = model_address(url)

    async def get() -> str:
        async with HttpClient(10.0, token, ca) as http:
            return (await Endpoint(http, base).ask("GET", "/metrics"))[1].decode(errors="replace")

    metrics = Metrics({}, time.monotonic())
    try:
        text = asyncio.run(get())
    except RequestError as error:
        raise DeploymentError(printable(str(error))) from error
    with suppress(ValueError):  # of a page that is no metrics at all
        for sample in [sample for family in text_string_to_metric_families(text) for sample in family.samples]:
            metrics.samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    if "ruo_requests_in_flight" not in metrics.samples:
        raise DeploymentError(f"{base}/metrics is not that of a server of ruo; name another address.")
    return metrics


def describe(url: str, before: Metrics, now: Metrics) -> str:
    """The model, its workers, the rate since `before`, and the times of requests, as a person reads it."""
    loaded = {
        f"{labels['name']} version {labels['version']}" for labels, n in now.samples.get("ruo_model_loaded", []) if n
    }
    rows = now.total("ruo_rows_total")
    rate = max(0.0, rows - before.total("ruo_rows_total")) / max(now.at - before.at, 1e-9)
    under_way, waiting = now.total("ruo_requests_in_flight"), now.total("ruo_requests_waiting")
    answered, failed = now.total("ruo_request_seconds_count"), now.total("ruo_infer_failures_total")
    ready, held, memory = (now.by("worker", f"ruo_worker_{name}") for name in ("ready", "connections", "memory_bytes"))
    lines = [
        f"{', '.join(sorted(loaded)) or 'no model yet'} at {url}: {sum(ready.values()):.0f} of {len(ready)} workers ready",
        f"  now          {rate:,.0f} rows/s, {under_way:.0f} requests under way, {waiting:.0f} waiting",
        f"  since start  {rows:,.0f} rows in {answered:,.0f} requests, {failed:,.0f} failed",
        f"  latency      p50 {quantile(now, 0.5)}, p95 {quantile(now, 0.95)}",
        "",
        "  worker    ready  connections  memory",
    ]
    for worker, is_ready in ready.items():
        size = f"{memory[worker] / 1e6:,.0f} MB" if worker in memory else ""
        lines.append(f"  {worker:8}  {'yes' if is_ready else 'no':5}  {held.get(worker, 0):11.0f}  {size}".rstrip())
    return "\n".join(map(printable, lines))


def quantile(metrics: Metrics, share: float) -> str:
    """The time that this share of the requests stays below; within a bucket they are taken as even, as Prometheus does."""
    counts = metrics.by("le", "ruo_request_seconds_bucket")
    buckets = sorted(((float(le), count) for le, count in counts.items()), key=itemgetter(0))
    rank, low, below = share * (buckets[-1][1] if buckets else 0), 0.0, 0.0
    for high, count in buckets:
        if rank and count >= rank:
            seconds = low + (high - low) * (rank - below) / (count - below)
            return f"over {1000 * low:,.0f} ms" if math.isinf(high) else f"{float(f'{1000 * seconds:.2g}'):,g} ms"
        low, below = high, count
    return "none yet"


# The options of `score` are made from the documented dataclasses, and grouped as these are in `--help`.
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
        groups[f"The {title}"] = [
            _option(option.name, hints[option.name], option.default, documented.get(option.name, ""))
            for option in fields(group)
            if option.name != "pipelined"  # which keeps all in memory
        ]
    return groups


def _option(name: str, hint: Any, default: Any, entry: str) -> click.Option:
    text = " ".join(line.strip() for line in entry.splitlines()[1:])
    first_sentence = re.split(r"(?<!\.)\.(?: |$)", text)[0]
    about = {"default": None if default == () else default, "help": "", **_SHOWN.get(name, {})}
    about["help"] = f"{first_sentence}.{about['help']}"
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
    try:
        return next(csv.reader([text], skipinitialspace=True)) or [""]  # a name may hold a comma, in quotes
    except csv.Error:
        raise click.BadParameter(f"{text!r} is no list; write a,b,c on one line.") from None


def _text(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise click.BadParameter(f"{text!r} is not in UTF-8.")
    return text


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
    if str(value) == "auto" or str(value).isdecimal():
        return value if value == "auto" else int(value)
    raise click.BadParameter(f"{value!r} is neither a whole number nor auto.")


def _part(value: str) -> tuple[int, int]:
    index, _, of = value.partition("/")
    if index.isdecimal() and of.isdecimal() and int(index) < int(of):
        return int(index), int(of)
    raise click.BadParameter(f"{value!r} is no part; 0/4 is the first of four, 3/4 the last.")


_SEVERAL = {"multiple": True, "help": " Repeat it for several."}
_SHOWN: dict[str, dict[str, Any]] = {
    **{name: {"type": _names, "metavar": "A,B,..."} for name in ("columns", "drop", "keep", "prediction_names")},
    "inputs": {"type": _input, "metavar": "NAME=A,B,...", **_SEVERAL},
    "null_values": {"type": _text, "metavar": "TEXT", **_SEVERAL},
    **{name: {"type": PATH_AS_TEXT} for name in ("ca", "checkpoint")},
    "chunk_size": {"help": " 0 sends the whole table as one request.", "type": _number, "metavar": "N|auto"},
    "concurrency": {"type": _number, "metavar": "N|auto"},
    "shard": {"type": _part, "metavar": "I/N", "help": " `ruo merge` joins the parts."},
    "headers": {"type": _header, "metavar": "'NAME: VALUE'", **_SEVERAL},
    "token": {"envvar": "RUO_TOKEN"},
}
