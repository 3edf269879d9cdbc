"""The storm: objects through every process of ours while these are killed, their sinks misbehave and the store is away.

At the end each object has one outcome. `make storm` runs the long form, `tests/e2e/test_storm.py` a short one.
"""
