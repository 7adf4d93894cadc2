"""Numbers as reports write them."""


def count(number: int, one: str, many: str = "") -> str:
    """A number of things: "1 seed", "2,000 seeds"; `many` where an s does not make the plural."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def percent(share: float) -> str:
    """A share from 0 to 1, to hundredths of a per cent."""
    return f"{100 * share:.2f} %"


def points(change: float) -> str:
    """A change of a share in percentage points, always with its sign."""
    return f"{100 * change:+.2f} points".replace("-", "\u2212") if round(change, 4) else "\u00b10.00 points"


def times(factor: float) -> str:
    """How many times as much."""
    return f"{factor:.2f}\u00d7" if factor < 10 else f"{factor:.0f}\u00d7"


def milliseconds(number: float) -> str:
    """A time in milliseconds, to three digits."""
    return f"{number:.3g} ms"


def data_size(octets: int) -> str:
    """A number of bytes in the unit that fits it."""
    for unit, many in (("GB", 1e9), ("MB", 1e6)):
        if octets >= many:
            return f"{octets / many:.1f} {unit}"
    return f"{octets / 1e3:.1f} kB"
