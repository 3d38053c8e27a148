"""Whatever proposers say and whenever the power fails, an acceptor keeps what it has promised."""

from hypothesis import HealthCheck, settings

from acceptor_machine import AcceptorMachine

TestAcceptor = AcceptorMachine.TestCase
TestAcceptor.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
