"""Copies of a model in which layers without per-record gradients are replaced by equals that have them.

``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` become Opacus' cells; ``nn.MultiheadAttention`` becomes attention on
plain linear layers. Opacus' own ``DPMultiheadAttention`` is not used: with ``batch_first=True`` it permutes
axes wrongly (differs from ``nn.MultiheadAttention`` by 0.69 on unit inputs), with ``batch_first=False`` the
hooks of a batch-first model take its time axis for the batch, and it has no ``is_causal``.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from opacus.layers import DPGRU, DPLSTM, DPRNN
from torch import Tensor, nn
from torch.nn import functional

from privacy.errors import UnsupportedModule


class AttentionTwin(nn.Module):
    """``nn.MultiheadAttention`` on four linear layers, batch first inside whatever the layout outside."""

    # Read by nn.TransformerEncoderLayer before it considers its fused path, which has no hooks.
    in_proj_bias = None
    in_proj_weight = None
    _qkv_same_embed_dim = False

    def __init__(self, of: nn.MultiheadAttention) -> None:
        super().__init__()
        bias = of.in_proj_bias is not None
        self.num_heads, self.batch_first, self.embed_dim = of.num_heads, of.batch_first, of.embed_dim
        self.query = nn.Linear(of.embed_dim, of.embed_dim, bias=bias)
        self.key = nn.Linear(of.kdim, of.embed_dim, bias=bias)
        self.value = nn.Linear(of.vdim, of.embed_dim, bias=bias)
        self.out_proj = nn.Linear(of.embed_dim, of.embed_dim, bias=of.out_proj.bias is not None)
        self.drop = nn.Dropout(of.dropout)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what ``nn.MultiheadAttention.forward`` returns, to rounding.

        ``is_causal`` is a hint, there as here: ``attn_mask`` is what masks.
        """
        if query.dim() != 3:
            raise UnsupportedModule(
                f"nn.MultiheadAttention: query has {query.dim()} axes; only batches of sequences (3 axes) are supported"
            )
        if not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        batch, length, width = query.shape
        heads = (batch, -1, self.num_heads, width // self.num_heads)
        q = self.query(query).view(heads).transpose(1, 2)
        k = self.key(key).view(heads).transpose(1, 2)
        v = self.value(value).view(heads).transpose(1, 2)
        scores = (q * q.shape[-1] ** -0.5) @ k.mT
        if attn_mask is not None:
            mask = attn_mask if attn_mask.dim() == 2 else attn_mask.view(batch, self.num_heads, length, -1)
            scores = scores.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        if key_padding_mask is not None:
            padding = key_padding_mask[:, None, None, :]
            scores = scores.masked_fill(padding, -torch.inf) if padding.dtype == torch.bool else scores + padding
        weights = self.drop(functional.softmax(scores, dim=-1))
        mixed = self.out_proj((weights @ v).transpose(1, 2).reshape(batch, length, width))
        if not self.batch_first:
            mixed = mixed.transpose(0, 1)
        if not need_weights:
            return mixed, None
        return mixed, weights.mean(dim=1) if average_attn_weights else weights


@dataclass(frozen=True)
class _Link:
    """One parameter of the model and the parameters of the twin that, stacked, equal it."""

    original: nn.Parameter
    parts: tuple[nn.Parameter, ...]


class Twin:
    """A model's copy with replaced layers, its parameters kept equal to the model's by :meth:`refresh`.

    Attributes:
        module: the copy, in training mode but for dropout, which follows the model.
    """

    def __init__(self, model: nn.Module, *, recurrent: bool) -> None:
        """Copy ``model``; replace recurrent layers only if ``recurrent``.

        Raises:
            UnsupportedModule: a layer has an option its twin lacks.
        """
        self.model = model
        self.module = copy.deepcopy(model)
        names: dict[str, tuple[str, ...]] = {name: (name,) for name, _ in model.named_parameters()}
        for path, old in list(self.module.named_modules()):
            new = _replacement(path, old, recurrent=recurrent)
            if new is None:
                continue
            prefix = f"{path}." if path else ""
            if isinstance(old, nn.MultiheadAttention):
                names.update(_attention_names(prefix, old))
            parent, _, child = path.rpartition(".")
            if path:
                setattr(self.module.get_submodule(parent), child, new)
            else:
                self.module = new
        self.module.train()
        for module in self.module.modules():
            if hasattr(module, "inplace"):
                setattr(module, "inplace", False)  # noqa: B010 - not every module has it; a hooked output must not be overwritten
        twins = dict(self.module.named_parameters())
        self._links = [_Link(p, tuple(twins[part] for part in names[name])) for name, p in model.named_parameters()]
        for link in self._links:
            for part in link.parts:
                part.requires_grad_(link.original.requires_grad)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the model's parameters, buffers and dropout state into the twin."""
        for link in self._links:
            if len(link.parts) == 1:
                link.parts[0].copy_(link.original)
            else:
                for part, block in zip(link.parts, link.original.chunk(len(link.parts)), strict=True):
                    part.copy_(block)
        for mine, theirs in zip(self.module.buffers(), self.model.buffers(), strict=True):
            mine.copy_(theirs)
        for module in self.module.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.training = self.model.training

    def gather(self, sums: dict[int, Tensor]) -> dict[int, Tensor]:
        """Turn sums by ``id(twin parameter)`` into sums by ``id(model parameter)``."""
        found = {}
        for link in self._links:
            if any(id(part) in sums for part in link.parts):
                parts = [sums.get(id(part), torch.zeros_like(part)).view(part.shape) for part in link.parts]
                found[id(link.original)] = parts[0] if len(parts) == 1 else torch.cat(parts)
        return found


def needs_twin(model: nn.Module) -> bool:
    """Return whether some layer has no closed form as it stands."""
    return any(isinstance(module, nn.MultiheadAttention) for module in model.modules())


def restriction(module: nn.Module) -> str | None:
    """Return which option of a replaceable layer its twin lacks, or None."""
    if isinstance(module, nn.MultiheadAttention) and (module.bias_k is not None or module.add_zero_attn):
        return "add_bias_kv and add_zero_attn"
    if isinstance(module, nn.RNNBase):
        if module.proj_size:
            return f"proj_size={module.proj_size}"
        if module.dropout and module.num_layers > 1:
            # Opacus drops out between time steps, torch between layers.
            return f"dropout={module.dropout} between its layers"
    return None


def _replacement(path: str, module: nn.Module, *, recurrent: bool) -> nn.Module | None:
    """The twin of a layer, without its values; None for a layer that stays."""
    replaced = (nn.MultiheadAttention, nn.LSTM, nn.GRU, nn.RNN) if recurrent else (nn.MultiheadAttention,)
    if not isinstance(module, replaced):
        return None
    if reason := restriction(module):
        raise UnsupportedModule(f"{path or 'model'} ({type(module).__name__}): {reason} has no per-record twin")
    if isinstance(module, nn.MultiheadAttention):
        return AttentionTwin(module)
    options = {
        "num_layers": module.num_layers,
        "bias": module.bias,
        "batch_first": module.batch_first,
        "bidirectional": module.bidirectional,
    }
    if isinstance(module, nn.LSTM):
        made: nn.Module = DPLSTM(module.input_size, module.hidden_size, **options)
    elif isinstance(module, nn.GRU):
        made = DPGRU(module.input_size, module.hidden_size, **options)
    else:
        made = DPRNN(module.input_size, module.hidden_size, nonlinearity=module.nonlinearity, **options)
    return made


def _attention_names(prefix: str, old: nn.MultiheadAttention) -> dict[str, tuple[str, ...]]:
    """Names of an attention layer's parameters, and of the twin's parameters they are made of."""
    parts = ("query", "key", "value")
    names: dict[str, tuple[str, ...]] = {}
    if old._qkv_same_embed_dim:
        names[prefix + "in_proj_weight"] = tuple(f"{prefix}{part}.weight" for part in parts)
    else:
        names |= {f"{prefix}{part[0]}_proj_weight": (f"{prefix}{part}.weight",) for part in parts}
    if old.in_proj_bias is not None:
        names[prefix + "in_proj_bias"] = tuple(f"{prefix}{part}.bias" for part in parts)
    return names
