"""The lists a server has: what each is asked by, and what its items are known by.

Source: the schemas of the revisions, "tools/list", "resources/list", "resources/templates/list", "prompts/list".
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One list.

    ``method`` asks for a page of it, whose items stand under ``member``; a server that declares ``capability`` has it.
    ``key`` is the member of an item that no other item of the server shares.
    """

    method: str
    member: str
    capability: str
    key: str


TOOLS: Final = Listing(method="tools/list", member="tools", capability="tools", key="name")
RESOURCES: Final = Listing(method="resources/list", member="resources", capability="resources", key="uri")
RESOURCE_TEMPLATES: Final = Listing(
    method="resources/templates/list",
    member="resourceTemplates",
    capability="resources",
    key="uriTemplate",
)
PROMPTS: Final = Listing(method="prompts/list", member="prompts", capability="prompts", key="name")
LISTINGS: Final = (TOOLS, RESOURCES, RESOURCE_TEMPLATES, PROMPTS)
