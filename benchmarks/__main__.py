"""Every claim of speed, measured again beside its target: ``make bench``, or ``python -m benchmarks --help``.

The jobs of a group run in randomised blocks, each in a new client process. Predictions are compared with those of the
model in one process. The samples of a group are in its folder's runs.jsonl.
"""

import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click
import pandas as pd

from benchmarks.bare_socket import CPUS
from benchmarks.groups import GROUPS, Files, Group
from benchmarks.targets import compare_with_targets, markdown, select_jobs
from ruo.compare.jobs import JobMeasurement
from ruo.errors import RuoError
from ruo.experiment.carry_out import Plan, all_combinations, carry_out, put_aside_finished, read_lines
from ruo.experiment.validity import judge
from ruo.provenance import Provenance, fingerprint, machine


def measure_group(
    group: Group, chosen: set[str], files: Files, runs: int, patience_s: float, folder: Path
) -> tuple[pd.DataFrame, list[str]]:
    """Measure the chosen jobs of a group; the same call resumes an interrupted one.

    Returns the samples, what is left out and why, and whether the samples can be relied on.
    """
    running: dict[str, Any] = {"": None}
    notes = []
    tasks = {name: task for name, task in group.jobs.items() if name in chosen}
    group.prepare()
    with ExitStack() as stack:
        for need in sorted({task.need for task in tasks.values()} - {""}):
            try:
                running[need] = stack.enter_context(group.needs[need]())
            except RuoError as error:
                notes.append(f"{folder.name}: {need} is left out: {error}")
        jobs = {name: partial(task.run, running[task.need]) for name, task in tasks.items() if task.need in running}
        if not jobs:
            return pd.DataFrame(), notes
        # a server's first requests are slower
        plan = Plan(all_combinations({"job": list(jobs)}), 1 if group.once else runs, warmup=int(not group.once))
        model = {model.stem: {"sha256": fingerprint(model)} for model in (files.mlp, files.cnn)}
        data = {"sha256": fingerprint(files.testset)}
        measurement = JobMeasurement(lambda trial: jobs[trial.levels["job"]], group.bound)
        provenance = Provenance({"plan": plan.facts(), "data": data, "model": model, "machine": machine()})
        log = partial(click.echo, err=True)
        carry_out(plan, measurement, provenance, folder, patience_s=patience_s, progress=False, log=log)
    samples = pd.DataFrame(read_lines(folder)[0])
    verdict = judge(samples, len(plan.trials()), "every job gave the model's own predictions")
    return samples, [*notes, f"{folder.name}: {verdict}"]


@click.command()
@click.option("--testset", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--mlp", required=True, type=click.Path(exists=True, path_type=Path), help="The light model.")
@click.option("--cnn", required=True, type=click.Path(exists=True, path_type=Path), help="The heavy model.")
@click.option("--runs", default=5, show_default=True, type=click.IntRange(min=1), help="Blocks.")
@click.option("--only", default="", help=f"Groups ({','.join(GROUPS)}), or a part of a target's name; all if left out.")
@click.option("--results", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write to.")
@click.option("--patience", default=300.0, show_default=True, help="Seconds that a group may wait for a quiet machine.")
def main(testset: Path, mlp: Path, cnn: Path, runs: int, only: str, results: Path, patience: float) -> None:
    """Measure what ruo claims, and say for each target whether it is reached.

    The same command resumes an interrupted run. A finished run in the folder is kept beside it, under its date.
    """
    with tempfile.TemporaryDirectory() as scratch:
        files = Files(testset.resolve(), mlp.resolve(), cnn.resolve(), Path(scratch))
        groups = {name: make(files) for name, make in GROUPS.items()}
        samples, notes = list[pd.DataFrame](), list[str]()
        try:
            chosen = select_jobs(only, {name: group.jobs for name, group in groups.items()}, CPUS)
            put_aside_finished(results, "bench.md")
            for name, jobs in chosen.items():
                click.echo(f"{name} ...", err=True)
                measured, said = measure_group(groups[name], jobs, files, runs, patience, results / name)
                samples.append(measured)
                notes += said
        except RuoError as error:
            raise click.ClickException(str(error)) from error
    if (all_samples := pd.concat(samples)).empty:
        raise click.ClickException(" ".join(["Nothing can be measured here.", *notes]))
    table = compare_with_targets(all_samples[~all_samples["warmup"].astype(bool)], CPUS)
    text = "\n\n".join([markdown(table), *notes])
    (results / "bench.md").write_text(text + "\n", encoding="utf-8")
    click.echo(text)


if __name__ == "__main__":
    main()
