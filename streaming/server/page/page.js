// The page: what is pressed, dropped or chosen, and what is shown of it.

import { clock } from "./formats.js";
import { listMicrophones, openMicrophone } from "./microphone.js";
import { Recording } from "./recording.js";
import { check, openStream, transcribe } from "./server.js";
import { Take, count } from "./takes.js";

const QUIETEST_DBFS = -60;
const KEY = "spellstream-key";
const GONE = "The microphone has gone away.";
const TALK_LABELS = { idle: "Press to talk", starting: "Starting…", talking: "Stop", finishing: "Finishing…" };

const $ = (id) => document.getElementById(id);

const state = {
  phase: "idle", // → starting → talking → finishing → idle
  key: sessionStorage.getItem(KEY) ?? "",
  ready: false, // whether the server is known to take us
  microphone: null,
  stream: null,
  spoken: null, // the take of the microphone
  spokenSeconds: 0, // its length before this press
  uploads: Promise.resolve(), // one after the other
};

// --- what the page tells ---------------------------------------------------------------------------------------------

function setPhase(phase) {
  state.phase = phase;
  document.body.dataset.phase = phase;
  $("talk-label").textContent = TALK_LABELS[phase];
  $("talk").setAttribute("aria-disabled", phase === "starting" || phase === "finishing"); // keeps the focus
  $("microphone").disabled = phase !== "idle";
  if (phase === "idle") showLevel(-Infinity);
  showConnection();
}

function showConnection(problem = null) {
  const [name, text] =
    problem !== null ? ["problem", problem]
    : state.phase === "talking" ? ["talking", "Listening"]
    : state.phase === "finishing" ? ["talking", "Finishing"]
    : state.ready && state.phase === "idle" ? ["ready", "Ready"]
    : ["checking", "Connecting"];
  $("connection").dataset.state = name;
  $("connection").textContent = text;
}

function showProblem(error) {
  $("problem").textContent = error?.message ?? "";
  $("problem").hidden = !error;
  if (error?.needsKey) askForKey();
}

function showDropped(seconds) {
  $("warning").hidden = seconds === 0;
  const text = `The connection or the server is too slow: ${Math.ceil(seconds)} s of speech dropped.`;
  if (seconds && $("warning").textContent !== text) $("warning").textContent = text;
}

function showLevel(dbfs) {
  const heard = Math.max(QUIETEST_DBFS, Math.min(0, dbfs));
  $("level").setAttribute("aria-valuenow", Math.round(heard));
  $("level").setAttribute("aria-valuetext", dbfs === -Infinity ? "off" : `${Math.round(heard)} decibels`);
  document.body.style.setProperty("--level", 1 - heard / QUIETEST_DBFS);
}

function say(text) {
  $("said").textContent = text;
}

function newTake(name, live) {
  const take = new Take($("take"), name, { live, say, onRemove: removed });
  if (!live && state.spoken) state.spoken.element.after(take.element); // what is being said stays on top
  else $("takes").prepend(take.element);
  $("empty").hidden = true;
  return take;
}

function removed(take) {
  if (take === state.spoken) state.spoken = null;
  $("empty").hidden = $("takes").childElementCount > 0;
  $("talk").focus(); // the button that was pressed is gone
}

// --- the server ------------------------------------------------------------------------------------------------------

/** Learns how the page stands with the server. A `problem` that made it ask is shown, whatever the answer. */
async function connect(problem = null) {
  try {
    await check(state.key);
    state.ready = true;
    sessionStorage.setItem(KEY, state.key);
    $("key-form").hidden = true;
    showProblem(problem);
    showConnection();
  } catch (error) {
    state.ready = false;
    showConnection(error.needsKey ? "Key needed" : "Not connected");
    showProblem(problem ?? error);
  }
}

function askForKey() {
  sessionStorage.removeItem(KEY);
  $("key-form").hidden = false;
  $("key").focus();
  $("key").select();
}

// --- talking ---------------------------------------------------------------------------------------------------------

async function start() {
  setPhase("starting");
  showProblem(null);
  showDropped(0);
  try {
    state.microphone = await openMicrophone($("microphone").value, () => end(new Error(GONE)));
    await showMicrophones(state.microphone.deviceId);
    state.stream = await openStream({
      key: state.key,
      sampleRate: state.microphone.sampleRate,
      onPartial: (text, committed) => state.spoken?.showPartial(text, now(), committed),
      onFinal: addFinal,
      onEnd: end,
    });
    if (state.microphone.isGone()) throw new Error(GONE);
    state.ready = true;
    if (state.spoken?.recording.sampleRate !== state.microphone.sampleRate) state.spoken = spokenTake();
    for (const audio of document.querySelectorAll("audio")) audio.pause(); // the microphone would hear it
    state.microphone.start(hear);
    setPhase("talking");
  } catch (error) {
    state.microphone?.close();
    state.stream?.finish();
    state.microphone = state.stream = null;
    setPhase("idle");
    connect(error);
  }
}

