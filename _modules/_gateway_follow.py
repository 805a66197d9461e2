"""Units that run where the virtual IP is."""

import _gateway_values as values


def followed_unit(value: object) -> str:
    unit = values.unit(value, values.FOLLOWING)
    name = unit.rsplit(".", 1)[0]
    if name in values.OWN_UNITS or name.startswith(("gateway-", "openvpn-server@gateway-")):
        raise ValueError(f"{unit} is the formula's own")
    return unit
