// Two charts of the last minutes, drawn by hand on canvases.

const INK = () => getComputedStyle(document.documentElement);

function prepare(canvas) {
  const scale = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
  if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height, ink: INK() };
}

/** The next round number: 1, 2 or 5 times a power of ten. */
function round(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= value);
}

/** Draw the axes; return the function that places a point. */
function axes({ pen, width, height, ink }, count, highest, label) {
  const left = 52;
  const bottom = height - 18;
  const top = round(Math.max(highest, 1e-9));
  const x = (index) => left + ((width - left - 4) * index) / Math.max(1, count - 1);
  const y = (value) => bottom - ((bottom - 8) * Math.min(value, top)) / top;
  pen.font = "12px system-ui, sans-serif";
  pen.lineWidth = 1;
  for (const share of [0, 0.5, 1]) {
    pen.strokeStyle = ink.getPropertyValue("--line");
    pen.beginPath();
    pen.moveTo(left, y(top * share));
    pen.lineTo(width, y(top * share));
    pen.stroke();
    pen.fillStyle = ink.getPropertyValue("--soft");
    pen.textAlign = "right";
    pen.fillText(label(top * share), left - 6, y(top * share) + 4);
  }
  for (let minutes = Math.floor((count - 1) / 60); minutes >= 0; minutes--) {
    pen.textAlign = minutes ? "center" : "right";
    pen.fillText(minutes ? `−${minutes} min` : "now", Math.max(left + 14, x(count - 1 - minutes * 60)), height - 3);
  }
  return { x, y };
}

/** Jobs per second: bars of successes, with the failures on top. */
export function drawRate(canvas, points) {
  const sheet = prepare(canvas);
  const { x, y } = axes(sheet, points.length, Math.max(1, ...points.map((point) => point[0])), (value) => String(value));
  const width = Math.max(1, x(1) - x(0));
  const bar = (index, low, high, colour) => {
    sheet.pen.fillStyle = sheet.ink.getPropertyValue(colour);
    sheet.pen.fillRect(x(index) - width / 2, y(high), width, y(low) - y(high));
  };
  points.forEach(([ended, failed], index) => {
    if (ended > failed) bar(index, 0, ended - failed, "--ok-fill");
    if (failed) bar(index, ended - failed, ended, "--bad");
  });
  const total = points.reduce((sum, point) => sum + point[0], 0);
  const failed = points.reduce((sum, point) => sum + point[1], 0);
  canvas.setAttribute("aria-label", `Jobs per second over the last five minutes: ${total} jobs, ${failed} failed`);
}

/** Latency: the median and the 95th percentile of each second in which jobs ended. */
export function drawLatency(canvas, points, format) {
  const sheet = prepare(canvas);
  const highest = Math.max(1, ...points.map((point) => point[3]));
  const { x, y } = axes(sheet, points.length, highest, format);
  for (const [column, colour] of [[3, "--high"], [2, "--median"]]) {
    const { pen } = sheet;
    pen.strokeStyle = pen.fillStyle = sheet.ink.getPropertyValue(colour);
    pen.lineWidth = 1.6;
    pen.setLineDash(column === 3 ? [5, 3] : []); // can be told apart without colours
    pen.beginPath();
    let drawn = -9;
    points.forEach((point, index) => {
      if (!point[0]) return;
      if (index - drawn <= 3) pen.lineTo(x(index), y(point[column]));
      else pen.moveTo(x(index), y(point[column]));
      drawn = index;
    });
    pen.stroke();
    pen.setLineDash([]);
    points.forEach((point, index) => point[0] && pen.fillRect(x(index) - 1, y(point[column]) - 1, 2, 2));
  }
  canvas.setAttribute("aria-label", `Latency over the last five minutes: at most ${format(highest)}`);
}
