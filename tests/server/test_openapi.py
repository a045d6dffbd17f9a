"""The OpenAPI document, and requests made from it."""

import json
import re
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.environments import make_environment
from tests.server.serving import serve

TEXT = st.text(st.characters(), max_size=8) | st.text(st.characters(exclude_categories=()), max_size=8)
FORMAT = {"string": TEXT, "boolean": st.booleans(), "number": st.floats(), "object": st.just({})}
SURPRISES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
NAMES = ["model", "model", "model", "1", "ä", "%00", "a b", "..", "%ed%a0%80", "%ff"]
HEADERS = ["Inference-Header-Content-Length", "Content-Encoding", "Accept-Encoding", "Content-Type", "Accept"]
UNHURRIED = settings(suppress_health_check=list(HealthCheck))
HEADER_VALUES = ["0", "5", "-1", "gzip", "zstd", "deflate", "identity", "\x80\xff", "x" * 100]


@pytest.fixture(scope="module")
def document(client):
    """The document that the server gives out."""
    return client.get("/openapi.json").json


def values(schema):
    """Values of a schema, and now and then something else."""
    if "oneOf" in schema:
        fitting = st.one_of([values(each) for each in schema["oneOf"]])
    elif "enum" in schema:
        fitting = st.sampled_from(schema["enum"])
    elif schema.get("type") == "array":
        fitting = st.lists(values(schema["items"]), min_size=schema.get("minItems", 0), max_size=3)
    elif schema.get("type") == "integer":
        fitting = st.integers(min_value=schema.get("minimum"))
    elif "properties" in schema:
        required = schema.get("required", [])
        parts = {name: values(each) for name, each in schema["properties"].items()}
        optional = {name: part for name, part in parts.items() if name not in required}
        fitting = st.fixed_dictionaries({name: parts[name] for name in required}, optional=optional)
    else:
        fitting = FORMAT.get(schema.get("type"), SURPRISES)
    return st.one_of(fitting, fitting, fitting, SURPRISES)


@st.composite
def requests(draw, document):
    """A request that the document describes, more or less."""
    path = draw(st.sampled_from(sorted(document["paths"])))
    method = draw(st.sampled_from(sorted(document["paths"][path])))
    operation = document["paths"][path][method]
    for parameter in operation.get("parameters", []):
        path = path.replace("{" + parameter["name"] + "}", draw(st.sampled_from(NAMES)))
    body = None
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        body = draw(values(schema).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=64))
    headers = draw(st.dictionaries(st.sampled_from(HEADERS), st.sampled_from(HEADER_VALUES), max_size=2))
    return operation, method.upper(), path, body, headers


def test_every_route_is_described_and_nothing_else(client, document):
    """The document has exactly the server's routes, each with a name of its own and the parts of its path as parameters."""
    rules = client.application.url_map.iter_rules()
    served = {(method, rule.rule.replace("<", "{").replace(">", "}")) for rule in rules for method in rule.methods}
    served = {(method.lower(), path) for method, path in served if method not in ("HEAD", "OPTIONS")}
    assert served == {(method, path) for path, item in document["paths"].items() for method in item}
    described = [(path, operation) for path, item in document["paths"].items() for operation in item.values()]
    assert len({operation["operationId"] for _, operation in described}) == len(described)
    names = [name for parts in document["components"].values() for name in parts]
    assert all(re.fullmatch(r"[a-zA-Z0-9._-]+", name) for name in names)  # OpenAPI 3.1, "Components Object"
    for path, operation in described:
        assert {each["name"] for each in operation.get("parameters", [])} == set(re.findall(r"{(.*?)}", path))


def test_a_token_is_in_the_document(make_app):
    """With a token set the document says so, except for the routes that are answered without one."""
    app = make_app(RUO_TOKEN="t")
    document = app.get("/openapi.json", headers={"Authorization": "Bearer t"}).json
    assert document["security"] == [{"token": []}]
    for path, item in document["paths"].items():
        for method, operation in item.items():
            answer = app.open(path.replace("{", "").replace("}", ""), method=method)
            assert (answer.status_code == 401) == (operation.get("security") != []), path
    assert "security" not in make_app().get("/openapi.json").json


@pytest.mark.parametrize("count", [150, pytest.param(2000, marks=pytest.mark.soak)])
def test_requests_made_from_the_document(client, document, count):
    """Whatever the document allows, and a little more, is answered as it says, never by a failure of the server."""

    @settings(UNHURRIED, max_examples=count)
    @given(requests(document))
    def check(request):
        operation, method, path, body, headers = request
        answer = client.open(path, method=method, data=body, headers=headers)
        assert str(answer.status_code) in operation["responses"], (answer.status_code, answer.text)
        assert answer.status_code < 500
        if answer.status_code >= 400:
            assert list(answer.json) == ["error"]
            assert answer.json["error"].strip()

    check()


@pytest.mark.soak
def test_schemathesis(models, tmp_path):
    """Schemathesis, with 2,000 requests that it makes from the document, finds no 5xx and nothing undescribed."""
    program = make_environment("schemathesis", "schemathesis>=4,<5") / "bin" / "schemathesis"
    with serve(models["mlp"], workers=2, LOG_LEVEL="warning") as server:
        # which tensors a model takes is in its metadata, not in the document: a request may fit that and be wrong
        checks = ["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--warnings", "off"]
        command = [program, "run", server.url + "/openapi.json", *checks, "--seed", "1", "--max-examples", "75"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        log = server.log.read_text()
    assert done.returncode == 0, done.stdout[-5000:]
    assert int(re.search(r"(\d+) generated", done.stdout)[1]) >= 2000
    assert "failed" not in log
