// @ts-check
// Before and after, whole window: one view for all layers, so that they can't drift apart.

/**
 * A picture or a film, and its address; start: the seconds of it that are beside the result's beginning; instead: where it can't be played.
 * @typedef {{kind: "picture" | "film", source: string, start?: number, instead?: Show | null}} Show
 * What is to be compared; rows and cols are the result's.
 * @typedef {{name: string, facts: string, rows: number, cols: number, before: Show | null, after: Show | null,
 *   guess: string | null, download: string, note: string, moves: boolean, missed: () => void, saved: () => void}} Pair
 * The middle of the stage shows (x, y), in pixels of the result; zoom: pixels of the screen for one of these.
 * @typedef {{x: number, y: number, zoom: number}} View
 * A stage, in pixels of the screen.
 * @typedef {{width: number, height: number}} Size
 */

const CLOSEST = 32;
const LARGEST_WHOLE = 4;
/** Pixels of the screen that a picture of few pixels may have, and that a strip's narrow side has at first. */
const SMALLEST_WHOLE = 256;
const NARROWEST = 48;
const STEP = 64;
/** From so many pixels of the screen on, a pixel is shown as a square. */
const SQUARE = 6;
/** As heat.LEGEND_LEVELS. */
const LEVELS = [0, 1, 2, 4, 8, 16, 32, 64];

/** @param {number} value @param {number} low @param {number} high */
export const limit = (value, low, high) => Math.min(Math.max(value, low), Math.max(low, high));

/** The zoom that shows all of it; stamps don't become posters. @param {Pair} pair @param {Size} stage */
export function fitting(pair, stage) {
  const most = limit(Math.floor(SMALLEST_WHOLE / Math.max(pair.cols, pair.rows)), LARGEST_WHOLE, CLOSEST);
  return Math.min(stage.width / pair.cols, stage.height / pair.rows, most);
}

/** The view, brought back to where there is something to see. @param {View} view @param {Pair} pair @param {Size} stage */
export function bounded(view, pair, stage) {
  const zoom = limit(view.zoom, Math.min(1, fitting(pair, stage)), CLOSEST);
  const along = (/** @type {number} */ at, /** @type {number} */ length, /** @type {number} */ shown) =>
    length <= shown ? length / 2 : limit(at, shown / 2, length - shown / 2);
  return { x: along(view.x, pair.cols, stage.width / zoom), y: along(view.y, pair.rows, stage.height / zoom), zoom };
}

/** Zoomed so that what lies (dx, dy) from the stage's middle stays there.
 * @param {View} view @param {number} zoom @param {number} dx @param {number} dy */
export const zoomed = (view, zoom, dx = 0, dy = 0) => ({
  x: view.x + dx / view.zoom - dx / zoom, y: view.y + dy / view.zoom - dy / zoom, zoom,
});

/** "1:05" @param {number} seconds */
export const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

/** @template {HTMLElement} T @param {string} id @returns {T} */
const element = (id) => /** @type {T} */ (document.getElementById(id));

const dialog = /** @type {HTMLDialogElement} */ (element("viewer"));
const stage = element("stage");
const divider = element("divider");
const [before, after] = [element("before"), element("after")];
const guess = element("guess");
const legend = element("legend");
const strength = /** @type {HTMLInputElement} */ (element("strength"));
const seek = /** @type {HTMLInputElement} */ (element("seek"));
const play = element("play");

/** @type {Pair} */
let pair = { name: "", facts: "", rows: 1, cols: 1, before: null, after: null, guess: null, download: "", note: "", moves: false, missed: () => {}, saved: () => {} };
/** @type {View} */
let view = { x: 0, y: 0, zoom: 1 };
let at = 50;
/** Where on the stage the pictures begin, and how much of it they take, across; in CSS's pixels. */
let [edge, breadth] = [0, 0];
let guessed = false;
/** The whole is shown, and stays so when the window changes. */
let whole = true;

/** Pixels of the screen, which aren't CSS's. */
const ratio = () => window.devicePixelRatio || 1;
/** @returns {Size} */
const size = () => ({ width: Math.max(stage.clientWidth, 1) * ratio(), height: Math.max(stage.clientHeight, 1) * ratio() });
/** The result's first. @returns {HTMLVideoElement[]} */
const films = () => [after, before].flatMap((layer) => [...layer.querySelectorAll("video")]);

