"""A page of a report: one HTML file with everything in it, to be read, printed and passed on.

What is called `text` is escaped here; what is called `markup` has been by whoever made it.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from string import Template

PORTRAIT = "margin: 14mm"
LANDSCAPE = "size: A4 landscape; margin: 12mm"
"""Sheets of paper, as the style sheet says them; the latter for wide tables."""


def render(
    *, title: str, lead: str, cards: Iterable[str], body: str, command: str, facts: Mapping[str, str],
    sheet: str = PORTRAIT,
) -> str:  # fmt: skip
    """The page: `title`, `lead` and `command` are text; `body` and the cards are markup, made by the functions below.

    `facts` are names and texts of what the figures come from; those without a text are left out.
    """
    template = Template((resources.files("models.reporting") / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        lead=escape(lead),
        cards="".join(cards),
        body=body,
        command=escape(command),
        provenance="".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items() if text),
        sheet=sheet,
    )


def card(number: str, markup: str) -> str:
    """A number to be seen first, as text, and what it is."""
    return f'<div class="card"><b>{escape(number)}</b><span>{markup}</span></div>'


def figure(picture: bytes, alt: str) -> str:
    """A PNG picture, embedded, and the text for who cannot see it."""
    data = base64.b64encode(picture).decode("ascii")
    return f'<figure><img src="data:image/png;base64,{data}" alt="{escape(alt)}"></figure>'


def section(title: str, markup: str) -> str:
    """A heading, as text, and what stands below it."""
    return f"<h2>{escape(title)}</h2>\n{markup}"


def note(text: str) -> str:
    """Small print."""
    return f'<p class="note">{escape(text)}</p>'


def table(heads: Sequence[str], rows: Iterable[str]) -> str:
    """A table that scrolls where the screen is too narrow; heads are markup, and aligned as the cells below them."""
    head = "".join(f"<th>{markup}</th>" for markup in heads)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def row(cells: Sequence[str], *, marked: bool = False) -> str:
    """A row of a table; `marked` is the one that the others are compared with."""
    start = '<tr class="marked">' if marked else "<tr>"
    return start + "".join(f"<td>{markup}</td>" for markup in cells) + "</tr>"


def prose(markup: str) -> str:
    """A cell's content that is long: it wraps, and starts at the left."""
    return f'<div class="text">{markup}</div>'


def name(text: str) -> str:
    """The name a row is about."""
    return f'<span class="name">{escape(text)}</span>'


def toned(tone: str, markup: str) -> str:
    """In the colour of what is `good` or `bad`; with no tone it stays as it is."""
    return f'<span class="{tone}">{markup}</span>' if tone else markup


def folded(title: str, markup: str) -> str:
    """What only some will want to see, behind its title."""
    return f"<details><summary>{escape(title)}</summary>{markup}</details>"
