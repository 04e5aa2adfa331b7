"""What a client's address counts as: one machine has a whole network of IPv6 addresses, and may ask from a new one each time."""

import ipaddress
from typing import Final

_NETWORK_BITS: Final = 64  # what one subscriber gets at least (RFC 6177)


def counted_as(host: str) -> str:
    """Returns the name under which an address is bounded: of IPv6 its /64 network, of an IPv4 address written as IPv6 itself.

    >>> counted_as("192.0.2.1"), counted_as("2001:db8::1"), counted_as("::ffff:192.0.2.1")
    ('192.0.2.1', '2001:db8::/64', '192.0.2.1')
    """
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> _NETWORK_BITS << _NETWORK_BITS, _NETWORK_BITS)))
