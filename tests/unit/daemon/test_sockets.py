"""Listening sockets."""

import socket

import pytest

from walkeeper.daemon.sockets import bind, bound_address
from walkeeper.errors import ConfigError
from walkeeper.links.address import Address


def test_port_0_is_a_free_port_that_can_be_connected_to() -> None:
    with bind(Address("127.0.0.1", 0), "--listen") as sock:
        address = bound_address(sock)
        assert address.port > 0
        with socket.create_connection((address.host, address.port)):
            pass


def test_a_busy_port_is_an_error_that_names_flag_and_address() -> None:
    with bind(Address("127.0.0.1", 0), "--listen") as sock:
        address = bound_address(sock)
        with pytest.raises(ConfigError) as caught:
            bind(address, "--listen")
    assert str(caught.value).startswith(f"--listen: cannot listen on {address}: ")


def test_a_port_is_free_again_as_soon_as_its_owner_is_gone() -> None:
    with bind(Address("127.0.0.1", 0), "--listen") as sock:
        address = bound_address(sock)
        with socket.create_connection((address.host, address.port)) as client:
            sock.accept()[0].close()  # who closes first keeps the port in TIME_WAIT
            client.recv(1)
    bind(address, "--listen").close()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 300 + ".invalid"])
def test_a_host_without_address_is_an_error_that_names_it(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bind(Address(host, 1), "--listen")
    assert host in str(caught.value)
