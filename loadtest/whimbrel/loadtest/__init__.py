"""The wrapper of the load generator `hey`: plans what is sent, counts what hey hides, compares and judges."""
