"""Files of results: JSON with one fixed form, read strictly and written whole."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from models.drafts import write_whole
from models.manifest import describe

Document = TypeVar("Document", bound=BaseModel)


def read_document(kind: type[Document], path: Path, what: str, wrong: type[Exception]) -> Document:
    """Read and check a file that is to be `what` ("the file of a live run"). Raises `wrong`, naming the file."""
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise wrong(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        raise wrong(f"{path}: not {what}: {describe(error)}") from error


def write_document(document: BaseModel, path: Path) -> None:
    """Write the file, whole or not at all; its folder is made. Raises `OSError`."""
    write_whole(path, f"{document.model_dump_json()}\n".encode())
