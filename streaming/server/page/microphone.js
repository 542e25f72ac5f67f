// The microphone: asked for, opened at its own rate, and read by the worklet in recorder.js.

import { ServerError, UNREACHABLE } from "./server.js";

/** Opens it; `deviceId` may be empty for the default. Throws an Error whose message is for the user. */
export async function openMicrophone(deviceId, onGone) {
  if (!navigator.mediaDevices) {
    throw new Error("Browsers give a page the microphone only over https or on localhost. Files work here all the same.");
  }
  const context = new AudioContext({ latencyHint: "interactive" });
  let media;
  try {
    media = await navigator.mediaDevices.getUserMedia({ audio: wanted(deviceId) });
    await context.audioWorklet.addModule(new URL("recorder.js", import.meta.url)).catch(() => {
      throw new ServerError(UNREACHABLE);
    });
    await context.resume();
  } catch (error) {
    media?.getTracks().forEach((track) => track.stop());
    context.close();
    throw error instanceof ServerError ? error : new Error(inPlainWords(error), { cause: error });
  }
  const [track] = media.getAudioTracks();
  track.onended = onGone;
  return new Microphone(context, media, track);
}

/** The microphones there are, as {id, label}; browsers name them only once the user has allowed one. */
export async function listMicrophones() {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  return devices
    .filter((device) => device.kind === "audioinput" && device.deviceId)
    .map((device, index) => ({ id: device.deviceId, label: device.label || `Microphone ${index + 1}` }));
}

class Microphone {
  constructor(context, media, track) {
    this.context = context;
    this.media = media;
    this.sampleRate = context.sampleRate;
    this.deviceId = track.getSettings().deviceId;
  }

  /** Whether it was lost, perhaps before anybody could be told. */
  isGone() {
    return this.media.getAudioTracks().some((track) => track.readyState === "ended");
  }

  /** From now on `onAudio({pcm, level})` gets what is heard: s16le mono at `sampleRate`, and dB below full scale. */
  start(onAudio) {
    this.recorder = new AudioWorkletNode(this.context, "recorder", {
      channelCount: 1,
      channelCountMode: "explicit", // stereo is mixed down
    });
    this.recorder.port.onmessage = ({ data }) => (data ? onAudio(data) : this.drained?.());
    // Its output is silence; it goes to the loudspeaker because some browsers run only what ends there.
    this.context.createMediaStreamSource(this.media).connect(this.recorder).connect(this.context.destination);
  }

  /** Resolves when the last of what was heard has been delivered. */
  async stop() {
    if (this.recorder && this.context.state === "running") {
      const drained = new Promise((resolve) => (this.drained = resolve));
      this.recorder.port.postMessage("stop");
      await Promise.race([drained, new Promise((resolve) => setTimeout(resolve, 1000))]);
    }
    this.close();
  }

  close() {
    this.media.getTracks().forEach((track) => {
      track.onended = null;
      track.stop();
    });
    if (this.context.state !== "closed") this.context.close();
  }
}

function wanted(deviceId) {
  // What cleans up calls also takes away what a recogniser listens for; a gain that follows the voice helps.
  const constraints = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true };
  return deviceId ? { ...constraints, deviceId: { exact: deviceId } } : constraints;
}

function inPlainWords(error) {
  const known = {
    NotAllowedError: "This page may not use the microphone. Allow it in the browser (the icon beside the address), then try again.",
    NotFoundError: "No microphone was found. Connect one, then try again.",
    OverconstrainedError: "The chosen microphone is no longer there. Choose another one.",
    NotReadableError: "The microphone does not answer: another program may be using it.",
  };
  return known[error.name] ?? `The microphone could not be opened: ${error.message}`;
}
