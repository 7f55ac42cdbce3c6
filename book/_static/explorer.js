// The page Explorer. It draws the records of explorer/data.js as book/explorer.py does. The address holds what is shown:
// strings, and lists of them for k and method.
(() => {
  const known = window.EXPLORER;
  const STUDY = ["network", "recipe", "scale", "data"];
  const LISTS = ["k", "method"];
  const form = document.getElementById("explorer-form");
  const view = document.getElementById("explorer-view");
  const panels = Object.keys(known.panels);
  const unique = (values) => [...new Set(values)];
  let state, study, drawn;

  const read = (entries) => {
    const all = [...entries];
    const lists = LISTS.map((name) => [name, all.filter(([own]) => own === name).flatMap(([, text]) => text.split(","))]);
    return { ...Object.fromEntries(all), ...Object.fromEntries(lists) };
  };
  const address = () => new URLSearchParams(state).toString().replaceAll("%2C", ",");

  // Every value that a control can have, for the study that is wanted or the nearest to it.
  function settle(wanted) {
    const options = {};
    const named = known.studies.find((one) => one.name === wanted.study); // as links from figures do
    if (named) wanted = { ...wanted, ...Object.fromEntries(STUDY.map((part) => [part, named[part]])) };
    state = {};
    let left = known.studies;
    const choose = (name, values, first) => {
      options[name] = values;
      state[name] = values.includes(wanted[name]) ? wanted[name] : first;
    };
    for (const part of STUDY) {
      const values = unique(left.map((one) => one[part]));
      choose(part, values, values[0]);
      left = left.filter((one) => one[part] === state[part]);
    }
    [study] = left;
    const of = (name, rows) => unique(rows.map((row) => row[name])).sort((a, b) => a - b).map(String);
    const subnetworks = study.rows.filter((row) => row.method !== "dense");
    const recorded = (name, titles) => Object.keys(titles).filter((key) => study.rows.some((row) => row[name] === key));
    choose("x", ["percent", "k"], "percent");
    choose("level", of("level", subnetworks), String(study.first.level));
    for (const panel of panels) choose(panel, recorded("metric", known.panels[panel]), study.first[panel]);
    const replicates = unique(study.rows.flatMap((row) => row.replicates)).sort((a, b) => a - b);
    choose("replicate", ["", ...replicates.map(String)], "");
    const every = of("k", subnetworks);
    const lists = {
      k: [every, state.x === "k" ? every : study.first.k.map(String)],
      method: [recorded("method", known.methods)],
    };
    for (const [name, [values, first = values]] of Object.entries(lists)) {
      options[name] = values;
      const kept = values.filter((value) => wanted[name]?.includes(value));
      state[name] = kept.length ? kept : first;
    }
    return options;
  }

  function title(name, value) {
    if (name === "network") return known.networks[value];
    if (name === "data") return known.studies.find((one) => STUDY.every((p) => one[p] === { ...state, data: value }[p])).images;
    if (name === "x") return known.axes[value].title;
    if (name === "k") return Number(value).toLocaleString("en");
    if (name === "level") return `${study.rows.find((row) => String(row.level) === value).percent}% (level ${value})`;
    if (name === "method") return known.methods[value];
    if (name === "replicate") return value || "none";
    return known.panels[name]?.[value] ?? value;
  }

  // Options and boxes are made anew only where they change: the keyboard's place stays.
  function fillControls(options) {
    for (const [name, values] of Object.entries(options)) {
      const place = form.querySelector(`[data-for="${name}"]`);
      const titles = values.map((value) => title(name, value));
      const made = JSON.stringify([values, titles]);
      if (place.dataset.made !== made) {
        place.dataset.made = made;
        place.replaceChildren(
          ...values.map((value, number) => {
            if (!LISTS.includes(name)) return new Option(titles[number], value);
            const box = Object.assign(document.createElement("input"), { type: "checkbox", name, value });
            const label = document.createElement("label");
            label.append(box, ` ${titles[number]}`);
            return label;
          }),
        );
      }
      if (LISTS.includes(name)) for (const box of place.querySelectorAll("input")) box.checked = state[name].includes(box.value);
      else place.value = state[name];
    }
    form.querySelector('[data-for="level"]').parentElement.hidden = state.x !== "k";
  }

  // The rows that are shown, with the panel of each.
  function selected() {
    return study.rows
      .map((row) => ({ ...row, panel: panels.find((panel) => row.metric === state[panel]), dense: row.method === "dense" }))
      .filter(
        (row) =>
          row.panel &&
          state.method.includes(row.method) &&
          (row.dense ||
            (state.k.includes(String(row.k)) && (state.x !== "k" || String(row.level) === state.level))),
      );
  }

  // A point for each replicate. The dense network is a line of its own and begins every line of tickets.
  function pointsOf(rows) {
    const over = state.x === "k";
    const tickets = over || !state.method.includes("imp") ? [] : state.k.map((k) => `imp ${k}`).filter((own) => study.series[own]);
    return rows.flatMap((row) =>
      (row.dense ? ["dense", ...tickets] : [over ? row.method : `${row.method} ${row.k}`]).flatMap((own) =>
        row.values.map((value, number) => ({
          panel: row.panel,
          series: study.series[own].name,
          x: over ? row.k : row.percent,
          value,
          replicate: row.replicates[number],
          device: row.device,
          dense: own === "dense",
        })),
      ),
    );
  }

  // Mean and 95% interval (Student's t) of every point of every series.
  function summary(points) {
    const groups = Map.groupBy(points, (point) => JSON.stringify([point.series, point.x]));
    return [...groups.values()].map((group) => {
      const n = group.length;
      const value = group.reduce((sum, point) => sum + point.value, 0) / n;
      const spread = group.reduce((sum, point) => sum + (point.value - value) ** 2, 0);
      const error = n > 1 ? known.quantiles[n] * Math.sqrt(spread / (n - 1) / n) : null;
      const interval = n > 1 ? { low: value - error, high: value + error } : {};
      return { series: group[0].series, x: group[0].x, n, value, ...interval };
    });
  }

  // One drawing after the other: two at once would leave the place empty or doubled.
  function draw(points) {
    const theme = document.documentElement.dataset.theme === "dark" ? "dark" : "light";
    const spec = { ...structuredClone(known.chart), config: structuredClone(known.themes[theme]), datasets: {} };
    const looks = unique(Object.values(study.series)).filter((look) => points.some((point) => point.series === look.name));
    const domain = looks.map((look) => look.name);
    const two = view.clientWidth > 700;
    spec.columns = two ? 2 : 1;
    spec.config.legend.columns = two ? 3 : 1;
    spec.params.find((param) => param.name === "chosen").value = state.replicate ? Number(state.replicate) : null;
    panels.forEach((panel, number) => {
      const part = spec.concat[number];
      const own = points.filter((point) => point.panel === panel);
      spec.datasets[panel] = own.filter((point) => !point.dense).map(({ panel, dense, ...shown }) => shown);
      spec.datasets[`${panel} mean`] = summary(spec.datasets[panel]);
      spec.datasets[`${panel} dense`] = summary(own.filter((point) => point.dense));
      part.width = two ? (view.clientWidth - spec.spacing) / 2 - 50 : view.clientWidth - 50;
      part.title = known.panels[panel][state[panel]];
      part.encoding.x = known.axes[state.x];
      for (const [channel, key] of [["color", theme], ["strokeDash", "dash"], ["shape", "shape"]])
        part.encoding[channel].scale = { domain, range: looks.map((look) => look[key]) };
      for (const layer of part.layer) Object.assign(layer.encoding.y, { title: null, scale: { zero: panel === "distance" } });
      part.layer = part.layer.filter((layer) => spec.datasets[layer.data.name].length);
    });
    // A panel without values is left out.
    spec.concat = spec.concat.filter((part) => part.layer.length);
    const names = spec.concat.flatMap((part) => part.layer.map((layer) => layer.name));
    for (const param of spec.params) param.views = param.views?.filter((name) => names.includes(name));
    spec.params = spec.params.filter((param) => param.views?.length !== 0);
    spec.description = `${panels.map((panel) => known.panels[panel][state[panel]]).join(" and ")}. ${study.about} The table has the values.`;
    drawn = Promise.resolve(drawn).catch(() => {}).then((made) => {
      made?.finalize();
      if (!spec.concat.length) return view.replaceChildren("Nothing of this choice is recorded.");
      return window.vegaEmbed(view, spec, { mode: "vega-lite", actions: false, renderer: "svg", tooltip: { theme } });
    });
  }

  function fillTable(points) {
    const table = document.getElementById("explorer-table");
    const means = panels.map((panel) => summary(points.filter((point) => point.panel === panel)));
    const cell = (tag, text, scope) => {
      const made = document.createElement(tag);
      made.textContent = text;
      if (scope) made.scope = scope;
      return made;
    };
    const row = (...cells) => {
      const made = document.createElement("tr");
      made.append(...cells);
      return made;
    };
    const text = (mean) => {
      if (!mean) return "";
      const interval = "low" in mean ? ` (${mean.low.toFixed(2)} to ${mean.high.toFixed(2)})` : "";
      return `${mean.value.toFixed(2)}${interval}, n = ${mean.n}`;
    };
    const titles = panels.map((panel) => known.panels[panel][state[panel]]);
    const head = ["network", known.axes[state.x].title, ...titles];
    table.tHead.replaceChildren(row(...head.map((name) => cell("th", name, "col"))));
    const order = Object.values(study.series).map((look) => look.name);
    const places = new Map(means.flat().map((mean) => [JSON.stringify([mean.series, mean.x]), mean]));
    table.tBodies[0].replaceChildren(
      ...[...places.values()].sort((a, b) => order.indexOf(a.series) - order.indexOf(b.series)).map(({ series, x }) =>
        row(
          cell("th", series, "row"),
          cell("td", x.toLocaleString("en")),
          ...means.map((own) => cell("td", text(own.find((mean) => mean.series === series && mean.x === x)))),
        ),
      ),
    );
  }

  // The file has a row for each replicate of each value that is shown.
  function csv(rows) {
    const head = "network,recipe,profile,data,method,rewind,level,percent_remaining,metric,replicate,value,device";
    const place = [study.network, study.recipe, study.scale, study.data];
    const lines = rows.flatMap((row) =>
      row.values.map((value, number) =>
        [...place, row.method, row.k, row.level, row.percent, row.metric, row.replicates[number], value, JSON.stringify(row.device)].join(","),
      ),
    );
    return [head, ...lines, ""].join("\n");
  }

  function command(rows) {
    const levels = Math.max(...rows.map((row) => row.level), 1);
    const replicates = unique(rows.flatMap((row) => row.replicates)).sort((a, b) => a - b);
    const seeds = replicates.length > 1 ? replicates.join() : `'[${replicates}]'`; // one number would be a count
    const figure = state.x === "percent" ? "accuracy" : "stability";
    const rewinds = state.k.length ? ` --rewinds ${state.k}` : "";
    return `${study.command} --figure ${figure}${rewinds} --levels ${levels} --replicates ${seeds}`;
  }

  function show(wanted) {
    fillControls(settle(wanted));
    history.replaceState(null, "", `${location.pathname}#${address()}`);
    const rows = selected();
    const points = pointsOf(rows);
    const devices = unique(rows.flatMap((row) => row.device.split(" and "))).sort();
    const count = rows.reduce((sum, row) => sum + row.values.length, 0);
    const mixed = devices.length > 1 ? " Processors of different kinds round differently: values may differ a little." : "";
    document.getElementById("explorer-shown").textContent =
      count ? `Shown: ${count.toLocaleString("en")} values, trained on ${devices.join(", ")}.${mixed}` : "No value of this choice is recorded.";
    const badge = document.getElementById("explorer-scale");
    badge.textContent = state.scale === "paper" ? "the paper's scale" : `scale: ${state.scale}`;
    badge.className = state.scale === "paper" ? "badge paper" : "badge";
    document.getElementById("explorer-about").textContent = study.about;
    document.getElementById("explorer-command").textContent = command(rows);
    const link = document.getElementById("explorer-csv");
    URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(new Blob([csv(rows)], { type: "text/csv" }));
    link.download = `${study.name}.csv`;
    const preset = known.presets.findIndex((one) => {
      const same = read(new URLSearchParams(one.address));
      return Object.keys(same).every((name) => String(same[name]) === String(state[name]));
    });
    form.elements.preset.value = preset < 0 ? "" : preset;
    fillTable(points);
    return draw(points);
  }

  // Links from other pages have "?": Bootstrap takes what stands after "#" for the name of an element.
  const fromAddress = () => show(read(new URLSearchParams(location.hash.slice(1) || location.search || known.start)));

  for (const [number, one] of known.presets.entries()) {
    const select = form.elements.preset;
    let group = [...select.querySelectorAll("optgroup")].find((own) => own.label === one.figure);
    if (!group) select.append((group = Object.assign(document.createElement("optgroup"), { label: one.figure })));
    group.append(new Option(`${one.figure}: ${one.title}`, number));
  }
  form.addEventListener("change", ({ target }) => {
    if (target.name === "preset") return target.value && show(read(new URLSearchParams(known.presets[target.value].address)));
    // The last box of a group stays ticked.
    if (target.type === "checkbox" && !form.querySelector(`[name=${target.name}]:checked`)) target.checked = true;
    const wanted = read(new FormData(form));
    return show([...STUDY, "x"].includes(target.name) ? { ...wanted, k: [], level: "", replicate: "" } : wanted);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("explorer-copy").addEventListener("click", async ({ target }) => {
    const place = document.getElementById("explorer-command");
    try {
      await navigator.clipboard.writeText(place.textContent);
      target.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(place); // a browser that keeps the clipboard to itself: the keyboard copies
    }
  });
  addEventListener("hashchange", fromAddress);
  document.getElementById("explorer-picture").hidden = true;
  form.hidden = document.getElementById("explorer-live").hidden = false;
  fromAddress();
  let width = view.clientWidth;
  new ResizeObserver(() => {
    if (width !== view.clientWidth) {
      width = view.clientWidth;
      draw(pointsOf(selected()));
    }
  }).observe(view);
  new MutationObserver(() => draw(pointsOf(selected()))).observe(document.documentElement, { attributeFilter: ["data-theme"] });
})();
