
/* The status page.  It watches /v1/walkeeper/overview and draws what comes.  Whatever others have named themselves goes through
   textContent; nothing here makes markup of text. */
"use strict";
(() => {
  const OVERVIEW = "/v1/walkeeper/overview?watch=true&find=";
  const SILENCE_MS = 3500;      // overviews come every second: after so long the keeper is taken for lost
  const RETRY_MS = 700;
  const WINDOW_SECONDS = 120;   // what charts show
  const SAMPLES_MAX = 150;      // and what is remembered for them
  const TOKEN = "walkeeper-token";

  const $ = (id) => document.getElementById(id);

  // ---- words ---------------------------------------------------------------------------------------------

  const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  function bytes(count) {
    if (count == null) return "–";
    let unit = 0;
    while (Math.abs(count) >= 1023.5 && unit < UNITS.length - 1) { count /= 1024; unit++; }
    return `${unit && Math.abs(count) < 9.95 ? count.toFixed(1) : Math.round(count)} ${UNITS[unit]}`;
  }
  const rate = (count) => (count == null ? "–" : `${bytes(count)}/s`);
  function seconds(count) {
    if (count == null) return "–";
    if (count < 0.0005) return "0 s";
    if (count < 1) return `${Math.round(count * 1000)} ms`;
    if (count < 9.95) return `${count.toFixed(1)} s`;
    if (count < 120) return `${Math.round(count)} s`;
    const minutes = Math.round(count / 60);
    if (minutes < 120) return `${minutes} min`;
    const hours = Math.floor(minutes / 60);
    return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
  }
  const clock = (at) => new Date(at * 1000).toLocaleTimeString([], { hour12: false });
  const number = (count) => count.toLocaleString("en");
  const plural = (count, one, many) => `${number(count)} ${count === 1 ? one : many}`;
  const LSN = /^([0-9A-F]+)\/([0-9A-F]+)$/i;
  function lsn(text) {
    const parts = LSN.exec(text ?? "");
    return parts ? (BigInt(`0x${parts[1]}`) << 32n) + BigInt(`0x${parts[2]}`) : 0n;
  }
  const ahead = (a, b) => { const gap = Number(lsn(a) - lsn(b)); return gap > 0 ? gap : 0; };
  const worst = (problems) => (problems.some((each) => each.level === "red") ? "red" : problems.length ? "amber" : "");

  // ---- nodes ---------------------------------------------------------------------------------------------

  function el(tag, className, ...inside) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    node.append(...inside);
    return node;
  }
  function put(node, value) {
    const text = value == null || value === "" ? "–" : String(value);
    if (node.textContent !== text) node.textContent = text;
  }
  function style(node, base, ...levels) {
    const className = [base, ...levels].filter(Boolean).join(" ");
    if (node.className !== className) node.className = className;
  }
  /* One child of `parent` for each of `items`, in their order; `make` gives {node, update, gone}. */
  function list(parent, items, keyOf, make) {
    const known = parent.views ?? (parent.views = new Map());
    const wanted = new Map(items.map((item, index) => [keyOf(item, index), item]));
    for (const [key, view] of known) {
      if (!wanted.has(key)) { view.gone?.(); view.node.remove(); known.delete(key); }
    }
    let place = parent.firstChild;
    for (const [key, item] of wanted) {
      let view = known.get(key);
      if (!view) { view = make(item); known.set(key, view); }
      if (view.node === place) place = place.nextSibling;
      else parent.insertBefore(view.node, place);
      view.update(item);
    }
  }
  function fact(label) {
    const value = el("div", "value");
    const node = el("div", "fact", el("div", "label", label), value);
    return { node, set(text, level = "", title = "") { put(value, text); style(node, "fact", level); if (node.title !== title) node.title = title; } };
  }
  function facts(node, ...labels) {
    const made = labels.map(fact);
    node.append(...made.map((each) => each.node));
    return made;
  }
  function notes(parent, problems) {
    list(parent, problems, (each, index) => `${index} ${each.cell}`, () => {
      const what = el("b"), advice = el("span"), see = el("span", "see");
      const node = el("li", "note", what, " ", advice, " ", see);
      return { node, update(each) { style(node, "note", each.level); put(what, each.what); put(advice, each.advice); put(see, `docs/operations.md, “${each.see}”`); } };
    });
  }
  const level = (problems, ...cells) => worst(problems.filter((each) => cells.includes(each.cell)));
  function table(...columns) {
    const body = el("tbody");
    const head = el("tr", "", ...columns.map((name) => el("th", name.startsWith(">") ? "num" : "", name.replace(">", ""))));
    const node = el("table", "", el("thead", "", head), body);
    return { node, body };
  }
  function row(cells) {
    const made = cells.map((name) => el("td", name));
    return { node: el("tr", "", ...made), cells: made };
  }

  // ---- charts --------------------------------------------------------------------------------------------

  const POWERS = Array.from({ length: 50 }, (_, power) => 2 ** power);
  const charts = new Set();
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function chart(host, label, format, ink, least) {
    const now = el("span", "now"), plot = el("div", "plot");
    const node = el("div", "card chart", el("div", "head", el("span", "label", label), now), plot);
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", `${label}, the last two minutes`);
    host.append(node);
    let drawn = null, data = [[], []];
    const build = () => {
      drawn?.destroy();
      const width = plot.clientWidth;
      drawn = width ? new uPlot(options(width, format, color(ink), least), data, plot) : null;
    };
    const resized = new ResizeObserver(() => {
      if (!drawn) build();
      else if (plot.clientWidth && drawn.width !== plot.clientWidth) drawn.setSize({ width: plot.clientWidth, height: 92 });
    });
    resized.observe(plot);
    const made = {
      build,
      set(times, values) {
        data = [times, values];
        put(now, format(values.at(-1)));
        drawn?.setData(data);
      },
      gone() { resized.disconnect(); drawn?.destroy(); charts.delete(made); },
    };
    charts.add(made);
    return made;
  }
  function options(width, format, ink, least) {
    const font = "11px system-ui, sans-serif", muted = color("--muted"), line = color("--line");
    return {
      width, height: 92, padding: [6, 14, 0, 0], legend: { show: false }, cursor: { show: false }, select: { show: false },
      scales: {
        x: { time: true, range: (_, low, high) => [Math.max(high - WINDOW_SECONDS, Math.min(low, high - 20)), high] },
        y: { range: (_, low, high) => [0, Math.max(high * 1.2, least)] },
      },
      axes: [
        { font, stroke: muted, size: 20, space: 80, grid: { show: false }, ticks: { show: false },
          values: (_, at) => at.map(clock), incrs: [5, 10, 20, 30, 60] },
        { font, stroke: muted, size: 62, space: 28, ...(format === seconds ? {} : { incrs: POWERS }), gap: 2, grid: { stroke: line, width: 1 }, ticks: { show: false },
          values: (_, values) => values.map((each) => format(each)) },
      ],
      series: [{}, { stroke: ink, fill: `${ink}22`, width: 1.6, points: { show: false } }],
    };
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((each) => each.build()));

  /* What charts show of one thing: columns of numbers, as many as there are names. */
  function series(...names) {
    const kept = { times: [] };
    for (const name of names) kept[name] = [];
    return {
      kept,
      push(at, values) {
        if (kept.times.at(-1) >= at) return;
        kept.times.push(at);
        for (const name of names) kept[name].push(values[name]);
        if (kept.times.length > SAMPLES_MAX) for (const column of Object.values(kept)) column.shift();
      },
    };
  }
  function spark(polyline, values) {
    const top = Math.max(1, ...values.map((each) => each ?? 0)), shown = values.slice(-60);
    const points = shown.map((each, index) => `${120 - (shown.length - 1 - index) * 2},${24 - 22 * ((each ?? 0) / top)}`);
    polyline.setAttribute("points", points.join(" "));
  }

  // ---- what is remembered ----------------------------------------------------------------------------------

  let latest = null, find = "";
  const flow = series("written", "waiting", "lag", "flush");
  const remembered = new Map();   // of timelines that were shown of late
  let before = null;              // the totals of the overview before

  const nameOf = (timeline) => `${timeline.tenant_id}/${timeline.timeline_id}`;

  function remember(overview) {
    const { at, totals, keeper } = overview;
    if (before && before.at >= at) return;
    if (before && before.started !== keeper.started_at) { before = null; remembered.clear(); }
    const written = before && at > before.at ? Math.max(0, totals.flushed_bytes - before.flushed) / (at - before.at) : null;
    flow.push(at, { written, waiting: totals.behind_bytes, lag: keeper.loop_lag_peak_seconds, flush: keeper.flush_peak_seconds });
    before = { at, flushed: totals.flushed_bytes, started: keeper.started_at };
    for (const timeline of overview.timelines) {
      const key = nameOf(timeline);
      let known = remembered.get(key);
      if (!known) { known = { samples: series("rate", "waiting", "commit"), at: 0, flushed: 0 }; remembered.set(key, known); }
      const gained = known.at && at > known.at ? Math.max(0, timeline.flushed_bytes - known.flushed) / (at - known.at) : null;
      known.samples.push(at, { rate: gained, waiting: timeline.behind_bytes, commit: lsn(timeline.positions?.commit_lsn) });
      known.at = at;
      known.flushed = timeline.flushed_bytes;
    }
    for (const [key, known] of remembered) if (at - known.at > SAMPLES_MAX) remembered.delete(key);
  }
  /* Stock PostgreSQL's tenant and timeline are the same. */
  function shortName(name) {
    const [tenant, timeline] = name.split("/");
    return tenant === timeline ? tenant : name;
  }
  const samplesOf = (timeline) => remembered.get(nameOf(timeline))?.samples.kept;

  /* How long ago what a reader has was the end of what is committed, as far as this page remembers. */
  function readerSeconds(timeline, sender) {
    if (!sender.lag_bytes) return "0 s";
    const kept = samplesOf(timeline), has = lsn(timeline.positions?.commit_lsn) - BigInt(sender.lag_bytes);
    const index = kept ? kept.commit.findIndex((commit) => commit > has) : -1;
    if (index < 0) return "–";
    const ago = kept.times.at(-1) - kept.times[index];
    return index === 0 ? `> ${seconds(ago)}` : seconds(ago);
  }

  // ---- keepers -------------------------------------------------------------------------------------------

  function keeperCard() {
    const name = el("span", "name"), badge = el("span", "badge"), where = el("div", "where muted mono");
    const grid = el("div", "facts"), told = el("ul", "notes");
    const [up, memory, loop, flush, disk, version] = facts(grid, "up for", "memory", "loop lag, worst", "fsync, worst", "disk jobs", "version");
    const node = el("article", "card keeper", el("div", "top", name, badge), where, grid, told);
    return {
      node,
      update(item) {
        const { keeper, problems } = item;
        put(name, keeper ? `Keeper ${keeper.id}` : "Keeper ?");
        put(where, item.where);
        style(node, "card keeper", worst(problems));
        const [word, how] = item.standing;
        put(badge, word);
        style(badge, "badge", how);
        grid.hidden = !item.isAnswering;
        if (keeper && item.isAnswering) {
          up.set(seconds(item.at - keeper.started_at));
          memory.set(bytes(keeper.memory_bytes));
          loop.set(seconds(keeper.loop_lag_peak_seconds), level(problems, "loop"), "in the last minute or two");
          flush.set(seconds(keeper.flush_peak_seconds), level(problems, "flush"), "in the last minute or two");
          disk.set(keeper.disk_jobs ? `${keeper.disk_jobs}, ${seconds(keeper.disk_oldest_job_seconds)}` : "0", level(problems, "disk"));
          version.set(keeper.version);
        }
        notes(told, problems);
      },
    };
  }
  function standingOf(keeper) {
    if (keeper.is_ready) return ["serving", "green"];
    return keeper.state === "starting" ? ["not ready", "red"] : [keeper.state === "serving" ? "behind" : keeper.state, "amber"];
  }
  function keepersOf(overview) {
    const { at, keeper } = overview;
    const own = { key: "", keeper, at, problems: keeper.problems, isAnswering: true, standing: standingOf(keeper), where: `${keeper.http} · this one` };
    const others = overview.peers.map((peer) => ({
      key: peer.address, keeper: peer.keeper, at, problems: peer.problems, isAnswering: peer.is_answering, where: peer.address,
      standing: peer.is_answering ? standingOf(peer.keeper) : [`${worst(peer.problems) === "red" ? "lost" : "closed"} for ${seconds(Math.max(0, at - peer.since))}`, worst(peer.problems)],
    }));
    return [own, ...others].sort((a, b) => (a.keeper?.id ?? Infinity) - (b.keeper?.id ?? Infinity));
  }

  // ---- timelines -----------------------------------------------------------------------------------------

  const STAGES = [
    ["flush_lsn", "flushed here", "durable on this keeper's disk"],
    ["commit_lsn", "committed", "durable on a majority"],
    ["peer_horizon_lsn", "peer horizon", "every keeper has it"],
    ["backup_lsn", "backed up", "in remote storage"],
    ["remote_consistent_lsn", "remote consistent", "no pageserver needs it"],
    ["start_lsn", "begins", "the oldest WAL here"],
  ];

  function timelineCard(first) {
    const ids = el("div", "ids"), grid = el("div", "line", ids);
    const [standing, term, committed, speed, waiting, streams] = facts(grid, "standing", "term", "committed up to", "writes", "waiting WAL", "writers / readers");
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 120 26");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("class", "spark");
    svg.setAttribute("aria-hidden", "true");
    const polyline = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    svg.append(polyline);
    grid.append(el("div", "sparkle", svg));
    const told = el("ul", "notes");
    const node = el("details", "card timeline", el("summary", "", grid, told));
    let inside = null, item = first;
    node.addEventListener("toggle", () => {
      if (node.open && !inside) { inside = timelineInside(); node.append(inside.node); inside.update(item); }
      else if (!node.open && inside) { inside.gone(); inside.node.remove(); inside = null; }
    });
    return {
      node,
      open() { node.open = true; },
      gone() { inside?.gone(); },
      update(timeline) {
        item = timeline;
        const { problems } = timeline, kept = samplesOf(timeline), open = timeline.standing === "open";
        put(ids, shortName(nameOf(timeline)));
        style(node, "card timeline", worst(problems) || (timeline.receivers_count ? "green" : ""));
        const whole = open && !timeline.is_whole;
        standing.set(whole ? "not whole" : open ? (timeline.receivers_count ? "written" : "idle") : timeline.standing, level(problems, "standing", "whole", "fuse"));
        term.set(timeline.term);
        committed.set(timeline.positions?.commit_lsn);
        speed.set(kept ? rate(kept.rate.at(-1)) : "–");
        const late = timeline.behind_seconds >= 1 ? `, ${seconds(timeline.behind_seconds)}` : "";
        waiting.set(open ? `${bytes(timeline.behind_bytes)}${late}` : "–", level(problems, "behind"), "flushed here, and not known to be on a majority");
        streams.set(`${timeline.receivers_count} / ${timeline.senders_count}`, level(problems, "readers"));
        if (kept) spark(polyline, kept.rate);
        notes(told, problems);
        inside?.update(timeline);
      },
    };
  }

  function timelineInside() {
    const stages = table("stage", "LSN", ">behind flushed"), keepers = table("keeper", "term", "flushed", ">behind the first", ">committed");
    const writers = table("writer", "from", "at", ">queued"), readers = table("reader", "from", ">sent", ">lag"), about = el("p", "muted");
    const plots = el("div", "charts"), noWriters = el("p", "none", "Nobody writes."), noReaders = el("p", "none", "Nobody reads.");
    const speed = chart(plots, "written", rate, "--blue", 1024), waiting = chart(plots, "waiting for a majority", bytes, "--violet", 1024);
    const block = (title, ...inside) => el("div", "block", el("h3", "", title), ...inside);
    const node = el("div", "inside",
      plots, block("WAL by stage", stages.node),
      el("div", "columns", block("The same on every keeper", keepers.node), about),
      el("div", "columns", block("Who writes", writers.node, noWriters), block("Who reads", readers.node, noReaders)));
    return {
      node,
      gone() { speed.gone(); waiting.gone(); },
      update(timeline) {
        const kept = samplesOf(timeline), { positions } = timeline;
        if (kept) { speed.set(kept.times, kept.rate); waiting.set(kept.times, kept.waiting); }
        list(stages.body, positions ? STAGES : [], ([field]) => field, ([field, name, meaning]) => {
          const made = row(["", "lsn", "num"]);
          made.cells[0].append(name, el("span", "hint", meaning));
          return { node: made.node, update() { const at = latestOf(timeline).positions?.[field]; const zero = lsn(at) === 0n; put(made.cells[1], zero ? "–" : at); put(made.cells[2], zero ? "–" : bytes(ahead(latestOf(timeline).positions.flush_lsn, at))); } };
        });
        put(about, aboutOf(timeline));
        keeperRows(keepers.body, timeline);
        streamRows(writers, noWriters, timeline.receivers, (each, cells) => {
          put(cells[0], each.application_name ?? "a writer"); put(cells[1], each.peer); put(cells[2], each.status);
          put(cells[3], each.waiting_messages ? `${each.waiting_messages}, ${bytes(each.waiting_bytes)}` : "0");
        });
        streamRows(readers, noReaders, timeline.senders, (each, cells) => {
          put(cells[0], `${each.application_name ?? "?"} (${each.kind})`); put(cells[1], each.peer); put(cells[2], each.sent_lsn);
          put(cells[3], each.lag_bytes ? `${bytes(each.lag_bytes)}, ${readerSeconds(timeline, each)}` : "0");
        });
      },
    };
  }
  const latestOf = (timeline) => latest.timelines.find((each) => nameOf(each) === nameOf(timeline)) ?? timeline;

  function aboutOf(timeline) {
    if (!timeline.positions) return "";
    const version = Math.floor(timeline.pg_version / 10000);
    const members = timeline.members.map((each) => `${each.id} (${each.address})${each.is_old === each.is_new ? "" : each.is_new ? " joining" : " leaving"}`);
    const who = members.length ? `Members, generation ${timeline.generation}: ${members.join(", ")}.` : "No membership configuration: the keepers that the writer lists.";
    const fuse = timeline.fuses_blown ? ` Fuse blown ${plural(timeline.fuses_blown, "time", "times")}.` : " Fuse whole.";
    return `PostgreSQL ${version || "?"}. Last entry of term ${timeline.last_log_term}. ${who}${fuse}`;
  }

  function keeperRows(body, timeline) {
    const own = { key: "", name: `${latest.keeper.id} (this one)`, ...flat(timeline) };
    const others = latest.peers.map((peer) => {
      const told = peer.timelines.find((each) => nameOf(each) === nameOf(timeline));
      const name = peer.keeper ? String(peer.keeper.id) : peer.address;
      return { key: peer.address, name, lost: !peer.is_answering, ...(told && peer.is_answering ? told : {}) };
    });
    const all = [own, ...others].sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
    const first = all.reduce((best, each) => (lsn(each.flush_lsn) > lsn(best) ? each.flush_lsn : best), "0/0");
    list(body, all, (each) => each.key, () => {
      const made = row(["", "", "lsn", "num", "num lsn"]);
      return {
        node: made.node,
        update(each) {
          const silent = each.lost ? "red" : each.flush_lsn ? "" : "amber";
          put(made.cells[0], each.name);
          style(made.cells[0], "", silent);
          put(made.cells[1], each.lost ? "lost" : each.term ?? "not told");
          style(made.cells[1], "", silent);
          put(made.cells[2], each.flush_lsn);
          put(made.cells[3], each.flush_lsn ? bytes(ahead(first, each.flush_lsn)) : "–");
          put(made.cells[4], each.commit_lsn);
        },
      };
    });
  }
  const flat = (timeline) => ({ term: timeline.term, flush_lsn: timeline.positions?.flush_lsn, commit_lsn: timeline.positions?.commit_lsn });

  function streamRows(made, none, items, fill) {
    made.node.hidden = !items.length;
    none.hidden = items.length > 0;
    list(made.body, items, (each) => each.connection, () => {
      const line = row(["", "", "lsn", "num"]);
      return { node: line.node, update(each) { fill(each, line.cells); } };
    });
  }

  const RANK = { red: 2, amber: 1, "": 0 };
  const ORDERS = {
    attention: (a, b) => RANK[worst(b.problems)] - RANK[worst(a.problems)] || (b.receivers_count > 0) - (a.receivers_count > 0) || ORDERS.name(a, b),
    behind: (a, b) => b.behind_bytes - a.behind_bytes || ORDERS.name(a, b),
    rate: (a, b) => (samplesOf(b)?.rate.at(-1) ?? 0) - (samplesOf(a)?.rate.at(-1) ?? 0) || ORDERS.name(a, b),
    readers: (a, b) => b.senders_count - a.senders_count || ORDERS.name(a, b),
    name: (a, b) => (nameOf(a) < nameOf(b) ? -1 : 1),
  };

  // ---- the whole -----------------------------------------------------------------------------------------

  const written = chart($("charts"), "WAL written", rate, "--blue", 1024);
  const waiting = chart($("charts"), "WAL waiting for a majority", bytes, "--violet", 1024);
  const lag = chart($("charts"), "event loop, latest it was", seconds, "--green", 0.01);
  const flush = chart($("charts"), "fsync of WAL, worst of late", seconds, "--amber", 0.01);
  let isFirst = true;

  function draw() {
    if (!latest || document.hidden) return;
    const { keeper, totals, timelines, events, peers } = latest;
    $("shown").hidden = false;
    put($("who"), `keeper ${keeper.id}`);
    list($("keepers"), keepersOf(latest), (each) => each.key, keeperCard);
    written.set(flow.kept.times, flow.kept.written);
    waiting.set(flow.kept.times, flow.kept.waiting);
    lag.set(flow.kept.times, flow.kept.lag);
    flush.set(flow.kept.times, flow.kept.flush);
    const shown = timelines.filter((each) => nameOf(each).includes(find)).sort(ORDERS[$("sort").value]);
    put($("count"), countOf(totals));
    $("more").textContent = moreOf(totals, shown.length);
    list($("timelines"), shown, nameOf, timelineCard);
    if (isFirst && shown.length && shown.length <= 2) [...$("timelines").views.values()][0].open();
    isFirst = isFirst && !shown.length;
    $("quiet").hidden = events.length > 0;
    list($("events"), events, (each) => each.number, eventLine);
    verdict(keeper, totals, timelines, peers);
  }
  function countOf(totals) {
    const parts = [number(totals.timelines), `${number(totals.written)} written`];
    if (totals.troubled) parts.push(`${number(totals.troubled)} with something to look at`);
    return parts.join(" · ");
  }
  function moreOf(totals, shown) {
    if (find && !shown) return "No timeline here has that in its name.";
    const all = find ? totals.found : totals.timelines;
    return all > shown ? `${number(shown)} of ${number(all)} are shown: those with something to look at, then those in use. Search for the others.` : "";
  }
  function verdict(keeper, totals, timelines, peers) {
    const levels = [worst(keeper.problems), ...peers.map((each) => worst(each.problems)), ...timelines.map((each) => worst(each.problems))];
    const red = levels.filter((each) => each === "red").length, amber = levels.filter((each) => each === "amber").length;
    const [word, how] = red ? [plural(red, "thing is red", "things are red"), "red"] : amber ? [plural(amber, "thing to look at", "things to look at"), "amber"] : ["all is well", "green"];
    put($("verdict"), word);
    style($("verdict"), "badge", how);
    document.title = `${red ? "✗ " : ""}keeper ${keeper.id} · walkeeper`;
  }
  function eventLine(event) {
    const fields = Object.entries(event.fields).map(([name, value]) => `${name}=${value}`);
    if (event.ttid && event.ttid !== "None") fields.unshift(shortName(event.ttid));
    const time = el("time", "", clock(event.at));
    time.dateTime = new Date(event.at * 1000).toISOString();
    const node = el("li", event.level, time, el("span", "what", el("b", "", event.text), " ", el("span", "fields", fields.join("  "))));
    return { node, update() {} };
  }

  // ---- the connection -------------------------------------------------------------------------------------

  let lostAt = null, lostWhy = "", heardAt = 0, attempt = null;

  function heard(overview) {
    latest = overview;
    heardAt = Date.now();
    lostAt = null;
    $("lost").hidden = true;
    $("asking").hidden = true;
    document.body.classList.remove("stale");
    remember(overview);
    draw();
  }
  function lost(why) {
    lostAt ??= Date.now();
    lostWhy = why;
    const since = new Date(lostAt).toLocaleTimeString([], { hour12: false });
    put($("lost"), `Connection lost, since ${since} (${seconds((Date.now() - lostAt) / 1000)}): ${why}.${latest ? " Below is what was known then." : ""} Trying again.`);
    $("lost").hidden = false;
    document.body.classList.add("stale");
    put($("verdict"), "lost");
    style($("verdict"), "badge", "red");
    document.title = `✗ ${latest ? `keeper ${latest.keeper.id}` : "keeper"} lost · walkeeper`;
  }
  function ask(why) {
    $("asking").hidden = false;
    put($("refused"), why);
    put($("verdict"), "wants a token");
    style($("verdict"), "badge", "amber");
  }

  async function watch(mine) {
    const token = sessionStorage.getItem(TOKEN);
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const answer = await fetch(OVERVIEW + find, { headers, signal: mine.signal, cache: "no-store" });
    if (answer.status === 401 || answer.status === 403) {
      sessionStorage.removeItem(TOKEN);
      ask(token ? "That token is not good here." : "");
      return false;
    }
    if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).msg ?? `HTTP status ${answer.status}`);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const { done, value } = await reader.read();
      if (done) throw new Error("the keeper ended the connection");
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      const event = parts.findLast((each) => each.startsWith("data: "));
      if (event && attempt === mine) heard(JSON.parse(event.slice(6)));
    }
  }
  async function keepWatching() {
    for (;;) {
      const mine = (attempt = new AbortController());
      let again = true, why = "";
      heardAt = Date.now();
      try {
        again = await watch(mine);
      } catch (error) {
        why = mine.silent ? "the keeper is silent" : error instanceof TypeError ? "the keeper cannot be reached" : error.message;
        if (mine.restarted) why = "";
      }
      if (why) lost(why);
      if (!again) await new Promise((go) => { answered = go; });
      else if (why) await new Promise((go) => setTimeout(go, RETRY_MS));
    }
  }
  let answered = () => {};

  $("asking").addEventListener("submit", (event) => {
    event.preventDefault();
    const token = $("token").value.trim();
    if (!token) return;
    sessionStorage.setItem(TOKEN, token);
    $("token").value = "";
    answered();
  });
  let typing = 0;
  $("find").addEventListener("input", () => {
    const wanted = $("find").value.trim().toLowerCase().replace(/\s*\/\s*/, "/");
    const isGood = /^[0-9a-f/]{0,65}$/.test(wanted);
    $("find").setAttribute("aria-invalid", String(!isGood));
    if (!isGood) { $("more").textContent = "Ids are hexadecimal digits."; return; }
    find = wanted;
    draw();
    clearTimeout(typing);
    typing = setTimeout(() => { attempt.restarted = true; attempt.abort(); }, 300);
  });
  $("sort").addEventListener("change", draw);
  document.addEventListener("visibilitychange", draw);
  setInterval(() => {
    if (attempt && Date.now() - heardAt > SILENCE_MS && !attempt.signal.aborted && $("asking").hidden) { attempt.silent = true; attempt.abort(); }
    if (lostAt) lost(lostWhy);
    put($("pulse"), latest ? `as of ${clock(latest.at)}` : "");
  }, 500);

  keepWatching();
})();
