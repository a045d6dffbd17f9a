"""The options of a table: which columns are features, labels and kept, and how text is read."""

import csv
import datetime as dt
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from ruo.errors import ArgumentError, TableError
from ruo.tables import NO_LABEL, ModelInput, TableOptions, number_classes, open_table, table
from tests.tables.forms import as_form, one_block, write_csv

FLOWS = """Flow ID, Destination Port, Bytes, Bytes, Rate, Label
f1,80,1,10,0.5,BENIGN
f2,443,2,20,Infinity,DoS Hulk
"é,3",22,3,30,,BENIGN
"""


@pytest.mark.filterwarnings("ignore:.*columns of equal name")
@pytest.mark.parametrize("kind", ["csv", "pandas", "polars", "parquet"])
def test_a_raw_table_is_read_as_it_was_downloaded(tmp_path: Path, kind: str) -> None:
    """Names lose their blanks, a doubled one gets pandas' suffix; ids come along, and text labels name the classes."""
    source: Any = write_csv(tmp_path, FLOWS)
    if kind != "csv":
        source = pd.read_csv(source)
    if kind in ("polars", "parquet"):
        source = pl.DataFrame(source.to_dict("list"))
    if kind == "parquet":
        source.write_parquet(tmp_path / "no-suffix")
        source = tmp_path / "no-suffix"

    opened = open_table(source, TableOptions(drop=["Rate"], keep=["Flow ID"], label="Label"))
    (block,) = opened.blocks(None)

    assert opened.features == ["Destination Port", "Bytes", "Bytes.1"]
    assert block.array.tolist() == [[80, 1, 10], [443, 2, 20], [22, 3, 30]]
    assert block.labels.tolist() == ["BENIGN", "DoS Hulk", "BENIGN"]
    assert block.kept.to_dict(as_series=False) == {"Flow ID": ["f1", "f2", "é,3"]}
    labels, classes = number_classes(block.labels)
    assert (labels.tolist(), classes) == ([0, 1, 0], ["BENIGN", "DoS Hulk"])


@pytest.mark.parametrize("names", ["a,a,a", "a,a.1,a", "a,a,a.1", "a.1,a,a,a.1", "a,b,a,b,a.2,a"])
def test_doubled_names_get_the_suffixes_of_pandas(tmp_path: Path, names: str) -> None:
    """Whatever suffixes are there already, and with a warning."""
    path = write_csv(tmp_path, f"{names}\n{','.join('1' for _ in names.split(','))}\n")
    with pytest.warns(UserWarning, match="has columns of equal name"):
        assert open_table(path).features == pd.read_csv(path).columns.to_list()


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"columns": ["c", "a"]}, [[3, 1], [6, 4]]),
        ({"columns": [" c "], "keep": ["c", "b"]}, [[3], [6]]),
        ({"drop": ["b"]}, [[1, 3], [4, 6]]),
        ({"keep": ["a"], "label": "c"}, [[2], [5]]),
        ({"label_prefix": "b"}, [[1, 3], [4, 6]]),
        ({"label_prefix": "b", "columns": ["a", "b"]}, [[1, 2], [4, 5]]),
        ({"label_prefix": "b", "drop": ["b"]}, [[1, 3], [4, 6]]),
    ],
)
def test_columns_are_chosen_by_name(tmp_path: Path, options: dict[str, Any], rows: list[list[int]]) -> None:
    """The features are those that are named, in that order, or all that are not dropped, kept or labels."""
    path = write_csv(tmp_path, "a,b,c\n1,2,3\n4,5,6\n")
    for source in (path, pd.read_csv(path)):
        block = one_block(source, **options)
        assert block.array.tolist() == rows
        assert (block.kept.columns if block.kept is not None else []) == options.get("keep", [])


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"columns": ["Byts", "q"]}, TableError, "has no column 'Byts', which columns names; is 'Bytes' meant?"),
        ({"keep": ["z"]}, TableError, "has no column 'z', which keep names; it has 'Id', 'Bytes'."),
        ({"label": "Label"}, TableError, "no column 'Label', which label names"),
        ({"inputs": {"x": ["q"]}}, TableError, "no column 'q', which inputs names"),
        ({"drop": ["Id", "Bytes"]}, TableError, "has no feature columns"),
        ({"columns": "Id"}, ArgumentError, "columns='Id' must be a list of strings or whole numbers, or None; write"),
        ({"columns": []}, ArgumentError, "columns=[] names no features"),
        ({"inputs": {"x": ["Id"], "y": []}}, ArgumentError, "inputs['y']=[] names no features"),
        ({"columns": ["Id", "Bytes"], "drop": ["Bytes", "Id"]}, ArgumentError, "'Id' is a feature, and dropped or a"),
        ({"columns": ["Id", "Id", "z", "z"]}, ArgumentError, "columns has 'Id' twice"),
        ({"columns": ["Id"], "inputs": {}}, ArgumentError, "columns and inputs are both given"),
        ({"separator": ";;"}, ArgumentError, "separator=';;' must be one ASCII character"),
        ({"encoding": "latin-99"}, ArgumentError, "encoding='latin-99' is not known"),
        ({"encoding": "undefined"}, ArgumentError, "encoding='undefined' is not known"),
        ({"encoding": "hex"}, ArgumentError, "encoding='hex' is not known"),
        ({"null_values": "NA"}, ArgumentError, "null_values='NA' must be a list of strings; write ['NA']."),
    ],
)
def test_options_that_cannot_be_are_refused(options: Any, error: type, sentence: str) -> None:
    """The sentence names the option, the column and the cure."""
    with pytest.raises(error, match=re.escape(sentence)):
        open_table(table(pl.DataFrame({"Id": [1], "Bytes": [2]}), **options))


