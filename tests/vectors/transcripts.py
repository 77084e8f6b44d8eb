"""Two whole epochs of three members: a sealed one, and a strict one in which members disappear."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import secagg_reference as ref
from documents import MEMBERS, PERMIT, ROSTER, envelope, text
from fixed import ENCAPSULATIONS, EPHEMERAL, IDENTITIES, IDS, PAIRS, Vector, coefficient, seed
from formulas import Files, vector

LENGTHS = {"delta": 4, "count": 1}
BOUND = ref.limit(3) / 2**20  # scale 2^20: every multiple of 2^-20 is exact


@dataclass
class Epoch:
    """What happened in an epoch, as the vectors tell it."""

    mode: str
    colluders: int
    min_honest: int
    epoch: int
    first_round: int
    steps: list[Vector] = field(default_factory=list)
    sent: dict[tuple[str, int], bytes] = field(default_factory=dict)
    keys: dict[tuple[int, int], bytes] = field(default_factory=dict)
    complete: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        changes = {"mode": self.mode, "colluders": self.colluders, "min_honest": self.min_honest}
        self.roster, self.permit = text({**ROSTER, **changes}), text(PERMIT)
        self.run = ref.run_id(PERMIT["run"])
        self.threshold = ref.threshold(self.mode, 3, self.colluders, self.min_honest)
        self.set_up()

    def tell(self, op: str, comment: str, **fields: object) -> None:
        self.steps.append(vector(op, comment, **fields))

    def say(self, name: str, who: int, comment: str, message: bytes, **fields: object) -> bytes:
        """One message: from the member `who`, or from the server to it."""
        self.sent[name, who] = message
        self.tell(name, comment, member=who, message=message, **fields)
        return message

    def from_member(self, name: str, i: int, body: bytes, attachments: bytes = b"") -> bytes:
        return ref.signed_message(IDENTITIES[i], name, self.run, self.epoch, i, body, attachments)

    def from_server(self, name: str, body: bytes) -> bytes:
        return ref.server_message(name, self.run, self.epoch, body)

    def pair(self, i: int, j: int, round_: int) -> bytes:
        return ref.ratchet_to(self.keys[min(i, j), max(i, j)], self.first_round, round_)

    def set_up(self) -> None:
        """Invite, advertise, directory and encapsulate."""
        for i in IDS:
            own = EPHEMERAL[i]
            identity = {"identity_seed": seed(f"identity {i}"), "identity": MEMBERS[IDS.index(i)]["key"]}
            floors = {"min_cohort": 3, "min_honest": self.min_honest, "min_colluders": self.colluders}
            self.tell(
                "member",
                f"keys and floors of {i}",
                member=i,
                floors=floors,
                **identity,
                x25519_seed=own.x25519_seed,
                mlkem_seed=own.mlkem_seed,
            )
        documents = [envelope("roster", self.roster), envelope("permit", self.permit)]
        invite = self.from_server("invite", ref.u32(self.first_round) + b"".join(map(ref.with_length, documents)))
        for i in IDS:
            self.say("invite", i, "the same to everybody", invite)
        advertised = {
            i: self.say("advertise", i, "with the keys above", self.from_member("advertise", i, EPHEMERAL[i].public))
            for i in IDS
        }
        directory = self.from_server("directory", ref.u32(3) + b"".join(advertised.values()))
        hashes = ref.roster_hash(self.roster), ref.permit_hash(self.permit)
        self.setup_hash = ref.setup_hash(*hashes, self.run, self.epoch, self.first_round, advertised.values())
        for i in IDS:
            self.say("directory", i, "the same to everybody", directory)
        for i in IDS:
            ciphertexts = {j: ENCAPSULATIONS[i, j][1] for j in IDS if j > i}
            body = self.setup_hash + ref.listing({j: ref.ciphertext_hash(ct) for j, ct in ciphertexts.items()})
            self.say(
                "encapsulate",
                i,
                "with the ciphertexts of kem.json",
                self.from_member("encapsulate", i, body, b"".join(ciphertexts.values())),
                setup_hash=self.setup_hash,
                ciphertexts=ciphertexts,
            )
        for i, j in PAIRS:
            secret, ciphertext = ENCAPSULATIONS[i, j]
            exchanged = EPHEMERAL[i].exchange(EPHEMERAL[j].public[:32])
            key = ref.pair_key(exchanged, secret, self.setup_hash, i, j, ref.ciphertext_hash(ciphertext))
            self.keys[i, j] = key
            self.tell("pair_key", f"of {i} and {j}", i=i, j=j, x25519=exchanged, mlkem=secret, key=key)

    def part(self, i: int) -> bytes:
        """The signed part of i's encapsulate message."""
        message = self.sent["encapsulate", i]
        return message[: len(message) - 1088 * sum(j > i for j in IDS)]

    def opening(self, i: int, round_: int) -> bytes:
        first = i not in self.complete
        parts = b"".join(ref.with_length(self.part(j)) for j in IDS) if first else b""
        ciphertexts = {j: ENCAPSULATIONS[j, i][1] for j in IDS if first and j < i}
        cohort = b"".join(map(ref.u32, IDS))
        head = ref.u32(round_) + ref.u32(0) + ref.u32(3) + cohort
        return self.from_server("open", head + ref.u32(3 if first else 0) + parts + ref.listing(ciphertexts))

    def context(self, round_: int, hashes: dict[str, bytes]) -> bytes:
        own = {
            "roster": ref.roster_hash(self.roster),
            "permit": ref.permit_hash(self.permit),
            "setup": self.setup_hash,
            "cohort": ref.cohort_hash(IDS),
            "policy": bytes.fromhex(PERMIT["policy"]),
        }
        return ref.context(
            run=self.run,
            epoch=self.epoch,
            round_=round_,
            attempt=0,
            mode=self.mode,
            t=self.threshold,
            hashes=own | hashes,
        )

    def round(self, round_: int, *, uploading: tuple[int, ...], answering: tuple[int, ...]) -> None:
        """One round, in which only some get as far as their upload and only some of those as far as their answer."""
        model, control, layout, config = (
            f"{name} of round {round_}".encode() for name in ("model", "control", "layout", "config")
        )
        bindings = {
            "model": ref.model_hash(model, control),
            "layout": ref.layout_hash(layout),
            "config": ref.config_hash(config),
        }
        ctx = self.context(round_, bindings)
        for i in IDS:
            comment = "a later round" if i in self.complete else "with what set-up sent: it has not uploaded yet"
            self.say("open", i, comment, self.opening(i, round_), round=round_)
        self.complete.update(uploading)
        told = {"model": model, "control": control, "layout": layout, "config": config}
        self.tell(
            "context", f"round {round_}", round=round_, **told, hashes=bindings, threshold=self.threshold, ctx=ctx
        )
        rows = {i: self.upload(i, round_, ctx, bindings) for i in uploading}
        uploads = ref.listing({i: row["h"] + row["signature"] for i, row in rows.items()})
        h_u = ref.survivors_hash(ctx, {i: row["h"] for i, row in rows.items()})
        confirmed: dict[int, bytes] = {}
        if self.mode == "strict":
            for i in answering:
                self.say("survivors", i, "who is in U", self.from_server("survivors", ctx + uploads), round=round_)
            for i in answering:
                message = self.from_member("confirm", i, ctx + h_u)
                confirmed[i] = self.say("confirm", i, "that U", message, round=round_, survivors_hash=h_u)[-64:]
        for i in answering:
            shares = {j: row["commitments"][i] + row["sealed"][i] for j, row in rows.items() if j != i}
            body = ctx + uploads + ref.listing(confirmed) + ref.listing(shares)
            self.say("unmask", i, "what the others sent", self.from_server("unmask", body), round=round_)
        for i in answering:
            given = {
                j: b"\x01" + rows[j]["shares"][i]
                if j in rows
                else b"\x02\x00" + ref.mask_seed(self.pair(i, j, round_), ctx)
                for j in IDS
            }
            self.say(
                "answer",
                i,
                "a share of each upload, a seed of each drop",
                self.from_member("answer", i, ctx + ref.listing(given)),
                round=round_,
            )
        total = self.total(rows, round_, ctx, answering)
        expected = [sum(row["x"][at] for row in rows.values()) % 2**32 for at in range(len(total))]
        if total != expected:
            raise ValueError(f"round {round_}: the masks do not cancel")
        delta = [ref.decode(element, BOUND, 3).hex() for element in total[: LENGTHS["delta"]]]
        self.tell(
            "sum",
            "as uint32, and decoded: delta, count, one, zero",
            round=round_,
            contributors=list(rows),
            total=total,
            delta=delta,
            count=total[LENGTHS["delta"]],
            bound=BOUND.hex(),
        )

    def upload(self, i: int, round_: int, ctx: bytes, bindings: dict[str, bytes]) -> dict[str, Any]:
        """What i drew and made, and its message."""
        place = f"{self.mode} {round_} {i}"
        b = seed(f"b {place}")
        coefficients = [coefficient(f"{place} {power}") for power in range(1, self.threshold)]
        values = [(7 * i - 3) / 2**4 + at / 2 for at in range(LENGTHS["delta"])]
        x = [*(ref.encode(value, BOUND, 3, 0.0) % 2**32 for value in values), 10 + i, 1, 0]
        shares = ref.split(b, coefficients, IDS)
        sealed = {j: ref.seal_share(self.pair(i, j, round_), ctx, i, j, shares[j]) for j in IDS if j != i}
        commitments = {j: ref.share_commitment(ctx, i, j, shares[j]) for j in IDS}
        seeds = {j: ref.mask_seed(self.pair(i, j, round_), ctx) for j in IDS if j != i}
        pads = {j: ref.pair_mask_key(s, ctx) for j, s in seeds.items()}
        y = ref.vector_bytes(ref.masked(x, ref.self_mask_key(b, ctx), pads, i))
        h_b = ref.self_seed_hash(ctx, b)
        h = ref.upload_hash(ctx, ref.masked_hash(y), h_b, {j: (commitments[j], sealed.get(j)) for j in IDS})
        attachments = h_b + ref.listing(commitments) + b"".join(sealed[j] for j in sorted(sealed)) + y
        message = self.from_member("upload", i, ctx + h, attachments)
        drawn = {"b": b, "coefficients": [f"{c:066x}" for c in coefficients]}
        made = {"values": [value.hex() for value in values], "x": x, "pair_seeds": seeds, "shares": shares, "h": h}
        self.say(
            "upload",
            i,
            "with the b and the polynomial given here",
            message,
            round=round_,
            bindings=bindings,
            **drawn,
            **made,
        )
        signature = message[45 + 64 : 45 + 128]
        return {**made, "b": b, "y": y, "commitments": commitments, "sealed": sealed, "signature": signature}

    def total(self, rows: dict[int, dict[str, Any]], round_: int, ctx: bytes, answering: tuple[int, ...]) -> list[int]:
        """What the server makes of uploads and answers."""
        total = [0] * (sum(LENGTHS.values()) + 2)
        for i, row in rows.items():
            y = [int.from_bytes(row["y"][at : at + 4], "little") for at in range(0, len(row["y"]), 4)]
            b = ref.reconstruct({j: row["shares"][j] for j in answering[-self.threshold :]})
            dropped = {j: ref.mask_seed(self.pair(i, j, round_), ctx) for j in IDS if j not in rows}
            pairs = [(ref.pair_mask_key(s, ctx), 1 if j > i else -1) for j, s in dropped.items()]
            masks = [(ref.self_mask_key(b, ctx), 1), *pairs]
            total = [a + element for a, element in zip(total, y, strict=True)]
            for key, sign in masks:
                total = [a - sign * mask for a, mask in zip(total, ref.prg(key, len(total)), strict=True)]
        return [element % 2**32 for element in total]


def sealed_epoch() -> Epoch:
    epoch = Epoch("sealed", 0, 3, epoch=3, first_round=4)
    epoch.round(4, uploading=IDS, answering=IDS)
    return epoch


def strict_epoch() -> Epoch:
    return Epoch("strict", 0, 2, epoch=1, first_round=1)


def files() -> Files:
    sealed, strict = sealed_epoch(), strict_epoch()
    sealed.round(6, uploading=IDS, answering=IDS)
    strict.round(1, uploading=(0, 2), answering=(0, 2))
    strict.round(2, uploading=IDS, answering=(2, 5))
    return {
        "transcript-sealed": ("A sealed epoch: rounds 4 and 6, everybody stays. As it went", sealed.steps),
        "transcript-strict": (
            "A strict epoch: in round 1 member 5 is gone before its upload, in round 2 member 0 after it. As it went",
            strict.steps,
        ),
    }
