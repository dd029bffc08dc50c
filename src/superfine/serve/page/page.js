// @ts-check
// Files, what to make of them, and how far that is. All that the page knows is in `state`; `paint` shows it.
import { compare } from "./viewer.js";

/**
 * As superfine.serve.schema says it.
 * @typedef {{id: string, name: string, kind: "picture" | "video" | "animation", rows: number, cols: number, frames: number,
 *   seconds: number, bytes: number, recommended: {model: string, scale: number, why: string}, notes: string[], expires: number, started: boolean}} Upload
 * @typedef {{id: string, upload: string | null, name: string, source_name: string,
 *   status: "queued" | "running" | "done" | "failed" | "cancelled" | "expired", progress: number, seconds_left: number | null,
 *   position: number | null, message: string, model: string, scale: number, rows: number, cols: number, output_rows: number,
 *   output_cols: number, result: {name: string, bytes: number, type: string} | null, guess_map: boolean,
 *   consistency: {operator: string, psnr: number | null, samples: number, misses: number, worst: number} | null, notes: string[],
 *   created: number, expires: number, video: {frames: number, done: number, fps: number, start: number} | null}} Job
 * @typedef {{name: string, family: string, scale: number, summary: string, frames: number}} Model
 * @typedef {{upload_bytes: number, megapixels: number, result_megapixels: number, frames: number, hours_kept: number, models: boolean}} Limits
 * What a person chose; empty strings are "as it comes".
 * @typedef {{model: string, scale: string, width: string, height: string, format: string, quality: string, codec: string,
 *   crf: string, from: string, until: string, consistent: string, sharpness: number, guess: boolean, ensemble: boolean}} Choices
 * One line of the list: a file on its way to the server, on the server, or a job made of it. found: another tab sent it;
 * eager: to be started as soon as it is there; saved: its result was downloaded from here.
 * @typedef {{key: string, name: string, bytes: number, file: File | null, upload: Upload | null, job: Job | null, choices: Choices | null,
 *   sent: number, wanted: boolean, stopping: boolean, leaving: boolean, found: boolean, eager: boolean, saved: boolean, held: string, error: string, changed: number}} Item
 * @typedef {"sending" | "refused" | "ready" | "waiting" | Job["status"]} Phase
 */

const API = "api/v1";
const MOST_UPLOADS = 2;
const POLL_SECONDS = 3;
/** Where tabs can't agree on who listens (without TLS on another machine), each asks; and where more than one job goes on. */
const LIVELY_SECONDS = 1;
/** So often a page without work looks whether results are still there. */
const EXPIRY_SECONDS = 60;
const MOST_DELETIONS = 3;
/** With more files only those that are seen have their settings on the page. */
const FEW = 24;
/** More are told as a number. */
const MOST_TOLD = 3;
const LONGEST_PAUSE_SECONDS = 30;
/** The most that a side can grow. */
const MOST_TIMES = 16;
const SCALES = [2, 3, 4, 6, 8, 12, 16];
const EXACT = "exact";
const FINAL = ["done", "failed", "cancelled", "expired"];
const NETWORK = /\.(onnx|safetensors)$/i;
const LOSSY = ["jpg", "webp", "avif", "heic"];
const FORMATS = {
  picture: { png: "PNG", jpg: "JPEG", webp: "WebP", avif: "AVIF", tif: "TIFF", heic: "HEIC" },
  animation: { gif: "GIF", webp: "WebP", mp4: "MP4", webm: "WebM" },
  video: { mp4: "MP4", webm: "WebM", mkv: "Matroska", mov: "QuickTime", gif: "GIF", webp: "WebP" },
};
/** Of the drop area; each only where the server has it. */
const TAKEN = [{ ...FORMATS.picture, gif: "GIF" }, { mp4: "MP4", webm: "WebM", mkv: "MKV", mov: "MOV" }];
const CODECS = { "": "auto", h264: "H.264", h265: "H.265", av1: "AV1", vp9: "VP9", ffv1: "FFV1, lossless" };
const OPERATORS = { "": "no", "matlab-bicubic": "under MATLAB's bicubic", bicubic: "under bicubic", box: "under box averages" };
const SOFT = "photo";

const state = {
  /** @type {Item[]} */ items: [],
  /** @type {Model[]} */ models: [],
  /** @type {Limits | null} */ limits: null,
  /** @type {Set<string>} */ formats: new Set(),
  /** @type {Set<string>} */ removed: new Set(),
  trouble: "",
  locked: false, // the server wants its token
};

// ---- Words

const DIGITS = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

/** "1.2 MB" @param {number} bytes */
export function bytesText(bytes) {
  const units = ["bytes", "kB", "MB", "GB"];
  const place = Math.min(Math.max(Math.floor(Math.log10(Math.max(bytes, 1)) / 3), 0), units.length - 1);
  return `${DIGITS.format(bytes / 1000 ** place)} ${units[place]}`;
}

/** "about 2 min" @param {number} seconds */
export function timeText(seconds) {
  if (seconds < 5) return "a few seconds";
  if (seconds < 55) return `about ${Math.round(seconds / 5) * 5} s`;
  if (seconds < 3300) return `about ${Math.max(1, Math.round(seconds / 60))} min`;
  return `about ${Math.floor(seconds / 3600 + 0.1)} h ${Math.round(((seconds / 60 + 6) % 60) / 10) * 10 % 60} min`;
}

/** "640 × 480", width first as people say it. @param {number} rows @param {number} cols */
export const sizeText = (rows, cols) => `${cols} \u00d7 ${rows}`;

/** "1 file", "3 files" @param {number} count @param {string} noun */
const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

/** Seconds of "1:02.5" or "62.5"; null for nothing, NaN for anything else. @param {string} text */
export function secondsOf(text) {
  if (text.trim() === "") return null;
  if (!/^\s*(\d+:){0,2}\d+(\.\d+)?\s*$/.test(text)) return NaN;
  return text.split(":").reduce((sum, part) => 60 * sum + Number(part), 0);
}

/** @param {Upload} upload */
function uploadFacts(upload) {
  const parts = [sizeText(upload.rows, upload.cols), bytesText(upload.bytes)];
  if (upload.kind !== "picture") parts.splice(1, 0, counted(upload.frames, "frame"), `${upload.seconds.toFixed(1)} s`);
  return parts.join(" \u00b7 ");
}

/** @param {Job} job */
function jobFacts(job) {
  const way = job.output_rows > 0 ? `${sizeText(job.rows, job.cols)} \u2192 ${sizeText(job.output_rows, job.output_cols)}` : "";
  return [way, job.model].filter(Boolean).join(" \u00b7 ");
}

/** The network is read and prepared. @param {Job} job */
const starting = (job) => job.status === "running" && job.progress === 0 && job.seconds_left === null;

/** @param {Job} job */
export function progressText(job) {
  if (job.status === "queued") return job.position ? `In the queue, place ${job.position}` : "In the queue";
  if (starting(job)) return "Starting";
  const parts = [`${Math.floor(job.progress * 100)} %`];
  if (job.video && job.video.frames > 0) parts.push(`${job.video.done} of ${counted(job.video.frames, "frame")}`);
  if (job.video && job.video.fps > 0) parts.push(`${DIGITS.format(job.video.fps)} a second`);
  if (job.seconds_left !== null) parts.push(`${timeText(job.seconds_left)} left`);
  return parts.join(", ");
}

/** How the result, made small again, compares. @param {Job} job */
function consistencyText(job) {
  const found = job.consistency;
  if (!found) return [];
  if (found.misses === 0) return [`Made small again by ${found.operator} it is the source, but for rounding.`];
  return found.psnr === null ? [] : [`Made small again by ${found.operator} it agrees with the source to ${found.psnr.toFixed(1)} dB.`];
}

