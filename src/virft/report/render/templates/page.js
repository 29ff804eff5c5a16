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
    output.textContent = "step " + step;
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
