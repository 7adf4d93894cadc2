import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.manifest import (
    Budget,
    Datatype,
    Family,
    LatencyProfile,
    ManifestError,
    Padding,
    TensorSpec,
    read_manifest,
    sha256_of,
)

VARIANT: dict[str, Any] = {"name": "only", "file": "only.onnx", "sha256": "0" * 64, "size_bytes": 1}


def manifest(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
    return {"name": "m", "version": "1", "inputs": [tensor], "outputs": [tensor], "variants": [VARIANT], **changes}


def read(folder: Path, content: Any) -> Family:
    path = folder / "family.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_manifest(path)


def refusal(folder: Path, content: Any) -> str:
    with pytest.raises(ManifestError) as caught:
        read(folder, content)
    assert str(caught.value).startswith(f"{folder / 'family.json'}: ")
    return str(caught.value).removeprefix(f"{folder / 'family.json'}: ")


def test_a_manifest_is_read(tmp_path: Path) -> None:
    family = read(tmp_path, manifest())
    assert (family.name, family.version, family.max_batch_rows) == ("m", "1", 256)
    assert family.default_budget == Budget()
    assert family.variant("only").file == "only.onnx"
    with pytest.raises(KeyError):
        family.variant("other")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    rich = manifest(
        description="Größe",
        default_budget={"latency_ms": 50.0, "min_accuracy": 0.5, "prefer": "energy"},
        variants=[
            {
                **VARIANT,
                "accuracy": 0.9,
                "evidence": {"metric": "top-1", "dataset": "d", "samples": 10, "command": "c"},
                "recipe": {"passes": ["int8"], "seed": 1},
            }
        ],
    )
    family = read(tmp_path, rich)
    assert read(tmp_path, family.to_json()) == family
    assert "Größe" in family.to_json()


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"colour": "red"}, "colour: "),
        ({"schema_version": 2}, "schema_version: "),
        ({"name": "../up"}, "name: "),
        ({"name": ""}, "name: "),
        ({"name": "a\n"}, "name: "),
        ({"version": "v1"}, "version: "),
        ({"version": 1}, "version: "),
        ({"inputs": []}, "inputs: "),
        ({"max_batch_rows": "8"}, "max_batch_rows: "),
        ({"max_batch_rows": 0}, "max_batch_rows: "),
        ({"default_budget": {"latency_ms": 0}}, "default_budget.latency_ms: "),
        ({"default_budget": {"latency_ms": "50"}}, "default_budget.latency_ms: "),
        ({"default_budget": {"min_accuracy": 1.5}}, "default_budget.min_accuracy: "),
        ({"variants": []}, "variants: "),
        ({"variants": [{**VARIANT, "sha256": "X" * 64}]}, "variants.0.sha256: "),
        ({"variants": [{**VARIANT, "size_bytes": 0}]}, "variants.0.size_bytes: "),
        ({"inputs": [{"name": "x", "datatype": "FLOAT", "shape": [-1]}]}, "inputs.0.datatype: "),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, change: dict[str, Any], where: str) -> None:
    assert refusal(tmp_path, manifest(**change)).startswith(where)


