"""What the gateway tells of its calls while they run: trace context, spans, and what log lines carry.

Nothing here imports OpenTelemetry until tracing is switched on (``export``).
"""
