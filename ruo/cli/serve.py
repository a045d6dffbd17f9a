"""The verb ``serve``: a model served on this machine until Ctrl-C."""

import math
import os
import signal
import sys
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import click
from click.core import ParameterSource

from ruo.deploy.local import LocalServer, serve_on
from ruo.deploy.serve import holder, listen, usage
from ruo.errors import RuoError


class _NotStartedError(click.ClickException):
    exit_code = 2


@click.command()
@click.argument("model", type=Path)
@click.option("--host", default="127.0.0.1", help="Address to listen at; 0.0.0.0 for all of this machine's.")
@click.option("--port", default=8000, envvar="PORT", type=click.IntRange(0, 65535), help="0 for any that is free.")
@click.option("--workers", envvar="WEB_CONCURRENCY", type=click.IntRange(1), help="Processes; by default one per CPU.")
@click.option("--token", envvar="RUO_TOKEN", help="Bearer token to ask for; better given as RUO_TOKEN.")
@click.pass_context
def serve(context: click.Context, model: Path, host: str, port: int, workers: int | None, token: str | None) -> None:
    """Serve MODEL on this machine until Ctrl-C.

    MODEL is a .keras file or a folder of published versions. Every variable of the server holds here too, such as
    KERAS_BACKEND, MODEL_NAME, RUO_TRUST_MODEL or LOG_LEVEL (info shows each request). Where port 8000 is in use and
    none is asked for, the next free one is taken.

    Exits with status 0 after Ctrl-C, 1 when the server ended by itself, 2 when it could not be started.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    takes_next = context.get_parameter_source("port") is ParameterSource.DEFAULT
    with ExitStack() as stack:
        try:
            server = _start(stack, model, host, port, takes_next, workers, token)
            click.echo(usage(server, token))
            sys.stdout.flush()
            server.wait(sys.stderr)
        except KeyboardInterrupt:
            click.echo("Stopping ...", err=True)


def _start(
    stack: ExitStack, model: Path, host: str, port: int, takes_next: bool, workers: int | None, token: str | None
) -> LocalServer:
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "LOG_LEVEL": "warning"}
    settings = {name: os.environ.get(name, value) for name, value in quiet.items()} | {"RUO_TOKEN": token or ""}
    try:
        listener = stack.enter_context(listen(host, port, takes_next))
        address, taken, *_ = listener.getsockname()
        if port not in (0, taken):
            click.echo(f"Port {port} is in use by {holder(port)}, so it is {taken} now.", err=True)
        if not token and not ip_address(address).is_loopback:
            click.echo("Whoever reaches this machine can use it; --token asks for one.", err=True)
        click.echo(f"Loading {model} ...", err=True)
        return stack.enter_context(serve_on(listener, model, workers, None, math.inf, settings))
    except RuoError as error:
        raise _NotStartedError(str(error)) from error
