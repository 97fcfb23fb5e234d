"""The greatest common divisor, after Euclid."""


def gcd(a: int, b: int) -> int:
    """Return the greatest number that divides both a and b."""
    if b == 0:
        return a
    return gcd(a % b, b)


def lcm(a: int, b: int) -> int:
    """Return the smallest number that both a and b divide."""
    if a == 0 or b == 0:
        return 0
    return a * b // gcd(a, b)
