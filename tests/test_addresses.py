"""Where arrays lie, as kernels are told: by the extension module where it is built, else by cffi."""

import numpy as np
import pytest

import fastmlp
from fastmlp._backends import _addresses

WAYS = [_addresses.address, _addresses.address_by_cffi]


def test_extension_tells_where_it_is_built():
    is_built = _addresses.address is not _addresses.address_by_cffi
    assert is_built or "c" not in fastmlp.available_backends()


@pytest.mark.parametrize("address", WAYS)
def test_address_is_that_of_the_first_element(address):
    whole = np.arange(24.0).reshape(4, 6)
    assert address(None) == 0
    frozen = whole.copy()
    frozen.flags.writeable = False
    for array in (whole, whole[1:], whole[:, 2:], whole[::-1], whole.T, np.asarray(whole[0, 0]), np.empty(0), frozen):
        assert address(array) == array.__array_interface__["data"][0]


@pytest.mark.parametrize("address", WAYS)
@pytest.mark.parametrize("other", [3, "text", [1.0], object()])
def test_what_is_no_array_has_none(address, other):
    with pytest.raises((TypeError, AttributeError)):
        address(other)
