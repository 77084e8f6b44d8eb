"""LSTM and GRU layers whose backward pass hands out every record's gate gradients.

Exactly the recurrences of ``torch.nn.LSTM`` and ``torch.nn.GRU``, with the derivatives written out, so that a
single pass backwards gives the gradient of each gate at each step without PyTorch recording fifty small
operations per step. Weight gradients are then outer products of gates and inputs, per record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from privacy.errors import UnsupportedModule
from privacy.gradients.pieces import Piece, Whole, series


@dataclass
class Gates:
    """Gate gradients of one layer and direction, time first; filled in by the backward pass.

    For a GRU the new gate's gradient with respect to the recurrent part differs from the one with respect to
    the input part, hence two tensors; for an LSTM they are the same object.
    """

    inputs: Tensor
    states: Tensor | None = None
    to_input: Tensor | None = None
    to_state: Tensor | None = None


class _Lstm(torch.autograd.Function):
    """One layer, one direction: (T, B, I), (B, H), (B, H) -> (T, B, H), (B, H)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h: Tensor,
        c: Tensor,
        probe: Tensor,
        weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
        gates_out: Gates,
    ) -> tuple[Tensor, Tensor]:
        w_ih, w_hh, b_ih, b_hh = weights
        steps, batch, _ = x.shape
        hidden = h.shape[1]
        bias = None if b_ih is None or b_hh is None else b_ih + b_hh
        gates = nn.functional.linear(x, w_ih, bias)
        states = x.new_empty(steps + 1, batch, hidden)
        cells = x.new_empty(steps + 1, batch, hidden)
        tanh_cells = x.new_empty(steps, batch, hidden)
        states[0], cells[0] = h, c
        recurrent = w_hh.T
        now, cell, squashed = states.unbind(0), cells.unbind(0), tanh_cells.unbind(0)
        in_forget, new, out = (
            gates[..., : 2 * hidden],
            gates[..., 2 * hidden : 3 * hidden],
            gates[..., 3 * hidden :],
        )
        first, second = in_forget[..., :hidden].unbind(0), in_forget[..., hidden:].unbind(0)
        for t, (gate, i_f, i, f, g, o) in enumerate(
            zip(gates.unbind(0), in_forget.unbind(0), first, second, new.unbind(0), out.unbind(0), strict=True)
        ):
            gate.addmm_(now[t], recurrent)
            i_f.sigmoid_()
            g.tanh_()
            o.sigmoid_()
            torch.mul(f, cell[t], out=cell[t + 1]).addcmul_(i, g)
            torch.tanh(cell[t + 1], out=squashed[t])
            torch.mul(o, squashed[t], out=now[t + 1])
        ctx.saved = (gates, states, cells, tanh_cells, w_ih, w_hh)
        ctx.gates_out = gates_out
        return states[1:], cells[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_c: Tensor) -> tuple[Tensor | None, ...]:
        gates, states, cells, tanh_cells, w_ih, w_hh = ctx.saved
        steps, batch, hidden = tanh_cells.shape
        i, f, g, o = gates.view(steps, batch, 4, hidden).unbind(2)
        # d gate = (d cell or d state) * slope, for all steps at once.
        slope = torch.empty_like(gates).view(steps, batch, 4, hidden)
        torch.mul(i, g, out=slope[:, :, 0]).mul_(1 - i)
        torch.mul(f, 1 - f, out=slope[:, :, 1]).mul_(cells[:-1])
        torch.mul(g, g, out=slope[:, :, 2]).neg_().add_(1).mul_(i)
        torch.mul(o, tanh_cells, out=slope[:, :, 3]).mul_(1 - o)
        through = tanh_cells.square().neg_().add_(1).mul_(o)
        slope_c, slope_o = slope[:, :, :3].unbind(0), slope[:, :, 3].unbind(0)
        d_gates = torch.empty_like(gates)
        d_view = d_gates.view(steps, batch, 4, hidden)
        d_all, d_first, d_last = d_gates.unbind(0), d_view[:, :, :3].unbind(0), d_view[:, :, 3].unbind(0)
        through_t, forget_t, out_t = through.unbind(0), f.unbind(0), d_out.unbind(0)
        d_h = torch.zeros(batch, hidden, dtype=gates.dtype)
        d_c = d_c.clone()
        for t in range(steps - 1, -1, -1):
            d_h.add_(out_t[t])
            d_c.addcmul_(d_h, through_t[t])
            torch.mul(slope_c[t], d_c.unsqueeze(1), out=d_first[t])
            torch.mul(slope_o[t], d_h, out=d_last[t])
            d_c.mul_(forget_t[t])
            torch.mm(d_all[t], w_hh, out=d_h)
        ctx.gates_out.states = states[:-1]
        ctx.gates_out.to_input = ctx.gates_out.to_state = d_gates
        d_x = d_gates @ w_ih if ctx.needs_input_grad[0] else None
        return d_x, d_h, d_c, d_gates.new_zeros(()), None, None


