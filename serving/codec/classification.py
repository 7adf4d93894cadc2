"""Triton's classification extension: the best classes of each row, as texts "score:index[:label]"."""

import numpy as np

from serving.codec.datatypes import Array, WireType, bf16_to_fp32


def top_classes(scores: Array, wire: WireType, best: int, labels: tuple[str, ...] | None, *, batched: bool) -> Array:
    """The `best` classes by falling score: texts (`str`, dtype object) of shape [rows, k], or [k] unless `batched`.

    k is `best`, or all classes where there are fewer. Equal scores keep the order of their index, NaN comes last.
    Scores are written with the digits that give the same number back (Triton writes six decimals).
    """
    if wire.kind == "bits":
        scores = bf16_to_fp32(scores)
    rows = len(scores) if batched else 1
    table = scores.reshape(rows, scores.size // rows if rows else 0)
    classes = table.shape[1]
    ranked = np.where(np.isnan(table), -np.inf, table) if wire.kind in ("float", "bits") else table
    # Backwards, sorted stably, and backwards again: falling scores without a sign to overflow, ties by index.
    order = classes - 1 - np.argsort(ranked[:, ::-1], axis=1, kind="stable")[:, ::-1][:, :best]
    named = labels if labels is not None and len(labels) == classes else None
    texts = np.empty(order.shape, object)
    for row, indices in enumerate(order.tolist()):
        for place, index in enumerate(indices):
            text = f"{table[row, index]!s}:{index}"
            texts[row, place] = text if named is None else f"{text}:{named[index]}"
    return texts if batched else texts.reshape(-1)
