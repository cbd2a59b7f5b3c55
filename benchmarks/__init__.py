"""The load benchmark of the gateway and its peers: ``python -m benchmarks.run``; see docs/benchmarks.md."""
