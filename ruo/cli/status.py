"""The verb ``status``: how a server is."""

import sys
import time

import click

_BETWEEN_S = 1.0


@click.command()
@click.argument("url")
@click.option("--watch", is_flag=True, help="Ask again every second, until Ctrl-C.")
@click.option("--token", envvar="RUO_TOKEN", help="Bearer token; better given as RUO_TOKEN.")
@click.option("--ca", help="Certificates (PEM) to trust for https.")
def status(url: str, watch: bool, token: str | None, ca: str | None) -> None:
    """Say how busy the server at URL is, and how fast.

    Exits with status 0 when a worker is ready, otherwise 1, or 2 when an option is wrong.
    """
    from ruo.client.status import ask, describe

    before = ask(url, token, ca)
    try:
        while True:
            time.sleep(_BETWEEN_S)
            now = ask(url, token, ca)
            if watch and sys.stdout.isatty():
                click.clear()
            click.echo(describe(url, before, now))
            if not watch:
                break
            before = now
    except KeyboardInterrupt as error:
        if not watch or type(error) is not KeyboardInterrupt:  # nothing was said yet, or SIGTERM
            raise
        return
    sys.exit(not now.ready_workers)
