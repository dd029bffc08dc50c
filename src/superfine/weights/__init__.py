"""Networks that others trained, in the formats that they keep them in."""
