"""Benchmarks with a protocol that others use too, behind `stmp bench`."""
