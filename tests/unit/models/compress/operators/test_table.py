"""Every operator against ONNX Runtime, on graphs of one node."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch")

from models.compress.errors import Inapplicable  # noqa: E402 - after the skip
from models.compress.operators.node import node_of  # noqa: E402
from models.compress.operators.table import OPERATORS  # noqa: E402
from models.session import Session  # noqa: E402

RANDOM = np.random.default_rng(7)


def floats(*shape, low=-2.0, high=2.0):
    return RANDOM.uniform(low, high, shape).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


X = floats(2, 3, 4)
IMAGE = floats(2, 4, 7, 6)
POSITIVE = floats(2, 3, 4, low=0.1)
FLAGS = X > 0


def case(operator, *inputs, opset=18, outputs=1, **attributes):
    label = f"{operator}-{opset}-{'-'.join(f'{k}={v}' for k, v in attributes.items() if not hasattr(v, 'dims'))}"
    return pytest.param(operator, inputs, opset, outputs, attributes, id=label)


UNARY = ["Abs", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "Identity", "IsNaN"]
UNARY += ["LeakyRelu", "Mish", "Neg", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tanh"]
UNARY += ["ThresholdedRelu", "Shape", "Size", "Reciprocal", "Dropout"]
BINARY = ["Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]
REDUCE = ["L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Sum", "SumSquare"]
CASES = [
    *(case(name, X) for name in UNARY),
    *(case(name, X, floats(3, 1)) for name in BINARY),
    *(case(name, POSITIVE) for name in ("Log", "Sqrt")),
    *(case(name, FLAGS, ~FLAGS) for name in ("And", "Or")),
    case("Not", FLAGS),
    case("Equal", ints(1, 2, 3), ints(1, 5, 3)),
    case("Div", ints(7, -7), ints(2, 2)),
    case("Mod", ints(7, -7), ints(3, 3)),
    case("Mod", X, floats(4, low=1.0), fmod=1),
    case("Pow", POSITIVE, floats(4)),
    case("Pow", X, ints(2)),
    case("Where", FLAGS, X, floats(4)),
    case("PRelu", X, floats(3, 1)),
    case("Cast", X, to=TensorProto.INT64),
    case("CastLike", X, ints(1), opset=19),
    case("Clip", X, np.float32(-0.5), np.float32(0.5)),
    case("Clip", X, None, np.float32(0.5)),
    case("Clip", X, min=-0.5, max=1.0, opset=10),
    case("Gelu", X, opset=20),
    case("Gelu", X, opset=20, approximate="tanh"),
    case("LeakyRelu", X, alpha=0.3),
    case("Elu", X, alpha=0.3),
    case("HardSigmoid", X, alpha=0.1, beta=0.3),
    case("Shape", X, start=1, end=-1),
    case("ArgMax", X, axis=1, keepdims=0),
    *(case(name, X, axis=1) for name in ("Softmax", "LogSoftmax")),
    *(case(name, X, axis=1, opset=11) for name in ("Softmax", "LogSoftmax")),
    *(case(f"Reduce{name}", X, ints(0, 2), keepdims=0) for name in REDUCE),
    *(case(f"Reduce{name}", X, axes=[-1], opset=11) for name in REDUCE),
    case("ReduceMean", X),
    case("ReduceSum", X, noop_with_empty_axes=1),
    # Layers
    case("Conv", IMAGE, floats(6, 4, 3, 3), floats(6), pads=[1, 1, 1, 1], strides=[2, 1]),
    case("Conv", IMAGE, floats(6, 4, 3, 3), pads=[1, 0, 2, 1]),
    case("Conv", IMAGE, floats(6, 2, 3, 3), group=2, dilations=[2, 1]),
    case("Conv", IMAGE, floats(8, 1, 3, 3), group=4),
    *(case("Conv", IMAGE, floats(6, 4, 3, 2), auto_pad=how, strides=[2, 2]) for how in ("SAME_UPPER", "SAME_LOWER")),
    case("Conv", IMAGE, floats(6, 4, 3, 3), auto_pad="VALID"),
    case("Conv", X, floats(5, 3, 2)),
    case("Conv", floats(1, 2, 4, 4, 4), floats(3, 2, 2, 2, 2)),
    case("Gemm", floats(2, 3), floats(3, 4), floats(4)),
    case("Gemm", floats(3, 2), floats(4, 3), floats(2, 1), transA=1, transB=1, alpha=0.5, beta=2.0),
    case("Gemm", floats(2, 3), floats(3, 4)),
    case("MatMul", floats(2, 1, 3, 4), floats(5, 4, 2)),
    case("Einsum", floats(2, 3, 4), floats(4, 5), equation="bij,jk->bik"),
    case("BatchNormalization", IMAGE, floats(4), floats(4), floats(4), floats(4, low=0.1), epsilon=1e-3),
    case("LayerNormalization", X, floats(4), floats(4)),
    case("LayerNormalization", X, floats(3, 4), axis=1, epsilon=1e-3),
    case("RMSNormalization", X, floats(4), opset=23),
    case("InstanceNormalization", IMAGE, floats(4), floats(4)),
    case("InstanceNormalization", floats(1, 3, 1), floats(3), floats(3)),
    case("GroupNormalization", IMAGE, floats(4), floats(4), opset=21, num_groups=2),
    case("LRN", IMAGE, size=3, alpha=0.1),
    case("MaxPool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
    case("MaxPool", IMAGE, kernel_shape=[2, 2], pads=[0, 0, 1, 1], strides=[2, 2]),
    case("MaxPool", IMAGE, kernel_shape=[3, 2], auto_pad="SAME_UPPER", strides=[2, 2]),
    case("MaxPool", IMAGE, kernel_shape=[3, 3], ceil_mode=1, strides=[2, 2], dilations=[1, 2]),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 0, 1, 1], count_include_pad=1),
    case("AveragePool", IMAGE, kernel_shape=[2, 2], ceil_mode=1, strides=[2, 2]),
    case("AveragePool", IMAGE, kernel_shape=[3, 2], auto_pad="SAME_LOWER", strides=[2, 2]),
    *(case(name, IMAGE) for name in ("GlobalAveragePool", "GlobalMaxPool")),
    # Shapes
    case("Reshape", X, ints(0, -1)),
    case("Reshape", X, ints(4, 6)),
    *(case("Flatten", IMAGE, axis=axis) for axis in (0, 1, 2, -1)),
    case("Squeeze", floats(1, 3, 1), ints(0, -1)),
    case("Squeeze", floats(1, 3, 1)),
    case("Squeeze", floats(1, 3, 1), axes=[2], opset=11),
    case("Unsqueeze", X, ints(0, -1)),
    case("Unsqueeze", X, axes=[1, 3], opset=11),
    case("Transpose", X),
    case("Transpose", X, perm=[1, 2, 0]),
    case("Concat", X, X, axis=-1),
    case("Split", X, ints(1, 3), axis=2, outputs=2),
    case("Split", X, axis=2, outputs=2, opset=13),
    case("Split", X, axis=2, num_outputs=2, outputs=2),
    case("Split", X, axis=2, split=[3, 1], outputs=2, opset=11),
    case("Slice", X, ints(1), ints(100), ints(2)),
    case("Slice", X, ints(0, -1), ints(2, -100), ints(1, 2), ints(1, -2)),
    case("Slice", X, ints(3), ints(0), ints(2), ints(-1)),
    case("Gather", X, ints(2, -1), axis=1),
    case("Gather", X, np.int64(1), axis=2),
    case("Gather", floats(9, 4), RANDOM.integers(0, 9, (2, 3)), axis=0),
    case("GatherElements", X, ints(1, 0, -1, 2).reshape(1, 1, 4), axis=1),
    case("Expand", floats(3, 1), ints(2, 1, 4)),
    case("Tile", X, ints(1, 2, 1)),
    case("Pad", X, ints(0, 0, 1, 0, 1, 2), np.float32(3.0)),
    case("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 3, 1), mode="reflect"),
    case("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 3, 1), mode="edge"),
    case("Pad", X, ints(1, 2), None, ints(-1)),
    case("ConstantOfShape", ints(2, 3)),
    case("ConstantOfShape", ints(2), value=numpy_helper.from_array(np.array([7], np.int64))),
    case("Range", np.int64(1), np.int64(9), np.int64(3)),
    case("Trilu", X),
    case("Trilu", X, np.int64(-1), upper=0),
]


@pytest.mark.parametrize(("operator", "inputs", "opset", "outputs", "attributes"), CASES)
def test_an_operator_computes_what_onnx_runtime_does(operator, inputs, opset, outputs, attributes):
    names = ["" if array is None else f"in{place}" for place, array in enumerate(inputs)]
    node = helper.make_node(operator, names, [f"out{place}" for place in range(outputs)], **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in zip(names, inputs, strict=True)
            if name
        ],
        [onnx.ValueInfoProto(name=name) for name in node.output],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    feed = {name: np.asarray(array) for name, array in zip(names, inputs, strict=True) if name}
    expected = Session(model.SerializeToString()).run(feed)

    tensors = [None if array is None else torch.tensor(array) for array in inputs]
    result = OPERATORS[operator](node_of(node, opset), *tensors)

    parts = result if isinstance(result, tuple) else (result,)
    for name, part in zip(node.output, parts, strict=True):
        assert part.shape == expected[name].shape
        assert part.numpy().dtype == expected[name].dtype
        np.testing.assert_allclose(part.numpy(), expected[name], atol=1e-5, rtol=1e-4)


def test_every_operator_of_the_table_is_compared():
    assert {parameters.values[0] for parameters in CASES} == set(OPERATORS)


def test_group_norm_by_group_before_opset_21():
    scale, bias = torch.tensor([2.0, 3.0]), torch.tensor([0.5, -0.5])
    node = helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)
    x = torch.tensor(IMAGE)

    old = OPERATORS["GroupNormalization"](node_of(node, 18), x, scale, bias)
    new = OPERATORS["GroupNormalization"](node_of(node, 21), x, scale.repeat_interleave(2), bias.repeat_interleave(2))

    assert torch.equal(old, new)


@pytest.mark.parametrize(
    ("operator", "outputs", "attributes"),
    [
        ("BatchNormalization", 1, {"training_mode": 1}),
        ("MaxPool", 2, {"kernel_shape": [2, 2]}),
        ("AveragePool", 1, {"kernel_shape": [2, 2], "dilations": [2, 2]}),
        ("Cast", 1, {"to": TensorProto.STRING}),
    ],
)
def test_a_use_that_nobody_trains_is_refused_by_name(operator, outputs, attributes):
    node = helper.make_node(operator, [], [f"y{place}" for place in range(outputs)], **attributes)
    inputs = [torch.tensor(IMAGE), *(torch.ones(4) for _ in range(4 if operator == "BatchNormalization" else 0))]

    with pytest.raises(Inapplicable, match=operator):
        OPERATORS[operator](node_of(node, 18), *inputs)
