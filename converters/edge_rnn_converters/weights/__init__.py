"""Files that hold weights and no network: their arrays, a description of the network, nodes."""
