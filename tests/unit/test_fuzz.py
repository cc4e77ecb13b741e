"""Some of what benchmarks/fuzz.py does for as many minutes as it is given, the same each time."""

import runpy
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"
INPUTS = 120


@pytest.mark.parametrize("case", ["messages", "parts", "coordizer", "trust", "blobs"])
def test_whatever_bytes_a_reader_is_given_it_reads_them_or_refuses_them_by_name(case, monkeypatch):
    monkeypatch.syspath_prepend(FILE.parent)
    outcomes, share = runpy.run_path(str(FILE))["fuzz"](case, 7, lambda inputs: inputs < INPUTS)
    assert outcomes.total() == INPUTS
    assert 0 < share <= 1
