"""What counts as the same model: a run keeps to one name, version and file, and one address names one model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ruo import ArgumentError, ScoringError, iter_scores, score_csv
from ruo.client.servers import model_address
from ruo.errors import CheckpointError
from ruo.wire import WIRES
from tests.client.conftest import Scoring, Scripted, computed, describe, saying, statuses
from tests.conftest import METADATA, Reply, Script, ScriptedServer, row_sums

CALLS = pytest.mark.parametrize("call", [score_csv, lambda *args, **how: list(iter_scores(*args, **how))])
A, B = "a" * 64, "b" * 64


def sums(body: bytes, headers: dict[str, str], sha256: str = "", version: str = "1") -> Reply:
    """The right answer, from a file with this fingerprint."""
    return saying({"Ruo-Model-Sha256": sha256} if sha256 else {}, body, headers, version)


def replaced(place: int, before: tuple[str, str] = (A, "1"), after: tuple[str, str] = (B, "1")) -> Script:
    """The right answers, from another file or version from this request on."""
    return lambda number, body, headers: sums(body, headers, *(before if number < place else after))


# ---- one file ----

MIXED = (
    r"were answered by version 1 \(sha256 (a{12}|b{12})\.\.\.\) of the model, "
    r"the run began with version 1 \(sha256 (?!\1)(a{12}|b{12})\.\.\.\); score the table again"
)


def test_two_servers_with_different_files_of_one_version_are_not_mixed(small_csv: Path, scripted: Scripted) -> None:
    """The version's number is the same, the file is not: the error names both files and holds what one scored."""
    urls = [scripted(replaced(place)).url for place in (99, 0)]

    with pytest.raises(ScoringError, match=MIXED) as caught:
        score_csv(small_csv, urls, chunk_size=2, concurrency=1)

    assert len({record.sha256 for record in caught.value.scores.records if record.version}) == 2


@CALLS
@pytest.mark.parametrize("has_addresses", [True, False])
@pytest.mark.parametrize(
    ("after", "sentence"),
    [((B, "1"), MIXED), ((A, "2"), "were answered by version 2 .* of the model, the run began with version 1 .*again")],
)
def test_a_model_replaced_in_mid_run_is_noticed(
    small_csv: Path, scripted: Scripted, call: Any, has_addresses: bool, after: tuple[str, str], sentence: str
) -> None:
    """Another file or another version does not end in a mixed result, nor in mixed blocks."""
    server = scripted(replaced(2, after=after))
    if not has_addresses:
        del server.pages["/v2/models/model/versions/1"]

    with pytest.raises(ScoringError, match=f"Rows 4 to 5 {sentence}") as caught:
        call(small_csv, server.url, chunk_size=2, concurrency=1)

    assert (caught.value.start, caught.value.stop) == (4, 6)


def test_the_first_answer_has_to_fit_the_metadata(small_csv: Path, scripted: Scripted) -> None:
    """A file replaced between the metadata and the first answer is noticed."""
    server = scripted(replaced(0))
    server.pages["/v2/models/model/versions/1"] = json.dumps({**METADATA, "parameters": {"sha256": A}}).encode()

    with pytest.raises(ScoringError, match="Rows 0 to 9 " + MIXED):
        score_csv(small_csv, server.url)


def test_a_version_that_must_not_be_asked_for_ends_the_run(small_csv: Path, scripted: Scripted) -> None:
    """That a server keeps the metadata of its version to itself is no reason to score with any version."""
    server = scripted(row_sums)
    server.pages["/v2/models/model/versions/1"] = Reply(403, b'{"error": "not for you"}')

    with pytest.raises(ScoringError, match="/v2/models/model/versions/1 answered 403: not for you"):
        score_csv(small_csv, server.url)
    assert not server.requests


@pytest.mark.parametrize(("before", "after"), [((A, "1"), (B, "1")), (("", "1"), ("", "2"))])
def test_a_change_may_be_allowed(right_scores: Scoring, scripted: Scripted, before: Any, after: Any) -> None:
    """With allow_version_change the records tell which file and version gave which rows."""
    server = scripted(replaced(2, before, after))

    requests = right_scores(server.url, chunk_size=2, concurrency=1, allow_version_change=True).requests

    assert list(zip(requests["sha256"], requests["version"], strict=True)) == [before] * 2 + [after] * 3
    assert set(server.paths) == {"/v2/models/model/infer"}


@pytest.mark.parametrize("change", [(A, "2"), (B, "1")])
def test_resumed_rows_are_of_the_same_model(small_csv: Path, tmp_path: Path, scripted: Scripted, change: Any) -> None:
    """Answers in a checkpoint count like new ones, also where the metadata name no version."""
    answers = replaced(2, after=change)
    server = scripted(lambda number, *request: Reply(500) if number == 2 else answers(number, *request))
    describe(server, versions=[])
    keep = {"checkpoint": tmp_path / "checkpoint", "chunk_size": 2, "concurrency": 1}
    with pytest.raises(ScoringError, match="answered 500"):
        score_csv(small_csv, server.url, **keep)

    with pytest.raises(ScoringError, match="were answered by version .* the run began with version"):
        score_csv(small_csv, server.url, **keep)


