"""The worker program: long-lived Celery processes that hold the sessions with the backends."""
