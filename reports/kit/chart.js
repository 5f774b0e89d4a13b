// Draws each chart with uPlot in place of its picture, when it comes into view. The table beside
// it shows the values under the crosshair, and its names switch lines on and off.
"use strict";

const charts = [];

// Three digits or more, as in the tables.
function digits(value) {
  if (value === null) return "-";
  return value < 999.5 ? value.toPrecision(3) : value.toFixed();
}

const short = (value) => String(Number(value.toPrecision(3)));
const FORMS = {
  time: (seconds) => `${new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ")} UTC`,
  bytes: (size) => {
    const [name, unit] = Object.entries(SCALES).findLast(([, least]) => size >= least) ?? ["", 1];
    return short(size / unit) + name;
  },
};

// Zooms to what lies between two positions in pixels, or to everything. Charts over time, which
// share no page with others, zoom together.
function zoom(chart, ends) {
  const range = ends?.map((at) => chart.plot.posToVal(at, "x"));
  const isTime = chart.data.kind === "time";
  for (const { plot, data } of isTime ? charts : [chart]) {
    const [min, max] = range ?? [data.x[0], data.x.at(-1)];
    plot.setScale("x", { min, max });
  }
  if (isTime) remember("zoom", range?.map(Math.round).join("-"));
}

function pressed(chart, event) {
  const { plot, data } = chart;
  const { key } = event;
  const last = data.x.length - 1;
  const at = plot.cursor.idx ?? last;
  const move = { ArrowLeft: -1, ArrowRight: 1 }[key];
  const grow = { "+": 0.25, "-": -0.5 }[key];
  if (move) {
    const next = Math.min(Math.max(at + move, 0), last);
    plot.setCursor({ left: plot.valToPos(data.x[next], "x"), top: 8 });
  } else if (grow) {
    zoom(chart, [grow, 1 - grow].map((share) => share * plot.over.clientWidth));
  } else if (key === "Escape") zoom(chart);
  else return;
  event.preventDefault();
}

function drawSteps(plot, steps, colour) {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, 0, bbox.width, bbox.top + bbox.height);
  ctx.clip();
  ctx.font = `${11 * devicePixelRatio}px system-ui`;
  for (const [n, { at, role, text }] of steps.entries()) {
    const [first, low, high] = at.map((value) => plot.valToPos(value, "x", true));
    ctx.strokeStyle = ctx.fillStyle = colour(role);
    ctx.globalAlpha = 0.15;
    ctx.fillRect(low, bbox.top, high - low, bbox.height);
    ctx.globalAlpha = 1;
    ctx.strokeRect(first, bbox.top, 0, bbox.height);
    ctx.textAlign = first > bbox.left + bbox.width / 2 ? "right" : "left";
    ctx.fillText(` ${text} `, first, bbox.top - (4 + 12 * (n % 2)) * devicePixelRatio);
  }
  ctx.restore();
}

// uPlot's series and bands: each line, then the ends of its intervals, which are not drawn.
function seriesOf({ lines, spans: spanGaps }, colour) {
  const series = [{}], bands = [];
  lines.forEach(({ role, shown: show, points: [, ...ends] }, line) => {
    const stroke = () => colour(role);
    const dash = role === "bound" ? [6, 4] : [];
    const points = { size: 4, fill: stroke };
    series.push({ line, show, stroke, dash, width: 1.5, spanGaps, points });
    if (!ends.length) return;
    const fill = () => stroke().replace(/^rgb\((.*)\)$/, "rgba($1, 0.2)");
    bands.push({ series: [series.length + 1, series.length], fill });
    for (const _ of ends) series.push({ line, show, width: 0, points: { show: false } });
  });
  return { series, bands };
}

const tight = (_, min, max) => [min, max];
const roomy = (_, min, max) => [min / 1.05, max * 1.05];

// Round values on a logarithmic axis: decades, with 2 and 5 or more if these are few.
function rounds(plot, axis, min, max) {
  const found = [], span = max / min;
  const halves = Array.from({ length: 18 }, (_, n) => 1 + n / 2);
  const digits = span > 300 ? [1] : span > 5 ? [1, 2, 5] : halves;
  for (let unit = 10 ** Math.floor(Math.log10(min)); unit <= max; unit *= 10) {
    found.push(...digits.map((digit) => digit * unit));
  }
  return found.filter((value) => min <= value && value <= max);
}

