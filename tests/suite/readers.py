"""Reads a table the way its users would, and prints what it found as one JSON object.

    readers.py pyarrow|duckdb|polars <table root>

Decimals are printed by their value, timestamps as microseconds since 1970 (UTC), dates as YYYY-MM-DD, bytes as
hexadecimal digits, everything else as it is: what is printed does not depend on the reader unless its values do.
"""

import datetime
import decimal
import glob
import json
import sys


def plain(value):
    if isinstance(value, decimal.Decimal):
        text = format(value, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            raise SystemExit("a timestamp without zone")
        since = value.astimezone(datetime.timezone.utc) - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
        return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def read_pyarrow(root):
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    # Each file by itself too: the schema in its footer, without what the directory adds.
    files = ds.dataset(root, format="parquet").files
    schema = pa.unify_schemas([pq.read_schema(file) for file in files])
    schema = schema.append(pa.field("date", pa.date32()))
    table = ds.dataset(root, schema=schema, format="parquet", partitioning="hive").to_table()
    types = {field.name: str(field.type) for field in table.schema}
    return types, table.to_pylist()


def read_duckdb(root):
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    source = f"read_parquet('{root}/date=*/part-*.parquet', hive_partitioning = true, union_by_name = true)"
    types = dict(connection.execute(f"SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM {source})").fetchall())
    rows = connection.execute(f"SELECT * FROM {source}")
    names = [column[0] for column in rows.description]
    return types, [dict(zip(names, row)) for row in rows.fetchall()]


def read_polars(root):
    import polars as pl

    # Polars takes the columns from the first file unless told of all of them.
    schema = {}
    for file in sorted(glob.glob(f"{root}/date=*/part-*.parquet")):
        schema.update(pl.read_parquet_schema(file))
    frame = pl.scan_parquet(
        f"{root}/date=*/part-*.parquet",
        schema=schema,
        missing_columns="insert",
        hive_partitioning=True,
        try_parse_hive_dates=True,
    ).collect()
    types = {name: str(kind) for name, kind in frame.schema.items()}
    return types, frame.to_dicts()


def main():
    reader, root = sys.argv[1:]
    types, rows = {"pyarrow": read_pyarrow, "duckdb": read_duckdb, "polars": read_polars}[reader](root)
    json.dump({"types": types, "rows": [plain(row) for row in rows]}, sys.stdout)


main()
