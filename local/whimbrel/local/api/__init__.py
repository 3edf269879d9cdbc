"""A small Kubernetes API server for one machine: objects in sqlite, behind as much of the protocol as clients need."""
