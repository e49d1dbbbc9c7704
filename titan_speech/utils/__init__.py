"""Helpers that every package may use; they know nothing of stores, runs or models.

files.py         small files written completely or not at all
safe_path.py     paths, checksums and sizes from outside, checked before use
printable.py     text without credentials and control characters
locks.py         one job per folder
open_files.py    the limit of open files
checksum.py      whether a file still holds what was written
process_pool.py  one function over many tasks, in this process or in several
progress.py      progress of a long job on stderr, and the time left
task_progress.py the same for tasks of several processes
text_table.py    tables, sizes and numbers as text
logging.py       warnings of libraries that no user can act on, hidden
cpu.py           TorchTitan on a machine without an accelerator
"""
