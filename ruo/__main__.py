"""The command line, ``python -m ruo --help``: each verb is a thin call of a public function."""

import errno
import io
import json
import os
import shlex
import signal
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

try:
    import click

    from ruo.cli import PATH, PATH_AS_TEXT, ScoreCommand, keywords, serve, status
    from ruo.errors import ArgumentError, RuoError, count, in_a_line, needs
    from ruo.machine import when_told_to_end
except KeyboardInterrupt:  # these take a tenth of a second, and a traceback of them says nothing
    sys.exit(128 + signal.SIGINT)

_SOME_FAILED = 3
_UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_EPILOG = (
    'Completion of verbs and options: eval "$(_RUO_COMPLETE=bash_source ruo)" in ~/.bashrc; zsh_source and fish_source '
    "are there too."
)
_RESUMED = "the same command goes on from there"


class _Verbs(click.Group):
    """Shows an error of ruo, or of a file, as one sentence."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        # else the next socket has the number of a standard stream that is closed, which a child opens anew
        while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(spare)
        sys.stdout, sys.stderr = sys.stdout or os.fdopen(1, "w"), sys.stderr or os.fdopen(2, "w")
        try:
            return super().main(*arguments, **options)
        except OSError as error:
            if error.filename is None and error.errno not in _UNWRITTEN:
                raise
            sys.stdout = io.StringIO()  # else Python writes it once more at its end
            name = error.filename2 or error.filename or "The output"  # the second is where a copy goes
            click.echo(f"Error: {name}: {error.strerror}; name another path.", err=True)
            sys.exit(1)

    def invoke(self, context: click.Context) -> object:
        warnings.showwarning = lambda message, *_: click.echo(f"Warning: {message}", err=True)
        when_told_to_end(_interrupt)
        try:
            with needs("server,notebooks"):
                return super().invoke(context)
        except ArgumentError as error:
            raise click.UsageError(str(error)) from error
        except RuoError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt as error:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # else a second one, while threads end, is told as a traceback
            click.echo(f"Interrupted{context.obj or ''}.", err=True)
            sys.exit(128 + (error.args or (signal.SIGINT,))[0])  # as in a shell


def _interrupt(number: int, _: object) -> NoReturn:
    raise KeyboardInterrupt(number)


def _when_interrupted(hint: str) -> None:
    """Say in case of Ctrl-C, SIGTERM or SIGHUP how to continue."""
    click.get_current_context().find_root().obj = f"; {hint}"


@click.group(cls=_Verbs, commands=[serve, status], epilog=_EPILOG, context_settings={"show_default": True})
@click.version_option(package_name="ruo")
def main() -> None:
    """Score a whole table with a Keras model that is served over HTTP."""


@main.command()
@click.option("--rows", default=500_000, type=click.IntRange(1), help="Rows of the test set.")
@click.option("--out", default="data", type=PATH, help="Folder to write to.")
@click.option("--seed", default=0, type=click.IntRange(0, 2**32 - 1), help="The same seed gives the same demo.")
def demo(rows: int, out: Path, seed: int) -> None:
    """Make a test set and two trained models.

    They are of scikit-learn's handwritten digits.
    """
    from ruo.learn.demo import make_demo

    out.mkdir(parents=True, exist_ok=True)
    unfinished = out / ".rows-unfinished"  # by such names make knows a demo, its size, and that it is whole
    for marker in out.glob(".rows-*"):
        marker.replace(unfinished)
    unfinished.touch()
    made = make_demo(out, rows, seed)
    unfinished.replace(out / f".rows-{rows}")
    click.echo(f"{made.testset}: {count(rows, 'row')}, {made.testset.stat().st_size / 1e6:,.0f} MB")
    for name, path in made.models.items():
        click.echo(f"{path}: accuracy {made.accuracy[name]:.3f} on digits it has not seen")


@main.command()
@click.argument("model", type=PATH)
@click.argument("store", type=PATH)
@click.option("--check/--no-check", default=True, help="Whether to load and try MODEL first, as a server does.")
def publish(model: Path, store: Path, check: bool) -> None:
    """Copy MODEL into the folder STORE as its next version.

    A server that reads STORE loads it by itself.
    """
    from ruo.model.store import publish as publish_model

    click.echo(f"{store}: version {publish_model(model, store, check)}")


@main.command(cls=ScoreCommand)
@click.argument("source", type=PATH_AS_TEXT)
@click.argument("url", nargs=-1, required=True)
@click.option("--output", "-o", "path", type=PATH, help="Write the predictions while they come, as .csv or .parquet.")
def score(source: str, url: tuple[str, ...], path: Path | None, **given: Any) -> None:
    """Score a table with a model that is served.

    SOURCE is the table (- reads standard input), URL is where the model is; several are servers with the same model.

    Exits with status 0 when all rows were scored, 1 when the run failed, 2 when an option is wrong, 3 when --errors
    collect left out some rows, 129, 130 or 143 when it was interrupted; with --checkpoint, the same command then resumes.
    """
    from ruo.client.scoring import score_csv, score_to_file

    # Python's handler alone: with polars' own, its threads panic now and then, and reading a pipe goes on for ever
    signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT))
    options = keywords(given)
    _when_interrupted(_RESUMED if given["checkpoint"] else "nothing is kept without --checkpoint")
    scores = score_to_file(source, url, path, **options) if path else score_csv(source, url, **options)
    if path:
        click.echo(f"Predictions: {path}")
    click.echo(repr(scores))
    for failure in scores.errors:
        click.echo(str(failure), err=True)
    if scores.errors:
        sys.exit(_SOME_FAILED)


@main.command()
@click.argument("out", type=PATH)
@click.argument("parts", nargs=-1, required=True, type=PATH)
def merge(out: Path, parts: tuple[Path, ...]) -> None:
    """Join the PARTS of a table from `score --shard`.

    OUT is a .parquet or .csv.
    """
    from ruo.client.scores import merge as merge_parts

    click.echo(f"{out}: {merge_parts(parts, out):,} rows")


Pairs = tuple[tuple[str, str], ...]
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)
_RESULTS: dict[str, Any] = {"required": True, "type": _FOLDER, "help": "Folder to write to."}


class _Text(click.File):
    """The text of a file."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            with click.open_file(value, encoding="utf-8") as stream:
                return stream.read()
        except (OSError, UnicodeDecodeError) as error:
            self.fail(f"{value} cannot be read as text in UTF-8 ({in_a_line(error)}); name another.", param, ctx)


