"""Metrics: what processes count, what Redis says of the cluster, and the page that shows both."""
