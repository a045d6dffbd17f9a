"""The command line, ``python -m ruo --help``: each verb is a thin call of a public function."""

import json
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import click

from ruo.errors import RuoError

_SOME_FAILED = 3
_RESUMED = "the same command goes on from there"


class _Verbs(click.Group):
    """Shows an error of ruo as one sentence."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except RuoError as error:
            raise click.ClickException(str(error)) from error


@contextmanager
def _interruptible(hint: str) -> Iterator[None]:
    """On Ctrl-C, say how to continue and exit with the status of an interrupted program."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"Interrupted; {hint}.", err=True)
        sys.exit(130)  # as in a shell: 128 plus the number of the signal


@click.group(cls=_Verbs, context_settings={"show_default": True})
@click.version_option(package_name="ruo")
def main() -> None:
    """Score a whole table with a Keras model that is served over HTTP."""


@main.command()
@click.option("--rows", default=500_000, help="Rows of the test set.")
@click.option("--out", default="data", type=Path, help="Folder to write to.")
@click.option("--seed", default=0, help="The same seed gives the same demo.")
def demo(rows: int, out: Path, seed: int) -> None:
    """Make a test set and two trained models from scikit-learn's handwritten digits."""
    from ruo.learn.demo import make_demo

    made = make_demo(out, rows, seed)
    click.echo(f"{made.testset}: {rows:,} rows, {made.testset.stat().st_size / 1e6:,.0f} MB")
    for name, path in made.models.items():
        click.echo(f"{path}: accuracy {made.accuracy[name]:.3f} on digits it has not seen")


@main.command()
@click.argument("model", type=Path)
@click.argument("store", type=Path)
def publish(model: Path, store: Path) -> None:
    """Copy MODEL into the folder STORE as its next version, which a server that reads STORE loads by itself."""
    from ruo.model.store import publish as publish_model

    click.echo(f"{store}: version {publish_model(model, store)}")


def _number(value: str) -> int | str:
    if value == "auto" or value.isdigit():
        return value if value == "auto" else int(value)
    raise click.BadParameter(f"{value!r} is neither a whole number nor auto.")


def _output(value: str) -> Path:
    path = Path(value)
    if path.suffix not in (".csv", ".parquet"):
        raise click.BadParameter(f"{path} must end in .csv or .parquet.")
    return path


def _part(value: str) -> tuple[int, int]:
    index, _, of = value.partition("/")
    if index.isdigit() and of.isdigit() and int(index) < int(of):
        return int(index), int(of)
    raise click.BadParameter(f"{value!r} is no part; 0/4 is the first of four, 3/4 the last.")


@main.command()
@click.argument("source", type=Path)
@click.argument("url", nargs=-1, required=True)
@click.option("--output", "-o", type=_output, metavar="PATH", help="Predictions as .csv or .parquet.")
@click.option("--checkpoint", type=Path, help="Keep the scores here, and resume from them.")
@click.option("--shard", type=_part, metavar="I/N", help="Score only part I of N, from 0; `ruo merge` joins the parts.")
@click.option("--chunk-size", default="10000", type=_number, metavar="N", help="Rows per request; 0 for all; auto.")
@click.option("--concurrency", default="8", type=_number, metavar="N", help="Requests in flight; auto.")
@click.option("--wire", default="v2", help="v2, v2-json, v1 or paper.")
@click.option("--label-prefix", default="Label_", help="Columns whose names begin so are not sent.")
@click.option("--errors", default="raise", type=click.Choice(["raise", "collect"]), help="Stop, or score the rest.")
@click.option("--retries", default=10, help="Further attempts at a request that failed.")
@click.option("--timeout", default=60.0, help="Seconds that an attempt may take.")
@click.option("--output-name", help="The output to take, for a model with several.")
@click.option("--token", envvar="RUO_TOKEN", help="Bearer token; better given as RUO_TOKEN.")
@click.option("--ca", type=Path, help="Certificates (PEM) to trust for https.")
@click.option("--progress/--no-progress", default=None, help="Draw a bar; by default in a terminal only.")
def score(
    source: Path, url: tuple[str, ...], output: Path | None, chunk_size: Any, output_name: str | None, **options: Any
) -> None:
    """Score the table SOURCE with the model at URL (several URLs: servers with the same model).

    Exits with status 0 when all rows were scored, 1 when the run failed, 3 when --errors collect left out some rows,
    130 when it was interrupted; with --checkpoint, the same command then resumes.
    """
    from ruo.client.scoring import score_csv

    if output is not None and not output.parent.is_dir():
        raise click.BadParameter(f"the folder {output.parent} does not exist.", param_hint="--output")
    if options["shard"] and output is not None and output.suffix != ".parquet":
        raise click.BadParameter("a part is written as .parquet, so that it can be merged.", param_hint="--output")
    with _interruptible(_RESUMED if options["checkpoint"] else "nothing is kept without --checkpoint"):
        scores = score_csv(source, list(url), chunk_size=chunk_size or None, output=output_name, **options)
    if output is not None:
        (scores.to_csv if output.suffix == ".csv" else scores.to_parquet)(output)
        click.echo(f"Predictions: {output}")
    click.echo(repr(scores))
    for failure in scores.errors:
        click.echo(str(failure), err=True)
    if scores.errors:
        sys.exit(_SOME_FAILED)


