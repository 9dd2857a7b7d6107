"use strict";
// Draws the page. Names come from files of anyone: they become text (textContent), never HTML.
(async () => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const FIRST = 60; // buttons of the list; a page of thousands would be slow

  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).arrayBuffer();
  }
  const asText = async (text) => new TextDecoder().decode(await unpacked(text));

  const { count, neighbors: k } = data;
  const points = new Uint16Array(await unpacked(data.points)); // all x, then all y
  const near = new Uint16Array(await unpacked(data.near));
  const likeness = new Int16Array(await unpacked(data.similarities)); // thousandths
  for (let i = 0; i < likeness.length; i++) if (i % k) likeness[i] += likeness[i - 1];
  const ranked = Array.from(new Uint16Array(await unpacked(data.ranked)));
  const files = new Uint8Array(await unpacked(data.files));
  const names = JSON.parse(await asText(data.names));
  const keyText = await asText(data.keys);
  const keys = keyText ? keyText.split("\n") : [];
  const groups = {};
  for (const [name, group] of Object.entries(data.groups))
    groups[name] = { ...group, numbers: new Int32Array(await unpacked(group.numbers)) };

  const sheets = data.sheets.map((text) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return URL.createObjectURL(new Blob([bytes], { type: "image/webp" }));
  });
  const tiles = new Map();
  data.shown.forEach((rows, sheet) => rows.forEach((row, place) => tiles.set(row, { sheet, place })));

  // What would move or hide other text, such as line ends and marks of direction, is shown as its code.
  const plain = (text) => text.replace(/[\p{C}\u2028\u2029]/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
  const valueOf = (group, i) => (group.numbers[i] < 0 ? "" : plain(group.values[group.numbers[i]]));
  const nameOf = (i) => plain(names[i] || keys[i] || `image ${i}`);
  const titleOf = (i) => ["class" in groups && valueOf(groups.class, i), nameOf(i)].filter(Boolean).join(", ");

  function make(tag, text, ...children) {
    const element = document.createElement(tag);
    element.textContent = text;
    element.append(...children);
    return element;
  }

  function thumb(i, size) {
    const box = make("span", "");
    const tile = tiles.get(i);
    box.className = tile ? "thumb" : "thumb none";
    box.setAttribute("role", "img");
    box.setAttribute("aria-label", tile ? titleOf(i) : `${titleOf(i)} (no thumbnail on this page)`);
    box.style.width = box.style.height = `${size}px`;
    if (tile) {
      box.style.backgroundImage = `url(${sheets[tile.sheet]})`;
      box.style.backgroundSize = `${data.columns * size}px auto`;
      box.style.backgroundPosition = `${-(tile.place % data.columns) * size}px ${-Math.floor(tile.place / data.columns) * size}px`;
    }
    return box;
  }

  function caption(i) {
    const box = make("div", "", make("b", nameOf(i)));
    box.className = "caption";
    if (names[i] && keys[i]) box.append(make("div", `key ${keys[i]}`));
    for (const [name, group] of Object.entries(groups))
      if (valueOf(group, i)) box.append(make("div", `${name} ${valueOf(group, i)}`));
    return box;
  }

  // The map.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const canvas = $("map");
  const plot = reglScatterplot.default({
    canvas,
    width: "auto",
    height: "auto",
    pointSize: count > 20000 ? 3 : count > 3000 ? 4 : 6,
    pointSizeSelected: 3,
    opacity: count > 20000 ? 0.7 : 0.9,
    colorBy: "valueA",
    actionKeyMap: { lasso: "shift", merge: "meta", remove: "alt" },
  });
  const xs = Float32Array.from({ length: count }, (_, i) => (2 * points[i]) / 65535 - 1);
  const ys = Float32Array.from({ length: count }, (_, i) => (2 * points[count + i]) / 65535 - 1);
  let shown = null; // rows on the map, in the order of the filter; null: all
  let chosen = [];
  let colored = Object.keys(groups).find((name) => name === "class") || "cluster";
  let only = -1; // value of the group that is shown alone

  function background() {
    plot.set({
      backgroundColor: dark.matches ? "#12181f" : "#ffffff",
      pointColorActive: dark.matches ? "#ffffff" : "#000000",
      pointColorHover: dark.matches ? "#ffffff" : "#000000",
      lassoColor: dark.matches ? "#6cb0ff" : "#1f6feb",
    });
    plot.redraw();
  }

  async function color(name) {
    colored = name;
    only = -1;
    const group = groups[name];
    const colors = ["#8a96a3", ...(group ? group.colors : [])]; // of what has no value
    plot.set({ pointColor: colors });
    await plot.draw(
      { x: xs, y: ys, z: group ? Float32Array.from(group.numbers, (number) => number + 1) : new Float32Array(count) },
      { zDataType: "categorical", preventFilterReset: true, select: chosen },
    );
    legend(group);
    show();
  }

  function legend(group) {
    $("legend").replaceChildren();
    if (!group) return;
    const sizes = new Map();
    for (const number of group.numbers) sizes.set(number, (sizes.get(number) || 0) + 1);
    [...sizes].sort((a, b) => b[1] - a[1]).slice(0, 100).forEach(([number, size]) => {
      const dot = make("i", "");
      dot.style.background = number < 0 ? "#8a96a3" : group.colors[number];
      const button = make("button", "", dot, `${number < 0 ? "none" : plain(group.values[number])} ${size.toLocaleString("en")}`);
      button.type = "button";
      button.setAttribute("aria-pressed", "false");
      button.onclick = () => {
        const again = button.getAttribute("aria-pressed") === "true";
        for (const other of $("legend").children) other.setAttribute("aria-pressed", "false");
        button.setAttribute("aria-pressed", String(!again));
        only = again ? -1 : number + 1;
        show();
      };
      $("legend").append(button);
    });
  }

  // Which images are shown, and in which order.
  function filtered() {
    const all = Array.from({ length: count }, (_, i) => i);
    const filter = $("filter").value;
    $("threshold").hidden = filter !== "alike";
    if (filter === "odd") {
      const rows = all.sort((a, b) => likeness[a * k + k - 1] - likeness[b * k + k - 1]).slice(0, Math.max(10, Math.ceil(count / 100)));
      return [rows, `The ${rows.length} images that are farthest from their neighbor number ${k}, the farthest first.`];
    }
    if (filter === "alike") {
      const least = Math.round(1000 * $("like").value);
      const rows = all.filter((i) => likeness[i * k] >= least).sort((a, b) => likeness[b * k] - likeness[a * k] || a - b);
      return [rows, `${rows.length} images whose nearest neighbor has a cosine of at least ${$("like").value}, the nearest first.`];
    }
    if (filter === "useful") {
      const last = data.covered.length ? ` After the last of them each image has one with a cosine of at least ${data.covered.at(-1)}.` : "";
      return [ranked, `${ranked.length} images, ranked: each is least like all that have a label or come before it.${last}`];
    }
    if (filter === "chosen") return [chosen, "The images that were chosen."];
    return [[...tiles.keys(), ...all.filter((i) => !tiles.has(i))], ""]; // the list begins with what has a thumbnail
  }

  function show() {
    const [rows, about] = filtered();
    const words = $("search").value.trim().toLowerCase();
    const group = groups[colored];
    const found = rows.filter(
      (i) =>
        (only < 0 || group.numbers[i] === only - 1) &&
        (!words || [names[i], keys[i], groups.class && valueOf(groups.class, i)].some((text) => text && text.toLowerCase().includes(words))),
    );
    shown = found.length === count ? null : found;
    if (shown) plot.filter(shown, { preventEvent: true });
    else plot.unfilter({ preventEvent: true });
    $("about").textContent = about;
    $("first").textContent = `${found.length.toLocaleString("en")} images${found.length > FIRST ? `, the first ${FIRST}` : ""}`;
    fill($("list"), found.slice(0, FIRST));
  }

  function fill(box, rows, note = () => "") {
    box.replaceChildren(
      ...rows.map((i) => {
        const button = make("button", "", thumb(i, 64), make("span", note(i) || ("class" in groups && valueOf(groups.class, i)) || nameOf(i)));
        button.type = "button";
        button.title = titleOf(i);
        button.onclick = () => plot.select([i]);
        return button;
      }),
    );
  }

  // Choosing.
  function choose(rows) {
    chosen = Array.from(rows);
    $("count").textContent = chosen.length ? `${chosen.length.toLocaleString("en")} chosen` : "no image chosen";
    const listed = chosen.filter((i) => files[i]).length;
    $("save-list").disabled = !listed;
    $("save-keys").disabled = !chosen.length || !keys.length;
    $("saved").textContent =
      chosen.length && listed < chosen.length ? `${chosen.length - listed} of them are no files of their own, and no list names them.` : "";
    $("details").hidden = chosen.length !== 1;
    if (chosen.length === 1) details(chosen[0]);
    if ($("filter").value === "chosen") show();
  }

  function details(i) {
    const rows = Array.from(near.subarray(i * k, i * k + k));
    const box = make("div", "");
    box.className = "tiles";
    fill(box, rows, (row) => (likeness[i * k + rows.indexOf(row)] / 1000).toFixed(3));
    $("details").replaceChildren(make("h2", "Chosen"), thumb(i, 128), caption(i), make("h2", `Its ${k} nearest neighbors, by cosine`), box);
    $("said").textContent = `${titleOf(i)}: its ${k} nearest neighbors are listed`;
  }

  plot.subscribe("select", ({ points: rows }) => choose(rows));
  plot.subscribe("deselect", () => choose([]));
  plot.subscribe("lassoEnd", () => lasso(false));

  function lasso(on) {
    plot.set({ mouseMode: on ? "lasso" : "panZoom" });
    $("lasso").setAttribute("aria-pressed", String(on));
  }

  function save(name, text, type) {
    const link = make("a", "");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  const quoted = (text) => (/[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  $("save-list").onclick = () => {
    const label = "class" in groups ? groups.class : null;
    const lines = chosen
      .filter((i) => files[i])
      .map((i) => [names[i], ...(label ? [label.numbers[i] < 0 ? "" : label.values[label.numbers[i]]] : [])].map(quoted).join(","));
    save("chosen.csv", `${label ? "path,label" : "path"}\n${lines.join("\n")}\n`, "text/csv");
  };
  $("save-keys").onclick = () => save("chosen.txt", `${chosen.map((i) => keys[i]).join("\n")}\n`, "text/plain");
  $("lasso").onclick = () => lasso($("lasso").getAttribute("aria-pressed") !== "true");
  $("shown").onclick = () => plot.select(shown || Array.from({ length: count }, (_, i) => i));
  $("clear").onclick = () => plot.deselect();

  // Hovering, with the mouse or from the keyboard.
  let over = -1;
  function hover(i) {
    over = i;
    $("tip").hidden = i < 0;
    if (i < 0) return;
    $("tip").replaceChildren(thumb(i, 96), caption(i));
    const [x, y] = plot.getScreenPosition(i) || [0, 0];
    const { clientWidth: width, clientHeight: height } = $("plot");
    const tip = $("tip");
    tip.style.left = `${Math.max(4, x + 16 + tip.offsetWidth > width ? x - 16 - tip.offsetWidth : x + 16)}px`;
    tip.style.top = `${Math.max(4, Math.min(y - 20, height - tip.offsetHeight - 4))}px`;
  }
  plot.subscribe("pointOver", hover);
  plot.subscribe("pointOut", () => hover(-1));

  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  canvas.onkeydown = (event) => {
    const step = STEPS[event.key];
    if (step) {
      const [x, y] = over < 0 ? plot.get("cameraTarget") : [xs[over], ys[over]];
      let best = -1, least = Infinity;
      for (const i of shown || xs.keys()) {
        const along = (xs[i] - x) * step[0] + (ys[i] - y) * step[1];
        const aside = Math.abs((xs[i] - x) * step[1]) + Math.abs((ys[i] - y) * step[0]);
        if (i !== over && (over < 0 || along > aside) && along * along + aside * aside < least) {
          best = i;
          least = along * along + aside * aside;
        }
      }
      if (best >= 0) {
        plot.hover(best, { preventEvent: true });
        hover(best);
        $("said").textContent = titleOf(best);
      }
    } else if (event.key === "Enter" && over >= 0) plot.select([over]);
    else if (event.key === "+" || event.key === "-") {
      plot.zoomToLocation(plot.get("cameraTarget"), plot.get("cameraDistance") * (event.key === "+" ? 0.8 : 1.25));
    } else return;
    event.preventDefault();
  };

  for (const name of Object.keys(groups)) $("color").append(make("option", name));
  $("color").value = colored;
  $("color").onchange = () => color($("color").value);
  $("like").value = data.like;
  for (const id of ["filter", "like", "search"]) $(id).oninput = show;
  dark.onchange = background;
  background();
  choose([]);
  await color(colored);
  window.plot = plot;
  document.body.dataset.ready = String(Math.round(performance.now())); // milliseconds since the page began
})().catch((error) => {
  document.getElementById("said").textContent = `This browser cannot draw the page: ${error.message}`;
});
