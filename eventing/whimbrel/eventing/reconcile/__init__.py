"""Compares a bucket with what came of its objects, and announces those that nothing came of.

An object version is settled by a result (where a model is asked for: a result of that model), by a dead letter, or, in
a bucket with versions, by a record that it was gone: without versions the same object may have come again. Dead letters
are compared by the object version inside the event, not by the event's id: an event made here has another id than the
one that the store sent at the put.

Three steps, each page by page, with what they found in a file of sqlite and not in memory: list the results, list the
objects and keep those without one, look once more at each of these and announce it. A page and its position are one
transaction, so a comparison that was killed goes on where it was; what is announced twice by that is recognised by its
id, which is the same however often the comparison runs.
"""
