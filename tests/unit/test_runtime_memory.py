import os

import pytest

from common.runtime.memory import allowed_bytes

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
MIB = 1 << 20
V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/memory"
NONE_OF_V1 = (1 << 63) - 4096


def system(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("files", "allowed"),
    [
        ({}, MACHINE),
        ({"proc/self/cgroup": "0::/"}, MACHINE),
        ({"proc/self/cgroup": "0::/", f"{V2}/memory.max": "max"}, MACHINE),
        ({"proc/self/cgroup": "0::/", f"{V2}/memory.max": 512 * MIB}, 512 * MIB),
        ({"proc/self/cgroup": "0::/", f"{V2}/memory.max": 2 * MACHINE}, MACHINE),
        ({"proc/self/cgroup": "0::/", f"{V2}/memory.max": "a gigabyte"}, MACHINE),
        ({"proc/self/cgroup": "0::/a/b", f"{V2}/a/b/memory.max": 9 * MIB, f"{V2}/a/memory.max": "max"}, 9 * MIB),
        ({"proc/self/cgroup": "0::/a/b", f"{V2}/a/b/memory.max": "max", f"{V2}/a/memory.max": 8 * MIB}, 8 * MIB),
        ({"proc/self/cgroup": "0::/of/the/host", f"{V2}/memory.max": 7 * MIB}, 7 * MIB),
        ({"proc/self/cgroup": "0::/../../x", f"{V2}/memory.max": 6 * MIB}, 6 * MIB),
        ({"proc/self/cgroup": "4:cpu:/\n9:memory:/d", f"{V1}/d/memory.limit_in_bytes": 5 * MIB}, 5 * MIB),
        ({"proc/self/cgroup": "9:cpu,memory:/d", f"{V1}/memory.limit_in_bytes": 4 * MIB}, 4 * MIB),
        ({"proc/self/cgroup": "9:memory:/", f"{V1}/memory.limit_in_bytes": NONE_OF_V1}, MACHINE),
        ({"proc/self/cgroup": "4:cpu:/d", f"{V1}/memory.limit_in_bytes": 3 * MIB}, MACHINE),
    ],
    ids=[
        "no Linux", "no limit file", "no limit", "a container", "more than there is", "no number", "its own",
        "its parent's", "a path of the host", "a path above", "v1", "v1 of a container", "v1 without", "another's",
    ],
)  # fmt: skip
def test_the_least_limit_counts(tmp_path, files, allowed):
    assert allowed_bytes(system(tmp_path, files)) == allowed