@pytest.mark.parametrize(
    "file",
    [
        "../only.onnx",
        "/etc/passwd",
        "a/b.onnx",
        "..",
        ".",
        "",
        ".hidden",
        "a\\b.onnx",
        "only.onnx\n",
        "a b.onnx",
        "x" * 129,
    ],
)
def test_a_file_is_a_name_and_never_a_path(tmp_path: Path, file: str) -> None:
    assert refusal(tmp_path, manifest(variants=[{**VARIANT, "file": file}])).startswith("variants.0.file: ")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 0]}]},
            "inputs.0: tensor 'x': each dimension of [-1, 0] must be -1 or >= 1",
        ),
        (
            {"outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3], "labels": ["a", "b"]}]},
            "outputs.0: tensor 'y': 2 labels for a last dimension of 3",
        ),
        ({"variants": [VARIANT, VARIANT]}, "manifest: variant names must be unique: ['only']"),
        (
            {"variants": [{**VARIANT, "accuracy": 0.5}, {**VARIANT, "name": "b"}]},
            "manifest: accuracy is known for some variants but not for ['b']: measure all or none",
        ),
    ],
)
def test_contradictions_are_told(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    assert refusal(tmp_path, manifest(**change)).startswith(text)


def test_input_and_output_names_are_unique(tmp_path: Path) -> None:
    tensor = manifest()["inputs"][0]
    assert refusal(tmp_path, manifest(inputs=[tensor, tensor])) == "manifest: input names must be unique: ['x']"
    assert refusal(tmp_path, manifest(outputs=[tensor, tensor])) == "manifest: output names must be unique: ['x']"


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"name": NaN}'])
def test_what_is_no_manifest_at_all(tmp_path: Path, content: str) -> None:
    assert refusal(tmp_path, content)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(tmp_path / "family.json")
    (tmp_path / "family.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(tmp_path / "family.json")


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    with pytest.raises(ManifestError):
        read(tmp_path_factory.getbasetemp(), text.replace("\r", "").encode("utf-8", "ignore").decode())


@pytest.mark.parametrize(
    ("inputs", "outputs", "batchable"),
    [((-1, 2), (-1,), True), ((1, 2), (-1,), False), ((-1, 2), (3,), False), ((), (-1,), False)],
)
def test_a_family_is_batchable_when_every_first_axis_is_free(
    inputs: tuple[int, ...], outputs: tuple[int, ...], batchable: bool
) -> None:
    family = Family.model_validate_json(
        json.dumps(
            manifest(
                inputs=[{"name": "x", "datatype": "FP32", "shape": inputs}],
                outputs=[{"name": "y", "datatype": "FP32", "shape": outputs}],
            )
        )
    )
    assert family.batchable is batchable


def test_a_tensor_without_dimensions_has_no_labels() -> None:
    with pytest.raises(ValueError, match="labels for a last dimension of none"):
        TensorSpec(name="y", datatype="FP32", shape=(), labels=("a",))


@pytest.mark.parametrize(
    ("rows", "seconds", "text"),
    [
        ((1, 2), (0.1,), "2 batch sizes but 1 durations"),
        ((2, 1), (0.1, 0.1), "must be positive and rise"),
        ((0, 1), (0.1, 0.1), "must be positive and rise"),
        ((1, 1), (0.1, 0.1), "must be positive and rise"),
        ((1,), (0.0,), "must be positive and finite"),
        ((1,), (float("nan"),), "must be positive and finite"),
        ((1,), (float("inf"),), "must be positive and finite"),
    ],
)
def test_profiles_that_cannot_be(rows: tuple[int, ...], seconds: tuple[float, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        LatencyProfile(rows=rows, seconds=seconds)


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert sha256_of(tmp_path / "empty").startswith("e3b0c44298fc1c14")


IDS: dict[str, Any] = {
    "name": "ids",
    "datatype": "INT64",
    "shape": [-1, -1],
    "padding": {"axis": 1, "buckets": [16, 32], "value": 0},
}


def test_padding_is_read_and_written_back(tmp_path: Path) -> None:
    family = read(tmp_path, manifest(inputs=[IDS]))
    assert family.inputs[0].padding == Padding(axis=1, buckets=(16, 32))
    assert read(tmp_path, family.to_json()) == family
    plain = read(tmp_path, manifest())
    assert plain.inputs[0].padding is None
    assert "padding" not in plain.to_json()


@pytest.mark.parametrize(("length", "bucket"), [(0, 16), (1, 16), (16, 16), (17, 32), (32, 32)])
def test_the_bucket_is_the_smallest_that_holds_a_length(length: int, bucket: int) -> None:
    assert Padding(axis=1, buckets=(16, 32)).bucket_of(length) == bucket


def test_no_bucket_holds_more_than_the_largest() -> None:
    padding = Padding(axis=1, buckets=(16, 32))
    assert padding.longest == 32
    with pytest.raises(ValueError, match="a length of 33 is above the largest bucket, 32"):
        padding.bucket_of(33)


@pytest.mark.parametrize("buckets", [[], [0], [-4], [16, 16], [32, 16], [1.5], ["16"], list(range(1, 66))])
def test_buckets_are_lengths_that_rise(tmp_path: Path, buckets: list[Any]) -> None:
    wrong = {**IDS, "padding": {"axis": 1, "buckets": buckets}}
    assert refusal(tmp_path, manifest(inputs=[wrong])).startswith("inputs.0.padding")


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"shape": [-1, 8]}, "padding along axis 1 needs a free dimension (-1) there, not [-1, 8]"),
        ({"shape": [-1]}, "padding along axis 1 needs a free dimension (-1) there, not [-1]"),
        ({"padding": {"axis": 0, "buckets": [1]}}, "greater than or equal to 1"),
        ({"datatype": "BYTES"}, "0 cannot fill up BYTES"),
        ({"datatype": "BF16"}, "0 cannot fill up BF16"),
        ({"padding": {"axis": 1, "buckets": [1], "value": 0.5}}, "0.5 cannot fill up INT64"),
        ({"padding": {"axis": 1, "buckets": [1], "value": None}}, "value"),
        ({"padding": {"axis": 1, "buckets": [1], "filling": 0}}, "Extra inputs are not permitted"),
    ],
)
def test_padding_must_suit_its_tensor(tmp_path: Path, spec: dict[str, Any], text: str) -> None:
    assert text in refusal(tmp_path, manifest(inputs=[{**IDS, **spec}]))


