"""Runs a program under a seccomp filter that refuses io_uring, as Docker's default profile does:
refuse_io_uring.py PROGRAM [ARGUMENT..]. The filter stays with the program and its children."""

import ctypes
import errno
import os
import struct
import sys

LOAD_WORD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
IO_URING_SETUP = 425  # on every architecture
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, MODE_FILTER = 38, 22, 2
ALLOW, ERRNO = 0x7FFF0000, 0x00050000


def step(code, jump_true, jump_false, value):
    return struct.pack("HBBI", code, jump_true, jump_false, value)


# seccomp_data begins with the system call's number.
PROGRAM = b"".join([
    step(LOAD_WORD, 0, 0, 0),
    step(JUMP_EQUAL, 0, 1, IO_URING_SETUP),
    step(RETURN, 0, 0, ERRNO | errno.EPERM),
    step(RETURN, 0, 0, ALLOW),
])


class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_char_p)]


libc = ctypes.CDLL(None, use_errno=True)
libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
chosen = Filter(len(PROGRAM) // 8, PROGRAM)
for arguments in [(PR_SET_NO_NEW_PRIVS, 1, 0), (PR_SET_SECCOMP, MODE_FILTER, ctypes.addressof(chosen))]:
    if libc.prctl(*arguments, 0, 0) != 0:
        sys.exit(f"prctl{arguments}: {os.strerror(ctypes.get_errno())}")
os.execvp(sys.argv[1], sys.argv[1:])
