"""Dropout masks from Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): the mask of a
unit depends on (seed, step, layer, row, unit) alone, not on who computes it or when. As csrc/philox.h."""

from fastmlp._backends._numba._compiler import kernel
from fastmlp._backends._numba._memory import as_real
from fastmlp._backends._numba._structs import Layer, Reals

_WORD = 0xFFFFFFFF  # words of 32 bits are kept in 64: Numba would make floats of signed beside unsigned


@kernel
def philox4x32_10(seed: int, c0: int, c1: int, c2: int, c3: int) -> tuple[int, int, int, int]:
    key0 = seed & _WORD
    key1 = (seed >> 32) & _WORD
    for _ in range(10):
        product0 = 0xD2511F53 * c0
        product1 = 0xCD9E8D57 * c2
        c0 = ((product1 >> 32) & _WORD) ^ c1 ^ key0
        c1 = product1 & _WORD
        c2 = ((product0 >> 32) & _WORD) ^ c3 ^ key1
        c3 = product0 & _WORD
        key0 = (key0 + 0x9E3779B9) & _WORD
        key1 = (key1 + 0xBB67AE85) & _WORD
    return c0, c1, c2, c3


@kernel
def drop_unit(word: int, layer: Layer, unit: int, output: Reals, kept: Reals) -> None:
    if unit < layer.n_out:
        scale = as_real(layer.dropout_scale, output) if word >= layer.dropout_from else as_real(0, output)
        output[unit] = output[unit] * scale
        kept[unit] = kept[unit] * scale


@kernel
def drop_rows(
    seed: int, step: int, number: int, layer: Layer, first_row: int, rows: int, a: Reals, factor: Reals
) -> None:
    """Drops units of the outputs a (and of their kept derivatives) of hidden layer ``number``, counted from 1;
    first_row is their place in the batch."""
    for i in range(rows):
        output = a + i * layer.leading
        kept = factor + i * layer.leading
        for unit in range(0, layer.n_out, 4):
            word0, word1, word2, word3 = philox4x32_10(
                seed, unit // 4 & _WORD, (first_row + i) & _WORD, number & _WORD, step & _WORD
            )
            drop_unit(word0, layer, unit, output, kept)
            drop_unit(word1, layer, unit + 1, output, kept)
            drop_unit(word2, layer, unit + 2, output, kept)
            drop_unit(word3, layer, unit + 3, output, kept)
