// Draws each chart with uPlot, one after another. The table beside it shows the values under the
// crosshair, which a click holds, and its names switch lines.
"use strict";

const HEIGHT = 240;
const LABEL_ROWS = 3; // of changes, above a plot
const RARITIES = [2, 10, 100, 1e3, 1e4, 1e5, 1e6];
const charts = [];

const digits = (value) => (value < 999.5 ? value.toPrecision(3) : value.toFixed());

// A value of an axis or a table: times in us, as the tables of a page have them, others without
// their unit.
const valueText = (value, unit) => digits(value) + (unit === "us" ? " µs" : "");

const FORMS = {
  time: (seconds) => `${new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ")} UTC`,
  bytes: (size) => {
    const power = Math.floor(Math.log2(size) / 10);
    return Number((size / 1024 ** power).toPrecision(3)) + ["", "K", "M", "G"][power];
  },
  one_in: (steps) => `P${Number((100 - 100 / steps).toFixed(1 + Math.log10(steps)))}`,
};

// Zooms all charts of the page that share an axis, or shows everything.
function zoom(kind, min, max) {
  for (const { plot, data } of charts) {
    if (data.kind !== kind) continue;
    if (max) plot.setScale("x", { min, max });
    else plot.setData(plot.data);
  }
}

// `+` and `-` zoom around the crosshair, which stays at its point and its place.
function grow({ plot, data: { kind, x } }, at, times) {
  const width = plot.over.clientWidth;
  const place = Math.min(Math.max(plot.valToPos(x[at], "x"), 0), width);
  const ends = [0, width].map((end) => plot.posToVal(place + (end - place) / times, "x"));
  const [min, max] = [Math.max(ends[0], x[0]), Math.min(ends[1], x.at(-1))];
  if (min > x[0] || max < x.at(-1)) zoom(kind, min, max);
  else zoom(kind);
  // uPlot scales in a microtask, which was queued before this one.
  queueMicrotask(() => plot.setCursor({ left: plot.valToPos(x[at], "x"), top: 8 }));
}

function pressed(chart, event) {
  const { plot, data: { kind, x, links } } = chart;
  const [first, last] = plot.series[0].idxs;
  const at = plot.cursor.idx ?? last;
  const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const times = { "+": 2, "-": 0.5 }[event.key];
  if (move) {
    const next = Math.min(Math.max(at + move, first), last);
    plot.setCursor({ left: plot.valToPos(x[next], "x"), top: 8 });
  } else if (times) grow(chart, at, times);
  else if (event.key === "Escape") zoom(kind);
  else if (event.key === "Enter" && links[at]) location.assign(links[at]);
  else return;
  event.preventDefault();
}

// A row for each span of a label, so that none lies on another, the last first; -1 without room.
function rowsOf(spans) {
  const rows = Array.from({ length: LABEL_ROWS }, () => []);
  return spans.toReversed().map((span) => {
    const isFree = (row) => row.every(([low, high]) => span[1] <= low || high <= span[0]);
    const row = rows.findIndex(isFree);
    rows[row]?.push(span);
    return row;
  }).toReversed();
}

