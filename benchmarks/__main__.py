"""Every claim of speed, measured again beside its target: ``make bench``, or ``python -m benchmarks --help``.

The jobs of a group run in randomised blocks, each in a new client process. Predictions are compared with those of the
model in one process. The samples of a group are in its folder's runs.jsonl.
"""

from functools import partial
from pathlib import Path

import click
import pandas as pd

from benchmarks.groups import GROUPS, Files
from benchmarks.targets import compare_with_targets, markdown
from ruo.compare.jobs import JobMeasurement
from ruo.errors import RuoError
from ruo.experiment.carry_out import Plan, all_combinations, carry_out, put_aside_finished, read_lines, read_provenance
from ruo.experiment.validity import judge
from ruo.provenance import Provenance, fingerprint, machine

_PATIENCE_S = 300.0  # for all runs of a group together
_CLAIM = "every job gave the model's own predictions"


def measure_group(name: str, files: Files, runs: int, seed: int, folder: Path) -> None:
    """Measure a group of jobs; the same call resumes an interrupted one."""
    with GROUPS[name](files) as group:
        once = None if group.once is None else {"job": group.once}
        plan = Plan(all_combinations({"job": list(group.jobs)}), runs, group.warmup, seed, once=once)
        model = {model.stem: {"sha256": fingerprint(model)} for model in (files.mlp, files.cnn)}
        facts = {"plan": plan.facts(), "data": {"sha256": fingerprint(files.testset)}, "model": model}
        provenance = Provenance({**facts, "left_out": group.left_out, "machine": machine()})
        measurement = JobMeasurement(lambda trial: group.jobs[trial.levels["job"]], group.bound)
        log = partial(click.echo, err=True)
        carry_out(plan, measurement, provenance, folder, patience_s=_PATIENCE_S, progress=False, log=log)


def read_group(folder: Path) -> tuple[pd.DataFrame, str]:
    """The samples of a group, and whether they can be relied on."""
    runs = pd.DataFrame(read_lines(folder)[0])
    planned = int(read_provenance(folder).facts["plan"]["trials"])
    return runs[~runs["warmup"]], f"{folder.name}: {judge(runs, planned, _CLAIM)}"


@click.command()
@click.option("--testset", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--mlp", required=True, type=click.Path(exists=True, path_type=Path), help="The light model.")
@click.option("--cnn", required=True, type=click.Path(exists=True, path_type=Path), help="The heavy model.")
@click.option("--runs", default=5, show_default=True, type=click.IntRange(min=1), help="Blocks.")
@click.option("--groups", default=",".join(GROUPS), show_default=True, help="What to measure.")
@click.option("--results", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write to.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same order of jobs.")
def main(testset: Path, mlp: Path, cnn: Path, runs: int, groups: str, results: Path, seed: int) -> None:
    """Measure what ruo claims, and say for each target whether it is reached.

    The same command resumes an interrupted run. A finished run in the folder is kept beside it, under its date.
    """
    names = groups.split(",")
    unknown = next((name for name in names if name not in GROUPS), None)
    if unknown is not None:
        raise click.ClickException(f"There is no group {unknown!r}; the groups are {', '.join(GROUPS)}.")
    put_aside_finished(results, "bench.md")
    files = Files(testset.resolve(), mlp.resolve(), cnn.resolve())
    try:
        for name in names:
            click.echo(f"{name} ...", err=True)
            measure_group(name, files, runs, seed, results / name)
        samples, verdicts = zip(*(read_group(results / name) for name in names), strict=True)
    except RuoError as error:
        raise click.ClickException(str(error)) from error
    table = compare_with_targets(pd.concat(samples), files.cpus)
    text = "\n\n".join([markdown(table), *verdicts])
    (results / "bench.md").write_text(text + "\n", encoding="utf-8")
    click.echo(text)


if __name__ == "__main__":
    main()
