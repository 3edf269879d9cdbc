"""The Knative and KServe client: typed and small."""
