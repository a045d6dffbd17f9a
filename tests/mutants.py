"""Changes the code in one place at a time, and lists the changes that no fast test of the room notices: make mutants.

cosmic-ray makes the mutants and tries them on a copy of the tree. It runs in an environment of its own, so this file imports
nothing of ruo.
"""

import argparse
import os
import random
import re
import shutil
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import chdir, closing
from pathlib import Path

from cosmic_ray.commands import init
from cosmic_ray.modules import find_modules
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.testing import run_tests
from cosmic_ray.work_db import WorkDB
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome

ROOT = Path(__file__).parent.parent
FAST = "-m 'not slow and not soak'"
CLIENT = [f"--ignore=tests/client/test_{name}.py" for name in ("chaos", "endurance", "fuzz", "scoring")]
SERVER = ["test_application", "test_versions", "test_limits", "test_hostile_clients", "test_repository", "test_worker"]
# The tests of a room. The client's mostly wait, so four of its files run at a time, without most of those that
# need a model's server; the server's need one.
TESTS = {
    "ruo/wire": (FAST, "tests/wire"),
    "ruo/tables": (FAST, "tests/tables"),
    "ruo/client": ("-m 'not soak'", " ".join(["-n 4 --dist loadfile tests/client", *CLIENT])),
    "server": ("-m 'not soak'", " ".join(f"tests/server/{name}.py" for name in SERVER)),
}
FILES = {"server": [f"server/{name}.py" for name in ("inference", "body", "limits", "versions")]}
UNMADE = "cosmic-ray cannot make it: it knows no exception with a dotted name"
ASSURED = "nothing breaks what this assures"
# One change of each operator; cosmic-ray's others are the same change, or a TypeError at once.
OPERATORS = re.compile(
    "core/(AddNot|NumberReplacer|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ReplaceAndWithOr|ReplaceOrWithAnd|RemoveDecorator"
    "|ExceptionReplacer|ZeroIterationForLoop|ReplaceBreakWithContinue|ReplaceContinueWithBreak"
    "|ReplaceUnaryOperator_(Delete_.*|USub_UAdd)|ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Add|Pow_Mul|Mod_Mul|Div_Mul"
    "|FloorDiv_Mul|LShift_RShift|RShift_LShift|BitAnd_BitOr)"
    "|ReplaceComparisonOperator_(Eq_NotEq|NotEq_Eq|Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt|Is_IsNot|IsNot_Is))"
)


def mutants_of(files: list[str]) -> list[MutationSpec]:
    """Every mutant of the files, in the order of the text."""
    with closing(WorkDB(":memory:", WorkDB.Mode.create)) as found:
        init(find_modules(map(Path, files)), found, {})
        mutants = [mutation for item in found.work_items for mutation in item.mutations]
    kept = [mutant for mutant in mutants if OPERATORS.fullmatch(mutant.operator_name)]
    return sorted(kept, key=lambda one: (one.module_path, one.start_pos, one.operator_name, one.occurrence))


def survivors(mutants: list[MutationSpec], pytest: str, tests: str) -> Iterator[tuple[str, str, str]]:
    """The place of each mutant that all tests let pass, its line before, and its line after."""
    began = time.monotonic()
    outcome, output = run_tests(f"{pytest} {tests}", None)
    if outcome != TestOutcome.SURVIVED:
        raise SystemExit(f"The tests fail without a mutant:\n{output}")
    limit_s = 60 + 10 * (time.monotonic() - began)
    commands: dict[Path, list[str]] = {}
    for module in {mutant.module_path for mutant in mutants}:
        own = f"{pytest} tests/{module.parent.name}/test_{module.name}"  # where there are any, the soonest to notice
        has_own = run_tests(own, limit_s)[0] == TestOutcome.SURVIVED
        commands[module] = [own, f"{pytest} {tests}"] if has_own else [f"{pytest} {tests}"]
    for mutant in mutants:
        for command in commands[mutant.module_path]:
            result = mutate_and_test([mutant], command, limit_s)
            if result.test_outcome != TestOutcome.SURVIVED:
                break
        place = f"{mutant.module_path}:{mutant.start_pos[0]}"
        if result.worker_outcome != WorkerOutcome.NORMAL:
            yield place, mutant.operator_name, UNMADE
        elif result.test_outcome == TestOutcome.SURVIVED:
            lines = (re.search(rf"^\{sign}(?!\{sign}) *(\S.*)", result.diff, re.MULTILINE) for sign in "-+")
            yield place, *("" if line is None else line[1] for line in lines)  # none is left of a decorator


def main() -> None:
    """Try a sample of a room's mutants, and print what was killed and what survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("room", choices=TESTS)
    parser.add_argument("sample", type=int, help="so many mutants, drawn with a fixed seed; 0 for all")
    parser.add_argument("--python", required=True, help="the Python that has what the tests need")
    given = parser.parse_args()
    reasons = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        tree = Path(folder, "tree")
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "__pycache__", "data", "results", "build"))
        os.chdir(tree)
        os.environ["PYTHONPATH"] = str(tree)
        mutants = mutants_of(FILES.get(given.room, [given.room]))
        total = len(mutants)
        if 0 < given.sample < total:
            mutants = random.Random(1).sample(mutants, given.sample)
        print(f"{given.room}: {len(mutants)} of {total} mutants", flush=True)
        lost = equivalent = 0
        options, tests = TESTS[given.room]
        pytest = f"{given.python} -m pytest -x -q -p no:cacheprovider {options}"
        for place, before, after in survivors(mutants, pytest, tests):
            known = {UNMADE: UNMADE, **reasons.get(place.split(":")[0], {})}
            reason = known.get(after) or known.get(before)
            if re.sub("(strict|frozen)=False", r"\1=True", after) == before:
                reason = ASSURED
            equivalent += reason is not None
            lost += reason is None
            print(f"{'equivalent' if reason else 'SURVIVED'}  {place}\n    {before}\n    {after}", flush=True)
            if reason:
                print(f"    {reason}")
    tried = len(mutants) - equivalent
    killed = tried - lost
    print(f"{given.room}: {killed} of {tried} killed ({killed / tried:.0%}), {equivalent} more do not count")


if __name__ == "__main__":
    main()
