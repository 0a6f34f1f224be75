(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const figures = new Map(Object.entries(data.figures));
  const hidden = new Set();  // groups that were switched off
  const visible = new Set(); // ids of figures near the window: the others are drawn when they come there
  const dirty = new Set();   // ids of figures whose drawing is no longer right
  let runs = data.runs;
  let matches = [];          // for each run, whether it passes the filter

  // "var(--ink)" becomes the colour that the style sheet gives it now; arrays of plain numbers are passed on.
  const coloured = (value, style) => {
    if (typeof value === "string") {
      const name = /^var\((--[a-z0-9-]+)\)$/.exec(value);
      return name ? style.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) {
      return value.length > 2 && typeof value[0] === "number" ? value : value.map((item) => coloured(item, style));
    }
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, style)]));
  };

  const layout = (own) => {
    const axis = { gridcolor: "var(--grid)", linecolor: "var(--line)", zeroline: false, ticks: "", automargin: false };
    const base = {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: "var(--ink)" },
      hoverlabel: { bgcolor: "var(--surface)", bordercolor: "var(--line)", font: { color: "var(--ink)" }, namelength: -1, align: "left" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: "var(--muted)", activecolor: "var(--accent)" },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      uirevision: "kept",
    };
    const title = (name) => ({ font: { size: 12.5, color: "var(--muted)" }, ...(own[name].title || {}) });
    return {
      ...base,
      ...own,
      xaxis: { ...axis, ...own.xaxis, title: { standoff: 8, ...title("xaxis") } },
      yaxis: { ...axis, ...own.yaxis, title: title("yaxis") },
    };
  };

  // A figure is drawn over the runs or groups that pass the filter and are switched on.
  const groupsShown = () => {
    const shown = new Set(runs.filter((run, index) => matches[index]).map((run) => run.group));
    hidden.forEach((group) => shown.delete(group));
    return shown;
  };

  const draw = async (id) => {
    dirty.delete(id);
    const figure = await load(id);
    if (!figure || !document.getElementById(id)) return;
    const style = getComputedStyle(document.documentElement);
    const shown = groupsShown();
    const isShown = ({ meta }) =>
      !meta || (meta.run === undefined ? shown.has(meta.group) : matches[meta.run] && shown.has(runs[meta.run].group));
    const traces = figure.data.map((trace) => ({ ...trace, visible: isShown(trace) }));
    Plotly.react(id, coloured(traces, style), coloured(layout(figure.layout), style), {
      responsive: true,
      displaylogo: false,
      // Named one by one: Plotly's own choice has a button that sends the figure to a server.
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
      plotlyServerURL: "",
    });
  };

  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) visible.add(target.id);
      else visible.delete(target.id);
      if (isIntersecting && dirty.has(target.id)) draw(target.id);
    }
  }, { rootMargin: "400px" });

  const drawAgain = (ids) => {
    ids.forEach((id) => dirty.add(id));
    [...visible].filter((id) => dirty.has(id)).forEach(draw);
  };
  const plots = (root) => [...root.querySelectorAll(".plot")];
  const everything = () => drawAgain(plots(document).map((plot) => plot.id));

  // The filter: words that must all occur in what is known of a run.
  const box = document.querySelector(".filter input");
  const filter = () => {
    const words = (box ? box.value : "").toLowerCase().split(/\s+/).filter(Boolean);
    matches = runs.map((run) => words.every((word) => run.text.includes(word)));
    const shown = groupsShown();
    for (const row of document.querySelectorAll("tr[data-group]")) {
      const group = Number(row.dataset.group);
      const run = row.dataset.run === undefined ? undefined : Number(row.dataset.run);
      row.hidden = run === undefined ? !runs.some((other, i) => other.group === group && matches[i]) : !matches[run];
    }
    for (const button of document.querySelectorAll("[data-toggle]")) {
      const group = Number(button.dataset.toggle);
      button.hidden = !runs.some((run, index) => run.group === group && matches[index]);
      button.setAttribute("aria-pressed", String(shown.has(group)));
    }
    const count = matches.filter(Boolean).length;
    if (box) box.parentElement.querySelector("output").textContent = `${count} of ${runs.length} runs`;
  };
  if (box) box.addEventListener("input", () => { filter(); everything(); });

  // Tables are sorted by the heading that was chosen; numbers by their value, the largest first.
  const order = new Map();
  const sort = (table) => {
    const chosen = order.get(table.className);
    if (!chosen) return;
    const key = (row) => {
      const cell = row.cells[chosen.column];
      return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
    };
    const compare = (a, b) => {
      if (typeof a === "number" && typeof b === "number") return b - a;
      if (typeof a === "number" || typeof b === "number") return typeof a === "number" ? -1 : 1;
      return a.localeCompare(b);
    };
    const rows = [...table.tBodies[0].rows].sort((a, b) => chosen.sign * compare(key(a), key(b)));
    table.tBodies[0].append(...rows);
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      const [first, second] = cell.classList.contains("number") ? ["descending", "ascending"] : ["ascending", "descending"];
      if (column === chosen.column) cell.setAttribute("aria-sort", chosen.sign > 0 ? first : second);
      else cell.removeAttribute("aria-sort");
    });
  };

  document.addEventListener("click", ({ target }) => {
    const toggle = target.closest("[data-toggle]");
    if (toggle) {
      const group = Number(toggle.dataset.toggle);
      if (!hidden.delete(group)) hidden.add(group);
      filter();
      everything();
    }
    const heading = target.closest("table.sortable thead th");
    if (heading) {
      const table = heading.closest("table");
      const chosen = order.get(table.className);
      const sign = chosen && chosen.column === heading.cellIndex ? -chosen.sign : 1;
      order.set(table.className, { column: heading.cellIndex, sign });
      sort(table);
    }
  });

  // A live page asks its server what changed, and fetches that: sections as they are, figures when they are seen.
  const ask = async (path) => {
    const answer = await fetch(path);
    if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
    return answer;
  };
  const load = async (id) => {
    if (data.refresh !== null && !figures.has(id)) {
      figures.set(id, await (await ask(`/figure/${encodeURIComponent(id)}`)).json());
    }
    return figures.get(id);
  };

  const changed = (found, known) => Object.keys(found).filter((name) => found[name] !== known[name]);
  const update = async () => {
    const state = await (await ask("/state")).json();
    if (state.runs !== data.state.runs) runs = await (await ask("/runs")).json();
    const drawnAnew = changed(state.figures, data.state.figures);
    drawnAnew.forEach((id) => figures.delete(id));
    for (const name of changed(state.sections, data.state.sections)) {
      const section = document.querySelector(`[data-section="${name}"]`);
      const content = await (await ask(`/section/${name}`)).text();
      plots(section).forEach((plot) => { watcher.unobserve(plot); visible.delete(plot.id); Plotly.purge(plot); });
      section.innerHTML = content;
      watch(section);
    }
    filter();
    drawAgain(drawnAnew);
    data.state = state;
    document.title = `${state.title} · ConvAtlas`;
  };
  const poll = async () => {
    const [light, text] = ["i", "span"].map((name) => document.querySelector(`.live ${name}`));
    try {
      if (!document.hidden) await update();
      light.className = "";
      text.textContent = `live, ${new Date().toLocaleTimeString("en-GB")}`;
    } catch (error) {
      light.className = "lost";
      text.textContent = "the dashboard's process does not answer; this is its last state";
    }
    setTimeout(poll, 1000 * data.refresh);
  };

  const watch = (root) => {
    filter();
    root.querySelectorAll("table.sortable").forEach(sort);
    plots(root).forEach((plot) => { dirty.add(plot.id); watcher.observe(plot); });
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", everything);
  addEventListener("beforeprint", () => plots(document).forEach((plot) => draw(plot.id)));
  watch(document);
  if (data.refresh !== null) poll();
})();
