"""Recordings and tables through the pure pipeline, without a broker or a clock."""

from edge_rnn.replay.player import TICK, Player, Summary
from edge_rnn.replay.recording import Event, Header, Reader, Writer
from edge_rnn.replay.tables import Table, is_table
from edge_rnn.replay.verify import Verdict, Verifier

__all__ = [
    "TICK",
    "Event",
    "Header",
    "Player",
    "Reader",
    "Summary",
    "Table",
    "Verdict",
    "Verifier",
    "Writer",
    "is_table",
]