class _Gru(torch.autograd.Function):
    """One layer, one direction: (T, B, I), (B, H) -> (T, B, H)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h: Tensor,
        probe: Tensor,
        weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
        gates_out: Gates,
    ) -> Tensor:
        w_ih, w_hh, b_ih, b_hh = weights
        steps, batch, _ = x.shape
        hidden = h.shape[1]
        gates = nn.functional.linear(x, w_ih, b_ih)
        recurrent = x.new_empty(steps, batch, 3 * hidden)
        states = x.new_empty(steps + 1, batch, hidden)
        states[0] = h
        now = states.unbind(0)
        for t, (gate, part) in enumerate(zip(gates.unbind(0), recurrent.unbind(0), strict=True)):
            if b_hh is None:
                torch.mm(now[t], w_hh.T, out=part)
            else:
                torch.addmm(b_hh, now[t], w_hh.T, out=part)
            gate[:, : 2 * hidden].add_(part[:, : 2 * hidden]).sigmoid_()
            r, z, n = gate.view(batch, 3, hidden).unbind(1)
            n.addcmul_(r, part[:, 2 * hidden :]).tanh_()
            torch.lerp(n, now[t], z, out=now[t + 1])
        ctx.saved = (gates, recurrent[..., 2 * hidden :], states, w_ih, w_hh)
        ctx.gates_out = gates_out
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        gates, new_part, states, w_ih, w_hh = ctx.saved
        steps, batch, hidden = new_part.shape
        r, z, n = gates.view(steps, batch, 3, hidden).unbind(2)
        slope_n = n.square().neg_().add_(1).mul_(1 - z)
        slope_z = (states[:-1] - n).mul_(z).mul_(1 - z)
        slope_r = new_part * r * (1 - r)
        d_input = torch.empty_like(gates)
        d_state = torch.empty_like(gates)
        d_h = torch.zeros(batch, hidden, dtype=gates.dtype)
        for t in range(steps - 1, -1, -1):
            d_h.add_(d_out[t])
            d_r, d_z, d_n = d_input[t].view(batch, 3, hidden).unbind(1)
            torch.mul(d_h, slope_n[t], out=d_n)
            torch.mul(d_h, slope_z[t], out=d_z)
            torch.mul(d_n, slope_r[t], out=d_r)
            d_state[t, :, : 2 * hidden] = d_input[t, :, : 2 * hidden]
            torch.mul(d_n, r[t], out=d_state[t, :, 2 * hidden :])
            d_h.mul_(z[t]).addmm_(d_state[t], w_hh)
        ctx.gates_out.states = states[:-1]
        ctx.gates_out.to_input, ctx.gates_out.to_state = d_input, d_state
        d_x = d_input @ w_ih if ctx.needs_input_grad[0] else None
        return d_x, d_h, d_input.new_zeros(()), None, None


class Recurrence:
    """Stands in for ``nn.LSTM.forward`` or ``nn.GRU.forward`` of one module during one pass."""

    def __init__(self, module: nn.LSTM | nn.GRU, probe: Tensor) -> None:
        self.module = module
        self.probe = probe
        self.seen: list[tuple[str, Gates]] = []

    def __call__(self, x: Tensor, initial: Any = None) -> tuple[Tensor, Any]:
        """Return what ``module.forward(x, initial)`` returns, to rounding."""
        module = self.module
        if not isinstance(x, Tensor) or x.dim() != 3:
            raise UnsupportedModule(
                f"{type(module).__name__}: book-keeping takes batched tensors only, no packed or single "
                "sequences; "
                "choose method='hooks'"
            )
        lstm = isinstance(module, nn.LSTM)
        layer_input = x.transpose(0, 1) if module.batch_first else x
        directions = 2 if module.bidirectional else 1
        zeros = layer_input.new_zeros(module.num_layers * directions, layer_input.shape[1], module.hidden_size)
        h0, c0 = (zeros, zeros) if initial is None else initial if lstm else (initial, zeros)
        last_h, last_c = [], []
        for layer in range(module.num_layers):
            outputs = []
            for direction in range(directions):
                suffix = f"_l{layer}" + ("_reverse" if direction else "")
                weights = tuple(
                    getattr(module, name + suffix).detach() if hasattr(module, name + suffix) else None
                    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                )
                index = layer * directions + direction
                steps = (layer_input.flip(0) if direction else layer_input).contiguous()
                gates = Gates(inputs=steps.detach())
                self.seen.append((suffix, gates))
                if lstm:
                    out, c = _run(_Lstm, steps, h0[index], c0[index], self.probe, weights, gates)
                    last_c.append(c)
                else:
                    out = _run(_Gru, steps, h0[index], self.probe, weights, gates)
                last_h.append(out[-1])
                outputs.append(out.flip(0) if direction else out)
            layer_input = outputs[0] if directions == 1 else torch.cat(outputs, 2)
        result = layer_input.transpose(0, 1) if module.batch_first else layer_input
        hidden = torch.stack(last_h)
        return result, (hidden, torch.stack(last_c)) if lstm else hidden

    def pieces(self) -> list[tuple[nn.Parameter, Piece]]:
        """Return the per-record gradients of every weight, once the backward pass has run."""
        found: list[tuple[nn.Parameter, Piece]] = []
        by_suffix: dict[str, list[Gates]] = {}
        for suffix, gates in self.seen:
            if gates.to_input is not None:  # otherwise the loss does not depend on this use
                by_suffix.setdefault(suffix, []).append(gates)
        for suffix, uses in by_suffix.items():
            x = _records([use.inputs for use in uses])
            h = _records([cast(Tensor, use.states) for use in uses])
            to_input = _records([cast(Tensor, use.to_input) for use in uses])
            same = uses[0].to_input is uses[0].to_state
            to_state = to_input if same else _records([cast(Tensor, use.to_state) for use in uses])
            for name, a, g in (("weight_ih", x, to_input), ("weight_hh", h, to_state)):
                parameter = getattr(self.module, name + suffix)
                if parameter.requires_grad:
                    found.append((parameter, series(a, g)))
            for name, g in (("bias_ih", to_input), ("bias_hh", to_state)):
                parameter = getattr(self.module, name + suffix, None)
                if parameter is not None and parameter.requires_grad:
                    found.append((parameter, Whole(g.sum(1))))
        return found


def restriction(module: nn.LSTM | nn.GRU) -> str | None:
    """Return why a recurrent layer is not handled here, or None."""
    if getattr(module, "proj_size", 0):
        return f"proj_size={module.proj_size}"
    if module.dropout and module.num_layers > 1:
        return f"dropout={module.dropout} between its layers"
    return None


def _run(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """``function.apply``, which torch leaves untyped."""
    return cast(Any, function).apply(*arguments)


def _records(parts: list[Tensor]) -> Tensor:
    """Join uses along time and put records first."""
    return (parts[0] if len(parts) == 1 else torch.cat(parts, 0)).transpose(0, 1)