// What uPlot does not: the name of each line at its end, none over another, and none below the
// plot; and the changes.
function drawMarks(plot, steps, colour) {
  const { ctx, series, data, bbox: { left, top, width, height } } = plot;
  const pixel = devicePixelRatio;
  ctx.save();
  ctx.font = `${11 * pixel}px system-ui`;
  ctx.textBaseline = "middle";
  ctx.textAlign = "left";
  const [, last] = series[0].idxs;
  const ends = series.flatMap(({ name, show, stroke }, n) => {
    const value = show && name && data[n].slice(0, last + 1).findLast((each) => each !== null);
    return value ? [{ y: plot.valToPos(value, "y", true), name, colour: stroke() }] : [];
  });
  let least = top, most = top + height - 12 * pixel * ends.length;
  for (const { y, name, colour } of ends.sort((a, b) => a.y - b.y)) {
    most += 12 * pixel;
    least = Math.max(least, Math.min(y, most));
    ctx.fillStyle = colour;
    ctx.fillText(name, left + width + 6 * pixel, least);
    least += 12 * pixel;
  }
  const places = steps.map(({ at, ...step }) => {
    const [first, ...ends] = at.map((value) => plot.valToPos(value, "x", true));
    return { ...step, first, ends };
  }).filter(({ first }) => left <= first && first <= left + width);
  const spans = places.map(({ first, text }) => {
    const room = ctx.measureText(` ${text} `).width;
    const start = first > left + width / 2 ? first - room : first;
    const kept = Math.max(0, Math.min(start, ctx.canvas.width - room));
    return [kept, kept + room];
  });
  const rows = rowsOf(spans);
  for (const [n, { first, ends, role, text }] of places.entries()) {
    const [low, high] = ends.map((end) => Math.min(Math.max(end, left), left + width));
    ctx.strokeStyle = ctx.fillStyle = colour(role);
    ctx.globalAlpha = 0.15;
    ctx.fillRect(low, top, high - low, height);
    ctx.globalAlpha = 1;
    ctx.strokeRect(first, top, 0, height);
    if (rows[n] >= 0) ctx.fillText(` ${text} `, spans[n][0], top - (8 + 12 * rows[n]) * pixel);
  }
  ctx.restore();
}

// uPlot's series, bands and values: each line, the ends of its intervals, which are not drawn, and
// the levels between its changes, if it has dots.
function seriesOf({ x, lines }, colour) {
  const series = [{}], bands = [], values = [x];
  lines.forEach(({ name, role, shown: show, levels: [level], points: [middle, ...ends] }, line) => {
    const stroke = () => colour(role);
    const add = (numbers, options) => {
      const points = { show: false };
      series.push({ line, show, stroke, spanGaps: true, width: 1.5, points, ...options });
      values.push(numbers);
    };
    const points = { size: 4, fill: stroke, show: true };
    const dash = { bound: [6, 4], dotted: [2, 4] }[role.split(" ").at(-1)];
    add(middle, { name, points, dash, ...(level && { paths: () => null }) });
    if (ends.length) {
      const at = series.length;
      bands.push({ series: [at + 1, at], fill: () => colour(role).replace(")", ", 0.2)") });
      for (const end of ends) add(end, { width: 0, spanGaps: false });
    }
    if (level) add(level, { paths: uPlot.paths.stepped({ align: 1 }) });
  });
  return { series, bands, values };
}

// The positions whose names have room behind the one before; null for the others.
function apart(plot, positions) {
  let end = -Infinity;
  return positions.map((each) => {
    const at = plot.valToPos(each, "x");
    if (at < end) return null;
    end = at + 36;
    return each;
  });
}

// Times near each other go without the year, others without the time. Of percentiles, P50 and those
// that are ten times as rare as the one before have ticks.
function axesOf({ kind, unit, isLog }, colour) {
  const grid = { stroke: () => colour("edge"), width: 1 };
  const axis = { stroke: () => colour("steady"), grid };
  const place = (value, { min, max }) => {
    const isNear = kind === "time" && max - min < 4 * 86400;
    return FORMS[kind](value).slice(...(isNear ? [5, 16] : [0, 10]));
  };
  const named = (form) => (plot, values) => values.map((value) => value && form(value, plot.scales.x));
  return [
    {
      ...axis,
      values: named(place),
      size: 32,
      space: kind === "time" ? 76 : 40,
      ...(kind === "one_in" && {
        splits: (plot, at, low, high) => RARITIES.filter((each) => low <= each && each <= high),
        filter: apart,
      }),
    },
    {
      ...axis,
      values: named((value) => valueText(value, unit)),
      size: (plot, texts) => Math.max(64, ...(texts ?? []).map((text) => 16 + 7 * (text?.length ?? 0))),
      grid: { ...grid, show: !isLog },
    },
  ];
}

