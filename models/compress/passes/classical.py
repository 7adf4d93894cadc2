"""A model without hidden layers worth the name: what a family answers with when nothing else is affordable.

Trained by scikit-learn on the rows' labels, or on what the original says of them. Numbers: a linear model
(multinomial logistic regression), one on random Fourier features (Rahimi and Recht, "Random Features for
Large-Scale Kernel Machines", 2007), and boosted trees on principal components. Tokens: linear in how often each
occurs, or in which stands where.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from models.compress.dataset import Rows
from models.compress.draft import ML_OPSET, OPSET, Draft
from models.compress.errors import Inapplicable
from models.compress.step import Stage, Step
from models.compress.students.inputs import Images, Tokens, kind_of
from models.compress.workbench import Workbench

Matrix = NDArray[np.float64]

MOST_ROWS, MOST_NUMBERS = 20_000, 50_000_000
"""Rows, and numbers in all of them: a bound on time and memory."""
LONGEST_ROW = 16_384
"""Numbers in a row beyond which weights for each would make a large model and not a small one."""
ITERATIONS = 200
"""Most that the solver makes, converged or not: it bounds the time."""
MARGIN = 10.0
"""How far below all others the score of a class lies that no training row belongs to."""
REGULARISATION = 0.1
"""The inverse strength of the penalty, as scikit-learn has it."""
LARGEST_TABLE = 1 << 16
"""Lines of a table of tokens by place."""
TREES, LEAVES = 40, 12
"""Boosting rounds, each of one tree a class, and the leaves of a tree."""


@dataclass(frozen=True, slots=True)
class Classical(Step):
    """One classical model; it ignores the graph it is given."""

    name: ClassVar[str] = "classical"
    stage: ClassVar[Stage] = Stage.SOURCE

    kind: Literal["linear", "places", "fourier", "trees"] = "linear"
    """`places` is linear in which token stands where, `linear` only in how often it occurs."""
    features: int = 0
    """Random features, or principal components; 0 where there are none."""

    def apply(self, model: onnx.ModelProto, bench: Workbench) -> onnx.ModelProto:
        """The classical model behind the original's inputs and output. Raises `Inapplicable`."""
        del model
        rows, kind = bench.train.take(slice(0, MOST_ROWS)), kind_of(bench.train)
        draft = Draft(bench)
        classes = rows.labels if rows.labels is not None else bench.teacher[: len(rows)].argmax(axis=1)
        if len(np.unique(classes)) < 2:
            raise Inapplicable("all training rows are of one class")
        if isinstance(kind, Tokens):
            if self.kind not in ("linear", "places"):
                raise Inapplicable("tokens are counted: only the linear kinds read them")
            return draft.finished(_of_words(draft, kind, rows, classes, placed=self.kind == "places"))
        if self.kind == "places":
            raise Inapplicable("there are no tokens to tell the places of")
        data = _numbers(rows, bench)
        classes = classes[: len(data)]
        source = draft.numbers()
        match self.kind:
            case "linear":
                return draft.finished(_linear(draft, source, data, classes))
            case "fourier":
                return draft.finished(_fourier(draft, source, data, classes, self.features, bench.seed))
            case "trees":
                return draft.finished(_trees(draft, source, data, classes, self.features, bench.seed))

    @classmethod
    def choices(cls, model: onnx.ModelProto, bench: Workbench) -> Sequence[Self]:
        """Kernel features and linear ones; trees where the inputs are no image; tables for tokens."""
        del model
        kind = kind_of(bench.train)
        if isinstance(kind, Tokens):
            placed = -1 not in bench.original.inputs[0].shape[1:] and kind.length * kind.vocabulary <= LARGEST_TABLE
            return [cls("places"), cls()] if placed else [cls()]
        length = _numbers(bench.train.take(slice(0, 1)), bench).shape[1]
        nets = [cls("fourier", 512), cls()]
        # On images trees were measured to be slower, larger and worse than a linear model.
        return nets if isinstance(kind, Images) else [*nets, cls("trees", min(32, length))]

    @property
    def label(self) -> str:
        """`linear`, `fourier-512`, `trees`."""
        return f"{self.kind}-{self.features}" if self.kind == "fourier" else self.kind