@pytest.mark.parametrize(
    ("files", "version", "identity"),
    [((A, A), "1", "sha256"), ((A, ""), "1", "version"), (("", ""), "1", "version"), (("", ""), "", "name")],
)
def test_what_identity_rests_on(small_csv: Path, scripted: Scripted, files: Any, version: str, identity: str) -> None:
    """It rests on the file only if every answer named it, and on the name where no version is known."""
    server = scripted(lambda n, body, headers: sums(body, headers, files[n], version))
    if not version:
        describe(server, versions=None)

    model = score_csv(small_csv, server.url, chunk_size=5, concurrency=1).model

    assert (model.identity, model.version, model.sha256) == (identity, version, A if identity == "sha256" else "")


# ---- V1 ----


@pytest.fixture
def v1(scripted: Scripted) -> ScriptedServer:
    """A server on V1 with version 7, and no page for each version."""
    server = scripted(lambda _, *request: computed(*request, "v1"))
    server.pages["/v1/models/model"] = statuses("7", "6")
    return server


@pytest.mark.parametrize("has_addresses", [True, False])
def test_a_run_on_v1_keeps_to_one_version(right_scores: Scoring, v1: ScriptedServer, has_addresses: bool) -> None:
    """The version that is available is asked for at its own address, as in TensorFlow Serving, if it has one."""
    if has_addresses:
        v1.pages["/v1/models/model/versions/7"] = statuses("7")
    scores = right_scores(v1.url, wire="v1", chunk_size=5)
    assert (scores.model.version, scores.model.identity) == ("7", "version")
    assert set(v1.paths) == {f"/v1/models/model{'/versions/7' if has_addresses else ''}:predict"}


@pytest.mark.parametrize(
    "page",
    [
        *(Reply(status, b"<html>") for status in (200, 400, 401, 403, 404, 405, 501)),
        *(Reply(body=page) for page in (b"[]", b'{"name": "model", "ready": true}', statuses())),
    ],
)
def test_v1_need_not_tell_its_version(right_scores: Scoring, v1: ScriptedServer, page: Reply) -> None:
    """Where a server has no page on its model, or keeps it or its version to itself, the run rests on the model's name."""
    v1.pages["/v1/models/model"] = page
    scores = right_scores(v1.url, wire="v1")
    assert (scores.model.version, scores.model.identity) == ("", "name")


@pytest.mark.parametrize("has_addresses", [True, False])
def test_several_servers_with_different_versions_on_v1(
    small_csv: Path, right_scores: Scoring, scripted: Scripted, has_addresses: bool
) -> None:
    """Only those that have the run's version are used; where versions have no addresses, the run is an error."""

    def serve(version: str) -> str:
        def script(number: int, body: bytes, headers: dict[str, str]) -> Reply:
            has_it = not has_addresses or f"/versions/{version}:" in server.paths[-1]
            return computed(body, headers, "v1") if has_it else Reply(404)

        server = scripted(script)
        server.pages["/v1/models/model"] = statuses(version)
        if has_addresses:
            server.pages[f"/v1/models/model/versions/{version}"] = statuses(version)
        return server.url

    urls = [serve(version) for version in ("7", "8", "9")]
    options: dict[str, Any] = {"wire": "v1", "chunk_size": 2, "concurrency": 1}
    if has_addresses:
        assert right_scores(urls, **options).requests["server"].nunique() == 1
    else:
        with pytest.raises(ScoringError, match="The model changed from version . to version . during the run"):
            score_csv(small_csv, urls, **options)


@CALLS
@pytest.mark.parametrize("then", [statuses("8", "7"), statuses(), b"{}"])
def test_a_version_that_changes_on_v1_is_noticed(small_csv: Path, scripted: Scripted, call: Any, then: bytes) -> None:
    """Where versions have no addresses, the server is asked once more at the end, since no answer names its version."""

    def script(number: int, body: bytes, headers: dict[str, str]) -> Reply:
        server.pages["/v1/models/model"] = then
        return computed(body, headers, "v1")

    server = scripted(script)
    server.pages["/v1/models/model"] = statuses("7", "6")
    with pytest.raises(ScoringError, match=r"The model changed from version 7 to version (8|unknown) during") as caught:
        call(small_csv, server.url, wire="v1", chunk_size=5)

    if call is score_csv:
        assert np.isfinite(caught.value.scores.predictions).all()
        assert score_csv(small_csv, server.url, wire="v1").model.version in ("8", "")


@pytest.mark.parametrize("then", [statuses("8"), statuses("7", sha256=B)])
def test_a_checkpoint_on_v1_is_of_one_file(small_csv: Path, tmp_path: Path, v1: ScriptedServer, then: bytes) -> None:
    """A checkpoint of another version or file is not resumed."""
    v1.pages["/v1/models/model"] = statuses("7", sha256=A)
    keep = {"wire": "v1", "checkpoint": tmp_path / "checkpoint"}
    score_csv(small_csv, v1.url, **keep)
    v1.pages["/v1/models/model"] = then

    with pytest.raises(CheckpointError, match="is of another (version of the model|model file)"):
        score_csv(small_csv, v1.url, **keep)


