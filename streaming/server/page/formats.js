// Segments ({start, end, text, words: [{text, start, end}]}, in seconds) as text, SubRip and WebVTT.

// What subtitle guidelines agree on: two lines of 42 characters, on screen for at most seven seconds.
const LINE_CHARACTERS = 42;
const CUE_SECONDS = 7;

export const FORMATS = {
  txt: (segments) => segments.map(({ text }) => `${text}\n`).join(""),
  srt: (segments) =>
    cues(segments)
      .map(({ start, end, text }, index) => `${index + 1}\n${stamp(start, ",")} --> ${stamp(end, ",")}\n${text}\n\n`)
      .join(""),
  vtt: (segments) =>
    "WEBVTT\n\n" +
    cues(segments)
      .map(({ start, end, text }) => `${stamp(start, ".")} --> ${stamp(end, ".")}\n${escaped(text)}\n\n`)
      .join(""),
};

/** 3.2 → "0:03", 3725 → "1:02:05". */
export function clock(seconds) {
  const [hours, minutes, rest] = parts(seconds);
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

function cues(segments) {
  return segments.flatMap(({ start, end, text, words }) => {
    if (!words.length) return [{ start, end, text }];
    const made = [];
    for (const word of words) {
      const last = made.at(-1);
      const fits =
        last && last.text.length + 1 + word.text.length <= 2 * LINE_CHARACTERS && word.end - last.start <= CUE_SECONDS;
      if (fits) Object.assign(last, { end: word.end, text: `${last.text} ${word.text}` });
      else made.push({ start: word.start, end: word.end, text: word.text });
    }
    return made.map((cue) => ({ ...cue, text: twoLines(cue.text) }));
  });
}

/** Broken at the space nearest to the middle, if it is too long for one line. */
function twoLines(text) {
  if (text.length <= LINE_CHARACTERS) return text;
  const middle = text.length / 2;
  const spaces = [...text.matchAll(/ /g)].map(({ index }) => index);
  if (!spaces.length) return text;
  const nearest = spaces.reduce((best, at) => (Math.abs(at - middle) < Math.abs(best - middle) ? at : best));
  return `${text.slice(0, nearest)}\n${text.slice(nearest + 1)}`;
}

function stamp(seconds, point) {
  const milliseconds = Math.round(seconds * 1000);
  const [hours, minutes, rest] = parts(milliseconds / 1000);
  return `${two(hours)}:${two(minutes)}:${two(rest)}${point}${String(milliseconds % 1000).padStart(3, "0")}`;
}

function parts(seconds) {
  return [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.floor(seconds) % 60];
}

function two(number) {
  return String(number).padStart(2, "0");
}

function escaped(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
