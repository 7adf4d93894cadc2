"""Outputs of a model -> ModelInferResponse. Tensors always travel raw, as Triton's do."""

from collections.abc import Mapping

from tritonclient.grpc import service_pb2 as pb

from models.manifest import Family
from serving.codec.binary_tensor import tensor_to_binary
from serving.codec.datatypes import Array
from serving.codec.envelope import Parameter
from serving.codec.request import InferRequest
from serving.codec.response import answer_tensors


def encode_response(
    family: Family, request: InferRequest, outputs: Mapping[str, Array], parameters: Mapping[str, Parameter]
) -> pb.ModelInferResponse:
    """The answer. Raises `InternalError` where `outputs` are not what the family promises."""
    answer = pb.ModelInferResponse(model_name=family.name, model_version=family.version)
    if request.id is not None:
        answer.id = request.id
    told = answer.parameters
    for name, value in parameters.items():
        _set(told[name], value)
    for wanted, wire, array in answer_tensors(family, request, outputs):
        answer.outputs.add(name=wanted.name, datatype=wire.name, shape=array.shape)
        answer.raw_output_contents.append(tensor_to_binary(array, wire))
    return answer


def _set(parameter: pb.InferParameter, value: Parameter) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    else:
        parameter.string_param = value
