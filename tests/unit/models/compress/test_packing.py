import numpy as np
import onnx
import pytest
from onnx import TensorProto

from models.compress import packing
from models.compress.errors import Inapplicable
from models.compress.passes.int8_static import Int8Static, batches_of
from models.session import Session
from tests.support import compress


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    original, dataset = compress.digits_cnn()
    bench = compress.bench(original, dataset, tmp_path_factory.mktemp("bench"))
    return original, dataset, bench, Int8Static().apply(original.model(), bench)


def kinds(model: onnx.ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def test_half_the_file_again_and_the_same_answers(images) -> None:
    _, dataset, bench, eight = images
    before = eight.SerializeToString()
    four = Int8Static(weight_bits=4).apply(images[0].model(), bench)
    assert sum(kind == TensorProto.INT4 for kind in kinds(four).values()) == 3  # the others are too small
    weights = sum(int(np.prod(t.dims)) for t in four.graph.initializer if t.data_type == TensorProto.INT4)
    assert len(four.SerializeToString()) < len(before) - 0.3 * weights
    assert compress.accuracy(four, dataset) >= compress.accuracy(eight, dataset) - 0.02
    assert eight.SerializeToString() == before


def test_what_runs_is_what_ran_in_eight_bits(images, tmp_path) -> None:
    """Unpacked while loading: the same kernels, no cast left."""
    _, _, bench, eight = images
    four = packing.in_four_bits(eight, batches_of(bench, 128))

    def operators(model: onnx.ModelProto) -> list[str]:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return sorted(node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node)

    assert operators(four) == operators(eight)


def test_rounding_for_the_rows_beats_the_nearest_numbers(images, monkeypatch) -> None:
    original, dataset, bench, eight = images
    rows = dataset.test.inputs
    exact = Session(original.content).run(rows)[original.output.name]

    def distance(model: onnx.ModelProto) -> float:
        return float(np.abs(Session(model.SerializeToString()).run(rows)[original.output.name] - exact).mean())

    careful = distance(packing.in_four_bits(eight, batches_of(bench, 256)))

    def nearest(weights, moments, bits):
        scales = np.abs(weights).max(axis=1) / (2 ** (bits - 1) - 1)
        return np.rint(weights / scales[:, None]).astype(np.int8), scales

    monkeypatch.setattr(packing, "rounded", nearest)
    assert careful < 0.8 * distance(packing.in_four_bits(eight, batches_of(bench, 256)))


def test_matrix_products_are_packed_too(tmp_path) -> None:
    original, dataset = compress.digits_tokens()
    bench = compress.bench(original, dataset, tmp_path)
    eight, four = (Int8Static(weight_bits=bits).apply(original.model(), bench) for bits in (8, 4))
    assert TensorProto.INT4 in kinds(four).values()
    assert len(four.SerializeToString()) < len(eight.SerializeToString())
    assert compress.accuracy(four, dataset) >= compress.accuracy(eight, dataset) - 0.03


def test_a_model_without_such_weights_is_told(images) -> None:
    original, _, bench, _ = images
    with pytest.raises(Inapplicable, match="8 bits"):
        packing.in_four_bits(original.model(), batches_of(bench, 64))
