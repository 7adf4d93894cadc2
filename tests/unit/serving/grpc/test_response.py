import numpy as np
import pytest

from models.manifest import Family, TensorSpec
from serving.codec.request import InferRequest, RequestedOutput
from serving.core.errors import InternalError
from serving.grpc.response import encode_response
from tests.support.gateways import tagged_family

SCORES = np.array([[0.25, 0.5, 0.125]], np.float32)


@pytest.fixture
def family() -> Family:
    outputs = (
        TensorSpec(name="scores", datatype="FP32", shape=(-1, 3), labels=("a", "b", "c")),
        TensorSpec(name="other", datatype="INT64", shape=(-1,)),
    )
    return tagged_family("m", "3").model_copy(update={"outputs": outputs})


def test_all_outputs_and_what_the_answer_says_about_itself(family: Family) -> None:
    told = {"variant": "small", "batch_rows": 2, "queue_ms": 1.5, "deadline_met": True}
    answer = encode_response(family, InferRequest({}, 1, "id"), {"scores": SCORES, "other": np.array([7])}, told)
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "3", "id")
    assert [output.name for output in answer.outputs] == ["scores", "other"]
    assert list(answer.raw_output_contents) == [SCORES.tobytes(), np.array([7]).tobytes()]
    kinds = {name: value.WhichOneof("parameter_choice") for name, value in answer.parameters.items()}
    assert kinds == {
        "variant": "string_param", "batch_rows": "int64_param", "queue_ms": "double_param",
        "deadline_met": "bool_param",
    }  # fmt: skip


def test_classes_are_texts(family: Family) -> None:
    request = InferRequest({}, 1, outputs=(RequestedOutput("scores", True, 2),))
    answer = encode_response(family, request, {"scores": SCORES, "other": np.array([7])}, {})
    (output,) = answer.outputs
    assert (output.datatype, list(output.shape)) == ("BYTES", [1, 2])
    assert answer.raw_output_contents[0] == b"\x07\x00\x00\x000.5:1:b\x08\x00\x00\x000.25:0:a"


def test_an_output_the_model_did_not_give_is_our_defect(family: Family) -> None:
    with pytest.raises(InternalError):
        encode_response(family, InferRequest({}, 1), {}, {})