@main.command()
@click.argument("out", type=Path)
@click.argument("parts", nargs=-1, required=True, type=Path)
def merge(out: Path, parts: tuple[Path, ...]) -> None:
    """Join the predictions of all PARTS of a table (from `score --shard`) into OUT, a .parquet or .csv."""
    from ruo.client.scores import merge as merge_parts

    click.echo(f"{out}: {merge_parts(parts, out):,} rows")


Pairs = tuple[tuple[str, str], ...]

_notebook = click.argument("notebook", type=Path)
_results = click.option("--results", required=True, type=Path, help="Folder for the results.")


@main.command()
@_notebook
@_results
@click.option("-p", "pairs", nargs=2, multiple=True, metavar="NAME VALUE", help="A parameter of the notebook.")
@click.option("-y", "texts", multiple=True, metavar="YAML", help="Parameters as YAML: '{runs: 5, workers: 2}'.")
@click.option("-f", "files", multiple=True, type=click.File(encoding="utf-8"), help="A file of parameters in YAML.")
def run(notebook: Path, results: Path, pairs: Pairs, texts: tuple[str, ...], files: tuple[TextIO, ...]) -> None:
    """Run NOTEBOOK with parameters; keep it, a page that opens offline and its data in one folder.

    Parameters are given as for papermill, and may be lists: -p runs 5, -p server_url http://localhost:8000, -p
    chunk_sizes 1000,5000,none.
    """
    from ruo.notebook.parameters import parse_fixed
    from ruo.notebook.run import run_notebook

    parameters = parse_fixed(pairs, [*(file.read() for file in files), *texts])
    with _interruptible(_RESUMED):
        verdict = run_notebook(notebook, results, parameters)
    click.echo(f"\n{verdict}\n")
    for path in sorted(results.iterdir()):
        click.echo(f"  {path}")
    if "\nINVALID" in verdict:
        patience = 2 * float(parameters.get("patience") or 120)
        given = {**parameters, "patience": patience}
        words = [word for name, value in given.items() for word in ("-y", f"{{{name}: {json.dumps(value)}}}")]
        again = ["ruo", "run", str(notebook), "--results", str(results), *words]
        click.echo(f"\nThe runs are not to be relied on. Once the machine is quiet, run: {shlex.join(again)}")
    click.echo(f"\nOpen {(results / notebook.name).with_suffix('.html').resolve()}")


@main.command()
@_notebook
@_results
@click.option("-p", "pairs", nargs=2, multiple=True, required=True, metavar="NAME VALUES", help="A parameter's values.")
def sweep(notebook: Path, results: Path, pairs: Pairs) -> None:
    """Run NOTEBOOK for every combination of its parameters' values, one after the other.

    -p workers 1,2,4 varies; -p runs 3 is fixed; a value that is itself a list stands in brackets:
    -p chunk_sizes '[1000,5000],[none]'. After an interruption, the same command resumes.

    Exits with status 0, 1 when nothing could be run, 3 when some combinations failed, or 130 when it was interrupted.
    """
    from ruo.notebook.parameters import parse_swept
    from ruo.notebook.run import VERDICTS, run_grid

    with _interruptible(_RESUMED):
        gathered = run_grid(notebook, results, *parse_swept(pairs))
    click.echo((results / VERDICTS).read_text(encoding="utf-8"))
    if gathered["error"].notna().any():
        sys.exit(_SOME_FAILED)


@main.command()
@click.argument("results", type=Path)
def report(results: Path) -> None:
    """Bind the newest finished run of each notebook in the folder RESULTS into one page that opens offline."""
    from ruo.notebook.report import bind

    click.echo(f"  {bind(results)}")


@main.command()
@click.option("--testset", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", required=True, type=click.Path(exists=True, path_type=Path), help="A .keras file.")
@click.option("--sizes", default="10000", help="Rows per request: all, or like 1000,10000,none.")
@click.option("--runs", default=5, type=click.IntRange(min=1), help="Runs of each system.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes of ruo's server; by default one per CPU.")
@click.option("--results", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write to.")
@click.option("--seed", default=0, help="The same seed gives the same order of runs.")
@click.option("--patience", "patience_s", default=60.0, help="Seconds that noise may cost: waiting, and further runs.")
def compare(testset: Path, model: Path, sizes: str, workers: int | None, results: Path, **options: Any) -> None:
    """Compare the system of 2023 with ruo and with no network at all. With --sizes all, the former runs once per size.

    After an interruption, the same command resumes; a finished run in the folder is kept beside it, under its date.
    """
    from ruo.compare.systems import ALL_SIZES, Systems, compare_systems
    from ruo.experiment.carry_out import put_aside_finished
    from ruo.notebook.parameters import request_sizes

    # so that SIGTERM stops the servers, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    once = sizes.strip().lower() == "all"
    chunk_sizes = ALL_SIZES if once else tuple(dict.fromkeys(request_sizes(sizes, "--sizes")))
    systems = Systems(testset, model, workers)
    put_aside_finished(results)
    log = partial(click.echo, err=True)
    log("Starting both servers ...")
    compared = compare_systems(systems, chunk_sizes, results_dir=results, paper_once=once, log=log, **options)
    compared.save()
    click.echo(repr(compared))


@main.command("compare-runs")
@click.argument("a", type=Path)
@click.argument("b", type=Path)
def compare_runs(a: Path, b: Path) -> None:
    """Say where the sweep in folder B is faster than that in A, where slower, and where no difference is seen."""
    from ruo.experiment.compare_runs import compare_runs as compare

    click.echo(compare(a, b).text())


if __name__ == "__main__":
    main()
