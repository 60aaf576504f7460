// The pad's functions that need no page, against numbers worked by hand or by Python.
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {load} from './static.mjs';

const pad = load(
  ['net.js', 'pad.js'],
  `bytes, unpack, forward, columns, contributions, brush, shares, resample, boundingBox, centered,
   seen, share, number, theme, place, move, SIDE`.split(','),
);
globalThis.getComputedStyle = root => root;
const list = values => Array.from(values);
const close = (got, want, eps = 1e-9) =>
  assert.ok(
    got.length === want.length && list(got).every((v, i) => Math.abs(v - want[i]) <= eps),
    `${list(got)} is not ${want}`,
  );
const blank = () => new Uint8ClampedArray(pad.SIDE * pad.SIDE);
const text = array => Buffer.from(array.buffer).toString('base64');

test('weights come back from text', () => {
  const weight = [
    text(Float32Array.from([0.5, -1e-30, 50])),
    text(Float32Array.from([0, 6, -256])),
  ];
  const layer = pad.unpack({weight, bias: [1, 2], relu: true});
  close(layer.weight, [...Float32Array.from([0.5, -1e-30, 50]), 0, 6, -256], 0);
  assert.deepEqual([...layer.bias, layer.relu], [1, 2, true]);
});

test('the columns: shares add to 1, survive large logits, divided by the temperature', () => {
  const columns = (logits, t) => pad.columns(Float64Array.from(logits), t);
  const {probs, logProbs, shifted, exps} = columns([0, Math.log(3)], 1);
  close(probs, [0.25, 0.75]);
  close(logProbs, [Math.log(0.25), Math.log(0.75)]);
  close(shifted, [-Math.log(3), 0]);
  close(exps, [1 / 3, 1]);
  close(columns([1000, 998], 2).probs, columns([1, 0], 1).probs);
  close(columns([0, 5e3, 0], 1).logProbs, [-5e3, 0, -5e3]); // 0 as a probability, not as its log
});

test('contributions: pixel times slope, through the units that are on', () => {
  const layers = [
    {weight: [1, -1, 2, 1], bias: [0.5, -1], relu: true},
    {weight: [1, 3, -2, 1, 0, -2], bias: [0, 0.25, 0], relu: false},
  ];
  const results = pad.forward(layers, Float64Array.from([1, 2]));
  close(results[1], [0, 3]); // 1 - 2 + 0.5 is below 0
  close(pad.contributions(layers, results, 0), [1 * 3 * 2, 2 * 3 * 1]);
  close(pad.contributions(layers, results, 1), [2, 2]);
  close(results[2], [9, 3.25, -6]);
  close(pad.contributions(layers, results, 2), [-4, -4]); // no ReLU holds back what is below 0
});

test('the brush inks a disc and never takes ink away', () => {
  const ink = blank();
  pad.brush(ink, [70, 70], [70, 70]);
  const total = ink.reduce((a, v) => a + v) / 255;
  assert.ok(Math.abs(total - Math.PI * 5.5 ** 2) < 2, `${total}`);
  const before = ink.slice();
  pad.brush(ink, [10, 60], [130, 60]); // close by, and over a part of it
  assert.ok(ink.every((v, i) => v >= before[i]));
  assert.equal(ink[60 * pad.SIDE + 100], 255);
});

test('a stroke has round ends, and none comes in at the other edge', () => {
  const ink = blank();
  pad.brush(ink, [40, 70], [60, 70]);
  const total = ink.reduce((a, v) => a + v) / 255;
  assert.ok(Math.abs(total - 20 * 11 - Math.PI * 5.5 ** 2) < 3, `${total}`);
  ink.fill(0);
  pad.brush(ink, [138, 70], [138, 70]);
  pad.brush(ink, [200, 100], [139, 100]);
  assert.ok(ink.every((v, i) => v === 0 || i % pad.SIDE > 130));
  pad.brush(ink, [-20, -20], [200, 200]); // from corner to corner: no error
});

test('shares: each larger cell takes the mean of what it covers', () => {
  const rows = pad.shares(10, 4);
  close(
    rows[0].map(([, v]) => v),
    [0.4, 0.4, 0.2],
  );
  close(
    rows[1].map(([j]) => j),
    [2, 3, 4],
  );
  for (const row of pad.shares(140, 28))
    assert.ok(Math.abs(row.reduce((a, [, v]) => a + v, 0) - 1) < 1e-12);
});

