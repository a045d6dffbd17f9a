"""The same scorer on Spark and on Ray, each installed beside this environment for the time of the tests."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ruo import score_csv
from ruo.deploy.local import LocalServer

pytestmark = [pytest.mark.soak, pytest.mark.skipif(not shutil.which("java"), reason="Spark needs Java")]
ROWS = 200_000
COMMON = """
import os, sys, pathlib
from ruo.distributed import scorer

url, source, out, died = sys.argv[1:]
score = scorer(url, keep=["id"])

def score_or_die(batches):
    for batch in batches:
        if batch.column("id")[0].as_py() == 100_000 and not os.path.exists(died):
            pathlib.Path(died).touch()
            os._exit(1)
        yield score(batch)
"""
PROGRAMS = {
    "spark": """
from pyspark.sql import SparkSession

spark = SparkSession.builder.master("local[2,4]").config("spark.ui.enabled", False)
spark = spark.config("spark.sql.execution.arrow.maxRecordsPerBatch", 20_000)
spark = spark.config("spark.sql.files.maxPartitionBytes", 4 << 20).getOrCreate()
schema = "id long, " + ", ".join(f"prediction_{digit} float" for digit in range(10))
spark.read.parquet(source).mapInArrow(score_or_die, schema).write.parquet(out)
""",
    "ray": """
import ray

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
dataset = ray.data.read_parquet(source, override_num_blocks=10)
dataset = dataset.map_batches(lambda batch: score_or_die([batch]), batch_format="pyarrow", batch_size=20_000)
dataset.write_parquet(out)
""",
}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with Spark and Ray that finds all of this environment, too."""
    folder = tmp_path_factory.mktemp("engines")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "pyspark", "ray[data]"], check=True)
    site = sysconfig.get_path("purelib", vars={"base": str(folder)})
    Path(site, "shared.pth").write_text("\n".join(path for path in sys.path if path and Path(path).is_dir()))
    return python


@pytest.fixture(scope="module")
def source(demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200,000 rows in ten files, each with its number."""
    folder = tmp_path_factory.mktemp("rows") / "table"
    folder.mkdir()
    rows = pl.read_csv(demo.testset).drop(pl.selectors.starts_with("Label_"))
    table = pl.concat([rows] * (ROWS // len(rows))).with_row_index("id").cast({"id": pl.Int64})
    for number, part in enumerate(table.iter_slices(ROWS // 10)):
        part.write_parquet(folder / f"{number}.parquet")
    return folder


@pytest.mark.parametrize("engine", PROGRAMS)
def test_an_engine_gives_every_row_its_own_predictions(
    engine: str, python: Path, source: Path, server: LocalServer, tmp_path: Path
) -> None:
    """Over several workers, of which one dies on the way, they equal those of `score_csv`."""
    program, out, died = COMMON + PROGRAMS[engine], tmp_path / "out", tmp_path / "died"
    command = [python, "-c", program, server.url, source, out, died]
    own = {**os.environ, "PYSPARK_PYTHON": str(python)}
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert died.exists()
    scored = pl.read_parquet(out / "*.parquet").sort("id")
    table = pl.read_parquet(source / "*.parquet").sort("id")
    assert scored["id"].to_list() == list(range(ROWS))
    expected = score_csv(table, server.url, keep=["id"]).predictions
    np.testing.assert_allclose(scored.drop("id").to_numpy(), expected, atol=1e-6)