@pytest.mark.parametrize("option", [{"separator": ";"}, {"header": False}, {"null_values": ["?"]}, {"encoding": "gbk"}])
def test_an_option_of_csv_is_refused_for_any_other_table(tmp_path: Path, option: dict[str, Any]) -> None:
    """Rather than ignored: a frame and a Parquet file have no text to be read so, and an iterable keeps its rows."""
    frame = pl.DataFrame({"a": [1]})
    frames = iter([frame])
    for source in (*(as_form(frame, form, tmp_path) for form in ("parquet", "pandas")), frame, frame.lazy(), frames):
        with pytest.raises(ArgumentError, match=f"^{next(iter(option))} is for the text of a CSV file, and .* is none"):
            open_table(table(source, **option))
    assert next(frames) is frame


def test_options_are_given_once() -> None:
    """A source that says how it is read takes no options beside it."""
    with pytest.raises(ArgumentError, match="give the options there only"):
        open_table(table(pl.DataFrame({"a": [1]})), TableOptions(keep=["a"]))


@pytest.mark.parametrize(
    ("text", "options", "rows"),
    [
        ("a;b\n1;2\n", {}, [[1, 2]]),
        ("a;b,c\n1;2\n", {"separator": ";"}, [[1, 2]]),
        ("a:b\n1:2\n", {"separator": ":"}, [[1, 2]]),
        ("a b\n1 2\n", {"separator": " "}, [[1, 2]]),
        ('"a;x";b\n"1";2\n', {}, [[1, 2]]),
        ("1,2\n3,4\n", {"header": False}, [[1, 2], [3, 4]]),
        ("\n1;2\n", {"header": False}, [[1, 2]]),
        ("1\n2\n", {"header": False}, [[1], [2]]),
        ("\n\n1\n2\n", {"header": False}, [[np.nan], [np.nan], [1], [2]]),  # blank lines are rows above as below
        ("\ufeff1\n\n2\n", {"header": False}, [[1], [np.nan], [2]]),
        ("sep=;\n\n1\n", {"header": False}, [[np.nan], [1]]),
        ("a\tb;c\n1\t2\n", {"separator": "\\t"}, [[1, 2]]),
        ("\ufeff1,2\n3,4\n", {"header": False}, [[1, 2], [3, 4]]),
        ('\ufeff"1","2"\nTrue,4\n', {"header": False}, [[1, 2], [1, 4]]),
        ("a,b\n1,?\nNA, NA \n", {"null_values": ["?", "NA"]}, [[1, np.nan], [np.nan, np.nan]]),
        ('a,b\n"?",1\nx,True\n', {"null_values": ["?", "x"]}, [[np.nan, 1], [np.nan, 1]]),
        ("a,b\nTrue,false\nFALSE, true \n1,0\n", {}, [[1, 0], [0, 1], [1, 0]]),
        ("größe,b\n1,2\n".encode("cp1252"), {"encoding": "cp1252", "columns": ["größe"]}, [[1]]),
        ("größe,b\n1,2\n".encode("utf-16-be"), {"encoding": "utf-16-be", "columns": ["größe"]}, [[1]]),
        ("größe,b\n1,2\n".encode("utf-16"), {"columns": ["größe"]}, [[1]]),
        ("größe\rb\r1\r2\r".replace("\rb", ",b").replace("\r2", ",2"), {"columns": ["größe"]}, [[1]]),
    ],
)
def test_text_is_read_as_the_options_say(tmp_path: Path, text: str | bytes, options: dict, rows: list[list]) -> None:
    """Separator, header, missing cells and encoding; what is certain is found out."""
    np.testing.assert_array_equal(rows, one_block(write_csv(tmp_path, text), **options).array)


