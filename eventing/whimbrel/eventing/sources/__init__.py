"""The sources, one module each: `python -m whimbrel.eventing source NAME` runs the module NAME.

A module gives SETTINGS, a class of `DeliverySettings`, and UPSTREAM, which makes an `Upstream` from them.
"""
