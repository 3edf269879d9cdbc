"""The gateway: routes requests by host to revisions, splits them, lets them wait for a process, and passes them on."""
