"use strict";
// A divider between two pictures, and crops that move together. Pixels of the large picture are the unit throughout.
(() => {
  const $ = (selector) => document.querySelector(selector);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const facts = JSON.parse($("#facts").textContent);
  const limit = (value, low, high) => Math.min(Math.max(value, low), Math.max(low, high));

  // ---- Before and after
  const stage = $(".stage");
  const divider = $(".divider");
  const layers = all(".stage img");
  const [left, right] = [$("#left"), $("#right")];
  let at = 50;
  if (facts.shown) stage.style.setProperty("--shown", `${facts.shown}px`); // small pictures: whole squares for pixels

  const names = () => [left, right].map((select) => select.options[select.selectedIndex].text);

  function place(percent) {
    at = limit(percent, 0, 100);
    const [before, after] = names();
    stage.style.setProperty("--at", `${at}%`);
    divider.setAttribute("aria-valuenow", Math.round(at));
    divider.setAttribute("aria-valuetext", `${Math.round(at)} % ${before}, ${100 - Math.round(at)} % ${after}`);
  }

  function choose() {
    layers.forEach((layer, place) => {
      layer.hidden = place !== left.selectedIndex && place !== right.selectedIndex;
      layer.classList.toggle("over", place === left.selectedIndex);
      layer.classList.toggle("under", place === right.selectedIndex);
    });
    // The same on both sides: one picture is both, so it must not be cut.
    if (left.selectedIndex === right.selectedIndex) layers[left.selectedIndex].classList.remove("over");
    [$(".tag.before").textContent, $(".tag.after").textContent] = names();
    place(at);
  }

  const toPointer = (event) => {
    const box = stage.getBoundingClientRect();
    place(((event.clientX - box.left) / box.width) * 100);
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    stage.setPointerCapture(event.pointerId);
    divider.focus({ preventScroll: true });
    if (event.pointerType !== "touch") toPointer(event); // a finger may only want to scroll: wait for its move
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) toPointer(event);
  });
  stage.addEventListener("click", toPointer);
  divider.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 10 : 1;
    const to = {
      ArrowLeft: at - step, ArrowDown: at - step, ArrowRight: at + step, ArrowUp: at + step,
      PageDown: at - 10, PageUp: at + 10, Home: 0, End: 100,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    place(to);
  });
  // Each picture's other face: where it is a guess.
  const guess = $("#guess");
  guess?.addEventListener("click", async () => {
    const shown = guess.getAttribute("aria-pressed") !== "true";
    guess.setAttribute("aria-pressed", shown);
    $(".guess").hidden = !shown;
    const turned = layers.filter((layer) => layer.dataset.heat);
    for (const layer of turned) [layer.src, layer.dataset.heat] = [layer.dataset.heat, layer.src];
    await Promise.all(turned.map((layer) => layer.decode()));
    draw();
    stage.dataset.guess = shown;
  });
  left.addEventListener("change", choose);
  right.addEventListener("change", choose);

  // ---- Crops
  const canvases = all(".views canvas");
  const thumbs = all(".spots button");
  const frame = $(".frame");
  // Where the whole pictures are on the page the crops are drawn from them; else each spot brings its own pixels.
  const picture = (method) => (facts.whole ? layers[method] : $(`#crop-${method}-${spot}`));
  let spot = 0, x = 0, y = 0, zoom = 1;

  const side = () => canvases[0].clientWidth || 1;

  function draw() {
    const [top, start, rows, cols] = facts.pieces[spot];
    const size = side();
    zoom = limit(zoom, Math.min(1, size / Math.max(rows, cols)), 32);
    const half = size / zoom / 2;
    x = cols < 2 * half ? start + cols / 2 : limit(x, start + half, start + cols - half);
    y = rows < 2 * half ? top + rows / 2 : limit(y, top + half, top + rows - half);
    canvases.forEach((canvas, method) => {
      const pixels = Math.round(size * devicePixelRatio);
      if (canvas.width !== pixels) canvas.width = canvas.height = pixels;
      const context = canvas.getContext("2d");
      const factor = (zoom * pixels) / size;
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.clearRect(0, 0, pixels, pixels);
      context.imageSmoothingEnabled = factor < 1;
      context.imageSmoothingQuality = "high";
      context.setTransform(factor, 0, 0, factor, pixels / 2 - (x - start) * factor, pixels / 2 - (y - top) * factor);
      context.drawImage(picture(method), 0, 0, cols, rows);
      Object.assign(canvas.dataset, { x: x.toFixed(1), y: y.toFixed(1), zoom: zoom.toFixed(3) });
    });
    stage.classList.toggle("narrow", stage.clientWidth < 160);
    const [wide, high] = [facts.cols, facts.rows];
    const clipped = (from, whole) => [limit(from - half, 0, whole), limit(from + half, 0, whole)];
    const [[x0, x1], [y0, y1]] = [clipped(x, wide), clipped(y, high)];
    Object.assign(frame.style, {
      left: `${(x0 / wide) * 100}%`, width: `${((x1 - x0) / wide) * 100}%`,
      top: `${(y0 / high) * 100}%`, height: `${((y1 - y0) / high) * 100}%`,
    });
    frame.dataset.spot = spot + 1;
    $("#zoom").textContent = `${Math.round(zoom * 100)} %`;
  }

  function go(number) {
    spot = number;
    const [top, start] = facts.spots[spot];
    [x, y, zoom] = [start + facts.side / 2, top + facts.side / 2, side() / facts.side];
    thumbs.forEach((thumb, place) => thumb.setAttribute("aria-pressed", place === spot));
    draw();
  }

  // What lies under (px, py), measured from the middle of a crop, stays there.
  function zoomBy(factor, px = 0, py = 0) {
    const before = zoom;
    zoom = limit(zoom * factor, Math.min(1, side() / Math.max(facts.pieces[spot][2], facts.pieces[spot][3])), 32);
    x += px / before - px / zoom;
    y += py / before - py / zoom;
    draw();
  }

  function pan(dx, dy) {
    x -= dx / zoom;
    y -= dy / zoom;
    draw();
  }

  const fromMiddle = (canvas, px, py) => {
    const box = canvas.getBoundingClientRect();
    return [px - box.left - box.width / 2, py - box.top - box.height / 2];
  };
  const fingers = new Map();
  for (const canvas of canvases) {
    canvas.addEventListener("wheel", (event) => {
      // Else nobody could scroll past the crops.
      if (!event.ctrlKey && !canvases.includes(document.activeElement)) return;
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 16 : 1;
      zoomBy(Math.exp(-event.deltaY * lines * 0.002), ...fromMiddle(canvas, event.clientX, event.clientY));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
    });
    canvas.addEventListener("pointermove", (event) => {
      const from = fingers.get(event.pointerId);
      if (!from) return;
      const to = [event.clientX, event.clientY];
      const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
      fingers.set(event.pointerId, to);
      if (other) {
        const apart = (a) => Math.max(Math.hypot(a[0] - other[0], a[1] - other[1]), 1);
        pan((to[0] - from[0]) / 2, (to[1] - from[1]) / 2);
        zoomBy(apart(to) / apart(from), ...fromMiddle(canvas, (to[0] + other[0]) / 2, (to[1] + other[1]) / 2));
      } else {
        pan(to[0] - from[0], to[1] - from[1]);
      }
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => fingers.delete(event.pointerId));
    canvas.addEventListener("keydown", (event) => {
      const step = 32;
      const act = {
        "+": () => zoomBy(2), "=": () => zoomBy(2), "-": () => zoomBy(0.5), "0": () => go(spot),
        ArrowLeft: () => pan(step, 0), ArrowRight: () => pan(-step, 0),
        ArrowUp: () => pan(0, step), ArrowDown: () => pan(0, -step),
      }[event.key];
      if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      act();
    });
  }
  $("#closer").addEventListener("click", () => zoomBy(2));
  $("#farther").addEventListener("click", () => zoomBy(0.5));
  $("#pixels").addEventListener("click", () => zoomBy(1 / zoom));
  $("#again").addEventListener("click", () => go(spot));
  thumbs.forEach((thumb, number) => thumb.addEventListener("click", () => go(number)));

  function paintThumbs() {
    thumbs.forEach((thumb, number) => {
      const canvas = thumb.querySelector("canvas");
      const [top, start] = facts.spots[number];
      const [pieceTop, pieceStart] = facts.pieces[number];
      const source = facts.whole ? layers[facts.thumb] : $(`#crop-${facts.thumb}-${number}`);
      canvas.getContext("2d").drawImage(
        source, start - pieceStart, top - pieceTop, facts.side, facts.side, 0, 0, canvas.width, canvas.height,
      );
    });
  }

  choose();
  Promise.all([...layers, ...all("img.piece")].map((image) => image.decode().catch(() => {}))).then(() => {
    paintThumbs();
    go(0);
    new ResizeObserver(() => draw()).observe(canvases[0]);
    document.documentElement.dataset.ready = "";
  });
})();
