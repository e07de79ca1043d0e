"""Few of the million that `make fuzz` tries."""

import pytest

from tests.delivery.fuzz import fuzz, good
from tests.effort import fewer


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a codec's panics
def test_what_nobody_should_send_is_counted_and_changes_nothing():
    tallies = fuzz(fewer(20_000), seed=1)
    assert good(tallies), tallies
    seen = {outcome for t in tallies.values() for outcome, n in t.outcomes.items() if n}
    reasons = ("not_json", "bad_topic", "too_large", "missing_field", "wrong_type", "not_finite")
    assert {f"rejected: {r}" for r in reasons} <= seen
    assert {"duplicate", "waiting for its turn", "packet: malformed, acknowledged"} <= seen
