"""What a picture went through, from its pixels alone; no torch."""