/** @param {string} text */
const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** What the API calls a field, as the page calls it. @type {Record<string, string>} */
const LABELS = {
  model: "Model", scale: "Size", size: "Size", format: "Format", quality: "Quality", codec: "Codec", crf: "CRF", start: "From", end: "Until",
  consistent: "Keep consistent", sharpness: "Sharpness", guess_map: "Guess map", ensemble: "Best of eight",
};

/** @param {string} text of the server */
const labelled = (text) => text.replace(/`(\w+)`/g, (all, field) => LABELS[field] ?? all);

/** A sentence of the server without the name that it stands beside. @param {string} message @param {string} name */
export function unnamed(message, name) {
  const words = labelled(message);
  if (words.startsWith(`${name}: `)) return sentence(words.slice(name.length + 2));
  return words.startsWith(name) ? words : sentence(words); // names are as they are
}

// ---- What is asked for

/** @param {Upload} upload @returns {Choices} */
const recommended = (upload) => ({
  model: upload.recommended.model, scale: String(upload.recommended.scale), width: "", height: "", format: "", quality: "", codec: "",
  crf: "", from: "", until: "", consistent: "", sharpness: 0, guess: false, ensemble: false,
});

/** (rows, cols) of the result; null where none is given. @param {Upload} upload @param {Choices} choices */
export function outputSize(upload, choices) {
  if (choices.scale !== EXACT) return [upload.rows, upload.cols].map((side) => Math.max(1, Math.round(side * Number(choices.scale))));
  const [rows, cols] = [Number(choices.height), Number(choices.width)];
  return Number.isInteger(rows) && Number.isInteger(cols) && rows > 0 && cols > 0 ? [rows, cols] : null;
}

/** @param {Choices} choices */
const takesSharpness = (choices) => choices.model === SOFT;

/** The body of POST /jobs: only what a person chose. @param {Upload} upload @param {Choices} choices */
export function requestOf(upload, choices) {
  const picture = upload.kind === "picture";
  /** @type {Record<string, unknown>} */
  const options = takesSharpness(choices) && choices.sharpness > 0 ? { sharpness: choices.sharpness } : { model: choices.model };
  if (choices.scale === EXACT) options.size = outputSize(upload, choices);
  else options.scale = Number(choices.scale);
  if (choices.format) options.format = choices.format;
  if (choices.ensemble) options.ensemble = true;
  if (picture && choices.quality) options.quality = Number(choices.quality);
  if (picture && choices.consistent) options.consistent = choices.consistent;
  if (picture && choices.guess) options.guess_map = true;
  if (!picture && choices.codec) options.codec = choices.codec;
  if (!picture && choices.crf) options.crf = Number(choices.crf);
  if (!picture && secondsOf(choices.from) !== null) options.start = secondsOf(choices.from);
  if (!picture && secondsOf(choices.until) !== null) options.end = secondsOf(choices.until);
  return { upload: upload.id, options };
}

/** Why these choices can't be sent; empty where they can. @param {Upload} upload @param {Choices} choices */
export function objection(upload, choices) {
  const size = outputSize(upload, choices);
  if (size === null) return "Give width and height in whole pixels, or choose a factor.";
  if (size[0] < upload.rows || size[1] < upload.cols) return `That is smaller than ${sizeText(upload.rows, upload.cols)}, which it is already.`;
  if (size[0] > MOST_TIMES * upload.rows || size[1] > MOST_TIMES * upload.cols) return `That is more than ${MOST_TIMES} times the size, which is the most.`;
  const most = state.limits?.result_megapixels ?? Infinity;
  if ((size[0] * size[1]) / 1e6 > most) return `That would be ${DIGITS.format((size[0] * size[1]) / 1e6)} megapixels; this server makes up to ${DIGITS.format(most)}.`;
  if (upload.kind !== "picture") {
    const [from, until] = [secondsOf(choices.from), secondsOf(choices.until)];
    if (Number.isNaN(from) || Number.isNaN(until)) return "Write times as 12.5 or 1:02.5.";
    if (from !== null && until !== null && until <= from) return "Until is to come after From.";
    if (from !== null && upload.seconds > 0 && from >= upload.seconds) return `From is to come before the end, at ${DIGITS.format(upload.seconds)} s.`;
  }
  return "";
}

/** Somebody sent it to the server: its name is an id. @param {Model} model */
const isUploaded = (model) => /^[0-9a-f]{32}$/.test(model.name);

/** What a job calls it: of the networks that come with superfine the family, which has one for each scale. @param {Model} model */
export const valueOf = (model) => (isUploaded(model) ? model.name : model.family);

/** For the menu: names with what they are, what suits the kind first. @param {Model[]} models @param {Upload} upload @returns {[string, Model[]][]} */
export function menu(models, upload) {
  const film = upload.kind !== "picture";
  const first = new Map();
  for (const model of models) if (model.scale !== 1 && !isUploaded(model) && !first.has(model.family)) first.set(model.family, model);
  const families = [...first.values()];
  /** @type {[string, Model[]][]} */
  const groups = [
    ["For video", families.filter((model) => film && model.frames > 1)],
    ["Networks", families.filter((model) => model.scale > 1 && model.frames <= 1)],
    ["Uploaded", models.filter((model) => isUploaded(model) && (film || model.frames <= 1))],
    ["Classical", families.filter((model) => model.scale === 0)],
  ];
  return groups.filter(([, members]) => members.length > 0);
}

// ---- The server

/** Said by the server, in words for people. */
class Refusal extends Error {
  /** @param {number} status @param {string} message @param {number} wait seconds that the server asks for; 0: none */
  constructor(status, message, wait = 0) {
    super(message);
    this.status = status;
    this.wait = wait;
  }
  /** The same request may succeed later. */
  get passing() {
    return [401, 429, 503].includes(this.status);
  }
}

const GONE = "superfine doesn't answer. Is it still running? Trying again \u2026";

/** @param {number} status @param {string} text @param {string | null} wait */
function refusal(status, text, wait) {
  let message = "";
  try {
    message = String(JSON.parse(text).error.message);
  } catch {
    message = `The server answered ${status} without a reason; its terminal may say more.`;
  }
  return new Refusal(status, message, Math.min(Math.max(Number(wait) || 0, 0), 60));
}

/** @param {Response} answer */
async function refusalOf(answer) {
  const error = refusal(answer.status, await answer.text(), answer.headers.get("Retry-After"));
  if (error.status === 401) lock();
  return error;
}

