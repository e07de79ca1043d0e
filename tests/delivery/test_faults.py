"""Some of the troubles that `make faults` makes."""

import os

import pytest

from tests.daemon.conftest import MOSQUITTO
from tests.delivery.faults import faults

pytestmark = pytest.mark.process
SHORT = ["connection reset", "disordered and doubled", "out of memory", "full disk", "disk errors"]


@pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is missing")
def test_a_fault_is_named_and_nothing_is_lost_doubled_or_wrong():
    for outcome in faults(SHORT, transports=["batch"], seed=os.getpid()):
        assert outcome.good, outcome
