"""An index that is killed while it is made, extended or cut down loses nothing."""

import pytest

from tests.trainer.archive.kill_campaign import main


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kills_lose_nothing() -> None:
    assert main(kills=2) == 0
