// A take is what one source said: the microphone's, which goes on from press to press, or a file's. Each is a card.
// Whatever comes from a server or a file name becomes text, never markup.

import { FORMATS, clock } from "./formats.js";
import { Player } from "./player.js";

const SURE = 0.5; // words of less confidence are underlined

export class Take {
  /** `live` takes are read out by screen readers as they grow. */
  constructor(template, name, { live, say, onRemove }) {
    this.name = name;
    this.live = live;
    this.say = say;
    this.segments = [];
    this.partial = { text: "", start: 0, committed: 0 };
    this.recording = null; // of a microphone
    this.element = template.content.firstElementChild.cloneNode(true);
    this.part("name").textContent = this.part("name").title = name;
    if (live) this.part("log").setAttribute("role", "log");
    for (const button of this.element.querySelectorAll("[data-format]")) {
      button.addEventListener("click", () => this.download(button.dataset.format));
    }
    this.player = new Player(this.part("sound"), this.part("lines"));
    this.part("copy").addEventListener("click", () => this.copy());
    this.part("remove").addEventListener("click", () => {
      this.player.close();
      this.element.remove();
      onRemove(this);
    });
  }

  part(name) {
    return this.element.querySelector(`[data-part=${name}]`);
  }

  get text() {
    return FORMATS.txt(this.segments);
  }

  add(segment) {
    this.segments.push(segment);
    this.grow(() => {
      this.part("lines").append(line(segment));
      this.player.showButtons();
      this.showPartial("");
      this.part("tools").hidden = false;
      if (segment.words.some(isUnsure)) this.part("legend").hidden = false;
    });
    this.describe(`${clock(segment.end)} · ${count(this.segments.length, "line")}`);
  }

  /** The first `committed` words of `text` will not change. */
  showPartial(text, start = 0, committed = 0) {
    if (text === this.partial.text && committed === this.partial.committed) return;
    this.partial = { text, start, committed };
    const place = this.part("partial");
    this.grow(() => {
      place.hidden = !text;
      place.replaceChildren();
      if (!text) return;
      const words = text.split(" ");
      const sure = make("span", { className: "committed", textContent: words.slice(0, committed).join(" ") });
      const said = make("span");
      said.append(sure, committed ? " " : "", words.slice(committed).join(" "));
      place.append(make("time", { textContent: clock(start) }), said);
    });
  }

  /** Keeps the end of what is being said in sight, unless the reader has gone elsewhere. */
  grow(change) {
    const bottom = () => this.element.getBoundingClientRect().bottom;
    const inSight = this.live && bottom() < innerHeight + 48;
    change();
    if (inSight && bottom() > innerHeight) scrollBy(0, bottom() - innerHeight + 16);
  }

  empty() {
    this.segments = [];
    this.part("lines").replaceChildren();
    this.part("tools").hidden = this.part("legend").hidden = true;
  }

  /** Where nothing more will come, what was last heard is better than nothing. */
  keepPartial(end) {
    const { text, start } = this.partial;
    if (text) this.add({ start, end: Math.max(start, end), text, words: [] });
  }

  describe(text) {
    this.part("about").textContent = text;
  }

  /** `fraction` of 0 to 1, or null where nothing can be counted. */
  showProgress(text, fraction) {
    const bar = this.part("progress");
    bar.hidden = false;
    if (fraction === null) bar.removeAttribute("value");
    else bar.value = fraction;
    this.describe(text);
    this.part("remove").textContent = "Cancel";
  }

  endProgress() {
    this.part("progress").hidden = true;
    this.part("remove").textContent = "Clear";
  }

  /** Says what went wrong, with a button that tries again. */
  fail(message, retry) {
    this.endProgress();
    if (!this.segments.length) this.describe("");
    this.part("problem").textContent = message;
    const box = this.part("failure");
    box.hidden = false;
    this.part("retry").onclick = () => {
      box.hidden = true;
      this.empty();
      retry();
    };
  }

  async copy() {
    try {
      await navigator.clipboard.writeText(this.text);
      this.say("Copied.");
    } catch {
      getSelection().selectAllChildren(this.part("lines"));
      this.say("The browser does not let this page copy. The words are selected: copy them by hand.");
    }
  }

  download(format) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([FORMATS[format](this.segments)], { type: "text/plain;charset=utf-8" }));
    link.download = `${this.name.replace(/\.[^.]*$/, "")}.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }
}

/** A segment as a list item: a button with its time, and its words, each of which can be played from. */
function line({ start, text, words }) {
  const button = make("button", { type: "button", tabIndex: -1, disabled: true });
  button.dataset.start = start;
  button.setAttribute("aria-label", `Play from ${clock(start)}`);
  button.append(make("time", { textContent: clock(start) }));
  const said = make("span");
  if (words.map((word) => word.text).join(" ") === text) said.append(...words.flatMap((word) => [shown(word), " "]));
  else said.append(text);
  const item = make("li");
  item.append(button, said);
  return item;
}

function shown(word) {
  const span = make("span", { textContent: word.text });
  span.dataset.start = word.start;
  if (isUnsure(word)) {
    const confidence = `Confidence ${Math.round(100 * word.confidence)} %`;
    Object.assign(span, { className: "unsure", title: confidence, role: "mark" });
    span.setAttribute("aria-description", confidence);
  }
  return span;
}

function isUnsure({ confidence }) {
  return confidence < SURE; // not if it is unknown
}

function make(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}

export function count(number, thing) {
  return `${number} ${thing}${number === 1 ? "" : "s"}`;
}