@pytest.mark.parametrize(
    ("datatype", "value", "fits"),
    [
        ("UINT8", 255, True),
        ("UINT8", 256, False),
        ("UINT8", -1, False),
        ("INT8", -128, True),
        ("INT8", 128, False),
        ("INT64", 2**63 - 1, True),
        ("INT64", 2**63, False),
        ("FP32", -1, True),
        ("FP32", 0.5, True),
        ("FP32", 1e39, False),
        ("FP16", 65504, True),
        ("FP16", 1e5, False),
        ("FP64", 1e300, True),
    ],
)
def test_the_filling_must_be_of_the_datatype(datatype: Datatype, value: float, fits: bool) -> None:
    def made() -> TensorSpec:
        return TensorSpec(
            name="x", datatype=datatype, shape=(-1, -1), padding=Padding(axis=1, buckets=(4,), value=value)
        )

    if fits:
        assert made().padding is not None
    else:
        with pytest.raises(ValueError, match="cannot fill up"):
            made()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, -1]}]},
            "manifest: outputs ['y'] have free dimensions behind the first: not possible with padding",
        ),
        ({"outputs": [{**IDS, "name": "y"}]}, "manifest: padding is for inputs only, not for outputs"),
        (
            {"outputs": [{"name": "y", "datatype": "FP32", "shape": [4]}]},
            "manifest: padding of ['ids'] needs a free first dimension in every input and output",
        ),
        (
            {"inputs": [{**IDS, "shape": [1, -1]}]},
            "manifest: padding of ['ids'] needs a free first dimension in every input and output",
        ),
    ],
)
def test_padding_must_suit_its_family(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    assert refusal(tmp_path, manifest(**{"inputs": [IDS], **change})) == text


REMOTE = {"url": "https://big.example:8443/edge/", "model": "large"}
SCORES = [{"name": "p", "datatype": "FP32", "shape": [-1, 3]}]
CASCADE = {"first": "only", "then": "other", "output": "p", "threshold": 0.5, "escalation": 0.25}


def with_variant(**variant: Any) -> dict[str, Any]:
    other = {**VARIANT, "name": "other"}
    return manifest(outputs=SCORES, variants=[VARIANT, other, {"name": "more", **variant}])


def test_a_remote_variant_has_no_file(tmp_path: Path) -> None:
    family = read(tmp_path, with_variant(remote={**REMOTE, "headers_env": {"Authorization": "REMOTE_TOKEN"}}))
    remote = family.variant("more").remote
    assert remote is not None
    assert (remote.url, remote.timeout_ms, remote.version) == ("https://big.example:8443/edge", 1000.0, None)
    assert (family.variant("more").file, family.variant("more").size_bytes) == ("", 0)
    assert read(tmp_path, family.to_json()) == family
    assert '"file": ""' not in family.to_json()


@pytest.mark.parametrize(
    ("variant", "complaint"),
    [
        ({}, "exactly one of file, remote and cascade, not none"),
        ({"remote": REMOTE, "cascade": CASCADE}, "not remote and cascade"),
        ({"remote": REMOTE, **{key: VARIANT[key] for key in ("file", "sha256", "size_bytes")}}, "not file and remote"),
        ({"remote": REMOTE, "size_bytes": 3}, "go together"),
        ({"file": "a.onnx"}, "go together"),
        ({"file": "", "remote": REMOTE}, "file"),
        ({"remote": {**REMOTE, "url": "ftp://big.example"}}, "expected http://HOST"),
        ({"remote": {**REMOTE, "url": "file:///etc/passwd"}}, "expected http://HOST"),
        ({"remote": {**REMOTE, "url": "http://user:secret@big.example"}}, "no user or password"),
        ({"remote": {**REMOTE, "url": "http://big.example/?x=1"}}, "no query"),
        ({"remote": {**REMOTE, "url": "http://big.example:99999"}}, "not a URL"),
        ({"remote": {**REMOTE, "url": "http://big.example/a\r\nX: y"}}, "no query, fragment or blanks"),
        ({"remote": {**REMOTE, "model": "../admin"}}, "remote.model"),
        ({"remote": {**REMOTE, "headers_env": {"Authorization": "AWS_SECRET_ACCESS_KEY"}}}, "headers_env"),
        ({"remote": {**REMOTE, "headers_env": {"X: y": "REMOTE_X"}}}, "headers_env"),
        ({"cascade": {**CASCADE, "then": "only"}}, "two variants with files"),
        ({"cascade": {**CASCADE, "then": "more"}}, "two variants with files"),
        ({"cascade": {**CASCADE, "then": "none"}}, "two variants with files"),
        ({"cascade": {**CASCADE, "output": "q"}}, "'q' must be an output of floats"),
        ({"cascade": {**CASCADE, "threshold": 1.5}}, "threshold"),
    ],
)
def test_what_stands_behind_a_variant_is_checked(tmp_path: Path, variant: dict[str, Any], complaint: str) -> None:
    assert complaint in refusal(tmp_path, with_variant(**variant))


def test_a_family_without_a_file_is_refused(tmp_path: Path) -> None:
    alone = manifest(variants=[{"name": "more", "remote": REMOTE}])
    assert "at least one variant must be a file" in refusal(tmp_path, alone)


def test_cascades_need_rows_of_their_own(tmp_path: Path) -> None:
    fixed = with_variant(cascade=CASCADE)
    fixed["outputs"] = [{"name": "p", "datatype": "FP32", "shape": [1, 3]}]
    assert "free first dimension" in refusal(tmp_path, fixed)
    read(tmp_path, with_variant(cascade=CASCADE))


def test_the_output_of_cascades_is_reserved(tmp_path: Path) -> None:
    outputs = [{"name": "gearshift.escalated", "datatype": "UINT8", "shape": [-1]}]
    assert "cannot be called" in refusal(tmp_path, manifest(outputs=outputs))