/** @param {string} path @param {string} method @param {unknown} body */
async function ask(path, method = "GET", body = undefined) {
  /** @type {Record<string, string>} */
  const headers = method === "GET" ? {} : { "X-Superfine": "1" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(`${API}/${path}`, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store", keepalive: method === "DELETE" });
  } catch {
    throw new Refusal(0, GONE);
  }
  if (!answer.ok) throw await refusalOf(answer);
  const text = await answer.text();
  return text ? JSON.parse(text) : null;
}

/** Null where it was called off. @param {File} file @param {string} name @param {(share: number) => void} tell @param {AbortSignal} signal
 * @returns {Promise<Upload | null>} */
function send(file, name, tell, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch doesn't tell how much was sent
    const form = new FormData();
    form.append("file", file, name);
    request.open("POST", `${API}/uploads`);
    request.setRequestHeader("X-Superfine", "1");
    request.upload.onprogress = (event) => tell(event.lengthComputable ? event.loaded / event.total : 0);
    request.upload.onload = () => tell(1);
    request.onload = () => {
      if (request.status === 201) resolve(JSON.parse(request.responseText));
      else reject(refusal(request.status, request.responseText, request.getResponseHeader("Retry-After")));
    };
    request.onerror = () => reject(new Refusal(0, GONE));
    request.onabort = () => resolve(null);
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

/** Before a request is sent again: for as long as its refusal asks, and until the token is there. @param {Refusal} error */
async function pauseAfter(error) {
  await new Promise((resolve) => setTimeout(resolve, 1000 * (error.wait || POLL_SECONDS)));
  await entrance;
}

// ---- The list

/** @param {Item} item @returns {Phase} */
function phaseOf(item) {
  if (item.job) return item.job.status;
  if (!item.upload) return item.error ? "refused" : "sending";
  return item.wanted ? "waiting" : "ready";
}

/** The id of its upload. @param {Item} item */
const sourceOf = (item) => item.job?.upload ?? item.upload?.id ?? "";

/** @param {Partial<Item>} given @returns {Item} */
function newItem(given) {
  return {
    key: crypto.randomUUID?.() ?? String(Math.random()), name: "", bytes: 0, file: null, upload: null, job: null, choices: null,
    sent: 0, wanted: false, stopping: false, leaving: false, found: false, eager: false, saved: false, held: "", error: "", changed: performance.now(), ...given,
  };
}

/** The list after an answer to GET /jobs that was asked for at `asked`. @param {Item[]} items @param {Job[]} jobs newest first @param {number} asked */
function merged(items, jobs, asked) {
  const listed = new Map(jobs.map((job) => [job.id, job]));
  const known = new Set(items.map((item) => item.job?.id));
  // What was found waiting may have been started by the tab that sent it.
  const used = new Set(jobs.map((job) => job.upload));
  const waits = (/** @type {Item} */ item) => !item.job && !(item.found && !item.wanted && used.has(item.upload?.id ?? null));
  const kept = items.filter((item) => waits(item) || (item.job && (listed.has(item.job.id) || item.changed > asked)));
  for (const item of kept) if (item.job && item.changed <= asked) item.job = listed.get(item.job.id) ?? item.job;
  const fresh = jobs.filter((job) => !known.has(job.id) && !state.removed.has(job.id)).reverse();
  return [...fresh.map((job) => newItem({ name: job.source_name, job })), ...kept];
}

/** @param {Item} item @param {Job} job */
function hear(item, job) {
  const before = item.job?.status;
  item.job = job;
  item.changed = performance.now();
  tell(item, before);
}

/** @param {Item} item @param {Job["status"] | undefined} before */
function tell(item, before) {
  if (!item.job || item.job.status === before) return;
  if (item.job.status === "done") announce(`${item.name} is done.`);
  if (item.job.status === "failed") announce(`${item.name} failed: ${unnamed(item.job.message, item.name)}`);
}

/** @param {Iterable<File>} files */
function add(files) {
  const given = [...files];
  if (state.limits?.models) addNetworks(given.filter((file) => NETWORK.test(file.name)));
  const added = given.filter((file) => !state.limits?.models || !NETWORK.test(file.name))
    .map((file) => newItem({ name: file.name, bytes: file.size, file }));
  if (added.length === 0) return;
  const most = state.limits?.upload_bytes ?? Infinity;
  for (const item of added) {
    if (item.bytes > most) item.error = `${bytesText(item.bytes)} is more than this server takes, ${bytesText(most)}.`;
    else if (item.bytes === 0) item.error = "It is empty, or a folder: drop the pictures that are in it.";
    else if (NETWORK.test(item.name)) item.error = "It is a network, and this server takes none; superfine serve --allow-models does.";
  }
  state.items.push(...added);
  announce(`${counted(added.length, "file")} added.`);
  paint();
  cards.get(added[0].key)?.root.scrollIntoView({ block: "nearest" });
  sendAll();
}

/** @type {Map<string, AbortController>} */
const sending = new Map();

function sendAll() {
  for (const item of state.items) {
    if (sending.size >= MOST_UPLOADS) return;
    if (phaseOf(item) === "sending" && item.file && !sending.has(item.key)) sendOne(item, item.file);
  }
}

/** @param {Item} item @param {File} file */
async function sendOne(item, file) {
  const controller = new AbortController();
  sending.set(item.key, controller);
  paint();
  const wanted = () => state.items.includes(item);
  while (!item.upload && !item.error && wanted()) {
    try {
      const upload = await send(file, item.name, (share) => {
        item.sent = share;
        if (share > 0) item.held = "";
        paintSoon();
      }, controller.signal);
      if (!upload) break;
      if (!wanted()) {
        await discard(upload.id).catch(() => {}); // it goes when its time is over
        break;
      }
      item.upload = upload;
      item.choices = recommended(upload);
      item.held = "";
      if (item.eager) {
        start(item);
        submitAll();
      }
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (error.status === 401) lock();
      if (error.passing || (error.status === 0 && (await unreachable()))) {
        [item.held, item.sent] = [error.message, 0];
        paint();
        await pauseAfter(error);
      } else {
        item.error = error.status === 0 ? "It couldn't be sent: it has changed or is gone from the disk. Add it again." : error.message;
        if (wanted()) announce(`${item.name}: ${item.error}`);
      }
    }
  }
  sending.delete(item.key);
  paint();
  sendAll();
}

/** The server doesn't answer anything, or wants its token first. */
const unreachable = () => ask("health").then(() => false, (error) => [0, 401].includes(error.status));

let submitting = false;

/** Hand in what is wanted, in the list's order; a full queue is waited for. */
async function submitAll() {
  if (submitting) return;
  submitting = true;
  for (;;) {
    const item = state.items.find((each) => phaseOf(each) === "waiting");
    if (!item || !item.upload || !item.choices) break;
    try {
      const job = await ask("jobs", "POST", requestOf(item.upload, item.choices));
      if (item.wanted && state.items.includes(item)) {
        hear(item, job);
        item.error = "";
        // It may have been listed before it was answered.
        state.items = state.items.filter((each) => each === item || each.job?.id !== job.id);
      } else {
        await drop(job); // changed their mind while it was on its way
        if (!state.items.includes(item)) await discard(job.upload).catch(() => {});
      }
      [item.wanted, item.held] = [false, ""];
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (error.passing || error.status === 0) {
        item.held = error.message;
        paint();
        await pauseAfter(error);
      } else {
        [item.wanted, item.held, item.error] = [false, "", error.message];
        announce(`${item.name}: ${item.error}`);
      }
    }
    paint();
  }
  submitting = false;
  watch();
}

/** @param {Item} item */
function start(item) {
  if (!item.upload || !item.choices) return;
  item.error = objection(item.upload, item.choices);
  item.wanted = item.error === "";
  if (item.error) announce(item.error);
}

/** @param {Job} job */
async function drop(job) {
  state.removed.add(job.id);
  await ask(`jobs/${job.id}/cancel`, "POST").catch(() => {});
  await ask(`jobs/${job.id}`, "DELETE").catch(() => {});
}

/** @param {string} path @param {number[]} fine statuses that are no failure either: 404, as somebody else was faster */
async function erase(path, fine = [404]) {
  await ask(path, "DELETE").catch((error) => {
    if (!(error instanceof Refusal && fine.includes(error.status))) throw error;
  });
}

/** Of each source one request, for all that was made of it. @type {Map<string, Promise<void>>} */
const discards = new Map();

/** Throw a source away that nothing on this page is made of, or will be. @param {string} upload */
async function discard(upload) {
  if (state.items.some((item) => sourceOf(item) === upload && !item.leaving)) return;
  // 409: another page has a job made of it, which still runs.
  const erased = discards.get(upload) ?? erase(`uploads/${upload}`, [404, 409]);
  discards.set(upload, erased);
  await erased.catch((error) => {
    discards.delete(upload);
    throw error;
  });
}

/** @param {Item} item */
async function cancel(item) {
  item.wanted = false;
  item.held = "";
  item.stopping = item.job !== null; // until the tile that is in work is done
  paint();
  if (!item.job) return;
  try {
    hear(item, await ask(`jobs/${item.job.id}/cancel`, "POST"));
    announce(`${item.name} is cancelled.`);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (![0, 401, 409].includes(error.status)) item.error = error.message; // 409: it had ended by then
  }
  item.stopping = false;
  await update();
}

/** @param {Item} item @returns {Promise<boolean>} */
async function removeOne(item) {
  const [job, upload] = [item.job, sourceOf(item)];
  // At once: both are sent, also where the tab is closed now.
  const answers = await Promise.allSettled([upload ? discard(upload) : null, job ? erase(`jobs/${job.id}`) : null]);
  for (const answer of answers) {
    if (answer.status === "fulfilled") continue;
    const error = answer.reason;
    if (!(error instanceof Refusal)) throw error;
    [item.leaving, item.error] = [false, `It couldn't be removed: ${error.status === 0 ? "superfine doesn't answer." : error.message}`];
    paint();
    return false;
  }
  if (job) {
    state.removed.add(job.id);
    tabs.postMessage({ removed: job.id });
  }
  takeAway(item);
  return true;
}

/** @param {Item} item */
function takeAway(item) {
  const place = state.items.indexOf(item);
  const focused = cards.get(item.key)?.root.contains(document.activeElement);
  state.items = state.items.filter((each) => each !== item);
  paint();
  // Whoever works by keyboard stays where they were.
  const neighbour = state.items[Math.min(place, state.items.length - 1)];
  if (focused) (neighbour ? cards.get(neighbour.key)?.parts.remove : choose)?.focus();
}

/** What the server has goes from the page once it is gone from there. @param {Item[]} items */
async function remove(items) {
  const going = items.filter((item) => !item.leaving);
  for (const item of going) {
    [item.wanted, item.eager, item.leaving, item.error] = [false, false, true, ""];
    // What has arrived already is thrown away once its id is known.
    if (item.sent < 1) sending.get(item.key)?.abort();
    if (!item.job && !item.upload) takeAway(item);
  }
  paint();
  const rest = going.filter((item) => state.items.includes(item));
  const asked = rest.length;
  let gone = 0;
  const lane = async () => {
    for (let item = rest.shift(); item; item = rest.shift()) if (await removeOne(item)) gone += 1;
  };
  await Promise.all(Array.from({ length: MOST_DELETIONS }, lane));
  if (gone < asked) announce(`${counted(asked - gone, "file")} couldn't be removed.`);
  else if (asked > 1) announce(`${counted(gone, "file")} removed.`);
}

/** The same file once more, with settings to change. @param {Item} item */
async function again(item) {
  try {
    item.upload ??= await ask(`uploads/${sourceOf(item)}`);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    item.error = error.status === 404 ? "The original is gone from the server: add it again." : error.message;
  }
  if (!item.upload) {
    paint();
    return;
  }
  const twin = newItem({ name: item.name, bytes: item.bytes, file: item.file, upload: item.upload, choices: { ...(item.choices ?? recommended(item.upload)) } });
  state.items.splice(state.items.indexOf(item) + 1, 0, twin);
  paint();
  const card = cards.get(twin.key);
  card?.parts.scale.focus();
  card?.root.scrollIntoView({ block: "nearest" });
}

// ---- What this tab remembers: files that no job was made of yet

const MEMORY = "superfine-waiting";

/** @typedef {{id: string, choices: Choices}[]} Memory */

function remember() {
  if (!recalled) return;
  const waiting = state.items.filter((item) => !item.job && item.upload).map((item) => ({ id: item.upload?.id, choices: item.choices }));
  const text = JSON.stringify(waiting);
  if (text !== remembered) sessionStorage.setItem(MEMORY, text);
  remembered = text;
}

let recalled = false;
let remembered = "";

/** Once: what waits on the server, in this tab's order and with its choices, then what other tabs left there. */
async function recall() {
  if (recalled) return;
  /** @type {Upload[]} */
  const stored = await ask("uploads");
  /** @type {Memory} */
  const waiting = JSON.parse(sessionStorage.getItem(MEMORY) ?? "[]");
  const known = new Set(waiting.map(({ id }) => id));
  const left = stored.filter((upload) => !upload.started && !known.has(upload.id)).reverse();
  for (const { id, choices } of [...waiting, ...left.map((upload) => ({ id: upload.id, choices: {} }))]) {
    const upload = stored.find((each) => each.id === id);
    if (upload) state.items.push(newItem({ name: upload.name, bytes: upload.bytes, upload, choices: { ...recommended(upload), ...choices }, found: !waiting.some((each) => each.id === id) }));
  }
  recalled = true;
}

// ---- Networks of one's own, where the server takes them

/** Each is handed in by itself: what came before is there, whatever becomes of the others. @param {File[]} files */
async function addNetworks(files) {
  const told = element("network-news");
  const words = [];
  for (const file of files) {
    say(told, [...words, `Reading ${file.name} \u2026`].join(" "));
    try {
      const headers = { "X-Superfine": "1", "X-File-Name": encodeURIComponent(file.name), "Content-Type": "application/octet-stream" };
      const answer = await fetch(`${API}/models`, { method: "POST", headers, body: file }).catch(() => {
        throw new Refusal(0, GONE);
      });
      if (!answer.ok) throw await refusalOf(answer);
      const made = await answer.json();
      words.push(`${made.family} is there, ${made.scale} times: choose it under Model.`);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      words.push(`${file.name}: ${unnamed(error.message, file.name)}.`);
    }
    say(told, words.join(" "));
    announce(words[words.length - 1]);
    await learnModels();
  }
}

/** @param {Model} model */
async function removeNetwork(model) {
  const told = element("network-news");
  try {
    await erase(`models/${model.name}`);
    say(told, `${model.family} is removed.`);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    say(told, error.status === 0 ? "superfine doesn't answer." : sentence(error.message));
  }
  announce(told.textContent ?? "");
  element("choose-network").focus();
  await learnModels();
}

async function learnModels() {
  state.models = await ask("models").catch(() => state.models);
  paintNetworks();
  paint();
}

function paintNetworks() {
  element("networks").hidden = !state.limits?.models;
  const own = state.models.filter(isUploaded);
  element("network-list").replaceChildren(...own.map((model) => {
    const remove = Object.assign(document.createElement("button"), { type: "button", textContent: "Remove" });
    remove.setAttribute("aria-label", `Remove the network ${model.family}`);
    remove.addEventListener("click", () => removeNetwork(model));
    const line = document.createElement("li");
    line.append(Object.assign(document.createElement("span"), { textContent: `${model.family}, ${model.scale} times` }), remove);
    return line;
  }));
}

// ---- The token

let entrance = Promise.resolve();
let enter = () => {};

/** Nothing more is asked for until the token is there. */
function lock() {
  if (state.locked) return;
  state.locked = true;
  entrance = new Promise((resolve) => (enter = resolve));
  trip(new Refusal(401, LOCKED));
}

const LOCKED = "superfine wants its token, perhaps because it was started again: paste the address that it showed then, or the token alone.";

/** @param {string} text the token, or the address that has it */
export const tokenIn = (text) => /[?&]token=([^&#\s]+)/.exec(text)?.[1] ?? text.trim();

/** @param {string} text */
async function unlock(text) {
  const answer = await fetch(`./?token=${encodeURIComponent(tokenIn(text))}`, { cache: "no-store" }).catch(() => null);
  if (!answer?.ok) {
    state.trouble = answer?.status === 401 ? "That isn't this server's token. Look for the newest address that it showed." : GONE;
    paint();
    return;
  }
  await update();
  choose.focus();
}

// ---- Staying up to date

/** The job that is listened to, here or by another tab. */
let heard = "";
/** Its events come to this tab. */
let leads = false;
let stream = new AbortController();
let timer = 0;
/** Since something was heard. */
let failures = 0;

/** What the server takes and has, once. */
async function learn() {
  if (state.limits) return;
  const [health, models] = await Promise.all([ask("health"), ask("models")]);
  state.models = models;
  state.limits = health.limits;
  state.formats = new Set(health.formats);
  const offered = TAKEN.map((names) => Object.entries(names).flatMap(([ending, name]) => (state.formats.has(ending) ? [name] : [])).join(", "));
  say(element("kinds"), offered.filter(Boolean).join("; "));
  say(element("limits"), `Up to ${bytesText(health.limits.upload_bytes)} and ${DIGITS.format(health.limits.megapixels)} megapixels. Results are kept for ${DIGITS.format(health.limits.hours_kept)} hours.`);
  say(element("about"), `superfine ${health.version}`);
  paintNetworks();
}

async function refresh() {
  await learn();
  const asked = performance.now();
  /** @type {Job[]} */
  const jobs = await ask("jobs");
  await recall();
  const before = new Map(state.items.map((item) => [item, item.job?.status]));
  state.items = merged(state.items, jobs, asked);
  const done = state.items.filter((item) => before.get(item) && before.get(item) !== "done" && item.job?.status === "done");
  if (done.length > MOST_TOLD) announce(`${done.length} files are done.`);
  for (const item of state.items) if (before.get(item) && !(done.length > MOST_TOLD && done.includes(item))) tell(item, before.get(item));
}

/** Look at all jobs, then listen to the next one; where the server doesn't let us, less and less often. */
async function update() {
  const { locked } = state;
  try {
    await refresh();
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    trip(error);
    return;
  }
  if (state.locked && !locked) return; // what was asked for before says nothing
  if (locked) enter();
  state.locked = false;
  const quiet = document.hidden || unfinished().length === 0;
  if (quiet) failures = 0;
  if (failures === 0) state.trouble = "";
  paint();
  watch();
}

/** Jobs that are to be done or in work, the first ones first. */
function unfinished() {
  const jobs = state.items.flatMap((item) => (item.job && !FINAL.includes(item.job.status) ? [item.job] : []));
  const rank = (/** @type {Job} */ job) => (job.status === "running" ? 0 : job.position ?? 1);
  return jobs.sort((one, other) => rank(one) - rank(other));
}

/** Listen to the job that is next, and look at the others now and then. */
function watch() {
  clearTimeout(timer);
  if (state.locked) return;
  const open = unfinished();
  const next = document.hidden || open.length === 0 || !navigator.locks ? "" : open[0].id;
  if (next !== heard) {
    hush();
    if (next) listen(next);
  }
  const lively = !navigator.locks || open.filter((job) => job.status === "running").length > 1;
  if (failures > 0) timer = setTimeout(update, 1000 * pauseSeconds(failures, 0));
  else if (open.length > (leads ? 1 : 0)) timer = setTimeout(update, 1000 * (lively && !document.hidden ? LIVELY_SECONDS : POLL_SECONDS));
  else if (!document.hidden && state.items.some((item) => phaseOf(item) === "done")) timer = setTimeout(update, 1000 * EXPIRY_SECONDS);
}

function hush() {
  stream.abort();
  heard = "";
}

/** What one tab hears or does, the others needn't ask for. Browsers open six connections to a server over all tabs: one is enough for events.
 * @typedef {{job?: Job, removed?: string}} News */
const tabs = new BroadcastChannel("superfine-jobs");
tabs.addEventListener("message", (/** @type {MessageEvent<News>} */ { data: { job, removed } }) => {
  if (removed) {
    state.removed.add(removed);
    state.items = state.items.filter((item) => item.job?.id !== removed);
  }
  const item = state.items.find((each) => each.job?.id === job?.id && job);
  if (item && job) hear(item, job);
  if (job && !state.locked) state.trouble = ""; // the server answers again
  if (item || removed) paint();
  if (job && !item && !state.removed.has(job.id)) update(); // made since this tab looked
  else if (job && FINAL.includes(job.status)) watch();
});

/** Listen to a job once no other tab listens to any. @param {string} id */
async function listen(id) {
  const controller = new AbortController();
  [stream, heard] = [controller, id];
  try {
    await navigator.locks.request("superfine-events", { signal: controller.signal }, async () => {
      leads = true;
      watch(); // which asks less often now
      await relay(id, controller.signal).finally(() => (leads = false));
    });
  } catch (error) {
    if (controller.signal.aborted) return;
    if (!(error instanceof Refusal)) throw error;
    trip(error);
    return;
  }
  if (controller.signal.aborted) return;
  hush();
  const ended = state.items.every((item) => item.job?.id !== id || FINAL.includes(item.job.status));
  if (ended) await update();
  else trip(new Refusal(0, ""));
}

/** Each change of a job to this tab and the others. @param {string} id @param {AbortSignal} signal */
async function relay(id, signal) {
  for await (const job of changesOf(id, signal)) {
    const item = state.items.find((each) => each.job?.id === id);
    if (item) hear(item, job);
    tabs.postMessage({ job });
    [failures, state.trouble] = [0, ""];
    paint();
    if (FINAL.includes(job.status)) return;
  }
}

/** A job at each change, until the server ends that. An EventSource that is refused doesn't say why, nor for how long.
 * @param {string} id @param {AbortSignal} signal @returns {AsyncGenerator<Job>} */
async function* changesOf(id, signal) {
  const lost = () => {
    throw new Refusal(0, GONE);
  };
  const answer = await fetch(`${API}/jobs/${id}/events`, { cache: "no-store", signal }).catch(lost);
  if (!answer.ok || !answer.body) throw await refusalOf(answer);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read().catch(lost);
    if (done) return;
    const events = (text + value).split("\n\n");
    text = events.pop() ?? "";
    for (const event of events) {
      const data = /^data: (.*)$/m.exec(event);
      if (data) yield JSON.parse(data[1]);
    }
  }
}

/** Seconds to wait after so many failures. @param {number} count @param {number} wait that the server asks for */
export const pauseSeconds = (count, wait) => Math.max(Math.min(2 ** (count - 1), LONGEST_PAUSE_SECONDS), wait);

/** Say what is wrong, and try again later: without the token not before it is there. @param {Refusal} error */
function trip(error) {
  hush();
  clearTimeout(timer);
  failures += 1;
  // A stream that ends early, or whose job is gone, isn't news: what is asked for next tells.
  const silently = error.message === "" || error.status === 404;
  if (!silently) state.trouble = state.locked ? LOCKED : error.status === 0 ? GONE : `${sentence(error.message)}. Trying again \u2026`;
  if (!state.locked) timer = setTimeout(update, 1000 * pauseSeconds(failures, error.wait));
  paint();
}

document.addEventListener("visibilitychange", () => (document.hidden ? watch() : update()));

// ---- On the page

/** @template {HTMLElement} T @param {string} id @returns {T} */
const element = (id) => /** @type {T} */ (document.getElementById(id));
const choose = /** @type {HTMLButtonElement} */ (element("choose"));
const input = /** @type {HTMLInputElement} */ (element("files"));
const list = element("list");

/** told: what a card says that doesn't change by itself any more.
 * @typedef {{root: HTMLElement, parts: Record<string, any>, shown: string, told: string}} Card */
/** @type {Map<string, Card>} */
const cards = new Map();

/** @type {string[]} */
let news = [];

/** What happens at once is said together: of several changes in a row only the last one is heard. @param {string} text */
function announce(text) {
  if (news.push(text) > 1) return;
  queueMicrotask(() => {
    element("status").textContent = news.join(" ");
    news = [];
  });
}

/** Set only what is new: else screen readers and selections start over. @param {Element} node @param {string} text */
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** @param {HTMLSelectElement} select @param {string} value @param {string} text */
function offer(select, value, text) {
  select.append(new Option(text, value));
}

/** Cards that are seen, or will be soon. @type {Set<Element>} */
const near = new Set();
const sight = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) near.add(entry.target);
    else near.delete(entry.target);
  }
  if (state.items.length > FEW) paint();
}, { rootMargin: "50% 0px" });

