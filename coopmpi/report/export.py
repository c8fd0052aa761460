"""What a run recorded, in files that other programs read."""

from contextlib import contextmanager
from pathlib import Path

from coopmpi.errors import CoopError, UserError
from coopmpi.record.replay import replay
from coopmpi.record.tables import TABLES, write_csv
from coopmpi.sinks.json_lines import JsonLines
from coopmpi.sinks.tensorboard import TensorBoard, event_files


def tables(result, folder, overwrite=False) -> dict[str, int]:
    """Write comma-separated values into a folder: {name of a table: its rows}. UserError, CoopError."""
    _prepare(folder, lambda: [path for name in TABLES if (path := Path(folder) / f"{name}.csv").exists()], overwrite)
    with _writing(folder):
        return write_csv(result, folder)


def json_lines(result, path):
    """Write the lines that a sink of kind "jsonl" writes. UserError, CoopError."""
    with _writing(path):
        replay(result, JsonLines(path=str(path)))


def tensorboard(result, folder, overwrite=False):
    """Write the event file that a sink of kind "tensorboard" writes. UserError, CoopError."""
    _prepare(folder, lambda: event_files(folder), overwrite)
    with _writing(folder):
        replay(result, TensorBoard(path=str(folder)))


def _prepare(folder, found, overwrite):
    """Make the folder, and remove what an earlier export has left there, the files that found() gives; UserError."""
    with _writing(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        files = found()
        if files and not overwrite:
            raise UserError(f"folder {str(folder)!r} holds {files[0].name} already; choose another, or pass --overwrite")
        for file in files:
            file.unlink()


@contextmanager
def _writing(path):
    """Errors of the file system in this context become a UserError where the place is wrong, else a CoopError."""
    try:
        yield
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"output {str(path)!r} cannot be a folder to write into: {error.strerror}") from error
    except OSError as error:
        raise CoopError(f"writing {str(path)!r} failed: {error.strerror or error}") from error
