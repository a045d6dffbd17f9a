"""Whether distributing pays: made-up costs and runs with known answers, and real replicas."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ruo.deploy.local import LocalServer, local_server
from ruo.errors import ExperimentError
from ruo.experiment.costs import Costs, Network, measure_costs, table_of_costs
from ruo.experiment.scaling import answer_on_scaling, balance, fit_usl, pays, speed_ups
from ruo.experiment.sweep import sweep
from ruo.learn.demo import Demo

LAN = Network(request_s=0.001, bytes_per_s=1e9)
HEAVY = Costs(
    read_s=1e-6, client_cpu_s=4e-6, replica_s=50e-6, row_bytes=256, network=LAN, start_s=0.02, cores=4, flops=3.5e6
)
LIGHT = replace(HEAVY, replica_s=1e-6)

# SPEC SDM91, from Gunther, "Guerrilla Capacity Planning", chapter 4; also in the R package usl
SDM91 = ([1, 18, 36, 72, 108, 144, 216], [64.9, 995.9, 1652.4, 1853.2, 1828.9, 1775.0, 1702.2])


def runs(costs: Costs, replicas: tuple[int, ...] = (1, 2, 4), blocks: int = 6, noise: float = 0.01) -> pd.DataFrame:
    """Runs of 500,000 rows that take what the costs say, with noise."""
    random = np.random.default_rng(0)
    return pd.DataFrame([
        {
            "model": "m", "block": block, "replicas": count, "rows_per_request": size, "rows": 500_000,
            "total_s": costs.seconds(count, 500_000) * random.normal(1, noise), "error": None,
            "rows_per_s": 500_000 / costs.seconds(count, 500_000),
            "rows_by_worker": {str(worker): 500_000 // count for worker in range(count)},
        }
        for block in range(blocks) for count in replicas for size in (1_000, 10_000)
    ])  # fmt: skip


def verdict(runs: pd.DataFrame, costs: Costs) -> str:
    return answer_on_scaling(runs, {"m": costs}).folded["Model by model"]


def test_the_slowest_part_sets_the_pace() -> None:
    """With one replica it is the replica, with many the client; on one machine the CPUs that they share come first."""
    apart = replace(HEAVY, cores=None)
    assert HEAVY.bottleneck(1) == apart.bottleneck(1) == "the replicas"
    assert HEAVY.bottleneck(4) == "the CPUs that client and replicas share"
    assert apart.bottleneck(100) == "the client's reading"
    assert apart.over(Network(0.04, 1e7)).bottleneck(4) == "the network"
    assert apart.seconds(1, 500_000) == pytest.approx(0.02 + 0.001 + 25)
    assert HEAVY.speed_up(4, 1e9) == pytest.approx(4 / (1 + 4 / 50), rel=1e-3)  # cores / (1 + client's CPU / replica's)
    table = table_of_costs({"m": HEAVY, "n": replace(LIGHT, flops=None)})
    assert table.loc["one replica, µs"].tolist() == ["50.0", "1.00"]
    assert table.loc["operations"].tolist() == ["3,500,000", "-"]


def test_a_heavy_model_pays_from_some_rows_on() -> None:
    """At the number of rows that is named two replicas are 1.2 times as fast as one; with fewer they are not."""
    apart = replace(HEAVY, cores=None)
    sentence = pays(HEAVY)

    assert sentence.startswith("Distributing would pay on this network from about 210 rows on")
    assert ", each replica on a machine of its own," in pays(replace(HEAVY, cores=1))  # one CPU for both allows no gain
    assert pays(HEAVY, gained=1.9).startswith("Distributing pays on this network from about 210 rows on")
    assert "from about 10 rows on" in pays(replace(HEAVY, start_s=0.0, network=LAN._replace(request_s=0.0)))
    assert pays(replace(HEAVY, replica_s=1.2, read_s=1.0)).startswith("Distributing does not pay")  # nor divides by 0
    assert apart.speed_up(2, 220) > 1.2 > apart.speed_up(2, 200)
    assert "3,500,000 floating-point operations" in sentence
    assert "One client keeps up to 50 replicas busy: beyond them the client's reading is the bottleneck" in sentence


@pytest.mark.parametrize(
    ("costs", "slower"), [(LIGHT, "the client's reading"), (HEAVY.over(Network(0.04, 256 / 50e-6)), "the network")]
)
def test_where_moving_a_row_takes_as_long_as_scoring_it_distributing_never_pays(costs: Costs, slower: str) -> None:
    """A light model, or a slow network: no number of replicas helps, and the sentence says why."""
    assert pays(costs, "a tunnel").startswith(f"Distributing does not pay on a tunnel, because {slower} takes as long")


def test_speed_ups_are_paired_and_bounded() -> None:
    """The ratio of the means has an interval around it; one replica is 1; the bound is what the slowest part allows."""
    table = speed_ups(runs(HEAVY), {"m": HEAVY}).set_index(["rows_per_request", "replicas"])
    four = table.loc[(10_000, 4)]
    assert four["low"] < four["speed_up"] < four["high"]
    assert four["speed_up"] == pytest.approx(HEAVY.speed_up(4, 500_000), rel=0.02)
    assert four["bound"] == pytest.approx(4 / (1 + 4 / 50), rel=0.02)
    assert (table.xs(1, level="replicas")["speed_up"] == 1).all()
    assert (table["bound"] <= table["ideal"]).all()
    # a failed run is left out of its pair
    some = runs(HEAVY)
    some.loc[0, ["error", "total_s"]] = ["gone", np.nan]
    assert speed_ups(some)["n"].min() == 5
    assert speed_ups(some)["bound"].isna().all()


def test_the_verdict_names_gain_bound_and_reason() -> None:
    """For each model: how much faster, with its interval, what the bound was, and whether it pays."""
    frame = runs(HEAVY)
    frame.loc[frame["rows_per_request"] == 1_000, "total_s"] *= 2
    heavy = verdict(frame, HEAVY)
    assert heavy.startswith("m:\n- 4 replicas are 3.")
    assert "times as fast as one at 10,000 rows per request" in heavy  # the faster of the two sizes
    assert "the CPUs that client and replicas share set the pace" in heavy
    light = verdict(runs(LIGHT), LIGHT)
    assert "no difference is seen" in light
    assert "the client's reading set the pace" in light or "share set the pace" in light
    few = verdict(runs(HEAVY, blocks=3), HEAVY)
    assert "times as fast as one at 1,000 rows per request in 3 pairs; 5 would rule out chance" in few
    one = answer_on_scaling(runs(HEAVY, blocks=1), {"m": HEAVY}).sentence
    assert one.endswith("(in 1 pair, which cannot rule out chance).")
    answer = answer_on_scaling(runs(HEAVY), {"m": HEAVY}, "VALID: x.")
    assert answer.sentence.startswith("4 replicas are 3.")
    assert "Distributing pays" in answer.text()


def test_the_costs_do_not_overrule_the_runs() -> None:
    """Where the runs gained what the costs do not allow, the verdict says so, and never that distributing cannot pay."""
    text = verdict(runs(HEAVY), replace(LIGHT, cores=None))
    assert "4 replicas are 3." in text
    assert "Distributing paid on this network, although" in text
    assert "does not pay" not in text
    assert "Distributing does not pay" in verdict(runs(HEAVY, blocks=4), LIGHT)  # so few cannot rule out chance
    assert "At most" not in text


def test_balance_is_the_worst_of_all_runs() -> None:
    """The least and the most rows of a replica, as shares of an even one; a replica without a row has 0."""
    some = runs(HEAVY, replicas=(1, 2), blocks=2)
    some.at[1, "rows_by_worker"] = {"0": 500_000}
    some.at[2, "rows_by_worker"] = {"0": 300_000, "1": 200_000}
    table = balance(some).set_index("rows_per_request")
    assert list(table["replicas"]) == [2, 2]
    assert table.loc[1_000, ["least", "most"]].tolist() == pytest.approx([0.8, 1.2])


def test_published_data_give_the_published_law() -> None:
    """The Universal Scalability Law of SPEC SDM91 has the parameters that the R package gives."""
    law = fit_usl(*SDM91)
    assert law.alpha == pytest.approx(0.0277, abs=5e-5)
    assert law.beta == pytest.approx(0.000104, abs=1e-6)
    assert law.r_squared > 0.98
    assert "throughput falls beyond 97 replicas" in law.sentence()


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (0.1, 0.0), (0.05, 0.002)])
def test_a_law_is_recovered(alpha: float, beta: float) -> None:
    """Throughputs that follow a law, with a little noise, give it back."""
    n = np.arange(1, 13)
    exact = 1_000 * n / (1 + alpha * (n - 1) + beta * n * (n - 1))
    law = fit_usl(n, exact * np.random.default_rng(0).normal(1, 0.005, len(n)))

    assert law.alpha == pytest.approx(alpha, abs=0.02)
    assert law.beta == pytest.approx(beta, abs=1e-3)
    assert law.r_squared > 0.999


def test_a_law_says_nothing_of_replicas_far_beyond_those_measured() -> None:
    """Without contention no limit is seen; with it throughput has one, and no end far away; a flat one is no error."""
    n = np.arange(1, 13)
    noise = np.random.default_rng(1).normal(1, 0.01, len(n))
    assert fit_usl(n, 1_000.0 * n).sentence().endswith("says: no limit is seen.")
    assert "grows to at most 10" in fit_usl(n, noise * n / (1 + 0.1 * (n - 1))).sentence()
    noises = np.random.default_rng(0).normal(1, 0.03, (50, len(n)))
    assert not any("falls beyond" in fit_usl(n, noise * n).sentence() for noise in noises)
    assert fit_usl(n, np.full(12, 5.0)).r_squared == 1.0
    assert fit_usl(n, np.full(12, 5.0)).sentence().endswith("says: it grows to at most 1.0 times one replica.")
    assert "throughput falls beyond 1 replica." in fit_usl(n, 1_000 / n).sentence()


def test_where_replicas_share_the_cpus_distributing_would_pay_elsewhere() -> None:
    """That it pays is not said below a speed-up of 1.0."""
    costs = replace(HEAVY, cores=1)
    same = runs(costs, replicas=(1, 2), noise=0.0)
    same["total_s"] = 5 + same["block"] / 10
    assert "Distributing would pay, each replica on a machine of its own, on this network from" in verdict(same, costs)
    text = verdict(same, replace(costs, cores=None))  # a cluster, on which the costs do not explain the runs
    assert "Distributing would pay, by the costs but not in these runs, on this network from about" in text


def test_what_failed_is_not_compared() -> None:
    """Without a run of one replica, or of several, or a block with both, the answer says so, and no number is NaN."""
    good = runs(HEAVY, replicas=(1, 2))
    for failed in (good["replicas"] == 1, good["replicas"] == 2, (good["block"] % 2 == 0) == (good["replicas"] == 1)):
        answer = answer_on_scaling(good.assign(error=np.where(failed, "gone", None)), {"m": HEAVY})
        assert answer.sentence == "No run of several replicas succeeded in a block with one of one replica."
        assert "nan" not in answer.text()
    nothing = answer_on_scaling(good.assign(error="gone"), {"m": HEAVY})
    assert nothing.folded["Model by model"].startswith("m:\n- No run with one replica succeeded")
    alone = answer_on_scaling(runs(HEAVY, replicas=(1,)), {"m": HEAVY})
    assert alone.sentence == "Only one replica was measured."


def test_the_law_needs_six_points() -> None:
    """Fewer than six different numbers of replicas give no law, however often each was run; more do."""
    assert "law" not in verdict(runs(HEAVY, replicas=(1, 2, 3, 4, 5)), HEAVY)
    many = runs(replace(HEAVY, cores=None), replicas=(1, 2, 3, 4, 6, 8, 12, 16))
    assert "8 points" in verdict(many, HEAVY)
    flat = many.assign(total_s=np.random.default_rng(0).normal(5, 0.2, len(many)))
    assert "law" not in verdict(flat, HEAVY)  # of noise


@pytest.mark.soak
def test_replicas_are_really_scaled_and_their_costs_measured(demo: Demo, tmp_path: Path) -> None:
    """A sweep over replicas has so many workers at each run; one server is left as the last run had it."""
    with local_server(demo.models["mlp"], workers=1, cores=1) as server:
        swept = sweep(
            demo.testset, {"mlp": server}, chunk_sizes=[100], replicas=[1, 2], runs=2, warmup=0, pipelined=[True],
            model={"mlp": demo.models["mlp"]}, results_dir=tmp_path,
        )  # fmt: skip
        assert swept.runs["error"].isna().all()
        used = swept.runs["rows_by_worker"].map(len)
        assert (used == swept.runs["replicas"]).all()
        assert set(swept.runs["model"]) == {"mlp"}
        costs = measure_costs(demo.testset, swept.measured, server.url, shared=True)
        with pytest.raises(ExperimentError, match="No run with one replica succeeded"):
            measure_costs(demo.testset, swept.measured[swept.measured["replicas"] > 1], server.url, shared=True)
    assert 0 < costs.replica_s < 1e-3
    assert 0 < costs.read_s < 1e-3
    assert costs.row_bytes > 256
    assert swept.provenance.facts["model"]["mlp"]["name"] == "mlp.keras"


def test_an_address_cannot_be_scaled(demo: Demo, server: LocalServer, tmp_path: Path) -> None:
    """Replicas need a deployment; an address alone is refused in a sentence."""
    with pytest.raises(Exception, match="cannot be scaled"):
        sweep(demo.testset, server.url, chunk_sizes=[1000], replicas=[1, 2], runs=1, results_dir=tmp_path)
