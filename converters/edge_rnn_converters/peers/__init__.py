"""Other runtimes that can run a model beside ours, to be measured: one module each.

Each offers `variants(model, batch)`, as `edge_rnn.cli.peers` says. A peer runs in its best export
on one thread, its streams' states fed in and fetched the way its own users must.
"""
