"""Runs a program under a container's seccomp profile, as a container runtime would: under_seccomp.py PROFILE PROGRAM
[ARGUMENT..]. The filter stays with the program and its children. Knows what our profiles use: names, and comparisons of one
argument's low half. Ends with 77 where the machine's system call numbers cannot be looked up."""

import ctypes
import errno
import json
import os
import re
import struct
import sys

LOAD_WORD, AND, JUMP_EQUAL, RETURN = 0x20, 0x54, 0x15, 0x06
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, MODE_FILTER = 38, 22, 2
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
EVERYWHERE = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427}
HEADERS = ["/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"]


def numbers(names):
    if names <= EVERYWHERE.keys():
        return EVERYWHERE
    if os.uname().machine != "x86_64":
        sys.exit(77)
    for header in filter(os.path.exists, HEADERS):
        text = open(header).read()
        return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", text)}
    sys.exit(77)


def step(code, jump_true, jump_false, value):
    return struct.pack("HBBI", code, jump_true, jump_false, value)


def verdict(action, number):
    if action == "SCMP_ACT_ALLOW":
        return ALLOW
    if action == "SCMP_ACT_ERRNO":
        return ERRNO | number
    sys.exit(f"unknown action {action}")


def program(profile):
    refused = profile.get("defaultErrnoRet", errno.EPERM)
    known = numbers({name for rule in profile["syscalls"] for name in rule["names"]})
    steps = []
    for rule in profile["syscalls"]:
        # Names of other architectures or newer kernels have no number here.
        for number in [known[name] for name in rule["names"] if name in known]:
            body = [step(RETURN, 0, 0, verdict(rule["action"], rule.get("errnoRet", refused)))]
            for argument in rule.get("args", []):
                # The low half of a 64-bit argument, little-endian.
                load = step(LOAD_WORD, 0, 0, 16 + 8 * argument["index"])
                if argument["op"] == "SCMP_CMP_EQ":
                    test = [load, step(JUMP_EQUAL, 0, len(body), argument["value"])]
                elif argument["op"] == "SCMP_CMP_MASKED_EQ":
                    wanted = argument.get("valueTwo", 0)
                    test = [load, step(AND, 0, 0, argument["value"]), step(JUMP_EQUAL, 0, len(body), wanted)]
                else:
                    sys.exit(f"unknown comparison {argument['op']}")
                body = test + body
            steps += [step(LOAD_WORD, 0, 0, 0), step(JUMP_EQUAL, 0, len(body), number)] + body
    return b"".join(steps + [step(RETURN, 0, 0, verdict(profile["defaultAction"], refused))])


class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_char_p)]


filter_steps = program(json.load(open(sys.argv[1])))
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
chosen = Filter(len(filter_steps) // 8, filter_steps)
for arguments in [(PR_SET_NO_NEW_PRIVS, 1, 0), (PR_SET_SECCOMP, MODE_FILTER, ctypes.addressof(chosen))]:
    if libc.prctl(*arguments, 0, 0) != 0:
        sys.exit(f"prctl{arguments}: {os.strerror(ctypes.get_errno())}")
os.execvp(sys.argv[2], sys.argv[2:])
