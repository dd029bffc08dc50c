"""Training: the only part of superfine that needs torch (extra `train`)."""