/** @param {string} id of a template @returns {HTMLElement} */
function copyOf(id) {
  const template = /** @type {HTMLTemplateElement} */ (element(id));
  return /** @type {HTMLElement} */ (/** @type {Element} */ (template.content.firstElementChild).cloneNode(true));
}

/** @param {HTMLElement} root @param {Record<string, any>} parts */
function gather(root, parts) {
  for (const part of /** @type {NodeListOf<HTMLElement>} */ (root.querySelectorAll("[data-part]"))) parts[part.dataset.part ?? ""] = part;
}

/** @param {Item} item @returns {Card} */
function newCard(item) {
  const root = copyOf("card");
  /** @type {Record<string, any>} */
  const parts = {};
  gather(root, parts);
  parts.thumb.addEventListener("click", () => item.job?.status === "done" && open(item));
  parts.thumb.addEventListener("error", () => (parts.thumb.hidden = true));
  parts.thumb.addEventListener("load", () => (parts.blank.style.display = "none")); // it would show through
  parts.remove.addEventListener("click", () => (item.job?.status === "done" && !item.saved ? question([item]) : remove([item])));
  parts.download.addEventListener("click", () => (item.saved = true));
  parts.cancel.addEventListener("click", () => item.stopping || cancel(item));
  parts.compare.addEventListener("click", () => open(item));
  parts.again.addEventListener("click", () => again(item));
  sight.observe(root);
  return { root, parts, shown: "", told: "" };
}

