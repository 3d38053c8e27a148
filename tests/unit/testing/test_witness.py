"""The witness notices what a keeper has on its disk that it must never have again, or never."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
import trio

from keeping import SERVER, START, TTID
from walkeeper.formats.control_file import ControlFile
from walkeeper.formats.frames import encode_frame
from walkeeper.formats.proposer import encode_acceptor_message
from walkeeper.ids import NodeId
from walkeeper.links.keeper import PROTOCOL_VERSION
from walkeeper.lsn import Lsn
from walkeeper.membership import Configuration, Generation, Member
from walkeeper.messages import AcceptorGreeting
from walkeeper.storage.store import write_control_file
from walkeeper.terms import Term
from walkeeper.testing.machine import KeeperMachine, directory_of
from walkeeper.testing.network import MemoryLink, MemoryNetwork, Pipe
from walkeeper.testing.truth import Truth, Violated
from walkeeper.testing.witness import Witness

MEMBERS = tuple(Member(NodeId(number), f"keeper{number}", 5454) for number in (1, 2, 3))
CONFIGURATION = Configuration(Generation(4), MEMBERS)
CONTROL_FILE = ControlFile(
    ttid=TTID,
    server=SERVER,
    configuration=CONFIGURATION,
    term=Term(5),
    timeline_start_lsn=START,
    local_start_lsn=START,
    commit_lsn=Lsn(START + 80),
)


def accused(*kept: tuple[int, ControlFile]) -> list[str]:
    """The rules that keepers break who greet somebody with these control files on their disks, one after the other."""
    network, broken = MemoryNetwork(Random(1)), list[Violated]()
    keepers = [
        KeeperMachine(network.host(f"keeper{number}"), NodeId(number), Random(1), lambda _text: None)
        for number in (1, 2, 3)
    ]
    witness = Witness(Truth(START, SERVER), TTID, {str(keeper): keeper for keeper in keepers}, broken.append)
    for number, control_file in kept:
        greet(witness, network, keepers[number - 1], control_file)
    assert witness.replies == len(kept)
    return [str(violated).partition(":")[0] for violated in broken]


def greet(witness: Witness, network: MemoryNetwork, keeper: KeeperMachine, control_file: ControlFile) -> None:
    directory = directory_of(TTID)
    for path in (directory.parent, directory):
        if not keeper.disk.is_directory(path):
            keeper.disk.mkdir(path)
    write_control_file(keeper.disk, directory, control_file)
    keeper.disk.syncfs(directory)
    client = network.host("client")
    there, back = Pipe(network, client, keeper.host), Pipe(network, keeper.host, client)
    link = MemoryLink(back, there)
    witness.connected(MemoryLink(there, back), link)
    greeting = AcceptorGreeting(keeper.node_id, control_file.configuration, Term(0))
    link.overhear(link, encode_frame(b"d", encode_acceptor_message(greeting, PROTOCOL_VERSION)))


NEXT = replace(CONTROL_FILE, configuration=replace(CONFIGURATION, generation=Generation(5)))
STRANGERS = replace(CONFIGURATION, members=MEMBERS[:2])


@pytest.mark.parametrize(
    ("kept", "rules"),
    [
        ([(1, CONTROL_FILE), (1, CONTROL_FILE), (2, CONTROL_FILE), (1, NEXT)], []),
        ([(1, CONTROL_FILE), (1, replace(CONTROL_FILE, term=Term(4)))], ["1"]),
        ([(1, CONTROL_FILE), (1, replace(CONTROL_FILE, commit_lsn=START))], ["9"]),
        ([(1, CONTROL_FILE), (1, replace(CONTROL_FILE, local_start_lsn=Lsn(START + 8)))], ["12"]),
        ([(1, NEXT), (1, CONTROL_FILE)], ["18"]),
        ([(3, replace(CONTROL_FILE, configuration=STRANGERS))], ["19"]),
        ([(1, CONTROL_FILE), (2, replace(CONTROL_FILE, configuration=STRANGERS))], ["38"]),
    ],
)
async def test_what_a_disk_must_not_have_is_told_by_its_rule(
    kept: Sequence[tuple[int, ControlFile]], rules: Sequence[str]
) -> None:
    await trio.lowlevel.checkpoint()
    assert accused(*kept) == rules
