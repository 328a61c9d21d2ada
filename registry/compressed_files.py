"""Limits on the size of a compressed file's content, checked before anything is loaded.

A gzip file of 1 MB can hold 1 GB, and a Parquet file more. JSON lines shrink by a factor of 3 to
10, or of 40 if all rows have the same system prompt. A far larger factor means that the file is
damaged, or was made to fill the memory. Uncompressed files have no such limit: a file that you
trust can be unpacked first.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.registry.errors import RlreadyError

if TYPE_CHECKING:
    import pyarrow as pa

MAX_RATIO = 100
"""Largest ratio of the content's size to the file's size."""
FREE_BYTES = 16 << 20
"""Content of this size is accepted whatever the ratio."""
MAX_EXPANDED_BYTES = 4 << 30
"""Most bytes of a compressed file's content, whatever the ratio."""

_CHUNK_BYTES = 1 << 18
_BATCH_ROWS = 1024
_OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
DAMAGE = (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
"""What the readers raise for a file that is damaged or cut short; bz2 raises an OSError."""


def check_expansion(path: Path, kind: type[RlreadyError]) -> None:
    """Raise an error if a compressed file expands by an implausible factor.

    The file is read once, up to the first limit that it exceeds, and its content is dropped. The
    reader that opens the file afterwards reports damage.

    Args:
        path: with suffix .gz, .bz2, .xz, .zip or .parquet; other files are not checked.
        kind: class of the error.
    """
    suffix = path.suffix.lower()
    if suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            _check_size(path, kind, sum(entry.file_size for entry in archive.infolist()))
    elif suffix == ".parquet":
        _check_parquet(path, kind)
    elif suffix in _OPENERS:
        n_bytes = 0
        try:
            with _OPENERS[suffix](path) as file:
                while chunk := file.read(_CHUNK_BYTES):
                    n_bytes += len(chunk)
                    _check_size(path, kind, n_bytes)
        except (*DAMAGE, OSError):
            return


def _check_size(path: Path, kind: type[RlreadyError], n_bytes: int) -> None:
    """Raise an error of this kind if so many bytes of content are too many for the file."""
    n_packed = path.stat().st_size
    limit = min(MAX_EXPANDED_BYTES, max(FREE_BYTES, MAX_RATIO * n_packed))
    if n_bytes <= limit:
        return
    if limit == MAX_EXPANDED_BYTES:
        why = f"at most {MAX_EXPANDED_BYTES >> 30} GiB of a compressed file are read"
    else:
        why = f"a factor above {MAX_RATIO} means that it is damaged, or made to fill the memory"
    raise kind(
        f"{path} has {_shown(n_packed)} and expands to more than {_shown(limit)}",
        why=why,
        fix="If you trust it, unpack it first and name the unpacked file: that has no such limit"
        if path.suffix.lower() != ".parquet"
        else "If you trust it, convert it to .jsonl and name that file: that has no such limit",
    )


def _check_parquet(path: Path, kind: type[RlreadyError]) -> None:
    import pyarrow
    import pyarrow.parquet

    n_bytes = 0
    try:
        metadata = pyarrow.parquet.read_metadata(path)
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
        # Repeated values need almost no space in the file, but four bytes each as indices.
        sizes = (max(chunk.total_uncompressed_size, 4 * chunk.num_values) for chunk in chunks)
        _check_size(path, kind, sum(sizes))
        # Columns of texts, also inside lists and structures.
        leaves = (metadata.schema.column(i) for i in range(metadata.num_columns))
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        # Read as dictionaries, a text that all rows share is loaded once, but counted for each.
        with pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=texts):
                n_bytes += sum(_expanded_bytes(column) for column in batch.columns)
                _check_size(path, kind, n_bytes)
    except (pyarrow.ArrowException, OSError):
        return


def _expanded_bytes(values: pa.Array) -> int:
    """Return the bytes of the values as Python objects, mainly those of texts."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(values.dictionary).take(values.indices)
        return int(pc.sum(lengths).as_py() or 0)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _expanded_bytes(values.flatten())
    if pa.types.is_struct(kind):
        return sum(_expanded_bytes(values.field(i)) for i in range(kind.num_fields))
    return int(values.nbytes)


def _shown(n_bytes: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if n_bytes >= size:
            return f"{n_bytes / size:.{0 if n_bytes > 10 * size else 1}f} {unit}"
    return f"{n_bytes} bytes"
