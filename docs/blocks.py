"""What the other files share. A region a program writes: `<!-- generated: NAME -->` to `<!-- end of generated -->`."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""

_BLOCK = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n)(?P<body>.*?)(<!-- end of generated -->)", re.DOTALL)


def block_names(page: str) -> list[str]:
    """Names of a page's generated regions, in order."""
    return [match["name"] for match in _BLOCK.finditer(page)]


def filled(page: str, bodies: Mapping[str, str]) -> str:
    """The page with these regions rewritten, and the others as they were. Raises `KeyError` for one it lacks."""
    missing = bodies.keys() - set(block_names(page))
    if missing:
        raise KeyError(f"the page has no region {sorted(missing)}")

    def rewrite(match: re.Match[str]) -> str:
        body = bodies.get(match["name"])
        return match[0] if body is None else f"{match[1]}{body.strip()}\n{match[4]}"

    return _BLOCK.sub(rewrite, page)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table. Pipes in cells are escaped, line breaks become spaces."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines)


def plain_environment() -> dict[str, str]:
    """This environment without settings of somebody's own: what the pages show is made with the defaults."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GEARSHIFT_")}


def code(text: object) -> str:
    """Text as inline code."""
    return f"`{text}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
