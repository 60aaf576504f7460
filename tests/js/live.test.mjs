// The functions of the figures that need no page; ../test_live.py compares the runs with PyTorch.
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {digits, load} from './static.mjs';

const live = load(
  ['net.js', 'live.js'],
  `unpack, pixels, newRun, look, learn, check, asMnist, sharesOf, brief, gradientOf, lossAt, slopeAt,
   descend, TRAIN, EXAMPLES, MISTAKES`.split(','),
);
const data = await live.unpack(digits());
const set = {rate: 0.5, rows: 50, mistake: 'none'};
const near = (a, b, eps = 1e-9) => assert.ok(Math.abs(a - b) <= eps, `${a} is not ${b}`);

test('a byte has four pixels, the first in its lowest bits; then come the labels', async () => {
  const bytes = new Uint8Array(2 * 197);
  bytes.set([0b11100100, 0b00000001]);
  bytes.set([7, 3], 2 * 196);
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream('deflate-raw'));
  const text = Buffer.from(await new Response(stream).arrayBuffer()).toString('base64');
  const {levels, labels} = await live.unpack(`${text}\n`);
  assert.deepEqual([...levels.subarray(0, 6)], [0, 1, 2, 3, 1, 0]);
  assert.deepEqual([levels.length, ...labels], [2 * 784, 7, 3]);
  const x = live.pixels({levels}, [0], 256);
  assert.deepEqual([...x.subarray(0, 4)], [0, 85, 170, 255]);
  near(live.pixels({levels}, [1, 0])[784 + 3], 255 / 256);
});

