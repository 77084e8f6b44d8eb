"""The ClientApp: a message in; a sealed vector, a step of the sealing, a word on the ledger or a status code out.

Nothing else leaves.

On an enrolled machine the *installed* copy of this module runs (see :mod:`client.runner`); under
a stock SuperNode, Flower loads it from the app bundle.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.site import site_for
from client.statuses import status_of
from client.train import Site, carry_out, take_ledger_step, take_step
from strategies.wire import LedgerStep, SealedStep, answer, asked

logger = logging.getLogger("confide.client")

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer one message."""
    return respond(message, lambda spec: site_for(spec, context))


def respond(message: Message, site: Callable[[str], Site]) -> Message:
    """Carry out a message at the site of its spec; every failure becomes a status code, its text stays in the log."""
    try:
        request = asked(message.content)
        if isinstance(request, SealedStep):
            return Message(take_step(request, site(request.spec)), reply_to=message)
        if isinstance(request, LedgerStep):
            return Message(take_ledger_step(request, site(request.spec)), reply_to=message)
        record = carry_out(request, site(request.spec))
    except Exception as error:  # noqa: BLE001 - whatever happens, only a status code may leave
        status = status_of(error)
        logger.error("not answered (%s): %s: %s", status, type(error).__name__, error)
        return Message(answer(status), reply_to=message)
    logger.info("run %s, round %d: answered", request.run, request.round)
    return Message(record, reply_to=message)
