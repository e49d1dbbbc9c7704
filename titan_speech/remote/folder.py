"""Objects into a folder of one's own: resumable, each file whole or under another name.

In: objects by the path they get. Out: the files, verified. A file that is there with the right content is left
alone; one that was cut short lies beside its place as `<name>.partial` and is gone on with.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from titan_speech.checksum import is_intact
from titan_speech.errors import DataError
from titan_speech.remote.client import Client
from titan_speech.remote.download import RemoteFile, fill
from titan_speech.remote.partial import PartialFile
from titan_speech.utils.safe_path import path_inside

FILES_AT_ONCE = 8


def download_files(
    client: Client, files: Mapping[str, RemoteFile], folder: Path, report: Callable[[str, int], None] = lambda *_: None
) -> None:
    """`report` hears of each file that is there, with its size; the first failure stops what has not begun.

    Raises:
        UnsafePathError: one of the paths leads out of `folder`; nothing was fetched.
    """
    places = {path: path_inside(folder, path) for path in files}

    def download(path: str) -> None:
        download_file(client, files[path], places[path])
        report(path, files[path].num_bytes)

    with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="download") as pool:
        futures = [pool.submit(download, path) for path in files]
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            future.cancel()
        for future in futures:
            if not future.cancelled():
                future.result()


def download_file(client: Client, file: RemoteFile, path: Path) -> None:
    if _is_whole(path, file):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.partial")
    file_number = os.open(unfinished, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file_number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        partial = PartialFile(file_number, file.num_bytes, file)
        fill(client, file, partial)
        partial.seal()
        os.rename(unfinished, path)
    except BlockingIOError as error:
        raise DataError(f"{unfinished} is being written by another process; wait for it, or stop it") from error
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}; make room or choose another folder") from error
    finally:
        os.close(file_number)


def _is_whole(path: Path, file: RemoteFile) -> bool:
    if not path.is_file() or path.stat().st_size != file.num_bytes:
        return False
    with open(path, "rb") as opened:
        return is_intact(opened, file)