test('resampling takes the mean over areas of the box', () => {
  const ink = blank();
  for (let y = 0; y < 4; y++)
    for (let x = 0; x < 6; x++) ink[(50 + y) * pad.SIDE + 30 + x] = 10 * x;
  const box = {left: 30, top: 50, width: 6, height: 4};
  close(pad.resample(ink, box, 3, 2), [5, 25, 45, 5, 25, 45]);
  close(pad.resample(ink, box, 4, 1), [(0 + 5) / 1.5, (5 + 20) / 1.5, (30 + 20) / 1.5, 70 / 1.5]);
});

test('the bounding box, and none on a blank pad', () => {
  assert.equal(pad.boundingBox(blank()), null);
  const ink = blank();
  ink[20 * pad.SIDE + 30] = ink[50 * pad.SIDE + 35] = 255;
  assert.deepEqual({...pad.boundingBox(ink)}, {left: 30, top: 20, width: 6, height: 31});
});

test('centered: twenty pixels tall, center of mass at 14, 14', () => {
  const ink = blank();
  for (let y = 0; y < 100; y++) for (let x = 0; x < 20; x++) ink[(y + 40) * pad.SIDE + x] = 255;
  const picture = pad.centered(ink, pad.boundingBox(ink));
  const rows = Array.from({length: 28}, (_, y) =>
    list(picture.slice(28 * y, 28 * y + 28)).reduce((a, v) => a + v),
  );
  assert.equal(rows.filter(v => v > 0).length, 20);
  const mass = rows.reduce((a, v) => a + v);
  const mean = rows.reduce((a, v, y) => a + v * y, 0) / mass;
  assert.ok(Math.abs(mean - 13.5) < 1e-9, `${mean}`); // between 13.5 and 14.5, the first counts
  assert.ok(Math.abs(mass - 20 * 4 * 255) < 1e-6);
});

test('a line one cell wide becomes one pixel wide', () => {
  const ink = blank();
  for (let y = 0; y < 140; y++) ink[y * pad.SIDE + 3] = 255;
  const picture = pad.centered(ink, pad.boundingBox(ink));
  assert.deepEqual(
    [...new Set(list(picture).flatMap((v, i) => (v > 0 ? [i % 28] : [])))],
    [14], // its center is 0 in a picture of one column, and goes to 13.5 or more
  );
});

test('a digit with one heavy end stays inside the picture', () => {
  for (const [heavy, first] of [
    [y => y < 10, 8],
    [y => y >= 90, 0],
  ]) {
    const ink = blank();
    for (let y = 0; y < 100; y++)
      for (let x = 0; x < 100; x++) if (heavy(y) || x === 50) ink[y * pad.SIDE + x] = 255;
    const picture = pad.centered(ink, pad.boundingBox(ink));
    const rows = new Set(list(picture).flatMap((v, i) => (v > 0 ? [Math.floor(i / 28)] : [])));
    assert.deepEqual([Math.min(...rows), rows.size], [first, 20]);
  }
});

test('what the network sees: paper is 0, ink below 1', () => {
  assert.ok(pad.seen(blank(), true).every(v => v === 0));
  const ink = blank().fill(255);
  assert.ok(pad.seen(ink, false).every(v => Math.abs(v - 255 / 256) < 1e-12));
});

test('numbers as they are written', () => {
  assert.equal(pad.number(-1.234), '−1.23');
  assert.deepEqual([1, 0.9999, 0.5, 0.0001, 0].map(pad.share), [
    '1.000',
    '>0.999',
    '0.500',
    '1e-4',
    '0',
  ]);
});

test('light text makes a dark pad, in any notation', () => {
  const cases = {
    'rgb(20, 20, 20)': 'light',
    'rgb(238, 238, 238)': 'dark',
    'oklch(0.93 0.02 250)': 'dark',
    'lab(20 5 5)': 'light',
    'lab(90 5 5)': 'dark',
    'lch(30 20 200)': 'light',
    'color(srgb 0.7 0.7 0.6)': 'dark',
    'color(srgb 0.9 0.9 0.9)': 'dark',
    'color(display-p3 0.1 0.1 0.1)': 'light',
  };
  for (const [color, want] of Object.entries(cases)) assert.equal(pad.theme({color}), want, color);
});

test('an example fills the pad; an arrow moves it by one pixel of MNIST', () => {
  const image = new Uint8Array(784);
  const ink = blank();
  image[28 * 3 + 5] = 200;
  pad.place(ink, image);
  assert.equal(
    ink.reduce((a, v) => a + v),
    25 * 200,
  );
  assert.equal(ink[15 * pad.SIDE + 25], 200);
  pad.move(ink, 1, -1);
  assert.equal(ink[10 * pad.SIDE + 30], 200);
  for (let i = 0; i < 30; i++) pad.move(ink, 1, 0);
  assert.ok(ink.every(v => v === 0));
});
