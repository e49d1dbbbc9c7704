"""Text from what teams have to what a model reads.

documents of a source --> strip.py      HTML, code, tables, URLs taken out          jsonl.py, parquet.py, plain.py read
                          normalize.py  one spelling for what reads the same         presets.py names their columns
                          identify.py   language and script against the tag
                          quality.py    length, repetition, letters, signals         rules.py sets the limits
                          duplicates.py exact and near, over all inputs
                          instructions.py  their share of all tokens
                            |
                            v
                          prepare.py    cleaned shards, report.json, report.md       prepared.py reads them for a build
"""
