"""Where the console may listen. Open to everybody is only what nobody else can reach."""

from __future__ import annotations

import ipaddress

from schemas.errors import UserError
from sinks.console.options import ConsoleOptions, is_loopback


def check_listening(options: ConsoleOptions, users: int) -> None:
    """Check the address against users and TLS, before the console listens.

    Args:
        options: How the console is to listen.
        users: Number of users.

    Raises:
        UserError: others could reach it without login, or passwords would travel in the clear.
    """
    for one in filter(None, (part.strip() for part in options.proxy.split(","))):
        try:
            ipaddress.ip_network(one, strict=False)
        except ValueError:
            raise UserError(
                f"--proxy: expected the address of the proxy or its network, such as 10.0.0.2 or 10.0.0.0/24, got {one!r}"
            ) from None
    if options.published and (options.loopback or not is_loopback(options.published)):
        raise UserError(
            f"--published {options.published}: it is for a container that listens on its network (--host 0.0.0.0) and whose port the engine publishes"
            " on a loopback address, such as 127.0.0.1"
        )
    if options.loopback and not options.proxy:
        return
    where = f"proxy {options.proxy}" if options.proxy else f"--host {options.host}"
    if not users:
        raise UserError(f"{where}: others can reach the console, and it has no users; first: perpflow console-users add NAME --role owner")
    if not options.secure and not options.published:
        raise UserError(
            f"{where}: passwords would travel unencrypted; give --tls-cert and --tls-key, or the --proxy that terminates TLS,"
            " or in a container --published 127.0.0.1"
        )
