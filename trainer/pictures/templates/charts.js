// Draws the charts of a page with Vega; keys do with a chart what a pointer does.
(() => {
  const style = getComputedStyle(document.documentElement);
  const muted = { labelColor: "var(--muted)", titleColor: "var(--muted)" };
  const small = { labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" };
  const config = {
    aria: false, // each chart says itself in words
    mark: { aria: false },
    background: "transparent",
    font: style.getPropertyValue("--sans"),
    // An axis title is measured without what hangs below its line.
    padding: { left: 0, top: 0, right: 0, bottom: 5 },
    view: { stroke: null },
    axis: {
      ...muted, ...small, domain: false, ticks: false, labelPadding: 6,
      gridColor: "var(--line)",
      labelExpr: "format(datum.value, abs(datum.value) < 10000 ? '~g' : '~s')",
    },
    axisX: { labelFlush: 16 }, // within so many pixels of an end, a label does not stick out
    legend: { ...muted, ...small, symbolType: "circle", symbolSize: 60, symbolOpacity: 1,
      rowPadding: 2 },
    line: { strokeWidth: 2, strokeJoin: "round" },
    circle: { opacity: 1 },
    style: {
      hairline: { color: "var(--muted)" },
      ring: { color: "var(--ink)", size: 160 },
      reference: { color: "var(--muted)", strokeDash: [3, 3] },
      interval: { strokeWidth: 3, strokeCap: "round", opacity: 0.42 },
      figure: { color: "var(--muted)", fontSize: 12, align: "left", dx: 10 },
      marked: { color: "var(--truth)", fill: "var(--card)", strokeWidth: 2.5, size: 55, opacity: 1 },
    },
  };

  // What is told beside the pointer; `escape` makes text of whatever it is given.
  const tell = ({ told }, escape) => told
    .map(([name, value]) => `<span>${escape(name)}</span><b>${escape(value)}</b>`).join("");

  // Vega's tooltip takes the element that has its id; this one is read out when it changes.
  const beside = document.createElement("div");
  beside.id = "told";
  beside.setAttribute("role", "status");
  document.body.append(beside);

  async function draw(place) {
    const specification = JSON.parse(place.dataset.chart);
    const words = place.textContent;
    place.removeAttribute("data-chart");
    const { view } = await vegaEmbed(place, specification, {
      mode: "vega-lite", renderer: "svg", ast: true, actions: false, defaultStyle: false, config,
      tooltip: { id: beside.id, disableDefaultStyle: true, formatTooltip: tell },
    });
    const rows = Object.values(specification.datasets).flat().filter((row) => row.told);
    place.tabIndex = 0;
    place.setAttribute("role", "application");
    place.setAttribute("aria-roledescription", "chart");
    place.setAttribute("aria-label", words);
    const zooms = specification.params.some(({ name }) => name === "zoom");
    place.setAttribute("aria-description", "Arrow keys read values"
      + (zooms ? ", plus and minus zoom, 0 shows all" : ""));
    let current = null;

    const along = (axis, row, length) => {
      if (row?.[axis] === undefined) return length / 2;
      const scale = view.scale(axis);
      return scale(row[axis]) + (scale.bandwidth ? scale.bandwidth() / 2 : 0);
    };
    const where = (row) => [along("x", row, view.width()), along("y", row, view.height())];
    const inside = (row) => {
      const [x, y] = where(row);
      return x >= 0 && x <= view.width() && y >= 0 && y <= view.height();
    };
    const act = (Kind, type, more) => {
      const box = place.querySelector("svg").getBoundingClientRect();
      const [x, y] = where(current).map((value, axis) => value + view.origin()[axis]);
      const at = { clientX: box.left + x, clientY: box.top + y, bubbles: true, cancelable: true };
      const target = document.elementFromPoint(at.clientX, at.clientY);
      if (place.contains(target)) target.dispatchEvent(new Kind(type, { ...at, ...more }));
    };
    const go = (steps) => {
      const reached = rows.filter(inside);
      if (!reached.length) return;
      const from = reached.includes(current) ? reached.indexOf(current)
        : steps > 0 ? -1 : reached.length;
      const to = from + steps;
      current = reached[Math.min(Math.max(to, 0), reached.length - 1)];
      place.scrollIntoView({ block: "nearest" });
      act(PointerEvent, "pointerover");
      act(PointerEvent, "pointermove");
    };
    const leave = () => {
      act(PointerEvent, "pointerout");
      act(MouseEvent, "mouseout"); // what Vega's tooltip listens to
      current = null;
    };
    const zoom = (by) => act(WheelEvent, "wheel", { ctrlKey: true, deltaY: by });
    const keys = {
      ArrowLeft: () => go(-1), ArrowUp: () => go(-1), Home: () => go(-Infinity),
      ArrowRight: () => go(1), ArrowDown: () => go(1), End: () => go(Infinity), Escape: leave,
      ...(zooms && {
        "+": () => zoom(-300), "=": () => zoom(-300), "-": () => zoom(300),
        0: () => act(MouseEvent, "dblclick"),
      }),
    };
    place.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
      event.preventDefault();
      keys[event.key]();
    });
    place.addEventListener("blur", leave);
    return [place, view];
  }

  let drawn = [];
  function look() {
    drawn = drawn.filter(([place, view]) => place.isConnected || void view.finalize());
    for (const place of document.querySelectorAll("[data-chart]")) {
      draw(place).then((chart) => drawn.push(chart));
    }
  }
  look();
  new MutationObserver(look).observe(document.body, { childList: true, subtree: true });
})();
