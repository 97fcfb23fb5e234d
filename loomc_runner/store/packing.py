"""Long texts made short with Zstandard, alone or against another text, and long again."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backports import zstd
elif sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

WORTH_IT, NOISE = 0.9, 0.7
"""A text that does not get shorter than that stays as it is; a long one sooner, since to write it takes no longer."""

SAMPLES, SAMPLE = 8, 8192
"""How many parts of a long text are tried first, and the bytes of each: what does not get shorter is noise all over."""

LEVEL = 1
"""The fastest that still finds words; a higher one takes twice the time for a tenth less."""

SHORTEST_MATCH = 16
"""Bytes that are alike in a match far back; with more of them patches of a text that changes all over get longer."""

SMALLEST_WINDOW, LARGEST_WINDOW = 22, 31
"""How far back a match is looked for, as powers of two: it must reach all over the other text."""


def packed(text: str) -> str | bytes:
    """The text compressed; the text itself where that saves little."""
    data = text.encode()
    if len(data) > 2 * SAMPLES * SAMPLE:
        stride = len(data) // SAMPLES
        sample = b"".join(data[start : start + SAMPLE] for start in range(0, SAMPLES * stride, stride))
        if len(zstd.compress(sample, LEVEL)) > NOISE * len(sample):
            return text
    names = zstd.CompressionParameter
    short = zstd.compress(data, options={names.compression_level: LEVEL, names.checksum_flag: 1})
    return short if len(short) < WORTH_IT * len(data) else text


def unpacked(blob: str | bytes) -> str:
    """The text again."""
    return blob if isinstance(blob, str) else zstd.decompress(blob).decode()


def patch(old: str, new: str) -> bytes:
    """What makes the new text of the old one, however much has changed and wherever.

    Matches are looked for over all of the old text (long distance matching), else nothing is found in long ones.
    """
    base, data = old.encode(), new.encode()
    window = min(max(SMALLEST_WINDOW, (len(base) + len(data)).bit_length()), LARGEST_WINDOW)
    names = zstd.CompressionParameter
    settings: dict[int, int] = {
        names.compression_level: LEVEL,
        names.checksum_flag: 1,  # another text would give something else
        names.enable_long_distance_matching: 1,
        names.ldm_min_match: SHORTEST_MATCH,
        names.window_log: window,
    }
    prefix = zstd.ZstdDict(base, is_raw=True).as_prefix
    return zstd.compress(data, options=settings, zstd_dict=prefix)


def patched(old: str, patches: Iterable[bytes]) -> str:
    """The text that patches make of another, one after the other."""
    settings: dict[int, int] = {zstd.DecompressionParameter.window_log_max: LARGEST_WINDOW}
    data = old.encode()
    for blob in patches:
        prefix = zstd.ZstdDict(data, is_raw=True).as_prefix
        data = zstd.decompress(blob, options=settings, zstd_dict=prefix)
    return data.decode()
