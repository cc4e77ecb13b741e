"""How much memory a process may use: the machine's, or less where a container or a service manager says so.

    /proc/self/cgroup      0::/a/b  or  9:memory:/a/b
    /sys/fs/cgroup         a/b/memory.max, a/memory.max, memory.max             cgroup v2: the least of them counts
    /sys/fs/cgroup/memory  a/b/memory.limit_in_bytes, ...                       v1

Inside a container the path may be one that only its host has; then what lies at the root is the container's own.
"""

import os
from collections.abc import Iterator
from pathlib import Path


def allowed_bytes(root: Path = Path("/")) -> int:
    """The least that applies to this process. root: where /proc and /sys lie."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_limits(root)])


def _limits(root: Path) -> Iterator[int]:
    for file in _files(root):
        try:
            yield int(file.read_text(encoding="ascii"))
        except (OSError, ValueError):  # not there, or "max"
            continue


def _files(root: Path) -> Iterator[Path]:
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # another system than Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        own = top / path.lstrip("/")
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        yield from (folder / name for folder in (own, *own.parents) if folder.is_relative_to(top))
