"""The example's PostgreSQL, made as its image makes it: nothing waits for a sidecar that cannot be there yet.

The image starts a server of its own, without TCP, runs the script of the ConfigMap against it, stops it, and starts the
server that stays; both read the same configuration.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import postgres
from deploy.manifests import load

PASSWORD = "it's secret"
SCRIPT_SECONDS = 30.0

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


def test_commits_wait_for_the_sidecar_from_the_second_server_on(
    new_cluster: Callable[[str], postgres.Cluster],
) -> None:
    cluster, files = new_cluster("primary"), configuration()
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
    cluster.start()
    assert cluster.sql("SHOW synchronous_standby_names") == "walkeeper"
    assert cluster.sql("SHOW max_slot_wal_keep_size") == "4GB"
    assert cluster.sql("SELECT setting FROM pg_settings WHERE name = 'synchronous_commit'") == "on"
    identified = cluster.run("psql", cluster.conninfo("keeper", password=PASSWORD, replication="true"),
                             "-w", "-X", "-A", "-t", "-c", "IDENTIFY_SYSTEM")  # fmt: skip
    assert str(cluster.system_identifier()) in identified.stdout
    refused = cluster.run("psql", cluster.conninfo("keeper", password="wrong", replication="true"),
                          "-w", "-X", "-c", "IDENTIFY_SYSTEM", check=False)  # fmt: skip
    assert "password authentication failed" in refused.stderr
