"""Few of the deaths of a broker that `make outages` tries."""

import os

import pytest

from tests.daemon.conftest import MOSQUITTO
from tests.delivery.outages import outages

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is missing"),
]


def test_what_a_killed_broker_loses_is_told_as_missing_and_nothing_is_doubled():
    outcome = outages(3, "batch", autosave=100, seed=os.getpid())
    assert outcome.good, outcome


def test_what_a_broker_that_writes_nothing_held_for_us_is_told_as_missing():
    outcome = outages(3, "paho", autosave=10**6, seed=os.getpid())
    assert outcome.good, outcome
    assert outcome.missing