# the grammar of parameters, which is papermill's
_PARAMETERS = [
    click.Argument(["notebook"], type=_FILE),
    click.Option(["--results"], **_RESULTS),
    click.Option(["-p", "pairs"], nargs=2, multiple=True, metavar="NAME VALUE", help="A parameter; -p NAME a,b,c."),
    click.Option(["-y", "texts"], multiple=True, metavar="YAML", help="Parameters as YAML: '{runs: 5, workers: 2}'."),
    click.Option(["-f", "files"], multiple=True, type=_Text(), help="Parameters, a YAML file."),
]


@main.command(params=_PARAMETERS)
def run(notebook: Path, results: Path, pairs: Pairs, texts: tuple[str, ...], files: tuple[str, ...]) -> None:
    """Run NOTEBOOK and keep it, its page and its data.

    Parameters are given as for papermill, and may be lists: -p runs 5, -p server_url http://localhost:8000, -p
    chunk_sizes 1000,5000,none. The page opens offline.
    """
    from ruo.notebook.parameters import parse_fixed
    from ruo.notebook.run import run_notebook

    parameters = parse_fixed(pairs, [*files, *texts])
    _when_interrupted(_RESUMED)
    verdict = run_notebook(notebook, results, parameters)
    click.echo(f"\n{verdict or 'It wrote no verdict.'}\n")
    for path in sorted(results.iterdir()):
        click.echo(f"  {path}")
    if "with more patience." in verdict:  # what else is wrong, the same command does not mend
        patience = 2 * float(parameters.get("patience") or 120)
        given = {**parameters, "patience": patience}
        words = [word for name, value in given.items() for word in ("-y", f"{{{name}: {json.dumps(value)}}}")]
        again = ["ruo", "run", str(notebook), "--results", str(results), *words]
        click.echo(f"\nThe runs are not to be relied on. Once the machine is quiet, run: {shlex.join(again)}")
    click.echo(f"\nOpen {(results / notebook.name).with_suffix('.html').resolve()}")


