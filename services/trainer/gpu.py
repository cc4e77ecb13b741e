"""What the GPUs of this machine do, by NVIDIA's own tool, which is there wherever a container is given one.

To ask torch would make a context of half a gigabyte on a GPU that this process may not even use.
"""

import shutil
import subprocess
from dataclasses import dataclass
from typing import Final

TOOL: Final = "nvidia-smi"
ASKED: Final = "--query-gpu=index,utilization.gpu,memory.used,memory.total"
TIMEOUT_S: Final = 5.0
MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Gpu:
    """index: as CUDA counts; busy: share of the last second in which it computed, 0..1, None where it does not say."""

    index: str
    busy: float | None
    used_bytes: int
    total_bytes: int


def read() -> list[Gpu]:
    """Every GPU now; none without one, or where the tool cannot reach it."""
    tool = shutil.which(TOOL)
    if tool is None:
        return []
    try:
        asked = [tool, ASKED, "--format=csv,noheader,nounits"]
        told = subprocess.run(asked, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)  # noqa: S603 -- ours
    except (OSError, subprocess.SubprocessError):
        return []
    return parsed(told.stdout)


def parsed(text: str) -> list[Gpu]:
    """What the tool said, a line a GPU; a line without the numbers is none.

    >>> parsed("0, 37, 1024, 81559")
    [Gpu(index='0', busy=0.37, used_bytes=1073741824, total_bytes=85520809984)]
    """
    rows = [[field.strip() for field in line.split(",")] for line in text.splitlines()]
    return [
        Gpu(index, int(busy) / 100 if busy.isdigit() else None, int(used) * MIB, int(total) * MIB)
        for index, busy, used, total in (row for row in rows if len(row) == ASKED.count(",") + 1)
        if used.isdigit() and total.isdigit()
    ]