@pytest.mark.parametrize("text", ["1;2\n3;4\n5;6\n", "\ufeff1;2\n3;4\n5;6\n", "sep=;\n1;2\n3;4\n5;6", "1;2\n"])
@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_a_file_without_header_is_cut_into_parts(tmp_path: Path, text: str, of: int) -> None:
    """Every row is in one part."""
    options, path = TableOptions(header=False), write_csv(tmp_path, text)
    parts = [block.array for part in range(of) for block in open_table(path, options, (part, of)).blocks(None)]
    assert np.concatenate(parts).tolist() == one_block(path, header=False).array.tolist()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("options", [{}, {"null_values": ["NA"]}, {"separator": ";"}, {"encoding": "cp1252"}])
def test_kept_text_is_as_it_is_in_the_file(tmp_path: Path, end: str, options: dict[str, Any]) -> None:
    """Quotes, line breaks, zeros in front, blanks and other alphabets stay; only an empty cell is missing."""
    cells = ["007", " x ", 'say "é"', "a,b;c", "1.50", "NA", "True", "", f"two{end}lines", "é", 'a"b']
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=options.get("separator", ","), lineterminator=end)
    writer.writerows([["id", "x"], *([cell, "NA" if options.get("null_values") else "1"] for cell in cells)])
    path = write_csv(tmp_path, file.getvalue().encode(options.get("encoding", "utf-8")))

    block = one_block(path, keep=["id"], **options)

    assert block.kept["id"].to_list() == [cell or None for cell in cells]
    np.testing.assert_array_equal([[np.nan if options.get("null_values") else 1]] * len(cells), block.array)


@pytest.mark.parametrize("null_values", [[], ["NA"]])
def test_a_kept_feature_is_a_number_and_text_as_it_is(tmp_path: Path, null_values: list[str]) -> None:
    """What float32 rounds, and what means a missing number, stands beside the predictions as in the file."""
    cells = ["007", "16777217", "NA" if null_values else ""]
    path = write_csv(tmp_path, "id,x\n" + "".join(f"{cell},1\n" for cell in cells))
    block = one_block(path, columns=["id", "x"], keep=["id"], null_values=null_values)
    np.testing.assert_array_equal([[7, 1], [16777216, 1], [np.nan, 1]], block.array)
    assert block.kept["id"].to_list() == [cell or None for cell in cells]


@pytest.mark.parametrize("options", [{"keep": ["t"]}, {"label": "t"}])
@pytest.mark.parametrize("row", [b"caf\xe9,2\n", b'"caf\xe9",2\n'])
def test_a_byte_that_is_no_utf8_is_never_replaced(tmp_path: Path, options: dict[str, Any], row: bytes) -> None:
    """In kept and label text it is an error that names row and encoding; unused text, and U+FFFD itself, are taken."""
    assert one_block(write_csv(tmp_path, "t,x\n\ufffd,1\n"), keep=["t"]).kept["t"].to_list() == ["\ufffd"]
    path = write_csv(tmp_path, b"t,x\nok,1\n" + row)

    with pytest.raises(TableError, match='row 1.*column "t": .* is not UTF-8; pass the encoding.*"cp1252"') as caught:
        one_block(path, **options)
    assert (caught.value.row, caught.value.column) == (1, "t")
    assert one_block(path, drop=["t"]).array.tolist() == [[1], [2]]
    with pytest.raises(TableError, match=r"table\.csv is not text in utf-16 \(.*\); pass another encoding"):
        one_block(path, keep=["t"], encoding="utf-16")


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (["2", "0", "1.0"], [2, 0, 1]),
        (["True", "False", " true"], [1, 0, 1]),
        (["DoS", "", " Web "], ["DoS", None, "Web"]),
        (["1", "x", "1"], ["1", "x", "1"]),
        (["-1", "1", "1"], ["-1", "1", "1"]),
        (["", "3", "4"], [NO_LABEL, 3, 4]),
        (["0", "1", "10", "2"], [0, 1, 10, 2]),  # names in sorted order would be other classes
    ],
)
def test_a_label_column_has_numbers_or_names(tmp_path: Path, cells: list[str], labels: list[Any]) -> None:
    """Whole numbers in any kind of text are class numbers, anything else names; a missing one is neither."""
    path = write_csv(tmp_path, "x,y\n" + "".join(f"1,{cell}\n" for cell in cells))
    text = pl.read_csv(path, infer_schema=False).with_columns(pl.col("x").cast(pl.Int64))
    kinds = (pl.String, pl.Categorical, pl.Enum(text["y"].drop_nulls().unique().sort()))
    for source in (path, *(text.cast({"y": kind}) for kind in kinds)):
        assert one_block(source, label="y").labels.tolist() == labels


