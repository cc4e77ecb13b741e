import pytest

from common.runtime import keys
from common.runtime.trust import Trust


@pytest.fixture
def home(tmp_path):
    keys.init(tmp_path, [])
    return tmp_path


@pytest.fixture
def reader(home, redis):
    """A reader that was there before; again and again on the same state."""

    def begin(folder="edge"):
        return Trust(redis, keys.load_root(home), home / "state" / folder)

    return begin
