/* Draws the charts of a page from the specifications that stand beside them, and names the buttons that copy code. Nothing is fetched. */
document.addEventListener("DOMContentLoaded", () => {
  for (const chart of document.querySelectorAll(".vega-chart")) {
    const spec = JSON.parse(chart.nextElementSibling.textContent);
    const options = { mode: "vega-lite", renderer: "svg", actions: false, tooltip: { theme: "custom" } };
    vegaEmbed(chart, spec, options).catch((error) => {
      chart.textContent = `The chart could not be drawn: ${error.message}`;
      console.error(error);
    });
  }
});
window.addEventListener("load", () => {
  for (const button of document.querySelectorAll("button.copybtn")) button.setAttribute("aria-label", "Copy the code");
});