/** Only while there is something to choose: browsers that fill in forms look at all that there are, again and again.
 * @param {Record<string, any>} parts @param {Item} item */
function addSettings(parts, item) {
  parts.settings = copyOf("settings");
  gather(parts.settings, parts);
  parts.spread.addEventListener("click", () => spread(item));
  parts.settings.addEventListener("input", (/** @type {Event} */ event) => read(item, parts, event.target));
  parts.settings.addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    start(item);
    paint();
    submitAll();
  });
  parts.settings.setAttribute("aria-label", `Settings of ${item.name}`);
  parts.start.setAttribute("aria-label", `Enlarge ${item.name}`);
  parts.running.before(parts.settings);
}

/** The models that there are. @param {Record<string, any>} parts @param {Upload} upload */
function furnishModels(parts, upload) {
  const best = upload.recommended.model;
  parts.model.replaceChildren();
  let found = false;
  for (const [name, models] of menu(state.models, upload)) {
    const group = document.createElement("optgroup");
    group.label = name;
    for (const model of models) {
      const value = valueOf(model);
      found ||= value === best;
      group.append(new Option(value === best ? `${model.family} (recommended)` : model.family, value));
    }
    parts.model.append(group);
  }
  if (!found) parts.model.prepend(new Option(`${best} (recommended)`, best));
}