@main.command(params=_PARAMETERS)
def sweep(notebook: Path, results: Path, pairs: Pairs, texts: tuple[str, ...], files: tuple[str, ...]) -> None:
    """Run NOTEBOOK for all combinations; which is best?

    -p workers 1,2,4 varies; -p runs 3 is fixed; a value that is itself a list stands in brackets:
    -p chunk_sizes '[1000,5000],[none]'. In YAML, a list varies. After an interruption, the same command resumes.

    Exits with status 0, 1 when nothing could be run, 2 when a parameter is wrong, 3 when some combinations failed,
    129, 130 or 143 when it was interrupted.
    """
    from ruo.notebook.parameters import parse_swept
    from ruo.notebook.run import RANKING, run_grid

    _when_interrupted(_RESUMED)
    gathered = run_grid(notebook, results, *parse_swept(pairs, [*files, *texts]))
    click.echo(f"\n{(results / RANKING).read_text(encoding='utf-8')}")
    for path in sorted(path for path in results.iterdir() if path.is_file()):
        click.echo(f"  {path}")
    if gathered["error"].notna().any():
        sys.exit(_SOME_FAILED)


@main.command()
@click.argument("results", type=PATH)
def report(results: Path) -> None:
    """Bind the newest results of all notebooks.

    The newest finished run of each notebook in the folder RESULTS goes into one page that opens offline.
    """
    from ruo.notebook.report import bind

    click.echo(f"  {bind(results)}")


@main.command()
@click.option("--testset", required=True, type=_FILE)
@click.option("--model", required=True, type=_FILE, help="A .keras file.")
@click.option("--sizes", default="10000", help="Rows per request: all, or like 1000,10000,none.")
@click.option("--runs", default=5, type=click.IntRange(min=1), help="Runs of each system.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes of ruo's server; by default one per CPU.")
@click.option("--results", **_RESULTS)
@click.option("--seed", default=0, help="The same seed gives the same order of runs.")
@click.option("--patience", "patience_s", default=60.0, help="Seconds that noise may cost: waiting, and further runs.")
def compare(testset: Path, model: Path, sizes: str, workers: int | None, results: Path, **options: Any) -> None:
    """Compare the system of 2023, ruo and no network.

    With --sizes all, the system of 2023 runs once per size.

    After an interruption, the same command resumes; a finished run in the folder is kept beside it, under its date.
    """
    from ruo.compare.systems import ALL_SIZES, Systems, compare_systems
    from ruo.experiment.carry_out import put_aside_finished
    from ruo.notebook.parameters import request_sizes

    once = sizes.strip().lower() == "all"
    chunk_sizes = ALL_SIZES if once else request_sizes("--sizes", sizes)
    systems = Systems(testset, model, workers)
    put_aside_finished(results)
    log = partial(click.echo, err=True)
    log("Starting both servers ...")
    compared = compare_systems(systems, chunk_sizes, results_dir=results, paper_once=once, log=log, **options)
    compared.save()
    click.echo(repr(compared))


@main.command("compare-runs")
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
def compare_runs(a: Path, b: Path) -> None:
    """Say what became faster from folder A to folder B.

    Each holds a sweep; what is slower, and where no difference is seen, is told too.
    """
    from ruo.experiment.compare_runs import compare_runs as compare

    click.echo(compare(a, b).text())


if __name__ == "__main__":
    main()
