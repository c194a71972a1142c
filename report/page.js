"use strict";
(() => {
  // Light or dark: the reader's choice, else the system's. Where a browser keeps nothing for a file, the choice lasts as long as the page.
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const kept = (value) => {
    try { return value === undefined ? localStorage.getItem("contrastill-theme") : localStorage.setItem("contrastill-theme", value); } catch { return null; }
  };
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => {
    button.setAttribute("aria-pressed", String(dark()));
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", dark() ? "Switch to light colours" : "Switch to dark colours");
  };
  if (["light", "dark"].includes(kept())) root.dataset.theme = kept();
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; kept(root.dataset.theme); show(); });
  system.addEventListener("change", show);
  show();

  // Tables: a head's button sorts, once up, once down. What has no value stays last.
  const key = (row, place) => {
    const cell = row.cells[place];
    const text = cell.dataset.value;
    return text === undefined || text === "" ? { text: cell.textContent.trim() } : { number: Number(text) };
  };
  // Numbers in texts by their value: with { numeric: true } the digits behind a point would be a whole number.
  const compareTexts = (a, b) => {
    const [one, other] = [a, b].map((text) => text.split(/(\d+(?:\.\d+)?)/));
    for (let part = 0; part < Math.min(one.length, other.length); part += 1) {
      const order = part % 2 ? Number(one[part]) - Number(other[part]) : one[part].localeCompare(other[part]);
      if (order) return order;
    }
    return one.length - other.length;
  };
  const compare = (a, b) => {
    if (a.number !== undefined && b.number !== undefined) return a.number - b.number;
    return compareTexts(a.text, b.text);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, place) => head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = table.tBodies[0];
      const rows = [...body.rows].map((row) => ({ row, key: key(row, place) }));
      const numeric = head.classList.contains("number");
      const there = rows.filter(({ key: one }) => (numeric ? one.number !== undefined : true));
      const absent = rows.filter((one) => !there.includes(one));
      there.sort((a, b) => (up ? 1 : -1) * compare(a.key, b.key));
      for (const { row } of [...there, ...absent]) body.append(row);
    }));
  }

  // Charts: the values at the pointer, or at the place that the arrow keys chose.
  const NS = "http://www.w3.org/2000/svg";
  for (const svg of document.querySelectorAll("svg.chart")) {
    const box = svg.closest("figure");
    const plot = box.querySelector(".plot");
    const series = JSON.parse(svg.dataset.values);
    const axis = JSON.parse(svg.dataset.axis);
    const names = svg.dataset.places ? JSON.parse(svg.dataset.places) : null;
    const lines = [...svg.querySelectorAll(".series")];
    const readout = box.querySelector(".readout");
    const group = svg.querySelector(".pointer");
    const places = [...new Set(series.flatMap((one) => one.points.map(([x]) => x)))].sort((a, b) => a - b);
    const scale = (value) => (axis.log ? Math.log10(value) : value);
    const px = (x) => axis.left + ((x - axis.x0) / (axis.x1 - axis.x0)) * (axis.right - axis.left);
    const py = (y) => axis.bottom - ((scale(y) - scale(axis.y0)) / (scale(axis.y1) - scale(axis.y0))) * (axis.bottom - axis.top);
    const asleep = readout.textContent;
    let at = places.length - 1;
    const read = () => {
      const x = places[at];
      for (const dot of group.querySelectorAll("circle")) dot.remove();
      const said = [];
      series.forEach((one, number) => {
        const point = one.points.find(([place]) => place === x);
        if (!point || lines[number].hasAttribute("hidden")) return;
        const dot = document.createElementNS(NS, "circle");
        dot.setAttribute("cx", px(x)); dot.setAttribute("cy", py(point[1])); dot.setAttribute("r", 4.5);
        dot.setAttribute("class", `marker c${one.style}`);
        group.append(dot);
        said.push(`${one.name}: ${Number(point[1].toPrecision(4))}`);
      });
      const cursor = group.querySelector(".cursor");
      cursor.setAttribute("x1", px(x)); cursor.setAttribute("x2", px(x));
      group.classList.add("on");
      readout.textContent = `${names ? names[x] : `${svg.dataset.x} ${x}`} · ${said.join(" · ") || "no value"}`;
    };
    const rest = () => {
      group.classList.remove("on");
      for (const dot of group.querySelectorAll("circle")) dot.remove();
      readout.textContent = asleep;
    };
    svg.addEventListener("pointermove", (event) => {
      const rect = svg.getBoundingClientRect();
      const x = ((event.clientX - rect.left) / rect.width) * svg.viewBox.baseVal.width;
      at = places.reduce((best, place, number) => (Math.abs(px(place) - x) < Math.abs(px(places[best]) - x) ? number : best), 0);
      read();
    });
    svg.addEventListener("pointerleave", rest);
    plot.addEventListener("focus", () => { if (plot.matches(":focus-visible")) read(); });
    plot.addEventListener("blur", rest);
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, Home: -places.length, End: places.length }[event.key];
      if (!step) return;
      event.preventDefault();
      at = Math.min(places.length - 1, Math.max(0, at + step));
      read();
    });
    box.querySelectorAll(".legend button").forEach((entry, number) => {
      const alone = (on) => lines.forEach((line, other) => line.classList.toggle("dim", on && other !== number));
      entry.addEventListener("click", () => {
        const shown = entry.getAttribute("aria-pressed") !== "true";
        entry.setAttribute("aria-pressed", String(shown));
        lines[number].toggleAttribute("hidden", !shown);
      });
      entry.addEventListener("pointerenter", () => alone(true));
      entry.addEventListener("pointerleave", () => alone(false));
      entry.addEventListener("focus", () => alone(entry.matches(":focus-visible")));
      entry.addEventListener("blur", () => alone(false));
    });
  }

  for (const copy of document.querySelectorAll(".copy")) {
    copy.addEventListener("click", async () => {
      const text = copy.parentElement.querySelector("code").textContent;
      try {
        await navigator.clipboard.writeText(text);
        copy.textContent = "Copied";
      } catch {
        // Without leave to write to the clipboard the text is selected, so that a key copies it.
        const range = document.createRange();
        range.selectNodeContents(copy.parentElement.querySelector("code"));
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        copy.textContent = "Selected";
      }
      setTimeout(() => { copy.textContent = "Copy"; }, 2000);
    });
  }
  // What is folded away is printed too.
  addEventListener("beforeprint", () => { for (const one of document.querySelectorAll("details:not(.chart-box details)")) one.open = true; });
})();