@pytest.mark.parametrize(
    ("values", "labels"),
    [([2, None, 0], [2, NO_LABEL, 0]), ([2.5, None, 1], ["2.5", None, "1.0"]), ([None] * 3, [NO_LABEL] * 3)],
)
def test_a_missing_number_is_no_label(values: list[Any], labels: list[Any]) -> None:
    """In pandas and in an array it is NaN, which is no class of that name, above as below the first numbers."""
    frame = pd.DataFrame({"x": 1, "y": pd.Series(values, dtype=float)})

    for source in (frame, frame.to_numpy(), pl.DataFrame({"x": 1, "y": frame["y"].to_numpy()})):
        label = "1" if isinstance(source, np.ndarray) else "y"
        assert one_block(source, label=label).labels.tolist() == labels
    assert one_block(iter([frame[:1], frame[1:]]), label="y").labels.tolist() == labels


@pytest.mark.parametrize("value", [dt.timedelta(1), [1], b"1", {"a": 1}])
def test_a_label_that_has_no_text_is_refused(value: object) -> None:
    """The error names the column and its type."""
    with pytest.raises(TableError, match='The label column "y" has the type .*; make it text or numbers'):
        one_block(pl.DataFrame({"x": [1], "y": [value]}), label="y")


def test_labels_are_of_one_kind_and_numbered_alike_in_every_part() -> None:
    """Names below numbers are an error; names that look like numbers stay names; given classes set the numbers."""
    frames = [pl.DataFrame({"x": [1, 2], "y": ["0", "1"]}), pl.DataFrame({"x": [3], "y": ["cat"]})]
    for later, place, name in ((["cat"], 2, "cat"), ([None, 1.0, 2.5], 4, "2.5"), ([1, 2**24], 3, "16777216")):
        below = pl.DataFrame({"x": range(len(later)), "y": later})
        sentence = f"row {place}, column \"y\": '{name}' is no whole number, as those above are"
        with pytest.raises(TableError, match=sentence) as caught:
            list(open_table(table(iter([frames[0], below]), label="y")).blocks(None))
        assert caught.value.row == place
    names = pl.DataFrame({"x": [1, 2, 3], "y": [None, "cat", "dog"]})
    blocks = open_table(table((names[row] for row in range(3)), label="y")).blocks(2)
    assert [block.labels.tolist() for block in blocks] == [[None, "cat"], ["dog"]]
    (block,) = open_table(table(iter(frames[::-1]), label="y")).blocks(None)
    assert number_classes(block.labels)[0].tolist() == [2, 0, 1]
    assert number_classes(block.labels, ["cat", "1", "0"])[0].tolist() == [0, 2, 1]
    with pytest.raises(TableError, match="label 'cat' is none of the classes"):
        number_classes(block.labels, ["0", "1"])
    assert number_classes(np.array([1, 0])) == (pytest.approx([1, 0]), None)


def test_one_hot_columns_name_the_classes_and_may_be_true_or_false(tmp_path: Path) -> None:
    """As pandas' get_dummies writes them."""
    frame = pd.get_dummies(pd.DataFrame({"a": [1.5, 2, 3], "Label": ["x", "y", "x"]}), columns=["Label"])
    frame.to_csv(tmp_path / "t.csv", index=False)

    for source in (frame, tmp_path / "t.csv"):
        assert open_table(source).classes == ["x", "y"]
        assert one_block(source).labels.tolist() == [0, 1, 0]
    assert open_table(frame.drop(columns="Label_y")).classes is None  # one column holds numbers of classes


A, B, C, X2 = ModelInput("a", 1), ModelInput("b", 1), ModelInput("c", 1), ModelInput("x", 2)


