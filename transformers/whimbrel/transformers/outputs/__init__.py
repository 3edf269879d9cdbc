"""What people look at beside a result: the annotated picture, its boxes as COCO JSON, or a zip of both.

A sink of its own, `python -m whimbrel.transformers outputs`, behind a Trigger for the prediction events of one binding:
it reads the object once more, by the same rules and limits as the transformer, and writes what its settings ask for.
"""
