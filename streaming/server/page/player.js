// Plays the sound of a take: from any of its words, or from a line by keyboard; the word that is heard is marked.

const HEARD = "heard";

export class Player {
  /** `lines` is the list that holds the words ([data-start], in seconds); it becomes `.playable` once there is sound. */
  constructor(audio, lines) {
    this.audio = audio;
    this.lines = lines;
    this.start = 0;
    this.marked = null;
    lines.addEventListener("click", ({ target }) => this.playFrom(target.closest("[data-start]")));
    lines.addEventListener("keydown", (event) => this.move(event));
    audio.addEventListener("loadedmetadata", () => this.setPlayable(true));
    audio.addEventListener("error", () => this.setPlayable(false)); // a format that this browser cannot play
    for (const event of ["timeupdate", "seeked"]) audio.addEventListener(event, () => this.mark());
    audio.addEventListener("play", () => {
      for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
    });
  }

  /** `start` is the time at which the sound begins, on the clock of the words. */
  load(blob, start = 0) {
    this.close();
    this.start = start;
    this.audio.src = this.url = URL.createObjectURL(blob);
  }

  close() {
    this.audio.pause();
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = null;
  }

  setPlayable(playable) {
    this.audio.hidden = !playable;
    this.lines.classList.toggle("playable", playable);
    this.showButtons();
  }

  /** One line's button is reached by Tab, the others from there with the arrow keys. */
  showButtons() {
    const playable = this.lines.classList.contains("playable");
    const buttons = [...this.lines.querySelectorAll("button")];
    for (const button of buttons) button.disabled = !playable;
    if (!buttons.some((button) => button.tabIndex === 0) && buttons.length) buttons[0].tabIndex = 0;
  }

  playFrom(element) {
    if (!element || !this.lines.classList.contains("playable") || getSelection().type === "Range") return;
    this.audio.currentTime = Math.max(0, Number(element.dataset.start) - this.start);
    this.audio.play();
  }

  move(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || !event.target.matches("button")) return;
    const buttons = [...this.lines.querySelectorAll("button")];
    const next = buttons[buttons.indexOf(event.target) + step];
    if (!next) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  mark() {
    const now = this.audio.currentTime + this.start;
    const words = [...this.lines.querySelectorAll("span[data-start]")];
    const heard = words.findLast((word) => Number(word.dataset.start) <= now + 0.02) ?? null;
    if (heard === this.marked) return;
    this.marked?.classList.remove(HEARD);
    heard?.classList.add(HEARD);
    this.marked = heard;
  }
}
