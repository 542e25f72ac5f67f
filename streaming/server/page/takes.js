// A take is what one source said: the microphone's, which goes on from press to press, or a file's. Each is a card.
// Whatever comes from a server or a file name becomes text, never markup.

import { FORMATS, clock } from "./formats.js";

export class Take {
  /** `live` takes are read out by screen readers as they grow. */
  constructor(template, name, { live, say, onRemove }) {
    this.name = name;
    this.live = live;
    this.say = say;
    this.segments = [];
    this.partial = { text: "", start: 0 };
    this.element = template.content.firstElementChild.cloneNode(true);
    this.part("name").textContent = this.part("name").title = name;
    if (live) this.part("log").setAttribute("role", "log");
    for (const button of this.element.querySelectorAll("[data-format]")) {
      button.addEventListener("click", () => this.download(button.dataset.format));
    }
    this.part("copy").addEventListener("click", () => this.copy());
    this.part("remove").addEventListener("click", () => {
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
      this.part("lines").append(row(document.createElement("li"), segment.start, segment.text));
      this.showPartial("");
      this.part("tools").hidden = false;
    });
    this.describe(`${clock(segment.end)} · ${count(this.segments.length, "line")}`);
  }

  showPartial(text, start = 0) {
    if (text === this.partial.text) return;
    this.partial = { text, start };
    const place = this.part("partial");
    this.grow(() => {
      place.hidden = !text;
      place.replaceChildren();
      if (text) row(place, start, text);
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
    this.part("tools").hidden = true;
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

/** Fills `element` with a time and what was said then. */
function row(element, start, text) {
  const time = document.createElement("time");
  time.textContent = clock(start);
  const words = document.createElement("span");
  words.textContent = text;
  element.append(time, words);
  return element;
}

export function count(number, thing) {
  return `${number} ${thing}${number === 1 ? "" : "s"}`;
}
