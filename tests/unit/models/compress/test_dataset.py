import io
import zipfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.compress import npz_file
from models.compress.dataset import read_dataset
from models.compress.errors import CompressError
from models.compress.original import Original, read_original

ROWS = 200


def write_model(path, nodes, inputs, constants) -> Original:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", 3])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return read_original(path)


@pytest.fixture
def images(tmp_path) -> Original:
    """image FP32 [rows, 1, 2, 2] -> scores."""
    nodes = [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["scores"])]
    shape = ["rows", 1, 2, 2]
    weights = np.eye(4, 3, dtype=np.float32)
    return write_model(tmp_path / "images.onnx", nodes, [("image", TensorProto.FLOAT, shape)], {"w": weights})


@pytest.fixture
def words(tmp_path) -> Original:
    """tokens INT64 [rows, any], a vocabulary of 5; weight FP32 [rows, 1] -> scores."""
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["found"]),
        helper.make_node("ReduceMean", ["found"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Mul", ["mean", "weight"], ["scores"]),
    ]
    inputs = [("tokens", TensorProto.INT64, ["rows", "length"]), ("weight", TensorProto.FLOAT, ["rows", 1])]
    return write_model(tmp_path / "words.onnx", nodes, inputs, {"table": np.eye(5, 3, dtype=np.float32)})


@pytest.fixture
def save(tmp_path):
    def save(name="data.npz", **arrays):
        path = tmp_path / name
        np.savez_compressed(path, **arrays)
        return path

    return save


def pixels(rows=ROWS, seed=0):
    return np.random.default_rng(seed).random((rows, 1, 2, 2)).astype(np.float32)


def classes(rows=ROWS, seed=0):
    return np.random.default_rng(seed).integers(0, 3, rows)


def refusal(path, original, **options) -> str:
    with pytest.raises(CompressError) as caught:
        read_dataset(path, original, **options)
    return str(caught.value)


class TestGoodFiles:
    def test_splits_every_row_into_exactly_one_share(self, images, save):
        image = pixels()
        data = read_dataset(save(image=image, labels=classes()), images)
        assert (len(data.train), len(data.validation), len(data.test)) == (140, 20, 40)
        parts = [part.inputs["image"] for part in (data.train, data.validation, data.test)]
        assert sorted(map(tuple, np.concatenate(parts).reshape(ROWS, 4))) == sorted(map(tuple, image.reshape(ROWS, 4)))

    def test_keeps_labels_beside_their_rows(self, images, save):
        image, labels = pixels(), classes()
        labels[:] = image[:, 0, 0, 0] > 0.5
        data = read_dataset(save(image=image, labels=labels.astype(np.uint8)), images)
        for part in (data.train, data.validation, data.test):
            assert part.labels.dtype == np.int64
            np.testing.assert_array_equal(part.labels, part.inputs["image"][:, 0, 0, 0] > 0.5)

    def test_needs_no_labels(self, images, save):
        assert read_dataset(save(image=pixels()), images).test.labels is None

    def test_the_digest_names_data_and_seed(self, images, save):
        path = save(image=pixels())
        known = read_dataset(path, images).digest
        assert read_dataset(path, images).digest == known
        assert read_dataset(path, images, seed=1).digest != known
        assert read_dataset(save(image=pixels(seed=1)), images).digest != known

    def test_takes_the_test_rows_from_another_file(self, images, save):
        apart = pixels(50, seed=1)
        data = read_dataset(save(image=pixels()), images, test=save("test.npz", image=apart))
        assert len(data.train) + len(data.validation) == ROWS
        np.testing.assert_array_equal(data.test.inputs["image"], apart)

    def test_takes_several_inputs_and_free_axes(self, words, save):
        tokens = np.random.default_rng(0).integers(0, 5, (ROWS, 7))
        data = read_dataset(save(tokens=tokens, weight=np.ones((ROWS, 1), np.float32)), words)
        assert data.train.inputs["tokens"].shape == (140, 7)

    def test_puts_bytes_in_the_order_of_the_host(self, images, save):
        data = read_dataset(save(image=np.asfortranarray(pixels().astype(">f4"))), images)
        assert data.train.inputs["image"].dtype == np.float32
        assert data.train.inputs["image"].dtype.isnative
        assert data.train.inputs["image"].flags.c_contiguous

    @pytest.mark.parametrize("kind", ["U", "S"])
    def test_takes_texts(self, tmp_path, save, kind):
        nodes = [
            helper.make_node(
                "LabelEncoder", ["text"], ["number"], domain="ai.onnx.ml",
                keys_strings=["yes", "no"], values_int64s=[0, 1],
            ),
            helper.make_node("Gather", ["table", "number"], ["scores"]),
        ]  # fmt: skip
        graph = helper.make_graph(
            nodes,
            "texts",
            [helper.make_tensor_value_info("text", TensorProto.STRING, ["rows"])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", 3])],
            [numpy_helper.from_array(np.eye(3, dtype=np.float32), "table")],
        )
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
        onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), tmp_path / "texts.onnx")
        original = read_original(tmp_path / "texts.onnx")
        texts = np.array(["yes", "no"] * (ROWS // 2)).astype(kind)
        data = read_dataset(save(text=texts), original)
        expected = data.test.inputs["text"].astype("U") == "no"
        np.testing.assert_array_equal(original.scores(data.test).argmax(axis=1), expected)


class TestFiles:
    def test_missing(self, tmp_path, images):
        assert "no such file" in refusal(tmp_path / "gone.npz", images)

    def test_folder(self, tmp_path, images):
        assert "cannot be read" in refusal(tmp_path, images)

    @pytest.mark.parametrize(("content", "fact"), [(b"", "empty"), (b"a,b\n1,2\n", "np.savez"), (b"PK\x03", "cut off")])
    def test_no_archive(self, tmp_path, images, content, fact):
        path = tmp_path / "data.npz"
        path.write_bytes(content)
        assert fact in refusal(path, images)

    def test_single_array(self, tmp_path, images):
        np.save(tmp_path / "data.npy", pixels())
        assert "single array" in refusal(tmp_path / "data.npy", images)

    def test_cut_off(self, images, save):
        path = save(image=pixels())
        path.write_bytes(path.read_bytes()[:-100])
        assert "cut off" in refusal(path, images)

    def test_damaged_inside(self, images, tmp_path):
        np.savez(tmp_path / "data.npz", image=pixels())
        content = bytearray((tmp_path / "data.npz").read_bytes())
        content[len(content) // 2] ^= 0xFF
        (tmp_path / "data.npz").write_bytes(content)
        assert "CRC" in refusal(tmp_path / "data.npz", images)

    def test_other_files_in_the_archive(self, images, tmp_path):
        with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
            archive.writestr("notes.txt", "hello")
        assert "notes.txt" in refusal(tmp_path / "data.npz", images)

    def test_pickles_are_never_loaded(self, images, save, tmp_path):
        class Trap:
            def __reduce__(self):
                return (open, (str(tmp_path / "sprung"), "w"))

        path = save(image=np.array([Trap(), None], dtype=object))
        assert "Python objects" in refusal(path, images)
        assert not (tmp_path / "sprung").exists()

    def test_a_header_that_promises_more_than_memory(self, images, tmp_path):
        header = io.BytesIO()
        facts = {"descr": "<f4", "fortran_order": False, "shape": (10**13, 1, 2, 2)}
        np.lib.format.write_array_header_1_0(header, facts)
        with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
            archive.writestr("image.npy", header.getvalue())
        assert "GB of memory" in refusal(tmp_path / "data.npz", images)


class TestNames:
    def test_one_array_of_another_name(self, images, save):
        text = refusal(save(images=pixels(), labels=classes()), images)
        assert "np.savez(path, **{'image': data['images'], ...})" in text

    def test_a_missing_input_and_the_nearest_name(self, words, save):
        text = refusal(save(token=np.zeros((ROWS, 3), np.int64)), words)
        assert "'tokens' (is it 'token'?)" in text

    def test_an_unknown_array(self, images, save):
        assert "did you mean 'labels'" in refusal(save(image=pixels(), lables=classes()), images)

    @pytest.mark.parametrize("name", ["y", "target"])
    def test_what_are_probably_labels(self, images, save, name):
        assert "call it 'labels'" in refusal(save(**{"image": pixels(), name: classes()}), images)


class TestArrays:
    def test_datatype(self, images, save):
        assert ".astype(np.float32)" in refusal(save(image=pixels().astype(np.float64)), images)
        assert "scale pixels" in refusal(save(image=pixels().astype(np.uint8)), images)

    @pytest.mark.parametrize(
        ("shape", "remedy"),
        [
            ((ROWS, 1, 2, 3), "axis 3 is 3, not 2"),
            ((ROWS, 2, 2), "np.expand_dims(x, 1)"),
            ((ROWS, 2, 2, 1), "transpose(0, 3, 1, 2)"),
            ((ROWS, 4), "reshape(-1, 1, 2, 2)"),
            ((1, 2, 2), "np.expand_dims(x, 1)"),
            ((0, 1, 2, 2), "no rows"),
            ((), "expected [rows, 1, 2, 2]"),
        ],
    )
    def test_shape(self, images, save, shape, remedy):
        assert remedy in refusal(save(image=np.zeros(shape, np.float32)), images)

    def test_advice_on_shapes_is_right(self, images, save):
        channels_last = np.random.default_rng(0).random((ROWS, 2, 2, 1)).astype(np.float32)
        assert read_dataset(save(image=channels_last.transpose(0, 3, 1, 2)), images)
        assert read_dataset(save(image=np.expand_dims(channels_last[..., 0], 1)), images)

    def test_different_rows(self, words, save):
        text = refusal(save(tokens=np.zeros((ROWS, 3), np.int64), weight=np.ones((9, 1), np.float32)), words)
        assert "'tokens' has 200, 'weight' has 9" in text

    def test_too_few(self, images, save):
        assert "99 rows, and 100 are the least" in refusal(save(image=pixels(99)), images)
        assert read_dataset(save(image=pixels(100)), images)

    def test_not_finite(self, images, save, monkeypatch):
        monkeypatch.setattr(npz_file, "CHECKED_BYTES", 64)  # several parts
        image = pixels()
        image[17, 0, 1, 1], image[30, 0, 0, 0], image[199] = np.nan, -np.inf, np.inf
        assert "6 values that are NaN or infinite, the first in row 17" in refusal(save(image=image), images)

    def test_values_the_model_cannot_take(self, words, save):
        path = save(tokens=np.full((ROWS, 3), 9), weight=np.ones((ROWS, 1), np.float32))
        assert "fails on the first rows" in refusal(path, words)

    def test_answers_that_are_not_finite(self, tmp_path, save):
        nodes = [helper.make_node("Log", ["x"], ["y"]), helper.make_node("MatMul", ["y", "w"], ["scores"])]
        weights = {"w": np.eye(4, 3, dtype=np.float32)}
        original = write_model(tmp_path / "log.onnx", nodes, [("x", TensorProto.FLOAT, ["rows", 4])], weights)
        x = pixels().reshape(ROWS, 4) + 1
        assert read_dataset(save(x=x), original)
        x[3] = -1
        assert "answers row 3 with NaN" in refusal(save(x=x), original)

    def test_more_than_fits(self, images, save, monkeypatch):
        monkeypatch.setattr(npz_file, "COPIES", 1e12)
        assert "give fewer rows" in refusal(save(image=pixels()), images)


class TestLabels:
    @pytest.mark.parametrize(
        ("labels", "fact"),
        [
            (np.eye(3)[classes()], "argmax(axis=1)"),
            (classes()[:, None], "labels.ravel()"),
            (classes()[:-1], "expected [200]"),
            (classes().astype(np.float32), ".astype(np.int64)"),
            (np.array(["cat", "dog"] * 100), "number the texts"),
            (classes() + 1, "count from 1"),
            (np.where(np.arange(ROWS) == 5, -1, classes()), "-1 in row 5"),
            (np.where(np.arange(ROWS) == 7, 2**63, classes().astype(np.uint64)).astype(np.uint64), "in row 7"),
        ],
    )
    def test_refused(self, images, save, labels, fact):
        assert fact in refusal(save(image=pixels(), labels=labels), images)


class TestTestFile:
    def test_too_few(self, images, save):
        text = refusal(save(image=pixels()), images, test=save("test.npz", image=pixels(19, seed=1)))
        assert "test.npz: has 19 rows, and 20 are the least" in text

    def test_labels_in_only_one(self, images, save):
        path, test = save(image=pixels(), labels=classes()), save("test.npz", image=pixels(50, seed=1))
        assert "label both files or neither" in refusal(path, images, test=test)

    def test_the_same_rows(self, images, save):
        path = save(image=pixels())
        assert "same rows" in refusal(path, images, test=path)