test('the page has 5,000 digits, and its examples are new ones, one of each', () => {
  assert.equal(data.labels.length, 5000);
  assert.deepEqual([...data.labels.subarray(0, 5)], [5, 0, 4, 1, 9]);
  assert.ok(live.EXAMPLES.every(row => row >= live.TRAIN));
  const classes = live.EXAMPLES.map(row => data.labels[row]);
  assert.deepEqual(classes.sort(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
});

test('an epoch has each row once, in a new order, whatever the rows of a minibatch', () => {
  for (const rows of [250, 1500]) {
    const run = live.newRun(data);
    const epochs = [[], []].map(epoch => {
      while (epoch.length < live.TRAIN)
        epoch.push(...live.learn(run, {...set, rows, rate: 0}).rows);
      return epoch;
    });
    for (const epoch of epochs) assert.equal(new Set(epoch).size, live.TRAIN);
    assert.notDeepEqual(...epochs);
    assert.equal(run.images, 2 * live.TRAIN);
    assert.equal(run.steps, run.losses.length);
  }
});

test('what is shown is the minibatch before its step, and looking changes nothing', () => {
  const run = live.newRun(data);
  const first = live.look(run, set);
  const batch = live.learn(run, set);
  assert.deepEqual(batch, first);
  assert.ok(live.look(run, set).loss !== first.loss && run.at === 50);
  assert.deepEqual(run.losses, [first.loss]);
  const before = run.model.w1.slice();
  assert.equal(live.learn(run, {...set, rate: 0, rows: 10}).rows.length, 10);
  assert.deepEqual(run.model.w1, before);
  assert.equal(batch.right, batch.guesses.filter((guess, i) => guess === batch.target[i]).length);
});

test('each mistake changes what it says, and can be taken back', () => {
  const run = live.newRun(data);
  const looks = name => live.look(run, {...set, mistake: name});
  assert.deepEqual([...looks('sorted by label').target], Array(50).fill(0));
  const late = looks('labels one row late');
  late.rows.forEach((row, i) => assert.equal(late.target[i], data.labels[(row + 3999) % 4000]));
  assert.equal(Math.max(...looks('pixels to 255').pass[0]), 255);
  assert.ok(looks('no ReLU').pass[1].some(v => v < 0) && looks('none').pass[1].every(v => v >= 0));
  live.learn(run, {...set, mistake: 'gradients not cleared'});
  assert.ok(run.grad.w1.some(v => v !== 0));
  live.learn(run, set);
  assert.ok(run.grad.w1.every(v => v === 0));
});

test('a check counts the right answers and the units that are dead', () => {
  const run = live.newRun(data);
  const {loss, right, dead} = live.check(run, set);
  near(loss, Math.log(10), 0.05);
  assert.ok(right > 50 && right < 200 && !dead.length);
  run.model.b1[7] = -1e3;
  assert.deepEqual(live.check(run, set).dead, [7]);
  run.model.b2[4] = 1e3;
  const fours = data.labels.subarray(live.TRAIN).filter(c => c === 4).length;
  assert.equal(live.check(run, set).right, fours);
});

test('a drawing of any size becomes 20 pixels long, with its mass in the middle', () => {
  const seven = [[0, 0], [0.5, 0], [0.2, 0.9]]; // prettier-ignore
  for (const zoom of [1, 0.3]) {
    const image = live.asMnist([seven.map(([x, y]) => [0.05 + zoom * x, 0.1 + zoom * y])]);
    const rows = Array.from({length: 28}, (_, y) => image.subarray(28 * y, 28 * y + 28));
    const long = rows.filter(row => row.some(v => v > 0.4)).length;
    assert.ok(long === 20 || long === 21, `${long}`);
    const mass = image.reduce((a, v) => a + v);
    near(image.reduce((a, v, i) => a + v * (i % 28), 0) / mass, 14, 0.05);
    near(image.reduce((a, v, i) => a + v * Math.floor(i / 28), 0) / mass, 14, 0.05);
    assert.equal(Math.max(...image), 255 / 256);
    assert.ok(mass > 50 && mass < 110, `${mass}`);
  }
});

test('a point is a dot, blank paper is blank', () => {
  assert.ok(live.asMnist([]).every(v => v === 0));
  const dot = live.asMnist([[[0.9, 0.1]]]);
  near(
    dot.reduce((a, v) => a + v),
    4.2,
    0.4,
  );
});

test('shares: overflow at +100, none after a shift; a temperature flattens', () => {
  const scores = [2.6, 0.59, -2.07];
  const calm = {temperature: 1, plus: 0, shift: false};
  const {shares} = live.sharesOf(scores, calm);
  near(
    shares.reduce((a, v) => a + v),
    1,
    1e-6,
  );
  near(shares[0] / shares[1], Math.exp(2.01), 1e-4);
  const over = live.sharesOf(scores, {...calm, plus: 100});
  assert.ok(over.exps.every(v => v === Infinity) && over.shares.every(Number.isNaN));
  const saved = live.sharesOf(scores, {...calm, plus: 100, shift: true});
  saved.shares.forEach((v, i) => near(v, shares[i], 1e-5));
  assert.ok(live.sharesOf(scores, {...calm, temperature: 5}).shares[0] < 0.5);
  assert.equal(live.sharesOf([88.7], calm).exps[0] < Infinity, true);
  assert.equal(live.sharesOf([88.73], calm).exps[0], Infinity);
  assert.deepEqual([Infinity, 0.126, 13.46, 5e-4, 0, 148413].map(live.brief), [
    'inf',
    '0.126',
    '13.5',
    '5.0e-4',
    '0.00',
    '1.5e+5',
  ]);
});

test('the gradient of the loss: prediction minus truth', () => {
  const gradient = live.gradientOf(0.1);
  near(gradient[3], -0.9);
  near(
    gradient.reduce((a, v) => a + v),
    0,
  );
  assert.ok(gradient.every((v, c) => c === 3 || Math.abs(v - 0.1) < 1e-12));
});

test('steps along a parabola: creep, land, come closer, go away', () => {
  const t = Array.from({length: 101}, (_, i) => -1.5 + i / 25);
  const table = {t, loss: t.map(v => 1 + (v - 0.5) ** 2)};
  near(live.lossAt(table, 0.5), 1);
  near(live.lossAt(table, 0.52), (1 + 1.0016) / 2);
  near(live.slopeAt(table, 0.9), 0.8, 1e-6);
  const after = (rate, steps) => {
    let at = 0;
    for (let i = 0; i < steps; i++) at = live.descend(table, at, rate);
    return at;
  };
  near(after(0.1, 1), 0.1);
  near(after(0.5, 1), 0.5);
  assert.ok(after(0.1, 5) < 0.5 && after(0.1, 5) > 0.3);
  near(after(0.9, 1) - 0.5, 0.4, 1e-6);
  near(after(0.9, 2) - 0.5, -0.32, 1e-3);
  near(after(1.5, 1), 1.5);
  near(after(1.5, 2), -1.5, 1e-6);
});
