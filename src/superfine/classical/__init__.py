"""What needs no network: resampling, and later shift, registration, flow and bursts."""