@pytest.mark.parametrize(
    ("inputs", "options", "features", "of_inputs"),
    [
        ([ModelInput("x", 3)], {}, ["a", "b", "c"], {"x": ["a", "b", "c"]}),
        ([ModelInput("x")], {"inputs": {"x": ["c", "a"]}, "drop": ["b"]}, ["c", "a"], {"x": ["c", "a"]}),
        ([C, A, B], {}, ["a", "b", "c"], {"c": ["c"], "a": ["a"], "b": ["b"]}),
        ([X2, B], {"inputs": {"b": ["c"], "x": ["a", "b"]}}, ["c", "a", "b"], {"x": ["a", "b"], "b": ["c"]}),
    ],
)
def test_features_are_matched_by_the_names_of_the_model(
    inputs: list[ModelInput], options: dict[str, Any], features: list[str], of_inputs: Mapping[str, list[str]]
) -> None:
    """One input takes the features in order; several take the columns named for them, or of their names."""
    opened = open_table(table(pl.DataFrame({"a": [1], "b": [2], "c": [3]}), **options))
    opened.match("m", inputs)

    assert (opened.features, opened.inputs) == (features, of_inputs)
    (block,) = opened.blocks(None, np.float64)
    expected = {name: [["abc".index(column) + 1 for column in columns]] for name, columns in of_inputs.items()}
    assert {name: array.tolist() for name, array in block.inputs.items()} == expected


@pytest.mark.parametrize(
    ("inputs", "options", "sentence"),
    [
        ([X2], {}, "has 3 feature columns, model 'm' takes 2: 1 too many; the first is 'a', the last 'c'; "),
        ([X2], {}, "drop=['c']"),
        ([X2], {"keep": ["b", "c"]}, "2: 1 are missing; the first is 'a', the last 'a'; 'b', 'c' are labels or kept"),
        ([A, B], {}, "columns that no input of model 'm' takes; leave them out: drop=['c']"),
        ([A, ModelInput("d", 1)], {}, "takes an input 'd' of 1 columns, and the DataFrame has no column of that name"),
        ([A, ModelInput("b", 4)], {}, "takes an input 'b' of 4 columns"),
        ([A, B], {"inputs": {"a": ["a"], "q": ["b"]}}, "takes an input 'b'; name its columns in inputs as well"),
        ([A], {"inputs": {"a": ["a"], "q": ["b"], "r": ["c"]}}, "has no input 'q', which inputs names; it has 'a'"),
        ([A, B], {"inputs": {"a": ["a"], "b": ["b", "c"]}}, "2 feature columns for the input 'b', model 'm' takes 1"),
    ],
)
def test_what_does_not_fit_the_model_is_named(inputs: list[ModelInput], options: dict[str, Any], sentence: str) -> None:
    """The error names the columns that are too many, missing or out of place, and the cure."""
    opened = open_table(table(pl.DataFrame({"a": [1], "b": [2], "c": [3]}), **options))
    with pytest.raises(TableError, match=re.escape(sentence)):
        opened.match("m", inputs)


@pytest.mark.parametrize("kind", ["csv", "quoted", "polars"])
def test_each_input_has_its_own_datatype(tmp_path: Path, kind: str) -> None:
    """Whole numbers beyond float32, fractions and text in one table, cut into blocks."""
    big = 2**62 + 1
    frame = pl.DataFrame({"n": [big, 2, 3], "t": ["é, x", None, "c"], "f": [0.5, 1.5, 2.5]})
    frame.write_csv(tmp_path / "t.csv", quote_style="always" if kind == "quoted" else "necessary")
    opened = open_table(frame if kind == "polars" else tmp_path / "t.csv")
    opened.match("m", [ModelInput("t", 1), ModelInput("n", 1), ModelInput("f", 1)])

    blocks = list(opened.blocks(2, {"t": object, "n": np.int64, "f": np.float32}))

    assert [block.rows for block in blocks] == [2, 1]
    joined = {name: np.concatenate([block.inputs[name] for block in blocks]) for name in ("t", "n", "f")}
    expected = {"t": [["é, x".encode()], [b""], [b"c"]], "n": [[big], [2], [3]], "f": [[0.5], [1.5], [2.5]]}
    assert {name: array.tolist() for name, array in joined.items()} == expected
    assert joined["f"].dtype == np.float32
    with pytest.raises(TableError, match="Only one input is possible here"):
        _ = blocks[0].array
