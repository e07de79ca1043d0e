"""PyTorch: live modules, exported programs (.pt2) and TorchScript."""
