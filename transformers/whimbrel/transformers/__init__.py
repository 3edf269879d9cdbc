"""From an image's bytes to the predictor's tensor, and from its answer to labels; never imports torch."""
