"""A disk full of random bytes that costs 16 MiB whatever its size.

A filesystem must not rely on zeroed media, so its disks start full of noise. Really written, a
disk of 2 GiB took 18 s and 2 GiB of the host at every start of a machine. Here the guest's
clusters point, in no order, into a small pool of random ones: a qcow2 image may map a cluster
many times. The image is only read; a guest writes to an overlay on it.
"""

from __future__ import annotations

import os
import random
import struct
import sys
from array import array
from collections import Counter
from pathlib import Path

# docs/interop/qcow2.txt of QEMU, version 3.
_CLUSTER = 2**16
_POOL_CLUSTERS = 256
_L2_ENTRIES = _CLUSTER // 8
_REFCOUNTS_A_BLOCK = _CLUSTER // 2
_COPIED = 1 << 63  # the only reference: it may be written in place
_HEADER = ">4sIQIIQIIQQIIQQQQII"
_HEADER_LENGTH = 104


def write_noise_disk(path: Path, size: int) -> None:
    """Write a qcow2 image of `size` bytes (a multiple of 512) with random content.

    It is to be read only: `qemu-img check` would object to what QEMU makes of shared clusters.
    """
    clusters = -(-size // _CLUSTER)
    tables = -(-clusters // _L2_ENTRIES)
    # Header, refcount table, one refcount block and the L1 table have a cluster each.
    pool = 4 + tables
    total = pool + _POOL_CLUSTERS
    assert total <= _REFCOUNTS_A_BLOCK, f"{size} bytes need more than one refcount block"

    content = random.Random(os.urandom(16)).choices(range(pool, total), k=clusters)
    references = Counter(content)
    refcounts = array("H", [1] * pool) + array("H", [references[n] for n in range(pool, total)])
    header = struct.pack(
        _HEADER,
        *(b"QFI\xfb", 3),
        *(0, 0, 16),  # no backing file; clusters of 2**16 bytes
        *(size, 0),  # not encrypted
        *(tables, 3 * _CLUSTER),  # L1 table
        *(1 * _CLUSTER, 1),  # refcount table
        *(0, 0),  # snapshots
        *(0, 0, 0),  # features
        *(4, _HEADER_LENGTH),  # refcounts of 2**4 bits
    )
    l1 = array("Q", [(4 + n) * _CLUSTER | _COPIED for n in range(tables)])
    l2 = array("Q", [n * _CLUSTER | (_COPIED if references[n] == 1 else 0) for n in content])
    with path.open("wb") as stream:
        stream.write(header)
        for cluster, table in enumerate((array("Q", [2 * _CLUSTER]), refcounts, l1, l2), start=1):
            stream.seek(cluster * _CLUSTER)
            stream.write(_big_endian(table))
        stream.seek(pool * _CLUSTER)
        stream.write(os.urandom(_POOL_CLUSTERS * _CLUSTER))


def _big_endian(table: array[int]) -> bytes:
    if sys.byteorder == "little":
        table.byteswap()
    return table.tobytes()
