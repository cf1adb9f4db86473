"""Parquet files that contain a digest of themselves, and have the columns that they should have."""

import hashlib
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hamjepa_audit.errors import UserError, first_line, unreadable
from hamjepa_audit.files import write_bytes

MARK = b"hamjepa-audit-sha256"
_SEAL = re.compile(MARK + rb"([0-9a-f]{64})" + MARK)


def write_parquet(target: Path, table: pa.Table) -> None:
    """Writes `table` atomically, sealed; the same table gives the same bytes.

    The seal is the SHA-256 of all other bytes of the file. It lies between data and footer, where
    Parquet readers do not look: it is not part of the table, and rewriting the table drops it.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content = sink.getvalue().to_pybytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    # Marked on both sides: with one mark damaged, it is still recognised as a seal.
    seal = MARK + hashlib.sha256(content).hexdigest().encode() + MARK
    write_bytes(target, content[:footer] + seal + content[footer:])


def read_parquet(
    source: Path, schema: pa.Schema | None = None, *, sealed: bool = False
) -> pa.Table:
    """Reads a Parquet file.

    Args:
        source: the file.
        schema: if given, the file must have exactly these columns, in any order, with compatible
            types.
        sealed: whether the file must carry the seal of `write_parquet`.

    Raises:
        UserError: the file is missing, truncated, not Parquet, changed since `write_parquet`
            wrote it, or has another schema.
    """
    try:
        content = source.read_bytes()
        _check_seal(source, content, sealed)
        # Without threads: a thread of pq.read_table may still hold `content` when the process ends,
        # and is then killed as it frees it, which aborts the process.
        table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
    except FileNotFoundError as error:
        raise UserError(
            f"missing file {source}; correct its name, or run the step that makes it"
        ) from error
    except (pa.ArrowInvalid, OSError) as error:
        remedy = "fetch it again, or delete it and make it again"
        raise unreadable(source, "a readable Parquet file", error, remedy) from error
    return table if schema is None else _with_schema(source, table, schema)


def _with_schema(source: Path, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table cast to a schema; other libraries write slightly different types."""
    names = table.schema.names
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"{source} has the columns {repeated} more than once; keep one of each")
    lacking = [name for name in schema.names if name not in names]
    if lacking:
        raise UserError(
            f"{source} lacks the columns {lacking}; make it again, or rename its columns"
        )
    extra = [name for name in names if name not in schema.names]
    if extra:
        raise UserError(
            f"{source} has the columns {extra} besides {schema.names}; leave them out (pandas: "
            f"to_parquet(..., index=False))"
        )
    table = table.select(schema.names)
    for field, found in zip(schema, table.schema.types, strict=True):
        # These hold the same values, except for integers that are too large.
        alike = (pa.types.is_large_string(found) and pa.types.is_string(field.type)) or (
            pa.types.is_integer(found) and pa.types.is_integer(field.type)
        )
        if found != field.type and not alike:
            raise UserError(
                f"{source} has {found} in the column '{field.name}', expected {field.type}; "
                f"make it again"
            )
    try:
        return table.cast(schema.with_metadata(table.schema.metadata))
    except pa.ArrowInvalid as error:
        raise UserError(f"{source}: {first_line(error)}; make it again") from error


def _check_seal(source: Path, content: bytes, required: bool) -> None:
    seal = _SEAL.search(content)
    if seal is None and not required and MARK not in content:
        return
    rest = content if seal is None else content[: seal.start()] + content[seal.end() :]
    if seal is None or hashlib.sha256(rest).hexdigest().encode() != seal[1]:
        raise UserError(
            f"{source} was changed or damaged since it was written: its bytes do not match the "
            f"digest in it; fetch it again, or delete it and make it again"
        )