function draw() {
  const box = size();
  if (whole) view = { x: pair.cols / 2, y: pair.rows / 2, zoom: fitting(pair, box) };
  view = bounded(view, pair, box);
  const scale = view.zoom / ratio();
  // On whole pixels of the screen, so that one to one is what the file holds.
  const left = Math.round(box.width / 2 - view.x * view.zoom) / ratio();
  const top = Math.round(box.height / 2 - view.y * view.zoom) / ratio();
  for (const shown of /** @type {NodeListOf<HTMLElement>} */ (stage.querySelectorAll(".layer > *"))) {
    shown.style.width = `${pair.cols * scale}px`;
    // The heat has its legend under it, so its height is its own.
    if (!shown.classList.contains("heat-over")) shown.style.height = `${pair.rows * scale}px`;
    shown.style.transform = `translate(${left}px, ${top}px)`;
    shown.classList.toggle("coarse", (pair.cols * view.zoom) / naturalWidth(shown) >= SQUARE);
  }
  after.style.clipPath = `inset(${Math.max(top, 0)}px 0 ${Math.max(box.height / ratio() - top - pair.rows * scale, 0)}px 0)`;
  [edge, breadth] = [Math.max(left, 0), Math.min(left + pair.cols * scale, box.width / ratio()) - Math.max(left, 0)];
  place(at);
  stage.classList.toggle("still", pair.cols * view.zoom <= box.width + 1 && pair.rows * view.zoom <= box.height + 1);
  Object.assign(stage.dataset, { x: view.x.toFixed(2), y: view.y.toFixed(2), zoom: view.zoom.toFixed(4) });
  element("zoom").textContent = `${Math.round(view.zoom * 100)} %`;
}

/** @param {HTMLElement} shown */
function naturalWidth(shown) {
  if (shown instanceof HTMLImageElement) return shown.naturalWidth || pair.cols;
  return (shown instanceof HTMLVideoElement && shown.videoWidth) || pair.cols;
}

/** The divider, to so much of what is seen of the pictures. @param {number} percent */
function place(percent) {
  at = limit(percent, 0, 100);
  stage.style.setProperty("--at", `${edge + (breadth * at) / 100}px`);
  divider.setAttribute("aria-valuenow", String(Math.round(at)));
  divider.setAttribute("aria-valuetext", `${Math.round(at)} % before, ${100 - Math.round(at)} % after`);
}

/** @param {Partial<View>} change */
function look(change) {
  whole = false;
  view = { ...view, ...change };
  draw();
}

/** @param {number} zoom @param {number} dx @param {number} dy */
function zoomTo(zoom, dx = 0, dy = 0) {
  const box = size();
  look(zoomed(view, limit(zoom, Math.min(1, fitting(pair, box)), CLOSEST), dx, dy));
}

/** Content moves with the hand. @param {number} dx @param {number} dy in CSS's pixels */
const pan = (dx, dy) => look({ x: view.x - (dx * ratio()) / view.zoom, y: view.y - (dy * ratio()) / view.zoom });

function showWhole() {
  whole = true;
  draw();
}

/** @param {boolean} shown */
function showGuess(shown) {
  guessed = shown && pair.guess !== null;
  guess.setAttribute("aria-pressed", String(guessed));
  legend.hidden = !guessed;
  after.querySelector(".heat-over")?.remove();
  if (!guessed || pair.guess === null) return;
  const heat = new Image();
  heat.className = "heat-over";
  heat.alt = "Where the result is a guess";
  legend.setAttribute("aria-busy", "true");
  heat.addEventListener("load", () => {
    legend.removeAttribute("aria-busy");
    draw();
  });
  heat.addEventListener("error", () => {
    showGuess(false);
    note("The guess map is gone.");
  });
  heat.src = pair.guess;
  heat.style.opacity = String(Number(strength.value) / 100);
  after.append(heat);
  draw();
}

/** Why it isn't there: the server's word, or that the browser can't. @param {Show} show @param {string} missing */
async function explain(show, missing) {
  const answer = await fetch(show.source, { headers: { Range: "bytes=0-0" } }).catch(() => null);
  const said = answer && !answer.ok ? await answer.json().catch(() => null) : null;
  note(said ? `${said.error.message}.` : missing);
  if (said) pair.missed();
}

/** @param {Show | null} show @param {string} name @param {string} missing @returns {HTMLElement[]} */
function shower(show, name, missing) {
  if (show === null) return [];
  const shown = show.kind === "film" ? document.createElement("video") : new Image();
  if (shown instanceof HTMLVideoElement) {
    Object.assign(shown, { muted: true, playsInline: true, loop: true, preload: "auto" });
    shown.setAttribute("aria-label", name);
    shown.addEventListener("loadedmetadata", () => show.start && (shown.currentTime = show.start));
    shown.addEventListener("loadeddata", draw);
  } else {
    shown.alt = name;
    shown.addEventListener("load", draw);
  }
  shown.addEventListener("error", () => {
    if (!dialog.open || !shown.isConnected) return;
    if (!show.instead) {
      explain(show, missing);
      return;
    }
    shown.replaceWith(...shower(show.instead, name, missing));
    note("This browser can't play the original: one frame of it is shown.");
    draw();
  });
  shown.src = show.source;
  return [shown];
}

