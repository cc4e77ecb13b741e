from collections.abc import Iterator
from pathlib import Path

import pytest

from services.edge.record import Record


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    """An edge's, new."""
    opened = Record(tmp_path / "edge.db", now_s=1000.0)
    yield opened
    opened.close()
