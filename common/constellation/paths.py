"""Where the parts of a constellation lie in a bundle: names alone, for services that carry parts and open none."""

from typing import Final

from common.constants import Role

COORDIZER: Final = "coordizer/"
MERGES: Final = COORDIZER + "merge_rules.json"
DOMAINS: Final = "domains.json"
HOMES: Final = "homes.npy"
INTEGRATOR: Final = "integrator.safetensors"


def kernel_path(role: Role) -> str:
    """Where a role's weights lie."""
    return f"kernels/{role}.safetensors"


def memory_path(name: str) -> str:
    """Where a memory lies."""
    return f"memories/{name}.bin"
