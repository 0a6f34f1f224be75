(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const hidden = new Set();

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

  const draw = () => {
    const style = getComputedStyle(document.documentElement);
    for (const [id, figure] of Object.entries(figures)) {
      const data = figure.data.map((trace) => ({ ...trace, visible: !(trace.meta && hidden.has(trace.meta.run)) }));
      Plotly.react(id, coloured(data, style), coloured(layout(figure.layout), style), {
        responsive: true,
        displaylogo: false,
        // Named one by one: Plotly's own choice has a button that sends the figure to a server.
        modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
        plotlyServerURL: "",
      });
    }
  };

  for (const button of document.querySelectorAll("[data-run]")) {
    button.addEventListener("click", () => {
      const run = Number(button.dataset.run);
      const shown = hidden.delete(run) || !hidden.add(run);
      button.setAttribute("aria-pressed", String(shown));
      draw();
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
})();
