"use strict";
// Draws every chart of the page, in the colours of the reader's scheme, and again when that changes.
(() => {
  const { charts, templates } = JSON.parse(document.getElementById("chart-data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const coarse = window.matchMedia("(pointer: coarse)").matches;
  const config = { responsive: true, displaylogo: false, displayModeBar: false };

  const draw = () => {
    const template = templates[dark.matches ? "dark" : "light"];
    for (const [id, figure] of Object.entries(charts)) {
      const layout = { ...figure.layout, template };
      if (coarse) layout.dragmode = false; // a finger scrolls the page
      const zoomable = layout.dragmode === "zoom";
      Plotly.react(`chart-${id}`, figure.data, layout, { ...config, displayModeBar: zoomable ? "hover" : false });
    }
  };

  for (const button of document.querySelectorAll("button[data-chart]")) {
    button.addEventListener("click", () => {
      const { chart, show } = button.dataset;
      for (const other of document.querySelectorAll(`button[data-chart="${chart}"]`)) {
        other.setAttribute("aria-pressed", String(other === button));
      }
      for (const trace of charts[chart].data) trace.visible = trace.meta === show;
      draw();
    });
  }

  dark.addEventListener("change", draw);
  draw();
})();
