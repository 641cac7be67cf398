/* Draws the charts of a page from the specifications that stand beside them, lets a reader sort and filter the ledger, and names the
   buttons that copy code. Nothing is fetched. */
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

document.addEventListener("DOMContentLoaded", () => {
  const ledger = document.querySelector("#ledger table");
  if (!ledger) return;
  const rows = [...ledger.tBodies[0].rows];
  const heads = [...ledger.tHead.rows[0].cells];
  const text = (row, column) => row.cells[column].textContent.trim();

  const bar = document.createElement("div");
  bar.className = "tips-filter";
  const count = document.createElement("output");
  const filters = [];
  const filter = (name, control, keeps) => {
    const label = document.createElement("label");
    label.append(`${name} `, control);
    bar.append(label);
    filters.push((row) => !control.value || keeps(row, control.value));
    control.addEventListener("input", apply);
  };
  const apply = () => {
    let shown = 0;
    for (const row of rows) shown += !(row.hidden = !filters.every((keeps) => keeps(row)));
    count.textContent = `${shown} of ${rows.length} claims`;
  };
  const word = document.createElement("input");
  word.type = "search";
  filter("Word", word, (row, value) => row.textContent.toLowerCase().includes(value.toLowerCase()));
  for (const name of ["Verdict", "Paper", "Profile"]) {
    const column = heads.findIndex((head) => head.textContent.trim() === name);
    const choice = document.createElement("select");
    choice.append(new Option("all", ""), ...[...new Set(rows.map((row) => text(row, column)))].sort().map((value) => new Option(value, value)));
    filter(name, choice, (row, value) => text(row, column) === value);
  }
  bar.append(count);
  ledger.closest(".tips-table").querySelector("[role=region]").before(bar);
  apply();

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const numbers = rows.every((row) => text(row, column) === "–" || Number.isFinite(parseFloat(text(row, column))));
      // what has no number comes last, whichever way
      const order = (a, b) => {
        const [x, y] = [text(a, column), text(b, column)];
        if (!numbers) return (up ? 1 : -1) * x.localeCompare(y);
        return (x === "–") - (y === "–") || (up ? 1 : -1) * (parseFloat(x) - parseFloat(y)) || 0;
      };
      ledger.tBodies[0].append(...rows.sort(order));
    });
  });
});
