// Draws each chart with uPlot in place of its picture, when it comes into view. The table beside
// it shows the values under the crosshair, and its names switch lines on and off.
"use strict";

const charts = [];
const UNITS = [[2 ** 30, "G"], [2 ** 20, "M"], [2 ** 10, "K"]];

// Three digits, as in the tables.
function digits(value) {
  if (value === null || value === undefined) return "-";
  const size = Math.abs(value);
  if (size && size < 0.0995) return value.toPrecision(2);
  return value.toFixed(size < 9.995 ? 2 : size < 99.95 ? 1 : 0);
}

function sizeText(bytes) {
  const [unit, name] = UNITS.find(([least]) => bytes >= least) ?? [1, ""];
  return Number((bytes / unit).toPrecision(3)) + name;
}

const short = (value) => String(Number(value.toPrecision(3)));
const FORMS = {
  time: (seconds) => `${new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ")} UTC`,
  bytes: sizeText,
  price: short,
};

// Of a position on the axis; times near each other without the year.
function tickText(kind, value, span) {
  if (kind !== "time") return FORMS[kind](value);
  return span < 4 * 86400 ? FORMS.time(value).slice(5, 16) : FORMS.time(value).slice(0, 10);
}

// Charts over time zoom together.
function zoom(chart, range) {
  const isTime = chart.data.kind === "time";
  for (const other of isTime ? charts.filter((each) => each.data.kind === "time") : [chart]) {
    const x = other.data.x;
    const [min, max] = range ?? [x[0], x[x.length - 1]];
    other.plot.setScale("x", { min, max });
  }
  if (isTime) remember("zoom", range?.map(Math.round).join("-"));
}

function pressed(chart, key) {
  const { plot, data } = chart;
  const { min, max } = plot.scales.x;
  const at = plot.cursor.idx ?? data.x.length - 1;
  const move = { ArrowLeft: -1, ArrowRight: 1 }[key];
  const grow = { "+": 0.25, "-": -0.5 }[key];
  if (move) {
    const next = Math.min(Math.max(at + move, 0), data.x.length - 1);
    plot.setCursor({ left: plot.valToPos(data.x[next], "x"), top: 8 });
  } else if (grow) {
    const isLog = data.kind === "bytes";
    const [low, high] = isLog ? [Math.log(min), Math.log(max)] : [min, max];
    const ends = [low + grow * (high - low), high - grow * (high - low)];
    zoom(chart, isLog ? ends.map(Math.exp) : ends);
  } else if (key === "Escape") zoom(chart, null);
  else if (key === "Enter" && data.links[at]) location.href = data.links[at];
  else return false;
  return true;
}

function drawSteps(plot, steps, colour) {
  const { ctx, bbox } = plot;
  const at = (value) => plot.valToPos(value, "x", true);
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  for (const step of steps) {
    ctx.strokeStyle = ctx.fillStyle = colour(step.role);
    ctx.globalAlpha = 0.15;
    const [first, low, high] = step.at.map(at);
    ctx.fillRect(low, bbox.top, high - low, bbox.height);
    ctx.globalAlpha = 1;
    ctx.strokeRect(first, bbox.top, 0, bbox.height);
    ctx.font = `${11 * devicePixelRatio}px system-ui`;
    ctx.textAlign = first > bbox.left + bbox.width / 2 ? "right" : "left";
    ctx.fillText(` ${step.text} `, first, bbox.top + 12 * devicePixelRatio);
  }
  ctx.restore();
}

// uPlot's series and bands: each line, then the ends of its intervals, which are not drawn.
function seriesOf(data, colour) {
  const series = [{}], columns = [data.x], bands = [], places = [];
  for (const { role, shown: show, values, low, high } of data.lines) {
    const stroke = () => colour(role);
    places.push([series.length]);
    const size = data.kind === "price" ? 12 : 4;
    const dash = role === "bound" ? [6, 4] : undefined;
    series.push({ show, stroke, dash, width: 1.5, points: { size, fill: stroke } });
    columns.push(values);
    if (!low) continue;
    const fill = () => colour(role).replace(/^rgb\((.*)\)$/, "rgba($1, 0.2)");
    bands.push({ series: [series.length, series.length + 1], fill });
    for (const end of [high, low]) {
      places.at(-1).push(series.length);
      series.push({ show, auto: false, width: 0, points: { show: false } });
      columns.push(end);
    }
  }
  return { series, columns, bands, places };
}

