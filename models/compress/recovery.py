"""Training after a cut: what remains of a model learns to answer as the original does.

PyTorch is imported only when there is something to train: without it the passes that cut still do so.
"""

from collections.abc import Mapping
from importlib.util import find_spec

import numpy as np
import onnx
from numpy.typing import NDArray

from models.compress.workbench import Workbench

PEAK_RATE = 2e-3
"""Lower than for a new network, whose weights have nothing to lose."""
ROWS_TO_SHOW = 60_000
FEWEST_EPOCHS, MOST_EPOCHS = 3, 40


def epochs_to_recover(rows: int) -> int:
    """Passes that show about as many rows however few there are; 0 where PyTorch is not installed."""
    if find_spec("torch") is None:
        return 0
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, ROWS_TO_SHOW // max(1, rows)))


def recovered(
    model: onnx.ModelProto,
    bench: Workbench,
    epochs: int,
    key: str,
    kept: Mapping[str, NDArray[np.bool_]] | None = None,
) -> onnx.ModelProto:
    """The model with the weights of its best epoch, which may be the one before the first.

    `kept` says of some weights which elements may change: the others stay as they are, zero where they are
    zero. `key` is as in `training.learn`. Raises `Inapplicable`.
    """
    if not epochs:
        return model
    import torch

    from models.compress.trainable import TrainableGraph
    from models.compress.training import TrainingPlan, learn

    module = TrainableGraph(model, bench.original.output.name)
    for name, mask in (kept or {}).items():
        # A gradient of zero leaves AdamW's moments at zero, and its decay multiplies: zeros stay zeros.
        module.weight(name).register_hook(torch.from_numpy(mask).__mul__)
    learn(module, bench, TrainingPlan(epochs=epochs, peak_rate=PEAK_RATE), key)
    return module.written()
