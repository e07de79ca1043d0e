"""`python -m edge_rnn` is `edge-rnn`."""

from edge_rnn.cli import main

main()