// Whether values differ by so much that uPlot finds round ones on a logarithmic axis.
function isLogarithmic({ kind, lines }) {
  const values = lines.flatMap((line) => line.values).filter((value) => value > 0);
  return kind !== "time" && Math.max(...values) > 4 * Math.min(...values);
}

function scalesOf(data) {
  const { kind } = data;
  const roomy = (_, min, max) => [min / 1.05, max * 1.05];
  const tight = (plot, min, max) => {
    if (min < max) return [min, max];
    return kind === "time" ? [min - 43200, max + 43200] : roomy(plot, min, max);
  };
  return {
    x: {
      time: kind === "time",
      distr: kind === "bytes" ? 3 : 1,
      log: 2,
      range: kind === "price" ? roomy : tight,
    },
    y: { distr: isLogarithmic(data) ? 3 : 1, range: roomy },
  };
}

// Writes the values under the crosshair into the table beside the chart.
function reader(figure, data) {
  const rows = figure.querySelectorAll("tbody tr");
  const head = figure.querySelector("thead th");
  return ({ cursor: { idx: at } }) => {
    if (at === null || at === undefined) return;
    const where = FORMS[data.kind](data.x[at]);
    const link = data.links[at] && make("a", { href: data.links[at], textContent: where });
    head.replaceChildren(link || where);
    data.lines.forEach(({ values, low, high }, n) => {
      rows[n].cells[1].textContent = digits(values[at]);
      const ends = low && low[at] !== null ? `[${digits(low[at])} ${digits(high[at])}]` : "";
      rows[n].cells[2].textContent = ends;
    });
  };
}

// Makes the names in the table switch their lines, and shows the other names on demand.
function addSwitches(figure, { plot, data }, places) {
  figure.querySelectorAll("tbody th").forEach((name, n) => {
    const button = make("button", { ariaPressed: data.lines[n].shown });
    button.append(...name.childNodes);
    name.append(button);
    button.addEventListener("click", () => {
      const show = button.ariaPressed !== "true";
      button.ariaPressed = show;
      for (const at of places[n]) plot.setSeries(at, { show });
    });
  });
  const hidden = data.lines.filter((line) => !line.shown).length;
  if (!hidden) return;
  const more = make("button", { textContent: `${hidden} more lines` });
  more.addEventListener("click", () => figure.classList.toggle("all"));
  figure.querySelector(".readout").after(more);
}

function axesOf(data, colour) {
  const { kind } = data, isLog = isLogarithmic(data);
  const axis = { stroke: () => colour("steady"), grid: { stroke: () => colour("edge"), width: 1 } };
  const named = (form) => (_, values) => {
    const span = values[values.length - 1] - values[0];
    return values.map((value) => (value === null ? "" : form(value, span)));
  };
  const x = (value, span) => tickText(kind, value, span);
  // uPlot begins a logarithmic axis at the least value, which is not round.
  const y = (value) => (isLog && !/\.00e/.test(value.toExponential(2)) ? "" : short(value));
  return [
    { ...axis, values: named(x), space: kind === "time" ? 88 : 40 },
    { ...axis, values: named(y), size: 64 },
  ];
}

function draw(figure) {
  const data = JSON.parse(figure.querySelector("script").textContent);
  const place = figure.querySelector(".plot");
  const probe = place.appendChild(document.createElement("i"));
  const colour = (role) => {
    probe.className = role;
    return getComputedStyle(probe).color;
  };
  const { series, columns, bands, places } = seriesOf(data, colour);
  const height = Math.max(200, Math.min(place.clientWidth * 0.4, 360));
  const chart = { data };
  const selected = (plot) => {
    const { left, width } = plot.select;
    if (width) zoom(chart, [left, left + width].map((at) => plot.posToVal(at, "x")));
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  };
  chart.plot = new uPlot({
    width: place.clientWidth,
    height,
    series,
    bands,
    scales: scalesOf(data),
    axes: axesOf(data, colour),
    legend: { show: false },
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    cursor: {
      drag: { x: true, y: false, setScale: false },
      bind: { dblclick: () => () => zoom(chart, null) },
    },
    hooks: {
      setCursor: [reader(figure, data)],
      setSelect: [selected],
      draw: [(plot) => drawSteps(plot, data.steps, colour)],
    },
  }, columns, place);
  charts.push(chart);
  addSwitches(figure, chart, places);
  place.addEventListener("keydown", (event) => {
    if (pressed(chart, event.key)) event.preventDefault();
  });
  new ResizeObserver(() => {
    if (place.clientWidth) chart.plot.setSize({ width: place.clientWidth, height });
  }).observe(place);
  const range = data.kind === "time" && state.get("zoom")?.split("-").map(Number);
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
