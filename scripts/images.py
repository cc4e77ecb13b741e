"""Build the images with docker or podman, whichever is there, and say how large they are.

    python scripts/images.py [TARGET ...] [FLAG ...]      slim and torch-cpu, unless named; flags go to the builder

PYTHON_IMAGE, PIP_INDEX_URL and TORCH_INDEX_URL in the environment are the build arguments of these names.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
TARGETS = ("slim", "torch-cpu", "runpod", "cuda")
ARGUMENTS = ("PYTHON_IMAGE", "PIP_INDEX_URL", "TORCH_INDEX_URL")
NO_ENGINE = 3


def engine() -> str | None:
    """The program that builds: docker where its daemon answers, else podman, else None."""
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0:
        return "docker"
    return "podman" if shutil.which("podman") else None


def tag(target: str) -> str:
    """Name of an image, as compose.yaml has it."""
    return f"qig-constellation:{target}"


def build(program: str, target: str, flags: Sequence[str] = ()) -> None:
    """Raises CalledProcessError; what the builder says goes to standard error."""
    given = [f"--build-arg={name}={os.environ[name]}" for name in ARGUMENTS if os.environ.get(name)]
    own = ["--format=docker", "--layers"] if program == "podman" else []  # OCI's format has no HEALTHCHECK
    command = [program, "build", *own, *given, *flags, f"--target={target}", f"--tag={tag(target)}", "."]
    subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=True)


def size_bytes(program: str, image: str) -> int:
    """Of all layers, unpacked."""
    asked = [program, "image", "inspect", "--format={{.Size}}", image]
    return int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)


def main() -> int:
    """Returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    given, flags = parser.parse_known_args()
    targets = given.targets or TARGETS[:2]
    if unknown := set(targets) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}: {', '.join(TARGETS)}")
    program = engine()
    if program is None:
        print("no images: neither docker with its daemon nor podman is here; install one of them", file=sys.stderr)
        return NO_ENGINE
    for target in targets:
        began = time.monotonic()
        build(program, target, flags)
        size = size_bytes(program, tag(target)) / 1e6
        print(f"{tag(target):30} {size:7.0f} MB unpacked, built by {program} in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
