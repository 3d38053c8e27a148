"""The example's PostgreSQL, made as its image makes it: nothing waits for a sidecar that cannot be there yet.

The image starts a server of its own, without TCP, runs the script of the ConfigMap against it, stops it, and starts the
server that stays; both read the same configuration.  Then the sidecar of the same pod leads, and commits return.
"""

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx2

import postgres
import programs
from deploy.manifests import load
from fix_postgres import NewCluster

PASSWORD = "it's secret"
SCRIPT_SECONDS = 30.0
READY_SECONDS = 60.0

Files = dict[str, str]


def configuration() -> Files:
    """The files of the ConfigMap."""
    found: Files = load("sidecar-example").one("ConfigMap", "postgres")["data"]
    return found


def where_secrets_are_mounted() -> str:
    (postgresql,) = [pod.spec["containers"][0] for pod in load("sidecar-example").pods()]
    (found,) = [each["mountPath"] for each in postgresql["volumeMounts"] if each["name"] == "secrets"]
    return str(found)


def run_script(cluster: postgres.Cluster, script: str, secrets: Path) -> str:
    """As the image does, with a shell; what it said."""
    secrets.mkdir()
    (secrets / "keeper-password").write_text(PASSWORD)
    cluster.account.own(secrets)
    environment = {
        "POSTGRES_USER": cluster.superuser,
        "POSTGRES_DB": "postgres",
        "PGHOST": str(cluster.directory),
        "PGPORT": str(cluster.port),
        "PATH": f"{cluster.binaries.directory}:/usr/bin:/bin",
    }
    shell = shutil.which("bash")
    assert shell is not None
    text = script.replace(where_secrets_are_mounted(), str(secrets))
    command = [shell, "-Eeo", "pipefail", "-c", text]
    return cluster.account.run(command, cwd="/", seconds=SCRIPT_SECONDS, env=environment).stdout


def make_database(cluster: postgres.Cluster) -> None:
    """All that the image does before the server that stays."""
    files = configuration()
    cluster.initdb()
    with (cluster.data / "postgresql.conf").open("a") as file:
        file.write(files["postgresql.conf"])
    cluster.configure(listen_addresses="127.0.0.1")  # all else as it is deployed
    cluster.start()
    assert cluster.sql("SHOW synchronous_standby_names") == ""
    run_script(cluster, files["walkeeper.sh"], cluster.directory / "secrets")
    assert cluster.sql("SHOW synchronous_standby_names") == ""
    cluster.stop()
    (cluster.data / "pg_hba.conf").write_text(files["pg_hba.conf"].replace("peer", "trust"))


def test_commits_wait_for_the_sidecar_from_the_second_server_on(new_cluster: NewCluster) -> None:
    cluster = new_cluster("primary")
    make_database(cluster)
    cluster.start()
    assert cluster.sql("SHOW synchronous_standby_names") == "walkeeper"
    assert cluster.sql("SHOW max_slot_wal_keep_size") == "4GB"
    assert cluster.sql("SHOW synchronous_commit") == "on"
    assert cluster.sql("SELECT pg_has_role('keeper', 'pg_monitor', 'usage')") == "t"  # for `why-blocked`
    identified = cluster.run("psql", cluster.conninfo("keeper", password=PASSWORD, replication="true"),
                             "-w", "-X", "-A", "-t", "-c", "IDENTIFY_SYSTEM")  # fmt: skip
    assert str(cluster.system_identifier()) in identified.stdout
    refused = cluster.run("psql", cluster.conninfo("keeper", password="wrong", replication="true"),
                          "-w", "-X", "-c", "IDENTIFY_SYSTEM", check=False)  # fmt: skip
    assert "password authentication failed" in refused.stderr


def sidecar_of(cluster: postgres.Cluster, keepers: Sequence[programs.Keeper], port: int) -> programs.Program:
    """The example's sidecar, told what it is told there, with the addresses that there are here."""
    manifests = load("sidecar-example")
    pod, container = next(manifests.ours())
    environment = pod.environment(container)
    for keeper, host in zip(keepers, environment["WALKEEPER_KEEPERS"].split(","), strict=True):
        environment["WALKEEPER_KEEPERS"] = environment["WALKEEPER_KEEPERS"].replace(host, keeper.address)
    environment["WALKEEPER_PRIMARY"] = environment["WALKEEPER_PRIMARY"].replace(
        "port=5432", f"port={cluster.port}"
    )
    environment["WALKEEPER_LISTEN_HTTP"] = f"127.0.0.1:{port}"
    environment["PGPASSWORD"] = PASSWORD
    variables = [f"{name}={text}" for name, text in environment.items()]
    command = ["env", *variables, programs.PROGRAM, *container["args"]]
    return programs.Program("sidecar", command, cluster.directory / "sidecar.log")


def wait_until_ready(sidecar: programs.Program, port: int) -> None:
    """As its pod is."""
    _, container = next(load("sidecar-example").ours())
    url = f"http://127.0.0.1:{port}{container['readinessProbe']['httpGet']['path']}"
    deadline = time.monotonic() + READY_SECONDS
    with httpx2.Client() as client:
        while time.monotonic() < deadline:
            try:
                if client.get(url).status_code == 200:
                    return
            except httpx2.ConnectError:
                pass  # it has not got so far yet
            sidecar.pause()
    raise programs.ProgramFailed(f"the sidecar was not ready after {READY_SECONDS} s\n{sidecar.log[-2000:]}")


def test_commits_return_when_the_sidecar_is_ready(new_cluster: NewCluster, work_directory: Path) -> None:
    cluster = new_cluster("primary")
    make_database(cluster)
    ports = postgres.free_ports(7)
    with ExitStack() as stack:
        keepers = [
            stack.enter_context(programs.Keeper.prepare(work_directory, number, pg_port, http_port))
            for number, pg_port, http_port in zip((1, 2, 3), ports[:3], ports[3:6], strict=True)
        ]
        sidecar = stack.enter_context(sidecar_of(cluster, keepers, ports[6]))
        for each in (*keepers, sidecar):
            each.start()  # the sidecar before its primary: containers of a pod start together
        cluster.start()
        wait_until_ready(sidecar, ports[6])
        cluster.sql("CREATE TABLE kept (n int)")
        assert cluster.sql("SELECT application_name, sync_state FROM pg_stat_replication") == "walkeeper\tsync"
        assert sidecar.stop() == 0