/** Fill the other menus, once the file is known. @param {Record<string, any>} parts @param {Upload} upload */
function furnish(parts, upload) {
  const scales = [...new Set([...SCALES, upload.recommended.scale])].sort((one, other) => one - other);
  for (const scale of scales) offer(parts.scale, String(scale), `${scale} times`);
  offer(parts.scale, EXACT, "exact \u2026");
  offer(parts.format, "", "as the file");
  for (const [value, text] of Object.entries(FORMATS[upload.kind])) if (state.formats.has(value)) offer(parts.format, value, text);
  for (const [value, text] of Object.entries(CODECS)) offer(parts.codec, value, text);
  for (const [value, text] of Object.entries(OPERATORS)) offer(parts.consistent, value, text);
  for (const name of ["quality", "consistent", "sharpness", "guess"]) parts[`${name}-field`].hidden = upload.kind !== "picture";
  for (const name of ["codec", "crf", "from", "until"]) parts[`${name}-field`].hidden = upload.kind === "picture";
}

const FIELDS = /** @type {const} */ (["model", "scale", "width", "height", "format", "quality", "codec", "crf", "from", "until", "consistent"]);

/** From the controls into the state. @param {Item} item @param {Record<string, any>} parts @param {EventTarget | null} touched */
function read(item, parts, touched) {
  const [choices, upload] = [item.choices, item.upload];
  if (!choices || !upload) return;
  const size = outputSize(upload, choices);
  for (const field of FIELDS) choices[field] = parts[field].value;
  choices.sharpness = Number(parts.sharpness.value);
  choices.guess = parts.guess.checked;
  choices.ensemble = parts.ensemble.checked;
  if (touched === parts.scale && choices.scale === EXACT && size) [choices.height, choices.width] = size.map(String);
  // The picture's own shape, until someone wants another: the height is theirs to change.
  if (touched === parts.width && Number(choices.width) > 0) choices.height = String(Math.max(1, Math.round((Number(choices.width) * upload.rows) / upload.cols)));
  item.error = "";
  paint();
}

/** @param {Record<string, any>} parts @param {Choices} choices */
function write(parts, choices) {
  for (const field of FIELDS) if (parts[field].value !== choices[field]) parts[field].value = choices[field];
  parts.sharpness.value = String(choices.sharpness);
  parts.guess.checked = choices.guess;
  parts.ensemble.checked = choices.ensemble;
}

/** @param {Item} from */
function spread(from) {
  const waiting = state.items.filter((item) => phaseOf(item) === "ready" && item !== from && item.choices && from.choices);
  for (const item of waiting) {
    if (item.upload?.kind !== from.upload?.kind) continue;
    item.choices = { .../** @type {Choices} */ (from.choices) };
    item.error = "";
  }
  announce(`Settings used for ${counted(waiting.length, "other file")}.`);
  paint();
}

/** @param {Record<string, any>} parts @param {Item} item @param {Upload} upload @param {Choices} choices */
function paintSettings(parts, item, upload, choices) {
  if (parts.scale.options.length === 0) furnish(parts, upload);
  const known = state.models.map(valueOf).join();
  if (parts.model.dataset.known !== known) {
    parts.model.dataset.known = known;
    furnishModels(parts, upload);
    const offered = [...parts.model.options].map((option) => option.value);
    if (!offered.includes(choices.model)) choices.model = upload.recommended.model; // an uploaded network that is gone
  }
  write(parts, choices);
  parts.exact.hidden = choices.scale !== EXACT;
  const size = outputSize(upload, choices);
  const wrong = objection(upload, choices);
  say(parts.outcome, wrong && size ? wrong : size ? `Makes ${sizeText(size[0], size[1])} of ${sizeText(upload.rows, upload.cols)}` : "");
  const format = choices.format || (upload.name.split(".").pop() ?? "").toLowerCase().replace("jpeg", "jpg");
  parts.quality.disabled = !LOSSY.includes(format);
  parts.sharpness.disabled = !takesSharpness(choices);
  say(parts["sharpness-value"], !takesSharpness(choices) ? "(only photo)" : choices.sharpness > 0 ? `${Math.round(100 * choices.sharpness)} %` : "faithful");
  const about = state.models.find((model) => valueOf(model) === choices.model);
  say(parts.hint, choices.sharpness > 0 && takesSharpness(choices) ? "Sharpness makes up texture that the picture doesn't hold." : about ? `${sentence(about.summary)}.` : "");
  parts.spread.hidden = state.items.filter((each) => phaseOf(each) === "ready").length < 2;
}

