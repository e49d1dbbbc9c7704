"""Helpers that every package may use; they know nothing of stores, runs or models.

files.py          small files written completely or not at all
safe_path.py      paths, checksums and sizes from outside, checked before use
json_text.py      JSON of others, bounded and never a traceback; record_types.py checks its types
printable.py      text without credentials and control characters
locks.py          one job per folder
machine_limits.py memory that may still be taken, and open files
checksum.py       whether a file still holds what was written
bus_errors.py     a file that is cut while it is mapped, named before the process ends
process_pool.py   one function over many tasks, in this process or in several
progress.py       progress of a long job on stderr, and the time left
task_progress.py  the same for tasks of several processes
text_table.py     tables, sizes and numbers as text
logging.py        warnings of libraries that no user can act on, hidden
cpu.py            TorchTitan on a machine without an accelerator
"""
