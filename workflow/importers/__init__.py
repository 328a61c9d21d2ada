"""Read what trainers and other evaluation tools wrote, and the registry's own exports.

| module | what it does |
| --- | --- |
| `source_files` | files below a path, their first rows, and rows with their places |
| `source_rows` | one row: its place, and values of the right type |
| `drawn` | what the readers yield: samples of a problem, and numbers at a step |
| `tools/` | one small reader per tool; `tools/known.py` lists the forms of their files |
| `tally` | samples by benchmark, step and problem; verdicts of the tool and of rlready |
| `curves` | numbers that a trainer logged, by benchmark |
| `reading` | from a path to tallies and curves |
| `storing` | from tallies and curves to proxies and outcomes in the registry |
| `registry_files` | the whole registry as Parquet and JSON, and back |
"""
