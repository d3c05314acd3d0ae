"""What convert knows of each model family: its tensors' names, and which of them are linears."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from gossamer.checkpoint.faults import fault

__all__ = [
    "HEAD",
    "SUPPORTED_ARCHITECTURES",
    "check_names",
    "embedding_name",
    "is_linear",
    "natural_key",
    "normal_name",
    "require_supported",
    "sorted_names",
    "tied_by_default",
]

HEAD = "lm_head.weight"

_LLAMA_LINEARS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
_LLAMA_NORMS = ("input_layernorm", "post_attention_layernorm")
_OPT_LINEARS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "fc1", "fc2")
_OPT_NORMS = ("self_attn_layer_norm", "final_layer_norm")
_LLAMA_GLOBALS = ("model.embed_tokens", "model.norm", "lm_head")
_OPT_GLOBALS = tuple(
    f"model.decoder.{part}" for part in ("embed_tokens", "embed_positions", "project_in", "project_out", "final_layer_norm")
)


@dataclass(frozen=True)
class Family:
    """Stems of tensor names, without `.weight` and `.bias`."""

    linears: tuple[str, ...] = _LLAMA_LINEARS  # of each layer; what pruning prunes
    norms: tuple[str, ...] = _LLAMA_NORMS
    others: tuple[str, ...] = _LLAMA_GLOBALS
    layers: str = "model.layers."
    tied: bool = False  # when config.json does not say


_FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family(),
    "MistralForCausalLM": Family(),
    "OPTForCausalLM": Family(_OPT_LINEARS, _OPT_NORMS, (*_OPT_GLOBALS, "lm_head"), "model.decoder.layers.", tied=True),
    "Qwen2ForCausalLM": Family(),
    "Qwen3ForCausalLM": Family(norms=(*_LLAMA_NORMS, "self_attn.q_norm", "self_attn.k_norm")),
}

# The same families as the C++ core's registry; a test compares them.
SUPPORTED_ARCHITECTURES = tuple(sorted(_FAMILIES))


def require_supported(architecture: object, file: str = "config.json") -> str:
    """The architecture itself, or a CheckpointError that lists the supported ones."""
    if isinstance(architecture, str) and architecture in _FAMILIES:
        return architecture
    raise fault(
        "This architecture is not supported",
        file=file,
        field="architectures",
        expected="one of " + ", ".join(SUPPORTED_ARCHITECTURES),
        found=architecture if architecture is not None else "nothing",
        fix="Convert a model of one of these families",
    )


def normal_name(name: str, architecture: str) -> str | None:
    """The name that `AutoModelForCausalLM.save_pretrained` gives a tensor, or None for a buffer that no model needs."""
    if name.endswith((".rotary_emb.inv_freq", ".attn.bias", ".masked_bias")):
        return None
    # Checkpoints of the bare decoder (OPTModel, LlamaModel) lack the outer prefix.
    if name == HEAD or name.startswith("model."):
        return name
    return f"model.{name}"


def embedding_name(architecture: str) -> str:
    return f"{_FAMILIES[architecture].others[0]}.weight"


def tied_by_default(architecture: str) -> bool:
    """Whether the head is the embedding when config.json has no tie_word_embeddings (transformers' default for the family)."""
    return _FAMILIES[architecture].tied


def is_linear(name: str, architecture: str) -> bool:
    """Whether a tensor is the weight of one of the layers' linears: what pruning prunes."""
    family = _FAMILIES[architecture]
    match = re.fullmatch(re.escape(family.layers) + r"\d+\.(.+)\.weight", name)
    return match is not None and match[1] in family.linears


def check_names(names: Iterable[str], architecture: str, num_layers: int, *, tied: bool, file: str) -> None:
    """Check that a model of this family can be made of these tensors: all linears, embedding and head there, nothing foreign."""
    family, have = _FAMILIES[architecture], set(names)
    needed = {f"{family.layers}{i}.{linear}.weight" for i in range(num_layers) for linear in family.linears}
    needed |= {embedding_name(architecture)} | (set() if tied else {HEAD})
    known = {f"{family.layers}{i}.{stem}" for i in range(num_layers) for stem in family.linears + family.norms} | set(family.others)
    foreign = {name for name in have if name.removesuffix(".weight").removesuffix(".bias") not in known}
    for what, wrong in (
        ("The checkpoint lacks tensors of this architecture", needed - have),
        ("The checkpoint holds tensors that this architecture does not have", foreign),
    ):
        if wrong:
            listed = ", ".join(sorted_names(wrong)[:4]) + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else "")
            raise fault(
                what, file=file, tensor=listed, fix=f"Check that config.json ({architecture}, {num_layers} layers) belongs to these weights"
            )


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts layers.2 before layers.10."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part)


def sorted_names(names: Iterable[str]) -> list[str]:
    return sorted(names, key=natural_key)
