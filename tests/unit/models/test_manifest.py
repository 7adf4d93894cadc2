import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.manifest import Budget, Family, LatencyProfile, ManifestError, TensorSpec, read_manifest, sha256_of

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
