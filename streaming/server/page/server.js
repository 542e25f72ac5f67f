// The server, one folder above the page: its WebSocket, its upload, and what its refusals mean.

const ROOT = new URL("../", location.href);
const MAX_BUFFERED_SECONDS = 5;
const CONNECT_MS = 10_000;
const FINISH_MS = 20_000;
const DATA = "data: ";
const TOKEN = /^[\w!#$%&'*+.^`|~-]+$/;

/** What the server said no to, in words for the user; `needsKey` when a key, or another one, is what it wants. */
export class ServerError extends Error {
  constructor(message, { needsKey = false } = {}) {
    super(message);
    this.needsKey = needsKey;
  }
}

const BUSY = "The server is busy: all its places are taken. Try again in a moment.";
const REFUSED = "The server opened no stream. A proxy before it must pass on WebSockets, and the Host header as it is.";
export const UNREACHABLE = "The server cannot be reached. Check the connection, then try again.";

/** Throws a ServerError unless the server is there and takes `key`. */
export async function check(key) {
  let answer;
  try {
    answer = await fetch(new URL("v1/models", ROOT), { headers: authorization(key), cache: "no-store" });
  } catch {
    throw new ServerError(UNREACHABLE);
  }
  if (!answer.ok) throw refusal(answer.status, parsed(await answer.text()), key);
}

/**
 * Uploads `file`: `onProgress(fraction)` is called with 1 once all of it is there, then `onSegment` as its words are
 * found. Resolves when that was all.
 */
export function transcribe(file, { key, onProgress, onSegment, signal }) {
  const form = new FormData();
  form.append("model", "default");
  form.append("response_format", "verbose_json");
  form.append("stream", "true");
  form.append("file", file);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch does not tell how much has been uploaded
    const events = new EventReader();
    let done = false;
    const read = () => {
      if (request.status !== 200) return;
      for (const event of events.read(request.responseText)) {
        if (event.type === "transcript.text.segment") onSegment(segment(event.text, event.words, event));
        else if (event.type === "error") reject(new ServerError(sentence(event.error.message)));
        else if (event.type === "transcript.text.done") done = true;
      }
    };
    request.open("POST", new URL("v1/audio/transcriptions", ROOT));
    for (const [name, value] of Object.entries(authorization(key))) request.setRequestHeader(name, value);
    request.upload.onprogress = ({ loaded, total }) => onProgress(loaded / total);
    request.upload.onload = () => onProgress(1);
    request.onprogress = read;
    request.onload = () => {
      read();
      if (request.status !== 200) reject(refusal(request.status, parsed(request.responseText), key));
      else if (done) resolve();
      else reject(new ServerError("The server ended before the file did."));
    };
    request.onerror = () =>
      reject(new ServerError("The transfer broke off: the server cannot be reached, or the file is more than it takes."));
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

/** Server-sent events, out of a text that grows. */
class EventReader {
  position = 0;

  read(text) {
    const end = text.lastIndexOf("\n\n");
    if (end < this.position) return [];
    const lines = text.slice(this.position, end).split("\n");
    this.position = end + 2;
    return lines.filter((line) => line.startsWith(DATA)).map((line) => JSON.parse(line.slice(DATA.length)));
  }
}

/**
 * A stream of speech. `onPartial(text, committed)`, with the number of words that will not change, and `onFinal(segment)` are called as the words come, `onEnd(error)` once, when
 * the server ends it unasked.
 */
export async function openStream({ key, sampleRate, onPartial, onFinal, onEnd }) {
  const socket = await connect(key);
  return new Stream(socket, sampleRate, { onPartial, onFinal, onEnd });
}

class Stream {
  constructor(socket, sampleRate, { onPartial, onFinal, onEnd }) {
    this.socket = socket;
    this.bytesPerSecond = 2 * sampleRate;
    this.sentSeconds = 0;
    this.unsentSeconds = 0;
    this.unheardSeconds = 0;
    this.finishing = false;
    this.closed = new Promise((resolve) => (this.resolveClosed = resolve));
    socket.onmessage = ({ data }) => this.receive(data, onPartial, onFinal);
    socket.onclose = ({ code, reason }) => {
      this.resolveClosed({ code, reason });
      if (!this.finishing) onEnd(closure(code, reason));
    };
    socket.send(JSON.stringify({ config: { sample_rate: sampleRate, words: true, live: true, style: "written" } }));
  }

  /** Sends s16le samples, unless so many wait already that the words would come far too late; whether it did. */
  send(pcm) {
    const seconds = pcm.byteLength / this.bytesPerSecond;
    if (this.socket.readyState !== WebSocket.OPEN) return false;
    if (this.socket.bufferedAmount > MAX_BUFFERED_SECONDS * this.bytesPerSecond) {
      this.unsentSeconds += seconds;
      return false;
    }
    this.socket.send(pcm);
    this.sentSeconds += seconds;
    return true;
  }

  /** What the connection could not carry, and what the server had no time to hear. */
  get droppedSeconds() {
    return this.unsentSeconds + this.unheardSeconds;
  }

  receive(data, onPartial, onFinal) {
    const message = JSON.parse(data);
    this.unheardSeconds = message.dropped_seconds ?? this.unheardSeconds;
    if (typeof message.text === "string") {
      if (message.text.trim()) onFinal(segment(message.text, message.result));
      else onPartial(""); // what had seemed to be words was none
    } else if (typeof message.partial === "string") {
      onPartial(message.partial, message.committed ?? 0);
    }
  }

  /** Asks for what is left to be said, and resolves when the server has ended the stream: to an error if not well. */
  async finish() {
    this.finishing = true;
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send('{"eof" : 1}');
    const timeout = new Promise((resolve) => setTimeout(resolve, FINISH_MS, { code: 1006 }));
    const { code, reason } = await Promise.race([this.closed, timeout]);
    this.socket.close();
    return code === 1000 || code === 1005 ? null : closure(code, reason);
  }
}

function connect(key) {
  return new Promise((resolve, reject) => {
    const address = new URL(ROOT);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    // A page can set no headers here. A subprotocol keeps a key out of the logs of proxies, where its letters allow it.
    const named = TOKEN.test(key);
    if (key && !named) address.searchParams.set("key", key);
    const socket = new WebSocket(address, named ? ["bearer", key] : []);
    const timer = setTimeout(() => socket.close(), CONNECT_MS);
    socket.onopen = () => {
      clearTimeout(timer);
      resolve(socket);
    };
    socket.onclose = async ({ code, reason }) => {
      clearTimeout(timer);
      // A refused handshake says no more than 1006 to a page; plain HTTP says why.
      const said = code === 1006 ? await check(key).catch((error) => error) : closure(code, reason);
      reject(said ?? new ServerError(REFUSED));
    };
  });
}

function authorization(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function refusal(status, body, key) {
  const said = body?.error?.message;
  if (status === 401) return keyRefused(key);
  if (status === 429 || status === 503) return new ServerError(BUSY);
  if (status === 413) return new ServerError("The file is larger than this server takes.");
  return new ServerError(said ? sentence(said) : `The server answered with an error (${status}).`);
}

function closure(code, reason) {
  const known = {
    1001: "The server is shutting down.",
    1006: "The connection was lost.",
    1013: BUSY,
  };
  return new ServerError(known[code] ?? `The server ended the stream: ${reason || code}.`);
}

function keyRefused(key) {
  return new ServerError(key ? "The server does not know this key." : "This server needs a key.", { needsKey: true });
}

/** "file: is not audio" → "It is not audio." */
function sentence(text) {
  const plain = text.replace(/^file: (?=is |holds )/, "it ").replace(/^file: /, "");
  return plain.charAt(0).toUpperCase() + plain.slice(1) + (/[.!?]$/.test(plain) ? "" : ".");
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // a proxy's page, most likely
  }
}

/** What the page calls a segment; its times are its words' where it has none of its own. */
function segment(text, words = [], { start, end } = {}) {
  return {
    start: start ?? words.at(0)?.start ?? 0,
    end: end ?? words.at(-1)?.end ?? 0,
    text: text.trim(),
    words: words.map(({ word, start, end, conf, confidence = conf }) => ({ text: word, start, end, confidence })),
  };
}
