import pytest

from ghostnas.errors import InputError
from ghostnas.ir import checksum


def sealed():
    return checksum.seal(b"front " + checksum.MARK.encode() + b" back")


def test_sealed_content_passes_and_any_flipped_bit_of_it_does_not():
    content = sealed()
    checksum.check(content, "x")
    passed = 0
    for at in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        try:
            checksum.check(bytes(flipped), "x")
        except InputError:
            continue
        passed += 1
    # Bits of the mark itself: without its name, or with an invalid digit, there is no seal.
    assert passed <= 8 * len(checksum.MARK)
    for at in (0, 5, len(content) - 1):
        flipped = bytearray(content)
        flipped[at] ^= 1
        with pytest.raises(InputError, match="is damaged"):
            checksum.check(bytes(flipped), "x")


def test_what_was_never_sealed_passes():
    checksum.check(b"", "x")
    checksum.check(b"front back", "x")


@pytest.mark.parametrize("count", [0, 2])
def test_content_without_exactly_one_mark_is_a_bug(count):
    with pytest.raises(ValueError, match=f"once, not {count} times"):
        checksum.seal(count * checksum.MARK.encode())
