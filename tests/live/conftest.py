import pytest


@pytest.fixture(scope="module")
def anyio_backend():
    """A fleet lives as long as the tests of its file, and in their loop."""
    return "asyncio"
