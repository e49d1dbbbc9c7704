"""Clean, filter and deduplicate documents before they become a token store.

documents of sources (importers/) --> rules.py         limits per document, from a TOML file
                                      clean.py         one document: markup removed, normalized, rules, length in tokens
                                      workers.py       one unit of an input: documents, signatures, counts on disk
                                      duplicates.py    exact and near duplicates of one language
                                      decisions.py     duplicates and the share of instructions, over all inputs
                                      report.py        counts and examples; report.json, report.md
                                        |
                 job.py (what to do) --> pipeline.py   the steps in order, in OUTPUT.work until complete
                                        |
                                        v
                                      importers/text_prepared.py reads the output for `store build`
"""