function axesOf({ kind, unit, is_log: isLog }, colour) {
  const axis = { stroke: () => colour("steady"), grid: { stroke: () => colour("edge"), width: 1 } };
  const named = (form) => (plot, values) => values.map((value) => value && form(value, plot.scales.x));
  // Times near each other without the year or the day.
  const x = (value, { min, max }) => {
    if (kind !== "time") return FORMS[kind](value);
    const days = (max - min) / 86400;
    return FORMS.time(value).slice(...(days < 1 ? [11, 16] : days < 4 ? [5, 16] : [0, 10]));
  };
  const y = (value) => {
    if (unit !== "us") return short(value);
    return value < 1000 ? `${short(value)} us` : `${short(value / 1000)} ms`;
  };
  return [
    { ...axis, values: named(x), size: 32, space: kind === "bytes" ? 40 : 76 },
    { ...axis, values: named(y), size: 64, ...(isLog && { splits: rounds, filter: (_, all) => all }) },
  ];
}

// Writes the values under the crosshair into the table beside the chart.
function reader(figure, { kind, x, lines, links }) {
  const [head, ...rows] = figure.querySelectorAll("tr");
  return ({ cursor: { idx } }) => {
    const at = idx ?? x.length - 1;
    const where = FORMS[kind](x[at]);
    const link = links[at] && make("a", { href: links[at], textContent: where });
    head.cells[0].replaceChildren(link || where);
    lines.forEach(({ points }, n) => {
      const [value, ...ends] = points.map((values) => digits(values[at]));
      rows[n].cells[1].textContent = value;
      rows[n].cells[2].textContent = ends.length && value !== "-" ? `[${ends.join(" ")}]` : "";
    });
  };
}

// Makes the names in the table switch their lines, and shows the other names on demand.
function addSwitches(figure, { plot, data: { lines } }) {
  figure.querySelectorAll("tbody th").forEach((name, n) => {
    const button = buttonIn(name, () => {
      const show = button.ariaPressed !== "true";
      button.ariaPressed = show;
      plot.series.forEach(({ line }, at) => line === n && plot.setSeries(at, { show }));
    });
    button.ariaPressed = lines[n].shown;
  });
  const hidden = lines.filter((line) => !line.shown).length;
  if (hidden) buttonIn(figure, () => figure.classList.toggle("all"), `${hidden} more`);
}

function draw(figure) {
  const data = JSON.parse(figure.querySelector("script").textContent);
  const place = figure.querySelector(".plot");
  const probe = place.appendChild(document.createElement("i"));
  const colour = (role) => {
    probe.className = role;
    return getComputedStyle(probe).color;
  };
  const height = Math.max(200, Math.min(place.clientWidth * 0.4, 360));
  const chart = { data };
  const read = reader(figure, data);
  const isTime = data.kind === "time";
  const across = data.x.length === 1 ? roomy : tight;
  const selected = (plot) => {
    const { left, width } = plot.select;
    if (width) zoom(chart, [left, left + width]);
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  };
  chart.plot = new uPlot({
    width: place.clientWidth,
    height,
    padding: [32, 32, 0, 0],
    ...seriesOf(data, colour),
    scales: {
      x: { time: isTime, distr: data.kind === "bytes" ? 3 : 1, log: 2, range: across },
      y: { distr: data.is_log ? 3 : 1, range: roomy },
    },
    axes: axesOf(data, colour),
    legend: { show: false },
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    cursor: {
      drag: { x: true, y: false, setScale: false },
      bind: { dblclick: () => () => zoom(chart) },
    },
    hooks: {
      ready: [read],
      setCursor: [read],
      setSelect: [selected],
      draw: [(plot) => drawSteps(plot, data.steps, colour)],
    },
  }, [data.x, ...data.lines.flatMap((line) => line.points)], place);
  charts.push(chart);
  addSwitches(figure, chart);
  place.addEventListener("keydown", (event) => pressed(chart, event));
  new ResizeObserver(() => {
    if (place.clientWidth) chart.plot.setSize({ width: place.clientWidth, height });
  }).observe(place);
  const range = isTime && state.get("zoom")?.split("-").map(Number);
  if (range) chart.plot.setScale("x", { min: range[0], max: range[1] });
  figure.classList.add("live");
}

const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    draw(target);
  }
}, { rootMargin: "400px" });
document.querySelectorAll(".chart").forEach((figure) => seen.observe(figure));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  charts.forEach(({ plot }) => plot.redraw());
});
