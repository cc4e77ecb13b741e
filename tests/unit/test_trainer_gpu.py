"""What nvidia-smi says becomes numbers; what it does not say is absent."""

import pytest

from services.trainer import gpu
from services.trainer.gpu import MIB, Gpu, parsed, read


def tool(folder, monkeypatch, script):
    """An nvidia-smi of our own, alone on the path."""
    path = folder / gpu.TOOL
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_every_gpu_is_read_from_a_line_of_its_own():
    assert parsed("0, 0, 0, 81559\n1, 100, 80000, 81559\n") == [
        Gpu("0", 0.0, 0, 81559 * MIB),
        Gpu("1", 1.0, 80000 * MIB, 81559 * MIB),
    ]


@pytest.mark.parametrize("busy", ["[N/A]", "[Not Supported]"])
def test_a_gpu_that_does_not_say_how_busy_it_is_tells_its_memory(busy):
    assert parsed(f"0, {busy}, 5, 10") == [Gpu("0", None, 5 * MIB, 10 * MIB)]


@pytest.mark.parametrize("text", ["", "No devices were found\n", "0, 5, [N/A], 10\n", "a, b, c\n"])
def test_what_is_no_reading_is_none(text):
    assert parsed(text) == []


def test_a_machine_without_the_tool_has_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read() == []


@pytest.mark.parametrize("script", ["exit 9", "exec sleep 60"])
def test_a_tool_that_fails_or_hangs_tells_of_no_gpu(tmp_path, monkeypatch, script):
    tool(tmp_path, monkeypatch, f"PATH=/bin:/usr/bin; {script}")
    monkeypatch.setattr(gpu, "TIMEOUT_S", 0.2)
    assert read() == []


def test_the_tool_is_asked_for_what_is_read(tmp_path, monkeypatch):
    tool(tmp_path, monkeypatch, f'[ "$1" = "{gpu.ASKED}" ] && echo "0, 12, 34, 56"')
    assert read() == [Gpu("0", 0.12, 34 * MIB, 56 * MIB)]
