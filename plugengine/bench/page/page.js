// Draws the charts of the page, and opens the values of a workload when its bar or cell is pressed.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("figures").textContent);
  const keys = Object.keys(data.names);
  const narrow = window.matchMedia("(max-width: 40rem)");
  const dialog = document.getElementById("values");
  const drawn = new Map(); // element → Vega view

  const copy = (name) => JSON.parse(JSON.stringify(data.specs[name]));
  const names = { name: "names", value: data.names };
  // About what 12 px of the system's font take; labels of more are cut at 128 px.
  const LETTER = 6.9, LABEL = 128;
  const labels = Math.min(LABEL, LETTER * Math.max(...keys.map((key) => data.names[key].length)));

  // A row of this height for each column that is shown, in the order of the run.
  const ranks = (spec, shown, step) => {
    spec.encoding.y.scale = { domain: shown };
    spec.height = shown.length * step;
  };

  const forget = (element) => {
    drawn.get(element)?.finalize();
    drawn.delete(element);
  };

  const draw = async (element, spec, pressed) => {
    forget(element);
    // ast: expressions are interpreted, as the page's policy forbids code made of text.
    const options = { actions: false, ast: true, renderer: "svg", tooltip: { theme: "page" } };
    const { view } = await vegaEmbed(element, spec, options);
    drawn.set(element, view);
    if (pressed) view.addEventListener("click", (_, item) => pressed(item));
  };

  const map = (element, shown, room) => {
    const spec = copy("heat");
    const widest = Math.max(...shown.flatMap((key) => data.heads[key]).map((line) => line.length));
    const level = LETTER * widest < room;
    const sides = narrow.matches ? data.heat.narrow : data.heat.wide;
    const heads = { name: "heads", value: level ? data.heads : data.names };
    spec.params = [heads, { name: "labels", value: sides }];
    const cells = data.heat.cells.filter((cell) => shown.includes(cell.column));
    spec.data = { values: cells.map((cell) => ({ ...cell, text: narrow.matches ? cell.short : cell.text })) };
    spec.encoding.x.scale = { domain: shown };
    ranks(spec, data.heat.rows, narrow.matches ? 31 : 26);
    const axis = spec.encoding.x.axis;
    if (!level) Object.assign(axis, { labelAngle: -90, labelAlign: "left", labelLimit: 160 });
    // The second line of a name goes towards the cells.
    else if (shown.some((key) => data.heads[key].length > 1)) axis.labelPadding = 20;
    return draw(element, spec, (item) => {
      const row = item?.datum?.row ?? item?.datum?.value;
      if (Object.hasOwn(data.workloads, row ?? "")) open(row);
    });
  };

  const charts = {
    bars(element) {
      const workload = data.workloads[element.dataset.workload];
      const spec = copy("bars");
      spec.params = [names];
      spec.data = { values: workload.bars };
      ranks(spec, keys, 24);
      // Room for the value in words at the end of the longest bar.
      const words = LETTER * Math.max(...workload.bars.map((bar) => (bar.median === undefined ? 0 : bar.text.length))) + 12;
      const plot = Math.max(element.clientWidth - labels, 2 * words);
      spec.layer[0].encoding.x.scale = { domain: [0, workload.end * plot / (plot - words)], nice: false };
      return draw(element, spec, () => open(element.dataset.workload));
    },
    means(element) {
      const spec = copy("means");
      const values = data.means.map((mean) => mean.mean);
      const low = Math.min(1, ...values), high = Math.max(1, ...values);
      const room = Math.max(high / low, 1.2);
      spec.params = [names];
      spec.data = { values: data.means };
      ranks(spec, data.means.map((mean) => mean.column), 28);
      const domain = [low / room ** 0.08, high * room ** (narrow.matches ? 0.35 : 0.15)];
      spec.layer[1].encoding.x.scale.domain = domain;
      return draw(element, spec);
    },
    // With too many columns for the width there are several maps, one below the other.
    heat(element) {
      const [side, cell] = narrow.matches ? [130, 34] : [300, 62];
      const most = Math.max(1, Math.floor((element.clientWidth - side) / cell));
      const parts = Math.ceil(keys.length / most), size = Math.ceil(keys.length / parts);
      for (const part of element.children) forget(part);
      element.replaceChildren();
      return Promise.all(Array.from({ length: parts }, (_, part) => {
        const place = element.appendChild(document.createElement("div"));
        place.className = "chart";
        return map(place, keys.slice(part * size, (part + 1) * size), (element.clientWidth - side) / size);
      }));
    },
    strip(element, workload) {
      const spec = copy("strip");
      spec.params = [names];
      spec.data = { values: workload.values.map((value) => ({ ...value, colour: data.colours[value.column] })) };
      ranks(spec, keys.filter((key) => workload.values.some((value) => value.column === key)), 40);
      const measured = { values: workload.bars.filter((bar) => bar.state === "measured") };
      spec.layer[0].data = spec.layer[1].data = measured;
      spec.layer[2].encoding.x.axis.title = workload.unit;
      return draw(element, spec);
    },
    rounds(element, workload) {
      const spec = copy("rounds");
      const shown = keys.filter((key) => workload.values.some((value) => value.column === key));
      spec.params = [names];
      spec.data = { values: workload.values };
      spec.encoding.y.axis.title = workload.unit;
      spec.encoding.color.scale = { domain: shown, range: shown.map((key) => data.colours[key]) };
      spec.encoding.shape.scale = { domain: shown, range: shown.map((key) => data.shapes[key]) };
      spec.encoding.color.legend.columns = narrow.matches ? 1 : 4;
      spec.encoding.shape.legend = spec.encoding.color.legend;
      return draw(element, spec);
    },
  };

  const open = async (key) => {
    const workload = data.workloads[key];
    dialog.dataset.workload = key;
    dialog.querySelector("h2").textContent = workload.title;
    dialog.querySelector(".sentence").textContent = `${workload.sentence} (${workload.better})`;
    const rows = document.getElementById(`numbers-${key}`);
    const numbers = rows.cloneNode(true);
    numbers.removeAttribute("id");
    numbers.querySelector(".title").remove();
    dialog.querySelector("table").replaceChildren(rows.closest("table").tHead.cloneNode(true), numbers);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    const charted = workload.values.length > 0;
    for (const element of dialog.querySelectorAll(".chart")) {
      element.closest("figure").hidden = !charted;
      if (charted) await charts[element.dataset.chart](element, workload);
    }
    dialog.dataset.drawn = key;
  };

  const all = () => Promise.all(
    [...document.querySelectorAll("main .chart[data-chart]")].map((element) => charts[element.dataset.chart](element)));

  // On paper the charts get the width of the sheet, and are drawn anew before it is made.
  const fit = () => {
    for (const [element, view] of drawn) {
      if (element.clientWidth) view.width(element.clientWidth).run();
    }
  };
  window.addEventListener("beforeprint", () => { document.body.classList.add("paper"); fit(); });
  window.addEventListener("afterprint", () => { document.body.classList.remove("paper"); fit(); });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.dataset.values) open(button.dataset.values);
    if (button?.dataset.close !== undefined || event.target === dialog) dialog.close();
  });
  narrow.addEventListener("change", all);
  document.documentElement.classList.add("live");
  all().then(() => document.documentElement.classList.add("drawn"));
})();