/** @param {Item} item @param {Phase} phase */
function why(item, phase) {
  if (phase === "sending") return item.held || "";
  if (phase === "ready" && item.upload) return `Recommended: ${item.upload.recommended.why}.`;
  return "";
}

/** @param {Item} item */
function stateText(item) {
  if (item.stopping) return "Cancelling";
  if (item.job) return progressText(item.job);
  if (item.upload) return item.held ? `Waiting: ${item.held}` : "Handing in";
  if (!sending.has(item.key)) return "Waiting to be sent";
  if (item.held) return "Waiting";
  return item.sent >= 1 ? "Looking at it" : `Sending, ${Math.floor(100 * item.sent)} %`;
}

/** How much of it is done; undefined where that isn't known. What only waits keeps still: it may be hundreds.
 * @param {Item} item @param {Phase} phase */
function shareOf(item, phase) {
  if (phase === "running") return item.job && !starting(item.job) ? item.job.progress : undefined;
  if (!sending.has(item.key)) return 0;
  return item.sent < 1 ? item.sent : undefined;
}

/** @param {Item} item */
function madeText(item) {
  const job = /** @type {Job} */ (item.job);
  if (item.leaving) return "Removing \u2026";
  if (job.status === "done" && job.result) return `Done: ${bytesText(job.result.bytes)}`;
  return { failed: "", cancelled: "Cancelled.", expired: "Its time is over: the result was deleted.", done: "Done" }[/** @type {string} */ (job.status)] ?? "";
}

/** @param {Item} item */
function thumbOf(item) {
  const upload = sourceOf(item);
  const moves = item.job?.video || (item.upload && item.upload.kind !== "picture");
  if (upload) return `${API}/uploads/${upload}/view${moves ? "?at=0" : ""}`; // a list that moves can't be read
  return item.job?.status === "done" ? `${API}/jobs/${item.job.id}/view` : "";
}

/** @param {Card} card @param {Item} item */
function paintCard(card, item) {
  const { root, parts } = card;
  const phase = phaseOf(item);
  const told = FINAL.includes(phase) ? JSON.stringify([item.name, item.job, item.upload?.kind, item.error, item.leaving]) : "";
  if (told && told === card.told) return;
  card.told = told;
  const focused = root.contains(document.activeElement) ? document.activeElement : null;
  root.dataset.phase = phase;
  root.setAttribute("aria-busy", String(item.leaving));
  say(parts.name, item.name);
  const [job, upload] = [item.job, item.upload];
  say(parts.facts, job ? jobFacts(job) : upload ? uploadFacts(upload) : bytesText(item.bytes));
  const thumb = thumbOf(item);
  if (thumb && card.shown !== thumb) {
    card.shown = thumb;
    parts.thumb.src = thumb;
    parts.thumb.hidden = false;
  }
  const film = job?.video || (upload && upload.kind !== "picture");
  parts.kind.hidden = !film;
  say(parts.kind, upload && upload.kind !== "picture" ? upload.kind : /\.(gif|webp)$/.test(job?.name ?? "") ? "animation" : "video");
  say(parts.why, why(item, phase));
  parts.why.hidden = !parts.why.textContent;
  const notes = job ? [...job.notes.map(labelled), ...consistencyText(job)] : phase === "ready" ? upload?.notes ?? [] : [];
  if (parts.notes.dataset.notes !== notes.join("\n")) {
    parts.notes.dataset.notes = notes.join("\n");
    parts.notes.replaceChildren(...notes.map((note) => Object.assign(document.createElement("li"), { textContent: note })));
  }
  parts.notes.hidden = notes.length === 0;

  const seen = state.items.length <= FEW || near.has(root) || focused !== null;
  const chooses = phase === "ready" && state.limits !== null && seen; // before, what there is to choose isn't known
  if (chooses && !parts.settings?.isConnected) {
    addSettings(parts, item);
    root.style.minHeight = "";
  }
  if (parts.settings) parts.settings.hidden = phase !== "ready";
  if (!seen && parts.settings?.isConnected && !parts.settings.querySelector("[open]")) {
    root.style.minHeight = `${root.offsetHeight}px`; // what is seen stays where it is
    parts.settings.remove();
  }
  if (chooses && upload && item.choices) paintSettings(parts, item, upload, item.choices);

  const moves = ["sending", "waiting", "queued", "running"].includes(phase);
  parts.running.hidden = !moves;
  if (moves) {
    const share = shareOf(item, phase);
    if (share === undefined) parts.progress.removeAttribute("value");
    else parts.progress.value = share;
    parts.progress.setAttribute("aria-label", `${item.name}: ${phase === "sending" ? "sending" : "progress"}`);
    say(parts.state, stateText(item));
    parts.cancel.hidden = phase === "sending";
    parts.cancel.setAttribute("aria-disabled", String(item.stopping)); // not `disabled`: it has the focus
  }

  parts.finished.hidden = !job || !FINAL.includes(job.status);
  if (job && !parts.finished.hidden) {
    const done = job.status === "done";
    say(parts.made, madeText(item));
    parts.compare.hidden = parts.download.hidden = !done;
    parts.download.href = `${API}/jobs/${job.id}/result`;
    parts.download.setAttribute("aria-label", `Download ${job.result?.name ?? job.name}`);
    say(parts.again, done ? "Other settings" : "Try again");
  }
  const error = unnamed(item.error || (job?.status === "failed" ? job.message : ""), item.name);
  say(parts.error, error);
  parts.error.hidden = error === "";
  parts.remove.hidden = ["queued", "running", "waiting"].includes(phase);
  parts.remove.setAttribute("aria-label", `Remove ${item.name}`);
  parts.remove.setAttribute("aria-disabled", String(item.leaving)); // not `disabled`: it has the focus
  for (const [part, verb] of /** @type {const} */ ([["cancel", "Cancel"], ["compare", "Compare"], ["again", parts.again.textContent]])) {
    parts[part].setAttribute("aria-label", `${verb} ${item.name}`);
  }
  // What had the focus may be gone: what came in its place has it now.
  if (focused instanceof HTMLElement && focused.offsetParent === null) {
    [parts.compare, parts.cancel, parts.start, parts.again, parts.remove].find((part) => part && part.offsetParent !== null)?.focus();
  }
  if (job) parts.settings?.remove();
}

/** @param {Item} item */
async function open(item) {
  if (!item.job) return;
  try {
    hear(item, await ask(`jobs/${item.job.id}`)); // its time may be over by now
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (error.status === 404) takeAway(item);
    else item.error = error.status === 0 ? "superfine doesn't answer." : error.message;
    announce(`${item.name}: ${error.status === 0 ? "superfine doesn't answer." : error.message}`);
  }
  paint();
  const job = item.job;
  if (job.status === "expired") announce(`${item.name}: ${madeText(item)}`);
  if (job.status !== "done" || item.error) return;
  const still = !job.video || /^image\//.test(job.result?.type ?? "");
  const shows = still || /^video\/(mp4|webm)$/.test(job.result?.type ?? "");
  const start = job.video?.start ?? 0;
  const first = job.upload ? { kind: /** @type {const} */ ("picture"), source: `${API}/uploads/${job.upload}/view${start ? `?at=${start}` : ""}` } : null;
  const stored = item.file ? URL.createObjectURL(item.file) : job.upload ? `${API}/uploads/${job.upload}/file` : "";
  compare({
    name: job.result?.name ?? job.name,
    facts: [jobFacts(job), job.result ? bytesText(job.result.bytes) : ""].filter(Boolean).join(" \u00b7 "),
    rows: job.output_rows,
    cols: job.output_cols,
    before: job.video && !still && stored ? { kind: "film", source: stored, start, instead: first } : first,
    after: shows ? { kind: still ? "picture" : "film", source: `${API}/jobs/${job.id}/view` } : null,
    guess: job.guess_map ? `${API}/jobs/${job.id}/guess-map` : null,
    download: `${API}/jobs/${job.id}/result`,
    moves: job.video !== null,
    note: !shows ? "Browsers don't show this kind of video; download it to see it." : "",
    missed: update,
    saved: () => (item.saved = true),
  });
}