def _numbers(rows: Rows, bench: Workbench) -> Matrix:
    """All inputs side by side in the original's order, [rows, length]; of long rows fewer. Raises `Inapplicable`."""
    arrays = [rows.inputs[spec.name].reshape(len(rows), -1) for spec in bench.original.inputs]
    length = sum(array.shape[1] for array in arrays)
    if length > LONGEST_ROW:
        raise Inapplicable(f"a row has {length:,} numbers: with a weight for each the model would not be small")
    data = np.concatenate([array[: MOST_NUMBERS // length].astype(np.float64) for array in arrays], axis=1)
    if not np.isfinite(data).all():
        raise Inapplicable("some inputs are not finite: these models cannot learn from them")
    return data


def _linear(draft: Draft, source: str, data: Matrix, classes: NDArray[np.int64]) -> str:
    """Logits of a logistic regression; the scaling of its inputs is part of its weights."""
    mean, scale = data.mean(axis=0), _deviation(data)
    weight, bias = _regression((data - mean) / scale, classes, draft.bench)
    weight = weight / scale[:, None]
    return draft.add("Gemm", source, draft.constant(weight), draft.constant(bias - mean @ weight))


def _fourier(draft: Draft, source: str, data: Matrix, classes: NDArray[np.int64], features: int, seed: int) -> str:
    """Logits of a logistic regression on cosines in random directions: a Gaussian kernel's features."""
    random = np.random.default_rng(seed)
    pairs = data[random.integers(0, len(data), (2, 1000))]
    # The kernel's width is the usual distance between two rows; what all rows share matters to no distance.
    width = max(float(np.median(np.linalg.norm(pairs[0] - pairs[1], axis=1))), float(np.finfo(np.float32).tiny))
    directions = random.standard_normal((data.shape[1], features)) / width
    phases = random.uniform(0, 2 * np.pi, features) - data.mean(axis=0) @ directions
    angles = draft.add("Gemm", source, draft.constant(directions), draft.constant(phases))
    return _linear(draft, draft.add("Cos", angles), np.cos(data @ directions + phases), classes)


def _trees(draft: Draft, source: str, data: Matrix, classes: NDArray[np.int64], features: int, seed: int) -> str:
    """Logarithms of the probabilities of boosted trees on principal components."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.decomposition import PCA
    from sklearn.ensemble import GradientBoostingClassifier

    reduction = PCA(features, random_state=seed).fit(data)
    # Trees compare with thresholds: they are to learn from numbers as they will see them.
    reduced = reduction.transform(data).astype(np.float32)
    # The faster, histogram-based kind cannot be converted: the converter's booleans are refused by newer ONNX.
    forest = GradientBoostingClassifier(
        n_estimators=TREES, max_leaf_nodes=LEAVES, max_features="sqrt", random_state=seed
    ).fit(reduced, classes)
    converted = to_onnx(
        forest,
        initial_types=[("components", FloatTensorType([None, features]))],
        options={"zipmap": False},
        target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
    )
    weight = reduction.components_.T
    components = draft.add("Gemm", source, draft.constant(weight), draft.constant(-reduction.mean_ @ weight))
    names = {"components": components}
    for tensor in converted.graph.initializer:
        names[tensor.name] = draft.constant(numpy_helper.to_array(tensor))
    for node in converted.graph.node:
        copied = draft.copied(node, names)
        names.update(zip(node.output, copied, strict=True))
    probabilities = names[converted.graph.output[1].name]
    spread = np.zeros((len(forest.classes_), draft.bench.original.classes))
    spread[np.arange(len(forest.classes_)), forest.classes_] = 1.0
    if spread.shape[0] != spread.shape[1]:
        probabilities = draft.add("MatMul", probabilities, draft.constant(spread))
    return draft.add("Log", draft.add("Max", probabilities, draft.constant(np.array([np.exp(-MARGIN)]))))


def _of_words(draft: Draft, kind: Tokens, rows: Rows, classes: NDArray[np.int64], *, placed: bool) -> str:
    """Logits of a logistic regression on which tokens a row holds: a table of logits, and their sum over the row."""
    from scipy.sparse import csr_matrix

    tokens = rows.inputs[kind.name].astype(np.int64)
    # One line more than there are tokens: for ids that no training row holds. Placed, there is a table a place.
    lines = kind.vocabulary + 1
    offsets = np.arange(tokens.shape[1]) * lines if placed else np.zeros(1, np.int64)
    counted = np.ones(tokens.shape) if kind.mask is None else rows.inputs[kind.mask].astype(np.float64)
    counts = csr_matrix(
        (counted.ravel(), (tokens + offsets).ravel(), np.arange(len(tokens) + 1) * tokens.shape[1]),
        shape=(len(tokens), len(offsets) * lines),
    )
    counts.sum_duplicates()
    scale = np.sqrt(np.maximum(np.asarray(counts.power(2).mean(axis=0)).ravel(), 1.0 / len(tokens)))
    weight, bias = _regression(counts.multiply(1.0 / scale).tocsr(), classes, draft.bench)
    table = draft.constant(weight / scale[:, None])
    ids = draft.add("Cast", kind.name, to=TensorProto.INT64)
    line = draft.add("Min", ids, draft.constant(np.array([kind.vocabulary], np.int64)))
    if placed:
        line = draft.add("Add", line, draft.constant(offsets))
    logits = draft.add("Gather", table, line)
    if kind.mask is not None:
        mask = draft.add("Cast", kind.mask, to=TensorProto.FLOAT)
        logits = draft.add("Mul", logits, draft.add("Unsqueeze", mask, draft.constant(np.array([2], np.int64))))
    total = draft.add("ReduceSum", logits, draft.constant(np.array([1], np.int64)), keepdims=0)
    return draft.add("Add", total, draft.constant(bias))


def _regression(data: Any, classes: NDArray[np.int64], bench: Workbench) -> tuple[Matrix, Matrix]:
    """Weights [features, classes] and biases [classes] of a multinomial logistic regression on scaled data."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    with warnings.catch_warnings(), threadpool_limits(bench.threads):
        warnings.simplefilter("ignore", ConvergenceWarning)
        solver = LogisticRegression(C=REGULARISATION, max_iter=ITERATIONS, tol=1e-3)
        fitted = solver.fit(data.astype(np.float32), classes)
    weight, bias = fitted.coef_.T, fitted.intercept_
    if len(fitted.classes_) == 2:  # There is one score then: of the second class against the first.
        weight, bias = np.hstack([-weight, weight]) / 2, np.array([-bias[0], bias[0]]) / 2
    count = bench.original.classes
    whole, offsets = np.zeros((weight.shape[0], count)), np.full(count, bias.min() - MARGIN)
    whole[:, fitted.classes_], offsets[fitted.classes_] = weight, bias
    return whole, offsets


def _deviation(data: Matrix) -> Matrix:
    """Of each column; 1 for one that never changes."""
    deviation: Matrix = data.std(axis=0)
    deviation[deviation == 0] = 1.0
    return deviation
