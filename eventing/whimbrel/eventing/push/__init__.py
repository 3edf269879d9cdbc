"""The receiver of what others post: Ceph's gateway, MinIO, any CloudEvent. `PushUpstream` is its entry."""
