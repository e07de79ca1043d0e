"""An operator's look at the streams, and changes to them, of a file or of a running daemon."""

from edge_rnn.keeper.keeper import Keeper
from edge_rnn.keeper.requests import (
    Answer,
    Done,
    Fault,
    Fetch,
    Kept,
    Put,
    Query,
    Request,
    Reset,
    Row,
    Rows,
    Streams,
)
from edge_rnn.keeper.wire import Counter, answered, ask, socket_path

__all__ = [
    "Answer",
    "Counter",
    "Done",
    "Fault",
    "Fetch",
    "Keeper",
    "Kept",
    "Put",
    "Query",
    "Request",
    "Reset",
    "Row",
    "Rows",
    "Streams",
    "answered",
    "ask",
    "socket_path",
]
