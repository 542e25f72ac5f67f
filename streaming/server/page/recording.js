// What the microphone heard, kept for playback until the tab is closed.

const PIECE_SECONDS = 10;
const HEADER_BYTES = 44;

export class Recording {
  /** `start` is the time of its first sample, in seconds on the clock of the take's words. */
  constructor(sampleRate, start = 0) {
    this.sampleRate = sampleRate;
    this.start = start;
    this.bytes = 0;
    this.pieces = []; // blobs, which the browser may move to disk
    this.latest = []; // buffers since the last piece
    this.latestBytes = 0;
  }

  /** Appends s16le mono samples. */
  add(pcm) {
    this.latest.push(pcm);
    this.bytes += pcm.byteLength;
    this.latestBytes += pcm.byteLength;
    if (this.latestBytes < PIECE_SECONDS * 2 * this.sampleRate) return;
    this.pieces.push(new Blob(this.latest));
    this.latest = [];
    this.latestBytes = 0;
  }

  toWav() {
    return new Blob([header(this.bytes, this.sampleRate), ...this.pieces, ...this.latest], { type: "audio/wav" });
  }
}

/** Of a WAV file with 16-bit mono PCM. */
function header(bytes, sampleRate) {
  const view = new DataView(new ArrayBuffer(HEADER_BYTES));
  const text = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, HEADER_BYTES - 8 + bytes, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of the format
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, sampleRate, true);
  view.setUint32(28, 2 * sampleRate, true); // bytes a second
  view.setUint16(32, 2, true); // bytes a frame
  view.setUint16(34, 16, true); // bits a sample
  text(36, "data");
  view.setUint32(40, bytes, true);
  return view.buffer;
}