/** @param {string} text */
function note(text) {
  const shown = element("stage-note");
  shown.textContent = text;
  shown.hidden = text === "";
}

/** When it is there to be seen, or won't come. @param {HTMLElement} shown */
function come(shown) {
  if (shown instanceof HTMLImageElement) return shown.decode().catch(() => {});
  return new Promise((resolve) => {
    for (const end of ["loadeddata", "error"]) shown.addEventListener(end, resolve, { once: true });
  });
}

/** Until all is there: animations begin at once then, so that the same moments lie beside each other. */
async function wait() {
  const awaited = pair;
  stage.toggleAttribute("data-held", pair.moves);
  element("stage-wait").hidden = false;
  await Promise.all([...stage.querySelectorAll(".layer > *")].map((shown) => come(/** @type {HTMLElement} */ (shown))));
  if (pair !== awaited) return; // another one was opened meanwhile
  stage.removeAttribute("data-held");
  element("stage-wait").hidden = true;
}

/** Open the window on a pair. @param {Pair} given */
export function compare(given) {
  pair = given;
  element("viewer-name").textContent = pair.name;
  element("viewer-facts").textContent = pair.facts;
  /** @type {HTMLAnchorElement} */ (element("viewer-download")).href = pair.download;
  note(pair.note);
  before.replaceChildren(...shower(pair.before, "Before", "The original can't be shown here."));
  after.replaceChildren(...shower(pair.after, "After", "This browser can't show the result; download it to see it."));
  for (const part of [before, divider, ...stage.querySelectorAll(".tag")]) {
    /** @type {HTMLElement} */ (part).hidden = pair.before === null || pair.after === null;
  }
  guess.hidden = element("guess-key").hidden = pair.guess === null;
  element("player").hidden = films().length === 0;
  whole = true;
  place(50);
  showGuess(false);
  stop();
  if (!dialog.open) dialog.showModal(); // it was asked for twice
  draw();
  const narrow = Math.min(pair.rows, pair.cols);
  if (view.zoom < 1 && narrow * view.zoom < NARROWEST) look({ zoom: NARROWEST / narrow }); // else a thread
  wait();
  (pair.before === null || pair.after === null ? stage : divider).focus();
}

// ---- Hands

/** @type {Map<number, {x: number, y: number}>} */
const fingers = new Map();
let holdsDivider = false;

/** From the stage's middle, in pixels of the screen. @param {number} x @param {number} y @returns {[number, number]} */
function fromMiddle(x, y) {
  const box = stage.getBoundingClientRect();
  return [(x - box.left - box.width / 2) * ratio(), (y - box.top - box.height / 2) * ratio()];
}

/** @param {PointerEvent} event */
function toPointer(event) {
  const box = stage.getBoundingClientRect();
  place(((event.clientX - box.left - edge) / breadth) * 100);
}

stage.addEventListener("pointerdown", (event) => {
  if (event.button || (event.target instanceof Node && legend.contains(event.target))) return;
  stage.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  // Where there is nothing to move, the divider moves.
  holdsDivider = fingers.size === 1 && !divider.hidden && (event.target === divider || stage.classList.contains("still"));
  (holdsDivider ? divider : stage).focus({ preventScroll: true });
  event.preventDefault();
});
stage.addEventListener("pointermove", (event) => {
  const from = fingers.get(event.pointerId);
  if (!from) return;
  const to = { x: event.clientX, y: event.clientY };
  const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
  fingers.set(event.pointerId, to);
  if (other) {
    const apart = (/** @type {{x: number, y: number}} */ one) => Math.max(Math.hypot(one.x - other.x, one.y - other.y), 1);
    pan((to.x - from.x) / 2, (to.y - from.y) / 2);
    zoomTo((view.zoom * apart(to)) / apart(from), ...fromMiddle((to.x + other.x) / 2, (to.y + other.y) / 2));
  } else if (holdsDivider) {
    toPointer(event);
  } else {
    pan(to.x - from.x, to.y - from.y);
  }
});
for (const end of /** @type {const} */ (["pointerup", "pointercancel"])) {
  stage.addEventListener(end, (event) => {
    fingers.delete(event.pointerId);
    holdsDivider = false;
  });
}
stage.addEventListener("wheel", (event) => {
  if (event.target instanceof Node && legend.contains(event.target)) return;
  event.preventDefault();
  const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : 1);
  zoomTo(view.zoom * Math.exp(-pixels * (event.ctrlKey ? 0.01 : 0.002)), ...fromMiddle(event.clientX, event.clientY));
}, { passive: false });
stage.addEventListener("dblclick", (event) => {
  if (event.target === divider || (event.target instanceof Node && legend.contains(event.target))) return;
  if (whole) zoomTo(Math.max(1, 2 * view.zoom), ...fromMiddle(event.clientX, event.clientY));
  else showWhole();
});

