"""Judging: distances between pictures, and later benchmarks, comparisons and reports."""
