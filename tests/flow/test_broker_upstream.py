"""What is worked around in FastStream is there still: one that is not, may go, with its file in docs/upstream."""

import asyncio
import importlib.util
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.anyio
UPSTREAM = Path(__file__).resolve().parents[2] / "docs" / "upstream"
FOUND = {
    "first_position": r"\['published after it'\]",
    "parse_error": r"handled \[\], pending 1",
    "batch_codec": "0",
    "acknowledgement": "tried 1 time, pending 1",
    "supervisor": r"\d{2,} tries in half a second",
    "lost_group": r"handled \[\], ping True",
}
SLOW = {"groupless", "error_pause"}


def reproduction(name):
    spec = importlib.util.spec_from_file_location(name, UPSTREAM / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.reproduce


async def test_each_reproduction_finds_what_it_is_there_for(redis, broker_url, monkeypatch):
    monkeypatch.delenv("FASTSTREAM_SUPERVISOR_DISABLED", raising=False)  # as whoever runs it by hand has it
    told = await asyncio.gather(*(reproduction(name)(broker_url) for name in FOUND))
    for (name, found), (expected, line) in zip(FOUND.items(), told, strict=True):
        assert re.fullmatch(f"found: {found}", line), name
        assert expected.startswith("expected: ")


def test_every_reproduction_is_in_the_list():
    assert {path.stem for path in UPSTREAM.glob("*.py")} == FOUND.keys() | SLOW
    text = (UPSTREAM / "README.md").read_text()
    assert all(f"[{name}.py]({name}.py)" in text for name in FOUND.keys() | SLOW)
