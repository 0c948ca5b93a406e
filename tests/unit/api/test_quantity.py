"""Quantities: the grammar of Kubernetes, exactly."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from finetune_api.quantity import CpuQuantity, MemoryQuantity, parse_quantity

FACTORS = {"": 1, "m": Decimal("1e-3"), "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18} | {
    f"{letter}i": 1024**power for power, letter in enumerate("KMGTPE", start=1)
}


@given(number=st.decimals(0, 10**9, places=3), suffix=st.sampled_from(sorted(FACTORS)))
def test_a_suffix_multiplies(number: Decimal, suffix: str) -> None:
    assert parse_quantity(f"{number:f}{suffix}") == number * FACTORS[suffix]


@given(number=st.integers(0, 10**6), exponent=st.integers(-20, 20), letter=st.sampled_from("eE"))
def test_an_exponent_scales(number: int, exponent: int, letter: str) -> None:
    assert parse_quantity(f"{number}{letter}{exponent}") == Decimal(number).scaleb(exponent)


@given(st.text(max_size=8))
def test_it_reads_or_refuses_but_never_crashes(text: str) -> None:
    value: Decimal | str
    try:
        value = parse_quantity(text)
    except ValueError as error:
        value = str(error)
    assert value >= 0 if isinstance(value, Decimal) else "is not a quantity" in value


@pytest.mark.parametrize("text", ["", "-1", "+1", ".5", "1.", "1 Gi", "1gi", "1KI", "1K", "1n", "1e", "Gi", "1Gi\n", "１Gi", "1e999"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        parse_quantity(text)


@pytest.mark.parametrize(("given_value", "text"), [(1073741824, "1073741824"), ("1Gi", "1Gi"), ("64Mi", "64Mi"), ("64Ti", "64Ti")])
def test_memory_is_kept_as_it_was_written(given_value: object, text: str) -> None:
    assert TypeAdapter(MemoryQuantity).validate_python(given_value) == text


@pytest.mark.parametrize("value", ["63Mi", "65Ti", "16", 16, 1.5, True, "4Ei", "500m"])
def test_memory_out_of_reason_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(MemoryQuantity).validate_python(value)


@pytest.mark.parametrize("value", ["1m", "1024", 4, "0.5", "1k1"])
def test_processor_time_lies_between_a_thousandth_and_a_thousand_cores(value: object) -> None:
    if value == "1k1":
        with pytest.raises(ValidationError):
            TypeAdapter(CpuQuantity).validate_python(value)
    else:
        assert TypeAdapter(CpuQuantity).validate_python(value) == str(value)
