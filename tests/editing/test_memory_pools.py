"""Memory that many threads have used: of how few pools it is, so that it can be given back."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

THREADS = """
import ctypes, sys, threading

if sys.argv[1] == "few":
    from editing.memory import keep_few_pools, trim

    assert keep_few_pools()
libc, held, ready = ctypes.CDLL(None), [], threading.Barrier(12)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p

def work():
    ready.wait()
    for _ in range(50):
        held.append(libc.malloc(50_000))
    ready.wait()

threads = [threading.Thread(target=work) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
out = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, out)
libc.fclose(out)
if sys.argv[1] == "few":
    trim()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the pools are those of glibc")
def test_all_threads_share_two_pools_of_memory(tmp_path):
    pools = {}
    for how in ("own", "few"):
        out = tmp_path / how
        subprocess.run([sys.executable, "-c", THREADS, how, str(out)], check=True, cwd=Path(__file__).parents[2])
        pools[how] = out.read_text().count("<heap nr=")
    assert pools["few"] <= 2 < pools["own"], pools
