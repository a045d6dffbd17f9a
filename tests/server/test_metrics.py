"""What the server counts."""

import numpy as np

from tests.server.asking import INFER, RAW, samples


def test_requests_rows_and_seconds_are_counted(make_app, rows):
    """Every request by route and status, the rows and the model by version, the seconds part by part."""
    app = make_app()  # which has counted nothing yet
    for _ in range(3):
        app.post(INFER, data=rows.tobytes(), headers=RAW)
    app.post(INFER, data=b"")
    app.get("/nowhere")
    counted = samples(app.get("/metrics").text)
    route = "/v2/models/<model>/infer"
    _, version, sha256, _ = app.serving.get()
    requests = {(route, "200"): 3, (route, "400"): 1, ("404", "none"): 1}
    assert {labels: counted["ruo_requests_total", *labels] for labels in requests} == requests
    assert counted["ruo_rows_total", version] == 300
    assert counted["ruo_model_loaded", *sorted(("model", version, sha256))] == 1
    numbers = {f"{stage}_seconds_count": 3 for stage in ("request", "decode", "queue", "predict", "encode")}
    numbers |= {"infer_failures_total": 1, "requests_in_flight": 0, "requests_waiting": 0}
    assert {name: counted[f"ruo_{name}",] for name in numbers} == numbers
    assert min(counted["ruo_predict_seconds_sum",], counted["ruo_model_load_seconds",]) > 0


def test_a_name_that_somebody_makes_up_is_no_label(make_app):
    """Addresses that do not exist do not become new time series."""
    app = make_app()
    before = len(samples(app.get("/metrics").text))
    for number in range(50):
        app.get(f"/made/up/{number}")
        app.get(f"/v2/models/{number}")
    assert len(samples(app.get("/metrics").text)) - before <= 8


def test_statistics_are_the_same_numbers(make_app, rows):
    """Triton's statistics agree with the metrics."""
    app = make_app()
    for _ in range(2):
        app.post("/test", json=rows.tolist())
    app.post("/test", json=[])
    (stats,) = app.get("/v2/models/model/stats").json["model_stats"]
    counted = samples(app.get("/metrics").text)
    inference = stats["inference_stats"]
    assert (stats["inference_count"], stats["execution_count"], inference["success"]["count"]) == (200, 2, 2)
    assert inference["fail"]["count"] == 1
    np.testing.assert_allclose(inference["compute_infer"]["ns"] / 1e9, counted["ruo_predict_seconds_sum",], atol=1e-6)