def test_every_wire_of_this_server_tells_the_file(demo: Any, server: Any) -> None:
    """Its answers name version and file on each wire, and on V1 its status names the file as well."""
    models = {wire: score_csv(demo.testset, server.url, wire=wire).model for wire in WIRES}

    assert len({(model.version, model.sha256) for model in models.values()}) == 1
    assert {model.identity for model in models.values()} == {"sha256"}


# ---- addresses ----


@pytest.mark.parametrize(
    ("urls", "bases", "address"),
    [
        (["http://h:8000/"], ["http://h:8000"], ("", "", "", "")),
        (["http://h/v2/models/m"], ["http://h"], ("v2", "m", "", "")),
        (["http://h/v2/models/m/versions/7/"], ["http://h"], ("v2", "m", "7", "")),
        (["http://h/before/v1/models/m/versions/7"], ["http://h/before"], ("v1", "m", "7", "")),
        (["http://h/v1/models/m:predict"], ["http://h"], ("v1", "m", "", "")),
        (["http://h/v1/models/m/versions/7:predict/"], ["http://h"], ("v1", "m", "7", "")),
        (["http://h:8501/v1/models/m/labels/stable:predict"], ["http://h:8501"], ("v1", "m", "", "stable")),
        (["unix:///run/ruo.sock"], ["unix:///run/ruo.sock"], ("", "", "", "")),
        (["unix:///s"], ["unix:///s"], ("", "", "", "")),
        (["unix:///run/ruo.sock/v1/models/m/labels/a"], ["unix:///run/ruo.sock"], ("v1", "m", "", "a")),
        (["http://a/v2/models/m", "http://b", "http://a"], ["http://a", "http://b"], ("v2", "m", "", "")),
        (["http://a/v2/models/m", "http://b/v2/models/m/versions/7"], ["http://a", "http://b"], ("v2", "m", "7", "")),
    ],
)
def test_an_address_names_a_server_and_a_model(urls: list[str], bases: list[str], address: tuple[str, ...]) -> None:
    """An address may name the protocol, the model and its version; several addresses add up."""
    assert model_address(urls) == (bases, *address)


@pytest.mark.parametrize(
    ("urls", "sentence"),
    [
        (["http://a/v2/models/cats", "http://b/v2/models/dogs"], "different models, cats and dogs;"),
        (["http://a/v2/models/m/versions/7", "http://b/v2/models/m/versions/8"], "different versions, 7 and 8;"),
        (["http://a/v2/models/m", "http://b/v1/models/m"], "different protocols, v2 and v1;"),
        (["http://a/v1/models/m/versions/7", "http://b/v1/models/m/labels/l"], "the version 7 and the label l;"),
    ],
)
def test_addresses_of_different_models_are_refused(small_csv: Path, urls: list[str], sentence: str) -> None:
    """A list of addresses that name different models, versions or protocols is refused, and the error names both."""
    with pytest.raises(ArgumentError, match=sentence):
        score_csv(small_csv, urls)


OTHERS = """
    v2/models v2/models/ v2/models/m/infer v2/models/m:predict v1/models/m:classify v2/models/m/versions
    v2/models/m/labels/a v1/models/m/versions/7/labels/a
"""


@pytest.mark.parametrize("path", OTHERS.split())
def test_what_is_behind_a_models_name_is_refused(small_csv: Path, path: str) -> None:
    """An address of anything else than a model or a version of it is refused, and the error shows the right form."""
    with pytest.raises(ArgumentError, match=r"is not the address of a model; .*/v2/models/NAME\[/versions/VERSION\]"):
        score_csv(small_csv, f"http://127.0.0.1:9/{path}")


def test_a_version_in_the_address_is_the_version_that_is_asked(
    right_scores: Scoring, scripted: Scripted, v1: ScriptedServer
) -> None:
    """It is asked for, on both protocols, even where another one is current, and with allow_version_change as well."""
    v2 = scripted(lambda n, body, headers: row_sums(body, headers, "7"))
    v2.pages["/v2/models/model/versions/7"] = json.dumps({**METADATA, "versions": ["7"]}).encode()
    v1.pages |= {"/v1/models/model": statuses("8"), "/v1/models/model/versions/7": statuses("7")}

    for server, protocol, how in ((v2, "v2", {"allow_version_change": True}), (v1, "v1", {})):
        scores = right_scores(f"{server.url}/{protocol}/models/model/versions/7", **how)
        assert (scores.model.version, scores.choices.wire) == ("7", protocol)
    assert set(v2.paths) == {"/v2/models/model/versions/7/infer"}
    assert set(v1.paths) == {"/v1/models/model/versions/7:predict"}


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_a_version_that_does_not_exist_is_an_error(small_csv: Path, well: ScriptedServer, protocol: str) -> None:
    """The error is the server's 404."""
    with pytest.raises(ScoringError, match="/versions/8 answered 404: no such page") as caught:
        score_csv(small_csv, f"{well.url}/{protocol}/models/model/versions/8")
    assert (caught.value.status, well.requests) == (404, [])
