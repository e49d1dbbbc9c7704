"""Names and shapes of the tensors of a Hugging Face checkpoint.

In: the shape of a backbone. Out: what its safetensors must hold. Stated here from the architecture, not read from a
file, so that a file can be checked against it.
"""

from __future__ import annotations

from titan_speech.model.shape import BackboneShape

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def tensor_shapes(shape: BackboneShape, num_rows: int) -> dict[str, tuple[int, ...]]:
    """Every tensor by name, embedding first, layer by layer, head last."""
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (num_rows, shape.dim)}
    for layer in range(shape.num_layers):
        shapes |= {f"model.layers.{layer}.{name}": size for name, size in _layer_shapes(shape).items()}
    shapes["model.norm.weight"] = (shape.dim,)
    if not shape.is_tied:
        shapes[HEAD] = (num_rows, shape.dim)
    return shapes


def vocabulary_tensors(shape: BackboneShape) -> tuple[str, ...]:
    """Tensors with one row a token."""
    return (EMBEDDING,) if shape.is_tied else (EMBEDDING, HEAD)


def _layer_shapes(shape: BackboneShape) -> dict[str, tuple[int, ...]]:
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (shape.dim,),
        "self_attn.q_proj.weight": (queries, shape.dim),
        "self_attn.k_proj.weight": (keys, shape.dim),
        "self_attn.v_proj.weight": (keys, shape.dim),
        "self_attn.o_proj.weight": (shape.dim, queries),
        "post_attention_layernorm.weight": (shape.dim,),
        "mlp.gate_proj.weight": (shape.hidden_dim, shape.dim),
        "mlp.up_proj.weight": (shape.hidden_dim, shape.dim),
        "mlp.down_proj.weight": (shape.dim, shape.hidden_dim),
    }
    if shape.has_qk_norm:
        shapes |= {f"self_attn.{name}.weight": (shape.head_dim,) for name in ("q_norm", "k_norm")}
    return shapes
