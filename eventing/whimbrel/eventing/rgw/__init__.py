"""Ceph's gateway: its PubSub REST API (pull mode, Ceph up to 17) and its topics and notifications (push)."""
