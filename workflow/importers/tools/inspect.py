r"""Samples that inspect_ai writes: `.eval` archives and `.json` logs.

An archive holds `header.json` and one `samples/<id>_epoch_<n>.json` for each sample. An epoch is
one sample of its problem. A score is "C" or "I" (also "P" and "N"), a number, a bool or a mapping.

    {"eval": {"task": "math", "model": "hf/x", "dataset": {...}}, "samples": [
       {"id": 1, "epoch": 1, "input": "...", "target": "7",
        "output": {"choices": [{"message": {"content": "..."}, "stop_reason": "stop"}]},
        "scores": {"match": {"value": "C", "answer": "7"}}}]}
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from rlready.registry.errors import SamplesError
from rlready.workflow.importers.drawn import Drawn, Note, Settings
from rlready.workflow.importers.source_files import MAX_LINE_BYTES, SourceFile, parsed_json
from rlready.workflow.importers.source_rows import SourceRow, shown, shown_names

_LETTERS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
_ZSTD = 93
_MAX_RATIO = 1000


def inspect_archive(file: SourceFile, score: str | None) -> Iterator[Drawn | Note | Settings]:
    """Yield the samples of an archive, one member at a time."""
    try:
        with zipfile.ZipFile(file.path) as archive:
            names = archive.namelist()
            header_name = next(
                (n for n in ("header.json", "_journal/start.json") if n in names), ""
            )
            if not header_name:
                raise SamplesError(
                    f"{file.path} is not a log of inspect_ai",
                    why=f"it has no header.json; it holds {shown_names(names)}",
                )
            header = _member(file, archive, header_name)
            yield from _about(header)
            for name in sorted(set(names)):
                if name.startswith("samples/") and name.endswith(".json"):
                    yield _sample(_member(file, archive, name), header, score)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise SamplesError(
            f"{file.path} is damaged", why=str(error), fix="Copy the file again"
        ) from error


def inspect_json(file: SourceFile, score: str | None) -> Iterator[Drawn | Note | Settings]:
    """Yield the samples of a log in one JSON file."""
    for whole in file.rows():
        if not whole.has("samples"):
            whole.refuse("samples", "is missing", fix="Give the whole log, not only its header")
        yield from _about(whole)
        for sample in whole.items("samples"):
            yield _sample(sample, whole, score)


def _about(header: SourceRow) -> Iterator[Note | Settings]:
    about = header.inner("eval")
    config = about.values.get("model_generate_config")
    yield Settings(series=_task(about), values=config if isinstance(config, dict) else {})
    status = header.values.get("status", "started")  # a log that is still written has none
    if status != "success":
        yield Note(f"{header.path.name}: the evaluation has the status {shown(status)}; the "
                   "samples in its log are read")  # fmt: skip


def _sample(row: SourceRow, header: SourceRow, score: str | None) -> Drawn:
    about = header.inner("eval")
    place = f"{row.place}, {row.prefix.rstrip('.')}" if row.prefix else row.place
    choices = list(row.inner("output").items("choices")) if row.has("output") else []
    name, value = _score(row, score)
    text = _resolved(row, choices[0].inner("message").message()) if choices else None
    target = row.values.get("target")
    golds = target if isinstance(target, list) else [target]
    return Drawn(
        series=_task(about),
        problem=row.text("id"),
        sample_index=row.whole("epoch"),
        where=f"{row.path}, {place}",
        score_field=name,
        scores=[value],
        question=_resolved(row, row.conversation("input")),
        golds=tuple(str(gold) for gold in golds if isinstance(gold, str) and gold.strip()),
        texts=[] if text is None else [text],
        is_truncated=[choices[0].values.get("stop_reason") in ("max_tokens", "model_length")]
        if choices
        else (),
    )


def _task(about: SourceRow) -> str:
    return about.text("task").rpartition("/")[2]


def _score(row: SourceRow, wanted: str | None) -> tuple[str, float | None]:
    """Return the field and value of the score; None if the sample was not scored."""
    scores = row.inner("scores") if row.has("scores") else None
    if scores is None and row.has("score"):  # one scorer, in version 1
        scores = SourceRow(row.path, row.place, {"score": row.value("score")}, row.prefix)
    if scores is None or not scores.values:
        return "scores", None
    name = wanted or next(iter(scores.values))
    if wanted is None and len(scores.values) > 1:
        row.refuse(
            "scores",
            f"holds {shown_names(scores.values)}",
            why="one scorer has to say whether a sample is correct",
            fix="Name it: --score SCORER",
        )
    entry = scores.inner(name)
    value = entry.values.get("value")
    if isinstance(value, str):
        if value not in _LETTERS:
            entry.refuse("value", f"is {shown(value)}, not C, I, P or N")
        return f"{entry.prefix}value", _LETTERS[value]
    if isinstance(value, dict):
        entry.refuse("value", f"is {shown(value)}, not one score")
    return f"{entry.prefix}value", entry.score("value")


def _resolved(row: SourceRow, text: str) -> str:
    """Return a text, which long logs keep among the attachments of their sample."""
    mark = "attachment://"
    if text.startswith(mark) and isinstance(row.values.get("attachments"), dict):
        attached = row.values["attachments"].get(text.removeprefix(mark))
        return attached if isinstance(attached, str) else text
    return text


def _member(file: SourceFile, archive: zipfile.ZipFile, name: str) -> SourceRow:
    """Return the JSON object in a member of an archive, within limits of its size."""
    info = archive.getinfo(name)
    if info.file_size > min(MAX_LINE_BYTES, max(1 << 24, _MAX_RATIO * info.compress_size)):
        raise SamplesError(
            f"{file.path}, {name} expands to {info.file_size} bytes",
            why="a sample of this size is damaged, or made to fill the memory",
        )
    content = _zstd(archive, info) if info.compress_type == _ZSTD else archive.read(info)
    try:
        value: Any = parsed_json(content.decode())
    except (UnicodeDecodeError, ValueError) as error:
        raise SamplesError(f"{file.path}, {name} is not JSON", why=str(error)) from error
    if not isinstance(value, dict):
        raise SamplesError(f"{file.path}, {name} is not a JSON object")
    return SourceRow(file.path, name, value)


def _zstd(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Return a member that is compressed with Zstandard, which Python's zipfile reads from 3.14."""
    import pyarrow as pa

    source = archive.fp
    assert source is not None
    source.seek(info.header_offset)
    header = source.read(30)
    name_size, extra_size = struct.unpack("<HH", header[26:30])
    source.seek(name_size + extra_size, 1)
    packed = pa.BufferReader(source.read(info.compress_size))
    try:
        with pa.CompressedInputStream(packed, "zstd") as stream:
            content = bytes(stream.read(info.file_size + 1))
    except (pa.ArrowException, OSError) as error:
        raise zlib.error(str(error)) from error
    if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
        raise zlib.error(f"{info.filename} does not match its checksum")
    return content
