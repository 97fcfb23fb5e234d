from gcd import gcd, lcm


def test_of_a_number_and_zero() -> None:
    assert gcd(5, 0) == 5


def test_of_zero_and_a_number() -> None:
    assert gcd(0, 7) == 7


def test_of_two_primes() -> None:
    assert gcd(13, 17) == 1


def test_common_factor() -> None:
    assert gcd(12, 18) == 6


def test_one_divides_the_other() -> None:
    assert gcd(35, 7) == 7


def test_does_not_depend_on_the_order() -> None:
    assert gcd(84, 36) == gcd(36, 84) == 12


def test_lcm() -> None:
    assert lcm(4, 6) == 12


def test_lcm_with_zero() -> None:
    assert lcm(0, 3) == 0
