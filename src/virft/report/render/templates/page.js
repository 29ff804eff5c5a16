"use strict";
// Show the values of a chart under the pointer or by arrow keys. Without this script the page shows the same lines with their first and last values.
for (const figure of document.querySelectorAll("figure.chart")) {
  const chart = JSON.parse(figure.querySelector("script").textContent);
  const svg = figure.querySelector("svg");
  const cursor = svg.querySelector(".cursor");
  const output = figure.querySelector("output");
  const resting = output.innerHTML;
  const stops = [...new Set(chart.lines.flatMap((line) => line.steps))].sort((a, b) => a - b);
  let at = null;

  function nearest(steps, step) {
    let low = 0, high = steps.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (steps[middle] < step) low = middle + 1; else high = middle;
    }
    return low > 0 && step - steps[low - 1] <= steps[low] - step ? low - 1 : low;
  }

  function show(place) {
    at = Math.max(0, Math.min(stops.length - 1, place));
    const step = stops[at];
    const share = chart.last > chart.first ? (step - chart.first) / (chart.last - chart.first) : 0.5;
    const x = chart.left + (chart.right - chart.left) * share;
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.classList.add("on");
    output.textContent = chart.x + " " + step;
    for (const line of chart.lines) {
      const toggle = line.system === null ? null : document.getElementById("show-" + line.system);
      if (toggle && !toggle.checked) continue;
      const here = nearest(line.steps, step);
      const reading = document.createElement("span");
      reading.className = "reading tone-" + (line.tone % 8);
      const value = document.createElement("b");
      value.textContent = line.values[here];
      reading.append(line.name + " ", value);
      if (line.steps[here] !== step) reading.append(" at " + line.steps[here]);
      output.append(reading);
    }
  }

  function rest() {
    at = null;
    cursor.classList.remove("on");
    output.innerHTML = resting;
  }

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const share = (x - chart.left) / (chart.right - chart.left);
    show(nearest(stops, chart.first + share * (chart.last - chart.first)));
  });
  svg.addEventListener("pointerleave", rest);
  figure.addEventListener("focusout", rest);
  figure.addEventListener("keydown", (event) => {
    const far = Math.max(1, Math.round(stops.length / 10));
    const places = {
      ArrowLeft: (at ?? stops.length) - 1, ArrowRight: (at ?? -1) + 1,
      PageUp: (at ?? stops.length) - far, PageDown: (at ?? -1) + far, Home: 0, End: stops.length - 1,
    };
    if (event.key === "Escape") rest();
    if (!(event.key in places)) return;
    event.preventDefault();
    show(places[event.key]);
  });
}

// Enlarge an image; the arrow keys show the others of the page, Escape closes.
const zoom = document.getElementById("zoom");
if (zoom) {
  const stage = zoom.querySelector(".stage");
  let shown = [], at = 0;

  function enlarge(place) {
    at = (place + shown.length) % shown.length;
    const svg = shown[at].querySelector("svg").cloneNode(true);
    const { width, height } = svg.viewBox.baseVal;
    const size = Math.min(innerWidth * 0.94 / width, innerHeight * 0.82 / height);
    svg.style.width = width * size + "px";
    svg.style.height = height * size + "px";
    for (const text of svg.querySelectorAll("text")) text.setAttribute("font-size", 15 / size);
    stage.replaceChildren(svg);
    zoom.querySelector("p").textContent = shown[at].dataset.caption + " (" + (at + 1) + " of " + shown.length + ")";
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.zoomable");
    if (!button) return;
    shown = [...document.querySelectorAll("button.zoomable")].filter((one) => one.offsetParent);
    zoom.showModal();
    enlarge(shown.indexOf(button));
  });
  zoom.addEventListener("click", (event) => {
    const move = event.target.dataset.move;
    if (event.target === zoom || event.target === stage || move === "0") zoom.close();
    else if (move) enlarge(at + Number(move));
  });
  zoom.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (move) enlarge(at + move);
  });
}

// Filter the images by class and outcome. Without this script all of them are shown.
for (const form of document.querySelectorAll("form.filters")) {
  const cards = [...document.querySelectorAll(".filtered")];
  const value = (name) => form.elements[name]?.value ?? "";

  function filter() {
    for (const card of cards) {
      const found = JSON.parse(card.dataset.found);
      const kinds = found[value("system")] ?? Object.values(found).at(-1);
      const labels = JSON.parse(card.dataset.labels);
      card.hidden = !(!value("class") || labels.includes(value("class"))) || !(!value("kind") || kinds.includes(value("kind")));
    }
    for (const bunch of document.querySelectorAll(".bunch")) bunch.hidden = !bunch.querySelector(".filtered:not([hidden])");
    form.querySelector("output").textContent = cards.filter((card) => !card.hidden).length + " of " + cards.length + " shown";
  }

  form.hidden = cards.length < 2;
  form.addEventListener("change", filter);
  filter();
}

// Copy a table as CSV.
for (const table of document.querySelectorAll(".scroll > table")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy CSV";
  button.addEventListener("click", async () => {
    const quoted = (cell) => '"' + cell.textContent.trim().replace(/\s+/g, " ").replaceAll('"', '""') + '"';
    const rows = [...table.rows].map((row) => [...row.cells].map(quoted).join(","));
    try {
      await navigator.clipboard.writeText(table.dataset.csv ?? rows.join("\n"));
      button.textContent = "Copied";
    } catch {
      button.textContent = "The browser does not allow copying";
    }
  });
  table.parentElement.after(button);
}
