// Draws each chart with uPlot in place of its picture, when it comes into view. The table beside
// it shows the values under the crosshair, which a click holds, and its names switch lines.
"use strict";

const charts = [];
const NAME_LETTERS = 16; // at the end of a line

// Three digits or more, as in the tables.
function digits(value) {
  if (value === null) return "-";
  return value < 999.5 ? value.toPrecision(3) : value.toFixed();
}

const short = (value) => String(Number(value.toPrecision(3)));

// A value of an axis or a table: times as us or ms, others without their unit.
function valueText(value, unit, form) {
  if (value === null || unit !== "us") return form(value);
  return Math.abs(value) < 1000 ? `${form(value)} µs` : `${form(value / 1000)} ms`;
}

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
  for (const { plot, data, back } of isTime ? charts : [chart]) {
    const [min, max] = range ?? [data.x[0], data.x.at(-1)];
    plot.setScale("x", { min, max });
    back.hidden = !range;
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
  else if (key === "Enter" && data.links[at]) location.assign(data.links[at]);
  else return;
  event.preventDefault();
}

// The name of each line at its end, none over another.
function drawNames({ ctx, bbox, series, valToPos, data }, colour, lines) {
  const [, last] = series[0].idxs, pitch = 12 * devicePixelRatio;
  const ends = [];
  series.forEach(({ line, show, fill, width }, n) => {
    const value = data[n].slice(0, last + 1).findLast((each) => each !== null);
    if (show && width && value) ends.push([valToPos(value, "y", true), lines[line]]);
  });
  let least = bbox.top;
  ctx.textAlign = "left";
  for (const [y, { role, name }] of ends.sort(([a], [b]) => a - b)) {
    least = Math.max(least, y);
    ctx.fillStyle = colour(role);
    ctx.fillText(name.slice(0, NAME_LETTERS), bbox.left + bbox.width + pitch / 2, least);
    least += pitch;
  }
}

// What uPlot does not: the levels between changes, the changes, and the names of lines.
function drawMarks(plot, { steps, lines }, colour) {
  const { ctx, bbox, series } = plot;
  const across = (value) => plot.valToPos(value, "x", true);
  ctx.save();
  ctx.font = `${11 * devicePixelRatio}px system-ui`;
  ctx.textBaseline = "middle";
  if (lines.length > 1) drawNames(plot, colour, lines);
  ctx.beginPath();
  ctx.rect(bbox.left, 0, bbox.width, bbox.top + bbox.height);
  ctx.clip();
  ctx.lineWidth = 1.5 * devicePixelRatio;
  lines.forEach(({ role, levels }, n) => {
    if (!series.find(({ line }) => line === n).show) return;
    ctx.strokeStyle = colour(role);
    ctx.beginPath();
    for (const [start, stop, value] of levels) {
      const y = plot.valToPos(value, "y", true);
      ctx.moveTo(across(start), y);
      ctx.lineTo(across(stop), y);
    }
    ctx.stroke();
  });
  for (const [n, { at, role, text }] of steps.entries()) {
    const [first, low, high] = at.map(across);
    ctx.strokeStyle = ctx.fillStyle = colour(role);
    ctx.globalAlpha = 0.15;
    ctx.fillRect(low, bbox.top, high - low, bbox.height);
    ctx.globalAlpha = 1;
    ctx.strokeRect(first, bbox.top, 0, bbox.height);
    ctx.textAlign = first > bbox.left + bbox.width / 2 ? "right" : "left";
    ctx.fillText(` ${text} `, first, bbox.top - (8 + 12 * (n % 2)) * devicePixelRatio);
  }
  ctx.restore();
}

// uPlot's series and bands: each line, then the ends of its intervals, which are not drawn.
function seriesOf({ lines, spans: spanGaps }, colour) {
  const series = [{}], bands = [];
  lines.forEach(({ role, shown: show, levels, points: [, ...ends] }, line) => {
    const stroke = () => colour(role);
    const dash = role === "bound" ? [6, 4] : [];
    const isDots = levels.length > 0;
    const points = { size: 4, fill: stroke, ...(isDots && { show: true }) };
    const paths = isDots ? { paths: () => null } : {};
    series.push({ line, show, stroke, dash, width: 1.5, spanGaps, points, ...paths });
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
  const y = (value) => valueText(value, unit, short);
  return [
    { ...axis, values: named(x), size: 32, space: kind === "bytes" ? 40 : 76 },
    { ...axis, values: named(y), size: 64, ...(isLog && { splits: rounds, filter: (_, all) => all }) },
  ];
}

// Writes the values under the crosshair, or else the last in view, into the table beside the chart.
function reader(figure, { kind, unit, x, lines, links }) {
  const [head, ...rows] = figure.querySelectorAll("tr");
  return ({ cursor: { idx, _lock: isHeld }, series: [{ idxs }] }) => {
    const at = idx ?? idxs[1];
    const where = FORMS[kind](x[at]);
    const link = links[at] && make("a", { href: links[at], textContent: where });
    head.cells[0].replaceChildren(link || where);
    figure.classList.toggle("held", isHeld);
    lines.forEach(({ points }, n) => {
      const [value, ...ends] = points.map((values) => valueText(values[at], unit, digits));
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
  const names = [...figure.querySelectorAll("tbody th")].map((name) => name.innerText.trim());
  data.lines.forEach((line, n) => { line.name = names[n]; });
  const letters = Math.max(...names.map((name) => name.length));
  const right = names.length > 1 ? 7 * Math.min(letters, NAME_LETTERS) : 0;
  const across = data.x.length === 1 ? roomy : tight;
  const selected = (plot) => {
    const { left, width } = plot.select;
    if (width) zoom(chart, [left, left + width]);
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  };
  chart.plot = new uPlot({
    width: place.clientWidth,
    height,
    padding: [data.steps.length ? 32 : 8, 24 + right, 0, 0],
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
      lock: true,
      sync: { key: data.kind },
      bind: { dblclick: () => () => zoom(chart), mouseleave: () => null },
    },
    hooks: {
      setCursor: [read],
      setSelect: [selected],
      draw: [read, (plot) => drawMarks(plot, data, colour)],
    },
  }, [data.x, ...data.lines.flatMap((line) => line.points)], place);
  charts.push(chart);
  chart.back = buttonIn(figure, () => zoom(chart), "Show all");
  chart.back.hidden = true;
  addSwitches(figure, chart);
  place.addEventListener("keydown", (event) => pressed(chart, event));
  new ResizeObserver(() => {
    if (place.clientWidth) chart.plot.setSize({ width: place.clientWidth, height });
  }).observe(place);
  const range = isTime && state.get("zoom")?.split("-").map(Number);
  if (range) {
    chart.plot.setScale("x", { min: range[0], max: range[1] });
    chart.back.hidden = false;
  }
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
