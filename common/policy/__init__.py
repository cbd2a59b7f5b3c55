"""Policy: rules in memory, evaluators that are asked about each call, and the record of what was denied."""
