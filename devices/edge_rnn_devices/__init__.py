"""What stands around the runtime: recordings, simulated devices, the demo."""
