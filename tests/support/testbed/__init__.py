"""What the tests start: real processes and stores on loopback, each wait bounded and on a condition."""
