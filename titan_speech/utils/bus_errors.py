"""A file that is cut while it is mapped is named, before the process ends.

In: SIGBUS, which the kernel sends to a process that reads a page of a mapping that its file no longer has.
Out: one line on stderr with the file and what to do, the Python stacks of all threads, and an exit code.

Python's own handlers run after the instruction that failed, which fails again and never ends, so this one is called by
the kernel itself (ctypes): it looks the address up in /proc/self/maps and leaves by `os._exit`. It costs nothing until
then. What it may do is more than POSIX promises of a handler; the process has nothing left to lose. Linux only.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys

_SA_SIGINFO = 4
_ADDRESS_OFFSET = 16
"""Offset of si_addr in siginfo_t, where pointers have 8 bytes."""

_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_DELETED = " (deleted)"


class _SignalAction(ctypes.Structure):
    """struct sigaction of glibc and musl."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_byte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_installed: list[object] = []
"""What the kernel calls must not be collected."""


def name_cut_files(exit_code: int) -> None:
    """From now on SIGBUS ends this process with a message and `exit_code`; call it again in forked workers."""
    if not sys.platform.startswith("linux") or ctypes.sizeof(ctypes.c_void_p) != 8:
        return
    faulthandler.enable(2)  # for the other fatal signals; its own handler of SIGBUS is replaced

    def handle(_number: int, info: int, _context: int) -> None:
        address = ctypes.c_uint64.from_address(info + _ADDRESS_OFFSET).value
        try:
            os.write(2, f"{describe(address)}\n".encode())
            faulthandler.dump_traceback(2)
        finally:
            os._exit(exit_code)

    callback = _HANDLER(handle)
    action = _SignalAction(handler=ctypes.cast(callback, ctypes.c_void_p).value, flags=_SA_SIGINFO)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.sigaction(signal.SIGBUS, ctypes.byref(action), None) == 0:
        _installed[:] = [callback]


def describe(address: int) -> str:
    """What happened, from the address that could not be read."""
    who = f"titan_speech: rank {os.environ.get('RANK', '0')}, process {os.getpid()}"
    path, num_bytes = mapping_at(address)
    if not path.startswith("/"):
        return f"{who}: a page of memory could not be read (SIGBUS at {address:#x}), and no file is mapped there"
    if path.startswith("/dev/shm/"):  # noqa: S108  (compared with, not written)
        return (
            f"{who}: shared memory is full ({path}, SIGBUS): give /dev/shm more space (docker: --shm-size), or set "
            "data.num_workers = 0"
        )
    try:
        found = f"it has {os.stat(path.removesuffix(_DELETED)).st_size:,} bytes now"
    except OSError as error:
        found = f"it cannot be found now ({error.strerror})"
    return (
        f"{who}: {ascii(path)[1:-1]} was cut while it was mapped (SIGBUS): about {num_bytes:,} bytes were mapped, "
        f"{found}. A file of a store is never changed: copy it again from where the store came from, then start the "
        "same command again. A disk that fails has the same effect: see the kernel's log"
    )


def mapping_at(address: int) -> tuple[str, int]:
    """Path of the file that is mapped at an address, empty if none is, and the mapping's end in it, in whole pages."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            span, _, offset, _, _, *path = line.rstrip("\n").split(maxsplit=5)
            first, end = (int(part, 16) for part in span.split("-"))
            if first <= address < end:
                return (path[0] if path else ""), int(offset, 16) + end - first
    return "", 0