/** @param {Item[]} items */
function summary(items) {
  const phases = items.map(phaseOf);
  const count = (/** @type {Phase[]} */ ...wanted) => phases.filter((phase) => wanted.includes(phase)).length;
  const words = /** @type {[number, string][]} */ ([
    [count("sending"), "on the way"], [count("ready"), "to start"], [count("waiting", "queued"), "waiting"], [count("running"), "in work"],
    [count("done"), "done"], [count("failed", "refused"), "failed"], [count("cancelled"), "cancelled"], [count("expired"), "expired"],
  ]);
  return words.filter(([number]) => number > 0).map(([number, word]) => `${number} ${word}`).join(", ");
}

let soon = 0;

/** At most once for each picture of the screen. */
function paintSoon() {
  soon ||= requestAnimationFrame(() => {
    soon = 0;
    paint();
  });
}

function paint() {
  const { items } = state;
  const page = /** @type {HTMLElement} */ (document.querySelector(".page"));
  page.toggleAttribute("data-busy", items.length > 0);
  page.toggleAttribute("data-several", items.length > 1);
  element("drop").hidden = state.locked && !state.limits; // nothing was seen yet: the token comes first
  element("work").hidden = items.length === 0;
  const keys = new Set(items.map((item) => item.key));
  for (const [key, card] of cards) {
    if (keys.has(key)) continue;
    card.root.remove();
    sight.unobserve(card.root);
    near.delete(card.root);
    cards.delete(key);
  }
  items.forEach((item, place) => {
    const card = cards.get(item.key) ?? newCard(item);
    cards.set(item.key, card);
    if (list.children[place] !== card.root) list.insertBefore(card.root, list.children[place] ?? null);
    paintCard(card, item);
  });
  say(element("heading"), counted(items.length, "file"));
  say(element("count"), summary(items));
  const ready = startable();
  const done = items.filter((item) => phaseOf(item) === "done");
  const startAll = /** @type {HTMLButtonElement} */ (element("start-all"));
  startAll.disabled = ready.length === 0;
  say(startAll, ready.length > 1 ? `Enlarge all ${ready.length}` : "Enlarge all");
  const downloads = /** @type {HTMLAnchorElement} */ (element("download-all"));
  downloads.setAttribute("aria-disabled", String(done.length === 0));
  if (done.length) downloads.href = `${API}/results.zip`; // all that are done, as they are listed here
  else downloads.removeAttribute("href");
  /** @type {HTMLButtonElement} */ (element("clear")).disabled = finished().length === 0;
  const trouble = element("trouble");
  say(trouble, state.trouble);
  element("banner").hidden = state.trouble === "";
  element("token-form").hidden = !state.locked;
  element("retry").hidden = state.locked;
  const running = items.filter((item) => phaseOf(item) === "running");
  const share = running.reduce((sum, item) => sum + (item.job?.progress ?? 0), 0) / Math.max(running.length, 1);
  remember();
  document.title = running.length ? `${Math.floor(100 * share)} % \u00b7 superfine` : "superfine";
}

// ---- Hands

element("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = /** @type {HTMLInputElement} */ (element("token"));
  unlock(token.value);
  token.value = "";
});
element("retry").addEventListener("click", update);
choose.addEventListener("click", () => input.click());
input.addEventListener("change", () => {
  add(input.files ?? []);
  input.value = "";
});
/** Also what is still on its way. */
const startable = () => state.items.filter((item) => phaseOf(item) === "ready" || (phaseOf(item) === "sending" && !item.eager)).filter((item) => !item.leaving);
element("start-all").addEventListener("click", () => {
  for (const item of startable()) {
    if (item.upload) start(item);
    else item.eager = true;
  }
  paint();
  element("heading").focus();
  submitAll();
});
const finished = () => state.items.filter((item) => [...FINAL, "refused"].includes(phaseOf(item)) && !item.leaving);
const confirmation = /** @type {HTMLDialogElement} */ (element("confirm"));
/** @type {Item[]} */
let asked = [];

/** Whether they are to go, before what can't be undone. @param {Item[]} items */
function question(items) {
  asked = items;
  const one = items.length === 1;
  say(element("confirm-question"), one ? `Remove ${items[0].name}?` : `Remove ${items.length} finished files?`);
  say(element("confirm-facts"), one
    ? "Its result and original are deleted on the server. That can't be undone."
    : "Their results and originals are deleted on the server, also those that other windows made. That can't be undone.");
  say(element("confirm-keep"), one ? "Keep it" : "Keep them");
  say(element("confirm-remove"), one ? "Remove" : `Remove ${items.length}`);
  confirmation.showModal();
}
element("clear").addEventListener("click", () => question(finished()));
element("confirm-keep").addEventListener("click", () => confirmation.close());
element("confirm-remove").addEventListener("click", () => {
  confirmation.close();
  if (document.activeElement === element("clear")) element("heading").focus(); // there will be nothing to clear
  remove(asked.filter((item) => state.items.includes(item)));
});
element("download-all").addEventListener("click", () => {
  for (const item of state.items) item.saved ||= phaseOf(item) === "done";
});
// What is still on its way is known to this window alone.
window.addEventListener("beforeunload", (event) => {
  if (state.items.some((item) => ["sending", "waiting"].includes(phaseOf(item)))) event.preventDefault();
});

const networks = /** @type {HTMLInputElement} */ (element("network-files"));
element("choose-network").addEventListener("click", () => networks.click());
networks.addEventListener("change", () => {
  addNetworks([...(networks.files ?? [])]);
  networks.value = "";
});

const curtain = element("curtain");
let depth = 0; // each element under the pointer says that it is entered and left
/** @param {DragEvent} event */
const carriesFiles = (event) => event.dataTransfer?.types.includes("Files") ?? false;
document.addEventListener("dragenter", (event) => {
  if (carriesFiles(event)) curtain.hidden = ++depth === 0;
});
document.addEventListener("dragleave", (event) => {
  if (carriesFiles(event)) curtain.hidden = --depth <= 0;
});
document.addEventListener("dragover", (event) => {
  if (carriesFiles(event)) event.preventDefault();
});
document.addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  depth = 0;
  curtain.hidden = true;
  add(event.dataTransfer?.files ?? []);
});
let pasted = 0;
document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if (files.length === 0) return;
  event.preventDefault();
  // Browsers call every picture of the clipboard the same.
  add(files.map((file) => new File([file], file.name.replace(/^image(?=\.)/, `pasted-${++pasted}`), { type: file.type })));
});

async function begin() {
  if (!["localhost", "127.0.0.1", "[::1]"].includes(location.hostname)) {
    element("privacy").textContent = `Your files go to the superfine on ${location.host}, and to nobody else.`;
  }
  await update();
  if (state.locked) element("token").focus();
  document.documentElement.dataset.ready = "";
}

begin();
