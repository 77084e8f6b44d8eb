"""The server of sealed sums, without input or output: it relays, sums, and learns the sum alone.

::

    epoch = Epoch(...)                invite -> add_advertise, directory -> add_encapsulate
    round = SealedRound(epoch, ...)   opening -> add_upload
                                      confirm_request -> add_confirm       strict mode only
                                      unmask_request -> add_answer, until can_finish; then finish

Members do not trust it, and it does not trust them: whatever a member sends is checked before it counts, and a
refusal is a :class:`SecaggError` with the reason to leave that member out.
"""

from __future__ import annotations

from secagg.server_answers import Faults
from secagg.server_epoch import Epoch
from secagg.server_round import SealedRound

__all__ = ["Epoch", "Faults", "SealedRound"]
