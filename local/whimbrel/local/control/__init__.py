"""The controllers: from the stored objects to what is to run and be routed, and back to their statuses."""
