// Runs on the audio thread: gathers samples into 16-bit messages of a tenth of a second, each with its level.

const MESSAGE_SECONDS = 0.1;
const SILENCE_DBFS = -120;

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.samples = new Int16Array(Math.round(sampleRate * MESSAGE_SECONDS));
    this.filled = 0;
    this.power = 0;
    this.running = true;
    this.port.onmessage = () => {
      this.running = false;
      this.send();
      this.port.postMessage(null); // nothing comes after this
    };
  }

  process([channels]) {
    if (!this.running) return false;
    for (const sample of channels[0] ?? []) {
      const within = Math.max(-1, Math.min(1, sample));
      this.samples[this.filled++] = Math.round(within * 32767); // every platform with a browser is little-endian
      this.power += within * within;
      if (this.filled === this.samples.length) this.send();
    }
    return true;
  }

  send() {
    if (this.filled === 0) return;
    const level = Math.max(SILENCE_DBFS, 10 * Math.log10(this.power / this.filled));
    const pcm = this.samples.slice(0, this.filled).buffer;
    this.port.postMessage({ pcm, level }, [pcm]);
    this.filled = 0;
    this.power = 0;
  }
}

registerProcessor("recorder", Recorder);
