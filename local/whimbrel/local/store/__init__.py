"""The embedded object store: moto's S3 and SQS on loopback, with a journal that brings the S3 half back at the start.

For one machine, for demos and tests of what stands behind a real store; there is no authentication.
So that no web page can use it through a browser, a request with an Origin header is refused with 403, and one whose
Host is not a loopback name.

Kept in DIR/store.sqlite3, written before the client has its answer, so that `kill -9` at any instant loses nothing
that was answered (the operating system has the bytes; only a power cut may lose the last of them):
- buckets and their configuration: notification, policy, lifecycle, CORS, tagging, encryption, and so on;
- objects: bytes, content type and metadata, tags, ACL, ETag (multipart's too), Last-Modified, checksums;
- the definitions of queues, because notifications name them.

Not kept:
- messages: every queue is empty at the start, and the replay announces nothing. Who needs an object announced that
  was put before compares what is there with what came of it: `whimbrel.eventing.reconcile`;
- unfinished multipart uploads, where the parts of a finished one began, and queue tags and permissions.

Refused with 501: versioning and object lock (moto makes new version ids at each start), and other services.
Buckets are addressed by path (http://host/bucket/key) only. One request at a time reads or changes objects: it
makes conditional puts exact and gives the journal the order of the answers; moto runs in one interpreter anyway.
"""
