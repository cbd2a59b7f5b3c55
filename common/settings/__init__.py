"""Settings: one frozen tree from the file, the environment and the command line.

:func:`load` reads them, :func:`masked` shows them without secrets; ``common.settings.schema`` and
``common.settings.reference`` describe the format.
"""

from common.settings.identity import ApiKey, IdentitySettings
from common.settings.load import find_file, load
from common.settings.masking import masked
from common.settings.model import (
    DiscoverySettings,
    LoggingSettings,
    RedisSettings,
    RuntimeSettings,
    Settings,
    ToolProblem,
    WebSettings,
    WorkerSettings,
)
from common.settings.mtls import MtlsSettings
from common.settings.oauth import OAuthSettings
from common.settings.policy import EvaluatorSettings, PolicySettings, RuleSettings
from common.settings.tenants import TenantSettings, TenantsSettings
from common.settings.tokens import JwtSettings

__all__ = [
    "ApiKey",
    "DiscoverySettings",
    "EvaluatorSettings",
    "IdentitySettings",
    "JwtSettings",
    "LoggingSettings",
    "MtlsSettings",
    "OAuthSettings",
    "PolicySettings",
    "RedisSettings",
    "RuleSettings",
    "RuntimeSettings",
    "Settings",
    "TenantSettings",
    "TenantsSettings",
    "ToolProblem",
    "WebSettings",
    "WorkerSettings",
    "find_file",
    "load",
    "masked",
]
