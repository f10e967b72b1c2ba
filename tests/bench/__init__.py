"""Measuring: the load generator, the servers it is pointed at, the tables, and the guard on instruction counts.

`make bench` runs `tests.bench.compare`. Nothing here asserts a time; the one test counts instructions.
"""
