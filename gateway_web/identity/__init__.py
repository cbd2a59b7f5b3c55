"""Who calls: resolvers, in a chain; what proxies and OAuth clients have to do with it."""

from gateway_web.identity.doorkeeper import Identity
from gateway_web.identity.loading import identity_problems, load_identity

__all__ = ["Identity", "identity_problems", "load_identity"]
