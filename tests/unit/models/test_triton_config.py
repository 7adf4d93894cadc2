import pytest

from models.manifest import ManifestError
from models.triton_config import TritonConfig, read_triton_config
from models.versions import VersionPolicy


def test_what_means_something_here_is_read() -> None:
    text = """
    name: "resnet"
    platform: "onnxruntime_onnx"
    max_batch_size: 8
    input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
    output [
      { name: "y" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" },
      { name: "z" data_type: TYPE_FP32 dims: [ 3 ] }
    ]
    instance_group [ { count: 4 kind: KIND_CPU } ]
    dynamic_batching { max_queue_delay_microseconds: 100 }
    """
    assert read_triton_config(text) == TritonConfig(
        name="resnet", max_batch_size=8, policy=None, label_files=(("y", "labels.txt"),)
    )


def test_an_empty_file_says_nothing() -> None:
    assert read_triton_config("") == TritonConfig()


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("version_policy: { all {} }", VersionPolicy(newest=None)),
        ("version_policy: { latest { num_versions: 2 } }", VersionPolicy(newest=2)),
        ("version_policy: { latest {} }", VersionPolicy(newest=1)),
        (
            "version_policy: { specific { versions: [1, 3] } }",
            VersionPolicy(newest=None, named=frozenset({"1", "3"})),
        ),
    ],
)
def test_the_version_policy_is_the_models_own(text: str, policy: VersionPolicy) -> None:
    assert read_triton_config(text).policy == policy


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name = x", "1:6"),
        ('color: "red"', "color"),
        ('platform: "tensorflow_savedmodel"', "tensorflow_savedmodel"),
        ('backend: "python"', "python"),
        ("ensemble_scheduling { }", "ensemble_scheduling is not offered"),
        ("sequence_batching { }", "sequence_batching is not offered"),
        ("model_transaction_policy { decoupled: true }", "decoupled"),
        ('default_model_filename: "other.onnx"', "model.onnx"),
    ],
)
def test_what_cannot_be_served_as_asked_is_refused(text: str, told: str) -> None:
    with pytest.raises(ManifestError, match=told):
        read_triton_config(text)
