"""Which model of timm a task or a card names, and with which arguments: nothing that names a file or an address."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator

from folds.errors import did_you_mean

ARGUMENTS = frozenset(
    """
    drop_rate drop_path_rate drop_block_rate drop_block_size proj_drop_rate pos_drop_rate patch_drop_rate attn_drop_rate
    in_chans img_size patch_size patch_kernel patch_stride window_size window_ratio dynamic_img_size dynamic_img_pad
    strict_img_size always_partition output_stride
    global_pool pool_type pool_size pool_include_prefix class_token reg_tokens no_embed_class num_features
    head_init_scale head_norm head_norm_first head_hidden_size head_bias head_dim fc_norm use_fc_norm final_norm
    pre_norm embed_dim embed_dims dim dims depth depths layers channels width widths width_mult depth_mult width_factor
    channel_multiplier depth_multiplier group_size group_width num_heads mlp_ratio mlp_ratios sr_ratios expand_ratio
    bottle_ratio bottle_in bottle_out cardinality base_width growth_rate kernel_size kernel_sizes conv_mlp conv_bias
    qkv_bias qk_norm bias attn_type pos_embed use_abs_pos_emb use_rot_pos_emb use_abs_pos use_rel_pos
    stem_type stem_width stem_size stem_chs stem_stride stem_kernel_size avg_down block_reduce_first replace_stem_pool
    down_kernel_size downsample_kernel_size
    act_layer norm_layer aa_layer attn_layer mlp_layer norm_eps bn_eps bn_momentum weight_init fix_init
    zero_init_last init_values layer_scale layer_scale_init_value ls_init_value layerscale_value use_grn se_ratio
    pad_type
    """.split()  # noqa: SIM905
)
"""Arguments of timm's models that set their shape, layers and dropout."""


def _plain(value: Any, deeper: int = 2) -> bool:
    """Whether it is a number, a short name, or a list of such: no path, no table."""
    if isinstance(value, list | tuple):
        return deeper > 0 and all(_plain(v, deeper - 1) for v in value)
    return isinstance(value, bool | int | float) or (isinstance(value, str) and bool(re.fullmatch(r"\w{0,40}", value)))


def _known_arguments(args: dict[str, Any]) -> dict[str, Any]:
    for name, value in args.items():
        if name not in ARGUMENTS:
            raise ValueError(
                f"'{name}' is not taken{did_you_mean(name, ARGUMENTS)}: model_args sets a model's shape, layers and "
                'dropout, and names no files, addresses or weights. Initial weights: weights = "FILE"'
            )
        if not _plain(value):
            raise ValueError(f"{name}: needs a number, a name, or a list of them")
    return args


def _registered(name: str) -> str:
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(
            "needs a name from timm.list_models(), like resnet18.a1_in1k; no path, 'hf-hub:' or 'local-dir:'"
        )
    return name


ModelName = Annotated[str, AfterValidator(_registered)]
ModelArgs = Annotated[dict[str, Any], AfterValidator(_known_arguments)]
