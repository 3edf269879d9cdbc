"""Knative's multi-tenant broker for one machine: it answers when every trigger has accepted, or its dead letters have.

It keeps nothing on disk. A producer's POST is answered 202 only after every matching trigger's subscriber, or that
trigger's dead-letter sink, took the event, and after the replies have gone the same way. Anything else is not a 2xx,
so the producer still holds its receipt and sends the event again: at least once, as Knative says it.

What the real one (Eventing 1.22, MT broker over the in-memory channel) does and this one does not:
- A producer that disconnects cancels the delivery there and the event is lost; here the delivery goes on.
- A dead letter that cannot be delivered, or an exhausted event without a dead-letter sink, is 503 here.
- There the delivery of a reply counts against its trigger's timeout, so a slow downstream gets copies of one reply;
  here the timeout is that of the subscriber's answer alone.
- `timeout` absent means no timeout there and 600 s here; a wait between attempts is at most an hour.
- A change of the configuration holds for the next event; there it left stale subscribers behind.
- Beyond `max_in_flight` events it answers 503 with Retry-After; there memory is the limit.
- CESQL filters, TLS, OIDC, `format` and the batched answers of a subscriber are refused or not spoken.

What it adds: batches are accepted from producers, dead letters carry `whimbrelattempts`, the number of attempts.
"""
