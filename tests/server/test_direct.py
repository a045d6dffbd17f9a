"""Requests for a prediction give the same answers past Flask as through it."""

import json

import pytest

INFER = "/v2/models/model/infer"
TOKEN = {"Authorization": "Bearer secret"}
ROW = json.dumps({"inputs": [{"name": "x", "shape": [1, 8], "datatype": "FP32", "data": [1.0] * 8}]})
SHORT = json.dumps({"inputs": [{"name": "x", "shape": [1, 7], "datatype": "FP32", "data": [1.0] * 7}]})


@pytest.fixture(scope="module")
def guarded(make_app):
    """The application with a token."""
    return make_app(RUO_TOKEN="secret")


@pytest.fixture
def both(guarded, monkeypatch):
    """Ask past Flask and through it, and give both answers."""
    app, through = guarded.application, []
    dispatch = app.full_dispatch_request
    monkeypatch.setattr(app, "full_dispatch_request", lambda *given: through.append(1) or dispatch(*given))

    def ask(path, data, headers):
        through.clear()
        direct = guarded.post(path, data=data, headers=headers)
        assert not through
        with monkeypatch.context() as patch:
            patch.delattr(app, "wsgi_app")  # what Flask itself has stands behind it
            other = guarded.post(path, data=data, headers=headers)
        assert through
        return direct, other

    return ask


@pytest.mark.parametrize(
    ("data", "headers", "status"),
    [
        (ROW, TOKEN, 200),
        (ROW, {**TOKEN, "Accept-Encoding": "gzip"}, 200),
        (SHORT, TOKEN, 400),
        ("{", TOKEN, 400),
        ("", TOKEN, 400),
        (ROW, {**TOKEN, "Content-Encoding": "br"}, 415),
        (ROW, {}, 401),
        (ROW, {"Authorization": "Bearer other"}, 401),
    ],
)
def test_both_ways_say_the_same(both, data, headers, status):
    """Status, headers and body are the same, but for what was measured."""
    direct, other = both(INFER, data, headers)
    assert direct.status_code == other.status_code == status
    assert direct.data == other.data
    for answer in (direct, other):
        assert (answer.headers.pop("Server-Timing", None) is not None) == (status == 200)
    assert sorted(direct.headers) == sorted(other.headers)


def test_versions_go_both_ways_too(both, guarded):
    """One that is there is asked for by its number; one that is not is a 404."""
    version = guarded.serving.get().version
    for name, status in ((version, 200), ("77", 404)):
        direct, other = both(f"/v2/models/model/versions/{name}/infer", ROW, TOKEN)
        assert direct.status_code == other.status_code == status
        assert direct.data == other.data


def test_both_are_counted(both, guarded):
    """In the metrics they are the same route."""

    def count():
        text = guarded.get("/metrics", headers=TOKEN).text
        lines = [
            line for line in text.splitlines() if line.startswith("ruo_requests_total{") and "<model>/infer" in line
        ]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    before = count()
    both(INFER, ROW, TOKEN)
    assert count() == before + 2


@pytest.mark.parametrize("path", ["/v2/models/other/infer", "/v2/models/model/versions//infer", "/v2/models/model/x"])
def test_all_else_is_left_to_flask(guarded, path):
    """Other models and other addresses get Flask's answers, and so do other methods."""
    assert guarded.post(path, data=ROW, headers=TOKEN).status_code == 404
    assert guarded.get(INFER, headers=TOKEN).status_code == 405
