"""The ClientApp: a message in, one vector or one status code out. Nothing else leaves.

On an enrolled machine the *installed* copy of this module runs (see :mod:`client.runner`); under
a stock SuperNode, Flower loads it from the app bundle.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.errors import RefusalError
from client.site import site_for
from client.train import Site, carry_out
from models.errors import ModelError
from models.inputs.errors import DataError
from privacy.errors import AccountingError, BadPlan
from strategies.errors import MessageError, SettingsError
from strategies.status import Status
from strategies.wire import Instruction, answer

logger = logging.getLogger("confide.client")

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer one instruction."""
    return respond(message, lambda instruction: site_for(instruction.spec, context))


def respond(message: Message, site: Callable[[Instruction], Site]) -> Message:
    """Carry out a message; every failure becomes a status code, its text stays in the local log."""
    try:
        instruction = Instruction.from_record(message.content)
        vector = carry_out(instruction, site(instruction))
    except Exception as error:  # noqa: BLE001 - whatever happens, only a status code may leave
        status = status_of(error)
        logger.error("not answered (%s): %s: %s", status, type(error).__name__, error)
        return Message(answer(status), reply_to=message)
    logger.info("run %s, round %d: answered", instruction.run, instruction.round)
    return Message(answer(Status.OK, vector), reply_to=message)


def status_of(error: Exception) -> Status:
    """The status code that stands for an error."""
    if isinstance(error, RefusalError):
        return error.status
    if isinstance(error, DataError):
        return Status.DATA_UNUSABLE
    if isinstance(error, MessageError | SettingsError | ModelError):
        return Status.BAD_MESSAGE
    if isinstance(error, AccountingError | BadPlan):
        return Status.REFUSED_BY_POLICY
    return Status.TRAINING_FAILED
