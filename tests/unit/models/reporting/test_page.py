import base64
from html.parser import HTMLParser

from models.reporting import page


class Balanced(HTMLParser):
    """Fails where a tag is not closed by its own end; keeps the texts outside the style sheet."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)


def rendered(**changes):
    parts = {
        "title": "A <title> & more",
        "lead": "It costs $5 & less",
        "cards": [page.card("2 < 3", "<code>x</code>")],
        "body": page.figure(b"picture", 'it "shows"') + page.section("T <1>", page.table(["a"], [page.row(["b"])])),
        "command": "make <it> --for $HOME",
        "facts": {"seed <1>": "7 & 8", "left out": ""},
    } | changes
    return page.render(**parts)


def test_texts_are_escaped_and_markup_is_not():
    text = rendered()
    seen = Balanced(text).texts
    for each in (
        "A <title> & more",
        "It costs $5 & less",
        "2 < 3",
        "T <1>",
        "make <it> --for $HOME",
        "seed <1>",
        "7 & 8",
    ):
        assert each in seen
    assert "<code>x</code>" in text
    assert 'alt="it &quot;shows&quot;"' in text


def test_the_picture_is_in_the_page():
    assert f"base64,{base64.b64encode(b'picture').decode()}" in rendered()


def test_facts_without_a_text_are_left_out():
    assert "left out" not in rendered()


def test_the_sheet_of_paper_is_that_of_the_report():
    assert f"@page {{ {page.PORTRAIT}; }}" in rendered()
    assert f"@page {{ {page.LANDSCAPE}; }}" in rendered(sheet=page.LANDSCAPE)


def test_only_the_row_that_others_are_compared_with_is_marked():
    assert page.row(["a"], marked=True) == '<tr class="marked"><td>a</td></tr>'
    assert page.row(["a"]) == "<tr><td>a</td></tr>"


def test_names_and_notes_and_folded_titles_are_texts():
    for made in (page.name("<x>"), page.note("<x>"), page.folded("<x>", "")):
        assert "&lt;x&gt;" in made
        assert "<x>" not in made


def test_no_tone_is_no_markup():
    assert page.toned("", "1") == "1"
    assert page.toned("bad", "1") == '<span class="bad">1</span>'
