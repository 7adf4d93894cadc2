"""What accuracy a given amount of worker time can buy: the value of capacity that is left.

With price c_v (least worker-seconds a row of variant v costs) and accuracy a_v, mixing variants over many
rows reaches any point of the upper concave hull of {(0, 0)} and {(c_v, a_v)}. N rows served with C
worker-seconds are worth at most N * A(C / N), with A that hull: the fluid bound of the fallback problem.
"""

from bisect import bisect_right
from collections.abc import Iterable


class CapacityValue:
    """The hull of one family's (price, accuracy) points."""

    __slots__ = ("_accuracies", "_prices")

    def __init__(self, points: Iterable[tuple[float, float]]) -> None:
        """`points`: (worker-seconds a row, accuracy) of each variant, prices > 0."""
        prices, accuracies = [0.0], [0.0]
        for price, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
            if accuracy <= accuracies[-1]:
                continue  # a dearer variant that is no better buys nothing
            while len(prices) > 1 and _above(prices, accuracies, price, accuracy):
                prices.pop()
                accuracies.pop()
            prices.append(price)
            accuracies.append(accuracy)
        self._prices, self._accuracies = prices, accuracies

    def of(self, rows: float, capacity_s: float) -> float:
        """Most accuracy, summed over rows, that `rows` rows can get out of `capacity_s` worker-seconds."""
        if rows <= 0 or capacity_s <= 0:
            return 0.0
        per_row_s = capacity_s / rows
        right = bisect_right(self._prices, per_row_s)
        if right == len(self._prices):
            return rows * self._accuracies[-1]
        left = right - 1
        span_s = self._prices[right] - self._prices[left]
        share = (per_row_s - self._prices[left]) / span_s
        return rows * (self._accuracies[left] + share * (self._accuracies[right] - self._accuracies[left]))

    def price_of(self, accuracy: float) -> float:
        """Least worker-seconds a row for which a mix has this mean accuracy; of the best where none has it."""
        if accuracy >= self._accuracies[-1]:
            return self._prices[-1]
        if accuracy <= 0:
            return 0.0
        right = bisect_right(self._accuracies, accuracy)
        left = right - 1
        share = (accuracy - self._accuracies[left]) / (self._accuracies[right] - self._accuracies[left])
        return self._prices[left] + share * (self._prices[right] - self._prices[left])


def _above(prices: list[float], accuracies: list[float], price: float, accuracy: float) -> bool:
    """Whether the line from the point before last to the new one passes over the last."""
    rise_last = (accuracies[-1] - accuracies[-2]) * (price - prices[-2])
    rise_new = (accuracy - accuracies[-2]) * (prices[-1] - prices[-2])
    return rise_new >= rise_last
