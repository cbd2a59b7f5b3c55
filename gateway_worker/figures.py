"""A worker tells its figures: web processes show them (:mod:`common.metrics.told`)."""

from __future__ import annotations

import asyncio

import structlog

from common.domain.errors import StoreUnavailable
from common.metrics.figures import Figures
from common.metrics.told import EVERY, TELL, account
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection

log = structlog.get_logger(__name__)


async def tell_for_ever(figures: Figures, redis: PipelinedConnection, keys: Keys) -> None:
    """Tell them every few seconds. Degrades: without Redis nobody sees them until it is back; nothing is lost."""
    while True:
        try:
            with store_errors("telling figures"):
                await redis.run(TELL, *account(keys, figures))
        except StoreUnavailable as error:
            log.debug("figures_not_told", cause=repr(error.__cause__))
        await asyncio.sleep(EVERY)
