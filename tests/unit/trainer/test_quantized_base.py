"""What can't be asked of a base that is quantised already, by whomever, and what is said instead."""

from types import SimpleNamespace
from typing import Any

import pytest

from finetune_api.resource import SpecInvalid, parse_spec
from finetune_api.spec import MethodSpec, OutputSpec
from finetune_trainer.errors import ConfigInvalid
from finetune_trainer.model.quantized_base import check_quantized_base
from tests.support.manifests import build_minimal_manifest

pytestmark = pytest.mark.torch

URI = "hf://org/packed"
PACKED: dict[str, dict[str, Any]] = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"},
    "compressed-tensors": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {
            "group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "symmetric": True, "group_size": 128}}
        },
    },
}
BITSANDBYTES = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
PLAIN, NF4 = {"quantization": {"type": "none"}}, {"quantization": {"type": "nf4"}}


def check(found: dict[str, Any], method: dict[str, Any], *, divided: bool = False) -> None:
    config = SimpleNamespace(quantization_config=found)
    output = OutputSpec.model_validate({"uri": "s3://bucket/out"})
    check_quantized_base(config, MethodSpec.model_validate(method), output, URI, divided=divided)


@pytest.mark.parametrize("kind", PACKED)
def test_a_packed_base_is_trained_as_it_is(kind: str) -> None:
    check(PACKED[kind], PLAIN)


@pytest.mark.parametrize(("found", "method"), [*((PACKED[kind], PLAIN) for kind in PACKED), (BITSANDBYTES, NF4)], ids=[*PACKED, "nf4"])
def test_it_is_not_divided_over_processes(found: dict[str, Any], method: dict[str, Any]) -> None:
    with pytest.raises(ConfigInvalid, match=r"^training\.sharding: hf://org/packed .* packed weights can't be divided"):
        check(found, method, divided=True)


@pytest.mark.parametrize("kind", PACKED)
def test_loftq_has_no_way_on_a_packed_base(kind: str) -> None:
    """It makes up for what rounding takes: of weights that were rounded by others nobody here knows what that was."""
    with pytest.raises(ConfigInvalid, match=r"and stays so; set method\.quantization\.type to none"):
        check(PACKED[kind], {"adapter": {"init": "loftq"}, **NF4})
    spec = build_minimal_manifest()["spec"] | {"method": {"adapter": {"init": "loftq"}, **PLAIN}}
    with pytest.raises(SpecInvalid, match="loftq"):
        parse_spec(spec)


def test_nor_on_one_that_bitsandbytes_has_quantised() -> None:
    with pytest.raises(ConfigInvalid, match="loftq needs the weights before quantisation, and hf://org/packed has not got them"):
        check(BITSANDBYTES, {"adapter": {"init": "loftq"}, **NF4})
