"""From a candidate version to all the traffic, or back: judged before each step, and moved by the one who judges."""
