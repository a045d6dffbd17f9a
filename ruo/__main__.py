"""The command line: each verb is a thin call of a public function. ``python -m ruo --help``."""

from __future__ import annotations

from pathlib import Path

import click

from ruo.errors import RuoError

__all__ = ["main"]


class _Verbs(click.Group):
    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except RuoError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Verbs)
@click.version_option(package_name="ruo")
def main() -> None:
    """Score a whole table with a Keras model that is served over HTTP."""


@main.command()
@click.option("--rows", default=500_000, show_default=True, help="Rows of the test set.")
@click.option("--out", default="data", show_default=True, type=click.Path(path_type=Path), help="Folder to write to.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same demo.")
def demo(rows: int, out: Path, seed: int) -> None:
    """Make a test set and two trained models from scikit-learn's handwritten digits."""
    from ruo.demo import make_demo

    made = make_demo(out, rows, seed)
    click.echo(f"{made.testset}: {rows:,} rows, {made.testset.stat().st_size / 1e6:,.0f} MB")
    for name, path in made.models.items():
        click.echo(f"{path}: accuracy {made.accuracy[name]:.3f} on digits it has not seen")


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("store", type=click.Path(path_type=Path))
def publish(model: Path, store: Path) -> None:
    """Copy MODEL into the folder STORE as its next version; a server that reads STORE takes it up by itself."""
    from ruo.publish import publish as publish_model

    click.echo(f"{store}: version {publish_model(model, store)}")


@main.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("url", nargs=-1, required=True)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Predictions as .csv or .parquet.")
@click.option("--chunk-size", default=10_000, show_default=True, help="Rows per request; 0 for the whole table.")
@click.option("--concurrency", default=8, show_default=True, help="Requests in flight.")
@click.option("--wire", default="v2", show_default=True, help="v2, v2-json, v1 or paper.")
@click.option("--token", envvar="RUO_TOKEN", help="Bearer token; better given as RUO_TOKEN.")
def score(
    source: Path,
    url: tuple[str, ...],
    output: Path | None,
    chunk_size: int,
    concurrency: int,
    wire: str,
    token: str | None,
) -> None:
    """Score the table SOURCE with the model at URL (several URLs: servers with the same model)."""
    from ruo.scoring import score_csv

    if output is not None and output.suffix not in (".csv", ".parquet"):
        raise click.BadParameter(f"{output} must end in .csv or .parquet.", param_hint="--output")
    scores = score_csv(
        source, list(url), chunk_size=chunk_size or None, concurrency=concurrency, wire=wire, token=token
    )
    click.echo(repr(scores))
    if output is not None:
        (scores.to_csv if output.suffix == ".csv" else scores.to_parquet)(output)
        click.echo(f"Predictions: {output}")


if __name__ == "__main__":
    main()