function spokenTake() {
  state.spokenSeconds = 0;
  const take = newTake("Microphone", true);
  take.recording = new Recording(state.microphone.sampleRate, state.stream.sentSeconds);
  return take;
}

function hear({ pcm, level }) {
  if (state.stream.send(pcm)) state.spoken?.recording.add(pcm);
  showLevel(level);
  showDropped(state.stream.droppedSeconds);
  $("elapsed").textContent = clock(state.stream.sentSeconds);
}

function now() {
  const { segments } = state.spoken;
  return Math.max(state.spokenSeconds, segments.at(-1)?.end ?? 0);
}

/** The server's clock begins with each press; the take's goes on. */
function addFinal({ start: begin, end: finish, text, words }) {
  state.spoken ??= spokenTake();
  const offset = state.spokenSeconds;
  state.spoken.add({
    start: begin + offset,
    end: finish + offset,
    text,
    words: words.map((word) => ({ ...word, start: word.start + offset, end: word.end + offset })),
  });
}

/** Ends a stream: asked for by the user, or because of an `error` on either side. */
async function end(error = null) {
  if (state.phase !== "talking") return;
  setPhase("finishing");
  const { microphone, stream } = state;
  await microphone.stop();
  const failure = await stream.finish();
  const problem = error ?? failure;
  state.spokenSeconds += stream.sentSeconds;
  state.microphone = state.stream = null;
  if (problem) state.spoken?.keepPartial(state.spokenSeconds);
  else state.spoken?.showPartial("");
  if (state.spoken) state.spoken.player.load(state.spoken.recording.toWav(), state.spoken.recording.start);
  setPhase("idle");
  if (problem) connect(problem);
}

async function showMicrophones(chosen = $("microphone").value) {
  const found = await listMicrophones();
  const options = found.map(({ id, label }) => new Option(label, id, false, id === chosen));
  $("microphone").replaceChildren(...(options.length ? options : [new Option("Default microphone", "")]));
}

// --- files -----------------------------------------------------------------------------------------------------------

function addFiles(files) {
  for (const file of files) {
    const take = newTake(file.name, false);
    take.player.load(file);
    if (state.phase === "idle") take.element.scrollIntoView({ block: "nearest" });
    queue(file, take);
  }
}

function queue(file, take) {
  const cancel = new AbortController();
  take.part("remove").addEventListener("click", () => cancel.abort());
  take.showProgress("Waiting", 0);
  state.uploads = state.uploads.then(() => upload(file, take, cancel.signal));
}

async function upload(file, take, signal) {
  if (signal.aborted) return;
  const onProgress = (fraction) =>
    fraction < 1
      ? take.showProgress(`Uploading, ${Math.floor(100 * fraction)} %`, fraction)
      : take.showProgress("Transcribing", null);
  const onSegment = (segment) => {
    if (segment.text) take.add(segment);
  };
  onProgress(0);
  try {
    await transcribe(file, { key: state.key, onProgress, onSegment, signal });
    take.endProgress();
    if (!take.segments.length) take.describe("No speech was found");
    say(`${file.name}: ${count(take.segments.length, "line")}.`);
  } catch (error) {
    if (signal.aborted) return;
    take.fail(error.message, () => queue(file, take));
    say(`${file.name}: ${error.message}`);
    if (error.needsKey) askForKey();
  }
}

function carriesFiles(event) {
  return event.dataTransfer?.types.includes("Files");
}

// --- what is pressed -------------------------------------------------------------------------------------------------

$("talk").addEventListener("click", () => {
  if (state.phase === "idle") start();
  else if (state.phase === "talking") end();
});
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  state.key = $("key").value.trim();
  connect();
});
$("file").addEventListener("change", () => {
  addFiles($("file").files);
  $("file").value = ""; // the same file may be chosen again
});

let depth = 0; // of the elements that the pointer is in
document.addEventListener("dragenter", (event) => {
  if (carriesFiles(event)) $("dropping").hidden = (depth += 1) === 0;
});
document.addEventListener("dragleave", (event) => {
  if (carriesFiles(event)) $("dropping").hidden = (depth -= 1) === 0;
});
document.addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
document.addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  $("dropping").hidden = true;
  depth = 0;
  addFiles(event.dataTransfer.files);
});

navigator.mediaDevices?.addEventListener("devicechange", () => showMicrophones());
window.addEventListener("beforeunload", (event) => {
  if (state.phase !== "idle") event.preventDefault();
});

setPhase("idle");
showMicrophones();
connect();
