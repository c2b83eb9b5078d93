"""What ``alias-ops measure`` leaves behind: the table, aliasing.csv, aliasing.json and aliasing.png."""

import csv
import io
import json
import sys
from dataclasses import dataclass, fields
from pathlib import Path

from .errors import UserError
from .figure import draw
from .output import circumstances, make_folder, replace
from .rows import Row
from .table import print_table

__all__ = ["Report"]


@dataclass
class Report:
    """The circumstances of a measurement, and where its results go.

    Args:
        model, command, device, source, size, batch_size, seed: as they shall be recorded.
        folder: for the files, made if it is not there; None for no files.
        images: how many were measured so far.
        complete: whether these are all.

    Raises:
        UserError: the folder cannot be written to.
    """

    model: str
    command: str
    device: str
    source: str
    size: int
    batch_size: int
    seed: int
    folder: str | None
    images: int = 0
    complete: bool = False

    def __post_init__(self) -> None:
        if self.folder is None:
            return
        make_folder(self.folder)

    def _write(self, name: str, content: str) -> None:
        replace(Path(self.folder or "", name), content.encode())

    def save(self, rows: list[Row]) -> None:
        """Write aliasing.csv and aliasing.json as far as the measurement has come."""
        if self.folder is None:
            return
        records = [row.record() for row in rows]
        table = io.StringIO()
        writer = csv.DictWriter(table, records[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        self._write("aliasing.csv", table.getvalue())
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "folder"}
        self._write("aliasing.json", json.dumps({**known, **circumstances(), "layers": records}, indent=2) + "\n")

    def finish(self, rows: list[Row]) -> None:
        """Print the table and write every file."""
        part = "" if self.complete else ", incomplete"
        title = f"Aliasing of {self.model}: {self.images} {self.source}, {self.size}x{self.size}, {self.device}{part}"
        print_table(title, rows)
        self.save(rows)
        if self.folder is None:
            return
        path = Path(self.folder, "aliasing.png")
        try:
            draw(path, title, rows)
        except ImportError:
            print(f"alias-ops: no {path}, which needs matplotlib; pip install 'alias-ops[cli]'", file=sys.stderr)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror})") from error
