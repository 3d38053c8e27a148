"""Results as text: one table of ratios, with absolute figures beside them for orientation.

Does not measure.
"""

from collections.abc import Iterable, Sequence
from statistics import median

from bench import serving
from bench.commits import Standings
from bench.scraping import P99_AIM, SCRAPE_SECONDS_AIM, TIMELINES, Scraping
from bench.serving import Contest, Served
from bench.side_by_side import BLOCKING, DISK, KEEPER, Comparison
from bench.stage import ALONE, CONTENDERS, RECEIVEWAL, SIDECAR_1

RATIOS_HEAD = ("workload", "keeper / blocking", "of all rounds", "aim", "", "keeper / disk", "blocking / disk")
FIGURES_HEAD = (
    "workload", "keeper", "blocking", "disk", "keeper p50/p99", "blocking p50/p99", "keeper CPU", "blocking CPU",
)  # fmt: skip


def ratios_table(comparisons: Sequence[Comparison]) -> str:
    """Throughputs compared, one line for each workload."""
    return table([RATIOS_HEAD, *map(_ratios, comparisons)])


def _ratios(one: Comparison) -> tuple[str, ...]:
    ratio, aim = one.ratio(KEEPER, BLOCKING), one.workload.aim
    to_disk = (f"{one.ratio(contender, DISK):.2f}" for contender in (KEEPER, BLOCKING))
    return (one.workload.name, f"{ratio:.2f}", _spread(one), f"{aim:.1f}", verdict(ratio >= aim), *to_disk)


def figures_table(comparisons: Sequence[Comparison]) -> str:
    """Absolute figures, one line for each workload."""
    return table([FIGURES_HEAD, *map(_figures, comparisons)])


def _figures(one: Comparison) -> tuple[str, ...]:
    rate = _megabytes if one.workload.is_pipelined else _appends
    return (
        one.workload.name,
        *(rate(one, contender) for contender in (KEEPER, BLOCKING, DISK)),
        *(_latencies(one, contender) for contender in (KEEPER, BLOCKING)),
        *(_cpu(one, contender) for contender in (KEEPER, BLOCKING)),
    )


def scraping_table(scraping: Scraping) -> str:
    """How long scrapes took, and what they did to commits."""
    seconds, ratio = scraping.scrape_seconds, scraping.p99_ratio
    return table(
        [
            ("timelines", "a scrape", "longest", "aim", "", "p99 scraped / alone", "of all rounds", "aim", ""),
            (
                str(TIMELINES),
                f"{median(seconds):.2f} s, {scraping.answer_bytes / 1e6:.1f} MB",
                f"{max(seconds):.2f} s",
                f"{SCRAPE_SECONDS_AIM:.1f} s",
                verdict(max(seconds) <= SCRAPE_SECONDS_AIM),
                f"{ratio:.2f}",
                spread([each.p99_ratio for each in scraping.rounds]),
                f"{P99_AIM:.1f}",
                verdict(ratio <= P99_AIM),
            ),
        ]
    )


def _spread(one: Comparison) -> str:
    """The lowest and the highest ratio of any round: how far to trust the median."""
    return spread(one.ratios(KEEPER, BLOCKING))


def spread(ratios: Sequence[float]) -> str:
    return f"{min(ratios):.2f}-{max(ratios):.2f}"


def verdict(is_met: bool) -> str:
    return "met" if is_met else "SHORT"


def _megabytes(one: Comparison, contender: str) -> str:
    return f"{one.middle(contender, lambda run: run.bytes_per_second) / 1e6:.0f} MB/s"


def _appends(one: Comparison, contender: str) -> str:
    return f"{one.middle(contender, lambda run: run.appends_per_second):.0f}/s"


def _latencies(one: Comparison, contender: str) -> str:
    if one.workload.is_pipelined:
        return "-"
    p50 = one.middle(contender, lambda run: run.latency_p50)
    p99 = one.middle(contender, lambda run: run.latency_p99)
    return f"{p50 * 1e3:.2f}/{p99 * 1e3:.2f} ms"


def _cpu(one: Comparison, contender: str) -> str:
    return f"{one.middle(contender, lambda run: run.cpu_seconds / run.appends) * 1e6:.1f} us"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be, the first one to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: Sequence[str], widths: Iterable[int]) -> str:
    cells = [
        cell.ljust(width) if column == 0 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


# ------------------------------------------------------------------------------------------------- commits

COMMIT_HEAD = ("clients", "synchronous standby", "/ pg_receivewal", "/ no standby", "mean", "median", "commits")

COMMIT_AIM = 1.1
"""How much longer a commit may take with the sidecar and one keeper than with pg_receivewal."""


def commits_table(standings: Sequence[Standings]) -> str:
    """One line for each number of clients and contender."""
    rows = [_commit_row(one, contender) for one in standings for contender in CONTENDERS]
    return "\n".join((table([COMMIT_HEAD, *rows]), "", *map(_commit_verdict, standings)))


def _commit_row(one: Standings, contender: str) -> tuple[str, ...]:
    return (
        str(one.clients),
        contender,
        f"{one.ratio(contender, RECEIVEWAL, lambda run: run.mean_ms):.2f}",
        f"{one.ratio(contender, ALONE, lambda run: run.mean_ms):.2f}",
        f"{one.middle(contender, lambda run: run.mean_ms):.2f} ms",
        f"{one.middle(contender, lambda run: run.median_ms):.2f} ms",
        f"{one.middle(contender, lambda run: run.per_second):.0f}/s",
    )


def _commit_verdict(one: Standings) -> str:
    ratio = one.ratio(SIDECAR_1, RECEIVEWAL, lambda run: run.mean_ms)
    judged = verdict(ratio <= COMMIT_AIM)
    return f"{SIDECAR_1} / {RECEIVEWAL} at {one.clients} clients: {ratio:.2f}, aim {COMMIT_AIM} at most: {judged}"


# ------------------------------------------------------------------------------------------------- serving

SERVING_HEAD = (
    "readers", "keeper / walsender", "of all rounds", "aim", "", "readers alone", "keeper", "walsender",
    "CPU ratio", "keeper CPU", "walsender CPU", "subtracted",
)  # fmt: skip

SERVING_AIM = 1.0
"""How fast a keeper should serve, as a ratio to PostgreSQL's own walsender."""


def serving_table(contests: Sequence[Contest]) -> str:
    """One line for each scenario."""
    return table([SERVING_HEAD, *map(_serving_row, contests)])


def _serving_row(one: Contest) -> tuple[str, ...]:
    ratio = one.ratio(_speed)
    servers = (serving.KEEPER, serving.WALSENDER)
    return (
        one.scenario.name,
        f"{ratio:.2f}",
        spread(one.ratios(_speed)),
        f"{SERVING_AIM:.1f}",
        verdict(ratio >= SERVING_AIM),
        f"{one.ratio(lambda run: run.reader_bytes_per_second):.2f}",
        *(f"{one.middle(server, _speed) / 1e6:.0f} MB/s" for server in servers),
        f"{one.ratio(_cpu_per_byte):.2f}",
        *(_per_gigabyte(one.middle(server, _cpu_per_byte)) for server in servers),
        _per_gigabyte(one.middle(serving.KEEPER, lambda run: run.subtracted_cpu_seconds_per_byte)),
    )


def _per_gigabyte(seconds_per_byte: float) -> str:
    return f"{seconds_per_byte * 1e9:.2f} s/GB"


def _speed(one: Served) -> float:
    return one.bytes_per_second


def _cpu_per_byte(one: Served) -> float:
    return one.cpu_seconds_per_byte