// ---- Keys

divider.addEventListener("keydown", (event) => {
  const step = event.shiftKey ? 10 : 1;
  const to = {
    ArrowLeft: at - step, ArrowDown: at - step, ArrowRight: at + step, ArrowUp: at + step,
    PageDown: at - 10, PageUp: at + 10, Home: 0, End: 100,
  }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  event.stopPropagation();
  place(to);
});
stage.addEventListener("keydown", (event) => {
  if (event.target !== stage) return;
  const by = { ArrowLeft: [STEP, 0], ArrowRight: [-STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] }[event.key];
  if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  pan(by[0], by[1]);
});
dialog.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const act = {
    "+": () => zoomTo(view.zoom * 2), "=": () => zoomTo(view.zoom * 2), "-": () => zoomTo(view.zoom / 2),
    "0": showWhole, "1": () => zoomTo(1), g: () => showGuess(!guessed), G: () => showGuess(!guessed),
  }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

element("closer").addEventListener("click", () => zoomTo(view.zoom * 2));
element("farther").addEventListener("click", () => zoomTo(view.zoom / 2));
element("whole").addEventListener("click", showWhole);
element("pixels").addEventListener("click", () => zoomTo(1));
guess.addEventListener("click", () => showGuess(!guessed));
strength.addEventListener("input", () => {
  const heat = /** @type {HTMLElement | null} */ (after.querySelector(".heat-over"));
  if (heat) heat.style.opacity = String(Number(strength.value) / 100);
});
element("viewer-download").addEventListener("click", () => pair.saved());
element("viewer-close").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => {
  // Decoded pictures are large.
  if (pair.before?.source.startsWith("blob:")) URL.revokeObjectURL(pair.before.source);
  for (const layer of [before, after]) layer.replaceChildren();
  fingers.clear();
});
new ResizeObserver(() => dialog.open && draw()).observe(stage);

// ---- Films: the result leads

function stop() {
  for (const film of films()) film.pause();
  play.textContent = "Play";
  play.setAttribute("aria-pressed", "false");
  seek.value = "0";
  element("time").textContent = clock(0);
}

/** Where the original is a film too, it shows the same time. @param {number} slack in seconds */
function follow(slack) {
  const [leader, follower] = films();
  if (!follower) return;
  const time = beside(leader.currentTime);
  if (Math.abs(follower.currentTime - time) > slack) follower.currentTime = time;
}

/** Seconds of the original beside these of the result. @param {number} seconds */
const beside = (seconds) => seconds + (pair.before?.start ?? 0);

function showTime() {
  const [leader] = films();
  if (!leader || !dialog.open) return;
  if (Number.isFinite(leader.duration)) seek.max = String(leader.duration);
  seek.value = String(leader.currentTime);
  seek.setAttribute("aria-valuetext", clock(leader.currentTime));
  element("time").textContent = clock(leader.currentTime);
  if (!leader.paused) {
    follow(0.08);
    requestAnimationFrame(showTime);
  }
}

play.addEventListener("click", async () => {
  const starts = play.getAttribute("aria-pressed") !== "true";
  play.setAttribute("aria-pressed", String(starts));
  play.textContent = starts ? "Pause" : "Play";
  await Promise.allSettled(films().map((film) => (starts ? film.play() : film.pause())));
  follow(0);
  showTime();
});
seek.addEventListener("input", () => {
  const [leader, follower] = films();
  leader.currentTime = Number(seek.value);
  if (follower) follower.currentTime = beside(Number(seek.value));
  element("time").textContent = clock(Number(seek.value));
});

// ---- The legend

element("levels").append(...LEVELS.map((level, number) => {
  const mark = document.createElement("li");
  mark.textContent = `${level}${number === LEVELS.length - 1 ? "+" : ""}`;
  mark.style.left = `${(100 * Math.log2(1 + level)) / Math.log2(1 + LEVELS[LEVELS.length - 1])}%`;
  return mark;
}));
