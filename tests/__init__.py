"""The tests, and the programs of theirs that can be run by hand (`python -m tests.wire.record --help`)."""