// Writes the values under the crosshair, or else the last in view, of percentiles those up to P99,
// into the table beside the chart.
function reader(figure, { kind, unit, x, lines, links }) {
  const [head, ...rows] = figure.querySelectorAll("tr");
  const isMark = (steps) => steps <= 100 && RARITIES.includes(steps);
  return ({ cursor: { idx, _lock: isHeld }, series: [{ idxs }] }) => {
    const at = idx ?? (kind === "one_in" ? x.findLastIndex(isMark) : idxs[1]);
    const where = FORMS[kind](x[at]);
    const link = { href: links[at], textContent: where };
    head.cells[0].replaceChildren(links[at] ? make("a", link) : where);
    figure.classList.toggle("held", isHeld);
    lines.forEach(({ points }, n) => {
      const [value, ...ends] = points.map(({ [at]: each }) => each && valueText(each, unit));
      const known = ends.some(Boolean) ? ends.map((end) => end ?? "-").join(" ") : "-";
      const interval = value && ends.length ? ` [${known}]` : "";
      rows[n].cells[1].textContent = (value ?? "-") + interval;
    });
  };
}

function draw(figure) {
  const data = JSON.parse(figure.querySelector("script").textContent);
  const { x, kind, steps, lines, isLog } = data;
  const place = figure.querySelector(".plot");
  const probe = place.appendChild(make("i"));
  const colour = (role) => {
    probe.className = role;
    return getComputedStyle(probe).color;
  };
  const width = () => place.clientWidth;
  const zoomName = kind === "one_in" ? "zoom-percentiles" : "zoom";
  const back = buttonIn(figure, () => zoom(kind), "Show all");
  const read = reader(figure, data);
  const zoomed = ({ status, scales }, scale) => {
    if (scale !== "x") return;
    const { min, max } = scales.x;
    back.hidden = min <= x[0] && max >= x.at(-1);
    if (status) remember(zoomName, !back.hidden && [min, max].map(Math.round).join("-"));
  };
  const letters = Math.max(...lines.map(({ name }) => name.length));
  const [min, max] = state.get(zoomName)?.split("-").map(Number).filter(Boolean) ?? [];
  const { values, ...series } = seriesOf(data, colour);
  const plot = new uPlot({
    width: width(),
    height: HEIGHT,
    padding: [8 + 12 * Math.min(steps.length, LABEL_ROWS), 16 + 6.5 * letters, 0, 0],
    ...series,
    scales: {
      x: {
        time: kind === "time",
        distr: kind === "time" ? 1 : 3,
        ...(kind === "one_in" ? { log: 10, range: (_, low, high) => [low, high] } : { log: 2 }),
        min,
        max,
      },
      y: isLog ? { distr: 3 } : { range: (_, low, high) => [low / 1.05, high * 1.05] },
    },
    axes: axesOf(data, colour),
    legend: { show: false },
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    cursor: { lock: true, sync: { key: kind }, bind: { mouseleave: () => null } },
    hooks: {
      setCursor: [read],
      setScale: [zoomed],
      draw: [read, (drawn) => drawMarks(drawn, steps, colour)],
    },
  }, values, place);
  const chart = { plot, data };
  charts.push(chart);
  // The names in the table switch their lines, and the other names come on demand.
  figure.querySelectorAll("tbody th").forEach((name, n) => {
    const button = buttonIn(name, () => {
      const show = button.ariaPressed !== "true";
      button.ariaPressed = show;
      plot.series.forEach(({ line }, at) => line === n && plot.setSeries(at, { show }));
    });
    button.ariaPressed = lines[n].shown;
  });
  if (lines.some(({ shown }) => !shown)) {
    buttonIn(figure, () => figure.classList.toggle("all"), "More lines");
  }
  place.addEventListener("keydown", (event) => pressed(chart, event));
  new ResizeObserver(() => plot.setSize({ width: width(), height: HEIGHT })).observe(place);
  figure.classList.add("live");
}

// With the colours of the scheme, and on paper of the light one.
function repaint(scheme) {
  document.documentElement.style.colorScheme = scheme;
  for (const { plot } of charts) plot.redraw();
}

// After the first paint.
requestAnimationFrame(() => {
  document.querySelectorAll(".chart").forEach((figure) => setTimeout(draw, 0, figure));
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => repaint(""));
addEventListener("beforeprint", () => repaint("light"));
addEventListener("afterprint", () => repaint(""));
