from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from loadtests.documents import read_document, write_document


class Note(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    text: str
    copies: int = 1


class NoteError(ValueError):
    """A note that cannot be used."""


def read(path: Path) -> Note:
    return read_document(Note, path, "a note", NoteError)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "note.json"
    write_document(Note(text="déjà vu"), path)
    write_document(Note(text="déjà vu", copies=2), path)
    assert read(path) == Note(text="déjà vu", copies=2)
    assert [file.name for file in path.parent.iterdir()] == ["note.json"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"{", "not a note"),
        (b'{"copies": 2}', "not a note: .*text"),
        (b'{"text": "a", "copies": "2"}', "not a note: .*copies"),
        (b'{"text": "a", "size": 1}', "not a note: .*size"),
    ],
)
def test_other_files_are_told_by_name_and_by_what_is_wrong(tmp_path: Path, content: bytes | None, told: str) -> None:
    path = tmp_path / "note.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NoteError, match=rf"note\.json: {told}"):
        read(path)
