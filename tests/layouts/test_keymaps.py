"""kohya's names: one stem a module, dots as underscores, alpha equal to the rank."""

from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.layouts.layers import read_layers, to_kohya

modules = st.lists(
    st.sampled_from(
        [
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
            "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0",
            "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
            "up_blocks.1.resnets.1.conv1",
            "mid_block.attentions.0.proj_in",
        ]
    ),
    min_size=1,
    unique=True,
)


def test_the_names_are_those_that_kohya_writes() -> None:
    tensors = {
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0.lora_A.weight": torch.ones(4, 32),
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0.lora_B.weight": torch.full((32, 4), 2.0),
    }
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_out_0"
    renamed = to_kohya(read_layers(Path("a.safetensors"), tensors, {}))
    assert sorted(renamed) == [f"{stem}.alpha", f"{stem}.lora_down.weight", f"{stem}.lora_up.weight"]
    assert torch.equal(renamed[f"{stem}.lora_down.weight"], torch.ones(4, 32))
    assert torch.equal(renamed[f"{stem}.lora_up.weight"], torch.full((32, 4), 2.0))


@given(modules, st.integers(1, 64), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_alpha_is_the_rank_in_the_tensors_type(names: list[str], rank: int, kind: torch.dtype) -> None:
    tensors = {}
    for name in names:
        shape = (rank, 8, 3, 3) if "conv" in name else (rank, 8)
        tensors[f"unet.{name}.lora_A.weight"] = torch.ones(shape, dtype=kind)
        tensors[f"unet.{name}.lora_B.weight"] = torch.ones((8, rank), dtype=kind)
    renamed = to_kohya(read_layers(Path("a.safetensors"), tensors, {}))
    assert len(renamed) == 3 * len(names)
    alphas = [tensor for name, tensor in renamed.items() if name.endswith(".alpha")]
    assert all(alpha == rank and alpha.dtype == kind and alpha.shape == () for alpha in alphas)
