"""Networks that are trained here, each from its data to a model package."""
